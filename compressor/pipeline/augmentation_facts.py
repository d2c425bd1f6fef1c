"""What a report says of added texts: how they came about, which were kept, and what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.data.splits import SOURCE, TRAIN, TaskData
from compressor.distillation.augmentation.candidates import Candidates
from compressor.distillation.augmentation.knobs import AddedTexts, L2aKnobs
from compressor.pipeline.added import AddedPlace
from compressor.pipeline.augmenting import counts_of
from compressor.pipeline.augmenting_stages import added_texts
from compressor.pipeline.learning import load_some
from compressor.pipeline.selecting import SELECTION_FILE
from compressor.pipeline.stages import Stage, StageStore, read_json
from serving.answers import decide, probabilities
from serving.manifest import TaskSpec

if TYPE_CHECKING:
    from compressor.pipeline.graph import Pipeline

_BINS = 10
_EXAMPLES = 8
_SELECTION_FACTS = ("share", "shares", "confirmation", "curve", "correlation")
_SCORES = {"filter": "filter_scores"}
"""Whose scores order the examples; of any other selector the learned ones."""


def augmentation_facts(pipeline: Pipeline) -> dict[str, Any]:
    """Per task that got texts, what the report's section shows; empty where the method adds none."""
    methods = pipeline.recipe.method
    knobs = added_texts(methods)
    if knobs is None:
        return {}
    stages = pipeline.added_stages(methods)
    return {
        task: _facts(pipeline, task, knobs, place, candidates=stages[task]["candidates"])
        for task, place in pipeline.added_places(methods).items()
    }


def _facts(pipeline: Pipeline, task: str, knobs: AddedTexts, place: AddedPlace, *, candidates: Stage) -> dict[str, Any]:
    texts = place.everything()
    data = load_some(pipeline.path(pipeline.data), [task])[task]
    counts, kept = counts_of(place.candidates), place.is_kept(len(texts))
    selection = read_json(place.selection / SELECTION_FILE) if place.selection else None
    scores = np.array(selection[_SCORES.get(place.selector, "scores")]) if selection else None
    answers = _answers(texts, data, gold=place.gold)
    return {
        "method": knobs.name,
        "selector": knobs.selector if isinstance(knobs, L2aKnobs) else None,
        "credit": knobs.credit if isinstance(knobs, L2aKnobs) else None,
        "knobs": asdict(knobs),
        "counts": {
            **{name: counts[name] for name in ("generated", "dropped", "candidates", "target_rows", "source_rows")},
            "kept": int(kept.sum()),
            "reward_rows": selection["reward_rows"] if selection else 0,
            "folds": selection["folds"] if selection else 0,
        },
        "seconds": _seconds(pipeline.store, candidates, counts, selection),
        "classes": _classes(data, answers, kept),
        "domain": None if np.isnan(texts.domain_scores).any() else _histogram(texts.domain_scores, kept),
        "edits": _histogram(texts.edit_ratios, kept),
        "selection": {name: selection[name] for name in _SELECTION_FACTS} if selection else None,
        "examples": {
            "kept": _examples(texts, data.task, kept, None if scores is None else -scores, scores),
            "dropped": _examples(texts, data.task, ~kept, scores, scores),
        },
    }


def _seconds(
    store: StageStore, candidates: Stage, counts: Mapping[str, Any], selection: Mapping[str, Any] | None
) -> dict[str, float]:
    adapted = candidates.inputs.get("masked-lm")
    found = {"masked_lm": store.seconds(adapted)} if adapted else {}
    return {**found, **counts["seconds"], **(selection["seconds"] if selection else {})}


def _answers(candidates: Candidates, data: TaskData, *, gold: bool) -> np.ndarray | None:
    """What the student is told of every candidate, as a split holds labels; None for a regression."""
    if data.task.type == "regression":
        return None
    if gold or candidates.logits is None:
        labels: np.ndarray = np.asarray(data.splits[SOURCE].labels)[candidates.start_rows]
        return labels
    return np.asarray(decide(candidates.logits, data.task))


def _classes(data: TaskData, answers: np.ndarray | None, kept: np.ndarray) -> list[dict[str, Any]]:
    own = np.asarray(data.splits[TRAIN].labels)
    if answers is None:
        return [{"label": "", "target": len(own), "candidates": len(kept), "kept": int(kept.sum())}]
    columns = {"target": own, "candidates": answers, "kept": answers[kept]}
    counted = {name: _count(values, len(data.task.labels)) for name, values in columns.items()}
    return [
        {"label": label, **{name: int(counts[place]) for name, counts in counted.items()}}
        for place, label in enumerate(data.task.labels)
    ]


def _count(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Rows per label, int64 [labels]."""
    if labels.ndim == 2:
        return np.asarray((labels > 0).sum(axis=0), dtype=np.int64)
    return np.bincount(labels, minlength=num_labels)


def _histogram(values: np.ndarray, kept: np.ndarray) -> dict[str, list[float]]:
    """How often values in [0, 1] fall into ten equal bins."""
    counts, edges = np.histogram(values, bins=_BINS, range=(0.0, 1.0))
    return {
        "edges": [round(float(edge), 3) for edge in edges],
        "candidates": counts.tolist(),
        "kept": np.histogram(values[kept], bins=_BINS, range=(0.0, 1.0))[0].tolist(),
    }


def _examples(
    candidates: Candidates, task: TaskSpec, rows: np.ndarray, order: np.ndarray | None, scores: np.ndarray | None
) -> list[dict[str, Any]]:
    """Some of the rows of a mask, changed texts where there are any: the first in an order, or evenly spread."""
    positions = np.flatnonzero(rows & (candidates.edit_ratios > 0.0))
    if not len(positions):
        positions = np.flatnonzero(rows)
    if order is not None:
        positions = positions[np.argsort(order[positions], kind="stable")][:_EXAMPLES]
    elif len(positions) > _EXAMPLES:
        positions = positions[np.linspace(0, len(positions) - 1, _EXAMPLES).astype(np.int64)]
    return [_example(candidates, task, int(row), scores) for row in positions]


def _example(candidates: Candidates, task: TaskSpec, row: int, scores: np.ndarray | None) -> dict[str, Any]:
    label, confidence = "", None
    if candidates.logits is not None:
        values = np.asarray(probabilities(candidates.logits[row : row + 1], task))[0]
        if task.type == "classification":
            label, confidence = task.labels[int(values.argmax())], float(values.max())
        elif task.type == "multilabel":
            label = ", ".join(name for name, value in zip(task.labels, values, strict=True) if value >= 0.5)
            confidence = float(np.maximum(values, 1.0 - values).min())
        else:
            label = f"{values[0]:.3g}"
    return {
        "start": list(candidates.starts[row]),
        "text": list(candidates.texts[row]),
        "label": label,
        "confidence": confidence,
        "is_source": bool(candidates.is_source[row]),
        "score": None if scores is None else float(scores[row]),
    }
