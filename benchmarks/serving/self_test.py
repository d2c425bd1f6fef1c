"""Shows that the generator sees a stall, and that a closed loop with one connection does not.

    python -m benchmarks.serving.self_test

A stub stands still for 200 ms at every 500th request. At 200 requests a second 40 requests fall due meanwhile;
an honest generator shows them. A closed loop sends none of them and calls the server fast.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import msgspec

from benchmarks.serving.generate import Plan, run
from benchmarks.serving.outcomes import Summary

EVERY = 500
STALL_SECONDS = 0.2
RATE = 200.0


class SelfTest(msgspec.Struct, frozen=True):
    """Both measurements of the stalling stub, and one of a stub without stalls."""

    open: Summary
    closed: Summary
    quiet: Summary

    @property
    def failures(self) -> list[str]:
        """What does not hold; empty when the generator can be trusted."""
        stall_ms = STALL_SECONDS * 1e3
        checks = {
            "the open loop's maximum shows no stall": (self.open.latency.maximum or 0.0) >= 0.95 * stall_ms,
            "the open loop's p99 shows no stall": (self.open.latency.p99 or 0.0) >= 0.5 * stall_ms,
            "the closed loop's p99 shows the stall": (self.closed.latency.p99 or stall_ms) < 0.1 * stall_ms,
            "a stub without stalls looks slow": (self.quiet.latency.p99 or stall_ms) < 0.1 * stall_ms,
            "the generator was late": self.open.is_valid and self.quiet.is_valid,
            "requests were lost": self.open.ok == self.open.sent and self.quiet.ok == self.quiet.sent,
            "answers were not recognised": not self.open.other_label,
        }
        return [text for text, holds in checks.items() if not holds]


def self_test(seconds: float = 10.0) -> SelfTest:
    """Measure the stubs.

    Args:
        seconds: of each open-loop measurement; at least 5, so that stalls occur.
    """
    return SelfTest(
        open=_measure(EVERY, mode="open", seconds=seconds),
        closed=_measure(EVERY, mode="closed", seconds=min(seconds, 2.0)),
        quiet=_measure(0, mode="open", seconds=min(seconds, 4.0)),
    )


def _measure(every: int, *, mode: str, seconds: float) -> Summary:
    command = [sys.executable, "-m", "benchmarks.serving.stub", "--every", str(every), "--stall", str(STALL_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        try:
            assert stub.stdout is not None
            port = int(stub.stdout.readline())
            plan = Plan(
                port=port, path="/", bodies=['{"text": "a"}'], expected=['"label":"stub"'], mode="open", rate=RATE,
                seconds=seconds, connections=1, patience_seconds=5.0,
            )  # fmt: skip
            return run(msgspec.structs.replace(plan, mode=mode)).summary
        finally:
            stub.terminate()


def main() -> None:
    """Run the self-test, print both views, exit with 1 when it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    result = self_test(parser.parse_args().seconds)
    for name in ("open", "closed", "quiet"):
        summary: Summary = getattr(result, name)
        latency = summary.latency
        shown = ", ".join(
            f"{key} {value:.1f} ms" if value is not None else f"{key} -"
            for key, value in (("p50", latency.p50), ("p99", latency.p99), ("max", latency.maximum))
        )
        print(f"{name:6} {summary.ok} answers: {shown}; generator's lag p99 {summary.lag.p99} ms")
    for failure in result.failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if result.failures else 0)


if __name__ == "__main__":
    main()
