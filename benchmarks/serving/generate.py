"""The load generator: one process, one plan on stdin, one JSON summary on stdout.

    python -m benchmarks.serving.generate < plan.json

`benchmarks.serving.measure` starts one per measurement, on a core of its own.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Literal

import msgspec

from benchmarks.serving.arrivals import closed_order, poisson_schedule
from benchmarks.serving.connections import EpollTransport, request_bytes
from benchmarks.serving.driver import Terms, drive_closed, drive_open
from benchmarks.serving.outcomes import Outcomes, Summary, summarise
from benchmarks.serving.processes import tree_cpu_seconds


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one generator does.

    Attributes:
        port: of the server, on 127.0.0.1.
        path: that is posted to.
        bodies: JSON texts, drawn from with equal probability.
        expected: per body, what its answer contains, without a blank after a colon; empty strings check nothing.
        headers: of every request.
        mode: open (Poisson) or closed.
        rate: requests per second on average (open).
        connections: requests under way (closed).
        seconds: length of the window.
        warmup_seconds: at its beginning, sent but not counted.
        limit_seconds: an answer that took longer is worth nothing.
        patience_seconds: then the client closes the connection.
        max_connections: further requests wait in the client, counted from their intended time.
        max_lag_ms: the result is invalid when the generator was later than that (p99).
        seed: of times and texts.
        server_pid: first process of the server, whose CPU time is read right before and after the window; 0 for none.
    """

    port: int
    path: str
    bodies: list[str]
    expected: list[str]
    headers: dict[str, str] = {}
    mode: Literal["open", "closed"] = "open"
    rate: float = 100.0
    connections: int = 4
    seconds: float = 4.0
    warmup_seconds: float = 0.0
    limit_seconds: float = 0.05
    patience_seconds: float = 1.0
    max_connections: int = 1024
    max_lag_ms: float = 5.0
    seed: int = 0
    server_pid: int = 0


class Generated(msgspec.Struct, frozen=True):
    """What a generator saw.

    Attributes:
        summary: of the requests.
        cpu_seconds: that the server's processes took meanwhile; 0 when no process was named.
    """

    summary: Summary
    cpu_seconds: float


def run(plan: Plan) -> Generated:
    """Send what the plan says and sum up what came back."""
    payloads = [request_bytes(plan.path, body.encode(), plan.headers) for body in plan.bodies]
    transport = EpollTransport(
        ("127.0.0.1", plan.port), payloads, time.perf_counter, max_connections=plan.max_connections
    )
    gc.collect()
    cpu_before = tree_cpu_seconds(plan.server_pid)
    gc.disable()  # a collection would make the generator late
    try:
        outcomes = _drive(plan, transport)
    finally:
        gc.enable()
        transport.close()
    cpu_seconds = tree_cpu_seconds(plan.server_pid) - cpu_before
    summary = summarise(
        outcomes,
        seconds=plan.seconds,
        limit_seconds=plan.limit_seconds,
        warmup_seconds=plan.warmup_seconds,
        max_lag_ms=plan.max_lag_ms,
    )
    return Generated(summary, cpu_seconds)


def _drive(plan: Plan, transport: EpollTransport) -> Outcomes:
    terms = Terms([marker.encode() for marker in plan.expected], plan.patience_seconds)
    if plan.mode == "open":
        schedule = poisson_schedule(plan.rate, plan.seconds, len(plan.bodies), plan.seed)
        return drive_open(schedule, transport, time.perf_counter, terms)
    texts = closed_order(plan.seconds, len(plan.bodies), plan.seed)
    return drive_closed(texts, transport, time.perf_counter, terms, connections=plan.connections, seconds=plan.seconds)


def main() -> None:
    """Read a plan, run it, write the summary."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(run(plan)))


if __name__ == "__main__":
    main()
