"""The plan: what is named before the run, and what may be changed after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.comparison.arms import Arm, arms_from_text
from compressor.comparison.cells import cell_recipe, cells_of
from compressor.comparison.plan import Comparison, Plan, Threads, extended, main_comparison, read_plan
from compressor.recipe_file import build_recipe
from serving.errors import UserError

TASK = {"data": "supportdesk", "text": "text", "label": "intent"}


def make(methods: str = "none,kd,swa", **changes: Any) -> Plan:
    recipe = build_recipe({"name": "desk", "tasks": {"intent": TASK, "domain": {**TASK, "label": "domain"}}})
    arms = tuple(arms_from_text(methods))
    main = main_comparison(None, arms, list(recipe.tasks))
    return replace(Plan(recipe, arms, (0, 1), None, main, Threads(1, 2)), **changes)


def test_the_main_comparison_is_the_first_method_that_is_no_control() -> None:
    """Prevents a main comparison that depends on anything but the call."""
    assert make().main == Comparison("swa", "none", "intent")
    assert make("none,kd").main == Comparison("kd", "none", "intent")
    arms = arms_from_text("none,kd,sda:k=all")
    for text in ("sda(k=all):kd@domain", "sda:k=all:kd@domain"):
        assert main_comparison(text, arms, ["intent", "domain"]) == Comparison("sda(k=all)", "kd", "domain")


def test_every_pair_is_compared_once_and_the_main_one_is_not_in_the_family() -> None:
    """Prevents a comparison outside of the correction, and one that is counted twice."""
    found = make().comparisons
    pairs = [(c.method, c.baseline) for c in found if c.task == "intent"]
    assert pairs == [("swa", "none"), ("kd", "none"), ("swa", "kd")]
    assert len(found) == 6 == len(set(found))
    assert make().family == found[1:]


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Prevents a second call that takes its own plan for another recipe's."""
    plan = replace(make("none,sda:k=all,kd:alpha=0.5"), train_rows=30).recorded(0)
    plan = replace(plan, arms=(*plan.arms, Arm("long", {"none": {}}, {"training.epochs": 3})))
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan
    assert read_plan(tmp_path / "other") is None


def test_what_is_decided_after_results_is_known_as_late() -> None:
    """Prevents arms, seeds and a main comparison chosen after results from looking planned."""
    first = make().recorded(0)
    assert first.late == {"arms": [], "seeds": [], "main": []}
    assert first.recorded(6) is first  # the same call again changes nothing
    more = replace(first, arms=(*first.arms, *arms_from_text("se")), seeds=(0, 1, 2)).recorded(6)
    assert more.late == {"arms": ["se"], "seeds": [2], "main": []}
    renamed = replace(more, main=Comparison("se", "none", "intent")).recorded(9)
    assert renamed.late["main"] == [{"method": "se", "baseline": "none", "task": "intent"}]
    before = replace(first, seeds=(0, 1, 2)).recorded(0)
    assert before.late["seeds"] == []  # nothing was finished yet


def test_the_main_comparison_stays_once_something_is_finished() -> None:
    """Prevents picking the winner and calling it the plan."""
    old, other = make(), Comparison("kd", "none", "intent")
    new = make(main=other, seeds=(1, 2))

    def extend(done: int, rename: bool = False, given: bool = True) -> Plan:
        return extended(old, new, finished_cells=done, rename_main=rename, main_given=given)

    with pytest.raises(UserError, match="would be chosen after results"):
        extend(1)
    assert extend(0).main == extend(1, rename=True).main == other
    assert extend(1, given=False).main == old.main
    assert extend(0).seeds == (0, 1, 2)


def test_cells_differ_in_what_they_should_and_nothing_else() -> None:
    """Prevents arms of one seed with different data orders, subsets or threads."""
    plan = make(train_rows=30, threads=Threads(3, 4))
    arm = Arm("long", {"swa": {}}, {"training.epochs": 9, "training.threads": 2})
    control, changed = cell_recipe(plan, plan.arms[0], 1), cell_recipe(plan, arm, 1)
    assert control.order_seed == changed.order_seed == 1
    assert {task.train_rows_seed for task in (*control.tasks.values(), *changed.tasks.values())} == {1}
    assert {task.train_rows for task in control.tasks.values()} == {30}
    assert (control.training.threads, control.teacher.threads) == (3, 4)
    assert (changed.training.threads, changed.training.epochs) == (2, 9)
    assert changed.method == {"swa": {}}
    assert changed.tasks == control.tasks
    assert cell_recipe(make(), plan.arms[0], 1).tasks["intent"].train_rows_seed == 0


def test_cells_go_seed_by_seed_and_an_impossible_arm_names_itself(tmp_path: Path) -> None:
    """Prevents an interrupted comparison with one method finished and no pair."""
    names = [cell.folder.name for cell in cells_of(make(), tmp_path, tmp_path / "stages")]
    assert names == ["none-0", "kd-0", "swa-0", "none-1", "kd-1", "swa-1"]
    arms = (*make().arms, Arm("long", {"none": {}}, {"training.epochs": 0}))
    with pytest.raises(UserError, match=r"arm 'long': training\.epochs"):
        cells_of(make(arms=arms), tmp_path, tmp_path / "stages")
