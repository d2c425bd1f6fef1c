"""Bad input: one clear line that says what to do, exit code 2, nothing lost, and no training before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

Rows = list[dict[str, Any]]


def edited(toy: Any, edit: Callable[[Rows], object]) -> Path:
    """The toy data after an edit of their rows, and a recipe that reads them."""
    rows: Rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    edit(rows)
    path: Path = toy.write_data(rows)
    return path


def write_splits(toy: Any, **splits: Rows) -> None:
    folder = toy.folder / "splits"
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    toy.write(tasks={"topic": {"data": str(folder), "text": "text", "label": "topic"}})


def topic(toy: Any, **changes: Any) -> dict[str, Any]:
    return {"tasks": {"topic": {"data": str(toy.data), "text": "text", "label": "topic", **changes}}}


def seen_only_in_test(toy: Any) -> None:
    rows: Rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    write_splits(toy, train=rows[:200], test=[*rows[200:], {"text": "who are you", "topic": "other"}])


BAD_DATA: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "missing file": (lambda toy: toy.write(**topic(toy, data="gone.csv")), ["no data 'gone.csv'", "Expected"]),
    "missing column": (lambda toy: toy.write(**topic(toy, label="topics")), ["'topics'", "topic"]),
    "missing text column": (lambda toy: toy.write(**topic(toy, text="txt")), ["'txt'", "text"]),
    "empty text": (lambda toy: edited(toy, lambda rows: rows[7].update(text="  ")), ["line 8", "no text"]),
    "label seen only in test": (seen_only_in_test, ["other", "train"]),
    "one class only": (
        lambda toy: edited(toy, lambda rows: [row.update(topic="billing") for row in rows]),
        ["'topic'", "billing"],
    ),
    "no label": (lambda toy: edited(toy, lambda rows: rows[3].update(topic=None)), ["line 4", "no label"]),
    "NaN as a number": (
        lambda toy: (
            edited(toy, lambda rows: rows[5].update(urgency=float("nan"))),
            toy.write(**topic(toy, label="urgency")),
        ),
        ["line 6", "no label"],
    ),
    "not UTF-8": (
        lambda toy: toy.data.write_bytes(toy.data.read_bytes().replace(b"refund", b"r\xe9fund", 1)),
        ["UTF-8", "line"],
    ),
    "a text column of numbers": (lambda toy: toy.write(**topic(toy, text="urgency")), ["'urgency'", "'text'"]),
    "a cut line": (lambda toy: toy.data.write_text(toy.data.read_text()[:-20]), ["line 240", "JSON"]),
    "a metric that does not exist": (lambda toy: toy.write(**topic(toy, metric="acuracy")), ["acuracy", "accuracy"]),
    "unlabelled file missing": (lambda toy: toy.write(**topic(toy, unlabelled="no.txt")), ["no.txt", ".jsonl"]),
    "where without rows": (lambda toy: toy.write(**topic(toy, where={"topic": "weather"})), ["weather"]),
    "pairs beside single texts": (
        lambda toy: (
            edited(toy, lambda rows: [row.update(note=f"note {i}") for i, row in enumerate(rows)])
            and toy.write(
                tasks={
                    **topic(toy)["tasks"],
                    "pair": {"data": str(toy.data), "text": ["text", "note"], "label": "topic"},
                }
            )
        ),
        ["'topic' reads single texts", "'pair' pairs"],
    ),
}

BAD_RECIPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown method": ({"method": "kdd"}, ["no method 'kdd'", "Did you mean kd?"]),
    "unknown knob": ({"method": {"kd": {"temprature": 2}}}, ["temprature", "Did you mean temperature?"]),
    "unknown key": ({"studnet": {"layers": 2}}, ["'studnet'", "Did you mean student?"]),
    "more layers than there are": ({"student": {"layers": 9}}, ["9", "4 layers", "at most 4"]),
    "a layer that is not there": ({"student": {"layers": [0, 4]}}, ["[0, 4]", "0 to 3"]),
    "unknown device": ({"training": {"device": "abacus"}}, ["'abacus'", "auto or cpu"]),
    "unknown tracker": ({"training": {"report_to": ["nobody"]}}, ["'nobody'", "report_to"]),
    "more tokens than positions": ({"max_length": 4000}, ["4000", "at most 512"]),
    "unknown student": ({"student": {"model": "nobody/nothing"}}, ["'nobody/nothing'", "Give a folder"]),
    "student folder missing": ({"student": {"model": "./nothing"}}, ["./nothing", "config.json"]),
    "teacher predictions missing": ({"teacher": {"predictions": "no.csv"}}, ["no.csv", "teacher.predictions"]),
}


def refused(toy: Any, compressor: Callable[..., Any], words: list[str]) -> None:
    """The run of `toy.yaml` fails with one line that holds these words, and nothing was trained."""
    done = compressor("run", toy.recipe, "--output", toy.run)
    assert done.code == 2, done.err
    assert all(word in done.error for word in words), done.error
    assert not list(toy.folder.glob("run/stages/*/training.json"))  # written before the first step of a training


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_refused_in_one_line(toy: Any, compressor: Callable[..., Any], case: str) -> None:
    """Catches rows that cannot be right and are trained on, or a traceback instead of the line to mend."""
    spoil, words = BAD_DATA[case]
    spoil(toy)
    refused(toy, compressor, words)


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_wrong_recipe_is_refused_before_anything_is_read(
    toy: Any, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Catches a mistake that shows only after the teacher has been trained for an hour."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    changes, words = BAD_RECIPES[case]
    if "training" in changes:
        changes = {"training": {**toy.values()["training"], **changes["training"]}}
    if case == "teacher predictions missing":
        changes = {**changes, "student": {"model": str(toy.model)}}
    toy.write(**changes)
    refused(toy, compressor, words)
    assert not list(toy.folder.glob("run/stages/data-*"))


def test_broken_yaml_names_its_line(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a parser's own words where a line number would do."""
    toy.recipe.write_text("name: toy\ntasks: {topic: {data: a.csv}\nseed: 1\n")
    assert "line 3" in compressor("run", toy.recipe).error
    toy.recipe.write_text("name: toy\nseed: \x01\n")
    assert "line 2" in compressor("run", toy.recipe).error
    toy.recipe.write_bytes(b"name: t\xf6y\n")
    assert "UTF-8" in compressor("run", toy.recipe).error


def test_all_errors_of_a_recipe_come_together(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a user who mends one error per call."""
    done = compressor("run", toy.write(method="kdd", seed=-1, student={"layers": 0}))
    assert done.code == 2
    assert all(word in done.error for word in ("4 errors", "kdd", "seed:", "student.layers:"))


@pytest.mark.parametrize("place", ["gone.yaml", "gone.yaml/x", "."])
def test_a_recipe_that_is_not_there_is_named(compressor: Callable[..., Any], place: str) -> None:
    """Catches a traceback for a mistyped path."""
    done = compressor("run", place)
    assert done.code == 2
    assert "recipe" in done.error


def spoil_checkpoint(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "pickle only":
        weights.unlink()
        torch.save({}, folder / "pytorch_model.bin")
    elif kind == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    elif kind == "no head":
        save_file({k: v for k, v in load_file(weights).items() if "classifier" not in k}, weights, {"format": "pt"})


SPOILED = {
    "cut": "could not be loaded",
    "no config": "config.json",
    "pickle only": ".safetensors",
    "no tokenizer": "tokenizer",
    "no head": "not a fine-tuned classifier",
}
ROLES = [(role, kind) for role in ("teacher", "student") for kind in SPOILED if (role, kind) != ("student", "no head")]


@pytest.mark.parametrize(("role", "kind"), ROLES)
def test_an_unreadable_checkpoint_is_refused_before_training(
    toy: Any, tmp_path: Path, compressor: Callable[..., Any], role: str, kind: str
) -> None:
    """Catches a damaged student checkpoint that shows only when its teacher is trained."""
    folder = tmp_path / "spoiled"
    shutil.copytree(toy.model, folder)
    spoil_checkpoint(folder, kind)
    if role == "teacher":
        toy.write(teacher={"model": str(folder), "train": kind != "no head"})
    else:
        toy.write(student={"model": str(folder)})
    refused(toy, compressor, [SPOILED[kind], str(folder)])


def test_a_teacher_that_lacks_a_label_is_refused(
    toy: Any, checkpoint: Callable[..., Path], compressor: Callable[..., Any]
) -> None:
    """Catches a teacher of other labels whose columns happen to be as many."""
    other = checkpoint(labels=("billing", "delivery", "weather"))
    toy.write(teacher={"model": str(other), "train": False})
    refused(toy, compressor, ["'account'", "weather"])


def test_an_untrained_teacher_is_looked_at_before_another_is_trained(
    toy: Any, checkpoint: Callable[..., Path], compressor: Callable[..., Any]
) -> None:
    """Catches an hour of training for the first task before the second task's teacher is refused."""
    other = checkpoint(labels=("low", "high", "middle"))
    task = {"data": str(toy.data), "text": "text", "label": "topic"}
    toy.write(tasks={"first": task, "second": {**task, "teacher": {"model": str(other), "train": False}}})
    refused(toy, compressor, ["second", "middle"])


def test_predictions_that_miss_a_training_text_are_refused(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a student that learns from targets of no teacher."""
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    stored = [{"text": row["text"], "billing": 0.4, "delivery": 0.3, "account": 0.3} for row in rows[:200]]
    path = toy.write_data(stored, "predictions.jsonl")
    toy.write(teacher={"predictions": str(path)}, student={"model": str(toy.model), "layers": 2})
    refused(toy, compressor, ["no row for", "every training text"])


def test_an_output_that_is_a_file_or_holds_other_things_is_refused(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches somebody's folder that is filled with stages."""
    assert "is a file" in compressor("run", toy.recipe, "--output", toy.data).error
    assert "cannot be made" in compressor("run", toy.recipe, "--output", toy.data / "run").error
    assert "other things" in compressor("run", toy.recipe, "--output", toy.model).error
    assert {path.name for path in toy.model.iterdir()} >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("command", [["predict", "BUNDLE", "late"], ["serve", "BUNDLE", "--port", "0"]])
@pytest.mark.parametrize("file", ["model.int8.onnx", "tokenizer.json", "golden.json", "manifest.json"])
def test_a_corrupted_bundle_file_is_refused_by_name(
    own_run: Any, compressor: Callable[..., Any], command: list[str], file: str
) -> None:
    """Catches answers from a model that is not the measured one."""
    bundle = own_run.run / "bundle"
    content = (bundle / file).read_bytes()
    (bundle / file).write_bytes(content[: len(content) // 2])
    done = compressor(*[str(bundle) if word == "BUNDLE" else word for word in command])
    assert done.code == 2
    assert file in done.error


def test_wrong_choices_at_a_bundle_name_the_right_ones(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches an answer with another model or task than was asked for."""
    bundle = toy_run.run / "bundle"
    assert "fp32, int8" in compressor("predict", bundle, "late", "--precision", "int4").error
    assert "topic" in compressor("predict", bundle, "late", "--task", "mood").error
    assert "empty" in compressor("predict", bundle, " ").error
    assert "no manifest.json" in compressor("predict", toy_run.run, "late").error
    assert "no manifest.json" in compressor("verify", toy_run.run).error
