"""What is compared: arms, each a method with changes to the recipe; the controls are always among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.distillation.presets import Knobs, label_of, needs_teacher, parse_method, parse_method_text
from compressor.progress import announce
from compressor.recipe_file import read_yaml
from serving.errors import UserError

NONE, KD = "none", "kd"
SINGLE = "@single"
NONE_SINGLE = f"{NONE}{SINGLE}"
# A control is compared with those before it: `none` against `none@single` says what sharing a student does.
CONTROLS = (NONE_SINGLE, NONE, KD)
_ENTRIES = ("method", "set")
_DRAWN = "compare gives every seed its own"
_OURS = {"method": "the arm has its own entry for it", "order_seed": _DRAWN, "train_rows_seed": _DRAWN}


@dataclass(frozen=True)
class Arm:
    """One row of the comparison.

    Attributes:
        label: what tables call it.
        method: as `presets.parse_method` returns it.
        changes: other values of the recipe's fields, by dotted key.
        is_single: whether every task has a student of its own.
    """

    label: str
    method: dict[str, Knobs]
    changes: dict[str, Any] = field(default_factory=dict)
    is_single: bool = False

    @property
    def folder_name(self) -> str:
        """The label as a part of a file name: letters, digits and `.+=_@-` only."""
        return re.sub(r"[^A-Za-z0-9.+=_@-]+", "_", self.label).strip("_.") or "arm"

    @property
    def is_control(self) -> bool:
        """Whether other arms are compared with it."""
        return self.label in CONTROLS


def arms_from_text(text: str) -> list[Arm]:
    """The arms of `--methods`: `none,kd@single,swa,sda:k=all,kd+swa`; a comma inside brackets belongs to a value."""
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
    if not all(parts):
        raise UserError(f"--methods '{text}' has an empty entry. Expected methods joined by commas, e.g. none,kd,swa.")
    return [_arm_of(part, None) for part in parts]


def arms_from_file(path: Path) -> list[Arm]:
    """The arms of `--arms FILE`: a YAML mapping of labels to `{method: ..., set: {training.epochs: 3}}` or to a method.

    Raises:
        UserError: the file is not there, not YAML, or an entry is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the arms file '{path}' cannot be read ({error}). Give a YAML file with --arms.") from error
    raw = read_yaml(text, origin=f"the arms file '{path}'")
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"the arms file '{path}' holds no arms. Expected 'LABEL: {{method: swa}}' for each.")
    return [_arm_of(entry, str(label)) for label, entry in raw.items()]


def label_in_text(text: str) -> str:
    """The label of an arm that is written as in `--methods`; ValueError where that is no method."""
    method, is_single = _parsed(text)
    return label_of(method) + (SINGLE if is_single else "")


def _arm_of(entry: object, label: str | None) -> Arm:
    origin = f"arm '{label if label is not None else entry}'"
    if not isinstance(entry, Mapping):
        entry = {"method": entry}
    unknown = [str(key) for key in entry if key not in _ENTRIES]
    if unknown or "method" not in entry:
        problem = f"no entry '{unknown[0]}'" if unknown else "'method' is missing"
        raise UserError(f"{origin}: {problem}. Expected {{method: swa, set: {{training.epochs: 3}}}}, 'set' if wanted.")
    try:
        method, is_single = _parsed(entry["method"])
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from error
    called = label_of(method) + (SINGLE if is_single else "")
    return Arm(called if label is None else label, method, _changes(entry.get("set"), origin), is_single)


def _parsed(given: object) -> tuple[dict[str, Knobs], bool]:
    """A method, and whether `@single` stands behind it."""
    if not isinstance(given, str):
        return parse_method(given), False
    text, at, students = given.rpartition("@")
    if at and f"{at}{students}" != SINGLE:
        raise ValueError(f"got '@{students}' behind a method, expected {SINGLE}: a student per task")
    return parse_method_text(text if at else given), bool(at)


def _changes(raw: object, origin: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise UserError(f"{origin}: 'set' is {raw!r}. Expected dotted keys and values, e.g. {{training.epochs: 3}}.")
    for key in raw:
        reason = _OURS.get(str(key).split(".")[0]) or _OURS.get(str(key).split(".")[-1])
        if key == "student.tasks":
            reason = f"all arms answer the same tasks, and METHOD{SINGLE} gives each a student of its own"
        if reason:
            raise UserError(f"{origin} sets '{key}': {reason}. Leave it out.")
    return {str(key): value for key, value in raw.items()}


def with_controls(arms: Sequence[Arm], tasks: Sequence[str]) -> tuple[Arm, ...]:
    """Arms with their controls first; what is added is said.

    `none` is always there, `kd` where any arm has a teacher, and `none@single` where several tasks share a student by
    `bam` or any arm has a student per task.

    Raises:
        UserError: a label stands twice, two labels give one folder, a control's label has another method, a student
            per task where there is one task, or there is nothing beside `none`.
    """
    named = {arm.label: arm for arm in arms}
    if len(named) < len(arms):
        twice = next(label for label in named if [arm.label for arm in arms].count(label) > 1)
        raise UserError(f"the arm '{twice}' stands twice. Name it once.")
    wanted = _wanted_controls(arms, tasks)
    for label in wanted:
        if label not in named:
            announce(f"added the control '{label}'")
    controls = {label: named.pop(label, _control(label)) for label in wanted}
    found = (*controls.values(), *named.values())
    _check(found)
    return found


def _wanted_controls(arms: Sequence[Arm], tasks: Sequence[str]) -> list[str]:
    singles = [arm.label for arm in arms if arm.is_single]
    if singles and len(tasks) == 1:
        raise UserError(
            f"the arm '{singles[0]}' gives every task a student of its own, but there is one task, '{tasks[0]}'. "
            f"Leave {SINGLE} out."
        )
    has_shared_bam = len(tasks) > 1 and any("bam" in arm.method and not arm.is_single for arm in arms)
    single = [NONE_SINGLE] if singles or has_shared_bam else []
    return [NONE, *single, *([KD] if any(needs_teacher(arm.method) for arm in arms) else [])]


def _control(label: str) -> Arm:
    method = label.removesuffix(SINGLE)
    return Arm(label, {method: {}}, is_single=label.endswith(SINGLE))


def pairs(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Which labels are compared, each with its baseline: every arm with every control that does not come after it."""
    ranks = {label: rank for rank, label in enumerate(CONTROLS)}
    baselines = [arm.label for arm in arms if arm.is_control]
    return [
        (arm.label, baseline)
        for baseline in baselines
        for arm in arms
        if ranks.get(arm.label, len(CONTROLS)) > ranks[baseline]
    ]


def _check(arms: Sequence[Arm]) -> None:
    if len(arms) < 2:
        raise UserError("there is nothing to compare 'none' with. Give more methods, e.g. --methods none,kd,swa.")
    folders: dict[str, str] = {}
    for arm in arms:
        if any(knobs.get("of") for knobs in arm.method.values()):
            raise UserError(
                f"the arm '{arm.label}' joins finished students, which are the same for every seed. Leave 'of' out: "
                "compare trains the runs of every seed itself."
            )
        control = _control(arm.label)
        if arm.is_control and (arm.method.keys(), arm.is_single) != (control.method.keys(), control.is_single):
            raise UserError(f"the arm '{arm.label}' has another method, but it is the control's name. Rename the arm.")
        other = folders.setdefault(arm.folder_name.lower(), arm.label)
        if other != arm.label:
            raise UserError(f"the arms '{other}' and '{arm.label}' would share a folder. Rename one of them.")
