"""The quantisation doctor: what each layer's quantisation costs, and what other ranges would have given."""

from __future__ import annotations

import msgspec
import numpy as np

from export.quantise.clipping import METHODS
from export.quantise.effect import Effect
from export.quantise.forms import INTEGER_PRECISIONS
from export.quantise.quantiser import Quantiser
from export.quantise.sensitivity import Sensitivity, measure_sensitivity

STATIC = "int8_static"


class RangeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One way of choosing the ranges of activations.

    Attributes:
        method: a key of `clipping.METHODS`.
        effect: of the whole graph with these ranges, against fp32.
        clipped: share of the activations beyond their range, over all layers.
        worst_clipped: the largest share of one layer's input.
        worst_input: the name of that input.
        is_chosen: whether the artifact has these ranges.
    """

    method: str
    effect: Effect
    clipped: float
    worst_clipped: float
    worst_input: str
    is_chosen: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one precision beyond its file.

    Attributes:
        texts: number of training texts that were run.
        sensitivity: of every layer that can be quantised; empty for fp16.
        ranges: the ways of choosing ranges compared; empty where activations have no fixed ones.
        calibration_texts: number of training texts that the ranges were learned from; 0 where there are none.
    """

    texts: int
    sensitivity: tuple[Sensitivity, ...] = ()
    ranges: tuple[RangeReport, ...] = ()
    calibration_texts: int = 0


def explain(quantiser: Quantiser, precision: str) -> Explanation:
    """Measure a precision's layers one by one, and for int8_static the ways of choosing ranges.

    Args:
        quantiser: with calibration texts.
        precision: of `quantiser.PRECISIONS`.
    """
    probe = quantiser.ranking_probe
    texts = probe.num_texts
    if precision not in INTEGER_PRECISIONS:
        return Explanation(texts=texts)
    sensitivity = tuple(measure_sensitivity(quantiser.switchboard(precision), probe))
    if precision != STATIC:
        return Explanation(texts=texts, sensitivity=sensitivity)
    return Explanation(
        texts=texts,
        sensitivity=sensitivity,
        ranges=tuple(_range_report(quantiser, method) for method in METHODS),
        calibration_texts=sum(len(sample.texts) for sample in quantiser.material.calibration.values()),
    )


def _range_report(quantiser: Quantiser, method: str) -> RangeReport:
    probe = quantiser.ranking_probe
    logits = probe.logits(quantiser.runner(quantiser.graph(STATIC, ranges=method)))
    shares = {
        name: histogram.share_outside(*METHODS[method](histogram)) for name, histogram in quantiser.histograms.items()
    }
    totals = [histogram.total for histogram in quantiser.histograms.values()]
    worst = max(shares, key=shares.__getitem__)
    return RangeReport(
        method=method,
        effect=probe.effect(logits),
        clipped=float(np.average(list(shares.values()), weights=totals)),
        worst_clipped=shares[worst],
        worst_input=worst,
        is_chosen=method == quantiser.settings.ranges,
    )
