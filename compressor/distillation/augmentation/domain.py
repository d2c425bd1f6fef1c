"""How much a text looks like the target's: a linear classifier of target against source on a pretrained encoder.

That source texts near the target are the ones to start from is the idea of Feng et al. (2021), arXiv:2101.08106 (L2A);
the classifier is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from compressor.data.batches import tokenise
from compressor.models.initialise import load_tokenizer, max_tokens, pretrained_model
from compressor.models.predict import predict_logits
from serving.errors import UserError

_FOLDS = 5
_LEAST_ROWS = 2
_MOST_ITERATIONS = 1000
_POOLED = "pooled"


@dataclass(frozen=True)
class DomainClassifier:
    """Tells target texts from source texts.

    There is one classifier per part of the rows, trained on the other parts: with fewer rows than features every row is
    told by heart, and so is what was made from it.

    Attributes:
        target_parts: the part of every target row, int64 [target rows].
        source_parts: of every source row, int64 [source rows].
        classifiers: per part, one that has not seen it.
        source_scores: how likely the source rows are the target's, float32 [source rows] in [0, 1].
    """

    target_parts: np.ndarray
    source_parts: np.ndarray
    classifiers: Sequence[Any]
    source_scores: np.ndarray

    def scores(self, features: np.ndarray, is_source: np.ndarray, start_rows: np.ndarray) -> np.ndarray:
        """How likely texts are the target's, each by the classifier that has not seen the row it was made from.

        Both domains count as equally frequent.

        Args:
            features: [rows, width].
            is_source: whether that row is a source row, bool [rows].
            start_rows: its position among the target's or the source's, int64 [rows].

        Returns:
            float32 [rows] in [0, 1].
        """
        parts = np.empty(len(features), dtype=np.int64)
        parts[is_source] = self.source_parts[start_rows[is_source]]
        parts[~is_source] = self.target_parts[start_rows[~is_source]]
        return _scores_by_part(self.classifiers, features, parts)


def fit_domain(target_features: np.ndarray, source_features: np.ndarray, seed: int) -> DomainClassifier:
    """Train on standardised features, both domains weighing the same whatever their numbers of rows.

    Args:
        target_features: [target rows, width], of training rows only.
        source_features: [source rows, width], of training rows only.
        seed: of the folds, in [0, 2^32).

    Raises:
        UserError: one of the two has less than 2 rows, so that none could be left out.
    """
    sizes = (len(target_features), len(source_features))
    if min(sizes) < _LEAST_ROWS:
        raise UserError(
            f"the source has {sizes[1]} and the target {sizes[0]} training rows; to tell them apart at least "
            f"{_LEAST_ROWS} of each are needed. Give more rows, or leave the source out."
        )
    features = np.concatenate([target_features, source_features]).astype(np.float64)
    is_target = np.arange(sum(sizes)) < sizes[0]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=_MOST_ITERATIONS))
    folds = StratifiedKFold(min(_FOLDS, *sizes), shuffle=True, random_state=seed)
    parts = np.empty(len(features), dtype=np.int64)
    classifiers = []
    for part, (seen, left_out) in enumerate(folds.split(features, is_target)):
        parts[left_out] = part
        classifiers.append(clone(pipeline).fit(features[seen], is_target[seen]))
    scores = _scores_by_part(classifiers, features, parts)
    return DomainClassifier(parts[is_target], parts[~is_target], classifiers, scores[~is_target])


def _scores_by_part(classifiers: Sequence[Any], features: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Every row by the classifier of its part, float32 [rows]."""
    found = np.zeros(len(features), dtype=np.float32)
    for part in np.unique(parts):
        rows = parts == part
        found[rows] = classifiers[part].predict_proba(features[rows])[:, 1]
    return found


class _MeanPooled(nn.Module):
    """An encoder whose answer is the mean of its last hidden states over a text's tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, rows: Mapping[str, Tensor], **types: Tensor
    ) -> dict[str, Tensor]:
        """[batch, width] under the one name in `rows`."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        weights = attention_mask[:, :, None].to(hidden.dtype)
        return {name: (hidden * weights).sum(dim=1) / weights.sum(dim=1) for name in rows}


def text_features(
    model: str,
    texts: Sequence[tuple[str, ...]],
    *,
    max_length: int,
    advance: Callable[[int], None] = lambda _done: None,
) -> np.ndarray:
    """What a pretrained encoder makes of texts: the mean of its last hidden states, padding left out.

    Args:
        model: checkpoint id, see `resolve_model`.
        texts: texts, or pairs.
        max_length: tokens that are read of each; no more than the encoder has positions for.
        advance: told the number of finished texts.

    Returns:
        float32 [rows, width].

    Raises:
        UserError: the checkpoint cannot be had.
    """
    tokenizer = load_tokenizer(model)
    network = pretrained_model(model, (), seed=0)
    encoder = network.encoder
    if not len(texts):
        return np.zeros((0, int(encoder.config.hidden_size)), dtype=np.float32)
    tokens = tokenise(tokenizer, texts, min(max_length, max_tokens(encoder) or max_length))
    if not network.takes_token_types:
        tokens = replace(tokens, token_type_ids=None)
    return predict_logits(_MeanPooled(encoder), tokens, _POOLED, pad_id=int(tokenizer.pad_token_id), advance=advance)
