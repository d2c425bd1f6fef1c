"""Memory of `compressor serve` while it has answered a while: one server, or several side by side."""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving.processes import ServerProcess, free_port

SCRIPT = Path(sys.executable).with_name("compressor")


def serving_bytes(bundles: Sequence[Path], precision: str, texts: Sequence[tuple[str, ...]], requests: int) -> int:
    """Memory of one server per bundle, all running at once, after so many requests to each.

    Returns:
        Bytes of all of them; pages that they share are divided among them (PSS), so that a library counts once.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        servers = []
        for bundle in bundles:
            port = free_port()
            command = [str(SCRIPT), "serve", str(bundle), "--port", str(port), "--precision", precision]
            server = ServerProcess(command, port, cpus=os.sched_getaffinity(0), environment={}, log=log)
            stack.callback(server.stop)
            server.wait_until_ready("/readyz")
            servers.append(server)
        for server in servers:
            _ask(server.port, texts, requests)
        return sum(server.memory_bytes() for server in servers)


def _ask(port: int, texts: Sequence[tuple[str, ...]], requests: int) -> None:
    """Post the texts in turn, one per request, on one connection.

    Raises:
        RuntimeError: a request was not answered with 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(requests):
        body = json.dumps({"text": texts[number % len(texts)][0]})
        connection.request("POST", "/v1/predict", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        if reply.status != 200:
            raise RuntimeError(f"the server on port {port} answered {reply.status}")
    connection.close()
