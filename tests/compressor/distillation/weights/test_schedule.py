"""Learning rates by step: the ordinary schedule, and the one with a constant tail."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from compressor.distillation.weights.schedule import ConstantTail, Linear, Schedule, first_step
from serving.errors import UserError


def shares(schedule: Schedule, num_steps: int, warmup_steps: int) -> list[float]:
    return [schedule.share(taken, num_steps=num_steps, warmup_steps=warmup_steps) for taken in range(num_steps + 1)]


@pytest.mark.parametrize(("num_steps", "warmup_steps"), [(10, 0), (10, 1), (100, 10), (7, 7), (1, 0), (333, 33)])
def test_the_ordinary_schedule_is_that_of_transformers_bit_for_bit(num_steps: int, warmup_steps: int) -> None:
    """Catches controls that no longer train as they always did."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, warmup_steps, num_steps)
    found: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the optimizer takes no step
        for _ in range(num_steps + 1):
            found.append(theirs.get_last_lr()[0])
            theirs.step()
    assert found == shares(Linear(), num_steps, warmup_steps)


def test_the_tail_is_exactly_constant_and_the_way_to_it_is_straight() -> None:
    """Catches a tail one step late, a kink before it and a learning rate that drifts within it."""
    found = shares(ConstantTail(0.5, 0.25), 100, 10)
    assert found[:11] == pytest.approx([step / 10 for step in range(11)])
    assert found[10:51] == pytest.approx([1.0 - 0.75 * step / 40 for step in range(41)])
    assert found[49] > 0.25
    assert found[50:] == [0.25] * 51
    assert max(found) == found[10] == 1.0


def test_a_tail_may_begin_with_the_first_step_or_right_after_the_warm_up() -> None:
    """Catches a division by zero at the edges."""
    assert shares(ConstantTail(0.0, 0.5), 4, 0) == [0.5] * 5
    assert shares(ConstantTail(0.5, 0.5), 4, 2) == [0.0, 0.5, 0.5, 0.5, 0.5]


def test_a_tail_inside_the_warm_up_is_refused_from_its_first_step_on() -> None:
    """Catches a learning rate that jumps from the middle of its rise to the tail's."""
    ConstantTail(0.5, 0.5).check(num_steps=4, warmup_steps=2)
    with pytest.raises(UserError, match=r"after step 2 of 4, inside the warm-up of 3 steps\. Raise swa"):
        ConstantTail(0.5, 0.5).check(num_steps=4, warmup_steps=3)


def test_the_phase_begins_at_the_floor_of_its_share() -> None:
    """Catches a rounded start, and 0.29 * 100 = 28.999999999999996 taken for 28."""
    assert [first_step(0.5, steps) for steps in (10, 11, 1)] == [5, 5, 0]
    assert first_step(0.29, 100) == 29
    assert first_step(0.999, 100) == 99
