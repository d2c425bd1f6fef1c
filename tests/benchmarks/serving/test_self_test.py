"""The generator against a server of its own that stalls."""

from __future__ import annotations

import pytest

from benchmarks.serving.self_test import STALL_SECONDS, self_test


@pytest.mark.slow
def test_a_stall_of_a_real_server_shows_in_the_open_loop_alone() -> None:
    """Latencies counted from when a request was sent, and not from when it was due, leave the stall out."""
    found = self_test(seconds=6.0)
    stall_ms = STALL_SECONDS * 1e3
    assert found.open.latency.maximum is not None
    assert found.open.latency.p99 is not None
    assert found.closed.latency.p99 is not None
    assert found.open.latency.maximum >= 0.95 * stall_ms
    assert found.open.latency.p99 >= 0.5 * stall_ms
    assert found.closed.latency.p99 < 0.5 * stall_ms
    assert found.open.ok == found.open.sent
