"""The benchmark of invariance: right pairs, honest counts, a table that can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from benchmarks.invariance import BASELINE, LANES, WORDS, Exported, changed_by_company, main, markdown, one_by_one
from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from export.runners import Inputs, Logits
from serving.errors import UserError
from serving.manifest import InputSpec, TaskSpec
from serving.tokenise import TextEncoder

SPEC = TaskSpec(name="topic", type="classification", labels=("account", "billing", "delivery"), metric="accuracy")
TEXTS: list[tuple[str, ...]] = [("refund " * (row % 5 + 1),) for row in range(20)]


@pytest.fixture
def exported(toy_checkpoint: Path, tmp_path: Path) -> Exported:
    """A tokenizer and a task; no graph is asked."""
    inputs = InputSpec(names=("input_ids", "attention_mask"), pad_id=0, max_length=16, text_columns=("text",))
    encoder = TextEncoder.load(toy_checkpoint / "tokenizer.json", inputs)
    return Exported(tmp_path, None, encoder, SPEC)  # type: ignore[arg-type]


def lengths(inputs: Inputs) -> Logits:
    """Logits of a text's own length."""
    own = inputs["attention_mask"].sum(axis=1, keepdims=True).astype(np.float32)
    return {"topic": np.concatenate([own, -own, np.zeros_like(own)], axis=1)}


def alone(exported: Exported) -> NDArray[np.float32]:
    return lengths(exported.encoder.batch(exported.encoder.encode(TEXTS)))["topic"]


def test_what_company_does_not_change_is_not_counted(exported: Exported) -> None:
    """A comparison with rows in another order would find differences everywhere."""
    found = changed_by_company(lengths, exported, TEXTS, alone(exported), orders=2)

    assert found == {"largest": 0.0, "mean": 0.0, "changed": 0, "texts": 20}


def test_a_text_is_counted_once_however_often_it_changes(exported: Exported) -> None:
    """Counted per order, the number would grow with the patience of who measures."""

    def flipped(inputs: Inputs) -> Logits:
        logits = lengths(inputs)["topic"]
        return {"topic": -logits if len(logits) > 1 else logits}

    found = changed_by_company(flipped, exported, TEXTS, alone(exported), orders=3)

    assert found["changed"] == 20
    assert found["largest"] == 2 * float(alone(exported).max())


def test_a_lane_answers_every_text_alone_and_in_order(exported: Exported) -> None:
    """A lane that kept the padding of the batch would be timed for work that it does not do."""
    seen: list[tuple[int, ...]] = []

    def run(inputs: Inputs) -> Logits:
        seen.append(inputs["input_ids"].shape)
        return lengths(inputs)

    batch = exported.encoder.batch(exported.encoder.encode(TEXTS[:4]))
    logits = one_by_one(run)(batch)["topic"]

    assert seen == [(1, 3), (1, 4), (1, 5), (1, 6)]
    np.testing.assert_array_equal(logits, lengths(batch)["topic"])


def test_a_student_needs_a_name(tmp_path: Path, toy_recipe: Path) -> None:
    """A table whose rows nobody can tell apart."""
    with pytest.raises(UserError, match="expected NAME=FOLDER"):
        main(["--recipe", str(toy_recipe), "--work", str(tmp_path / "work"), "--student", "folder", "--quick"])


@pytest.fixture
def toy_recipe(toy_data: Path, toy_checkpoint: Path, tmp_path: Path) -> Path:
    """A recipe of one task on toy rows."""
    path = tmp_path / "toy.yaml"
    tasks = {"topic": {"data": str(toy_data / "trec6"), "text": "text", "label": "label"}}
    teacher = {"model": str(toy_checkpoint)}
    path.write_text(yaml.safe_dump({"name": "toy", "tasks": tasks, "max_length": 16, "teacher": teacher}))
    return path


def test_the_quick_benchmark_runs_and_writes_its_table(toy_recipe: Path, toy_checkpoint: Path, tmp_path: Path) -> None:
    """A script that fails after an hour of training, or writes figures that are not of what it says."""
    model = pretrained_model(str(toy_checkpoint), [SPEC], seed=0)
    save_checkpoint(tmp_path / "student", model, load_tokenizer(str(toy_checkpoint)))
    page = tmp_path / "export.md"

    main(
        [
            "--recipe", str(toy_recipe), "--work", str(tmp_path / "work"), "--quick", "--docs", str(page),
            "--student", f"toy={tmp_path / 'student'}", "--output", str(tmp_path / "invariance.json"),
        ]
    )  # fmt: skip

    result: Mapping[str, Any] = json.loads((tmp_path / "invariance.json").read_text())
    choices = result["students"]["toy"]
    assert choices.keys() == WORDS.keys()
    assert choices["fp32"]["changed"] == 0
    assert choices["fp32"]["largest"] <= 1e-5
    assert choices["int8_weights"]["largest"] <= 1e-5
    assert choices[LANES]["largest"] == 0.0
    assert choices[BASELINE]["time"]["1"]["ratio"] == 1.0
    assert markdown(result).strip() in page.read_text()
    assert "| toy | largest change of a logit |" in page.read_text()
