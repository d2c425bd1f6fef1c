"""The engine as the outside sees it, from before it is loaded until the process ends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from serving.bundle import Bundle
from serving.engine.contract import Answered, Engine, Load, NotReady, State, Told, Work

NOTHING = Load(
    queued_tokens=0,
    queued_texts=0,
    requests=0,
    running=0,
    predicted_wait_seconds=0.0,
    lanes=0,
    lanes_alive=0,
    counters={},
)


class RunningEngine(Engine, Protocol):
    """An engine that can be given another bundle, and be stopped."""

    async def swap(self, new_bundle: Bundle) -> None:
        """Send new work to another bundle; what has begun ends on the old one."""
        ...

    async def drain(self, grace: float) -> int:
        """Take no more work and wait, `grace` seconds at most; returns how many requests were given up."""
        ...

    def close(self) -> None:
        """Stop the lanes."""
        ...


class Front:
    """An `Engine` that exists before the bundle is loaded, and says that it is draining while it still answers.

    Load balancers need time to notice that a server is not ready; until then their requests are answered.
    """

    def __init__(self) -> None:
        """Without an engine: the state is `starting`."""
        self._engine: RunningEngine | None = None
        self._is_draining = False

    def open(self, engine: RunningEngine) -> None:
        """Answer with this engine from now on."""
        self._engine = engine

    def start_draining(self) -> None:
        """Be not ready from now on, but answer what comes."""
        self._is_draining = True

    @property
    def engine(self) -> RunningEngine:
        """The engine behind; NotReady before there is one."""
        if self._engine is None:
            raise NotReady("the bundle is being loaded and checked")
        return self._engine

    @property
    def is_open(self) -> bool:
        """Whether there is an engine behind."""
        return self._engine is not None

    @property
    def bundle(self) -> Bundle:
        """The one that new work goes to; NotReady before it is loaded."""
        return self.engine.bundle

    @property
    def state(self) -> State:
        """The engine's own state, unless the server starts or drains."""
        if self._engine is None:
            return "starting"
        inner = self._engine.state
        return "draining" if self._is_draining and inner == "ready" else inner

    def answer(self, work: Work) -> Coroutine[Any, Any, Answered]:
        """As the engine, without a step of its own; NotReady before there is one."""
        return self.engine.answer(work)

    def begin(self, work: Work, told: Told) -> Callable[[], None]:
        """As the engine; NotReady before there is one."""
        return (self._engine or self.engine).begin(work, told)

    def load(self) -> Load:
        """As the engine; nothing at all before there is one."""
        return NOTHING if self._engine is None else self._engine.load()
