"""What the reproductions share: rows drawn once, one training per cell in a store of stages, a block on a page.

A cell is a recipe whose student is trained and asked, through the pipeline's own stages: what is done is not done
again, what was interrupted continues.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.splits import TEST, VALIDATION, TaskData
from compressor.evaluation.figures import read_logits
from compressor.pipeline import proving
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_data
from compressor.pipeline.stages import Stage, StageStore, needed_for, run_stages
from compressor.recipe import Recipe
from compressor.report.wording import number_of
from compressor.tasks.registry import TASKS
from serving.answers import decide
from serving.errors import UserError
from serving.host import cpu_features, describe_host

HERE = Path(__file__).parent
BF16_FEATURES = {"avx512_bf16", "amx_bf16"}
DOCS = HERE.parent / "docs" / "results.md"


@dataclass(frozen=True)
class Answers:
    """What one trained student says of the evaluation rows.

    Attributes:
        data: the task.
        logits: by split, [rows, outputs].
    """

    data: TaskData
    logits: Mapping[str, np.ndarray]

    @property
    def test_labels(self) -> np.ndarray:
        """Of the test rows."""
        return self._labels(TEST)

    @property
    def test_answers(self) -> np.ndarray:
        """The predictions that metrics take."""
        return decide(self.logits[TEST], self.data.task)

    def score(self, split: str = TEST) -> float:
        """The metric that the task is judged by."""
        metric = TASKS[self.data.task.type].metrics[self.data.task.metric]
        return float(metric(self._labels(split), decide(self.logits[split], self.data.task)))

    def validation_figures(self) -> dict[str, float]:
        """Hard loss and score on validation, by the names that a choice between weights reads."""
        kind, task = TASKS[self.data.task.type], self.data.task
        targets = torch.from_numpy(kind.targets(self._labels(VALIDATION), task))
        loss = float(kind.hard_loss(torch.from_numpy(self.logits[VALIDATION]), targets).mean())
        return {f"{task.name}_loss": loss, "score": self.score(VALIDATION)}

    def _labels(self, split: str) -> np.ndarray:
        labels = self.data.splits[split].labels
        if labels is None:
            raise RuntimeError(f"the {split} split of task '{self.data.task.name}' has no labels")
        return labels


def train_and_ask(recipe: Recipe, store: StageStore) -> tuple[Pipeline, Answers]:
    """Train a recipe's student and ask it, unless the store has it already."""
    pipeline = Pipeline(recipe, store)
    figures = pipeline.figures["student"]
    run_stages(store, needed_for(figures))
    return pipeline, _answers(pipeline, figures)


def ask_last_iterate(pipeline: Pipeline) -> Answers:
    """Ask the last iterate that a training by swa leaves beside the kept weights."""
    student, recipe = pipeline.student, pipeline.recipe
    figures = Stage(
        f"figures-{student.name}-last",
        1,
        {"max_length": recipe.max_length},
        lambda folder: proving.measure_students(
            folder, load_data(pipeline.path(pipeline.data)), [pipeline.path(student) / "last"], recipe.max_length
        ),
        {"data": pipeline.data, "student": student},
        label="evaluating the last iterate",
    )
    run_stages(pipeline.store, [figures])
    return _answers(pipeline, figures)


def _answers(pipeline: Pipeline, figures: Stage) -> Answers:
    ((name, data),) = load_data(pipeline.path(pipeline.data)).items()
    folder = pipeline.path(figures)
    return Answers(data, {split: read_logits(folder, name, split) for split in (VALIDATION, TEST)})


def draw_rows(source: Path, target: Path, counts: Mapping[str, int | None], *, balanced_by: str | None = None) -> Path:
    """Copy so many rows of every split into another folder, drawn by a fixed seed; done once.

    Args:
        source: folder with `<split>.jsonl` files.
        target: to write; its name should tell the counts.
        counts: rows per split; a split with fewer, or with None, is copied whole.
        balanced_by: a label column: the train rows are drawn in equal numbers per label.

    Returns:
        `target`.
    """
    if target.is_dir():
        return target
    aside = target.with_name(f"{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for split, count in counts.items():
        rows = _read_rows(source / f"{split}.jsonl")
        order = np.random.default_rng(0).permutation(len(rows))
        if balanced_by is not None and split == "train" and count is not None:
            order = _balanced([str(rows[row][balanced_by]) for row in order], order, count)
        chosen = [rows[row] for row in order[:count]]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (aside / f"{split}.jsonl").write_text(text, encoding="utf-8")
    aside.rename(target)
    return target


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no '{path}'. Give a folder that holds a folder of splits per data set with --data.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _balanced(labels: list[str], order: np.ndarray, count: int) -> np.ndarray:
    """Of every label the first rows in order, as many of each."""
    names = sorted(set(labels))
    each = count // len(names)
    places = {name: [place for place, label in enumerate(labels) if label == name] for name in names}
    fewest = min(len(found) for found in places.values())
    if fewest < each:
        raise UserError(f"{each} rows per label were asked for, but one label has {fewest}. Ask for fewer rows.")
    kept = sorted(place for found in places.values() for place in found[:each])
    return order[kept]


def machine() -> dict[str, Any]:
    """What a measurement must be read with."""
    return {"host": describe_host(), "torch": torch.__version__}


def machine_in_words(facts: Mapping[str, Any]) -> str:
    """CPU, CPUs and torch's version."""
    host = facts["host"]
    return f"{host['cpu_model']}, {number_of(host['available_cpus'], 'CPU')}, torch {facts['torch']}"


def dtype_here() -> str:
    """One dtype for every cell: bf16 where the processor has instructions for it.

    Not `auto`: that times both in every training, and two cells could end up with different ones.
    """
    return "bf16" if BF16_FEATURES & set(cpu_features()) else "fp32"


def put_block(page: Path, name: str, text: str) -> None:
    """Put a text between a page's markers `<!-- NAME:begin -->` and `<!-- NAME:end -->`, which are added if missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    if begin not in old and end not in old:
        old = f"{old.rstrip()}\n\n{begin}\n{end}\n"
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise UserError(f"'{page}' needs one '{begin}' and, after it, one '{end}'. Mend the page and run again.")
    before, rest = old.split(begin)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}", encoding="utf-8")
