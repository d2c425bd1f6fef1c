"""Method names of a recipe: presets over the places where methods act, and how they compose.

One literal mapping, read by the recipe's validation without importing torch. What a member computes
lives in its own file; `compressor.distillation.plan` joins the two. The knobs stand in
`compressor.distillation.knobs`, the wording of their checks in `compressor.distillation.knob_types`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml

from compressor.distillation.augmentation.knobs import L2aKnobs, RefillKnobs, SourceKnobs
from compressor.distillation.knob_types import converted
from compressor.distillation.knobs import (
    AvgKnobs,
    BamKnobs,
    EmaKnobs,
    GoldKnobs,
    KdKnobs,
    SdaKnobs,
    SdvKnobs,
    SeKnobs,
    SwaKnobs,
    VoteKnobs,
)

__all__ = [
    "PRESETS",
    "AvgKnobs",
    "BamKnobs",
    "EmaKnobs",
    "GoldKnobs",
    "KdKnobs",
    "Knobs",
    "L2aKnobs",
    "Place",
    "Preset",
    "RefillKnobs",
    "SdaKnobs",
    "SdvKnobs",
    "SeKnobs",
    "SourceKnobs",
    "SwaKnobs",
    "VoteKnobs",
    "check_early_stopping",
    "file_label_of",
    "knobs_of",
    "label_of",
    "methods_at",
    "needs_teacher",
    "parse_method",
    "parse_method_text",
]

Knobs = dict[str, Any]
Place = Literal["texts", "targets", "weights", "runs"]


@dataclass(frozen=True)
class Preset:
    """One method name.

    Attributes:
        knobs: the frozen dataclass that holds and checks its knobs.
        place: where it acts: what the student reads (texts), what it learns from (targets), which weights of a run are
            kept (weights), or what is made of several runs (runs).
        needs_teacher: whether it reads teacher targets.
        excludes: names that it cannot stand beside, with the reason.
        needs_all_steps: why a training that stops early is not what it means; empty where it may stop.
    """

    knobs: type
    place: Place
    needs_teacher: bool
    excludes: Mapping[str, str]
    needs_all_steps: str = ""


def _others(name: str, group: tuple[str, ...], reason: str) -> dict[str, str]:
    return {other: reason for other in group if other != name}


_SUPERVISION = ("none", "kd", "bam")
_ONE_SUPERVISION = "both say what the labels and the teacher weigh; choose one"
_WHOLE_SCHEDULE = "a run that stops early ends before its targets have become the labels"
_SELF = ("sda", "sdv")
_ONE_SELF = "both make the student its own teacher, by averaged weights or by averaged logits; choose one"
_RULES = ("swa", "se", "ema")
_ONE_RULE = "both say which weights of a run are kept; choose one"
_TEXTS = ("source", "refill", "l2a")
_ONE_TEXTS = "both say which texts are added; choose one (l2a refills source texts too)"
_RUNS = ("avg", "vote")
_ONE_RUNS = "both say what is made of several runs; choose one"

PRESETS: dict[str, Preset] = {
    "none": Preset(GoldKnobs, "targets", False, _others("none", _SUPERVISION, _ONE_SUPERVISION)),
    "kd": Preset(KdKnobs, "targets", True, _others("kd", _SUPERVISION, _ONE_SUPERVISION)),
    "bam": Preset(BamKnobs, "targets", True, _others("bam", _SUPERVISION, _ONE_SUPERVISION), _WHOLE_SCHEDULE),
    "sda": Preset(SdaKnobs, "targets", False, _others("sda", _SELF, _ONE_SELF)),
    "sdv": Preset(SdvKnobs, "targets", False, _others("sdv", _SELF, _ONE_SELF)),
    "swa": Preset(SwaKnobs, "weights", False, _others("swa", _RULES, _ONE_RULE)),
    "se": Preset(SeKnobs, "weights", False, _others("se", _RULES, _ONE_RULE)),
    "ema": Preset(EmaKnobs, "weights", False, _others("ema", _RULES, _ONE_RULE)),
    "source": Preset(SourceKnobs, "texts", False, _others("source", _TEXTS, _ONE_TEXTS)),
    "refill": Preset(RefillKnobs, "texts", False, _others("refill", _TEXTS, _ONE_TEXTS)),
    "l2a": Preset(L2aKnobs, "texts", False, _others("l2a", _TEXTS, _ONE_TEXTS)),
    "avg": Preset(AvgKnobs, "runs", False, _others("avg", _RUNS, _ONE_RUNS)),
    "vote": Preset(VoteKnobs, "runs", False, _others("vote", _RUNS, _ONE_RUNS)),
}

_IN_TEXT = re.compile(r"^(?P<name>[^:()]+)(?P<knobs>(:[^:=]+=[^:]*)*)$")


def parse_method(value: object) -> dict[str, Knobs]:
    """Normalise a recipe's `method` to a mapping of names to checked knobs.

    The names come in the order of `PRESETS`, and `none` is left out beside other names: without a supervision
    every method has gold labels, so `swa` and `[none, swa]` are the same. Texts that only a teacher can answer need
    one: without a supervision, `l2a` is `[kd, l2a]`.

    Args:
        value: a name, a mapping of names to knobs, a list of either, or a text as `parse_method_text` reads it.

    Raises:
        ValueError: an unknown name or knob (with the nearest choice), a knob out of range, an impossible combination.
    """
    if isinstance(value, str) and re.search("[+:(]", value):
        return parse_method_text(value)
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
    _supervise(methods)
    return {name: methods[name] for name in PRESETS if name in methods and (name != "none" or len(methods) == 1)}


def _supervise(methods: dict[str, Knobs]) -> None:
    """Plain `kd` where added texts have no labels and nothing is said of targets; ValueError beside gold labels."""
    for name in methods_at(methods, "texts"):
        if not reads_targets(name, knobs_of(methods, name)):
            continue
        if "none" in methods:
            raise ValueError(
                f"'none' and '{name}' cannot be combined: added texts have the teacher's targets only; use kd or bam"
            )
        if not needs_teacher(methods):
            methods["kd"] = {}
        _check_reads_teacher(methods, name)


def _check_reads_teacher(methods: Mapping[str, Knobs], texts: str) -> None:
    """ValueError where the supervision is set so that no added text would be learned from."""
    for name, knob, value in (("kd", "alpha", 0.0), ("bam", "constant", 1.0)):
        if name in methods and methods[name].get(knob) == value:
            raise ValueError(
                f"{name}.{knob} is {value:g} beside '{texts}': no teacher is read, so no added text would be; leave "
                f"'{texts}' out or {knob} at its default"
            )


def reads_targets(name: str, knobs: object) -> bool:
    """Whether the texts that a method adds are answered by the teacher, and not by labels of their own."""
    return not (isinstance(knobs, SourceKnobs) and knobs.labels == "gold") and PRESETS[name].place == "texts"


def parse_method_text(text: str) -> dict[str, Knobs]:
    """Read methods as the command line gives them: `kd`, `kd+swa`, `sda:k=all:weight=1.5`, `kd+swa:every=1`.

    Args:
        text: names joined by `+`, each with its knobs as `:knob=value`; values are written as in YAML.

    Raises:
        ValueError: as `parse_method`, and for a text of another form.
    """
    methods: list[dict[str, Knobs]] = []
    for part in re.split(r"\+(?=[A-Za-z])", text):
        found = _IN_TEXT.match(part.strip())
        if found is None:
            raise ValueError(f"got '{part}', expected a method such as kd, sda:k=all:weight=1.5 or kd+swa:every=1")
        pairs = [pair.split("=", 1) for pair in found["knobs"].split(":") if pair]
        methods.append({found["name"]: {knob.strip(): _value_in_text(value) for knob, value in pairs}})
    return parse_method(methods)


def _value_in_text(value: str) -> object:
    try:
        found: object = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return _number_or_text(found)


def _number_or_text(value: object) -> object:
    """YAML reads 1e-3 as a text: it wants 1.0e-3."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def needs_teacher(methods: Mapping[str, Knobs]) -> bool:
    """Whether any of the methods reads teacher targets."""
    return any(PRESETS[name].needs_teacher for name in methods)


def check_early_stopping(methods: Mapping[str, Knobs], patience: int | None) -> None:
    """ValueError when early stopping stands beside a method that needs all steps, or says which weights are kept."""
    if patience is None:
        return
    for name in methods_at(methods, "weights"):
        raise ValueError(
            f"training.early_stopping is {patience} beside '{name}': both say which weights are kept, and a run "
            f"that stops early ends before '{name}' has its average. Leave early_stopping out"
        )
    for name in methods:
        if reason := PRESETS[name].needs_all_steps:
            raise ValueError(
                f"training.early_stopping is {patience} beside '{name}': {reason}. Leave early_stopping out"
            )


def methods_at(methods: Mapping[str, Knobs], place: Place) -> dict[str, Knobs]:
    """Those of the methods that act at one place; what is left without the runs is what one member trains by."""
    return {name: knobs for name, knobs in methods.items() if PRESETS[name].place == place}


def knobs_of(methods: Mapping[str, Knobs], name: str) -> Any:
    """A method's knobs with their defaults filled in, as its frozen dataclass."""
    return PRESETS[name].knobs(**methods[name])


def label_of(methods: Mapping[str, Knobs]) -> str:
    """The short canonical name of methods: `kd+swa`, `sda(k=all,weight=1.5)`; knobs at their default are not shown."""
    ordered = parse_method([{name: dict(knobs)} for name, knobs in methods.items()])
    return "+".join(_one_label(name, knobs) for name, knobs in ordered.items())


def file_label_of(methods: Mapping[str, Knobs]) -> str:
    """`label_of` as a part of a file name: letters, digits and `.+=_-` only."""
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", label_of(methods)).strip("_")


def _one_label(name: str, knobs: Knobs) -> str:
    shown = [
        f"{f.name}={_shown(knobs[f.name])}"
        for f in fields(PRESETS[name].knobs)
        if f.name in knobs and knobs[f.name] != f.default
    ]
    return f"{name}({','.join(shown)})" if shown else name


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


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
    preset = PRESETS[name].knobs
    known = [f.name for f in fields(preset)]
    for knob in knobs:
        if knob not in known:
            raise ValueError(_unknown(f"method '{name}' has no knob '{knob}'", knob, known))
    found = {knob: converted(preset, name, knob, value) for knob, value in knobs.items()}
    preset(**found)
    return found


def _unknown(problem: str, name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1)
    return f"{problem}. Choose one of: {', '.join(choices) or '(none)'}." + (
        f" Did you mean {near[0]}?" if near else ""
    )
