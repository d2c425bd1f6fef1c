"""What a manifest claims of an artifact: figures with intervals, and what they were measured on."""

from __future__ import annotations

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A measured value with its 95% interval."""

    metric: str
    value: float
    low: float
    high: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact's logits differ from the torch student's on real texts.

    Attributes:
        max_difference: largest absolute logit difference.
        mean_difference: mean absolute logit difference.
        agreement: share of texts with the same answer, in [0, 1].
        texts: number of texts compared.
        shapes: the (batch, tokens) shapes that were run.
    """

    max_difference: float
    mean_difference: float
    agreement: float
    texts: int
    shapes: tuple[tuple[int, int], ...]


class Invariance(msgspec.Struct, frozen=True, kw_only=True):
    """How a text's logits move when others share its batch, when it stands elsewhere in it, or when it is padded.

    Attributes:
        max_difference: largest logit difference against the same text alone.
        answers_changed: how many texts were answered otherwise at least once.
        texts: number of texts.
        placements: how often a text was answered in company.
    """

    max_difference: float
    answers_changed: int
    texts: int
    placements: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the parity ladder: a graph against the one that it was made from, so a difference has a place.

    Attributes:
        rung: the graph: plain, or an artifact's precision.
        made_from: what it is held against: torch, or another rung.
        max_difference: largest absolute logit difference.
        mean_difference: mean absolute logit difference.
        agreement: share of texts with the same answer, in [0, 1].
        metric_drop: metric of the upper one minus metric of the lower one on validation, paired; None if undefined.
    """

    rung: str
    made_from: str
    max_difference: float
    mean_difference: float
    agreement: float
    metric_drop: Interval | None


class Certification(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and runtime that an artifact's claims were measured on.

    Attributes:
        cpu_model: the processor's name.
        cpu_features: its instruction sets, of `serving.host.CPU_FEATURES`.
        int8_kernels: the class of int8 kernels that follows from them, of `serving.kernels.INT8_KERNELS`.
        saturates_int8: whether a tried 8-bit product saturated; None where it was not tried.
        runtime: name and version of ONNX Runtime.
        device: cpu or cuda.
    """

    cpu_model: str
    cpu_features: tuple[str, ...]
    int8_kernels: str
    saturates_int8: bool | None
    runtime: str
    device: str = "cpu"


class TargetRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """An ONNX Runtime that the bundle was made for.

    Attributes:
        runtime: its version.
        opset: the highest that it reads.
        ir_version: the highest that it reads.
        is_verified: whether the golden examples were replayed under it.
        detail: what was done, or why nothing could be.
    """

    runtime: str
    opset: int
    ir_version: int
    is_verified: bool
    detail: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How far the probabilities of one task can be believed, read with its temperature; `docs/calibration.md`.

    Attributes:
        rows: number of texts.
        nll: negative log-likelihood of the labels, in nats.
        brier: squared distance of probabilities and labels.
        ece: expected calibration error over bins of equal width.
        ece_equal_mass: the same over bins of as many answers each.
        expected_ece: what `ece` would be of a perfectly calibrated model on as many texts.
        expected_ece_equal_mass: what `ece_equal_mass` would be of it.
    """

    rows: int
    nll: Interval
    brier: Interval
    ece: Interval
    ece_equal_mass: Interval
    expected_ece: Interval
    expected_ece_equal_mass: Interval
