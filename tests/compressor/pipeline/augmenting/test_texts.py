"""The texts that methods add: where they come from, which are kept, what is made again and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from compressor.comparison.added_texts import added_texts_of
from compressor.comparison.cells import Cell, CellRun
from compressor.data.leakage import text_keys
from compressor.data.splits import ADDED
from compressor.distillation.augmentation.candidates import load_candidates
from compressor.distillation.augmentation.chains import generate
from compressor.distillation.augmentation.domain import text_features
from compressor.distillation.presets import label_of
from compressor.models.masked_lm import adapt_masked_lm
from compressor.pipeline import augmenting, augmenting_stages
from compressor.pipeline.added import CANDIDATES_FILE, KEPT_FILE, with_added
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_data
from compressor.pipeline.selecting import SELECTION_FILE
from compressor.pipeline.stages import StageStore, needed_for, read_json, run_stages
from serving.errors import UserError
from tests.compressor.pipeline.augmenting.conftest import (
    LEARNED,
    SHORT,
    Make,
    candidates_stage,
    trained,
    weights,
    write_rows,
)


def test_source_texts_are_read_with_the_teachers_targets(recipe: Make, store: StageStore) -> None:
    """Catches source rows that never reach the student, or that bring their gold labels along."""
    pipeline = trained(recipe("source"), store)
    assert label_of(pipeline.recipe.method) == "kd+source"
    data = pipeline._all_data()
    targets = {"topic": np.load(pipeline.path(pipeline.targets["topic"]) / "targets.npy")}
    found, logits = with_added(data, targets, pipeline.added_places(pipeline.recipe.method))
    added = found["topic"].splits[ADDED]
    assert added.labels is None
    assert added.texts == data["topic"].splits["source"].texts
    answers = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE).logits
    np.testing.assert_array_equal(logits["topic"], np.concatenate([targets["topic"], np.asarray(answers)]))
    plain = weights(trained(recipe("kd"), store))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in weights(pipeline).items())


def test_gold_source_rows_need_no_teacher(recipe: Make, store: StageStore) -> None:
    """Catches a control on source labels for which a teacher is trained, or whose labels are in another order."""
    pipeline = trained(recipe("source:labels=gold", task={"teacher": "none"}), store)
    assert not pipeline.teachers
    (place,) = pipeline.added_places(pipeline.recipe.method).values()
    assert place.gold
    found, _ = with_added(pipeline._all_data(), {}, {"topic": place})
    own = found["topic"].splits["source"]
    assert found["topic"].splits[ADDED].texts == own.texts
    assert (np.asarray(found["topic"].splits[ADDED].labels) == np.asarray(own.labels)).all()


def test_the_nearest_and_surest_source_texts_are_kept(recipe: Make, store: StageStore) -> None:
    """Catches filters that a recipe names and nothing applies."""
    pipeline = trained(recipe("source:nearest=0.5"), store)
    folder = pipeline.path(candidates_stage(pipeline))
    kept, everything = load_candidates(folder / CANDIDATES_FILE), trained(recipe("source"), store)
    found = load_candidates(everything.path(candidates_stage(everything)) / CANDIDATES_FILE)
    scores = found.domain_scores
    assert len(kept) == 20
    assert kept.domain_scores.min() >= np.sort(scores)[-20]
    assert read_json(folder / "candidates.json")["dropped"] == {"far": 20, "unsure": 0}
    confidence = np.sort(softmax(np.asarray(found.logits, dtype=np.float64), axis=1).max(axis=1))
    sure = Pipeline(recipe(f"source:min_margin=0:min_confidence={confidence[14:16].mean()}"), store)
    run_stages(store, needed_for(candidates_stage(sure)))
    assert read_json(sure.path(candidates_stage(sure)) / "candidates.json")["dropped"] == {"far": 0, "unsure": 15}


def test_refilled_texts_come_from_both_domains_and_are_new(recipe: Make, store: StageStore) -> None:
    """Catches candidates that copy rows, that are evaluation texts, or that start from one domain only."""
    pipeline = trained(recipe(f"refill:{SHORT}"), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    data = load_data(pipeline.path(pipeline.data))["topic"]
    assert 0 < found.is_source.sum() < len(found)
    assert found.logits is not None
    assert found.logits.shape == (len(found), 2)
    assert not np.isnan(found.domain_scores).any()
    keys = set(text_keys(found.texts))
    assert len(keys) == len(found)
    for split in ("train", "validation", "test"):
        assert not keys & set(text_keys(data.splits[split].texts))
    assert not (pipeline.path(candidates_stage(pipeline)) / "chunks").exists()


@pytest.mark.parametrize("task", ["topic", "mood"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_refilled_text_of_an_evaluation_split_is_dropped_and_counted(
    files: dict[str, str],
    recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    split: str,
) -> None:
    """Catches a leak: the refill writes a text that judges this task or another one, in other case and punctuation."""
    scarce = {"data": files["target"], "text": "text", "label": "topic", "source": {"data": files["source"]}}
    other = {"data": write_rows(tmp_path / "mood.jsonl", 60, 3), "text": "text", "label": "topic"}
    two = recipe(f"refill:{SHORT}:top_k=3", tasks={"topic": scarce, "mood": other})
    store = StageStore(tmp_path / "stages")
    pipeline = Pipeline(two, store)
    run_stages(store, needed_for(pipeline.data))
    ((leaked,), *_), real = load_data(pipeline.path(pipeline.data))[task].splits[split].texts, generate

    def leaking(*given: Any, **named: Any) -> Any:
        made = real(*given, **named)
        made.texts[0] = (f"{leaked.upper()}?!",)
        return made

    monkeypatch.setattr(augmenting, "generate", leaking)
    run_stages(store, needed_for(candidates_stage(pipeline)))
    folder = pipeline.path(candidates_stage(pipeline))
    assert read_json(folder / "candidates.json")["dropped"]["evaluation"] == 1
    assert leaked.upper() not in {text.rstrip("?!") for (text,) in load_candidates(folder / CANDIDATES_FILE).texts}


def test_nothing_that_makes_texts_reads_an_evaluation_split(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a masked language model, or a classifier of domains, that has seen the texts which judge."""
    read: dict[str, set[str]] = {"masked_lm": set(), "domains": set()}
    adapt, features = adapt_masked_lm, text_features

    def adapting(model: str, texts: Sequence[tuple[str, ...]], *given: Any, **named: Any) -> None:
        read["masked_lm"] |= set(text_keys(texts))
        adapt(model, texts, *given, **named)

    def seeing(encoder: str, texts: Sequence[tuple[str, ...]], **named: Any) -> np.ndarray:
        read["domains"] |= set(text_keys(texts))
        return features(encoder, texts, **named)

    monkeypatch.setattr(augmenting_stages, "adapt_masked_lm", adapting)
    monkeypatch.setattr(augmenting, "text_features", seeing)
    store = StageStore(tmp_path)
    pipeline = Pipeline(recipe(f"refill:{SHORT}"), store)
    run_stages(store, needed_for(candidates_stage(pipeline)))
    splits = load_data(pipeline.path(pipeline.data))["topic"].splits
    judging = set(text_keys(splits["validation"].texts)) | set(text_keys(splits["test"].texts))
    trained_on = set(text_keys(splits["train"].texts)) | set(text_keys(splits["source"].texts))
    assert read["masked_lm"] == trained_on
    assert read["domains"] >= trained_on
    assert not judging & (read["masked_lm"] | read["domains"])


def test_source_texts_that_all_fail_the_filters_are_an_error(recipe: Make, store: StageStore) -> None:
    """Catches plain distillation under the name of an arm that adds texts."""
    pipeline = Pipeline(recipe("source:min_confidence=0.9999999"), store)
    with pytest.raises(UserError, match=r"none of 40 source texts of task 'topic' passed the filters .*'unsure': 40"):
        run_stages(store, needed_for(candidates_stage(pipeline)))


def test_the_same_seed_makes_the_same_candidates_and_choice(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a draw that depends on anything but the recipe."""
    first, second = trained(recipe(LEARNED), store), trained(recipe(LEARNED), StageStore(tmp_path))
    files = {"candidates": CANDIDATES_FILE, "selection": KEPT_FILE}
    for role, name in files.items():
        pair = [
            (pipeline.path(pipeline.added_stages(pipeline.recipe.method)["topic"][role]) / name).read_bytes()
            for pipeline in (first, second)
        ]
        assert pair[0] == pair[1], role
    own = weights(second)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(first).items())


def test_selectors_share_the_selection_and_keep_equal_numbers(recipe: Make, store: StageStore) -> None:
    """Catches controls of the selector that have other candidates, another number or another class balance."""
    pipelines = [trained(recipe(f"{LEARNED}:selector={name}"), store) for name in ("learned", "random", "filter")]
    stages = [pipeline.added_stages(pipeline.recipe.method)["topic"] for pipeline in pipelines]
    assert len({stage["selection"].folder_name for stage in stages}) == 1
    assert len({pipeline.student.folder_name for pipeline in pipelines}) == 3
    places = [pipeline.added_places(pipeline.recipe.method)["topic"] for pipeline in pipelines]
    assert [place.selector for place in places] == ["learned", "random", "filter"]
    kept = [place.kept() for place in places]
    balance = [np.bincount(np.argmax(np.asarray(one.logits), axis=1), minlength=2).tolist() for one in kept]
    assert balance[0] == balance[1] == balance[2]
    facts = read_json(pipelines[0].path(stages[0]["selection"]) / SELECTION_FILE)
    assert len(facts["curve"]) == 6
    assert {row["share"] for row in facts["shares"]} == {0.25, 0.5, 0.75, 1.0}
    assert facts["reward_rows"] == pytest.approx(20, abs=3)
    assert not (pipelines[0].path(stages[0]["selection"]) / "students").exists()


def test_a_share_that_is_given_is_kept(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a share that is chosen on the reward rows all the same, and students that judge no episode."""
    asked = f"{LEARNED}:share=0.5:reward=student:episodes=3"
    places = [trained(recipe(f"{asked}:selector={name}"), store) for name in ("learned", "random")]
    found = [next(iter(one.added_places(one.recipe.method).values())).kept() for one in places]
    kept = [len(one.texts) for one in found]
    balance = [np.bincount(np.argmax(np.asarray(one.logits), axis=1), minlength=2).tolist() for one in found]
    assert balance[0] == balance[1]
    assert found[0].texts != found[1].texts
    stages = places[0].added_stages(places[0].recipe.method)["topic"]
    facts = read_json(places[0].path(stages["selection"]) / SELECTION_FILE)
    made = len(load_candidates(places[0].path(stages["candidates"]) / CANDIDATES_FILE).texts)
    assert kept == [(made + 1) // 2] * 2
    assert [row["share"] for row in facts["shares"]] == [0.5]
    runs = [CellRun(tmp_path / str(seed), store.folder, one.recipe) for seed, one in enumerate(places)]
    cells = [Cell("l2a", seed, tmp_path, (run,)) for seed, run in enumerate(runs)]
    counted = {"candidates": made, "kept": kept[0], "share": 0.5, "rho": facts["correlation"]["rho"]}
    assert added_texts_of(cells) == {"topic": {"0": counted, "1": counted}}
    assert [full for _, full in facts["correlation"]["pairs"]] == [row["reward"] for row in facts["curve"]]


def test_what_only_the_loss_reads_changes_no_candidate(recipe: Make, store: StageStore) -> None:
    """Catches candidates made again for another weight, share or selector: the most expensive stage."""
    one, other = (
        Pipeline(recipe(f"{LEARNED}{more}"), store) for more in ("", ":weight=0.5:target_share=0.5:selector=random")
    )
    assert candidates_stage(one).folder_name == candidates_stage(other).folder_name
    refilled = Pipeline(recipe(f"refill:{SHORT}"), store)
    assert candidates_stage(one).folder_name == candidates_stage(refilled).folder_name
    assert candidates_stage(one).key != candidates_stage(Pipeline(recipe(f"{LEARNED}:top_k=5"), store)).key


def test_a_task_without_source_is_refilled_from_itself(recipe: Make, store: StageStore) -> None:
    """Catches a refill that needs a source."""
    pipeline = trained(recipe(f"refill:{SHORT}", task={"source": None}), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    assert not found.is_source.any()
    assert np.isnan(found.domain_scores).all()
    assert augmentation_facts(pipeline)["topic"]["domain"] is None


@pytest.mark.parametrize(("label", "kind"), [("urgency", "regression"), ("flags", "multilabel")])
def test_every_task_type_is_selected_for(label: str, kind: str, recipe: Make, store: StageStore) -> None:
    """Catches losses, classes or facts that only a classification has."""
    pipeline = trained(recipe(LEARNED, task={"label": label}), store)
    assert pipeline._all_data()["topic"].task.type == kind
    facts = augmentation_facts(pipeline)["topic"]
    assert facts["counts"]["kept"] == len(pipeline.added_places(pipeline.recipe.method)["topic"].kept())
    assert sum(row["kept"] for row in facts["classes"]) > 0


def test_pairs_change_one_side(recipe: Make, store: StageStore) -> None:
    """Catches pairs of which both sides are rewritten, or that are read as one text."""
    pipeline = trained(recipe(LEARNED, task={"text": ["text", "other"]}), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    changed = [
        sum(old != new for old, new in zip(start, text, strict=True))
        for start, text in zip(found.starts, found.texts, strict=True)
    ]
    assert max(changed) == 1
