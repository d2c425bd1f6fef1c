"""Credit by a datamodel: a ridge regression from random selections to their rewards.

Source of the idea: Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels", arXiv:2202.00622, who regress on
which rows were in; here a selection is described by the summed states of its candidates [ours], since there are more
candidates than episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit import Outcome
from compressor.distillation.augmentation.selector.state import State

_PENALTIES = np.logspace(-3, 3, 13)


class Datamodel:
    """Keeps every candidate with probability one half, and regresses at the end.

    A selection is the sum of its candidates' descriptions over the candidates that were offered, with no intercept:
    an empty one is worth 0. The penalty is chosen by leaving one episode out.
    """

    def __init__(self, states: Sequence[State], settings: L2aKnobs, *, seed: int) -> None:
        self._described = [_described(state) for state in states]
        self._selections: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._views: list[int] = []

    def probabilities(self, view: int, rows: Tensor) -> Tensor:
        """One half, [rows]."""
        return torch.full((len(rows),), 0.5)

    def learn(self, outcome: Outcome) -> None:
        """Remember the selection and its reward."""
        kept = self._described[outcome.view][outcome.rows[outcome.kept]]
        self._selections.append(kept.sum(dim=0).numpy() / len(outcome.rows))
        self._rewards.append(outcome.reward)
        self._views.append(outcome.view)

    def scores(self, view: int) -> Tensor:
        """Sigmoid of the predicted reward, in deviations, of keeping nothing but such candidates, [candidates]."""
        model = RidgeCV(alphas=_PENALTIES, fit_intercept=False).fit(np.stack(self._selections), self._scaled())
        predicted = model.predict(self._described[view].numpy())
        return torch.from_numpy(predicted).float().sigmoid()

    def _scaled(self) -> np.ndarray:
        """The rewards over the deviation of their view's, [episodes]; 0 where these do not differ."""
        rewards, views = np.array(self._rewards), np.array(self._views)
        scaled = np.zeros_like(rewards)
        for view in np.unique(views):
            own = rewards[views == view]
            if own.std() > 1e-6 * abs(own.mean()):
                scaled[views == view] = own / own.std()
        return scaled


def _described(state: State) -> Tensor:
    """State, filter and a 1 for being there at all, [candidates, features + 2]."""
    filters = state.standard_filter[:, None]
    return torch.cat([state.features, filters, torch.ones_like(filters)], dim=1)
