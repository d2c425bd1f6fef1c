"""The knobs of the methods that add texts: `source`, `refill` and `l2a`; read without torch.

Texts are added with the teacher's targets and count as texts without label. All defaults are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressor.distillation.knob import knob, require


@dataclass(frozen=True)
class AddedTexts:
    """What every method of added texts can be told.

    Attributes:
        tasks: those that get texts; None: those with a source, or where none has one, all with a teacher.
        weight: gamma, what an added row weighs in the loss, at least 0; 0 is the same method without added texts.
        target_share: share of the rows of a batch, on average, that are the target's own; None: every row is read
            once in a pass.
        min_confidence: least probability of the teacher's answer, in [0, 1].
        min_margin: least distance to its second answer, in [0, 1].
    """

    tasks: list[str] | None = knob(
        None, "tasks that get texts; default: those with a source, or where none has one, all with a teacher"
    )
    weight: float = knob(1.0, "gamma: what an added row weighs in the loss, at least 0")
    target_share: float | None = knob(
        None, "share of the rows that are the target's own, in (0, 1); default: every row once in a pass"
    )
    min_confidence: float = knob(0.6, "least probability of the teacher's answer, in [0, 1]; a regression has none")
    min_margin: float = knob(0.2, "least distance to the teacher's second answer, in [0, 1]")

    name = "texts"

    def __post_init__(self) -> None:
        require(self.tasks is None or len(self.tasks) > 0, f"{self.name}.tasks", self.tasks, "at least one task")
        require(self.weight >= 0.0, f"{self.name}.weight", self.weight, "a number of at least 0")
        if self.target_share is not None:
            in_range = 0.0 < self.target_share < 1.0
            require(in_range, f"{self.name}.target_share", self.target_share, "a number above 0 and below 1")
        for knob_name in ("min_confidence", "min_margin"):
            value = getattr(self, knob_name)
            require(0.0 <= value <= 1.0, f"{self.name}.{knob_name}", value, "a number in [0, 1]")


@dataclass(frozen=True)
class SourceKnobs(AddedTexts):
    """The texts of the task's source as they are, with the teacher's targets or with their own labels.

    Attributes:
        labels: "teacher", or "gold": the source's own labels, which need no teacher.
        nearest: share of the source texts that are kept, those that look most like the target's, in (0, 1].
    """

    min_confidence: float = knob(0.0, "least probability of the teacher's answer, in [0, 1]; a regression has none")
    min_margin: float = knob(0.0, "least distance to the teacher's second answer, in [0, 1]")
    labels: Literal["teacher", "gold"] = knob("teacher", "gold: the source's own labels instead of the teacher")
    nearest: float = knob(1.0, "share of the source texts kept, those most like the target's, in (0, 1]")

    name = "source"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.0 < self.nearest <= 1.0, "source.nearest", self.nearest, "a number above 0 and at most 1")
        if self.labels == "gold" and (self.min_confidence or self.min_margin):
            raise ValueError(
                "source.labels is gold, where no teacher is asked, beside a limit on the teacher's confidence; leave "
                "min_confidence and min_margin out"
            )


@dataclass(frozen=True)
class RefillKnobs(AddedTexts):
    """Texts of target and source with words masked and refilled by a masked language model.

    The refilled words of the target alone (`start: target`, `rate: 0.4`, `rounds: 1`) are the augmentation of Jiao et
    al. (2020), arXiv:1909.10351 (TinyBERT), in our form: there every word is replaced with probability 0.4.

    Attributes:
        start: where chains start: "both", or "target" alone.
        source_share: share of the chains that start from a source text, in [0, 1], where there is a source.
        rate: rho, share of the tokens that are masked in a round, in [0, 1].
        top_k: the refill is drawn from so many likeliest tokens, at least 1.
        rounds: a chain has 1 to this many rounds; 0 leaves texts as they are.
        per_row: candidates per labelled target row, before filters, at least 1.
        max_edit_ratio: largest share of changed words, in [0, 1].
        mlm: "adapt": a head on the pretrained encoder, trained on the training texts; or a masked-LM checkpoint.
        mlm_steps: about how many steps of 16 training texts the head is adapted, in whole passes.
    """

    start: Literal["both", "target"] = knob("both", "where chains start: target and source texts, or target alone")
    source_share: float = knob(0.5, "share of the chains that start from a source text, in [0, 1]")
    rate: float = knob(0.3, "rho: share of the tokens that are masked in a round, in [0, 1]")
    top_k: int = knob(20, "a refill is drawn from so many likeliest tokens")
    rounds: int = knob(3, "a chain has 1 to this many rounds of mask and refill; 0 leaves texts as they are")
    per_row: int = knob(15, "candidates per labelled target row, before filters")
    max_edit_ratio: float = knob(0.5, "largest share of changed words, in [0, 1]")
    mlm: str = knob("adapt", "adapt: a masked-LM head trained on the training texts; or a masked-LM checkpoint")
    mlm_steps: int = knob(500, "about how many steps of 16 texts a head is adapted; of fewer, refills are word salad")

    name = "refill"

    def __post_init__(self) -> None:
        super().__post_init__()
        for knob_name in ("source_share", "rate", "max_edit_ratio"):
            value = getattr(self, knob_name)
            require(0.0 <= value <= 1.0, f"{self.name}.{knob_name}", value, "a number in [0, 1]")
        for knob_name, least in (("top_k", 1), ("rounds", 0), ("per_row", 1), ("mlm_steps", 1)):
            value = getattr(self, knob_name)
            require(value >= least, f"{self.name}.{knob_name}", value, f"a whole number of at least {least}")


@dataclass(frozen=True)
class L2aKnobs(RefillKnobs):
    """Refilled texts, of which a policy learns to keep those that help the student on held-back target rows.

    Our reading of Feng et al. (2021), arXiv:2101.08106 (L2A).

    Attributes:
        selector: "learned"; its controls of the same number and classes: "random", or the fixed "filter" (teacher
            confidence minus the student's distance from the teacher).
        credit: how a reward is shared among candidates: "reinforce", "alignment" of gradients, or a "datamodel".
        episodes: of the selector's training, at least 1.
        episode_size: candidates that an episode offers, at least 1.
        updates: of the student's head in an episode, at least 1.
        learning_rate: of the policy, above 0.
        entropy: weight of the entropy bonus, at least 0.
        full_every: one in so many episodes is also done with the whole student, at least 1.
        reward: whose loss an episode is judged by: the "head" on stored features, or the whole "student", which costs
            a hundred times as much.
        state: what the policy sees of a candidate: "all", or the "facts" alone: the student's distance from the
            teacher, the teacher's entropy, domain score, share of changed words and alignment.
        prior: how the policy starts: as the fixed "filter", or "even": every candidate is as likely.
        share: of the candidates that is kept, in (0, 1]; None: all, unless the reward rows say clearly that a quarter,
            a half or three quarters of them do better.
    """

    selector: Literal["learned", "random", "filter"] = knob("learned", "random and filter are its controls")
    credit: Literal["reinforce", "alignment", "datamodel"] = knob(
        "reinforce", "how a reward is shared among candidates"
    )
    episodes: int = knob(400, "of the selector's training")
    episode_size: int = knob(64, "candidates that an episode offers")
    updates: int = knob(20, "of the student's head in an episode")
    learning_rate: float = knob(3e-3, "of the policy, above 0")
    entropy: float = knob(0.01, "weight of the policy's entropy bonus, at least 0")
    full_every: int = knob(20, "one in so many episodes is repeated with the whole student, for the record")
    reward: Literal["head", "student"] = knob(
        "head", "student: every episode with the whole student, a hundred times as long"
    )
    state: Literal["all", "facts"] = knob("all", "what the policy sees; facts: no features, no answers of either model")
    prior: Literal["filter", "even"] = knob("filter", "how the policy starts; even: every candidate is as likely")
    share: float | None = knob(None, "of the candidates kept, in (0, 1]; default: all, unless fewer are clearly better")

    name = "l2a"

    def __post_init__(self) -> None:
        super().__post_init__()
        for knob_name in ("episodes", "episode_size", "updates", "full_every"):
            value = getattr(self, knob_name)
            require(value >= 1, f"l2a.{knob_name}", value, "a whole number of at least 1")
        require(self.learning_rate > 0.0, "l2a.learning_rate", self.learning_rate, "a number above 0")
        require(self.entropy >= 0.0, "l2a.entropy", self.entropy, "a number of at least 0")
        if self.share is not None:
            require(0.0 < self.share <= 1.0, "l2a.share", self.share, "a number above 0 and at most 1")
