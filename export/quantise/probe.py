"""Labelled texts, tokenised once, on which any runner's logits and decisions can be compared with fp32's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from export.gates import Gate, decide_gate
from export.parity.difference import same_answers
from export.quantise.effect import Effect
from export.runners import Logits, Runner, run_texts
from export.sample import Sample
from export.statistics import Array, paired_difference
from serving.answers import decide
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder

GATE = "quantisation_metric_drop"


class Probe:
    """The texts of every task with what the fp32 graph says of them.

    Attributes:
        encoder: tokenises and pads.
        tasks: by name.
        samples: texts and labels per task.
        encodings: of each task's texts.
        reference: the fp32 graph's logits, per task.
    """

    def __init__(
        self, encoder: TextEncoder, tasks: Sequence[TaskSpec], samples: Mapping[str, Sample], fp32: Runner
    ) -> None:
        """Tokenise the texts and ask the fp32 graph."""
        self.encoder = encoder
        self.tasks = {task.name: task for task in tasks}
        self.samples = samples
        self.encodings = {name: encoder.encode(sample.texts) for name, sample in samples.items()}
        self.reference = self.logits(fp32)

    @property
    def num_texts(self) -> int:
        """Texts over all tasks."""
        return sum(map(len, self.encodings.values()))

    def logits(self, run: Runner) -> Logits:
        """Per task, [texts, outputs] on the task's own texts, one text at a time: neighbours change dynamic int8."""
        return {
            name: run_texts(run, self.encoder, encodings, batch_size=1)[name]
            for name, encodings in self.encodings.items()
        }

    def effect(self, logits: Logits) -> Effect:
        """How logits and answers differ from the reference's."""
        return Effect(
            squared_error=self._squared_error(logits),
            metric_change=self._metric_change(logits),
            answers_changed=self._answers_changed(logits),
        )

    def gate(self, logits: Logits, *, subject: str, limit: float) -> Gate:
        """The metric lost against the reference with its paired 95% interval; of several tasks the worst."""
        gates = []
        for name, sample in self.samples.items():
            ours, exact = self._decisions(name, logits), self._decisions(name, self.reference)
            drop, low, high = paired_difference(sample.metric, sample.labels, ours, exact)
            gates.append(decide_gate(GATE, f"{subject} {name}", drop, limit=limit, low=low, high=high))
        return max(gates, key=lambda gate: math.inf if gate.high is None else gate.high)

    def _squared_error(self, logits: Logits) -> float:
        parts = [((logits[name] - reference) ** 2).ravel() for name, reference in self.reference.items()]
        return float(np.concatenate(parts).mean(dtype=np.float64))

    def _metric_change(self, logits: Logits) -> float | None:
        changes = [
            float(sample.metric(sample.labels, self._decisions(name, logits)))
            - float(sample.metric(sample.labels, self._decisions(name, self.reference)))
            for name, sample in self.samples.items()
        ]
        return None if any(math.isnan(change) for change in changes) else min(changes)

    def _answers_changed(self, logits: Logits) -> float:
        same = [same_answers(self.tasks[name], self.reference[name], logits[name]) for name in self.samples]
        return float(1.0 - np.concatenate(same).mean())

    def _decisions(self, task: str, logits: Logits) -> Array:
        decisions: Array = decide(logits[task], self.tasks[task])
        return decisions
