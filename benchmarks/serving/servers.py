"""The servers that are compared: how each is started, asked and read, with its settings and why they are fair."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.peers.model import BUNDLE_VARIABLE, PRECISION_VARIABLE, WORKERS_VARIABLE
from benchmarks.serving.processes import ServerProcess, free_port

ROOT = Path(__file__).parents[2]
PEERS = "benchmarks.serving.peers"
OURS = "compressor"
OUR_PATH = "/v1/predict"
FLOOR = "floor"
"""Shown beside the others, and no peer: nobody could run it."""
ORDINARY = "ordinary"
"""Our server for clients whose heads are new each time; measured where it is asked for."""
DEADLINE_HEADER = "X-Request-Timeout-Ms"


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        name: in results and on the command line.
        title: in the table.
        settings: what was chosen, for the reader.
        command: from the port to what is run.
        path: that texts are posted to.
        ready_path: answers 200 once the model is loaded.
        environment: added for its process.
        headers: of every request.
    """

    name: str
    title: str
    settings: str
    command: Callable[[int], list[str]]
    path: str = "/predict"
    ready_path: str = "/ready"
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether this is the server of the house, whatever it is called: also one from another checkout."""
        return self.path == OUR_PATH

    def start(self, cpus: Collection[int], log: Path) -> ServerProcess:
        """Its process on these CPUs and a free port; what it prints is added to a file."""
        port = free_port()
        with log.open("ab") as file:
            return ServerProcess(self.command(port), port, cpus=cpus, environment=self.environment, log=file)


def all_servers(
    bundle: Path, peer_python: Path, cpus: Collection[int], *, precision: str, limit_seconds: float
) -> dict[str, Server]:
    """Every server by name, ours first, serving the same file of one bundle.

    Args:
        bundle: the folder.
        peer_python: interpreter of the environment that the peers are installed in.
        cpus: that a server may use; the peers get as many workers.
        precision: of the artifact.
        limit_seconds: our server is told this deadline in a header; the peers know nothing like it.
    """
    environment = {
        BUNDLE_VARIABLE: str(bundle),
        PRECISION_VARIABLE: precision,
        WORKERS_VARIABLE: str(len(cpus)),
        "PYTHONPATH": str(ROOT),
        "BENTOML_DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }

    def run(*arguments: str) -> Callable[[int], list[str]]:
        return lambda port: [str(peer_python), "-m", *(text.replace("PORT", str(port)) for text in arguments)]

    def ours(port: int) -> list[str]:
        script = Path(sys.executable).with_name(OURS)
        return [str(script), "serve", str(bundle), "--port", str(port), "--precision", precision]

    deadline = {DEADLINE_HEADER: str(round(limit_seconds * 1e3))}
    servers = [
        Server(
            OURS, "compressor serve", "defaults; the client names its deadline", ours, OUR_PATH, "/readyz",
            headers=deadline,
        ),
        Server(
            ORDINARY, "compressor serve, no fast path", "as above, fast_path = false",
            lambda port: [*ours(port), "--set", "fast_path=false"], OUR_PATH, "/readyz", headers=deadline,
        ),
        Server(
            "litserve", "LitServe 0.2.19", "fast_queue, one worker per CPU, no batching",
            run(f"{PEERS}.litserve_app", "PORT", "1"), ready_path="/health", environment=environment,
        ),
        Server(
            "litserve-batched", "LitServe 0.2.19, batched", "as above, up to 8 texts within 2 ms",
            run(f"{PEERS}.litserve_app", "PORT", "8"), ready_path="/health", environment=environment,
        ),
        Server(
            "bentoml", "BentoML 1.4.39", "one worker per CPU, synchronous API, no access log, metrics or traces",
            run("bentoml", "serve", f"{PEERS}.bentoml_app:Classifier", "--port", "PORT"),
            ready_path="/readyz", environment=environment,
        ),
        Server(
            "fastapi", "FastAPI + ONNX Runtime", "synchronous endpoint in the thread pool, uvloop, httptools",
            run(f"{PEERS}.fastapi_app", "PORT"), environment=environment,
        ),
        Server(
            "tei-policy", "emulation of TEI's policy", "FIFO, 16384 padded tokens per batch, one session, lean ASGI",
            run(f"{PEERS}.tei_policy", "PORT"), environment=environment,
        ),
        Server(
            FLOOR, "the least of it", "uvloop, httptools, one thread; no framework, limits, deadlines, scheduling",
            run(f"{PEERS}.floor", "PORT"), environment=environment,
        ),
    ]  # fmt: skip
    return {server.name: server for server in servers}
