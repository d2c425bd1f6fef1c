"""A graph that was asked everything on a bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.candidate import Candidate, Graph
from export.parity.bench import Answers, Bench
from export.parity.invariance import INVARIANCE_LIMIT, largest_difference, measure_invariance
from export.parity.rungs import FP32, PLAIN
from export.parity.weights import Weights, lost_weights
from export.runners import DEFAULT_BATCH_SIZE, session_runner
from serving.claims import Invariance
from serving.errors import BundleError
from serving.model import OnnxModel
from serving.session import create_session


@dataclass(frozen=True)
class Climbed:
    """What a graph said.

    Attributes:
        name: plain, or a precision.
        sha256: of its file.
        made_from: the rung that it was made from.
        model: loaded; None where it cannot be.
        answers: None where there is no model.
        invariance: per task; empty where there is no model.
        lost: per task, names of the weights that are not in an fp32 graph; empty where they were not looked for.
        problem: why answers are missing; None where none is.
    """

    name: str
    sha256: str
    made_from: str
    model: OnnxModel | None = None
    answers: Answers | None = None
    invariance: Mapping[str, Invariance] = field(default_factory=dict)
    lost: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problem: str | None = None


def climb_all(bench: Bench, candidate: Candidate, folder: Path, weights: Mapping[str, Weights]) -> dict[str, Climbed]:
    """Every graph of a candidate in the order of the ladder: plain, fp32, all others.

    Args:
        bench: the questions.
        candidate: what is in the folder.
        folder: of the candidate.
        weights: per task, those of the student; an fp32 graph must hold them.
    """
    others = sorted(candidate.graphs, key=lambda graph: graph.precision != FP32)
    return {graph.precision: climb(bench, graph, folder / graph.file, weights) for graph in (candidate.plain, *others)}


def climb(bench: Bench, graph: Graph, path: Path, weights: Mapping[str, Weights]) -> Climbed:
    """Ask a graph everything; one that cannot be loaded is a finding, too."""
    climbed = Climbed(graph.precision, graph.sha256, graph.made_from)
    try:
        model = OnnxModel(create_session(path), bench.encoder, list(bench.tasks.values()))
    except BundleError as error:
        return replace(climbed, problem=str(error))
    run = session_runner(model.session, model.tasks)
    invariance = measure_invariance(run, bench.encoder, bench.texts, model.tasks)
    batch_size = DEFAULT_BATCH_SIZE if largest_difference(invariance) <= INVARIANCE_LIMIT else 1
    answers = bench.ask(run, batch_size)
    looked_for = weights if graph.precision in (PLAIN, FP32) else {}
    lost = {task: lost_weights(found, path) for task, found in looked_for.items()}
    return replace(climbed, model=model, answers=answers, invariance=invariance, lost=lost, problem=answers.problem)
