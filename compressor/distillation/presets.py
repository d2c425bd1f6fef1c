"""Method names of a recipe: presets over the places where methods act, and how they compose.

One literal mapping, read by the recipe's validation without importing torch. What a member computes
lives in its own file; `compressor.distillation.plan` joins the two.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Knobs = dict[str, Any]


@dataclass(frozen=True)
class GoldKnobs:
    """The control: gold labels only, nothing to set."""


@dataclass(frozen=True)
class KdKnobs:
    """Knowledge distillation: alpha * T^2 * KL(teacher || student) + (1 - alpha) * hard loss.

    Source of the loss: Hinton, Vinyals and Dean (2015), arXiv:1503.02531. The defaults are ours.

    Attributes:
        alpha: weight of the soft loss, in [0, 1]; 0 is the control `none`.
        temperature: softens both distributions, > 0.
    """

    alpha: float = field(default=0.7, metadata={"help": "weight of the soft loss, in [0, 1]"})
    temperature: float = field(default=2.0, metadata={"help": "softens both distributions, above 0"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"kd.alpha is {self.alpha}, expected a number in [0, 1]")
        if not self.temperature > 0.0:
            raise ValueError(f"kd.temperature is {self.temperature}, expected a number above 0")


@dataclass(frozen=True)
class Preset:
    """One method name.

    Attributes:
        knobs: the frozen dataclass that holds and checks its knobs.
        needs_teacher: whether it reads teacher targets.
        excludes: names that it cannot stand beside, with the reason.
    """

    knobs: type
    needs_teacher: bool
    excludes: Mapping[str, str]


_ONE_SUPERVISION = "both say what the hard and the soft loss weigh; choose one"

PRESETS: dict[str, Preset] = {
    "none": Preset(GoldKnobs, needs_teacher=False, excludes={"kd": _ONE_SUPERVISION}),
    "kd": Preset(KdKnobs, needs_teacher=True, excludes={"none": _ONE_SUPERVISION}),
}


def parse_method(value: object) -> dict[str, Knobs]:
    """Normalise a recipe's `method` to a mapping of names to checked knobs.

    Args:
        value: a name, a mapping of names to knobs, or a list of either.

    Raises:
        ValueError: an unknown name or knob (with the nearest choice), a knob out of range, an impossible combination.
    """
    methods: dict[str, Knobs] = {}
    for entry in value if isinstance(value, list) else [value]:
        for name, knobs in _entries(entry):
            if name in methods:
                raise ValueError(f"method '{name}' stands twice; name it once")
            methods[name] = _checked(name, knobs)
    if not methods:
        raise ValueError(f"no method given. Choose one of: {', '.join(PRESETS)}")
    for name in methods:
        for other, reason in PRESETS[name].excludes.items():
            if other in methods:
                raise ValueError(f"'{name}' and '{other}' cannot be combined: {reason}")
    return methods


def needs_teacher(methods: Mapping[str, Knobs]) -> bool:
    """Whether any of the methods reads teacher targets."""
    return any(PRESETS[name].needs_teacher for name in methods)


def _entries(entry: object) -> list[tuple[str, Knobs]]:
    if isinstance(entry, str):
        return [(entry, {})]
    if isinstance(entry, Mapping) and all((knobs is None or isinstance(knobs, Mapping)) for knobs in entry.values()):
        return [(str(name), dict(knobs or {})) for name, knobs in entry.items()]
    raise ValueError(
        f"got {entry!r}, expected a name (kd), a mapping with knobs ({{kd: {{temperature: 4}}}}) or a list of these"
    )


def _checked(name: str, knobs: Knobs) -> Knobs:
    if name not in PRESETS:
        raise ValueError(_unknown(f"no method '{name}'", name, list(PRESETS)))
    known = {f.name: f for f in fields(PRESETS[name].knobs)}
    for knob, value in knobs.items():
        if knob not in known:
            raise ValueError(_unknown(f"method '{name}' has no knob '{knob}'", knob, list(known)))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}.{knob} is {value!r}, expected a number")
    PRESETS[name].knobs(**knobs)
    return {knob: float(value) for knob, value in knobs.items()}


def _unknown(problem: str, name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1)
    return f"{problem}. Choose one of: {', '.join(choices) or '(none)'}." + (
        f" Did you mean {near[0]}?" if near else ""
    )
