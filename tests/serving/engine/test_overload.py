"""The engine's own lanes, door and queue under overload, in virtual time: a call of the model only moves the clock."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import serving.engine.crew
from serving.bundle import Bundle
from serving.engine.admission import TokenEstimator
from serving.engine.contract import Expired, Overloaded, Work
from serving.engine.cost import CostModel
from serving.engine.crew import Crew
from serving.engine.orders import Order
from serving.engine.schedule import Scheduler
from serving.engine.served import Served
from tests.serving.engine.stage import end

WORDS = ("refund", "broken", "thanks", "please", "unheard")
COSTS = CostModel(fixed=0.001, per_token=0.0003, per_square=0.0, merges=False)
SECONDS = 4.0
SETTLING_SECONDS = 1.5
"""Before these have passed, the durations that calls really have are still being learnt."""


class _Night:
    """One lane whose turns the test takes, a clock that only calls of the model move, and requests that come."""

    def __init__(self, bundle: Bundle, slowness: tuple[float, ...], trouble: Any) -> None:
        self.now = 0.0
        self.generator = random.Random(2)
        self.slowness = slowness
        self.lane: Any = SimpleNamespace(call=None, is_given_up=False, sleep=lambda: None)
        self.crew = Crew(Scheduler(1), queue_tokens=100_000, stall_seconds=10.0, end=end)
        known = bundle.model.encoder.encode_checked(("refund",))
        self.served = Served(bundle, COSTS, TokenEstimator(bundle.manifest.inputs.max_length), known)
        self.open: list[Order] = []
        self.let_in = self.refused = self.expired = self.answered = 0
        trouble(bundle, self._call)

    def _call(self, input_ids: Any) -> list[Any]:
        self.now += COSTS.seconds(*input_ids.shape) * self.generator.choice(self.slowness)
        return [np.zeros((len(input_ids), task.num_outputs), np.float32) for task in self.served.bundle.model.tasks]

    def arrive(self, patience: float) -> None:
        text = " ".join(self.generator.choices(WORDS, k=self.generator.randint(1, 12)))
        work = Work(((text,),), None, self.now + patience)
        order = Order(work, self.served, self.served.bundle.model.tasks, 0.0, lambda ending: None)
        try:
            self.crew.submit(order)
        except (Overloaded, Expired) as refusal:
            self.refused += self.now > SETTLING_SECONDS and isinstance(refusal, Overloaded)
            return
        self.open.append(order)
        self.let_in += self.now > SETTLING_SECONDS

    def take_turn(self) -> None:
        self.crew._turn(self.lane)
        before = self.crew.counters["requests_expired"]
        for order in self.open:
            if order.work.deadline <= self.now:
                self.crew.drop(order, "requests_expired")
        if self.now > SETTLING_SECONDS:
            self.expired += self.crew.counters["requests_expired"] - before
        self.open = [order for order in self.open if not order.is_settled]

    def play(self, load: float) -> None:
        """Requests at `load` times what one lane can do; none of them waits for another."""
        mean = COSTS.seconds(1, 9) * sum(self.slowness) / len(self.slowness)
        arrival = 0.0
        while arrival < SECONDS:
            while arrival <= self.now:
                self.arrive(self.generator.choice((0.2, 0.5)))
                arrival += self.generator.expovariate(load / mean)
            self.take_turn()
            if self.lane.call is None and not self.open:
                self.now = max(self.now, arrival)


@pytest.mark.parametrize("slowness", [(1.7,), (0.7, 1.0, 1.0, 2.5)], ids=["slow", "noisy"])
@pytest.mark.parametrize("load", [3.0, 10.0])
def test_nearly_nothing_that_the_door_let_in_expires(
    bundle_folder: Path, trouble: Any, monkeypatch: pytest.MonkeyPatch, load: float, slowness: tuple[float, ...]
) -> None:
    """Work that expires inside has cost the lane, the queue and its client's patience, and was worth nothing."""

    async def scene() -> _Night:
        night = _Night(Bundle.load(bundle_folder, "int8"), slowness, trouble)
        monkeypatch.setattr(serving.engine.crew, "time", SimpleNamespace(monotonic=lambda: night.now))
        night.play(load)
        return night

    night = asyncio.run(scene())
    assert night.crew.counters["requests_answered"] >= 300
    assert night.refused > 0.5 * (night.refused + night.let_in)
    expired_inside = night.crew.counters["requests_expired"]
    assert night.expired <= 0.02 * night.let_in, (night.expired, night.let_in, expired_inside)
