"""What the finished cells answered on the common test rows, scored on all rows and on common resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.comparison.cells import Cell, CellRun
from compressor.comparison.plan import Comparison
from compressor.comparison.statistics import Difference, Floats, paired_difference, resampled_scores
from compressor.data.splits import TEST, TaskData
from compressor.evaluation.figures import read_logits
from compressor.pipeline.learning import load_data
from compressor.pipeline.stages import hash_json
from compressor.progress import progress_bar
from compressor.tasks.registry import TASKS
from serving.answers import decide
from serving.errors import UserError


@dataclass(frozen=True)
class Scores:
    """One arm's metric on one task.

    Attributes:
        seeds: the finished ones.
        values: on all test rows, [seeds].
        resampled: on common resamples of the test rows, [samples, seeds].
    """

    seeds: tuple[int, ...]
    values: Floats
    resampled: Floats

    def of(self, seeds: Sequence[int]) -> tuple[Floats, Floats]:
        """`values` and `resampled` of some of the seeds, in their order."""
        places = [self.seeds.index(seed) for seed in seeds]
        return self.values[places], self.resampled[:, places]


def check_common_rows(cells: Sequence[Cell]) -> None:
    """UserError when an arm is judged on other test rows than the first: nothing could be paired."""
    known: dict[str, dict[str, str]] = {}
    for cell in cells:
        pipeline = cell.runs[0].pipeline
        stage = pipeline.data
        if stage.folder_name not in known:
            data = load_data(pipeline.path(stage))
            known[stage.folder_name] = {task: _fingerprint(rows) for task, rows in data.items()}
        first, own = next(iter(known.values())), known[stage.folder_name]
        for task, rows in first.items():
            if own.get(task) != rows:
                raise UserError(
                    f"the arm '{cell.arm}' has other test rows or labels of task '{task}' than '{cells[0].arm}', so "
                    "that no difference can be paired. Leave its data, columns and seed as they are."
                )


def _fingerprint(data: TaskData) -> str:
    rows = data.splits[TEST]
    labels = [] if rows.labels is None else rows.labels.tolist()
    return hash_json([data.task.type, data.task.metric, data.task.labels, rows.texts, labels])


def score_cells(cells: Sequence[Cell]) -> dict[str, dict[str, Scores]]:
    """Scores per task and arm of finished cells; an arm without any is left out."""
    per_arm: dict[str, list[Cell]] = {}
    for cell in cells:
        per_arm.setdefault(cell.arm, []).append(cell)
    scores: dict[str, dict[str, Scores]] = {}
    loaded: dict[str, Mapping[str, TaskData]] = {}
    with progress_bar("resampling the test rows", len(per_arm)) as bar:
        for number, (arm, own) in enumerate(per_arm.items(), start=1):
            for task, found in _scores_of(own, loaded).items():
                scores.setdefault(task, {})[arm] = found
            bar.update(number)
    return scores


def _scores_of(cells: Sequence[Cell], loaded: dict[str, Mapping[str, TaskData]]) -> dict[str, Scores]:
    answers: dict[str, list[np.ndarray]] = {}
    data: dict[str, TaskData] = {}
    for run in (run for cell in cells for run in cell.runs):
        rows = _data_of(run, loaded)
        folder = run.pipeline.path(run.figures)
        for name in run.recipe.student_tasks:
            data[name] = rows[name]
            answers.setdefault(name, []).append(decide(read_logits(folder, name, TEST), rows[name].task))
    seeds = tuple(cell.seed for cell in cells)
    return {name: _scores(data[name], found, seeds) for name, found in answers.items()}


def _data_of(run: CellRun, loaded: dict[str, Mapping[str, TaskData]]) -> Mapping[str, TaskData]:
    stage = run.pipeline.data
    if stage.folder_name not in loaded:
        loaded[stage.folder_name] = load_data(run.pipeline.path(stage))
    return loaded[stage.folder_name]


def _scores(data: TaskData, answers: Sequence[np.ndarray], seeds: tuple[int, ...]) -> Scores:
    labels = data.splits[TEST].labels
    if labels is None:
        raise RuntimeError(f"the test split of task '{data.task.name}' has no labels")
    metric = TASKS[data.task.type].metrics[data.task.metric]
    values = np.array([metric(labels, answer) for answer in answers], dtype=np.float64)
    return Scores(seeds, values, resampled_scores(metric, labels, answers))


def difference(scores: Mapping[str, Mapping[str, Scores]], comparison: Comparison) -> Difference | None:
    """A comparison on the seeds that both arms finished; None without any."""
    arms = scores.get(comparison.task, {})
    method, baseline = arms.get(comparison.method), arms.get(comparison.baseline)
    if method is None or baseline is None:
        return None
    seeds = [seed for seed in method.seeds if seed in baseline.seeds]
    if not seeds:
        return None
    values, resampled = method.of(seeds)
    base_values, base_resampled = baseline.of(seeds)
    return paired_difference(values - base_values, resampled - base_resampled)
