"""The hub through `datasets`, with a local stand-in for the network."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from compressor.data.hub import HubId, parse_hub_id, read_hub
from serving.errors import UserError

FEATURES = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


def rows(labels: list[int]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"sentence": [f"text {i}" for i in range(len(labels))], "label": labels}, features=FEATURES
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nyu-mll/glue:sst2", HubId("nyu-mll/glue", "sst2")),
        ("org/name@v1.0", HubId("org/name", None, "v1.0")),
        ("org/name:config-1@refs/convert/parquet", HubId("org/name", "config-1", "refs/convert/parquet")),
        ("name", None),
        ("a/b/c", None),
        ("../name x", None),
    ],
)
def test_ids_are_taken_apart(text: str, expected: HubId | None) -> None:
    """A config read as a revision loads other rows, or none."""
    assert parse_hub_id(text) == expected


def test_class_numbers_become_the_declared_names() -> None:
    """Numbers kept as labels would not match a teacher's names; split names differ from hub to hub."""
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> datasets.DatasetDict:
        asked.append((args, options))
        return datasets.DatasetDict({"train": rows([1, 0]), "validation_matched": rows([0, 1])})

    tables, notices = read_hub(HubId("org/name", "config", "v1"), load=load)
    assert asked == [(("org/name",), {"name": "config", "revision": "v1"})]
    assert list(tables) == ["train", "validation"]
    assert tables["train"].frame["label"].tolist() == ["pos", "neg"]
    assert tables["train"].label_names == {"label": ("neg", "pos")}
    assert notices == []


def test_a_single_missing_label_stays_missing() -> None:
    """Number -1 taken as a position would be the last class."""
    loaded = datasets.DatasetDict({"train": rows([1, -1, 0])})
    tables, _ = read_hub(HubId("org/name"), load=lambda *_, **__: loaded)
    assert tables["train"].frame["label"].isna().tolist() == [False, True, False]


def test_lists_of_class_numbers_become_names() -> None:
    """The multilabel sets of the hub hold lists of numbers."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=["joy", "fear"])),
        }
    )
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 0], []]}, features=features)
    tables, _ = read_hub(HubId("org/name"), load=lambda *_, **__: datasets.DatasetDict({"train": train}))
    assert tables["train"].frame["labels"].tolist() == [["fear", "joy"], []]


def test_splits_without_labels_or_of_other_names_are_left_out_aloud() -> None:
    """GLUE hides its test labels behind -1: an accuracy measured on them is noise."""
    loaded = datasets.DatasetDict(
        {
            "train": rows([1, 0]),
            "test": rows([-1, -1]),
            "extra": rows([0]),
            "validation": rows([0]),
            "dev": rows([1]),
        }
    )
    tables, notices = read_hub(HubId("org/name"), load=lambda *_, **__: loaded)
    assert list(tables) == ["train", "validation"]
    assert [notice.split(" is not used: ")[0] for notice in notices] == [
        f"split '{name}' of org/name" for name in ("test", "extra", "dev")
    ]
    assert "no labels" in notices[0]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach\n'org/name'"),
        ValueError("BuilderConfig 'x' not found"),
        FileNotFoundError("no"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(error: Exception) -> None:
    """A traceback through three libraries hides that the name was mistyped."""

    def load(*_: Any, **__: Any) -> None:
        raise error

    with pytest.raises(UserError, match="no file or folder 'org/name' is here") as caught:
        read_hub(HubId("org/name"), load=load)
    assert "\n" not in str(caught.value)


def test_offline_is_said_by_the_real_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins above would not notice if `datasets` came to raise something else."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub did not give"):
        read_hub(HubId("no-such-org/no-such-name"))
