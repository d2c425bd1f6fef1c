"""One serving process inside the test's own: what it says while its engine starts, fails and ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import serving.operations.server
from serving.bundle import Bundle
from serving.engine.dummy import DummyEngine
from serving.host import available_cpus, cpu_model
from serving.manifest import read_manifest
from serving.operations.listen import listen
from serving.operations.server import Service
from serving.operations.settings import ServerSettings

WAIT_SECONDS = 20.0
"""For what comes at once, on a busy machine too."""

Scene = Callable[[Service], Coroutine[Any, Any, None]]


class StartingEngine(DummyEngine):
    """The dummy, with a start that lasts until the test ends it, and a list of what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.has_begun, self.may_start = threading.Event(), threading.Event()

    def start(self) -> None:
        """Warm up, for as long as the test wants."""
        self.has_begun.set()
        assert self.may_start.wait(WAIT_SECONDS), "the event loop stands still"

    async def swap(self, new_bundle: Bundle) -> None:
        """Nobody swaps here."""

    async def drain(self, grace: float) -> int:
        """Nothing is ever left."""
        self.asked.append("drain")
        return 0

    def close(self) -> None:
        """Nothing is held."""
        self.asked.append("close")


class Process:
    """What a process is made of; the garbage collector, which all tests share, is left alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = StartingEngine()
        self.said: list[str] = []

    def play(self, scene: Scene, calibration: dict[str, Any] | None = None) -> Service:
        """A scene beside a running service, which ends when it is told to, or by itself."""
        settings = ServerSettings(grace_seconds=0, drain_seconds=1)
        with listen("127.0.0.1", 0) as listener:
            service = Service(self.folder, settings, listener, say=self.said.append, calibration=calibration)

            async def both() -> None:
                running = asyncio.create_task(service.run())
                await scene(service)
                await asyncio.wait_for(running, WAIT_SECONDS)

            asyncio.run(both())
        return service

    async def start_and_stop(self, service: Service) -> None:
        """The scene of a life without events."""
        self.engine.may_start.set()
        await until(lambda: self.said and "ready after" in self.said[-1])
        service.web.stop()


@pytest.fixture
def process(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """Over the toy bundle."""
    process = Process(bundle_folder)
    gc = SimpleNamespace(collect=lambda: 0, set_threshold=lambda *counts: None, freeze=lambda: None)
    monkeypatch.setattr(serving.operations.server, "gc", gc)
    monkeypatch.setattr(serving.operations.server, "open_engine", lambda *settings: process.engine)
    yield process
    process.engine.may_start.set()


async def until(is_so: Callable[[], object]) -> None:
    """Wait for something that comes soon."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not is_so():
            await asyncio.sleep(0.002)


async def status(service: Service, path: str) -> int:
    """What a probe is answered."""
    reader, writer = await asyncio.open_connection(*service._listener.getsockname())
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
    writer.close()
    return int(answer.split()[1])


def test_probes_are_answered_while_the_engine_warms_up(process: Process) -> None:
    """A warm-up on the event loop is a process that listens and says nothing: a liveness probe kills it."""

    async def scene(service: Service) -> None:
        await asyncio.to_thread(process.engine.has_begun.wait, WAIT_SECONDS)
        assert (await status(service, "/livez"), await status(service, "/readyz")) == (200, 503)
        process.engine.may_start.set()
        await until(lambda: service.front.is_open)
        assert await status(service, "/readyz") == 200
        service.web.stop()

    process.play(scene)


def test_a_stop_while_the_engine_warms_up_ends_its_lanes_too(process: Process) -> None:
    """Lanes that nobody closes keep the process; and a server that ends must not say that it is ready."""

    async def scene(service: Service) -> None:
        await asyncio.to_thread(process.engine.has_begun.wait, WAIT_SECONDS)
        service.web.stop()
        process.engine.may_start.set()

    assert not process.play(scene).front.is_open
    assert process.engine.asked == ["close"]
    assert process.said == []


def test_an_engine_is_drained_before_it_is_closed(process: Process) -> None:
    """Whatever is still in it when the server has ended would fail, though its answer is a moment away."""
    process.play(process.start_and_stop)
    assert process.engine.asked == ["drain", "close"]


def test_a_stale_calibration_is_said_at_the_start(process: Process) -> None:
    """A settings file copied from another machine would pass for a measurement, with lanes that do not fit here."""
    sha256 = read_manifest(process.folder).artifacts[0].sha256
    here = {"machine": {"cpu_model": cpu_model(), "available_cpus": available_cpus()}, "artifact_sha256": sha256}
    for calibration, warnings in [
        (here | {"artifact_sha256": "another"}, ["warning: the calibration was made with another model"]),
        (here, []),
        (None, []),
    ]:
        process.said.clear()
        process.play(process.start_and_stop, calibration)
        warned = [line for line in process.said if line.startswith("warning")]
        assert [line.partition(";")[0] for line in warned] == warnings


def test_a_failed_engine_is_told_to_probes_before_the_process_ends(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ended at once, clients see refused connections, and nobody sees why; and one line in the log is enough."""
    monkeypatch.setattr(serving.operations.server, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(serving.operations.server, "FAILED_SECONDS", 3600.0)
    caplog.set_level(logging.ERROR, serving.operations.server.__name__)

    async def scene(service: Service) -> None:
        process.engine.may_start.set()
        await until(lambda: service.front.is_open)
        process.engine.state = "failed"
        await until(lambda: service.has_failed)
        assert await status(service, "/livez") == 503
        await asyncio.sleep(0.05)
        assert not service.web.is_stopping
        service.web.stop()

    process.play(scene)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_failed_engine_ends_the_process_unasked(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a new process helps, and not everybody has a liveness probe."""
    monkeypatch.setattr(serving.operations.server, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(serving.operations.server, "FAILED_SECONDS", 0.0)

    async def scene(service: Service) -> None:
        process.engine.may_start.set()
        await until(lambda: service.front.is_open)
        process.engine.state = "failed"

    assert process.play(scene).has_failed
    assert process.engine.asked == ["drain", "close"]
