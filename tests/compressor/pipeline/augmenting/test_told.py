"""What a user is told of added texts: the report, the bundle, and what cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.distillation.augmentation.candidates import load_candidates
from compressor.distillation.augmentation.knobs import RefillKnobs
from compressor.distillation.presets import label_of, parse_method
from compressor.pipeline.added import CANDIDATES_FILE
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.checks import check_before_training, check_with_data
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import TARGETS_FILE, load_data
from compressor.pipeline.stages import StageStore, needed_for, run_stages
from export.fingerprint import hash_rows
from serving.errors import UserError
from tests.compressor.pipeline.augmenting.conftest import LEARNED, SHORT, Make, candidates_stage, trained


def test_the_report_tells_what_was_learned(recipe: Make, store: StageStore) -> None:
    """Catches a section with figures of another choice than the student's."""
    pipeline = trained(recipe(f"{LEARNED}:share=0.5"), store)
    facts = augmentation_facts(pipeline)["topic"]
    assert facts["selection"].keys() == {"share", "shares", "confirmation", "curve", "correlation"}
    counts = facts["counts"]
    assert counts["generated"] == counts["candidates"] + sum(counts["dropped"].values())
    assert sum(row["kept"] for row in facts["classes"]) == counts["kept"] == sum(facts["edits"]["kept"])
    assert sum(facts["domain"]["candidates"]) == counts["candidates"]
    assert {"masked_lm", "generate", "teacher", "student", "selector"} <= facts["seconds"].keys()
    dropped, kept = ([row["score"] for row in facts["examples"][name]] for name in ("dropped", "kept"))
    assert len(kept) > 1
    assert kept == sorted(kept, reverse=True)
    assert len(dropped) > 1
    assert dropped == sorted(dropped)
    assert augmentation_facts(trained(recipe("kd"), store)) == {}
    json.dumps(facts)


@pytest.mark.parametrize("mlm", ["adapt", "given"])
def test_the_bundle_says_where_the_texts_come_from(mlm: str, recipe: Make, store: StageStore, model: str) -> None:
    """Catches a bundle that names its own rows and keeps silent about the source, what was made, and by what."""
    method = f"refill:{SHORT}" + (f":mlm={model}" if mlm == "given" else "")
    pipeline = trained(recipe(method), store)
    found = pipeline.provenance()
    (task,) = pipeline.recipe.tasks.values()
    splits = found["data"]["topic"]["splits"]
    assert task.source is not None
    assert splits["source"]["name"] == task.source.data
    kept = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE).texts
    assert splits["added"] == {
        "rows": len(kept),
        "sha256": hash_rows(kept, None),
        "name": label_of(parse_method(method)),
    }
    assert "name" not in splits["train"]
    assert len(found["models"]["masked language model"]) == 64
    assert json.loads(json.dumps(found["data"])) == found["data"]
    without = trained(recipe("kd"), store).provenance()
    assert "added" not in without["data"]["topic"]["splits"]
    assert "masked language model" not in without["models"]


@pytest.mark.parametrize(
    ("method", "task", "said"),
    [
        ("source", {"source": None}, "method 'source' reads the source of task 'topic', which names none"),
        ("refill:rounds=0", {"source": None}, "refill has no source text and masks nothing"),
        ("l2a:rate=0", {"source": None}, "l2a has no source text and masks nothing"),
        ("refill", {"teacher": "none"}, "method 'kd+refill' learns from a teacher, but no task"),
        ("refill", {"teacher": {"predictions": "p.csv"}}, "teacher.predictions are stored for known texts only"),
        ({"refill": {"tasks": ["other"]}}, {}, "refill.tasks names 'other'. Choose from: topic"),
        (["none", "l2a"], {}, "'none' and 'l2a' cannot be combined: added texts have the teacher's targets only"),
        (["source", "l2a"], {}, "'source' and 'l2a' cannot be combined"),
        ("refill:rounds=0:start=target", {}, "refill has no source text and masks nothing"),
        (["l2a", {"kd": {"alpha": 0}}], {}, "kd.alpha is 0 beside 'l2a': no teacher is read"),
        ({"refill": {"tasks": []}}, {}, "refill.tasks is [], expected at least one task"),
        ("l2a:rounds=-1", {}, "l2a.rounds is -1, expected a whole number of at least 0"),
        ("source:nearest=0", {}, "source.nearest is 0.0, expected a number above 0"),
        ("l2a:share=0", {}, "l2a.share is 0.0, expected a number above 0 and at most 1"),
        ("l2a:share=1.5", {}, "l2a.share is 1.5, expected a number above 0 and at most 1"),
        ("source:labels=gold:min_margin=0.2", {}, "source.labels is gold, where no teacher is asked"),
    ],
)
def test_what_cannot_be_is_said_when_the_recipe_is_read(
    method: object, task: dict[str, Any], said: str, recipe: Make
) -> None:
    """Catches a mistake that is found after the teacher was trained, or never."""
    with pytest.raises(ValueError) as caught:
        recipe(method, task=task, student={"layers": 1, "model": "m"})
    assert said in str(caught.value)


def test_a_task_without_teacher_gets_no_texts(files: dict[str, str], recipe: Make) -> None:
    """Catches texts for a task that nobody answers, beside one that has a teacher."""
    topic = {"data": files["target"], "text": "text", "label": "topic"}
    tasks = {"topic": topic, "urgency": {**topic, "label": "urgency", "teacher": "none"}}
    with pytest.raises(ValueError, match="refill gives task 'urgency' texts that a teacher answers"):
        recipe({"refill": {"tasks": ["urgency"]}}, tasks=tasks)
    assert recipe("refill", tasks=tasks).augmented_tasks(RefillKnobs()) == ("topic",)


def test_a_shared_teacher_begins_with_sources_of_all_its_tasks_or_of_none(
    files: dict[str, str], recipe: Make, model: str
) -> None:
    """Catches a teacher that begins with all own labels of a task, those that train_rows or a fold keeps from it."""
    topic = {"data": files["target"], "text": "text", "label": "topic"}
    tasks = {"topic": {**topic, "source": {"data": files["source"]}}, "urgency": {**topic, "label": "urgency"}}
    with pytest.raises(ValueError, match="task 'urgency' shares its teacher"):
        recipe("kd", tasks=tasks, teacher={"model": model, "multitask": True})
    recipe("kd", tasks=tasks, teacher={"model": model, "multitask": True, "source": "together"})


def test_what_the_rows_decide_is_said_before_training(files: dict[str, str], recipe: Make, tmp_path: Path) -> None:
    """Catches too few rows to judge by, and a source with other labels, found after hours."""
    few = recipe("l2a", task={"train_rows": 6})
    pipeline = Pipeline(few, StageStore(tmp_path))
    run_stages(pipeline.store, [pipeline.data])
    with pytest.raises(UserError, match="needs at least 8"):
        check_with_data(few, load_data(pipeline.path(pipeline.data)))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "never late", "topic": "returns"}\n')
    wrong = Pipeline(recipe("l2a", task={"source": {"data": str(other)}}), StageStore(tmp_path))
    with pytest.raises(UserError, match=r"the source .*no train row has the label 'returns'.*source\.where"):
        run_stages(wrong.store, [wrong.data])


def test_a_checkpoint_without_masked_lm_is_said_before_training(
    recipe: Make, model: str, checkpoint: Callable[..., Path]
) -> None:
    """Catches candidates refilled by a random head, and a tokenizer that knows no mask, found after the teacher."""
    check_before_training(recipe("refill"))
    check_before_training(recipe(f"refill:mlm={model}"))
    with pytest.raises(UserError, match="mask token"):
        check_before_training(recipe("refill", teacher={"model": str(checkpoint())}, student={"layers": 1}))


@pytest.mark.parametrize("method", ["source", f"refill:{SHORT}", LEARNED], ids=["source", "refill", "l2a"])
def test_a_teacher_below_the_majority_is_refused(method: str, recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a useless teacher whose answers label a thousand texts, by whichever way these were found."""
    taught = Pipeline(recipe(method), store)
    run_stages(store, needed_for(taught.targets["topic"]))
    pipeline = Pipeline(taught.recipe, StageStore(tmp_path))
    for stage in needed_for(pipeline.targets["topic"]):
        shutil.copytree(taught.path(stage), pipeline.path(stage))
    train = load_data(pipeline.path(pipeline.data))["topic"].splits["train"]
    wrong = np.eye(2, dtype=np.float32)[1 - np.asarray(train.labels)]
    np.save(pipeline.path(pipeline.targets["topic"]) / TARGETS_FILE, wrong)
    with pytest.raises(UserError, match="so it cannot label further texts") as caught:
        run_stages(pipeline.store, needed_for(pipeline.student))
    assert "\n" not in str(caught.value)
    assert not pipeline.store.is_done(candidates_stage(pipeline))
    assert not list(tmp_path.glob("masked-lm*")), "the costly stages come after the check"
