"""Flatness: the loss around two centres and between them, on a bowl whose shape is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from compressor.data.splits import TaskData
from compressor.evaluation.flatness import (
    Survey,
    directions_like,
    losses_on_line,
    move_to,
    survey_around,
    weights_restored,
)
from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.pipeline.flatness import FLATNESS_FILE, centres_of, measure_flatness, num_rows
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_data
from compressor.pipeline.stages import StageStore, needed_for, run_stages
from compressor.recipe_file import build_recipe

CURVATURE = {"first": 3.0, "second": 0.5}
SURVEY = Survey(num_directions=3, radii=(0.1, 0.5), positions=(-0.5, 0.0, 0.3, 1.0, 1.5), seed=4)


class Bowl(nn.Module):
    """Two float64 tensors, a counter, and a dropout whose mode tells whether the module was left as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.dropout = nn.Dropout()


def bowl_losses(model: nn.Module) -> np.ndarray:
    """Loss of split one: sum of c/2 |w|^2 over the tensors; of split two: twice that."""
    assert not model.training
    loss = sum(0.5 * CURVATURE[name] * float((tensor.detach() ** 2).sum()) for name, tensor in model.named_parameters())
    return np.array([loss, 2 * loss])


def weights(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"first": (4, 3), "second": (5,)}
    drawn = {name: scale * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}
    return {**drawn, "counter": torch.tensor(seed)}


AVERAGE, LAST = weights(1), weights(2, scale=3.0)


def expected_rise(centre: dict[str, Tensor], direction: dict[str, Tensor], distance: float) -> float:
    """By hand: c (a w.d + a^2/2 |d|^2) summed over the tensors."""
    return sum(
        c
        * (distance * float((centre[n] * direction[n]).sum()) + 0.5 * distance**2 * float(direction[n].square().sum()))
        for n, c in CURVATURE.items()
    )


def test_the_rise_on_a_bowl_is_what_the_formula_says_for_both_centres_and_the_same_directions() -> None:
    """Catches other directions for the second centre, a rise measured from the wrong centre, and a lost sign."""
    model = Bowl()
    found = survey_around(model, AVERAGE, LAST, bowl_losses, SURVEY)
    directions = list(directions_like(model, AVERAGE, SURVEY))
    for name, centre in (("average", AVERAGE), ("last", LAST)):
        rises = [[expected_rise(centre, d, a) for a in SURVEY.distances] for d in directions]
        np.testing.assert_allclose(found[name].rise[..., 0], rises, rtol=1e-10)
        np.testing.assert_allclose(found[name].rise[..., 1], 2 * np.array(rises), rtol=1e-10)
        assert found[name].loss[0] == pytest.approx(_bowl_at(centre))


def test_every_tensor_of_a_direction_has_the_norm_of_the_averages_tensor() -> None:
    """Catches one norm for the whole direction: the embeddings would then take nearly all of it."""
    drawn = list(directions_like(Bowl(), AVERAGE, SURVEY))
    for direction in drawn:
        assert set(direction) == {"first", "second"}
        for name, tensor in direction.items():
            torch.testing.assert_close(tensor.norm(), AVERAGE[name].norm(), rtol=1e-6, atol=0)
    assert not torch.allclose(drawn[0]["first"], drawn[1]["first"])
    again, other = (next(iter(directions_like(Bowl(), AVERAGE, Survey(seed=seed)))) for seed in (4, 5))
    assert torch.equal(again["first"], drawn[0]["first"])
    assert not torch.allclose(other["first"], drawn[0]["first"])


def test_a_tensor_of_zeros_is_not_moved() -> None:
    """A bias that is exactly zero has norm zero; a division by it would make every loss NaN."""
    reference = AVERAGE | {"second": torch.zeros(5, dtype=torch.float64)}
    assert all(not direction["second"].any() for direction in directions_like(Bowl(), reference, SURVEY))


def test_distances_lie_on_both_sides_and_an_even_loss_rises_alike_on_both() -> None:
    """Catches directions that are used one way only: a slope would then look like a curvature."""
    centre = {name: torch.zeros_like(tensor) for name, tensor in AVERAGE.items()}
    found = survey_around(Bowl(), AVERAGE, centre, bowl_losses, SURVEY)
    assert SURVEY.distances == (-0.5, -0.1, 0.0, 0.1, 0.5)
    np.testing.assert_array_equal(found["last"].rise, found["last"].rise[:, ::-1])
    assert (found["last"].rise[:, [0, 1, 3, 4]] > 0).all()
    assert not found["average"].rise[:, 2].any()


def test_the_ends_of_the_line_are_the_centres_losses_exactly() -> None:
    """Catches a line whose ends are swapped, or off by the rounding of last + (average - last)."""
    far = weights(2, scale=1e12)
    assert losses_on_line(Bowl(), AVERAGE, far, bowl_losses, (1.0,))[0, 0] == pytest.approx(
        _bowl_at(AVERAGE), rel=1e-12
    )
    line = losses_on_line(Bowl(), AVERAGE, LAST, bowl_losses, SURVEY.positions)
    around = survey_around(Bowl(), AVERAGE, LAST, bowl_losses, SURVEY)
    np.testing.assert_array_equal(line[1], around["last"].loss)
    np.testing.assert_array_equal(line[3], around["average"].loss)
    for place, position in enumerate(SURVEY.positions):
        between = {n: LAST[n] + position * (AVERAGE[n] - LAST[n]) for n in CURVATURE}
        assert line[place, 0] == pytest.approx(_bowl_at(between))


def _bowl_at(point: dict[str, Tensor]) -> float:
    return sum(0.5 * c * float(point[n].square().sum()) for n, c in CURVATURE.items())


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    """Catches a survey that exports the last perturbed weights, or that moves what a later training draws."""
    model = Bowl().train()
    model.dropout.eval()
    move_to(model, weights(7))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    survey_around(model, AVERAGE, LAST, bowl_losses, SURVEY)
    losses_on_line(model, AVERAGE, LAST, bowl_losses, SURVEY.positions)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.training
    assert not model.dropout.training
    assert torch.equal(random, torch.get_rng_state())
    torch.testing.assert_close(AVERAGE, weights(1), rtol=0, atol=0)


def test_the_weights_come_back_after_an_error_too() -> None:
    """Catches an interrupted survey that leaves a perturbed model behind."""
    model = Bowl()
    move_to(model, AVERAGE)
    with pytest.raises(ZeroDivisionError):
        _broken_survey(model)
    assert torch.equal(model.first, AVERAGE["first"])
    assert int(model.state_dict()["counter"]) == 1


def _broken_survey(model: Bowl) -> None:
    with weights_restored(model):
        move_to(model, LAST)
        raise ZeroDivisionError


def test_tied_weights_move_together() -> None:
    """Catches a direction that unties an output layer from its embedding: a model that cannot exist."""
    model = Bowl()
    model.second = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    model.second = model.first
    (direction,) = directions_like(model, AVERAGE, Survey(num_directions=1))
    move_to(model, AVERAGE, direction, 0.5)
    assert set(direction) == {"first"}
    assert model.second is model.first
    torch.testing.assert_close(model.second.detach(), AVERAGE["first"] + 0.5 * direction["first"])


def test_larger_models_and_longer_texts_are_read_in_fewer_rows() -> None:
    """Catches a survey of an hour for a base-size student."""
    assert num_rows(5_500_000, 40) == 28
    assert num_rows(86_000_000, 128) == 16
    assert num_rows(1_000, 5) == 256


@pytest.fixture
def centres(checkpoint: Callable[..., Path], toy_data: TaskData, tmp_path: Path) -> dict[str, Path]:
    """Two toy students of the same shape with different weights."""
    base = str(checkpoint("bert"))
    found = {}
    for seed, name in enumerate(("average", "last")):
        found[name] = tmp_path / name
        model = pretrained_model(base, [toy_data.task], layers=1, seed=seed)
        for parameter in model.heads.parameters():
            parameter.data *= 30.0  # answers that differ from text to text
        save_checkpoint(found[name], model, load_tokenizer(base))
    return found


def test_the_stage_says_what_it_looked_at_and_what_both_centres_score(
    centres: dict[str, Path], toy_data: TaskData, tmp_path: Path
) -> None:
    """Catches figures of one centre under the other's name, and rows or directions that the page cannot tell."""
    survey = Survey(num_directions=2, radii=(0.1,), positions=(0.0, 0.5, 1.0))
    folder = tmp_path / "flatness"
    folder.mkdir()
    measure_flatness(folder, {"topic": toy_data}, centres, 32, survey)
    found = json.loads((folder / FLATNESS_FILE).read_text())
    assert found["distances"] == [-0.1, 0.0, 0.1]
    assert found["rows"] == {"topic": {"train": 96, "test": 24}}
    assert np.shape(found["average"]["rise"]["test"]) == (2, 3)
    for split in ("train", "test"):
        assert found["line"][split][0] == found["last"]["loss"][split]
        assert found["line"][split][-1] == found["average"]["loss"][split]
    for name, folder_of in centres.items():
        assert found[name]["loss"]["test"] == pytest.approx(_test_loss(folder_of, toy_data), rel=1e-4)
    losses = {found[name]["loss"][split] for name in centres for split in ("train", "test")}
    assert len(losses) == 4
    topic = found["tasks"]["topic"]
    assert topic["difference"]["value"] == pytest.approx(topic["average"]["value"] - topic["last"]["value"])
    assert topic["difference"]["low"] <= topic["difference"]["value"] <= topic["difference"]["high"]


def _test_loss(folder: Path, data: TaskData) -> float:
    """Cross-entropy over the test rows by transformers alone."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(str(folder))
    rows = data.splits["test"]
    batch = tokenizer([text for (text,) in rows.texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits
    return float(nn.functional.cross_entropy(logits, torch.tensor(rows.labels)))


@pytest.fixture
def pipeline_of(checkpoint: Callable[..., Path], toy_file: Path, tmp_path: Path) -> Callable[[Any], Pipeline]:
    """Makes the pipeline of a toy recipe with some method."""
    model = str(checkpoint("bert"))

    def make(method: Any) -> Pipeline:
        recipe = {
            "name": "toy",
            "tasks": {"topic": {"data": str(toy_file), "text": "text", "label": "topic", "train_rows": 24}},
            "teacher": {"model": model},
            "student": {"layers": 1},
            "training": {"epochs": 1, "batch_size": 4, "threads": 1},
            "method": method,
        }
        return Pipeline(build_recipe(recipe), StageStore(tmp_path / "stages"))

    return make


def test_only_the_student_of_one_run_by_swa_is_surveyed(pipeline_of: Callable[[Any], Pipeline]) -> None:
    """Catches a stage that every run pays for, and one that looks for the last iterate of an average of runs."""
    assert "flatness" in [stage.name for stage in pipeline_of(["kd", "swa"]).in_order()]
    for method in ("none", "kd", "ema", ["swa", "avg"]):
        assert pipeline_of(method).flatness is None


@pytest.mark.parametrize("keep", ["average", "last"])
def test_the_survey_finds_both_centres_whichever_is_kept(pipeline_of: Callable[[Any], Pipeline], keep: str) -> None:
    """Catches the last iterate surveyed as the average where a recipe keeps it."""
    pipeline = pipeline_of({"swa": {"keep": keep}})
    run_stages(pipeline.store, needed_for(pipeline.student))
    history = json.loads((pipeline.path(pipeline.student) / "history.json").read_text())["swa"]
    (data,) = load_data(pipeline.path(pipeline.data)).values()
    for name, folder in centres_of(pipeline.path(pipeline.student)).items():
        loss = _test_loss(folder, replace(data, splits={"test": data.splits["validation"]}))
        assert loss == pytest.approx(history[f"always_{name}"]["topic_loss"], rel=1e-4)
    assert history["always_average"]["topic_loss"] != history["always_last"]["topic_loss"]
