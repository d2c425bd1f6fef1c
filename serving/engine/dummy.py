"""An engine without threads for tests of what stands before an engine: settable delay, stalls and failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from serving.bundle import Bundle
from serving.engine.contract import Answered, Expired, Load, NotReady, State, Told, Work
from serving.manifest import Artifact, InputSpec, Manifest, TaskSpec
from serving.model import OnnxModel
from serving.tokenise import TextEncoder

DUMMY_TASK = TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"))


class DummySession:
    """Stands for an ONNX Runtime session: each logit is the row's number of tokens times the label's number."""

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        """Answer these tasks."""
        self._widths = {task.output: task.num_outputs for task in tasks}

    def get_inputs(self) -> list[SimpleNamespace]:
        """The graph's inputs, by name only."""
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]

    def get_outputs(self) -> list[SimpleNamespace]:
        """The graph's outputs, by name only."""
        return [SimpleNamespace(name=name) for name in self._widths]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Logits of padded rows, [batch, outputs] each."""
        lengths = inputs["attention_mask"].sum(axis=1, dtype=np.float32)[:, np.newaxis]
        return [lengths * np.arange(self._widths[name], dtype=np.float32) for name in outputs]


def dummy_bundle(tasks: Sequence[TaskSpec] = (DUMMY_TASK,), max_length: int = 128, version: str = "1") -> Bundle:
    """A bundle in memory: words are tokens, and no file or model is behind it."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    inputs = InputSpec(names=("input_ids", "attention_mask"), pad_id=0, max_length=max_length, text_columns=("text",))
    artifact = Artifact(
        precision="fp32",
        file="model.fp32.onnx",
        sha256="",
        bytes=0,
        opset=18,
        ir_version=9,
        batch_invariant=True,
        passed=True,
    )
    manifest = Manifest(
        name="dummy", version=version, tasks=tuple(tasks), inputs=inputs, artifacts=(artifact,), default_artifact="fp32"
    )
    session: Any = DummySession(tasks)
    model = OnnxModel(session, TextEncoder(tokenizer, inputs), tasks)
    return Bundle(Path("dummy"), manifest, artifact, model)


class DummyEngine:
    """Answers on the event loop itself with the bundle it is given; what goes wrong is settable at any time.

    Attributes:
        state: what it says of itself; anything but `ready` refuses work.
        delay_seconds: waited (without blocking) before each answer; a later deadline still expires in time.
        stall_every: every so many-th request blocks the whole event loop for `stall_seconds`; 0 for never.
        stall_seconds: how long a stall lasts.
        failure: from the request's number (0, 1, ...) and its work to the exception to raise, or None.
        received: the work that has come, in order.
        cancelled: how many requests were cancelled while they waited.
    """

    def __init__(self, bundle: Bundle | None = None, *, delay_seconds: float = 0.0) -> None:
        """Serve a bundle; None for `dummy_bundle()`."""
        self._bundle = dummy_bundle() if bundle is None else bundle
        self.state: State = "ready"
        self.delay_seconds = delay_seconds
        self.stall_every = 0
        self.stall_seconds = 0.2
        self.failure: Callable[[int, Work], Exception | None] = lambda number, work: None
        self.received: list[Work] = []
        self.cancelled = 0
        self.counters: dict[str, int] = {}
        self._waiting = 0

    @property
    def bundle(self) -> Bundle:
        """The one that new work goes to; set it to swap."""
        return self._bundle

    @bundle.setter
    def bundle(self, bundle: Bundle) -> None:
        self._bundle = bundle

    async def answer(self, work: Work) -> Answered:
        """Wait, then fail or answer as set; see `serving.engine.contract.Engine`."""
        if self.state != "ready":
            raise NotReady(f"the engine is {self.state}")
        number = len(self.received)
        self.received.append(work)
        if self.stall_every and (number + 1) % self.stall_every == 0:
            time.sleep(self.stall_seconds)
        await self._wait(work)
        if (failure := self.failure(number, work)) is not None:
            raise failure
        return self._compute(work)

    def begin(self, work: Work, told: Told) -> Callable[[], None]:
        """As `answer`, in a task."""
        task = asyncio.ensure_future(self.answer(work))

        def tell(ended: asyncio.Task[Answered]) -> None:
            if not ended.cancelled():
                told(ended.exception() or ended.result())  # type: ignore[arg-type]

        def forget() -> None:
            task.remove_done_callback(tell)
            task.cancel()

        task.add_done_callback(tell)
        return forget

    def load(self) -> Load:
        """Waiting requests count as queued; everything else is made up."""
        return Load(
            queued_tokens=10 * self._waiting,
            queued_texts=self._waiting,
            requests=self._waiting,
            running=0,
            predicted_wait_seconds=self._waiting * self.delay_seconds,
            lanes=1,
            lanes_alive=0 if self.state == "failed" else 1,
            counters=dict(self.counters),
        )

    async def _wait(self, work: Work) -> None:
        remaining = work.deadline - time.monotonic()
        self._waiting += 1
        try:
            if self.delay_seconds > 0 or remaining <= 0:
                await asyncio.sleep(max(0.0, min(self.delay_seconds, remaining)))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._waiting -= 1
        if self.delay_seconds > remaining:
            raise Expired("the deadline passed before there was an answer")

    def _compute(self, work: Work) -> Answered:
        start = time.perf_counter()
        encodings = self.bundle.encode(work.texts)
        tokenised = time.perf_counter()
        logits = self.bundle.run(encodings, work.tasks)
        return Answered(
            logits=logits,
            truncated=[encoding.was_truncated for encoding in encodings],
            tokens=[len(encoding) for encoding in encodings],
            queue_seconds=self.delay_seconds,
            tokenise_seconds=tokenised - start,
            run_seconds=time.perf_counter() - tokenised,
            bundle=self.bundle,
        )
