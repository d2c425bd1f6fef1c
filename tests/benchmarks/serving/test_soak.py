"""The soak measures the model's memory, not its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.soak import BIN_SECONDS, NUM_BINS, main, percentile
from tests.serving.conftest import TASKS, make_bundle


def test_a_percentile_of_counts_is_that_of_the_durations() -> None:
    """Rounded up by a bin at most."""
    durations = np.random.default_rng(0).gamma(2.0, 0.004, size=10_000)
    counts = np.bincount((durations / BIN_SECONDS).astype(int), minlength=NUM_BINS)
    for share in (0.5, 0.9, 0.99):
        exact = float(np.quantile(durations, share, method="inverted_cdf"))
        assert exact <= percentile(counts, share) <= exact + 1.001 * BIN_SECONDS


def test_a_variant_is_measured_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says how many texts it ran, how long they took, and what memory it held."""
    bundle, output = make_bundle(tmp_path / "bundle", TASKS, ("text",)), tmp_path / "soak.json"
    main([str(bundle), "--seconds", "0.5", "--lanes", "2", "--only", "arena", "--output", str(output)])
    found = json.loads(output.read_text())["variants"]["arena"]
    assert found["texts"] > 0
    assert 0.0 < found["p99_ms"] < NUM_BINS * BIN_SECONDS * 1e3
    assert 0.0 < found["first_mib"] <= found["peak_mib"]
    assert len(found["memory_mib"]) == 10
    assert "arena" in capsys.readouterr().out
