"""A machine whose clock only variants and pauses move."""

from __future__ import annotations

from collections.abc import Callable

from export.benchmark import Pace, Variant
from export.benchmark.variants import Answer
from export.runners import Inputs, Logits


class FakeMachine:
    """A clock, and variants that take a set time per token; pauses pass too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def variant(self, name: str, seconds_per_token: float, *, answer: Answer | None = None) -> Variant:
        """A variant whose calls last as long as their tokens ask."""
        return self.changing(name, lambda calls_before: seconds_per_token, answer=answer)

    def changing(self, name: str, pace: Callable[[int], float], *, answer: Answer | None = None) -> Variant:
        """A variant whose seconds per token follow from the number of calls on the machine before."""

        def run(inputs: Inputs) -> Logits:
            self.now += pace(len(self.calls)) * inputs["input_ids"].size
            self.calls.append(name)
            return {}

        return Variant(name, "onnxruntime", "fp32", "cpu", 1, run, answer=answer)

    def pace(self, rounds: int) -> Pace:
        """Rounds by this clock, with a pause before each turn."""
        return Pace(rounds=rounds, settle_seconds=7.0, clock=self.clock, sleep=self.sleep)
