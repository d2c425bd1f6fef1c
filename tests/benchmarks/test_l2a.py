"""The L2A comparisons: which arms, on which rows, with which masked language model, and what the curves say."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.comparisons import recipe_path
from benchmarks.l2a import ARMS, LABELS, MAIN, _arms, _called, _options, _parse
from benchmarks.label_curves import QUESTIONS, curves, variants
from benchmarks.right_answers import RIGHT, pack, read_right, scores_of, unpack
from compressor.comparison.arms import arms_from_file, with_controls
from compressor.comparison.plan import main_comparison
from compressor.comparison.statistics import paired_difference, resampled_scores
from compressor.data.prepare import prepare
from compressor.models.masked_lm import MASKED_LM_FILE
from compressor.recipe_file import build_recipe, changed_recipe, dump_recipe, load_recipe
from compressor.tasks.registry import TASKS

VARIANTS = ARMS.parent / "l2a_variants.yaml"


def test_every_question_is_asked_of_two_arms() -> None:
    """Catches a letter that stands for no arm, whose row would be missing in silence."""
    letters = {"a", "b", *(arm.label.split()[0] for arm in arms_from_file(ARMS))}
    assert {letter for pair in QUESTIONS.values() for letter in pair} <= letters


@pytest.mark.parametrize("name", LABELS)
def test_every_arm_of_the_method_is_compared(name: str) -> None:
    """Catches an arm that was lost, and a main comparison that names none."""
    tasks = list(load_recipe(recipe_path(f"l2a_{name}")).tasks)
    arms = with_controls(arms_from_file(ARMS), tasks)
    letters = [arm.label.split()[0] for arm in arms]
    assert letters == ["none", "kd", *"cdefghijk"]
    assert main_comparison(MAIN, arms, tasks).method == "k l2a"


def test_the_variants_are_arms_of_their_own() -> None:
    """Catches a variant that no recipe can be made of, and one that is an arm already."""
    recipe = load_recipe(recipe_path("l2a_bank"))
    variants = arms_from_file(VARIANTS)
    methods = [changed_recipe(recipe, {"method": arm.method}, origin=arm.label).method for arm in variants]
    known = arms_from_file(ARMS)
    assert not {arm.label for arm in variants} & {arm.label for arm in known}
    assert all(method not in [arm.method for arm in known] for method in methods)


def test_rows_are_drawn_once_and_the_source_is_the_other_domain(two_domains: Path, tmp_path: Path) -> None:
    """Catches a source that is the target, and a masked language model that every seed makes again."""
    work = tmp_path / "work"
    (work / "masked-lm-kitchen").mkdir(parents=True)
    (work / "masked-lm-kitchen" / MASKED_LM_FILE).write_text("{}")
    given = ["--data", str(two_domains), "--work", str(work), "--test-rows", "12", "--source-rows", "30"]
    options = _options(_parse(given), "kitchen", 20)
    settings = [word for before, word in pairwise(options) if before == "--set"]
    (task,) = load_recipe(recipe_path("l2a_kitchen"), settings).tasks.values()
    assert task.source is not None
    assert len((Path(task.data) / "test.jsonl").read_text().splitlines()) == 12
    assert len((Path(task.source.data) / "train.jsonl").read_text().splitlines()) == 30
    assert "amazon_kitchen" in task.data
    assert "amazon_books" in task.source.data
    assert options[options.index("--train-rows") + 1] == "20"
    arms = yaml.safe_load(Path(options[options.index("--arms") + 1]).read_text())
    refilling = [knobs for arm in arms.values() for name, knobs in arm["method"].items() if name in ("refill", "l2a")]
    assert len(refilling) == 5
    ((key, path),) = [item for arm in arms.values() for item in arm.get("set", {}).items()]
    texts = [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]
    train = [json.loads(line)["text"] for line in (Path(task.data) / "train.jsonl").read_text().splitlines()]
    assert key == "tasks.sentiment.unlabelled"
    assert len(texts) > 20
    assert set(texts) <= set(train)
    assert {knobs["mlm"] for knobs in refilling} == {str((work / "masked-lm-kitchen").resolve())}


def test_the_arms_keep_their_knobs(tmp_path: Path) -> None:
    """Catches knobs that get lost when the masked language model is written in."""
    recipe = load_recipe(recipe_path("l2a_bank"))
    arms = arms_from_file(_arms(_parse(["--data", "x", "--work", str(tmp_path)]), "bank", tmp_path / "lm", recipe))
    found = {arm.label: arm.method for arm in arms}
    limits = {"min_confidence": 0.3, "min_margin": 0.1}
    assert found["i random choice"]["l2a"] == {"selector": "random", "mlm": str(tmp_path / "lm"), **limits}
    assert found["e near source texts"]["source"] == {"nearest": 0.5, **limits}
    assert found["c source labels"] == {"source": {"labels": "gold"}}


def test_variants_stand_beside_the_arms_that_they_vary(tmp_path: Path) -> None:
    """Catches a comparison in whose folder nothing stands to compare with, and one that overwrites the arms'."""
    given = ["--data", "x", "--work", str(tmp_path)]
    other = _parse([*given, "--arms", str(VARIANTS)])
    path = _arms(other, "bank", tmp_path / "lm", load_recipe(recipe_path("l2a_bank")))
    labels = [arm.label for arm in arms_from_file(path)]
    varied = {label.split()[0] for label in yaml.safe_load(VARIANTS.read_text())}
    assert {label for label in labels if label in yaml.safe_load(ARMS.read_text())} == {
        label for label in yaml.safe_load(ARMS.read_text()) if label.split()[0] in varied
    }
    assert MAIN.split(":")[0] in labels
    assert (_called(_parse(given), "bank"), _called(other, "bank")) == ("l2a_bank", "l2a_bank_variants")


TEXTS = 40


def answers(scores: list[float]) -> list[np.ndarray]:
    """Per seed which of the texts are answered rightly: the first ones."""
    return [np.arange(TEXTS) < round(score * TEXTS) for score in scores]


def result(scores: dict[str, list[float]]) -> dict[str, Any]:
    arms = [
        {"label": label, "tasks": {"topic": {"per_seed": {str(seed): one for seed, one in enumerate(values)}}}}
        for label, values in scores.items()
    ]
    rows = {"topic": {"rows": {"test": TEXTS, "train": 50}}}
    host = {"cpu_model": "a CPU", "available_cpus": 2}
    right = {
        label: {str(seed): pack(one) for seed, one in enumerate(answers(values))} for label, values in scores.items()
    }
    return {"tasks": rows, "seeds": [0, 1, 2], "arms": arms, "environment": host, RIGHT: right}


def shown(own: list[float], other: list[float]) -> str:
    """The difference and its interval by the rule of every comparison, in points."""
    both = [answers(scores[: min(len(own), len(other))]) for scores in (own, other)]
    accuracy = TASKS["classification"].metrics["accuracy"]
    truth = np.ones(TEXTS, dtype=np.int64)
    one, two = (resampled_scores(accuracy, truth, [right.astype(np.int64) for right in of]) for of in both)
    per_seed = np.array([a.mean() - b.mean() for a, b in zip(*both, strict=True)])
    found = paired_difference(per_seed, one - two)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def test_the_interval_counts_the_texts_too() -> None:
    """Three seeds that agree by chance on few texts are no proof; over seeds alone the interval would be a point."""
    low, high = (float(bound) for bound in re.findall(r"[+-][0-9.]+", shown([0.6] * 3, [0.5] * 3))[1:])
    assert low < 5.0
    assert high > 15.0


def test_the_best_simpler_way_is_that_of_the_highest_mean(tmp_path: Path) -> None:
    """Against anything less L2A would be credited with what a simpler arm gives; neither control nor variant is one."""
    scores = {"kd": [0.9] * 2, "k l2a": [0.5] * 2, "d source texts": [0.7] * 2, "c source labels": [0.8, 0.4]}
    (tmp_path / "l2a_x_50.json").write_text(json.dumps(result(scores)))
    (row,) = [line for line in curves(tmp_path, "l2a_x").splitlines() if "the best of c to j" in line]
    assert row.endswith(f"| {shown([0.5] * 2, [0.7] * 2)}, d |")


def test_right_answers_are_read_from_the_cells_and_held_against_the_scores(tmp_path: Path) -> None:
    """Answers of another comparison's folder, or of other test rows, would give intervals of nothing."""
    recipe = build_recipe({"name": "x", "tasks": {"intent": {"data": "supportdesk", "label": "intent"}}}, origin="test")
    data = prepare(recipe.tasks)["intent"]
    labels = data.splits["test"].labels
    assert labels is not None
    logits = np.eye(len(data.task.labels), dtype=np.float32)[labels]
    logits[::3] = np.roll(logits[::3], 1, axis=1)
    figures = tmp_path / "cells" / "c_source_labels-3" / "figures"
    figures.mkdir(parents=True)
    (figures.parent / "recipe.yaml").write_text(dump_recipe(recipe))
    np.save(figures / "intent.test.npy", logits)
    right = np.arange(len(labels)) % 3 != 0
    arm = {"label": "c source labels", "tasks": {"intent": {"per_seed": {"3": float(right.mean())}}}}
    kept = {"tasks": {"intent": {"rows": {"test": len(labels)}}}, "arms": [arm]}
    found = read_right(tmp_path, kept)
    assert (unpack(found["c source labels"]["3"], len(labels)) == right).all()
    (scores,) = scores_of({**kept, RIGHT: found}).values()
    assert scores.seeds == (3,)
    assert scores.values == pytest.approx(100 * right.mean())
    arm["tasks"] = {"intent": {"per_seed": {"3": 0.5}}}
    with pytest.raises(ValueError, match=r"of the texts right, the result says 0\.5000"):
        read_right(tmp_path, kept)


def test_curves_pair_seeds_and_give_intervals(tmp_path: Path) -> None:
    """Catches differences of means over other seeds, and an interval that is too narrow for three of them."""
    scores = {"kd": [0.5, 0.6, 0.7], "k l2a": [0.6, 0.7, 0.8], "h refilled both": [0.6, 0.5, 0.8]}
    measured = result(scores)
    chosen = {"0": {"share": 0.5, "rho": 0.36}, "1": {"share": 1.0, "rho": None}}
    measured["arms"][1]["added"] = {"topic": chosen}
    measured["environment"]["available_cpus"] = 1
    (tmp_path / "l2a_x_50.json").write_text(json.dumps(measured))
    (tmp_path / "l2a_x_100.json").write_text(json.dumps(result({"kd": [0.5, 0.6], "k l2a": [0.5, 0.7]})))
    text = curves(tmp_path, "l2a_x")
    assert "| arm | 50 labels, 3 seeds | 100 labels, 3 seeds |" in text
    assert "| k l2a | 70.0 | 60.0 |" in text
    first, second = shown(scores["k l2a"], scores["kd"]), shown([0.5, 0.7], [0.5, 0.6])
    assert (first[:5], second[:4]) == ("+10.0", "+5.0")
    assert f"| b kd | {first} | {second} |" in text
    against_all = shown(scores["k l2a"], scores["h refilled both"])
    assert f"| h refilled both | {against_all} | - |" in text
    assert f"| the learned choice against all refills (k less h) | {against_all} | - |" in text
    assert f"(k less the best of c to j) | {against_all}, h | - |" in text
    assert "KD against labels" not in text
    assert "| share of the candidates kept | 50%, 100% | - |" in text
    assert "| rank correlation | 0.36 | - |" in text
    assert "Points of accuracy on 40 test texts; 95% intervals over seeds and test texts together" in text
    assert text.endswith(". a CPU, one CPU; a CPU, 2 CPUs.")
    assert curves(tmp_path, "l2a_y") == "Not measured yet."


def test_a_variant_is_held_against_the_arm_of_its_letter(tmp_path: Path) -> None:
    """Catches a variant of one arm beside another, and figures of the variants among those of the arms."""
    scores = {"kd": [0.5, 0.5], "k l2a": [0.6, 0.7], "k facts alone": [0.7, 0.8], "c source labels": [0.9, 0.9]}
    (tmp_path / "l2a_x_variants_50.json").write_text(json.dumps(result({**scores, "c and kd": [0.8, 0.7]})))
    (tmp_path / "l2a_x_50.json").write_text(json.dumps(result({"kd": [0.1], "k l2a": [0.2]})))
    text = variants(tmp_path, "l2a_x_variants", plain=["c source labels", "k l2a"])
    rows = [line.split(" |")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:7] == ["| b kd", "| c source labels", "| c and kd", "| k l2a", "| k facts alone"]
    assert rows[-2:] == ["| c and kd less c source labels", "| k facts alone less k l2a"]
    assert f"| k facts alone less k l2a | {shown([0.7, 0.8], [0.6, 0.7])} |" in text
    assert "| b kd | 10.0 |" in curves(tmp_path, "l2a_x")
    assert variants(tmp_path, "l2a_y_variants", plain=[]) == "Not measured yet."
