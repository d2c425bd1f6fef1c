"""comparison.json's judgements and their words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.comparison.answers import Scores, difference
from compressor.comparison.plan import Comparison
from compressor.comparison.results import verdict
from compressor.comparison.statistics import Difference
from compressor.comparison.wording import (
    added_table,
    arms_table,
    comparison_of,
    comparisons_table,
    headline,
    main_of,
    protocol,
    seeds_table,
    verdict_text,
)


def measured(value: float, seeds: int = 3, p_value: float | None = 0.5) -> Difference:
    return Difference(value, value - 1, value + 1, 0.5, p_value, (value,) * seeds)


def test_verdicts_follow_the_corrected_value() -> None:
    """Prevents a gain that the correction took away, a loss sold as a gain, and a claim from one seed."""
    assert verdict(measured(0.1), 0.05) == "gain"
    assert verdict(measured(-0.1), 0.05) == "loss"
    assert verdict(measured(0.1), 0.0501) == "no evidence of a difference"
    assert verdict(measured(0.1, seeds=1), 0.001) == verdict(measured(0.1), None) == "no claim"


def test_only_the_main_comparison_keeps_its_own_level(result: dict[str, Any]) -> None:
    """Prevents a correction that covers the main comparison, or misses one of the others."""
    main, family = main_of(result), [c for c in result["comparisons"] if c["role"] == "family"]
    assert main["judged_p_value"] == main["p_value"]
    assert len(family) == result["protocol"]["family"] == 8
    smallest = min(family, key=lambda entry: entry["p_value"])
    assert smallest["judged_p_value"] == pytest.approx(min(1.0, 8 * smallest["p_value"]))
    assert main["smallest_visible"] / main["standard_error"] == pytest.approx(3.761, abs=1e-3)  # 4 degrees of freedom
    assert smallest["smallest_visible"] / smallest["standard_error"] > 6


def test_differences_are_paired_by_seed_on_the_seeds_of_both() -> None:
    """Prevents seed 2 of one arm from being held against seed 1 of another after a cell failed."""
    draw = np.zeros((5, 3))
    method = Scores((0, 1, 2), np.array([0.5, 0.6, 0.9]), draw)
    baseline = Scores((0, 2), np.array([0.4, 0.7]), draw[:, :2])
    found = difference({"t": {"m": method, "none": baseline}}, Comparison("m", "none", "t"))
    assert found is not None
    assert found.per_seed == pytest.approx((0.1, 0.2))
    assert difference({"t": {"m": method}}, Comparison("m", "none", "t")) is None


def test_the_table_has_a_row_per_arm_and_no_difference_to_itself(result: dict[str, Any]) -> None:
    """Prevents a control compared with itself and a column under the wrong heading."""
    table = arms_table(result, "intent")
    assert table.columns[:4] == ("method", "accuracy", "spread", "difference to none")
    assert table.columns[-4:] == ("runs", "epochs", "training", "seeds")
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == [arm["label"] for arm in result["arms"]]
    assert rows["none"][3:7] == ("—",) * 4
    assert rows["kd"][5:7] == ("—",) * 2
    against = comparison_of(result, "vote", "kd", "intent")
    assert against is not None
    assert rows["vote"][5].startswith(f"{against['difference']:+.3f} [")
    assert rows["vote"][-4:] == ("3", "15", "3 min 10 s", "5")
    assert seeds_table(result, "intent").columns[1:] == tuple(f"seed {seed}" for seed in range(5))


def test_the_words_claim_nothing_without_evidence(result: dict[str, Any]) -> None:
    """Prevents 'no difference' where only 'too small to see' is known."""
    main: dict[str, Any] = next(entry for entry in result["comparisons"] if entry["role"] == "main")
    main |= {"verdict": "no evidence of a difference", "smallest_visible": 0.0543}
    assert headline(result).endswith("over 5 seeds: no evidence of a difference (could have seen 0.054).")
    main["smallest_visible"] = None
    assert "nothing varied" in verdict_text(main)
    assert "one seed allows no claim" in verdict_text({**main, "verdict": "no claim"})
    del main["difference"]
    assert "could not be compared" in headline(result)
    assert len(comparisons_table(result).rows) == 9


def test_the_protocol_says_what_was_decided_late(result: dict[str, Any]) -> None:
    """Prevents a page that hides how its seeds, arms and main comparison came about."""
    assert "named before the first training" in " ".join(protocol(result))
    assert not [sentence for sentence in protocol(result) if "Post hoc" in sentence or "Added" in sentence]
    result["protocol"]["late"] = {"arms": ["se"], "seeds": [5, 6], "main": [{"method": "se"}]}
    said = " ".join(protocol(result | {"train_rows": 30}))
    for words in ("Post hoc", "Added when results were there: se;", "the seeds 5 and 6", "30 labelled rows"):
        assert words in said
    assert "before the first training" not in said


def test_added_texts_have_a_row_per_method_that_reads_some(result: dict[str, Any]) -> None:
    """Prevents a table of nothing, and a selector's share beside a method that has none."""
    assert added_table(result) is None
    plain = {"candidates": 1296, "kept": 1296, "share": None, "rho": None}
    chosen = {"candidates": 700, "kept": 350, "share": 0.5, "rho": -0.04}
    result["arms"][1]["added"] = {"intent": {"0": plain, "1": plain}}
    result["arms"][2]["added"] = {"intent": {"0": chosen, "1": chosen | {"kept": 2100, "share": 1.0, "rho": None}}}
    table = added_table(result)
    assert table is not None
    labels = [arm["label"] for arm in result["arms"]]
    assert table.rows == (
        (labels[1], "intent", "1,296", "1,296", "—", "—"),
        (labels[2], "intent", "700", "350 to 2,100", "50%, 100%", "-0.04"),
    )
