"""Stored students small enough to compute by hand, and candidates of which half teach the wrong thing."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.distillation.augmentation.selector.state import CandidateFacts
from compressor.distillation.augmentation.selector.view import Rows, View
from compressor.distillation.knobs import KdKnobs
from compressor.distillation.targets.kd import kd_terms
from compressor.distillation.targets.term import LossTerm
from compressor.tasks.registry import TASKS
from serving.manifest import TaskType

WIDTH = 6


def labels_of(kind: TaskType, number: int, generator: torch.Generator) -> Tensor:
    if kind == "classification":
        return torch.randint(3, (number,), generator=generator)
    if kind == "multilabel":
        return (torch.rand(number, 3, generator=generator) < 0.4).float()
    return torch.rand(number, generator=generator)


@pytest.fixture
def kd() -> tuple[LossTerm, ...]:
    """Soft and hard loss as they are by default."""
    return kd_terms(KdKnobs())


@pytest.fixture
def make_view() -> Callable[..., View]:
    """A factory: (task type, seed) -> a view with 12 target rows, 40 candidates and 10 reward rows, all at random."""

    def make(kind: TaskType = "classification", seed: int = 0, *, progress: float = 0.4, candidates: int = 40) -> View:
        generator = torch.Generator().manual_seed(seed)
        outputs = 1 if kind == "regression" else 3

        def rows(number: int, *, labelled: bool) -> Rows:
            features = torch.randn(number, WIDTH, generator=generator)
            labels = labels_of(kind, number, generator) if labelled else None
            return Rows(features, labels, torch.randn(number, outputs, generator=generator))

        return View(
            task=TASKS[kind],
            weight=0.5 * torch.randn(outputs, WIDTH, generator=generator),
            bias=0.1 * torch.randn(outputs, generator=generator),
            target=rows(12, labelled=True),
            candidates=rows(candidates, labelled=False),
            reward=rows(10, labelled=True),
            progress=progress,
        )

    return make


@pytest.fixture
def make_facts() -> Callable[..., CandidateFacts]:
    """A factory: number -> edit ratios and domain scores at random, of which one is unknown."""

    def make(number: int = 40) -> CandidateFacts:
        generator = np.random.default_rng(0)
        domain = generator.random(number).astype(np.float32)
        domain[:1] = np.nan
        return CandidateFacts(generator.random(number).astype(np.float32), domain)

    return make


@dataclass(frozen=True)
class Poisoned:
    """A stored linear student of two classes, and candidates of which some are poisoned.

    Attributes:
        view: the student.
        facts: which say nothing of the poison.
        is_good: bool [candidates].
    """

    view: View
    facts: CandidateFacts
    is_good: np.ndarray


@pytest.fixture
def poisoned() -> Callable[[int], Poisoned]:
    """A factory: seed -> half of 200 candidates have a teacher that is sure of the wrong class.

    The first feature holds the class of a text (-1 or 1). In poisoned texts the second one is -2 times as large, and
    the student, which adds the two up, agrees with the teacher there as much as elsewhere: neither confidence nor
    distance tells the poison.
    """

    def texts(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        classes = torch.randint(2, (number,), generator=generator)
        features = 0.4 * torch.randn(number, WIDTH, generator=generator)
        features[:, 0] += 2.0 * classes - 1.0
        return features, classes

    def answers(classes: Tensor, generator: torch.Generator) -> Tensor:
        margins = (2.0 * classes - 1.0) * (1.0 + torch.rand(len(classes), generator=generator))
        return torch.stack([-margins, margins], dim=1)

    def make(seed: int) -> Poisoned:
        generator = torch.Generator().manual_seed(seed)
        parts = [texts(number, generator) for number in (24, 60, 200)]
        parts[0][0][:, 0] *= 0.2  # the target's own rows say little, so that there is something to gain
        target, reward = (Rows(features, classes, answers(classes, generator)) for features, classes in parts[:2])
        features, classes = parts[2]
        is_good = torch.arange(200) % 2 == 0
        features[~is_good, :2] += (2.0 * classes[~is_good, None] - 1.0) * torch.tensor([-0.3, -1.7])
        seen = torch.where(is_good, classes, 1 - classes)
        weight = torch.zeros(2, WIDTH)
        weight[:, :2] = torch.tensor([[-0.25], [0.25]])
        view = View(
            TASKS["classification"],
            weight,
            torch.zeros(2),
            target,
            Rows(features, None, answers(seen, generator)),
            reward,
            progress=0.8,
        )
        edits = np.random.default_rng(seed).random(200).astype(np.float32)
        return Poisoned(view, CandidateFacts(edits, np.full(200, np.nan, np.float32)), is_good.numpy())

    return make


@pytest.fixture
def random_states() -> Callable[[], list[bytes]]:
    """What torch, numpy and Python would draw next."""

    def states() -> list[bytes]:
        return [
            pickle.dumps(state) for state in (torch.get_rng_state().tolist(), np.random.get_state(), random.getstate())
        ]

    return states
