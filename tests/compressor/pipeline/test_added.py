"""Which added texts a student reads: those that its selector keeps, and none where that keeps none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compressor.data.splits import TaskData, training_texts
from compressor.distillation.augmentation.candidates import Candidates, save_candidates
from compressor.pipeline.added import CANDIDATES_FILE, KEPT_FILE, AddedPlace, with_added
from compressor.pipeline.learning import TARGETS_FILE, train_student
from compressor.recipe import Recipe

TRAINING = {"steps": 6, "batch_size": 8, "dtype": "fp32", "threads": 1, "learning_rate": 1e-3}
KEPT = {"learned": [0, 3], "random": [1, 2, 4], "filter": [5], "nothing": []}


@pytest.fixture
def place(toy_data: TaskData, tmp_path: Path) -> Callable[[str], AddedPlace]:
    """A factory: selector -> six candidates, of which every selector keeps others."""
    texts: list[tuple[str, ...]] = [(f"never {text}",) for (text,) in toy_data.splits["train"].texts[:6]]
    numbers = np.arange(6)
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    shares = np.zeros(6, dtype=np.float32)
    candidates = Candidates(texts, texts, numbers < 0, numbers, numbers, shares, shares, logits)
    save_candidates(tmp_path / CANDIDATES_FILE, candidates, num_sides=1)
    kept = {name: np.isin(numbers, rows) for name, rows in KEPT.items()}
    np.savez(tmp_path / KEPT_FILE, allow_pickle=False, **kept)
    return lambda selector: AddedPlace(tmp_path, tmp_path, selector)


@pytest.mark.parametrize("selector", KEPT)
def test_a_student_reads_what_its_own_selector_keeps(selector: str, place: Callable[[str], AddedPlace]) -> None:
    """Catches controls of the selector that train on its own choice: they could not differ from it."""
    one = place(selector)
    assert one.is_kept(6).nonzero()[0].tolist() == KEPT[selector]
    assert one.kept().start_rows.tolist() == KEPT[selector]
    assert AddedPlace(one.candidates).kept().start_rows.tolist() == list(range(6)), "without a selection all"


@pytest.mark.parametrize("method", ["l2a", "l2a:weight=0.5:target_share=0.25"])
def test_a_selection_that_keeps_nothing_is_plain_kd(
    method: str,
    place: Callable[[str], AddedPlace],
    toy_data: TaskData,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Catches an empty choice that is taken for all candidates, ends in an error, or moves the batches."""
    model = str(checkpoint())
    targets = np.random.default_rng(1).normal(size=(len(training_texts(toy_data)), 3)).astype(np.float32)
    np.save(tmp_path / TARGETS_FILE, targets)
    data, logits = with_added({"topic": toy_data}, {"topic": targets}, {"topic": place("nothing")})
    assert data == {"topic": toy_data}
    assert logits["topic"] is targets

    def trained(method: str, added: dict[str, AddedPlace]) -> dict[str, Tensor]:
        values = {"name": "toy", "tasks": {"topic": {"data": "x.csv"}}, "training": TRAINING, "max_length": 32}
        recipe = Recipe.model_validate({**values, "student": {"model": model, "layers": 1}, "method": method})
        folder = tmp_path / "-".join([method, *(one.selector for one in added.values())])
        folder.mkdir()
        train_student(folder, {"topic": toy_data}, recipe, targets={"topic": tmp_path}, added=added, teacher=None)
        return load_file(folder / "model.safetensors")

    plain = trained("kd", {})
    empty, some = (trained(method, {"topic": place(selector)}) for selector in ("nothing", "learned"))
    assert all(torch.equal(tensor, empty[name]) for name, tensor in plain.items())
    assert any(not torch.equal(tensor, some[name]) for name, tensor in plain.items())
