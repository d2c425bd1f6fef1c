"""The benchmark of training: fair arms, right pairs, a result that can be read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.training import QUICK, accuracy_difference, compare, main, rotated, with_rows
from benchmarks.training_arms import MAIN_ARMS, OURS, PART_ARMS, USUAL, AskingCollator, Ground, _distillation_loss
from compressor.data import order
from compressor.data.batches import TaskExamples, task_rows, tokenise
from compressor.data.splits import Split, TaskData, training_texts
from compressor.distillation import training
from compressor.distillation.presets import KdKnobs
from compressor.distillation.targets.kd import kd_terms
from compressor.distillation.targets.term import TaskBatch
from compressor.models.checkpoint import load_checkpoint, save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.models.teacher import teacher_logits
from compressor.recipe import Recipe, TaskSettings
from compressor.tasks.registry import TASKS
from serving.manifest import TaskSpec

SPEC = TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"), metric="accuracy")


@pytest.fixture
def ground(toy_checkpoint: Path, tmp_path: Path) -> Ground:
    """Twelve rows, a teacher of two layers and a student of one."""
    texts: list[tuple[str, ...]] = [(f"refund {'late ' * (row % 4)}help",) for row in range(12)]
    split = Split(texts, np.arange(12) % 3)
    for name, layers in (("teacher", 2), ("student", 1)):
        model = pretrained_model(str(toy_checkpoint), [SPEC], layers=layers, seed=0)
        save_checkpoint(tmp_path / name, model, load_tokenizer(str(toy_checkpoint)))
    return Ground(
        data=TaskData(SPEC, {"train": split, "validation": split}, ("text",)),
        teacher=tmp_path / "teacher",
        student=tmp_path / "student",
        recipe=Recipe(name="toy", tasks={"topic": TaskSettings(data="nowhere.csv")}, max_length=16),
        seed=0,
    )


def test_both_loops_minimise_the_same_loss() -> None:
    """Catches a usual loop that is slower or faster to learn only because its loss is another one."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=random) for _ in range(2))
    labels, knobs = torch.tensor([0, 1, 2, 1, 0]), KdKnobs(alpha=0.7, temperature=3.0)

    def usual_student(**_inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=student, loss=torch.nn.functional.cross_entropy(student, labels))

    def usual_teacher(**inputs: torch.Tensor) -> SimpleNamespace:
        assert "labels" not in inputs
        return SimpleNamespace(logits=teacher)

    batch = TaskBatch(TASKS["classification"], student, labels, torch.ones(5, dtype=torch.bool), teacher)
    ours = torch.stack([term.loss(batch) for term in kd_terms(knobs)]).sum() / len(labels)
    usual = _distillation_loss(usual_student, usual_teacher, {"labels": labels}, knobs)
    torch.testing.assert_close(usual, ours)


def test_the_teacher_that_is_asked_every_step_says_what_was_cached(ground: Ground) -> None:
    """Catches an arm without cached targets that learns from something else than the arm with them."""
    texts = training_texts(ground.data)
    cached = teacher_logits(ground.teacher, texts, SPEC, max_length=16)
    examples = TaskExamples([tokenise(load_tokenizer(str(ground.student)), texts, 16)])
    collator = AskingCollator([task_rows(ground.data)], pad_id=0, teacher=load_checkpoint(ground.teacher))
    rows = [7, 0, 3]
    asked = collator([examples[row] for row in rows])["targets"]["topic"]
    np.testing.assert_allclose(asked.numpy(), cached[rows], atol=1e-5)


@pytest.mark.parametrize("arm", ["ours without length groups", "ours without leaving out unused embeddings"])
def test_an_arm_changes_our_training_and_puts_it_back(
    ground: Ground, arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a part that is said to be taken away while it acts, or that stays away for the next arm."""
    during: list[tuple[object, object]] = []
    before = _changeable()
    monkeypatch.setattr("benchmarks.training_arms.train", lambda *_arguments: during.append(_changeable()))
    PART_ARMS[arm](ground, tmp_path / "run")
    assert len(during) == 1
    assert sum(old is not new for old, new in zip(before, during[0], strict=True)) == 1
    assert _changeable() == before


def _changeable() -> tuple[object, object]:
    """What the arms replace in our training."""
    return vars(order)["_BATCHES_PER_GROUP"], vars(training)["train_used_rows"]


def test_every_seed_trains_on_the_same_rows(ground: Ground) -> None:
    """Catches rounds that differ in their data, so that their seeds cannot be averaged."""
    few = with_rows(ground, 5)
    assert few.data.splits["train"].texts == with_rows(ground, 5).data.splits["train"].texts
    assert (len(few.data.splits["train"]), len(few.data.splits["validation"])) == (5, 12)
    assert few.num_examples == 5 * ground.recipe.training.epochs


def test_each_round_begins_with_another_arm() -> None:
    """Catches an order in which one arm always runs on a warm or a tired machine."""
    assert [rotated(["a", "b", "c"], number) for number in range(3)] == [list("abc"), list("bca"), list("cab")]


def test_ratios_pair_the_arms_of_one_round() -> None:
    """Catches pairs of different rounds: rows come in the order of execution, which rotates."""
    rows = [
        {"arm": OURS, "round": 0, "seconds": 1.0},
        {"arm": USUAL, "round": 0, "seconds": 2.0},
        {"arm": USUAL, "round": 1, "seconds": 20.0},
        {"arm": OURS, "round": 1, "seconds": 10.0},
    ]
    assert compare(rows, slower=USUAL, faster=OURS) == {"ratio": 2.0, "low": 2.0, "high": 2.0}


def test_the_accuracy_difference_is_ours_minus_the_usual() -> None:
    """Catches a sign that would turn a loss of accuracy into a gain."""
    rows = [
        {"arm": arm, "round": number, "hits": hits}
        for number in range(2)
        for arm, hits in ((OURS, [1, 1, 0, number]), (USUAL, [1, 0, 0, 0]))
    ]
    found = accuracy_difference(rows)
    assert (found["ours"], found["usual"], found["difference"]) == (0.625, 0.25, 0.375)
    assert found["low"] <= 0.375 <= found["high"]


def test_a_quick_run_leaves_figures_and_a_table(
    toy_checkpoint: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a benchmark that breaks after an hour, when it writes its result."""
    recipe = {
        "name": "toy",
        "tasks": {"topic": {"data": str(toy_data / "trec6"), "text": "text", "label": "label"}},
        "teacher": {"model": str(toy_checkpoint), "epochs": 1},
        "student": {"layers": 1},
        "training": {"batch_size": 8, "threads": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    options = {"--recipe": "recipe.yaml", "--work": "work", "--output": "training.json"}
    arguments = [part for name, value in options.items() for part in (name, str(tmp_path / value))]
    monkeypatch.setattr("sys.argv", ["training", "--quick", *arguments])
    main()
    result = json.loads((tmp_path / "training.json").read_text())
    assert [arm["arm"] for arm in result["main"]] == list(MAIN_ARMS)
    assert [arm["arm"] for arm in result["parts"]] == list(PART_ARMS)
    assert result["settings"]["rows"] == QUICK["rows"]
    assert str(tmp_path) not in json.dumps({key: result[key] for key in ("main", "parts", "accuracy")})
    table = (tmp_path / "training.md").read_text()
    assert all(f"| {arm} |" in table for arm in PART_ARMS)
