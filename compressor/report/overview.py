"""The models of a report side by side: what each is, how large, how good and how quick.

The headline, the plot and the tables read the report through this view only, so that they cannot disagree.
Every part of a report may be missing (stored predictions have no teacher model, a run may not have been
timed); what is missing is None here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compressor.report.wording import is_known, known, number_of

Kind = Literal["teacher", "student", "artifact", "control"]
CONTROLS = {
    "none": "the same student, trained on the labels alone",
    "kd": "the same student, trained with plain distillation (kd)",
}


@dataclass(frozen=True)
class Score:
    """A task's figure on the test split with the ends of its 95% interval."""

    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class OperatingPoint:
    """Where latencies are compared."""

    device: str
    threads: int
    batch_size: int

    def __str__(self) -> str:
        device = {"cpu": "CPU", "cuda": "CUDA"}.get(self.device, self.device)
        return f"batch {self.batch_size}, {number_of(self.threads, f'{device} thread')}"


@dataclass(frozen=True)
class Variant:
    """One model that a reader may choose between.

    Attributes:
        kind: teacher, student (both in torch), artifact (a file of the bundle) or control.
        name: short and unique within the report.
        what: what it is, in a few words.
        scores: by task; tasks without a figure are absent.
        p50_ms: median time of one call at the operating point, None where it was not timed.
        is_default: whether the bundle serves it unless told otherwise.
        precision: of an artifact, empty otherwise.
        members: models that answer together; the time is that of one.
    """

    kind: Kind
    name: str
    what: str
    num_bytes: int | None
    parameters: int | None
    scores: Mapping[str, Score]
    p50_ms: float | None = None
    is_default: bool = False
    precision: str = ""
    members: int = 1


@dataclass(frozen=True)
class Overview:
    """All variants of a report and the two between which its headline speaks.

    Attributes:
        variants: teacher, student, artifacts, controls, in this order.
        answer: what the run recommends: the default artifact, else the first one, else the student.
        baseline: what a speed-up is measured against: the torch teacher, unpadded, at its quickest
            setting; the torch student where no teacher model was timed.
        point: where the latencies were taken; None when nothing was timed.
    """

    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    answer: Variant
    baseline: Variant | None
    point: OperatingPoint | None

    def of_kind(self, kind: Kind) -> list[Variant]:
        """The variants of one kind."""
        return [variant for variant in self.variants if variant.kind == kind]

    @property
    def teacher(self) -> Variant | None:
        """The teacher, where the report has one."""
        return next(iter(self.of_kind("teacher")), None)

    def speed_up(self, variant: Variant) -> float | None:
        """How many times quicker than the baseline; None when either was not timed."""
        if self.baseline is None or not self.baseline.p50_ms or not variant.p50_ms:
            return None
        return self.baseline.p50_ms / variant.p50_ms


def table_rows(report: Mapping[str, Any]) -> list[Variant]:
    """The rows of the comparison table, typed; `comparison.comparison_table` is the same as text."""
    return list(overview(report).variants)


def overview(report: Mapping[str, Any]) -> Overview:
    """Read the models of a report."""
    measurements: Sequence[Mapping[str, Any]] = report.get("measurements") or []
    point = _operating_point(measurements)
    timed = [m for m in measurements if point and _point(m) == point and is_known(m.get("p50_ms"))]
    teacher, student = _teacher(report, timed), _student(report, timed)
    artifacts = [_artifact(report, artifact, timed) for artifact in report.get("artifacts") or []]
    controls = [_control(name, facts) for name, facts in (report.get("controls") or {}).items()]
    return Overview(
        tasks=tuple(report.get("tasks") or {}),
        variants=(*([teacher] if teacher else []), student, *artifacts, *controls),
        answer=next((a for a in artifacts if a.is_default), artifacts[0] if artifacts else student),
        baseline=next((v for v in (teacher, student) if v and v.p50_ms), None),
        point=point,
    )


def scores_of(tasks: Mapping[str, Any] | None) -> dict[str, Score]:
    """The judged figure of every task that has one."""
    return {
        task: Score(facts.get("metric") or "", facts["value"], known(facts.get("low")), known(facts.get("high")))
        for task, facts in (tasks or {}).items()
        if facts and is_known(facts.get("value"))
    }


def _point(measurement: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(measurement["device"], measurement["threads"], measurement["batch_size"])


def _operating_point(measurements: Sequence[Mapping[str, Any]]) -> OperatingPoint | None:
    """One text per call on one CPU thread, or what comes nearest of what was timed."""
    points = {_point(measurement) for measurement in measurements}
    return min(points, key=lambda p: (p.device != "cpu", p.batch_size, p.threads, p.device), default=None)


def _quickest(timed: Sequence[Mapping[str, Any]], **wanted: str) -> float | None:
    found = [m["p50_ms"] for m in timed if all(m.get(key) == value for key, value in wanted.items())]
    return min(found, default=None)


def _teacher(report: Mapping[str, Any], timed: Sequence[Mapping[str, Any]]) -> Variant | None:
    facts = report.get("teacher")
    if not facts:
        return None
    is_stored = facts.get("kind") == "predictions"
    members = facts.get("members") or 1
    note = _members_in_words(members) + _apart_in_words(timed)
    return Variant(
        kind="teacher",
        name="teacher" if facts.get("count", 1) == 1 else f"{facts['count']} teachers",
        what="stored predictions, no model" if is_stored else _described(facts, "torch") + note,
        num_bytes=facts.get("bytes"),
        parameters=facts.get("parameters"),
        scores=scores_of(facts.get("tasks")),
        p50_ms=_teacher_time(timed),
        members=members,
    )


def _teacher_time(timed: Sequence[Mapping[str, Any]]) -> float | None:
    """Time of one call; teachers that read different tokens are timed one by one, and their times added up."""
    together = _quickest(timed, variant="teacher", runtime="torch")
    apart = _apart(timed)
    if together is not None or not apart:
        return together
    return sum(_quickest(timed, variant=name, runtime="torch") or 0.0 for name in apart)


def _apart(timed: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({str(m["variant"]) for m in timed if str(m["variant"]).startswith("teacher-")})


def _members_in_words(members: int) -> str:
    return f"; {members} of them answer together, one was timed" if members > 1 else ""


def _apart_in_words(timed: Sequence[Mapping[str, Any]]) -> str:
    return "; timed one by one, the sum is shown" if _apart(timed) else ""


def _student(report: Mapping[str, Any], timed: Sequence[Mapping[str, Any]]) -> Variant:
    facts = report.get("student") or {}
    return Variant(
        kind="student",
        name="student",
        what=_described({**facts, "model": None}, "torch"),
        num_bytes=facts.get("bytes"),
        parameters=facts.get("parameters"),
        scores=scores_of(facts.get("tasks")),
        p50_ms=_quickest(timed, variant="student", runtime="torch"),
    )


def _artifact(report: Mapping[str, Any], facts: Mapping[str, Any], timed: Sequence[Mapping[str, Any]]) -> Variant:
    precision = facts["precision"]
    is_default = bool(facts.get("is_default"))
    return Variant(
        kind="artifact",
        name=f"student, ONNX {precision}",
        what=f"{facts.get('file') or 'bundle'}{', served by default' if is_default else ''}",
        num_bytes=facts.get("bytes"),
        parameters=(report.get("student") or {}).get("parameters"),
        scores=scores_of(facts.get("tasks")),
        p50_ms=_quickest(timed, variant="bundle", precision=precision),
        is_default=is_default,
        precision=precision,
    )


def _control(name: str, facts: Mapping[str, Any]) -> Variant:
    return Variant(
        kind="control",
        name=f"control: {name}",
        what=CONTROLS.get(name, f"the same student, trained with {name}"),
        num_bytes=facts.get("bytes"),
        parameters=facts.get("parameters"),
        scores=scores_of(facts.get("tasks")),
    )


def _described(facts: Mapping[str, Any], runtime: str) -> str:
    paths = str(facts.get("model") or "").split(", ")
    model = " and ".join(path.rstrip("/").rpartition("/")[2] for path in paths)
    layers = number_of(facts["layers"], "layer") if facts.get("layers") else ""
    return ", ".join(part for part in (model, layers, runtime) if part)
