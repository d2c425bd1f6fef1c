"""The waterfall section: factors against what they say, quality of the right model, words from the figures."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.report.limits import limits_table, seen_in_limits
from compressor.report.overview import overview
from compressor.report.page import render
from compressor.report.tiles import tiles
from compressor.report.waterfall import WaterfallView, throughput_in_words, waterfall_view


def ratio(value: float, *, rounds: int = 6) -> dict[str, Any]:
    """A ratio with an interval of a twentieth."""
    confidence = 0.97 if rounds >= 6 else 0.75
    return {"value": value, "low": value * 0.95, "high": value * 1.05, "confidence": confidence, "rounds": rounds}


def step(name: str, subject: str, rate: float, *over: dict[str, Any] | None, hours: float) -> dict[str, Any]:
    """One step; `over` holds the factors over the step before, the start and the baseline."""
    factor, overall, over_baseline = over
    return {
        "name": name,
        "subject": subject,
        "way": f"the way of {name}",
        "tried": {},
        "texts_per_second": rate,
        "cpu_seconds_per_text": hours * 3600 / 1e6,
        "factor": factor,
        "overall": overall,
        "over_baseline": over_baseline,
        "cpu_hours_per_million": hours,
    }


@pytest.fixture
def timed(report: dict[str, Any]) -> dict[str, Any]:
    """A report with a waterfall."""
    report["waterfall"] = {
        "cpus": 2,
        "texts": 64,
        "mean_tokens": 19.6,
        "max_length": 128,
        "steps": [
            step("padded", "teacher", 20.0, None, None, ratio(0.2), hours=27.8),
            step("torch", "teacher", 100.0, ratio(5.0), ratio(5.0), None, hours=5.56),
            step("student", "student", 190.0, ratio(1.9), ratio(9.5), ratio(1.9), hours=2.9),
            step("fp32", "fp32", 400.0, ratio(2.1), ratio(20.0), ratio(4.0), hours=1.4),
            step("int8", "int8", 380.0, ratio(0.97), ratio(19.0), ratio(3.8), hours=1.4),
            step("lanes", "int8", 1000.0, ratio(2.63), ratio(50.0), ratio(10.0), hours=0.56),
        ],
        "peaks": [
            {"threads": 2, "fp32": 80e9, "int8": 140e9, "read_bytes": 20e9, "cache_bytes": 32 * 2**20},
            {"threads": 1, "fp32": 40e9, "int8": 70e9, "read_bytes": 12e9, "cache_bytes": 32 * 2**20},
        ],
        "limits": [limit("lanes", "int8", share=0.3, product_share=0.6, product_rate=0.55)],
        "conditions": {},
        "notes": ["The hypervisor took 3.0% of the CPU time away."],
    }
    return report


def limit(
    name: str, precision: str, *, share: float, product_share: float, product_rate: float, padding: float = 0.0
) -> dict[str, Any]:
    """A graph beside the limit."""
    return {
        "step": name,
        "precision": precision,
        "operations_per_text": 2.2e8,
        "padding": padding,
        "weight_bytes": 5_400_000,
        "texts_per_second": 1000.0,
        "limit_texts_per_second": 1000.0 / share,
        "share": share,
        "bound": "arithmetic",
        "product_share": product_share,
        "product_rate": product_rate,
        "others": {"DynamicQuantizeLinear": 0.15, "Gelu": 0.1},
        "between": 0.05,
    }


def _view(report: dict[str, Any]) -> WaterfallView:
    found = waterfall_view(report, overview(report))
    assert found is not None
    return found


def test_every_step_stands_with_its_factors_cost_and_own_quality(timed: dict[str, Any]) -> None:
    """The teacher's accuracy beside the int8 artifact's speed is what a reader would like to buy."""
    table = _view(timed).table

    assert table.rows[1] == (
        "best torch teacher", "the way of torch", "100", "5.00× [4.75, 5.25]", "5.00× [4.75, 5.25]",
        "baseline", "5.56", "0.746 [0.715, 0.776]",
    )  # fmt: skip
    assert [row[-1].split()[0] for row in table.rows] == ["0.746", "0.746", "0.682", "0.682", "0.677", "0.677"]
    assert table.columns[-1] == "accuracy"
    assert table.marks[-1] == "default"


def test_a_price_makes_a_column_and_its_absence_none(timed: dict[str, Any]) -> None:
    """An invented price would be the one figure of the page that nobody measured."""
    assert not any("price" in column for column in _view(timed).table.columns)
    timed["recipe"]["benchmark"] = {"price_per_cpu_hour": 0.05}

    table = _view(timed).table

    assert table.columns[-2] == "price per million texts"
    assert table.rows[-1][-2] == "0.028"


def test_padding_is_not_sold_as_compression(timed: dict[str, Any]) -> None:
    """The largest factor of all is the one that any program can have."""
    seen = " ".join(_view(timed).seen)

    assert "10.00× [9.50, 10.50] torch's best unpadded teacher" in seen
    assert "50.00× [47.50, 52.50] the padded one" in seen
    assert "The 5.0× between these two are padding left out (20 tokens on average instead of 128)" in seen


def test_a_step_that_gains_nothing_is_said(timed: dict[str, Any]) -> None:
    """int8 that is slower than fp32 on this CPU, hidden in a product of factors."""
    seen = _view(timed).seen

    assert any(sentence.startswith("student, ONNX int8 is no faster than the step before it") for sentence in seen)
    assert any("largest step after that is student, ONNX int8, in lanes: 2.63×" in sentence for sentence in seen)


def test_the_figure_of_others_is_marked_as_theirs(timed: dict[str, Any]) -> None:
    """Another machine's figure in one column with ours is read as ours."""
    view = _view(timed)

    assert not any("66.6" in cell for row in view.table.rows for cell in row)
    assert any("not measured here" in sentence and "arXiv:2010.13382" in sentence for sentence in view.seen)
    assert [trace["name"].partition(" ")[0] for trace in view.plot["data"]] == ["measured", "FastFormers:"]


def test_the_plot_starts_from_torchs_best(timed: dict[str, Any]) -> None:
    """From the padded teacher, every bar would be five times as long."""
    points = _view(timed).plot["data"][0]

    assert points["x"] == [0.2, 1.0, 1.9, 4.0, 3.8, 10.0]
    assert points["text"][-1] == " 10.0×, 1,000/s"


def test_few_rounds_make_no_interval(timed: dict[str, Any]) -> None:
    """An interval of three rounds is narrower than the truth."""
    timed["waterfall"]["steps"][1]["factor"] = ratio(5.0, rounds=3)

    assert _view(timed).table.rows[1][3] == "5.00×"


def test_both_baselines_stand_at_a_glance(timed: dict[str, Any]) -> None:
    """The padded figure alone flatters, left out it is asked for."""
    assert throughput_in_words(timed) == "texts per second: 10.0× torch's best teacher, 50.0× the padded one"
    assert throughput_in_words(timed) in tiles(timed, overview(timed))[1].notes


def test_a_report_without_a_waterfall_has_no_section(report: dict[str, Any]) -> None:
    """Stored predictions have no speed, and older reports no such field."""
    assert waterfall_view(report, overview(report)) is None
    assert throughput_in_words(report) == ""
    assert 'id="waterfall"' not in render(report)


def test_the_page_shows_the_section_and_its_warnings(timed: dict[str, Any]) -> None:
    """A section that the template forgot."""
    page = render(timed)

    assert 'id="waterfall"' in page
    assert "The hypervisor took 3.0%" in page
    assert "64 test texts, 20 tokens on average, from text to answer on 2 CPUs" in page


def test_limits_stand_in_a_table(timed: dict[str, Any]) -> None:
    """A share without what it is a share of."""
    table = limits_table(timed["waterfall"])

    assert table is not None
    assert table.rows == (("int8 in lanes", "220.0", "5.4 MB", "arithmetic", "3,333", "1,000", "30%", "60%", "55%"),)


@pytest.mark.parametrize(
    ("share", "product_share", "product_rate", "expected"),
    [
        (0.33, 0.6, 0.55, ("matrices are small", "40% of the graph's time is no matrix product")),
        (0.1, 0.6, 0.9, ("40% of the graph's time", "would reach 54% on one thread")),
        (0.6, 0.9, 0.65, ("matrices are small",)),
        (0.8, 0.9, 0.9, ("little stands between",)),
    ],
)
def test_reasons_follow_from_the_figures(
    timed: dict[str, Any], share: float, product_share: float, product_rate: float, expected: tuple[str, ...]
) -> None:
    """The same three reasons for every machine explain none."""
    every = ("matrices are small", "of the graph's time is", "would reach", "little stands between")
    timed["waterfall"]["limits"] = [
        limit("int8", "int8", share=share, product_share=product_share, product_rate=product_rate)
    ]

    sentence = list(seen_in_limits(timed["waterfall"]))[-1]

    assert all(words in sentence for words in expected)
    assert sum(words in sentence for words in every) == len(expected)
    assert sentence.startswith("int8: ")


def test_padding_within_batches_is_a_reason_too(timed: dict[str, Any]) -> None:
    """A batch of 32 with one long text in it computes mostly nothing."""
    facts = {"share": 0.5, "product_share": 0.9, "product_rate": 0.9}
    timed["waterfall"]["limits"] = [limit("fp32", "fp32", **facts, padding=0.35)]

    sentence = list(seen_in_limits(timed["waterfall"]))[-1]

    assert "35% of the operations are spent on padding" in sentence
    assert "would reach" not in sentence


def test_peaks_are_said_with_their_threads(timed: dict[str, Any]) -> None:
    """A peak of unknown threads can be doubled by anyone."""
    first = next(seen_in_limits(timed["waterfall"]))

    assert "2 threads: 80 billion fp32 and 140 billion int8 operations per second" in first
    assert "20.0 GB per second" in first
