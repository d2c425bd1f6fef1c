"""The cost model: fitted to what was measured, and honest where sharing a call saves nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.cost import CostModel, fit, warm_up

SHAPES = [(1, 8), (1, 32), (1, 64), (1, 128), (2, 8), (8, 8), (2, 32), (8, 32), (2, 64), (8, 64)]
COEFFICIENTS = st.floats(0, 1e-3)


@given(COEFFICIENTS, st.floats(1e-7, 1e-4), st.floats(0, 1e-6))
def test_a_law_of_the_models_form_is_found_again(fixed: float, per_token: float, per_square: float) -> None:
    """A fit that misses its own law would merge or refuse at random."""
    law = CostModel(fixed, per_token, per_square)
    fitted = fit({shape: law.seconds(*shape) for shape in SHAPES})
    for shape in [*SHAPES, (4, 100)]:
        assert fitted.seconds(*shape) == pytest.approx(law.seconds(*shape), rel=1e-3)


@given(st.lists(st.floats(1e-6, 1.0), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_no_measurement_makes_a_duration_negative(seconds: list[float]) -> None:
    """Least squares alone gives negative coefficients under noise: a long text would then count as free."""
    fitted = fit(dict(zip(SHAPES, seconds, strict=True)))
    assert min(fitted.fixed, fitted.per_token, fitted.per_square) >= 0
    assert fitted.seconds(1, 512) >= fitted.seconds(1, 8) >= 0
    assert fitted.seconds(1, 8) > 0


def test_equal_lengths_share_a_call_and_unlike_ones_do_not() -> None:
    """On a CPU padding costs more than a call's start: a batch of unlike lengths is slower than its texts alone."""
    costs = CostModel(fixed=3e-4, per_token=5e-5, per_square=0.0)
    assert costs.gains((1, 10), 10)
    assert costs.gains((1, 10), 12)
    assert not costs.gains((1, 10), 40)
    assert not costs.gains((1, 40), 10)
    assert not costs.gains((1, 1000), 1000), "a gain below the noise is none"


def test_measurements_without_a_gain_forbid_merging_whatever_the_fit_says() -> None:
    """Where eight rows cost eight calls, a fixed part in the fit is an artefact of short texts."""
    measured = {(1, length): 1e-4 + 1e-5 * length for length in (8, 32, 128)}
    measured |= {(rows, length): rows * measured[1, length] for rows in (2, 8) for length in (8, 32)}
    fitted = fit(measured)
    assert not fitted.merges
    assert not fitted.gains((1, 8), 8)
    assert not fit({(1, 8): 1e-3, (1, 64): 2e-3}).merges, "never measured, never merged"


@pytest.mark.parametrize("call_seconds", [1e-4, 0.05, 3.0])
def test_warming_up_keeps_to_its_box_and_always_gives_a_model(call_seconds: float) -> None:
    """A slow model would otherwise hold up the start for minutes; an empty grid cannot be fitted."""
    now = 0.0
    shapes = []

    def measure(rows: int, longest: int) -> float:
        nonlocal now
        shapes.append((rows, longest))
        now += rows * call_seconds * longest / 64
        return rows * call_seconds * longest / 64

    costs = warm_up(measure, 128, box_seconds=0.5, clock=lambda: now)
    assert costs.seconds(1, 64) == pytest.approx(call_seconds, rel=0.2)
    assert now <= max(0.5, 4 * call_seconds) + 8 * call_seconds
    assert {(1, 8), (1, 32), (1, 64), (1, 128)} <= set(shapes)


def test_the_first_call_of_a_shape_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It allocates: the model would look slower than it ever will be again."""
    seen: set[tuple[int, int]] = set()

    def measure(rows: int, longest: int) -> float:
        is_first = (rows, longest) not in seen
        seen.add((rows, longest))
        return (100 if is_first else 1) * 1e-5 * rows * longest

    costs = warm_up(measure, 128, clock=lambda: 0.0)
    assert costs.seconds(1, 100) == pytest.approx(1e-3, rel=0.01)


def test_a_noisy_cpu_still_gives_a_useful_model() -> None:
    """The minimum of several measurements: other processes only ever add time."""
    generator = random.Random(0)
    law = CostModel(2e-4, 3e-5, 1e-8)

    def measure(rows: int, longest: int) -> float:
        return law.seconds(rows, longest) * generator.uniform(1, 1.5)

    costs = warm_up(measure, 128, clock=lambda: 0.0)
    for length in (10, 50, 120):
        assert costs.seconds(1, length) == pytest.approx(law.seconds(1, length), rel=0.5)
