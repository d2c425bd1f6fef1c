"""What added texts do to trainings: weights, steps, batches, teachers, compositions."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor.comparison.cells import CellRun
from compressor.data.batches import Collator, TaskExamples, tokenise
from compressor.data.mixture import TaskMixture
from compressor.data.order import LengthGroupedBatchSampler
from compressor.data.splits import TaskData
from compressor.distillation.augmentation.selector.view import present
from compressor.distillation.presets import parse_method
from compressor.distillation.trainer import DistillationTrainer
from compressor.models.initialise import load_tokenizer
from compressor.pipeline import augmenting, selecting
from compressor.pipeline.added import with_added
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.augmenting_stages import AugmentingStages, added_texts
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_data
from compressor.pipeline.run import RunFolder
from compressor.pipeline.selection_input import Selecting
from compressor.pipeline.stages import StageStore, needed_for, run_stages
from compressor.recipe import Recipe
from tests.compressor.pipeline.augmenting.conftest import LEARNED, SHORT, TRAINING, Make, trained, weights


@pytest.mark.parametrize("method", ["source", "refill", "l2a"])
def test_texts_that_weigh_nothing_are_plain_kd(method: str, recipe: Make, store: StageStore) -> None:
    """Catches a gamma of 0 that still changes batches, steps or the random state: the control would be another."""
    plain, weightless = trained(recipe("kd"), store), trained(recipe({method: {"weight": 0}}), store)
    assert weightless.student.folder_name != plain.student.folder_name
    assert not weightless.added_stages(weightless.recipe.method)
    own = weights(plain)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(weightless).items())


def test_a_cell_and_its_stages_keep_to_their_threads(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches two cells at a time that use all CPUs each: their threads spin against one another."""
    seen: dict[str, int] = {}

    def remember(name: str) -> Callable[..., int]:
        return lambda *_, **__: seen.setdefault(name, torch.get_num_threads())

    others = torch.get_num_threads() + 2
    asked = recipe(LEARNED, training={**TRAINING, "threads": others})
    monkeypatch.setattr(selecting, "select_candidates", remember("selection"))
    monkeypatch.setattr(Selecting, "read", remember("read"))
    monkeypatch.setattr(augmenting, "make_candidates", remember("candidates"))
    for stage in Pipeline(asked, StageStore(tmp_path)).added_stages(asked.method)["topic"].values():
        monkeypatch.setattr(AugmentingStages, "_material", lambda *_: None)
        monkeypatch.setattr(AugmentingStages, "_task_data", lambda *_: None)
        stage.build(tmp_path)
    monkeypatch.setattr(RunFolder, "run", remember("cell"))
    run = CellRun(tmp_path / "cell", tmp_path / "stages", asked)
    (tmp_path / "cell").mkdir()
    run.run()
    assert seen == dict.fromkeys(("candidates", "read", "selection", "cell"), others)
    assert torch.get_num_threads() == others - 2


def test_every_arm_takes_as_many_steps(recipe: Make, store: StageStore) -> None:
    """Catches a gain that is a longer training: added texts make no training longer, by steps and by epochs."""
    for training in (TRAINING, {**TRAINING, "steps": None, "epochs": 1}):
        done = {
            method: json.loads((pipeline.path(pipeline.student) / "history.json").read_text())["steps"]
            for method in ("none", "kd", "source", f"refill:{SHORT}")
            for pipeline in [trained(recipe(method, training=training), store)]
        }
        assert len(set(done.values())) == 1, done


@pytest.mark.parametrize("length", [{"steps": 21}, {"steps": None, "epochs": 2}])
def test_validation_is_looked_at_as_often_with_added_texts(
    length: dict[str, Any], recipe: Make, store: StageStore
) -> None:
    """Catches added texts that make validation rarer: a pass over all rows is many passes over the own ones."""
    points = {}
    for method in ("kd", "source"):
        pipeline = trained(recipe(method, training={**TRAINING, **length}), store)
        history = json.loads((pipeline.path(pipeline.student) / "history.json").read_text())
        points[method] = [point["step"] for point in history["curve"] if "eval_score" in point]
    assert points["source"] == points["kd"]
    assert len(points["kd"]) > 1


def test_a_share_of_target_rows_is_drawn(recipe: Make, store: StageStore) -> None:
    """Catches a target_share that reaches no batch."""
    half, few = (weights(trained(recipe(f"source:target_share={share}"), store)) for share in (0.5, 0.05))
    assert any(not torch.equal(tensor, few[name]) for name, tensor in half.items())


@pytest.mark.parametrize(
    ("method", "without"),
    [
        (["bam", "swa", {"refill": {**parse_method(f"refill:{SHORT}")["refill"], "tasks": ["topic"]}}], "bam+swa"),
        (f"{LEARNED}+swa", "kd+swa"),
        (f"bam+{LEARNED}", "bam"),
    ],
    ids=["bam+swa+refill", "l2a+swa", "bam+l2a"],
)
def test_it_composes_for_the_scarce_task_of_two(
    method: object, without: str, files: dict[str, str], recipe: Make, store: StageStore, student_trainer: TrainerOf
) -> None:
    """Catches added rows of one task that shift the other's rows or targets, or how often a task is drawn."""
    task = {"data": files["target"], "text": "text"}
    scarce = {**task, "label": "topic", "train_rows": 48, "source": {"data": files["source"]}}
    tasks = {"topic": scarce, "urgency": {**task, "label": "urgency"}}
    training = {**TRAINING, "steps": None, "epochs": 1}
    asked, plain = (recipe(one, tasks=tasks, training=training) for one in (method, without))
    trainer, before = student_trainer(asked), student_trainer(plain)
    ((name, place),) = Pipeline(asked, store).added_places(asked.method).items()
    kept = place.kept()
    own, other = read_rows(trainer, 0), read_rows(trainer, 1)
    assert name == "topic"
    assert own[:48] == read_rows(before, 0)
    assert other == read_rows(before, 1)
    tokens = tokenise(load_tokenizer(asked.student_model()), kept.texts, 24)
    assert [row.tokens for row in own[48:]] == [tokens[row]["input_ids"].tolist() for row in range(len(kept))]
    assert [row.targets for row in own[48:]] == np.asarray(kept.logits).tolist()
    assert {(row.is_added, row.has_label) for row in own[48:]} == {(True, False)}
    assert not any(row.is_added for row in (*own[:48], *other))
    shares = mixture_of(trainer).probabilities.tolist()
    assert mixture_of(trainer).sizes == (48, len(kept), len(other))
    assert [shares[0] + shares[1], shares[2]] == pytest.approx(mixture_of(before).probabilities.tolist())
    assert shares[0] / shares[1] == pytest.approx(48 / len(kept))
    assert trainer.state.global_step == before.state.global_step == -(-(48 + len(other)) // 8)
    assert trainer.plan.rule.name.startswith("mean of") == ("swa" in asked.method)
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.model.parameters())


TrainerOf = Callable[[Recipe], DistillationTrainer]


@pytest.fixture
def student_trainer(store: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerOf:
    """A factory: recipe -> the trainer of its student, which was trained to the end."""
    trainers: list[DistillationTrainer] = []
    train = DistillationTrainer.resume_or_start

    def remember(self: DistillationTrainer, folder: Path) -> None:
        trainers.append(self)
        train(self, folder)

    monkeypatch.setattr(DistillationTrainer, "resume_or_start", remember)

    def make(asked: Recipe) -> DistillationTrainer:
        student = Pipeline(asked, store).student
        run_stages(store, needed_for(*student.inputs.values()))
        student.build(Path(tempfile.mkdtemp(dir=tmp_path)))
        return trainers[-1]

    return make


class ReadRow(NamedTuple):
    """What a student reads of one training row."""

    tokens: list[int]
    label: object
    has_label: bool
    targets: list[float]
    is_added: bool


def read_rows(trainer: DistillationTrainer, task: int) -> list[ReadRow]:
    """The rows of one task, by its position."""
    examples, collator = trainer.loader.dataset, trainer.loader.collate_fn
    assert isinstance(examples, TaskExamples)
    assert isinstance(collator, Collator)
    found, tokens = collator.tasks[task], examples.tokens[task]
    ids = [tokens[row]["input_ids"].tolist() for row in range(len(tokens))]
    is_added = found.are_added(torch.arange(len(tokens)))
    columns = (found.labels, found.has_label, present(found.targets), is_added)
    return list(map(ReadRow, ids, *(column.tolist() for column in columns)))


def mixture_of(trainer: DistillationTrainer) -> TaskMixture:
    sampler = trainer.loader.batch_sampler
    assert isinstance(sampler, LengthGroupedBatchSampler)
    assert sampler.mixture is not None
    return sampler.mixture


def test_given_students_read_no_texts_of_this_run(recipe: Make, store: StageStore) -> None:
    """Catches a bundle of averaged folders that asks for candidates which nobody made."""
    members = [trained(recipe(f"refill:{SHORT}", order_seed=seed), store) for seed in (0, 1)]
    folders = [str(member.path(member.student)) for member in members]
    pipeline = trained(recipe({**parse_method(f"refill:{SHORT}:top_k=7"), "avg": {"of": folders}}), store)
    found = pipeline.provenance()
    assert "added" not in found["data"]["topic"]["splits"]
    assert "masked language model" not in found["models"]
    assert augmentation_facts(pipeline) == {}


def test_the_teacher_reads_the_source_as_the_recipe_says(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches source rows that the teacher never saw, and a source teacher that is trained again for every subset."""
    first = Pipeline(recipe("kd", task={"train_rows": 20}), store)
    again = Pipeline(recipe("kd", task={"train_rows": 20, "train_rows_seed": 1}), store)
    alone, both = (
        Pipeline(
            recipe("kd", task={"train_rows": 20}, teacher={**first.recipe.teacher.model_dump(), "source": way}), store
        )
        for way in ("none", "together")
    )
    before = [pipeline.teachers["topic"].inputs.get("before") for pipeline in (first, again, alone, both)]
    assert before[0]
    assert before[1]
    assert before[0].folder_name == before[1].folder_name
    assert first.teachers["topic"].folder_name != again.teachers["topic"].folder_name
    assert before[2] is None
    assert before[3] is None
    steps = {}
    for name, pipeline in (("first", first), ("together", both), ("none", alone)):
        run_stages(store, needed_for(pipeline.teachers["topic"]))
        steps[name] = load_file(pipeline.path(pipeline.teachers["topic"]) / "model.safetensors")
    assert {len(rows) for rows in [load_data(first.path(first.data))["topic"].splits["train"].texts]} == {20}
    for one, other in itertools.combinations(steps.values(), 2):
        assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_added_texts_are_none_without_such_a_method() -> None:
    """Catches a method taken for one that adds texts."""
    assert added_texts(parse_method("kd+swa")) is None
    assert added_texts(parse_method("l2a:weight=0")) is None


def test_the_task_data_of_a_student_is_not_changed(toy_data: TaskData) -> None:
    """Catches added rows that stay in the task after its training."""
    found, logits = with_added({"topic": toy_data}, {"topic": np.zeros((108, 3))}, {})
    assert found == {"topic": toy_data}
    assert len(logits["topic"]) == 108
