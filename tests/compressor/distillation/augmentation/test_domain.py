"""Scores of the domain are honest: none is given by a classifier that was trained on the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, PreTrainedTokenizerFast

from compressor.distillation.augmentation.domain import DomainClassifier, fit_domain, text_features
from serving.errors import UserError

pytestmark = pytest.mark.usefixtures("global_random_state_stays")
TEXTS = [("the card is late",), ("help",), ("my order never arrived please refund the money now thanks",)]


def blobs(num_target: int, num_source: int, distance: float, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    target = generator.normal(size=(num_target, width)) * 5.0 + 100.0
    source = generator.normal(size=(num_source, width)) * 5.0 + 100.0
    target[:, 0] += 5.0 * distance
    return target.astype(np.float32), source.astype(np.float32)


def scores_of(found: DomainClassifier, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Of the rows themselves, those of the target first."""
    is_source = np.arange(len(target) + len(source)) >= len(target)
    rows = np.concatenate([np.arange(len(target)), np.arange(len(source))])
    return found.scores(np.concatenate([target, source]), is_source, rows)


def test_the_target_has_the_high_scores() -> None:
    """Catches swapped classes: chains would start from the source texts least like the target."""
    target, source = blobs(40, 60, distance=4.0)
    found = fit_domain(target, source, seed=0)
    assert scores_of(found, target, source)[:40].mean() > 0.8
    assert found.source_scores.mean() < 0.2
    places = np.full((2, 8), 100.0, dtype=np.float32)
    places[0, 0] += 20.0
    near, far = found.scores(places, np.array([True, False]), np.array([59, 39]))
    assert near > 0.9 > 0.1 > far


def test_no_row_scores_itself_or_what_was_made_from_it() -> None:
    """Catches scores from training: with more features than rows every row is told by heart, near the target or not."""
    target, source = blobs(20, 30, distance=0.0, width=80)
    found = fit_domain(target, source, seed=0)
    is_target = np.arange(50) < 20
    honest = scores_of(found, target, source)
    assert roc_auc_score(is_target, honest) < 0.75
    np.testing.assert_allclose(honest[20:], found.source_scores, atol=1e-5)
    foreign = found.scores(np.concatenate([target, source]), ~is_target, (np.arange(50) - 20 * ~is_target + 7) % 20)
    assert roc_auc_score(is_target, foreign) > 0.9, "the toy can be learned by heart"


def test_both_domains_weigh_the_same() -> None:
    """Catches scores near 0 for every source text where target rows are few: they would tell sizes, not domains."""
    target, source = blobs(20, 1000, distance=0.0, width=2)
    assert 0.3 < float(np.mean(fit_domain(target, source, seed=0).source_scores)) < 0.7


def test_scores_are_probabilities_in_order_and_follow_the_seed() -> None:
    """Catches scores of other rows, other dtypes than on disk, and folds drawn from a global generator."""
    target, source = blobs(30, 40, distance=2.0)
    found = fit_domain(target, source, seed=0)
    assert found.source_scores.shape == (40,)
    scores = scores_of(found, target, source)
    assert scores.dtype == found.source_scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores_of(fit_domain(target, source, seed=0), target, source) == scores).all()
    assert (scores_of(fit_domain(target, source, seed=1), target, source) != scores).any()
    nothing = np.zeros(0, dtype=np.int64)
    assert found.scores(np.zeros((0, 8), dtype=np.float32), nothing.astype(bool), nothing).shape == (0,)


@pytest.mark.parametrize("num_target", [2, 3, 5])
def test_very_few_target_rows_are_enough(num_target: int) -> None:
    """Catches folds without a target row, an error or a warning with five labels per class."""
    target, source = blobs(num_target, 50, distance=6.0)
    found = fit_domain(target, source, seed=0)
    assert scores_of(found, target, source)[:num_target].mean() > found.source_scores.mean()


@pytest.mark.parametrize(("num_target", "num_source"), [(1, 50), (50, 1), (0, 5)])
def test_a_single_row_is_refused(num_target: int, num_source: int) -> None:
    """Catches a traceback of scikit-learn: a row that is left out leaves no other of its domain."""
    with pytest.raises(UserError, match="at least 2 of each"):
        fit_domain(*blobs(num_target, num_source, distance=1.0), seed=0)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_features_are_the_mean_of_the_last_hidden_states_without_padding(
    architecture: str, checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches padding in the mean, and rows in the order of their lengths."""
    folder = checkpoint(architecture)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = [tokenizer(text, return_token_type_ids=False, return_tensors="pt") for (text,) in TEXTS]
        expected = np.concatenate([encoder(**row).last_hidden_state.mean(dim=1).numpy() for row in tokens])
    told: list[int] = []
    found = text_features(str(folder), TEXTS, max_length=32, advance=told.append)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert found.dtype == np.float32
    assert told[-1] == len(TEXTS)
    assert text_features(str(folder), [], max_length=32).shape == (0, 32)


def test_both_texts_of_a_pair_count_and_long_ones_are_cut(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches pairs told by their first text alone, and positions that the encoder does not have."""
    folder = str(checkpoint("roberta"))
    one, other = text_features(folder, [("help", "the card"), ("help", "my order")], max_length=32)
    assert np.abs(one - other).max() > 1e-4
    long = [("card " * 400,)]
    np.testing.assert_array_equal(
        text_features(folder, long, max_length=1000), text_features(folder, long, max_length=129)
    )
