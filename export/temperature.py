"""One temperature per task: logits divided by it give probabilities that can be believed more.

It is fitted on the validation split, and used only where texts that did not take part in the fit say that it helps.
No decision changes: the highest logit stays the highest, and thresholds are moved with the temperature.

Source: Guo, Pleiss, Sun and Weinberger (2017), arXiv:1706.04599, section 4.2. Cross-fitting, the rule of when to use
it and the interval (the sandwich estimator of White 1982, Econometrica 50) are ours.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax

from export.calibration import Floats, nll_per_row
from export.statistics import bootstrap_interval
from serving.claims import Interval
from serving.manifest import TaskSpec, TaskType

MIN_ROWS = 50
NUM_FOLDS = 5
LOWEST, HIGHEST = 0.2, 20.0
"""Below the lowest, thresholds near 1 would round to 1 when they are moved, and a decision could change."""
_AT_AN_END = 1.01
_TWO_SIDED = 1.959964


class TemperatureFit(msgspec.Struct, frozen=True, kw_only=True):
    """What the validation texts say of a task's temperature.

    Attributes:
        temperature: what is used; 1 where the fit was not taken.
        rows: validation texts.
        fitted: what minimises the negative log-likelihood; None where nothing was fitted.
        low: lower end of the 95% interval of `fitted`.
        high: upper end.
        nll_before: mean negative log-likelihood in nats at temperature 1.
        nll_after: the same with each fifth of the texts read at the temperature that the other four fitted.
        gain: the first minus the second with its 95% interval.
        reason: why this temperature is used, in a sentence.
    """

    temperature: float
    rows: int
    reason: str
    fitted: float | None = None
    low: float | None = None
    high: float | None = None
    nll_before: float | None = None
    nll_after: float | None = None
    gain: Interval | None = None


def fit_temperature(
    logits: NDArray[Any], labels: NDArray[Any], task_type: TaskType, *, seed: int = 0
) -> TemperatureFit:
    """Fit a temperature and decide whether to use it.

    Args:
        logits: of the fp32 student on validation, [rows, outputs].
        labels: [rows] or, multilabel, [rows, labels].
        task_type: classification or multilabel.
        seed: of the folds.

    Raises:
        ValueError: the task is a regression, which has no probabilities.
    """
    if task_type == "regression":
        raise ValueError("a regression has no probabilities and so no temperature")
    values, rows = np.asarray(logits, dtype=np.float64), len(logits)
    if rows < MIN_ROWS:
        return _kept(rows, f"{rows} validation texts are too few to fit one (at least {MIN_ROWS})")
    if not np.isfinite(values).all():
        return _kept(rows, "some logits are not finite")
    fitted = best_temperature(values, labels, task_type)
    if not LOWEST * _AT_AN_END < fitted < HIGHEST / _AT_AN_END:
        return _kept(rows, f"no temperature between {LOWEST:g} and {HIGHEST:g} is best for these validation texts")
    return _decided(values, labels, task_type, fitted=fitted, seed=seed)


def best_temperature(logits: Floats, labels: NDArray[Any], task_type: TaskType) -> float:
    """The temperature within [`LOWEST`, `HIGHEST`] at which the labels are most likely; finite logits, float64."""

    def mean_nll(log_temperature: float) -> float:
        return float(nll_per_row(logits * math.exp(-log_temperature), labels, task_type).mean())

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(mean_nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))


def cross_fitted_nll(logits: Floats, labels: NDArray[Any], task_type: TaskType, *, seed: int = 0) -> Floats:
    """Negative log-likelihood of every row at the temperature that the other folds fitted, float64 [rows]."""
    folds = np.random.default_rng(seed).permutation(len(logits)) % NUM_FOLDS
    after = np.empty(len(logits))
    for fold in range(NUM_FOLDS):
        rest, own = folds != fold, folds == fold
        temperature = best_temperature(logits[rest], labels[rest], task_type)
        after[own] = nll_per_row(logits[own] / temperature, labels[own], task_type)
    return after


def calibrated(task: TaskSpec, temperature: float) -> TaskSpec:
    """The task read at another temperature, with the same decisions.

    A threshold belongs to the probabilities that it was chosen on. It is moved to where the same logit now has its
    probability; 0.5 stays where it is.
    """
    if task.type == "regression" or temperature == task.temperature:
        return task
    ratio = task.temperature / temperature
    moved = tuple(float(expit(logit(threshold) * ratio)) for threshold in task.thresholds)
    return msgspec.structs.replace(task, temperature=temperature, thresholds=moved)


def _decided(logits: Floats, labels: NDArray[Any], task_type: TaskType, *, fitted: float, seed: int) -> TemperatureFit:
    before = nll_per_row(logits, labels, task_type)
    after = cross_fitted_nll(logits, labels, task_type, seed=seed)
    gain, gain_low, gain_high = bootstrap_interval(np.mean, before - after)
    helps = gain_low > 0.0
    low, high = _interval(logits, labels, task_type, fitted)
    return TemperatureFit(
        temperature=fitted if helps else 1.0,
        rows=len(logits),
        reason=_reason(fitted, helps=helps),
        fitted=fitted,
        low=low,
        high=high,
        nll_before=float(before.mean()),
        nll_after=float(after.mean()),
        gain=Interval(metric="nll gain", value=gain, low=gain_low, high=gain_high),
    )


def _reason(fitted: float, *, helps: bool) -> str:
    if helps:
        return "used: it makes the labels of texts outside the fit more likely"
    return f"kept at 1: the validation texts do not show that {fitted:.3g} helps texts outside the fit"


def _kept(rows: int, why: str) -> TemperatureFit:
    return TemperatureFit(temperature=1.0, rows=rows, reason=f"kept at 1: {why}")


def _interval(logits: Floats, labels: NDArray[Any], task_type: TaskType, fitted: float) -> tuple[float, float]:
    """95% interval of the fitted temperature: normal in its logarithm, robust to a model that is wrong otherwise."""
    slopes, curvatures = _derivatives(logits, labels, task_type, 1.0 / fitted)
    error = math.sqrt(float(np.square(slopes).mean()) / len(slopes)) / float(curvatures.mean())
    factor = math.exp(min(_TWO_SIDED * error * fitted, math.log(HIGHEST / LOWEST)))
    return fitted / factor, fitted * factor


def _derivatives(logits: Floats, labels: NDArray[Any], task_type: TaskType, inverse: float) -> tuple[Floats, Floats]:
    """First and second derivative of every row's negative log-likelihood by the inverse temperature."""
    if task_type == "classification":
        shares = softmax(logits * inverse, axis=1)
        mean = (shares * logits).sum(axis=1)
        own = logits[np.arange(len(logits)), np.asarray(labels, dtype=np.intp)]
        return mean - own, (shares * np.square(logits)).sum(axis=1) - np.square(mean)
    shares = expit(logits * inverse)
    slopes = (shares - np.asarray(labels).astype(bool)) * logits
    return slopes.mean(axis=1), (shares * (1.0 - shares) * np.square(logits)).mean(axis=1)
