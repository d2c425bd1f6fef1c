"""The knobs of every method: frozen dataclasses that check themselves. `[paper]` and `[ours]` mark the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from compressor.distillation.knob import knob, require


@dataclass(frozen=True)
class GoldKnobs:
    """The control: gold labels only, nothing to set."""


@dataclass(frozen=True)
class KdKnobs:
    """Knowledge distillation: alpha * T^2 * KL(teacher || student) + (1 - alpha) * hard loss.

    Source of the loss: Hinton, Vinyals and Dean (2015), arXiv:1503.02531. The defaults are ours.

    Attributes:
        alpha: weight of the soft loss, in [0, 1]; 0 is the control `none`.
        temperature: softens both distributions, > 0.
    """

    alpha: float = knob(0.7, "weight of the soft loss, in [0, 1]")
    temperature: float = knob(2.0, "softens both distributions, above 0")

    def __post_init__(self) -> None:
        require(0.0 <= self.alpha <= 1.0, "kd.alpha", self.alpha, "a number in [0, 1]")
        finite = 0.0 < self.temperature < math.inf
        require(finite, "kd.temperature", self.temperature, "a number above 0")


@dataclass(frozen=True)
class BamKnobs:
    """Annealed targets: the loss against lam * label + (1 - lam) * teacher; lam is the weight of the gold label.

    Source: Clark et al. (2019), arXiv:1907.04829 (BAM), also the default: in step s of N, from 0, lam is s / N.

    Attributes:
        annealing: "linear"; "constant": the same lam in every step; "off": lam is 0, the teacher alone.
        constant: lam where the annealing is constant, in [0, 1]; 1 is the control, None is 0.5.
    """

    annealing: Literal["linear", "constant", "off"] = knob(
        "linear", "linear: from the teacher to the gold labels; constant: the same mix in every step; off: teacher only"
    )
    constant: float | None = knob(None, "weight of the gold labels where annealing is constant, in [0, 1]: 0.5")

    def __post_init__(self) -> None:
        if self.constant is None:
            return
        if self.annealing != "constant":
            raise ValueError(
                f"bam.constant is {self.constant:g} beside bam.annealing '{self.annealing}', which does not read it; "
                "leave it out, or set annealing: constant"
            )
        require(0.0 <= self.constant <= 1.0, "bam.constant", self.constant, "a number in [0, 1]")


@dataclass(frozen=True)
class SdaKnobs:
    """Self-distillation from averaged weights: loss + weight * MSE(logits, logits of the mean of past students).

    Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, SDA. Weight and K are the paper's; `ema`, `teacher`
    and `snapshots` are ours.

    Attributes:
        weight: lambda, at least 0; 0 is the control.
        k: how many students before the current one are averaged, or "all".
        ema: decay in (0, 1): the past students count exponentially less; takes the place of `k`.
        teacher: "past", or the ablation "current": the current student in eval mode.
        snapshots: where K above 1 stores its students, "device" or "cpu"; never changes the result.
    """

    weight: float = knob(1.0, "lambda, weight of the distance to the past students, at least 0")
    k: int | Literal["all"] = knob(1, "how many past students are averaged, or all")
    ema: float | None = knob(None, "decay in (0, 1) of an exponential average in place of k")
    teacher: Literal["past", "current"] = knob("past", "current: ablation, the current student in eval mode")
    snapshots: Literal["device", "cpu"] = knob("device", "where k above 1 stores its students")

    def __post_init__(self) -> None:
        require(0.0 <= self.weight < math.inf, "sda.weight", self.weight, "a number of at least 0")
        require(self.k == "all" or self.k >= 1, "sda.k", self.k, "a whole number of at least 1, or all")
        if self.ema is not None:
            require(0.0 < self.ema < 1.0, "sda.ema", self.ema, "a number above 0 and below 1")
            if self.k != 1:
                raise ValueError(f"sda.ema stands beside sda.k {self.k}: it takes the place of k; give one of them")
        if self.teacher == "current" and (self.k != 1 or self.ema is not None):
            raise ValueError("sda.teacher 'current' averages nothing: leave sda.k and sda.ema out, or use 'past'")


@dataclass(frozen=True)
class SdvKnobs:
    """Self-distillation from averaged logits: loss + weight * MSE(logits, mean logits of the last K students).

    Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, SDV.

    Attributes:
        weight: lambda, at least 0; 0 is the control.
        k: how many students before the current one vote; each costs a copy and a forward pass per step.
        snapshots: where they are stored, "device" or "cpu"; never changes the result.
    """

    weight: float = knob(1.0, "lambda, weight of the distance to the past students, at least 0")
    k: int | Literal["all"] = knob(1, "how many past students vote; a whole number")
    snapshots: Literal["device", "cpu"] = knob("device", "where the past students are stored")

    def __post_init__(self) -> None:
        require(0.0 <= self.weight < math.inf, "sdv.weight", self.weight, "a number of at least 0")
        if self.k == "all":
            raise ValueError(
                "sdv.k is all, but the mean of logits needs every past student and a forward pass of each in every "
                "step. Give a number, or use sda with k: all, whose running mean is one copy"
            )
        require(self.k >= 1, "sdv.k", self.k, "a whole number of at least 1")


@dataclass(frozen=True)
class SwaKnobs:
    """Stochastic weight averaging: a constant learning rate from `start` on, and the mean of the weights of that phase.

    Source: Lu et al. (2022), arXiv:2212.05956. The schedule and the defaults are ours.

    Attributes:
        start: share of the steps before the phase, in [0, 1).
        every: optimizer steps between averaged weights; None: 1 below 1,000 steps, else a hundredth of the steps.
        rate: learning rate of the phase as a share of the peak, in (0, 1].
        keep: which weights the result has: "average", "last", or the one "selected" by validation.
    """

    start: float = knob(0.5, "share of the steps before averaging begins, in [0, 1)")
    every: int | None = knob(None, "steps between averaged weights; default: 1, from 1,000 steps on N / 100")
    rate: float = knob(0.5, "constant learning rate of the phase, share of the peak, in (0, 1]")
    keep: Literal["average", "last", "selected"] = knob("average", "which weights are kept")

    def __post_init__(self) -> None:
        if self.start >= 1.0:
            raise ValueError(
                f"swa.start is {self.start}: averaging would begin after the last step; expected a share of the steps "
                "in [0, 1), such as 0.5"
            )
        require(self.start >= 0.0, "swa.start", self.start, "a share of the steps in [0, 1)")
        require(self.every is None or self.every >= 1, "swa.every", self.every, "a whole number of at least 1")
        require(0.0 < self.rate <= 1.0, "swa.rate", self.rate, "a share of the peak in (0, 1]")


@dataclass(frozen=True)
class SeKnobs:
    """Self-ensemble: the mean of the weights after every step; nothing to set.

    Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, SE.
    """


@dataclass(frozen=True)
class EmaKnobs:
    """Exponential mean of the weights after every step, a control of swa. Ours.

    Attributes:
        decay: in (0, 1); weights s steps old count decay^s.
    """

    decay: float = knob(0.999, "weights s steps old count decay^s, in (0, 1)")

    def __post_init__(self) -> None:
        require(0.0 < self.decay < 1.0, "ema.decay", self.decay, "a number above 0 and below 1")


@dataclass(frozen=True)
class AvgKnobs:
    """Mean of the weights of several runs from the same initial weights with other data orders.

    Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, AVG. The default number is ours.

    Attributes:
        runs: how many are trained.
        of: folders of finished students that are averaged instead.
    """

    runs: int = knob(3, "how many students are trained, at least 2")
    of: list[str] | None = field(default=None, metadata={"help": "folders of finished students to average instead"})

    def __post_init__(self) -> None:
        require(self.runs >= 2, "avg.runs", self.runs, "a whole number of at least 2")
        if self.of is not None:
            require(len(self.of) >= 2, "avg.of", self.of, "at least two folders of finished students")


@dataclass(frozen=True)
class VoteKnobs:
    """Mean of the probabilities of several runs from the same initial weights with other data orders.

    Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, VOTE. The default number is ours. An evaluated
    ensemble, not one model.

    Attributes:
        runs: how many are trained.
    """

    runs: int = knob(3, "how many students are trained, at least 2")

    def __post_init__(self) -> None:
        require(self.runs >= 2, "vote.runs", self.runs, "a whole number of at least 2")
