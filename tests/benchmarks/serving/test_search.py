"""The search for the highest rate, on servers whose limit is known."""

from __future__ import annotations

import pytest

from benchmarks.serving.search import RateSearch


def search(limit: float, guess: float, **options: float) -> tuple[float | None, list[float]]:
    found, probed = RateSearch(guess, **options), []  # type: ignore[arg-type]
    while (rate := found.next_rate) is not None:
        probed.append(rate)
        found.record(rate, rate <= limit)
        assert len(probed) < 100
    return found.highest, probed


@pytest.mark.parametrize("guess", [40.0, 80.0, 97.0, 100.0, 103.0, 125.0, 250.0])
def test_the_limit_is_found_from_below_and_from_above(guess: float) -> None:
    """A search that stops short would call a server slower than it is, depending on the first guess."""
    highest, probed = search(100.0, guess, max_probes=12)
    assert highest is not None
    assert 100.0 / 1.026 <= highest <= 100.0
    assert len(probed) <= 12


def test_few_probes_still_give_a_rate_that_held() -> None:
    """With a bad guess and few probes the result is coarse, but never a rate that was not held."""
    highest, probed = search(20.0, 100.0, max_probes=3)
    assert highest is not None
    assert highest <= 20.0
    assert highest in probed


def test_a_server_that_holds_nothing_has_no_rate() -> None:
    """It must not be given the lowest rate that was tried."""
    assert search(0.0, 100.0, max_probes=4)[0] is None


def test_contradicting_probes_end_the_search() -> None:
    """Noise: a rate above one that failed is held. The search must not run for ever between the two."""
    found = RateSearch(100.0, max_probes=10)
    found.record(100.0, False)
    found.record(110.0, True)
    assert found.next_rate is None
    assert found.highest == 110.0


@pytest.mark.parametrize("options", [{"guess": 0.0}, {"guess": 1.0, "step": 0.0}, {"guess": 1.0, "resolution": 0.0}])
def test_impossible_searches_are_refused(options: dict[str, float]) -> None:
    """They would never end."""
    with pytest.raises(ValueError, match="above 0"):
        RateSearch(**options)  # type: ignore[arg-type]
