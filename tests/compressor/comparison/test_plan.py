"""The plan: what is named before the run, and what may be changed after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.comparison.arms import Arm, arms_from_text, with_controls
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


def test_the_student_of_one_task_gets_the_texts_that_the_shared_one_has_for_it() -> None:
    """Catches '@single' that refills a task whose shared student has no texts for it, or loses those it has."""
    bank = {**TASK, "where": {"domain": "bank"}}
    tasks = {"intent": {**bank, "source": {"data": "supportdesk", "where": {"domain": "shop"}}}, "tone": {**bank}}
    tasks["tone"]["label"] = "sentiment"
    arms = tuple(arms_from_text("none,kd,kd+source@single,kd+refill:tasks=[tone]@single"))
    plan = make(recipe=build_recipe({"name": "desk", "tasks": tasks}), arms=arms)
    source, refill = (cell for cell in arms if cell.is_single)

    def methods(arm: Arm, task: str) -> dict[str, Any]:
        return cell_recipe(plan, arm, 0, task=task).method

    assert methods(source, "intent") == {"kd": {}, "source": {"tasks": ["intent"]}}
    assert methods(source, "tone") == {"kd": {}}
    assert methods(refill, "intent") == {"kd": {}}
    assert methods(refill, "tone") == {"kd": {}, "refill": {"tasks": ["tone"]}}
    assert cell_recipe(plan, source, 0, task="tone").student_tasks == ("tone",)


def test_cells_go_seed_by_seed_and_an_impossible_arm_names_itself(tmp_path: Path) -> None:
    """Prevents an interrupted comparison with one method finished and no pair."""
    names = [cell.folder.name for cell in cells_of(make(), tmp_path, tmp_path / "stages")]
    assert names == ["none-0", "kd-0", "swa-0", "none-1", "kd-1", "swa-1"]
    arms = (*make().arms, Arm("long", {"none": {}}, {"training.epochs": 0}))
    with pytest.raises(UserError, match=r"arm 'long': training\.epochs"):
        cells_of(make(arms=arms), tmp_path, tmp_path / "stages")


def test_the_main_comparison_may_name_students_per_task() -> None:
    """Prevents '@single' taken for the name of a task."""
    tasks = ["intent", "single"]
    arms = with_controls(arms_from_text("bam,kd@single"), tasks)
    for text, expected in {
        "bam:none@single": ("bam", "none@single", "intent"),
        "bam:none@intent": ("bam", "none", "intent"),
        "none:none@single": ("none", "none@single", "intent"),
        "kd@single:none@single@single": ("kd@single", "none@single", "single"),
        "kd@single:none": ("kd@single", "none", "intent"),
    }.items():
        assert main_comparison(text, arms, tasks) == Comparison(*expected)
    for wrong in ("none@single:none", "none:kd", "bam:bam", "bam", "none:none"):
        with pytest.raises(UserError, match="was not understood"):
            main_comparison(wrong, arms, tasks)
    with pytest.raises(UserError, match="no task 'mood'"):
        main_comparison("bam:none@single@mood", arms, tasks)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("bam,kd@single", ("bam", "none")),
        ("kd@single", ("kd@single", "none@single")),
        ("none@single", ("none", "none@single")),
        ("none@single,kd", ("kd", "none")),
    ],
)
def test_without_main_a_method_is_held_against_the_labels_of_its_own_kind(
    methods: str, expected: tuple[str, str]
) -> None:
    """Prevents a main comparison that mixes what a teacher does with what sharing a student does."""
    arms = with_controls(arms_from_text(methods), ["intent", "domain"])
    assert main_comparison(None, arms, ["intent", "domain"]) == Comparison(*expected, "intent")


def test_an_arm_with_a_student_per_task_has_a_run_per_task(tmp_path: Path) -> None:
    """Prevents single students on other splits, orders or labels than the shared one; a plan that forgets them."""
    plan = make("none,none@single,kd@single", train_rows=30)
    cells = {cell.arm: cell for cell in cells_of(plan, tmp_path, tmp_path / "stages") if cell.seed == 1}
    (shared,) = cells["none"].runs
    assert shared.folder == cells["none"].folder
    runs = cells["kd@single"].runs
    assert [run.folder.relative_to(tmp_path / "cells") for run in runs] == [
        Path("kd@single-1/intent"),
        Path("kd@single-1/domain"),
    ]
    assert [run.recipe.student_tasks for run in runs] == [("intent",), ("domain",)]
    for run in runs:
        assert run.recipe.tasks == shared.recipe.tasks
        assert (run.recipe.order_seed, run.recipe.training) == (1, shared.recipe.training)
        assert run.recipe.method == {"kd": {}}
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan


def test_a_task_without_teacher_has_a_single_student_of_labels(tmp_path: Path) -> None:
    """Prevents kd@single from failing on the one task that has no teacher, and a gate from stopping it."""
    recipe = build_recipe(
        {
            "name": "desk",
            "tasks": {"intent": TASK, "domain": {**TASK, "label": "domain", "teacher": "none"}},
            "gates": {"teacher_metric_drop": 0.1},
        }
    )
    plan = make("none,none@single,kd@single,kd+swa@single", recipe=recipe)
    cells = {cell.arm: cell for cell in cells_of(plan, tmp_path, tmp_path / "stages") if cell.seed == 0}
    assert [list(run.recipe.method) for run in cells["kd@single"].runs] == [["kd"], ["none"]]
    assert [list(run.recipe.method) for run in cells["kd+swa@single"].runs] == [["kd", "swa"], ["swa"]]


def test_threads_are_set_for_a_tasks_own_teacher_and_no_other(tmp_path: Path) -> None:
    """Prevents 'teacher: none' from becoming a teacher that has threads."""
    own = {**TASK, "label": "domain", "teacher": {"model": "m"}}
    none = {**TASK, "label": "mood", "teacher": "none"}
    recipe = build_recipe({"name": "desk", "tasks": {"intent": TASK, "domain": own, "mood": none}})
    found = cell_recipe(make("none,kd", recipe=recipe, threads=Threads(3, 4)), arms_from_text("kd")[0], 0)
    assert found.tasks["intent"].teacher is None
    assert found.own_teacher("domain").threads == 4  # type: ignore[union-attr]
    assert found.tasks["mood"].teacher == "none"


def test_comparisons_are_made_on_the_tasks_that_the_student_answers() -> None:
    """Prevents a family that grows by comparisons that nobody can make."""
    recipe = build_recipe(
        {
            "name": "desk",
            "tasks": {"intent": TASK, "domain": {**TASK, "label": "domain"}},
            "student": {"tasks": ["domain"]},
        }
    )
    found = make("none,kd", recipe=recipe, main=Comparison("kd", "none", "domain")).comparisons
    assert {comparison.task for comparison in found} == {"domain"}
