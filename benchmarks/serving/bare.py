"""The physical reference: tokenise and run in one thread, without any server.

Without a pause between two texts the model's weights stay in the processor's caches. A server that waits for its next
request finds them gone, and so does the loop when it runs at a server's rate: both are measured.

python -m benchmarks.serving.bare < plans

A plan of JSON per line, one result per line; all are measured in the one process, which waits for the next plan.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from benchmarks.serving.arrivals import Schedule, closed_order, poisson_schedule
from benchmarks.serving.peers.model import PeerModel


class BarePlan(msgspec.Struct, frozen=True):
    """What the loop does.

    Attributes:
        bundle: the folder; that of the first plan counts.
        precision: of the artifact.
        texts: drawn from as the generator does.
        seconds: of measuring; a quarter of it is spent on warming up before.
        seed: of the order, and of the times.
        rate: texts per second, at the times at which a server's requests are due; None: without a pause.
    """

    bundle: str
    precision: str
    texts: list[str]
    seconds: float
    seed: int
    rate: float | None = None


class BareResult(msgspec.Struct, frozen=True):
    """What it took."""

    texts: int
    cpu_ms_per_text: float
    texts_per_second: float


def run(plan: BarePlan, model: PeerModel) -> BareResult:
    """Warm up, then count."""
    order = closed_order(plan.seconds, len(plan.texts), plan.seed)
    _loop(model, plan.texts, order, plan.seconds / 4)
    cpu, clock = time.process_time(), time.perf_counter()
    if plan.rate is None:
        count = _loop(model, plan.texts, order, plan.seconds)
    else:
        count = _paced(model, plan.texts, poisson_schedule(plan.rate, plan.seconds, len(plan.texts), plan.seed))
    return BareResult(count, (time.process_time() - cpu) / count * 1e3, count / (time.perf_counter() - clock))


def _loop(model: PeerModel, texts: list[str], order: list[int], seconds: float) -> int:
    end = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < end:
        model.run([model.encode(texts[order[count % len(order)]])])
        count += 1
    return count


def _paced(model: PeerModel, texts: list[str], schedule: Schedule) -> int:
    start = time.perf_counter()
    for due, text in zip(schedule.intended.tolist(), schedule.texts.tolist(), strict=True):
        time.sleep(max(0.0, start + due - time.perf_counter()))
        model.run([model.encode(texts[text])])
    return len(schedule.intended)


def main() -> None:
    """Answer every plan with a result."""
    model: PeerModel | None = None
    for line in sys.stdin.buffer:
        plan = msgspec.json.decode(line, type=BarePlan)
        model = model or PeerModel(Path(plan.bundle), plan.precision)
        sys.stdout.buffer.write(msgspec.json.encode(run(plan, model)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
