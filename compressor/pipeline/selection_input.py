"""What the selection of candidates reads, and how its students are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from compressor.data.batches import Tokens, tokenise
from compressor.data.splits import ADDED, TRAIN, Split, TaskData
from compressor.distillation.augmentation.candidates import Candidates, load_candidates
from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.plan import Plan, build_plan
from compressor.distillation.presets import Knobs
from compressor.distillation.weights.states import StatesAtShares
from compressor.models.initialise import load_tokenizer
from compressor.pipeline.added import CANDIDATES_FILE
from compressor.pipeline.learning import TARGETS_FILE
from compressor.recipe import Recipe

STATES = (0.1, 0.4, 0.8)
"""Shares of the training after which a student's weights are kept."""


@dataclass(frozen=True)
class Selecting:
    """What a selection reads.

    Attributes:
        data: the task.
        targets: the teacher's logits over its training texts.
        candidates: with the teacher's logits.
        recipe: student, training and tokens per text.
        supervision: kd or bam with knobs.
        knobs: of l2a.
        teacher: whose layers the student starts with, or None for the pretrained checkpoint's.
    """

    data: TaskData
    targets: np.ndarray
    candidates: Candidates
    recipe: Recipe
    supervision: Mapping[str, Knobs]
    knobs: L2aKnobs
    teacher: Path | None

    @classmethod
    def read(
        cls,
        data: TaskData,
        folders: Mapping[str, Path],
        recipe: Recipe,
        *,
        supervision: Mapping[str, Knobs],
        knobs: L2aKnobs,
    ) -> Selecting:
        """Args: folders: `candidates`, `targets` and, where the student starts from it, `teacher`."""
        targets = np.load(folders["targets"] / TARGETS_FILE)[: len(data.splits[TRAIN])]
        candidates = load_candidates(folders["candidates"] / CANDIDATES_FILE)
        return cls(data, targets, candidates, recipe, supervision, knobs, folders.get("teacher"))

    @property
    def plan(self) -> Plan:
        """How the students are trained whose states the policy sees."""
        return replace(build_plan(self.supervision, patience=None), rule=StatesAtShares(STATES))

    @property
    def plan_with_candidates(self) -> Plan:
        """How students are trained that read candidates, too."""
        knobs = {"weight": self.knobs.weight, "target_share": self.knobs.target_share}
        return build_plan({**self.supervision, L2aKnobs.name: knobs}, patience=None)

    def own_rows(self, rows: np.ndarray) -> TaskData:
        """The task with some of its training rows, and nothing else to train on."""
        labelled = self.data.without_unlabelled()
        return replace(labelled, splits={**labelled.splits, TRAIN: labelled.splits[TRAIN].select(rows)})

    def with_candidates(self, rows: np.ndarray, kept: np.ndarray | None = None) -> TaskData:
        """Some of its training rows, and behind them the candidates, or some of them (bool [candidates])."""
        data, candidates = self.own_rows(rows), Split(self.candidates.texts)
        return replace(
            data, splits={**data.splits, ADDED: candidates if kept is None else candidates.select(np.flatnonzero(kept))}
        )

    def made_from(self, rows: np.ndarray) -> np.ndarray:
        """Which candidates were made from some of the training rows, bool [candidates].

        Args:
            rows: bool [train rows].
        """
        is_own, starts = ~self.candidates.is_source, self.candidates.start_rows
        return np.asarray(is_own & rows[np.where(is_own, starts, 0)])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's."""
        return load_tokenizer(self.recipe.student_model())

    @cached_property
    def tokens(self) -> tuple[Tokens, Tokens]:
        """The train rows and the candidates as every student reads them."""
        texts = (self.data.splits[TRAIN].texts, self.candidates.texts)
        rows, candidates = (tokenise(self.tokenizer, some, self.recipe.max_length) for some in texts)
        return rows, candidates
