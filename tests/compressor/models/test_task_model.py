"""One encoder, many heads: the logits must be those that transformers' own models give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from compressor.models.checkpoint import load_checkpoint, only_tasks, save_checkpoint
from compressor.models.initialise import finetuned_model, from_teacher, pretrained_model
from compressor.models.task_model import TaskModel, num_encoder_parameters, num_parameters
from serving.manifest import TaskSpec

ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
TASKS = [
    TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"), output="logits_topic"),
    TaskSpec(name="urgency", type="regression", output="logits_urgency"),
]
TEXTS = ["my card never arrived", "please refund the money now thanks", "help"]


def batch(tokenizer: PreTrainedTokenizerFast, model: TaskModel) -> dict[str, torch.Tensor]:
    encoded = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    if getattr(model.config, "type_vocab_size", 0) < 2:
        encoded.pop("token_type_ids", None)
    return encoded


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_finetuned_checkpoint_answers_as_transformers_does(
    architecture: str, checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a head that is fed something else than its own encoder's output."""
    folder = checkpoint(architecture)
    model, labels = finetuned_model(str(folder))
    own = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = batch(tokenizer, model)
    with torch.no_grad():
        assert torch.equal(model.eval()(**inputs)["task"], own(**inputs).logits)
    assert labels == ("billing", "delivery", "account")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fewer_layers_and_two_heads_survive_saving(
    architecture: str, checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Catches weights that are lost or made anew between saving and loading, for one head and for two."""
    folder = checkpoint(architecture)
    for tasks in (TASKS[:1], TASKS):
        model = pretrained_model(str(folder), tasks, layers=2, seed=0).eval()
        inputs = batch(tokenizer, model)
        target = tmp_path / str(len(tasks))
        save_checkpoint(target, model, tokenizer)
        loaded = load_checkpoint(target)
        with torch.no_grad():
            before, after = model(**inputs), loaded(**inputs)
        assert {name: logits.shape[1] for name, logits in after.items()} == {
            task.name: task.num_outputs for task in tasks
        }
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert loaded.config.num_hidden_layers == 2
        assert num_parameters(loaded) == num_parameters(model)


def test_a_single_task_checkpoint_is_read_by_transformers_alone(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Catches a checkpoint that only this project can read, or whose labels are lost."""
    model = pretrained_model(str(checkpoint()), TASKS[:1], layers=2, seed=0).eval()
    save_checkpoint(tmp_path, model, tokenizer)
    foreign = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = batch(tokenizer, model)
    with torch.no_grad():
        assert torch.equal(foreign(**inputs).logits, model(**inputs)["topic"])
    assert foreign.config.id2label == {0: "billing", 1: "delivery", 2: "account"}
    assert foreign.config.problem_type == "single_label_classification"


def test_a_multi_task_checkpoint_holds_an_encoder_that_transformers_reads(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Catches a multi-task folder whose encoder is stored under names that AutoModel does not know."""
    model = pretrained_model(str(checkpoint()), TASKS, seed=0).eval()
    save_checkpoint(tmp_path, model, tokenizer)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    inputs = batch(tokenizer, model)
    with torch.no_grad():
        assert torch.equal(encoder(**inputs).last_hidden_state, model.encoder(**inputs).last_hidden_state)


def test_loading_several_heads_is_quiet_and_draws_nothing(
    checkpoint: Callable[..., Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Catches a warning of missing weights that are not missing, and a load that changes what is drawn after it."""
    save_checkpoint(tmp_path, pretrained_model(str(checkpoint()), TASKS, seed=0), tokenizer)
    before = torch.random.get_rng_state()
    load_checkpoint(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "MISSING" not in caplog.text


def test_the_encoder_runs_once_whatever_the_number_of_tasks(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a second encoder pass per head, which would double the price of a task."""
    model = pretrained_model(str(checkpoint()), TASKS, seed=0).eval()
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_args: calls.append(1))
    model(**batch(tokenizer, model))
    assert len(calls) == 1
    assert sum("embeddings.word_embeddings" in name for name, _ in model.named_parameters()) == 1


def test_rows_go_to_their_own_task_only(checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches rows that reach a foreign head, and a head that gets a gradient from a batch without its rows."""
    model = pretrained_model(str(checkpoint()), TASKS, seed=0).eval()
    inputs = batch(tokenizer, model)
    everything = model(**inputs)
    some = model(**inputs, rows={"topic": torch.tensor([2, 0])})
    assert some.keys() == {"topic"}
    torch.testing.assert_close(some["topic"], everything["topic"][[2, 0]])
    some["topic"].sum().backward()
    assert all(parameter.grad is None for parameter in model.head("urgency").parameters())
    assert all(parameter.grad is not None for parameter in model.head("topic").parameters())


def test_a_model_of_some_tasks_answers_them_as_before(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a narrowed model with another task's head, or one that still answers the tasks that were left out."""
    model = pretrained_model(str(checkpoint()), TASKS, seed=0).eval()
    narrowed = only_tasks(model, ["urgency"])
    inputs = batch(tokenizer, model)
    with torch.no_grad():
        everything, some = model(**inputs), narrowed(**inputs)
    assert [task.name for task in narrowed.tasks] == ["urgency"]
    assert some.keys() == {"urgency"}
    assert torch.equal(some["urgency"], everything["urgency"])
    reordered = only_tasks(model, ["urgency", "topic"])
    assert [task.name for task in reordered.tasks] == ["topic", "urgency"]


def test_a_student_from_its_teacher_has_the_teachers_head_and_layers(checkpoint: Callable[..., Path]) -> None:
    """Catches `init: teacher` that silently starts from the pretrained weights."""
    teacher = pretrained_model(str(checkpoint()), TASKS[:1], seed=3)
    student = from_teacher(teacher, TASKS[:1], layers=[3, 1])
    for own, copied in zip(teacher.heads.parameters(), student.heads.parameters(), strict=True):
        assert torch.equal(own, copied)
        assert own is not copied
    kept = student.encoder.encoder.layer
    assert torch.equal(
        kept[0].attention.self.query.weight, teacher.encoder.encoder.layer[3].attention.self.query.weight
    )
    assert torch.equal(
        kept[1].attention.self.query.weight, teacher.encoder.encoder.layer[1].attention.self.query.weight
    )
    assert len(teacher.encoder.encoder.layer) == 4


def test_initial_weights_depend_on_the_seed_and_leave_the_generator_alone(
    checkpoint: Callable[..., Path],
) -> None:
    """Catches a head drawn from the global generator, which would change data order or dropout."""
    folder = str(checkpoint())
    before = torch.random.get_rng_state()
    first = pretrained_model(folder, TASKS, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    same, other = pretrained_model(folder, TASKS, seed=1), pretrained_model(folder, TASKS, seed=2)
    weight = "heads.topic_head.classifier.weight"
    assert torch.equal(first.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_encoder_parameters_leave_out_all_embeddings(checkpoint: Callable[..., Path]) -> None:
    """Catches sizes that count the word table as compression work done."""
    model = pretrained_model(str(checkpoint()), TASKS[:1], seed=0)
    tables = model.encoder.embeddings
    embedded = sum(
        table.weight.numel()
        for table in (tables.word_embeddings, tables.position_embeddings, tables.token_type_embeddings)
    )
    assert num_encoder_parameters(model) == num_parameters(model) - embedded
