"""The page's smaller sections as tables of text: gates, parity, controls, latency, data and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from compressor.report.overview import Overview
from compressor.report.table import Table, score_text, score_title
from compressor.report.wording import (
    MISSING,
    compact,
    count,
    duration,
    interval,
    is_known,
    plain_metric,
)

_GATES = {
    "export_tokens": "texts that the bundle's tokenizer turns into other inputs than the student's own",
    "export_logit_difference": "largest logit difference between fp32 graph and torch",
    "export_weights": "weights of the torch student that do not stand in the graph bit for bit",
    "batch_invariance": "largest logit difference of a text alone and the same text in company",
    "quantisation_metric_drop": "metric lost against the fp32 student on validation",
    "teacher_metric_drop": "metric lost against the teacher on validation",
    "worst_slice_drop": "right answers lost against the fp32 student in the worst class or length of validation",
}
_VERDICTS = {"passed": "✓ passed", "failed": "✗ failed", "inconclusive": "? inconclusive"}

Report = Mapping[str, Any]


def gates_table(report: Report) -> Table | None:
    """Every gate with its limit, what was measured and the verdict."""
    gates = _joined(report.get("gates") or [])
    rows = tuple(
        (
            _VERDICTS.get(gate["verdict"], gate["verdict"]),
            ": ".join(filter(None, (gate["name"], _GATES.get(gate["name"])))),
            gate.get("task") or MISSING,
            gate.get("artifact") or MISSING,
            compact(gate.get("limit")),
            compact(gate.get("measured")),
            _compact_interval(gate),
        )
        for gate in gates
    )
    columns = ("verdict", "gate", "task", "artifact", "limit", "measured", "95% interval")
    return Table(columns, rows, text_columns=4, marks=tuple(g["verdict"] for g in gates)) if rows else None


def _joined(gates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Gates in rows: one that every task of an artifact passed is one row, its worst; any other has a row per task."""
    groups: dict[tuple[str, str | None], list[Mapping[str, Any]]] = {}
    for gate in gates:
        groups.setdefault((gate["name"], gate.get("artifact")), []).append(gate)
    shown: list[Mapping[str, Any]] = []
    for group in groups.values():
        if len(group) == 1 or any(gate["verdict"] != "passed" for gate in group):
            shown += group
            continue
        worst = max(group, key=lambda gate: gate["measured"] if gate.get("high") is None else gate["high"])
        shown.append({**worst, "task": f"all {len(group)}, worst: {worst['task']}"})
    return shown


def _compact_interval(gate: Mapping[str, Any]) -> str:
    low, high = gate.get("low"), gate.get("high")
    known = low is not None and high is not None and low != high
    return f"[{compact(low)}, {compact(high)}]" if known else MISSING


def controls_table(report: Report, view: Overview) -> Table | None:
    """The torch student and its controls on the same test texts; None without controls."""
    controls = view.of_kind("control")
    if not controls:
        return None
    method = " + ".join((report.get("student") or {}).get("method") or {}) or "student"
    compared = [(f"student: {method}", "what this run is about", view.of_kind("student")[0].scores)]
    compared += [(c.name, c.what, c.scores) for c in controls]
    metrics = {task: score.metric for _, _, scores in compared for task, score in scores.items()}
    return Table(
        columns=(
            "training",
            "what it is",
            *(score_title(task, metrics.get(task, ""), is_only=len(view.tasks) == 1) for task in view.tasks),
        ),
        rows=tuple((name, what, *(score_text(scores.get(t)) for t in view.tasks)) for name, what, scores in compared),
        text_columns=2,
    )


def data_table(report: Report) -> Table:
    """Rows and dropped rows per task."""
    splits = ("train", "validation", "test", "unlabelled", "source")
    rows = tuple(
        (
            task,
            facts.get("type") or MISSING,
            " + ".join(facts.get("text_columns") or []) or MISSING,
            count(len(facts["labels"])) if facts.get("labels") else MISSING,
            *(count((facts.get("rows") or {}).get(split)) for split in splits),
            _dropped(facts.get("dropped") or {}),
        )
        for task, facts in (report.get("tasks") or {}).items()
    )
    return Table(("task", "type", "text", "labels", *splits, "dropped"), rows, text_columns=3)


def _dropped(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{number} ({split})" for split, number in dropped.items() if number) or "none"


def notices(report: Report) -> list[str]:
    """What the preparation of the data had to say, each thing once."""
    tasks = report.get("tasks") or {}
    return list(dict.fromkeys(notice for facts in tasks.values() for notice in facts.get("notices") or []))


def warm_start(report: Report) -> list[str]:
    """Which heads were taken from an earlier student, a sentence per task; empty where nothing was."""
    return [_head(head) for head in (report.get("warm_start") or {}).get("heads") or []]


def _head(head: Mapping[str, Any]) -> str:
    what = "head taken along" if head["is_copied"] else "fresh head"
    return f"{head['task']}: " + ", ".join(filter(None, (what, head["detail"])))


def metrics_table(report: Report) -> Table | None:
    """Every metric, beside the one that a task is judged by."""
    rows = tuple(
        (
            task,
            plain_metric(metric),
            *(_metric(report.get(model), task, metric) for model in ("student", "teacher")),
        )
        for task, facts in ((report.get("student") or {}).get("tasks") or {}).items()
        for metric in (facts or {}).get("metrics") or {}
    )
    return Table(("task", "metric", "student", "teacher"), rows, text_columns=2) if rows else None


def _metric(model: Mapping[str, Any] | None, task: str, metric: str) -> str:
    facts = ((((model or {}).get("tasks") or {}).get(task) or {}).get("metrics") or {}).get(metric)
    if not facts or not is_known(facts.get("value")):
        return MISSING
    return f"{facts['value']:.3f} {interval(facts.get('low'), facts.get('high'))}".strip()


def examples_table(report: Report) -> Table | None:
    """Texts and what the bundle answered."""
    tasks = list(report.get("tasks") or {})
    rows = tuple(
        (" ⟷ ".join(example["text"]), *(_answer(example["answers"].get(task)) for task in tasks))
        for example in report.get("examples") or []
    )
    return Table(("text", *tasks), rows, text_columns=1 + len(tasks)) if rows else None


def _answer(answer: Mapping[str, Any] | None) -> str:
    if not answer:
        return MISSING
    if "value" in answer:
        return compact(answer["value"])
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "no label"
    return f"{answer['label']} ({answer['score']:.2f})" if "score" in answer else str(answer["label"])


def recipe_yaml(report: Report) -> str:
    """The recipe as it would stand in a file."""
    return yaml.safe_dump(report.get("recipe") or {}, sort_keys=False, allow_unicode=True, width=88)


def stages_table(report: Report) -> Table | None:
    """What was run, in order, and for how long."""
    rows = tuple(
        (
            stage["name"],
            stage.get("key") or MISSING,
            duration(stage.get("seconds")) if stage.get("seconds") != 0 else "reused",
        )
        for stage in report.get("stages") or []
    )
    return Table(("stage", "key", "time"), rows, text_columns=2) if rows else None
