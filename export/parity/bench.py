"""What every rung of the ladder is asked, and what the torch student says to it, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.parity.checked import CheckedRunner
from export.parity.difference import parity_of
from export.parity.shapes import shape_of, shaped_batches, spread
from export.runners import DEFAULT_BATCH_SIZE, Logits, Runner, run_texts
from export.sample import Sample
from serving.answers import decide
from serving.claims import Parity
from serving.errors import UserError
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder


@dataclass(frozen=True)
class Answers:
    """What one model said to everything on a bench.

    Attributes:
        shaped: logits per task of every batch of `Bench.batches`; `NO_LOGIT` where there were none.
        sample: per task, logits of its labelled texts, [rows, outputs].
        problem: why logits are missing somewhere; None where all are there.
    """

    shaped: tuple[Logits, ...]
    sample: Mapping[str, NDArray[np.float32]]
    problem: str | None = None


class Bench:
    """The questions, and the torch student's answers to them.

    Attributes:
        tasks: by name.
        encoder: tokenises and pads for every rung.
        samples: per task, labelled validation texts.
        texts: of all samples.
        encodings: per task, those of its sample.
        batches: a few of the texts in all shapes, and every golden text alone.
        torch: the student's answers.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        encoder: TextEncoder,
        samples: Mapping[str, Sample],
        reference: Runner,
        golden: Sequence[tuple[str, ...]] = (),
    ) -> None:
        """Ask the student everything.

        Args:
            tasks: what it answers.
            encoder: the bundle's.
            samples: one per task.
            reference: the student.
            golden: texts that will be replayed later, compared one by one.

        Raises:
            UserError: the student's own logits are missing or no numbers.
        """
        self.tasks = {task.name: task for task in tasks}
        self.encoder = encoder
        self.samples = dict(samples)
        self.texts = [text for sample in samples.values() for text in sample.texts]
        self.encodings = {name: encoder.encode(sample.texts) for name, sample in samples.items()}
        alone = [encoder.batch([encoding]) for encoding in encoder.encode(golden)]
        self.batches = [*shaped_batches(encoder, spread(encoder, self.texts)), *alone]
        self.torch = self.ask(reference, DEFAULT_BATCH_SIZE)
        if self.torch.problem:
            raise UserError(
                f"the student cannot be compared with its graphs: {self.torch.problem}. Train it again, or give the "
                "tokenizer that belongs to it."
            )

    def ask(self, run: Runner, batch_size: int) -> Answers:
        """Everything that is compared; a model that fails somewhere still answers the rest."""
        checked = CheckedRunner(run, list(self.tasks.values()))
        shaped = tuple(checked(inputs) for inputs in self.batches)
        sample = {
            name: run_texts(checked, self.encoder, encodings, batch_size=batch_size)[name]
            for name, encodings in self.encodings.items()
        }
        return Answers(shaped, sample, checked.problem)

    def decisions(self, answers: Answers, task: str) -> NDArray[Any]:
        """What the logits of a task's sample say, as its metric takes it."""
        return decide(answers.sample[task], self.tasks[task])

    def parity(self, expected: Answers, given: Answers, task: str) -> Parity:
        """How far two models lie apart, on every shape and on all labelled texts of the task."""
        shapes = tuple(dict.fromkeys(map(shape_of, self.batches)))
        return parity_of(
            self.tasks[task],
            [*(logits[task] for logits in expected.shaped), expected.sample[task]],
            [*(logits[task] for logits in given.shaped), given.sample[task]],
            num_texts=len(self.encodings[task]),
            shapes=shapes,
        )
