"""`config.json`: what other tools read of one task, and of several."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig, BertConfig

from export.config import CONFIG_FILE, describe_tasks, write_config
from serving.manifest import TaskSpec
from tests.export.conftest import INTENT, URGENCY, make_config

TASKS = [
    TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), output="logits_intent"),
    TaskSpec(name="flags", type="multilabel", labels=("x", "y"), output="logits_flags"),
    TaskSpec(name="urgency", type="regression", range=(1.0, 5.0), output="logits_urgency"),
]


def test_one_task_is_a_sequence_classifier_to_other_tools(tmp_path: Path) -> None:
    """Catches labels that other tools number, or a class that they cannot choose."""
    write_config(make_config("bert"), [INTENT], tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.architectures == ["BertForSequenceClassification"]
    assert config.problem_type == "single_label_classification"
    write_config(make_config("bert"), [URGENCY], tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "urgency"}


def test_several_tasks_are_named_with_their_outputs(tmp_path: Path) -> None:
    """Catches the labels of an earlier single task that stay in the file, and would be read for all."""
    config = make_config("bert")
    config.id2label, config.architectures = {0: "old", 1: "older"}, ["BertForSequenceClassification"]
    write_config(config, TASKS, tmp_path)
    written = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert not {"id2label", "label2id", "problem_type", "architectures"} & written.keys()
    assert written["tasks"] == describe_tasks(TASKS)
    assert written["tasks"]["intent"] == {
        "output": "logits_intent", "problem_type": "single_label_classification", "labels": ["a", "b", "c"],
    }  # fmt: skip
    assert written["tasks"]["urgency"] == {
        "output": "logits_urgency", "problem_type": "regression", "range": [1.0, 5.0],
    }  # fmt: skip


def test_the_encoder_of_several_tasks_is_still_described(tmp_path: Path) -> None:
    """Catches a file that other tools cannot make an encoder of."""
    write_config(make_config("bert"), TASKS, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BertConfig)
    assert config.num_hidden_layers == 2
