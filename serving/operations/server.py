"""`compressor serve`: listen, load and prove the bundle, answer until a signal, drain, end with 0.

The port is taken before the bundle is loaded, so that a probe can tell "starting" from "not there"; `/readyz` says
503 until hashes and golden examples are checked. SIGTERM and SIGINT begin the drain; a second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from serving.bundle import Bundle
from serving.engine.engine import EngineSettings, LaneEngine
from serving.http.app import create_app
from serving.http.logs import configure_logs
from serving.http.protocol_limits import protocol_class
from serving.operations.admin import AdminApp, read_token
from serving.operations.calibrate import calibration_warning
from serving.operations.capacity import Capacity, choose_capacity
from serving.operations.front import Front, RunningEngine
from serving.operations.listen import listen, url_of
from serving.operations.settings import ServerSettings
from serving.operations.swap import Swapper
from serving.operations.web import WebServer, web_config
from serving.tokenise import tokenise_without_threads

ENGINE_STOP_SECONDS = 1.0
"""For the lanes' last calls, after every request has its answer."""
GPU_TOKENISERS = 2
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4096, 16_384
"""Rows times longest of a shared call, at most; below that the cost model decides."""
WATCH_SECONDS = 1.0
FAILED_SECONDS = 5.0
"""How long a server whose lanes are lost still tells probes and clients so, before it ends."""

logger = logging.getLogger(__name__)


def serve(
    bundle_folder: Path,
    settings: ServerSettings,
    say: Callable[[str], None] = print,
    *,
    calibration: dict[str, Any] | None = None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT.

    Args:
        bundle_folder: the bundle; `/readyz` says 503 until it was checked.
        settings: see `ServerSettings`.
        say: takes the lines that are printed when the server is ready.
        calibration: the measurement behind the settings; a stale one is warned of.

    The process ends with 1 when the engine has failed, so that whoever supervises it starts another.

    Raises:
        UserError: an address is not to be had, or the bundle was refused.
    """
    tokenise_without_threads()
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(listen(settings.host, settings.port))
        service = Service(bundle_folder, settings, listener, say=say, calibration=calibration)
        configure_logs(settings.access_log)
        if settings.admin_port is not None and settings.admin_token_file is not None:
            token = read_token(settings.admin_token_file)
            admin = listen(settings.admin_host, settings.admin_port, "admin_host and admin_port")
            service.add_admin(token, sockets.enter_context(admin))
        with asyncio.Runner(loop_factory=service.web.config.get_loop_factory()) as runner:
            runner.run(service.run())
    if service.has_failed:
        sys.stderr.flush()
        os._exit(1)  # threads that hang in the model would keep an ordinary end waiting


class Service:
    """One serving process: its two ports, its engine and its end."""

    def __init__(
        self,
        folder: Path,
        settings: ServerSettings,
        listener: socket.socket,
        *,
        say: Callable[[str], None] = print,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        """Load nothing yet; requests are answered from `run` on."""
        self._folder = folder
        self._settings = settings
        self._listener = listener
        self._say = say
        self._calibration = calibration
        self._capacity = choose_capacity(settings)
        self._num_signals = 0
        self.has_failed = False
        self._admin: tuple[WebServer, socket.socket] | None = None
        self.front = Front()
        self.swapper = Swapper(self.front, self._load)
        app = create_app(self.front, settings)
        self.web = WebServer(
            web_config(
                app,
                idle_seconds=settings.limits.idle_seconds,
                http=protocol_class(settings.limits, app.refused, app.fast_path),
            ),
            grace_seconds=settings.grace_seconds,
            drain_seconds=settings.drain_seconds,
            on_stop=self.front.start_draining,
        )

    def add_admin(self, token: str, listener: socket.socket) -> None:
        """Take swap, status and drain on a port of their own."""
        app = AdminApp(token, self.front, self.swapper, self.web.stop)
        self._admin = (WebServer(web_config(app, idle_seconds=5.0), drain_seconds=1.0), listener)

    async def run(self) -> None:
        """Serve until the end; UserError when the bundle is refused."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        async with self._admin_port():
            answering = asyncio.create_task(self.web.serve([self._listener]))
            try:
                await self._open()
            except BaseException:
                self.web.abort()
                raise
            finally:
                await self._watch(answering)
                await self._close()

    async def _watch(self, answering: asyncio.Task[None]) -> None:
        """Wait for the end of the server, and bring it about when the engine has failed."""
        while not (await asyncio.wait([answering], timeout=WATCH_SECONDS))[0]:
            if self.front.state == "failed" and not self.has_failed:
                self.has_failed = True
                logger.error("the engine has failed; the process ends in %g s", FAILED_SECONDS)
                asyncio.get_running_loop().call_later(FAILED_SECONDS, self.web.stop)
        await answering

    async def _open(self) -> None:
        bundle = await asyncio.to_thread(self._load, self._folder)
        engine = open_engine(bundle, self._capacity, self._settings)
        await asyncio.to_thread(engine.start)
        if self.web.is_stopping:
            engine.close()
            return
        gc.collect()
        gc.set_threshold(20_000, 20, 20)  # requests leave no circles behind: look for some seldom
        gc.freeze()  # what was loaded lives as long as the process: collections need not walk it
        self.front.open(engine)
        self._announce(bundle)

    def _load(self, folder: Path) -> Bundle:
        settings = self._settings
        return Bundle.load(folder, settings.precision, threads=settings.threads, device=settings.device)

    async def _close(self) -> None:
        if self.front.is_open:
            engine: RunningEngine = self.front.engine
            await engine.drain(ENGINE_STOP_SECONDS)
            engine.close()

    @contextlib.asynccontextmanager
    async def _admin_port(self) -> AsyncIterator[None]:
        if self._admin is None:
            yield
            return
        server, listener = self._admin
        answering = asyncio.create_task(server.serve([listener]))
        try:
            yield
        finally:
            server.stop()
            await answering

    def _on_signal(self, number: int) -> None:
        self._num_signals += 1
        if self._num_signals == 1:
            self.web.stop()
            return
        sys.stderr.write("a second signal: ending at once, without the answers that are under way\n")
        sys.stderr.flush()
        os._exit(128 + number)

    def _announce(self, bundle: Bundle) -> None:
        manifest, artifact = bundle.manifest, bundle.artifact
        self._say(
            f"serving {manifest.name} {manifest.version}: {artifact.file} ({artifact.precision}, "
            f"{artifact.bytes / 1e6:.1f} MB), {self._capacity}"
        )
        if not artifact.passed:
            self._say(f"warning: {artifact.file} did not pass every gate; see the bundle's README.md")
        if self._calibration is not None and (warning := calibration_warning(self._calibration, bundle)):
            self._say(f"warning: {warning}")
        if self._admin is not None:
            self._say(f"admin port: {url_of(self._admin[1])}")
        seconds = process_seconds()
        self._say(f"ready after {seconds:.2f} s, listening on {url_of(self._listener)}")


def open_engine(bundle: Bundle, capacity: Capacity, settings: ServerSettings) -> LaneEngine:
    """The engine of a bundle, not yet started."""
    return LaneEngine(
        bundle,
        EngineSettings(
            lanes=capacity.lanes,
            threads=capacity.threads,
            queue_tokens=settings.queue_tokens,
            tokenisers=0 if settings.device == "cpu" else GPU_TOKENISERS,
            batch_tokens=CPU_BATCH_TOKENS if settings.device == "cpu" else GPU_BATCH_TOKENS,
            stall_seconds=settings.stall_seconds,
        ),
    )


def process_seconds() -> float:
    """How long this process has existed: its imports count for whoever waits until it is ready."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
