"""What the stages of added texts do: gather those of a source, make candidates by mask and refill, ask the teacher.

`compressor.pipeline.augmenting_stages` says in which order and with which keys.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.leakage import text_keys
from compressor.data.splits import SOURCE, TRAIN, TaskData, training_texts
from compressor.distillation.augmentation.candidates import Candidates, save_candidates
from compressor.distillation.augmentation.chains import CHUNKS, draw_starts, generate, kept_starts
from compressor.distillation.augmentation.domain import fit_domain, text_features
from compressor.distillation.augmentation.filters import keep_close, keep_new, keep_sure
from compressor.distillation.augmentation.knobs import RefillKnobs, SourceKnobs
from compressor.distillation.augmentation.majority import check_above_majority
from compressor.distillation.augmentation.refill import Refiller
from compressor.evaluation.ensembles import vote
from compressor.models.masked_lm import load_masked_lm
from compressor.models.teacher import teacher_logits
from compressor.pipeline.added import CANDIDATES_FILE
from compressor.pipeline.learning import TARGETS_FILE
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import progress_bar
from serving.errors import UserError

COUNTS_FILE = "candidates.json"
CHECK_FILE = "teacher_check.json"
STARTS_FILE = "starts.npz"


@dataclass(frozen=True)
class Material:
    """What added texts of one task are made from.

    Attributes:
        data: the task.
        encoder: pretrained checkpoint whose features tell the domains apart.
        teachers: folders of those that answer together; empty where texts keep their own labels.
        evaluation_keys: normalised texts of the evaluation splits of all tasks, which no added text may be.
        max_length: tokens per text.
        seed: of all that is drawn.
    """

    data: TaskData
    encoder: str
    teachers: Sequence[Path]
    evaluation_keys: frozenset[str]
    max_length: int
    seed: int

    @property
    def target_texts(self) -> list[tuple[str, ...]]:
        """The labelled texts of the task's own."""
        return self.data.splits[TRAIN].texts

    @property
    def source_texts(self) -> list[tuple[str, ...]]:
        """The texts of its source, none where it has none."""
        return self.data.splits[SOURCE].texts if SOURCE in self.data.splits else []

    def answered(self, candidates: Candidates) -> Candidates:
        """The candidates with the teacher's logits."""
        answers = [
            teacher_logits(
                teacher, candidates.texts, self.data.task, max_length=self.max_length, label="teacher's answers"
            )
            for teacher in self.teachers
        ]
        return replace(candidates, logits=vote(answers, self.data.task.type)) if answers else candidates

    def features(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        """What the domain classifier reads of texts, float32 [rows, width]."""
        return text_features(self.encoder, texts, max_length=self.max_length)


def masked_lm_texts(data: Mapping[str, TaskData]) -> list[tuple[str, ...]]:
    """Training texts of target and source, none of an evaluation split."""
    return [
        text
        for task in data.values()
        for text in training_texts(task) + (task.splits[SOURCE].texts if SOURCE in task.splits else [])
    ]


def check_teacher(folder: Path, data: TaskData, targets: Path) -> None:
    """Write how the teacher does on the labelled rows; UserError where it knows less than the commonest answer."""
    train = data.splits[TRAIN]
    logits = np.load(targets / TARGETS_FILE)[: len(train)]
    error, constant = check_above_majority(logits, np.asarray(train.labels), data.task)
    write_json(folder / CHECK_FILE, {"error": error, "best_constant": constant, "rows": len(train)})


def gather_source_texts(folder: Path, material: Material, knobs: SourceKnobs) -> None:
    """The texts of the source, those that look most like the target's, with the teacher's answers if it has any."""
    clock = Clock()
    scores = fit_domain(
        material.features(material.target_texts), material.features(material.source_texts), seed=material.seed
    ).source_scores
    clock.lap("domain")
    texts = material.source_texts
    nearest = np.sort(np.argsort(-scores, kind="stable")[: max(1, round(knobs.nearest * len(texts)))])
    everything = Candidates(
        texts=texts,
        starts=texts,
        is_source=np.ones(len(texts), dtype=bool),
        start_rows=np.arange(len(texts)),
        rounds=np.zeros(len(texts), dtype=np.int64),
        edit_ratios=np.zeros(len(texts), dtype=np.float32),
        domain_scores=scores,
    )
    candidates = material.answered(everything.select(nearest))
    clock.lap("teacher")
    dropped = {"far": len(texts) - len(nearest)}
    kept = _sure(candidates, material, knobs, dropped)
    if not len(kept):
        raise UserError(
            f"none of {len(texts)} source texts of task '{material.data.task.name}' passed the filters ({dropped}). "
            "Lower min_confidence or min_margin, or use another method."
        )
    _save(folder, kept, material, {"generated": len(texts), "dropped": dropped, "seconds": clock.seconds})


def make_candidates(folder: Path, material: Material, knobs: RefillKnobs, masked_lm: str) -> None:
    """Refilled texts of target and source that pass the filters, with the teacher's answers.

    Interrupted, it goes on where it stopped.
    """
    clock = Clock()
    source = material.source_texts if knobs.start == "both" else []
    domain = None
    if source:
        domain = fit_domain(material.features(material.target_texts), material.features(source), seed=material.seed)
        clock.lap("domain")
    starts = kept_starts(
        folder / STARTS_FILE,
        lambda: draw_starts(
            len(material.target_texts),
            domain.source_scores if domain else None,
            per_row=knobs.per_row,
            source_share=knobs.source_share,
            rounds=knobs.rounds,
            seed=material.seed,
        ),
    )
    model, tokenizer = load_masked_lm(masked_lm, must_be_trained=True)
    refiller = Refiller(model, tokenizer, rate=knobs.rate, top_k=knobs.top_k, max_length=material.max_length)
    with progress_bar("refilling texts", len(starts)) as bar:
        made = generate(starts, material.target_texts, source, refiller, folder=folder, advance=bar.update)
    clock.lap("generate")
    close = keep_close(made.edit_ratios, knobs.max_edit_ratio)
    candidates = made.select(close)
    new, counts = keep_new(candidates, seen_keys=material.evaluation_keys, own_keys=_own_keys(material.data))
    dropped = {"edited_too_much": int((~close).sum()), **counts}
    candidates = candidates.select(new)
    if domain and len(candidates):
        scores = domain.scores(material.features(candidates.texts), candidates.is_source, candidates.start_rows)
        candidates = replace(candidates, domain_scores=scores)
        clock.lap("domain")
    candidates = material.answered(candidates) if len(candidates) else candidates
    clock.lap("teacher")
    kept = _sure(candidates, material, knobs, dropped)
    if not len(kept):
        raise UserError(
            f"none of {len(made)} refilled texts of task '{material.data.task.name}' passed the filters ({dropped}). "
            "Lower min_confidence or min_margin, raise max_edit_ratio, or use another method."
        )
    _save(folder, kept, material, {"generated": len(made), "dropped": dropped, "seconds": clock.seconds})
    shutil.rmtree(folder / CHUNKS, ignore_errors=True)
    (folder / STARTS_FILE).unlink()


def _sure(
    candidates: Candidates, material: Material, knobs: SourceKnobs | RefillKnobs, dropped: dict[str, int]
) -> Candidates:
    """Those of which the teacher is sure enough; counts the others."""
    if candidates.logits is None or not len(candidates):
        return candidates
    sure = keep_sure(
        candidates.logits, material.data.task, min_confidence=knobs.min_confidence, min_margin=knobs.min_margin
    )
    dropped["unsure"] = int((~sure).sum())
    return candidates.select(sure)


def _own_keys(data: TaskData) -> set[str]:
    return set(text_keys(training_texts(data)))


def _save(folder: Path, candidates: Candidates, material: Material, facts: dict[str, Any]) -> None:
    save_candidates(folder / CANDIDATES_FILE, candidates, num_sides=len(material.data.text_columns))
    rows = {"target_rows": len(material.target_texts), "source_rows": len(material.source_texts)}
    write_json(folder / COUNTS_FILE, {**facts, **rows, "candidates": len(candidates)})


class Clock:
    """Seconds by name of what was done since the last lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """What was done until now had this name."""
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def counts_of(folder: Path) -> dict[str, Any]:
    """What `make_candidates` or `gather_source_texts` counted."""
    found: dict[str, Any] = read_json(folder / COUNTS_FILE)
    return found
