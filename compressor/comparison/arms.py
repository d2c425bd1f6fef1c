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
CONTROLS = (NONE, KD)
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
    """

    label: str
    method: dict[str, Knobs]
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        """The label as a part of a file name: letters, digits and `.+=_-` only."""
        return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", self.label).strip("_.") or "arm"

    @property
    def is_control(self) -> bool:
        """Whether other arms are compared with it."""
        return self.label in CONTROLS


def arms_from_text(text: str) -> list[Arm]:
    """The arms of `--methods`: `none,kd,swa,sda:k=all,kd+swa`; a comma inside brackets belongs to a value."""
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


def _arm_of(entry: object, label: str | None) -> Arm:
    origin = f"arm '{label if label is not None else entry}'"
    if not isinstance(entry, Mapping):
        entry = {"method": entry}
    unknown = [str(key) for key in entry if key not in _ENTRIES]
    if unknown or "method" not in entry:
        problem = f"no entry '{unknown[0]}'" if unknown else "'method' is missing"
        raise UserError(f"{origin}: {problem}. Expected {{method: swa, set: {{training.epochs: 3}}}}, 'set' if wanted.")
    try:
        given = entry["method"]
        method = parse_method_text(given) if isinstance(given, str) else parse_method(given)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from error
    return Arm(label_of(method) if label is None else label, method, _changes(entry.get("set"), origin))


def _changes(raw: object, origin: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise UserError(f"{origin}: 'set' is {raw!r}. Expected dotted keys and values, e.g. {{training.epochs: 3}}.")
    for key in raw:
        reason = _OURS.get(str(key).split(".")[0]) or _OURS.get(str(key).split(".")[-1])
        if reason:
            raise UserError(f"{origin} sets '{key}': {reason}. Leave it out.")
    return {str(key): value for key, value in raw.items()}


def with_controls(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Arms with `none` first, and `kd` second where any arm has a teacher; what is added is said.

    Raises:
        UserError: a label stands twice, two labels give one folder, a control's label has another method, or
            there is nothing beside `none`.
    """
    named = {arm.label: arm for arm in arms}
    if len(named) < len(arms):
        twice = next(label for label in named if [arm.label for arm in arms].count(label) > 1)
        raise UserError(f"the arm '{twice}' stands twice. Name it once.")
    wanted = [NONE] + ([KD] if any(needs_teacher(arm.method) for arm in arms) else [])
    for label in wanted:
        if label not in named:
            announce(f"added the control '{label}'")
    controls = {label: named.pop(label, Arm(label, {label: {}})) for label in wanted}
    found = (*controls.values(), *named.values())
    _check(found)
    return found


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
        if arm.is_control and arm.method.keys() != {arm.label}:
            raise UserError(f"the arm '{arm.label}' has another method, but it is the control's name. Rename the arm.")
        other = folders.setdefault(arm.folder_name.lower(), arm.label)
        if other != arm.label:
            raise UserError(f"the arms '{other}' and '{arm.label}' would share a folder. Rename one of them.")
