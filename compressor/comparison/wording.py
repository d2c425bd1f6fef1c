"""A comparison in words and cells: the same on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.comparison.results import GAIN, LOSS, NO_CLAIM, NO_EVIDENCE
from compressor.report.table import Table, score_title
from compressor.report.wording import (
    MISSING,
    compact,
    count,
    duration,
    figure,
    listed,
    millions,
    number_of,
    plain_metric,
)

Found = Mapping[str, Any]


def arms_table(result: Found, task: str) -> Table:
    """One row per arm on one task: mean, spread, differences to the controls, cost."""
    baselines = [arm["label"] for arm in result["arms"] if arm["is_control"]]
    columns = [
        "method",
        score_title(task, result["tasks"].get(task, {}).get("metric", ""), is_only=True),
        "spread",
        *(name for baseline in baselines for name in (f"difference to {baseline}", "could see")),
    ]
    rows = [
        (
            arm["label"],
            figure(_task(arm, task).get("mean")),
            figure(_task(arm, task).get("spread")),
            *(cell for baseline in baselines for cell in _against(result, arm["label"], baseline, task)),
            *_cost(arm),
        )
        for arm in result["arms"]
    ]
    marks = tuple("control" if arm["is_control"] else _mark(result, arm["label"], task) for arm in result["arms"])
    return Table((*columns, "runs", "epochs", "training", "seeds"), tuple(rows), marks=marks)


def _task(arm: Found, task: str) -> Found:
    found: Found = arm["tasks"].get(task) or {}
    return found


def _mark(result: Found, label: str, task: str) -> str:
    main = result["protocol"]["main"]
    return "default" if (main["method"], main["task"]) == (label, task) else ""


def _against(result: Found, label: str, baseline: str, task: str) -> tuple[str, str]:
    found = comparison_of(result, label, baseline, task)
    if found is None or "difference" not in found:
        return MISSING, MISSING
    word = f" {found['verdict']}" if found["verdict"] in (GAIN, LOSS) else ""
    return f"{difference_text(found)}{word}", figure(found["smallest_visible"])


def _cost(arm: Found) -> tuple[str, str, str, str]:
    return compact(arm["runs"]), compact(arm["epochs"]), duration(arm["seconds"]), count(len(arm["seeds"]))


def comparison_of(result: Found, method: str, baseline: str, task: str) -> Found | None:
    """The entry of `comparisons` for a pair, or None for a method against itself or `none`."""
    wanted = {"method": method, "baseline": baseline, "task": task}
    entries: Sequence[Found] = result["comparisons"]
    return next((entry for entry in entries if wanted.items() <= entry.items()), None)


def main_of(result: Found) -> Found:
    """The main comparison's entry."""
    return next(entry for entry in result["comparisons"] if entry["role"] == "main")


def difference_text(found: Found) -> str:
    """`+0.012 [-0.003, +0.027]`."""
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def verdict_text(found: Found) -> str:
    """The verdict with what could have been seen where nothing was."""
    if found["verdict"] == NO_EVIDENCE:
        visible = found["smallest_visible"]
        return f"{NO_EVIDENCE} ({f'could have seen {figure(visible)}' if visible else 'nothing varied'})"
    if found["verdict"] == NO_CLAIM:
        return "one seed allows no claim"
    return str(found["verdict"])


def headline(result: Found) -> str:
    """The main comparison in one sentence."""
    found = main_of(result)
    pair = f"{found['method']} against {found['baseline']} on {found['task']}"
    if "difference" not in found:
        return f"{pair} could not be compared: no seed of both is finished."
    metric = plain_metric(result["tasks"][found["task"]]["metric"])
    return f"{pair}: {metric} {difference_text(found)} over {number_of(found['seeds'], 'seed')}: {verdict_text(found)}."


def protocol(result: Found) -> list[str]:
    """How the figures came about and what they allow, a sentence each."""
    rules, seeds = result["protocol"], result["seeds"]
    subset = f" and {result['train_rows']} labelled rows of its own per task" if result["train_rows"] else ""
    main = rules["main"]
    when = "when results were there" if rules["late"]["main"] else "before the first training"
    sentences = [
        f"{number_of(len(seeds), 'seed')}: every seed has its own data order and dropout{subset}, shared by all "
        "methods; the initial weights, the teacher's settings and the test texts are the same throughout.",
        "A difference is the mean over the seeds of the paired differences on the test split. Its 95% interval covers "
        "another draw of the seeds and of the test texts together (crossed variance, t with seeds - 1 degrees of "
        "freedom).",
        f"The main comparison, {main['method']} against {main['baseline']} on {main['task']}, was named {when} "
        f"and is judged at a level of {rules['level']} of its own. The other {rules['family']} share that level "
        "by Holm's correction: an interval that excludes zero may still be no evidence among so many.",
        f"'Could see' is the true difference that would have been found with a probability of {rules['power']:.0%}, at "
        "the level that the comparison is judged by (for one of the others, that of Holm's smallest p-value).",
        "Training time is the mean per seed of the student's stages, all runs of a method counted, the teacher apart"
        + (f"; {rules['jobs']} at a time shared the machine." if rules["jobs"] > 1 else "."),
    ]
    return [sentences[0], *_late(rules), *sentences[1:]]


def _late(rules: Found) -> list[str]:
    """What was decided after results could be seen."""
    late, found = rules["late"], []
    if late["main"]:
        found.append("Post hoc: the main comparison was changed when results were there, so its level is not kept.")
    if late["arms"]:
        found.append(f"Added when results were there: {listed(list(late['arms']))}; Holm's family grew with them.")
    if late["seeds"]:
        found.append(
            f"Added when results were there: the seeds {listed([str(seed) for seed in late['seeds']])}. Adding seeds "
            "until something shows makes false gains likelier than 5%."
        )
    return found


def seeds_table(result: Found, task: str) -> Table:
    """Every value: a row per arm, a column per seed."""
    seeds = [str(seed) for seed in result["seeds"]]
    rows = tuple(
        (arm["label"], *(figure((_task(arm, task).get("per_seed") or {}).get(seed)) for seed in seeds))
        for arm in result["arms"]
    )
    return Table(("method", *(f"seed {seed}" for seed in seeds)), rows)


def comparisons_table(result: Found) -> Table:
    """Every comparison with its p-values and verdict."""
    rows = tuple(
        (
            entry["role"],
            f"{entry['method']} against {entry['baseline']}",
            entry["task"],
            verdict_text(entry),
            difference_text(entry) if "difference" in entry else MISSING,
            compact(entry.get("p_value")),
            compact(entry.get("judged_p_value")),
        )
        for entry in result["comparisons"]
    )
    columns = ("role", "comparison", "task", "verdict", "difference", "p", "p, corrected")
    return Table(columns, rows, text_columns=4, marks=tuple(_verdict_mark(entry) for entry in result["comparisons"]))


def _verdict_mark(entry: Found) -> str:
    return "default" if entry["role"] == "main" else ""


def cost_table(result: Found) -> Table:
    """What every arm was allowed, so that unequal budgets are seen, and its size."""
    rows = tuple(
        (
            arm["label"],
            _changes(arm),
            compact(arm["runs"]),
            count(arm["steps"]),
            compact(arm["epochs"]),
            _time(arm),
            millions(arm["parameters"]),
        )
        for arm in result["arms"]
    )
    columns = ("method", "other than the recipe", "runs", "steps", "epochs", "time per seed", "parameters")
    return Table(columns, rows, text_columns=2)


def _changes(arm: Found) -> str:
    own = ["a student per task"] if arm["is_single"] else []
    return ", ".join([*own, *(f"{key}: {value}" for key, value in arm["set"].items())]) or "nothing"


def _time(arm: Found) -> str:
    return duration(arm["seconds"])


def added_table(result: Found) -> Table | None:
    """The texts that methods added, a row per method and task; None where no method did."""
    rows = tuple(
        (
            arm["label"],
            task,
            _range([seed["candidates"] for seed in seeds.values()]),
            _range([seed["kept"] for seed in seeds.values()]),
            ", ".join(f"{seed['share']:.0%}" for seed in seeds.values() if seed["share"] is not None) or MISSING,
            ", ".join(f"{seed['rho']:.2f}" for seed in seeds.values() if seed["rho"] is not None) or MISSING,
        )
        for arm in result["arms"]
        for task, seeds in arm["added"].items()
    )
    columns = (
        "method",
        "task",
        "texts to choose from",
        "texts read",
        "share kept, per seed",
        "rank correlation, per seed",
    )
    return Table(columns, rows, text_columns=2) if rows else None


def _range(numbers: Sequence[int]) -> str:
    """One number, or the least and the most of several."""
    low, high = min(numbers), max(numbers)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def teachers_table(result: Found) -> Table | None:
    """The teachers, their figures and seconds; None where no arm has one."""
    rows = tuple(
        (
            _taught(teacher),
            figure(teacher["value"]),
            f"[{figure(teacher['low'])}, {figure(teacher['high'])}]",
            duration(teacher["seconds"]),
        )
        for teacher in result["teachers"]
    )
    return Table(("teacher for", "value", "95% interval over texts", "training"), rows) if rows else None


def _taught(teacher: Found) -> str:
    """The task, the tasks whose training is the same one, and the number of folds."""
    notes = [f"one training with {listed(teacher['trained_with'])}"] if teacher["trained_with"] else []
    notes += [f"and {teacher['folds']} folds"] if teacher["folds"] else []
    return f"{teacher['task']} ({', '.join(notes)})" if notes else str(teacher["task"])
