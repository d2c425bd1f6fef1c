"""A warm start takes the heads that still fit, says which, and lets them say what they said before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compressor.models.checkpoint import HEADS_FILE, TASKS_FILE, save_checkpoint
from compressor.models.initialise import load_config, pretrained_model
from compressor.models.resolve import checkpoint_fingerprint, resolve_model
from compressor.models.task_model import TaskModel
from compressor.models.warm_start import check_warm_start, is_warm_start, take_heads
from serving.answers import probabilities
from serving.errors import UserError
from serving.manifest import TaskSpec

TOPIC = TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"))
FLAGS = TaskSpec(name="flags", type="multilabel", labels=("angry", "polite"))
URGENCY = TaskSpec(name="urgency", type="regression", range=(1.0, 5.0))
MOOD = TaskSpec(name="mood", type="classification", labels=("bad", "good"))
EARLIER = [TOPIC, FLAGS, URGENCY]
ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
TEXTS = ["my card never arrived", "please refund the money now thanks", "help"]


def changed(task: TaskSpec, **changes: object) -> TaskSpec:
    return msgspec.structs.replace(task, **changes)


def answers(model: TaskModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    if not model.takes_token_types:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        found: dict[str, torch.Tensor] = model.eval()(**inputs)
    return found


@pytest.fixture
def earlier(checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """An earlier student of three tasks."""
    folder = tmp_path / "earlier"
    save_checkpoint(folder, pretrained_model(str(checkpoint()), EARLIER, layers=2, seed=5), tokenizer)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_task_added_later_leaves_the_answers_of_the_others(
    architecture: str, checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Catches a start that throws away what the earlier student learned: encoder, heads, or both."""
    before = pretrained_model(str(checkpoint(architecture)), EARLIER, layers=2, seed=5)
    save_checkpoint(tmp_path, before, tokenizer)
    student = pretrained_model(str(tmp_path), [MOOD, *EARLIER], seed=0)
    fresh = {name: weight.clone() for name, weight in student.head("mood").state_dict().items()}
    origins = take_heads(student, tmp_path)
    own, theirs = answers(student, tokenizer), answers(before, tokenizer)
    for task in EARLIER:
        assert torch.equal(own[task.name], theirs[task.name])
    assert all(torch.equal(weight, fresh[name]) for name, weight in student.head("mood").state_dict().items())
    assert {origin.task: origin.is_copied for origin in origins} == {
        "mood": False, "topic": True, "flags": True, "urgency": True,
    }  # fmt: skip


def test_a_single_task_checkpoint_is_a_start_too(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Catches a head that is only found where several lie beside the encoder."""
    before = pretrained_model(str(checkpoint()), [TOPIC], seed=5)
    save_checkpoint(tmp_path, before, tokenizer)
    student = pretrained_model(str(tmp_path), [TOPIC, MOOD], seed=0)
    take_heads(student, tmp_path)
    assert torch.equal(answers(student, tokenizer)["topic"], answers(before, tokenizer)["topic"])


def test_labels_in_another_order_are_matched_by_name(earlier: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches outputs taken by position: the student would begin with its answers swapped."""
    moved = [changed(TOPIC, labels=("account", "billing", "delivery")), changed(FLAGS, labels=("polite", "angry"))]
    student = pretrained_model(str(earlier), moved, seed=0)
    same = pretrained_model(str(earlier), EARLIER, seed=0)
    first, second = take_heads(student, earlier), take_heads(same, earlier)
    own, theirs = answers(student, tokenizer), answers(same, tokenizer)
    assert torch.equal(own["topic"], theirs["topic"][:, [2, 0, 1]])
    assert torch.equal(own["flags"], theirs["flags"][:, [1, 0]])
    assert "new order" in str(first[0])
    assert second[0].detail == ""


def test_a_regression_keeps_its_values_in_another_range(earlier: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches logits in units of the old range read in units of the new one: every value would be off."""
    wider = changed(URGENCY, range=(-2.0, 8.0))
    student, same = (pretrained_model(str(earlier), [task], seed=0) for task in (wider, URGENCY))
    origin = take_heads(student, earlier)[0]
    take_heads(same, earlier)
    own = probabilities(answers(student, tokenizer)["urgency"].numpy(), wider)
    theirs = probabilities(answers(same, tokenizer)["urgency"].numpy(), URGENCY)
    torch.testing.assert_close(torch.from_numpy(own), torch.from_numpy(theirs), rtol=0, atol=1e-5)
    assert (
        str(origin) == "urgency: head taken from the earlier student, its values moved from the range 1 to 5 to -2 to 8"
    )


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (MOOD, "the earlier student answers topic, flags, urgency"),
        (
            changed(TOPIC, labels=("billing", "delivery", "fraud")),
            "1 new (such as 'fraud'), 1 gone (such as 'account')",
        ),
        (changed(TOPIC, labels=("billing", "delivery")), "1 gone (such as 'account')"),
        (changed(TOPIC, type="multilabel"), "there it was a classification, here it is a multilabel"),
        (changed(FLAGS, name="urgency"), "there it was a regression, here it is a multilabel"),
    ],
)
def test_a_head_that_does_not_fit_stays_fresh_and_says_why(earlier: Path, task: TaskSpec, reason: str) -> None:
    """Catches a head that answers another question under the same name."""
    student = pretrained_model(str(earlier), [task], seed=0)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    (origin,) = take_heads(student, earlier)
    assert not origin.is_copied
    assert origin.detail.endswith(reason)
    assert str(origin).startswith(f"{task.name}: fresh head, ")
    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())


def test_a_fresh_head_is_the_one_that_the_seed_gives(earlier: Path) -> None:
    """Catches a warm start that moves the random numbers of the heads that are not taken."""
    warm = pretrained_model(str(earlier), [TOPIC, MOOD], seed=3)
    take_heads(warm, earlier)
    cold = pretrained_model(str(earlier), [TOPIC, MOOD], seed=3)
    for name, weight in cold.head("mood").state_dict().items():
        assert torch.equal(weight, warm.head("mood").state_dict()[name])


def test_only_a_checkpoint_of_this_program_is_a_warm_start(earlier: Path, checkpoint: Callable[..., Path]) -> None:
    """Catches another tool's classifier whose head is taken for the task's."""
    assert is_warm_start(str(earlier))
    assert not is_warm_start(str(checkpoint()))
    assert not is_warm_start("org/model")
    assert not is_warm_start(None)


def test_lost_or_damaged_heads_are_found_before_training(earlier: Path) -> None:
    """Catches hours of teacher training before the student turns out to have no heads."""
    check_warm_start(earlier)
    (earlier / HEADS_FILE).rename(earlier / "elsewhere")
    with pytest.raises(UserError, match=HEADS_FILE):
        check_warm_start(earlier)
    (earlier / TASKS_FILE).write_text("[{")
    with pytest.raises(UserError, match="damaged"):
        check_warm_start(earlier)


def test_the_heads_are_part_of_the_fingerprint(earlier: Path) -> None:
    """Catches a student that is reused although the heads that it started from were replaced."""
    before = checkpoint_fingerprint(str(earlier))
    tasks = json.loads((earlier / TASKS_FILE).read_text())
    tasks[0]["labels"] = tasks[0]["labels"][::-1]
    (earlier / TASKS_FILE).write_text(json.dumps(tasks))
    renamed = checkpoint_fingerprint(str(earlier))
    weights = bytearray((earlier / HEADS_FILE).read_bytes())
    weights[-1] ^= 1
    (earlier / HEADS_FILE).write_bytes(weights)
    assert len({before, renamed, checkpoint_fingerprint(str(earlier))}) == 3


def test_a_bundle_or_a_run_folder_is_pointed_to_the_student(earlier: Path, tmp_path: Path) -> None:
    """Catches the two wrong folders that people give first, answered with advice on file formats."""
    run = tmp_path / "run"
    (run / "bundle").mkdir(parents=True)
    (run / "bundle" / "manifest.json").write_text("{}")
    earlier.rename(run / "student")
    with pytest.raises(UserError, match="is a bundle"):
        resolve_model(str(run / "bundle"))
    with pytest.raises(UserError, match=r"is a run.*run/student"):
        load_config(str(run))
