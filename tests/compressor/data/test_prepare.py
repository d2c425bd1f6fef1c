"""From recipe tasks to splits: nothing of an evaluation split in training, and everything done is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data.leakage import text_keys
from compressor.data.prepare import prepare
from compressor.data.splits import TaskData
from compressor.recipe import TaskSettings
from serving.errors import UserError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labelled(texts: str, label: str = "") -> list[dict[str, Any]]:
    return [{"text": text, "label": label or text[0].lower()} for text in texts.split()]


def prepared(**tasks: dict[str, Any]) -> dict[str, TaskData]:
    return prepare({name: TaskSettings.model_validate(settings) for name, settings in tasks.items()})


def keys_of(data: TaskData, *splits: str) -> set[str]:
    return {key for name in splits if name in data.splits for key in text_keys(data.splits[name].texts)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Train with copies of a validation text (a2), a test text (b3) and itself; b9 in both others."""
    write(tmp_path / "train.jsonl", labelled("a1 a2 A2? a4 a4 b1 b2 b3") + labelled("a4", "b"))
    write(tmp_path / "validation.jsonl", labelled("a2 b8 b9"))
    write(tmp_path / "test.jsonl", labelled("b3 a8 b9."))
    return tmp_path


def test_rows_of_evaluation_splits_leave_training(folder: Path) -> None:
    """A memorised test row raises every figure of the report, the student's and the teacher's alike."""
    (folder / "traffic.txt").write_text("new\nB9!\na2\n")
    data = prepared(task={"data": str(folder), "unlabelled": str(folder / "traffic.txt")})["task"]
    assert data.dropped == {"train": 3, "validation": 1, "test": 0, "unlabelled": 2}
    assert [text for (text,) in data.splits["train"].texts] == ["a1", "a4", "a4", "b1", "b2", "a4"]
    assert np.asarray(data.splits["train"].labels).tolist() == [0, 0, 0, 1, 1, 1]
    assert data.splits["unlabelled"].texts == [("new",)]
    assert not keys_of(data, "train", "unlabelled") & keys_of(data, "validation", "test")
    assert "1 validation rows were dropped: their text is also in test" in data.notices
    assert "2 train rows were dropped: their text is also in validation" in data.notices
    assert "2 train rows repeat the text of another one; they are kept" in data.notices
    assert "1 train texts occur with different labels; they are kept" in data.notices


def test_rows_of_another_tasks_evaluation_leave_training_too(folder: Path, tmp_path: Path) -> None:
    """One encoder learns all tasks: a text learned for one is not unseen for the other."""
    other = tmp_path / "other"
    other.mkdir()
    write(other / "train.jsonl", labelled("a8 a7 b8 b7 c1 d1"))
    write(other / "validation.jsonl", labelled("c3"))
    write(other / "test.jsonl", labelled("b1 d4"))
    tasks = prepared(first={"data": str(folder)}, second={"data": str(other)})
    evaluated = keys_of(tasks["first"], "validation", "test") | keys_of(tasks["second"], "validation", "test")
    for data in tasks.values():
        assert not keys_of(data, "train") & evaluated
    assert tasks["second"].dropped["train"] == 2
    assert tasks["first"].dropped["train"] == 4
    assert {data.task.output for data in tasks.values()} == {"logits_first", "logits_second"}


def many_rows() -> list[dict[str, Any]]:
    return [{"text": f"text {i // 2}", "label": "abc"[i % 3], "score": i / 10} for i in range(400)]


def test_missing_splits_are_carved_and_said(tmp_path: Path) -> None:
    """A split made in silence would pass for a published one."""
    data = prepared(task={"data": write(tmp_path / "rows.jsonl", many_rows())})["task"]
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"test": 80, "validation": 32, "train": 288}
    assert not keys_of(data, "train") & keys_of(data, "validation", "test")
    assert not keys_of(data, "validation") & keys_of(data, "test")
    assert [notice.split(":")[0] for notice in data.notices[:2]] == [
        "there was no test split",
        "there was no validation split",
    ]
    assert "80 of 400 train rows were set aside" in data.notices[0]
    again = prepared(task={"data": str(tmp_path / "rows.jsonl")})["task"]
    assert again.splits["test"].texts == data.splits["test"].texts


def test_tasks_over_the_same_rows_are_carved_alike(tmp_path: Path) -> None:
    """Carved apart, each task's test rows would be dropped from the other's train: a quarter of the data."""
    path = write(tmp_path / "rows.jsonl", many_rows())
    tasks = prepared(kind={"data": path}, score={"data": path, "label": "score"})
    assert tasks["kind"].splits["test"].texts == tasks["score"].splits["test"].texts
    assert tasks["kind"].splits["validation"].texts == tasks["score"].splits["validation"].texts
    assert sum(tasks["score"].dropped.values()) == 0


def test_a_regressions_range_is_that_of_its_training_rows(folder: Path) -> None:
    """A range that knows the test labels would be told something of them."""
    for name, scores in {"train": [2.5, 3, 4.5], "validation": [1, 9.5], "test": [0.5, 9]}.items():
        write(folder / f"{name}.jsonl", [{"text": f"{name} {s}", "label": s} for s in scores])
    task = prepared(task={"data": str(folder)})["task"].task
    assert (task.type, task.range, task.metric, task.labels) == ("regression", (2.5, 4.5), "pearson", ())


def test_the_recipes_settings_reach_the_task(folder: Path) -> None:
    """A metric or type that is read and not used is found out after the run."""
    task = prepared(task={"data": str(folder), "metric": "macro_f1", "type": "multilabel"})["task"].task
    assert (task.type, task.metric) == ("multilabel", "macro_f1")
    with pytest.raises(UserError, match="Did you mean macro_f1"):
        prepared(task={"data": str(folder), "metric": "makro_f1"})


def test_built_in_tasks_share_one_corpus() -> None:
    """The demo's three tasks: all rows stay, labels in order, a filter by domain."""
    settings = {name: {"data": "supportdesk", "label": name} for name in ("intent", "sentiment", "urgency")}
    tasks = prepared(**settings)
    assert {name: data.task.type for name, data in tasks.items()} == {
        "intent": "classification",
        "sentiment": "classification",
        "urgency": "regression",
    }
    assert tasks["sentiment"].task.labels == ("negative", "neutral", "positive")
    assert all(sum(data.dropped.values()) == 0 and len(data.splits["train"]) == 1728 for data in tasks.values())
    bank = prepared(bank={"data": "supportdesk", "label": "intent", "where": {"domain": "bank"}})["bank"]
    assert len(bank.splits["train"]) == 432
    assert bank.sources["where"] == {"domain": "bank"}


def test_labels_lost_to_the_filter_are_an_error(folder: Path) -> None:
    """A class without a single training row would be measured as if it had been taught."""
    write(folder / "train.jsonl", labelled("a1 a5 b3"))
    with pytest.raises(UserError, match="task 'task': all train rows of b were dropped"):
        prepared(task={"data": str(folder)})


def test_a_split_lost_to_the_filter_is_an_error(folder: Path) -> None:
    """A validation split that is a copy of test would leave nothing to choose by."""
    write(folder / "validation.jsonl", labelled("b3 b9"))
    with pytest.raises(UserError, match="no validation row is left after 2 were dropped"):
        prepared(task={"data": str(folder)})


def test_a_label_that_only_test_has_is_an_error(folder: Path) -> None:
    """It can only be answered wrongly; most often it is mistyped."""
    write(folder / "test.jsonl", labelled("z1"))
    with pytest.raises(UserError, match=r"test\.jsonl: no train row has the label 'z'"):
        prepared(task={"data": str(folder)})


@pytest.mark.parametrize("score", [-1.0, 3.5])
def test_a_regression_judged_on_one_value_is_an_error(folder: Path, score: float) -> None:
    """Hidden test labels are often all -1; the correlation with them would be reported as 0."""
    for name, scores in {"train": [2.5, 3], "validation": [1, 9.5], "test": [score, score]}.items():
        write(folder / f"{name}.jsonl", [{"text": f"{name} {i}", "label": s} for i, s in enumerate(scores)])
    with pytest.raises(UserError, match=f"every test label is {score:g}"):
        prepared(task={"data": str(folder), "type": "regression"})


def test_unlabelled_texts_fit_the_task(folder: Path) -> None:
    """Halves of pairs, or another column, would be distilled without a word."""
    missing = {"data": str(folder), "unlabelled": str(folder / "none.txt")}
    with pytest.raises(UserError, match=r"no file '.*none\.txt' of unlabelled texts"):
        prepared(task=missing)
    rows = [{"text_a": row["text"], "text_b": "x", "label": row["label"]} for row in labelled("a1 b1")]
    write(folder / "train.jsonl", rows)
    (folder / "traffic.txt").write_text("one\n")
    for name in ("validation", "test"):
        (folder / f"{name}.jsonl").unlink()
    with pytest.raises(UserError, match="the columns text_a and text_b"):
        prepared(task={"data": str(folder), "unlabelled": str(folder / "traffic.txt")})


def test_many_whole_numbers_are_asked_about(tmp_path: Path) -> None:
    """Scores from 0 to 100 look like a hundred classes."""
    path = write(tmp_path / "rows.jsonl", [{"text": f"t {i}", "label": i % 60} for i in range(240)])
    notices = prepared(task={"data": path})["task"].notices
    assert any("60 different whole numbers" in notice for notice in notices)


def test_source_rows_have_the_tasks_labels_and_no_evaluation_text(folder: Path, tmp_path: Path) -> None:
    """Catches source labels in another order than the target's, and evaluation texts that come in by the source."""
    rows = [{"body": "b7 x", "kind": "b"}, {"body": "B3!", "kind": "b"}, {"body": "a5 x", "kind": "a"}]
    source = write(tmp_path / "other.jsonl", [{**row, "shop": shop} for shop in ("one", "two") for row in rows])
    settings = {"data": source, "text": "body", "label": "kind", "where": {"shop": "one"}}
    data = prepared(task={"data": str(folder), "source": settings})["task"]
    assert data.splits["source"].texts == [("b7 x",), ("a5 x",)]
    assert np.asarray(data.splits["source"].labels).tolist() == [1, 0]
    assert data.dropped["source"] == 1
    assert "1 source rows were dropped: their text is also in test" in data.notices
    assert data.sources["source"] == {"name": source, "where": {"shop": "one"}}


def test_own_rows_are_no_source(folder: Path, tmp_path: Path) -> None:
    """Catches a source that is the target itself: few labels would be many, and nobody would see it."""
    source = write(tmp_path / "other.jsonl", labelled("a1 b7 A4!"))
    settings = {"data": str(folder), "source": {"data": source}}
    data = prepared(task={**settings, "train_rows": 2})["task"]
    assert data.splits["source"].texts == [("b7",)]
    assert "2 source rows were dropped: their text is also in train" in data.notices


def test_a_source_that_is_not_one_is_refused(folder: Path, tmp_path: Path) -> None:
    """Catches labels that the student has no output for, and pairs where the task reads single texts."""
    other = write(tmp_path / "other.jsonl", [{"text": "c1", "label": "c"}])
    with pytest.raises(UserError, match=r"no train row has the label 'c'.*leave other rows out with source\.where"):
        prepared(task={"data": str(folder), "source": {"data": other}})
    pairs = write(tmp_path / "pairs.jsonl", [{"text_a": "a", "text_b": "b", "label": "a"}])
    with pytest.raises(UserError, match=r"the task's rows have 1 texts, those of its source 2\. Set source\.text"):
        prepared(task={"data": str(folder), "source": {"data": pairs}})
    leaked = write(tmp_path / "leaked.jsonl", [{"text": "b3", "label": "b"}])
    with pytest.raises(UserError, match="no source row is left after 1 were dropped"):
        prepared(task={"data": str(folder), "source": {"data": leaked}})


def test_a_regressions_source_of_one_value_is_an_error(folder: Path, tmp_path: Path) -> None:
    """Catches a constant that would be taught to the teacher, and the target's labels after it."""
    for name, scores in {"train": [2.5, 3.0], "validation": [1.0, 9.5], "test": [1.0, 2.0]}.items():
        write(folder / f"{name}.jsonl", [{"text": f"{name} {i}", "label": s} for i, s in enumerate(scores)])
    source = write(tmp_path / "other.jsonl", [{"text": f"other {i}", "label": 4.0} for i in range(3)])
    with pytest.raises(UserError, match="every source label is 4"):
        prepared(task={"data": str(folder), "type": "regression", "source": {"data": source}})
