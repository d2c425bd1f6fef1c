"""`config.json` of a bundle: the encoder's transformers configuration, and the tasks as other tools may read them.

With one task the file is that of a sequence classifier: labels, problem type and architecture stand where transformers
looks for them. With several no class of transformers has such outputs, so `architectures` and labels are left out, and
`tasks` says per task which output of the graph is its logits and what these mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from serving.manifest import TaskSpec

CONFIG_FILE = "config.json"
TASKS_KEY = "tasks"
PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
_OF_ONE_TASK = ("architectures", "id2label", "label2id", "problem_type")


def labelled_config(config: Any, task: TaskSpec) -> Any:
    """A copy of a transformers configuration with a task's labels and problem type, as other tools read them."""
    copy = type(config).from_dict(config.to_dict())
    names = task.labels or (task.name,)
    copy.id2label = dict(enumerate(names))
    copy.label2id = {name: index for index, name in enumerate(names)}
    copy.problem_type = PROBLEM_TYPES[task.type]
    return copy


def write_config(config: Any, tasks: Sequence[TaskSpec], folder: Path) -> None:
    """Write `config.json`.

    Args:
        config: the encoder's transformers configuration.
        tasks: with the names of their outputs.
        folder: of the candidate.
    """
    written = _of_one(config, tasks[0]) if len(tasks) == 1 else _of_several(config, tasks)
    (folder / CONFIG_FILE).write_text(written, encoding="utf-8")


def describe_tasks(tasks: Sequence[TaskSpec]) -> dict[str, dict[str, Any]]:
    """What `config.json` says of several tasks: per name the graph's output, the type and the labels or the range."""
    return {
        task.name: {
            "output": task.output,
            "problem_type": PROBLEM_TYPES[task.type],
            **({"range": list(task.range)} if task.type == "regression" else {"labels": list(task.labels)}),
        }
        for task in tasks
    }


def _of_one(config: Any, task: TaskSpec) -> str:
    written = labelled_config(config, task)
    written.architectures = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type]]
    return str(written.to_json_string(use_diff=False))


def _of_several(config: Any, tasks: Sequence[TaskSpec]) -> str:
    values = json.loads(config.to_json_string(use_diff=False))
    kept = {key: value for key, value in values.items() if key not in _OF_ONE_TASK}
    return json.dumps(kept | {TASKS_KEY: describe_tasks(tasks)}, indent=2, sort_keys=True) + "\n"
