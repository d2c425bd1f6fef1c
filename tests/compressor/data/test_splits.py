"""A task's rows on disk come back as they were."""

from pathlib import Path

import numpy as np
import pytest

from compressor.data.splits import Split, TaskData, load_task_data, save_task_data, training_texts
from serving.manifest import TaskSpec

LABELS = {
    "classification": np.array([1, 0, 2]),
    "multilabel": np.array([[1, 0], [0, 0], [1, 1]], dtype=np.float32),
    "regression": np.array([0.1, -2.5, 1e6], dtype=np.float32),
}
SPECS = {
    "classification": TaskSpec(name="t", type="classification", labels=("a", "b", "c"), metric="mcc"),
    "multilabel": TaskSpec(name="t", type="multilabel", labels=("a", "b")),
    "regression": TaskSpec(name="t", type="regression", range=(-2.5, 1e6)),
}
PAIRS: list[tuple[str, ...]] = [("a\nb", "ü"), ('"', "\t"), ("🎉", "nan")]


@pytest.mark.parametrize("task_type", list(SPECS))
def test_every_task_type_survives_the_disk(task_type: str, tmp_path: Path) -> None:
    """A label array that comes back with another type or shape trains another task after a resume."""
    splits = {"train": Split(PAIRS, LABELS[task_type]), "unlabelled": Split(PAIRS[:1])}
    data = TaskData(SPECS[task_type], splits, ("a", "b"), ["a notice"], {"train": 2}, {"kind": "file"})
    save_task_data(tmp_path / "task", data)
    loaded = load_task_data(tmp_path / "task")
    assert (loaded.task, loaded.text_columns) == (data.task, data.text_columns)
    assert (loaded.notices, loaded.dropped, loaded.sources) == (data.notices, data.dropped, data.sources)
    assert loaded.splits["train"].texts == PAIRS
    labels = loaded.splits["train"].labels
    assert labels is not None
    np.testing.assert_array_equal(labels, LABELS[task_type])
    assert labels.dtype == LABELS[task_type].dtype
    assert loaded.splits["unlabelled"].labels is None
    assert loaded.is_pair


def test_selecting_rows_keeps_texts_and_labels_together() -> None:
    """Texts and labels cut by different masks would be a set of random labels."""
    split = Split(PAIRS, LABELS["classification"])
    for rows in (np.array([False, True, True]), np.array([1, 2])):
        part = split.select(rows)
        assert part.texts == PAIRS[1:]
        np.testing.assert_array_equal(np.asarray(part.labels), [0, 2])


def test_a_split_refuses_labels_of_another_length() -> None:
    """A shorter label array would be read past its end, or shifted, much later."""
    with pytest.raises(ValueError, match="3 texts have 2 labels"):
        Split(PAIRS, np.array([0, 1]))


def test_training_texts_are_train_then_unlabelled() -> None:
    """Cached teacher logits are aligned to this order; another one pairs every text with a foreign target."""
    splits = {"unlabelled": Split([("u",)]), "train": Split([("t",)], np.array([0]))}
    data = TaskData(SPECS["classification"], splits, ("text",))
    assert training_texts(data) == [("t",), ("u",)]
