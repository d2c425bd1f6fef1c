"""What the student read beside its own rows: how texts were made, filtered and kept, and what that took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.augmentation_examples import Example, examples_of
from compressor.report.augmentation_plots import histogram
from compressor.report.augmentation_selector import SelectionView, selection_view
from compressor.report.plots import Figure
from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, count, duration, is_known

_DROPPED = {
    "far": "too little like the target's",
    "evaluation": "occurs in an evaluation split",
    "own": "the student has it already",
    "repeated": "repeats another",
    "edited_too_much": "too many words changed",
    "unsure": "the teacher is unsure",
}
_SELECTORS = {
    "learned": "the learned selector",
    "random": "chance, class by class,",
    "filter": "the fixed filter (the teacher's confidence less the student's distance from it)",
}
STEPS = {
    "masked_lm": "masked language model",
    "domain": "telling the domains apart",
    "generate": "making the texts",
    "teacher": "the teacher's answers",
    "student": "a first student, for the selector",
    "features": "what the selector sees of each text",
    "selector": "the selector's episodes",
    "choice": "choosing the share",
}
"""What the times of added texts are called."""
_HISTOGRAMS = {
    "domain": ("how much a text looks like the target's, 0 to 1", "texts by domain score"),
    "edits": ("share of changed words", "texts by changed words"),
}
_MANY_CLASSES = 12

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class AugmentationView:
    """What the page shows of one task.

    Attributes:
        task: its name.
        verdict: what came of it, in a sentence or two.
        made: how the texts were made; empty where that is not known.
        counts: from the texts that were made to those that were kept.
        classes: rows of the target, candidates and kept texts per class.
        balance: how far the kept texts' classes are from the target's; empty for one class.
        has_many_classes: whether the table of classes is better folded.
        histograms: kept texts against candidates, by domain score and by changed words; a drawing and its table each.
        selection: what the selector did; None without one.
        kept: examples of texts that were kept.
        dropped: examples of texts that were not.
        times: where the time went; None where that is not known.
    """

    task: str
    verdict: str
    made: str
    counts: Table
    classes: Table | None
    balance: str
    has_many_classes: bool
    histograms: tuple[tuple[Figure, Table], ...]
    selection: SelectionView | None
    kept: tuple[Example, ...]
    dropped: tuple[Example, ...]
    times: Table | None


def augmentation_views(report: Facts) -> list[AugmentationView]:
    """One view per task whose student was given further texts, in the order of the report."""
    return [_view(task, facts) for task, facts in (report.get("augmentation") or {}).items() if facts]


def _view(task: str, facts: Facts) -> AugmentationView:
    counts, classes = facts.get("counts") or {}, facts.get("classes") or []
    examples = facts.get("examples") or {}
    return AugmentationView(
        task=task,
        verdict=_verdict(facts, counts),
        made=_made(facts, counts),
        counts=_counts_table(counts),
        classes=_classes_table(classes) if classes else None,
        balance=_balance(classes),
        has_many_classes=len(classes) > _MANY_CLASSES,
        histograms=tuple(
            (histogram(found, across, up), _bins_table(found))
            for name, (across, up) in _HISTOGRAMS.items()
            if (found := facts.get(name)) and all(found.get(key) for key in ("edges", "candidates", "kept"))
        ),
        selection=selection_view(facts),
        kept=examples_of(examples.get("kept") or []),
        dropped=examples_of(examples.get("dropped") or []),
        times=_times_table(facts.get("seconds") or {}),
    )


def _verdict(facts: Facts, counts: Facts) -> str:
    """How many texts were added out of how many, and whether the student could notice them at all."""
    kept, candidates = counts.get("kept"), counts.get("candidates")
    made = f"{count(counts.get('generated'))} texts {'of the source' if _is_source(facts) else 'that were made'}"
    passed = f"of {made}, {count(candidates)} passed the filters"
    if kept == 0:
        return f"Nothing was added: {passed} and none was kept, so the student was trained as without them."
    chosen = _SELECTORS.get(facts.get("selector") or "")
    choice = f" and {chosen} kept {_with_share(kept, candidates)}" if chosen else ""
    own = f"Beside its {count(counts.get('target_rows'))} labelled rows the student read {count(kept)} texts"
    weight = (facts.get("knobs") or {}).get("weight")
    noticed = " They weigh nothing in its loss (weight 0), so it was trained as without them." if weight == 0 else ""
    return f"{own}: {passed}{choice}.{noticed}"


def _is_source(facts: Facts) -> bool:
    return facts.get("method") == "source"


def _made(facts: Facts, counts: Facts) -> str:
    knobs = facts.get("knobs") or {}
    if _is_source(facts):
        nearest = knobs.get("nearest") or 1.0
        of_all = f", the nearest {nearest:.0%} to the target's" if nearest < 1 else ""
        answers = "its own labels" if knobs.get("labels") == "gold" else "the teacher's targets"
        return f"They are texts of the source as they are{of_all}, with {answers}."
    if any(knobs.get(name) is None for name in ("rate", "top_k", "rounds", "mlm")):
        return ""
    return f"{_starts(knobs, counts)} {_rounds(knobs)} The soft label is the teacher's."


def _starts(knobs: Facts, counts: Facts) -> str:
    share = knobs.get("source_share")
    if not counts.get("source_rows") or knobs.get("start") == "target" or not is_known(share):
        return "They start from texts of the target."
    return f"{share:.0%} of them start from texts of the source, the others from texts of the target."


def _rounds(knobs: Facts) -> str:
    if not knobs["rounds"] or not knobs["rate"]:
        return "No word is changed (rounds or rate is 0)."
    rounds = "one round" if knobs["rounds"] == 1 else f"each of 1 to {knobs['rounds']} rounds"
    model = "adapted to the training texts" if knobs["mlm"] == "adapt" else str(knobs["mlm"])
    return (
        f"In {rounds} {knobs['rate']:.0%} of the tokens are masked and refilled from the {knobs['top_k']} likeliest of "
        f"a masked language model ({model})."
    )


def _counts_table(counts: Facts) -> Table:
    made = counts.get("generated")
    dropped = counts.get("dropped") or {}
    steps = {
        "made": made,
        **{f"dropped: {_DROPPED.get(reason, reason.replace('_', ' '))}": n for reason, n in dropped.items()},
        "candidates": counts.get("candidates"),
        "kept": counts.get("kept"),
    }
    rows = tuple((step, count(number), _share(number, made)) for step, number in steps.items())
    return Table(("texts", "number", "of those made"), rows, marks=(*[""] * (len(rows) - 1), "default"))


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.1%}" if part is not None and whole else MISSING


def _with_share(part: float | None, whole: float | None) -> str:
    return f"{count(part)} ({_share(part, whole)})"


_GROUPS = ("target", "candidates", "kept")


def _totals(classes: Sequence[Facts]) -> dict[str, int]:
    return {group: sum(one.get(group) or 0 for one in classes) for group in _GROUPS}


def _classes_table(classes: Sequence[Facts]) -> Table:
    totals = _totals(classes)
    rows = tuple(
        (one.get("label") or "all", *(_of_group(one.get(group), totals[group]) for group in _GROUPS)) for one in classes
    )
    return Table(("class", "the target's rows", "candidates", "kept"), rows)


def _of_group(part: float | None, whole: int) -> str:
    """Whole percents: three groups must stand side by side on a phone."""
    return f"{count(part)} ({part / whole:.0%})" if part is not None and whole else count(part)


def _balance(classes: Sequence[Facts]) -> str:
    """The class whose share of the kept texts is farthest from its share of the target's rows."""
    totals = _totals(classes)
    if len(classes) < 2 or not totals["target"] or not totals["kept"]:
        return ""
    shares = {
        one.get("label"): ((one.get("target") or 0) / totals["target"], (one.get("kept") or 0) / totals["kept"])
        for one in classes
    }
    farthest = max(shares, key=lambda label: round(abs(shares[label][1] - shares[label][0]), 9))
    target, kept = shares[farthest]
    return f"Of the target's rows {target:.1%} are {farthest}, of the kept texts {kept:.1%}; no class differs by more."


def _bins_table(found: Facts) -> Table:
    edges = found["edges"]
    rows = tuple(_bins(edges, found["candidates"], found["kept"]))
    return Table(("from – to", "candidates", "kept", "share kept"), rows)


def _bins(edges: Sequence[float], candidates: Sequence[int], kept: Sequence[int]) -> Iterator[tuple[str, ...]]:
    for low, high, every, some in zip(edges, edges[1:], candidates, kept, strict=False):
        yield f"{compact(low)} – {compact(high)}", count(every), count(some), _share(some, every)


def _times_table(seconds: Facts) -> Table | None:
    known = {step: spent for step, spent in seconds.items() if is_known(spent)}
    total = sum(known.values())
    rows = [(STEPS.get(step, step.replace("_", " ")), duration(t), _share(t, total)) for step, t in known.items()]
    rows.append(("together", duration(total), ""))
    return Table(("what", "time", "share"), tuple(rows), marks=(*[""] * len(known), "default")) if known else None
