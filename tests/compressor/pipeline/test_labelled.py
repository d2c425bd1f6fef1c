"""`--data`, `--text` and `--label` of several tasks: each value reaches its own, what is unclear is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.pipeline.labelled import LabelledTexts, by_task, labelled_samples
from serving.errors import UserError
from serving.manifest import InputSpec, Manifest, TaskSpec

TOPIC = TaskSpec(
    name="topic", type="classification", labels=("delivery", "account", "billing"), metric="accuracy", output="a"
)
URGENCY = TaskSpec(name="urgency", type="regression", metric="pearson", output="b")
FLAGS = TaskSpec(name="flags", type="multilabel", labels=("polite", "angry"), metric="micro_f1", output="c")


def manifest(*tasks: TaskSpec, columns: tuple[str, ...] = ("text",)) -> Manifest:
    inputs = InputSpec(names=("input_ids",), pad_id=0, max_length=16, text_columns=columns)
    return Manifest(name="toy", version="1", tasks=tasks, inputs=inputs, artifacts=(), default_artifact="fp32")


SEVERAL = manifest(TOPIC, URGENCY, FLAGS)


def test_values_go_to_the_task_they_name_and_the_others_to_all() -> None:
    """Catches the label column of one task that is read for another."""
    found = by_task(["premise", "topic=first", "topic=second"], ["topic", "urgency"])
    assert found == {"topic": ["first", "second"], "urgency": ["premise"]}


def test_each_task_gets_its_own_labels_from_one_file(toy_file: Path) -> None:
    """Catches three tasks measured on the labels of the first."""
    given = LabelledTexts(
        [f"{name}={toy_file}" for name in ("flags", "topic", "urgency")],
        ["text"],
        ["topic=topic", "urgency=urgency", "flags=flags"],
    )
    samples = labelled_samples(SEVERAL, given)
    assert list(samples) == ["topic", "urgency", "flags"]
    assert {len(sample.texts) for sample in samples.values()} == {240}
    assert set(samples["topic"].labels.tolist()) == {0, 1, 2}
    assert samples["urgency"].labels.max() > 1.0
    assert samples["flags"].labels.shape == (240, 2)


def test_labels_are_in_the_bundles_order(toy_file: Path) -> None:
    """Catches numbers given by the file's order of labels: a right bundle would look wrong."""
    given = LabelledTexts([f"topic={toy_file}", f"flags={toy_file}"], ["text"], ["topic=topic", "flags=flags"])
    samples = labelled_samples(SEVERAL, given)
    assert samples["topic"].labels[:3].tolist() == [2, 0, 1]  # billing, delivery, account
    text = toy_file.read_text().splitlines()
    polite = np.array(['"polite"' in line for line in text])
    assert (samples["flags"].labels[:, 0] == polite).all()
    assert samples["topic"].label_names == TOPIC.labels


def test_one_task_needs_no_name(toy_file: Path) -> None:
    """Catches a rule for several tasks that makes the plain case longer."""
    plain = labelled_samples(manifest(TOPIC), LabelledTexts([str(toy_file)], ["text"], ["topic"]))
    named = labelled_samples(manifest(TOPIC), LabelledTexts([f"topic={toy_file}"], ["text"], ["topic"]))
    assert plain["topic"].labels.tolist() == named["topic"].labels.tolist()


def test_a_regression_of_whole_numbers_is_read_as_one(tmp_path: Path) -> None:
    """Catches scores from 1 to 5 taken for five classes because nobody said otherwise."""
    path = tmp_path / "scores.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{number % 5 + 1}\n" for number in range(20)))
    samples = labelled_samples(SEVERAL, LabelledTexts([f"urgency={path}"]))
    assert samples["urgency"].labels.dtype.kind == "f"
    assert samples["urgency"].labels.max() == 5.0


@pytest.mark.parametrize(
    ("data", "text", "label", "message"),
    [
        (["FILE"], [], [], "names none of the bundle's tasks topic, urgency, flags.*--data topic=FILE"),
        (["topik=FILE"], [], [], "names none of the bundle's tasks"),
        (["topic=FILE", "topic=FILE"], [], ["topic"], "given twice for task 'topic'"),
        (["topic=FILE"], [], ["topic", "urgency=urgency"], "--label urgency=urgency is for a task without data"),
        (["topic=FILE"], ["flags=text"], ["topic"], "--text flags=text is for a task without data"),
        (["topic=FILE"], [], ["topic", "urgency"], "--label was given 2 times for task 'topic'"),
        (["topic=FILE"], ["text", "topic"], ["topic"], "reads single texts"),
        (["topic=FILE"], [], ["text"], "task 'topic' have the label"),
        (["topic=nowhere.csv"], [], ["topic"], "nowhere.csv"),
    ],
)
def test_what_is_unclear_is_refused(
    toy_file: Path, data: list[str], text: list[str], label: list[str], message: str
) -> None:
    """Catches a claim that is checked against the wrong labels in silence."""
    given = LabelledTexts([value.replace("FILE", str(toy_file)) for value in data], text, label)
    with pytest.raises(UserError, match=message.replace("FILE", ".*")):
        labelled_samples(SEVERAL, given)


def test_pairs_are_asked_for_where_the_bundle_reads_pairs(toy_file: Path) -> None:
    """Catches single texts sent to a model that was trained on pairs."""
    of_pairs = manifest(TOPIC, columns=("premise", "hypothesis"))
    with pytest.raises(UserError, match=r"reads pairs.*--text premise --text hypothesis"):
        labelled_samples(of_pairs, LabelledTexts([str(toy_file)], ["text"], ["topic"]))
