"""From a student to a bundle that the serving floor loads, with claims that can be checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from export.bundle import assemble_bundle
from export.candidate import Candidate, Student, export_candidate, name_outputs, read_candidate
from export.gates import Limits
from export.measure import Measurements, measure, read_measurements, write_measurements
from export.runners import run_texts, torch_runner
from export.sample import Sample
from export.verify import verify
from serving.bundle import Bundle
from serving.errors import UserError
from serving.manifest import read_manifest
from serving.tokenise import TextEncoder
from tests.export.conftest import (
    INPUTS,
    INTENT,
    URGENCY,
    accuracy,
    make_config,
    make_model,
    make_texts,
    save_tokenizer,
)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_bundle_loads_and_answers_as_the_student(bundle_folder: Path, sample: Sample, precision: str) -> None:
    """Labels, order or tokens lost between export and serving would show only in production."""
    bundle = Bundle.load(bundle_folder, precision)

    answers = bundle.predict(list(sample.texts))

    given = np.array([INTENT.labels.index(answer["intent"]["label"]) for answer in answers])
    claimed = bundle.artifact.metrics["intent"]
    assert accuracy(sample.labels, given) == pytest.approx(claimed.value)
    assert claimed.value == pytest.approx(0.9, abs=0.0 if precision == "fp32" else 0.2)


def test_other_tools_find_their_config_and_labels(bundle_folder: Path) -> None:
    """A config without labels makes other tools answer LABEL_0."""
    config = AutoConfig.from_pretrained(bundle_folder)

    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.architectures == ["BertForSequenceClassification"]
    assert config.problem_type == "single_label_classification"
    assert AutoModelForSequenceClassification.from_config(config).num_labels == 3


def test_the_manifest_says_what_was_measured(bundle_folder: Path, measurements: Measurements) -> None:
    """Figures that come from elsewhere than the measurements are inventions."""
    manifest = read_manifest(bundle_folder)

    fp32, int8 = manifest.artifact("fp32"), manifest.artifact("int8")
    assert (fp32.batch_invariant, int8.batch_invariant) == (True, False)
    assert (fp32.quantised_nodes, int8.quantised_nodes) == (0, 17)
    assert fp32.parity["intent"].max_difference < 1e-4 < int8.parity["intent"].max_difference
    assert int8.tolerance >= int8.batch_difference > fp32.tolerance  # type: ignore[operator]
    assert fp32.certified == measurements.certified
    assert manifest.default_artifact == measurements.default_artifact
    assert "candidate.json" not in {path.name for path in bundle_folder.iterdir()}


def test_the_card_shows_every_artifact_and_gate(bundle_folder: Path) -> None:
    """A card without the failed gate is an advertisement."""
    card = (bundle_folder / "README.md").read_text(encoding="utf-8")

    assert "| fp32 |" in card
    assert "| int8 |" in card
    assert "export_logit_difference" in card
    assert "quantisation_metric_drop" in card
    assert "made-up texts" in card


def test_measurements_survive_their_file(measurements: Measurements, tmp_path: Path) -> None:
    """A stage that reads other figures than the one before it wrote."""
    write_measurements(tmp_path, measurements)

    assert read_measurements(tmp_path) == measurements


def test_a_failed_gate_keeps_an_artifact_from_being_the_default(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample
) -> None:
    """The fastest artifact must not win with answers that nobody accepts."""
    limits = Limits(export_logit_difference=1e-4, quantisation_metric_drop=-1.0)

    measured = measure(candidate[0], student.model, {"intent": sample}, limits=limits)

    assert {gate.subject: gate.verdict for gate in measured.gates} == {
        "plain intent": "passed",
        "fp32 intent": "passed",
        "int8 intent": "failed",
    }
    assert [artifact.passed for artifact in measured.artifacts] == [True, False]
    assert measured.default_artifact == "fp32"


def test_a_drop_is_what_the_artifact_loses(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample, encoder: TextEncoder
) -> None:
    """With its sign turned a worse artifact would pass, and a better one fail."""
    own_answers = run_texts(torch_runner(student.model), encoder, encoder.encode(sample.texts))["intent"]
    perfect = Sample(sample.texts, own_answers.argmax(axis=1), accuracy)

    measured = measure(candidate[0], student.model, {"intent": perfect})

    gate = next(gate for gate in measured.gates if gate.name == "quantisation_metric_drop")
    assert measured.student["intent"].value == 1.0
    assert gate.measured == pytest.approx(1.0 - measured.artifacts[1].metrics["intent"].value)
    assert gate.low is not None
    assert gate.high is not None
    assert gate.measured is not None
    assert gate.low <= gate.measured <= gate.high
    assert gate.measured > 0


def test_measuring_ignores_and_restores_training_mode(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample
) -> None:
    """Dropout in the reference once made a right graph look wrong by almost two logits."""
    student.model.train()
    try:
        measured = measure(candidate[0], student.model, {"intent": sample})
        assert student.model.training
    finally:
        student.model.eval()

    assert measured.artifacts[0].parity["intent"].max_difference < 1e-4


def test_a_task_without_validation_texts_is_refused(candidate: tuple[Path, Candidate], student: Student) -> None:
    """A bundle with unmeasured claims."""
    with pytest.raises(UserError, match="task 'intent' has no labelled validation texts"):
        measure(candidate[0], student.model, {})


def test_an_undefined_metric_is_refused(candidate: tuple[Path, Candidate], student: Student, sample: Sample) -> None:
    """NaN is no JSON, and no claim."""
    undefined = Sample(sample.texts, sample.labels, lambda labels, predictions: float("nan"))

    with pytest.raises(UserError, match="is undefined on its 60"):
        measure(candidate[0], student.model, {"intent": undefined})


def test_several_tasks_of_pairs_make_one_bundle(tmp_path: Path) -> None:
    """Everything above with one text and one task can be right and pairs or second heads still wrong."""
    save_tokenizer(tmp_path)
    inputs = msgspec.structs.replace(
        INPUTS,
        names=("input_ids", "attention_mask", "token_type_ids"),
        text_columns=("question", "answer"),
    )
    tasks = (INTENT, URGENCY)
    student = Student(make_model("bert", tasks), make_config("bert"), tmp_path, tasks, inputs)
    export_candidate(student, tmp_path / "candidate")
    pairs = [(first, second) for (first,), (second,) in zip(make_texts(20), make_texts(20, 1), strict=True)]
    samples = {
        "intent": Sample(pairs, np.arange(20) % 3, accuracy),
        "urgency": Sample(pairs, np.arange(20.0), lambda x, y: float(np.corrcoef(x, y)[0, 1])),
    }

    measured = measure(tmp_path / "candidate", student.model, samples)
    manifest = assemble_bundle(tmp_path / "candidate", measured, tmp_path / "bundle", name="toy", version="1")

    assert [task.output for task in manifest.tasks] == ["logits_intent", "logits_urgency"]
    answer = Bundle.load(tmp_path / "bundle", "fp32").predict([("word1 word2", "word3")])[0]
    assert answer.keys() == {"intent", "urgency"}
    labels = next(claim for claim in verify(tmp_path / "bundle") if claim.name.startswith("labels"))
    assert labels.status == "checked"


def test_a_full_folder_is_not_overwritten(
    candidate: tuple[Path, Candidate], measurements: Measurements, bundle_folder: Path
) -> None:
    """Two bundles mixed in one folder."""
    with pytest.raises(UserError, match="not empty"):
        assemble_bundle(candidate[0], measurements, bundle_folder, name="toy", version="2")


def test_a_graph_changed_after_measuring_is_not_bundled(
    candidate: tuple[Path, Candidate], measurements: Measurements, tmp_path: Path
) -> None:
    """Claims of one graph would be signed onto another."""
    shutil.copytree(candidate[0], tmp_path / "candidate")
    with (tmp_path / "candidate" / "model.int8.onnx").open("ab") as file:
        file.write(b"x")

    with pytest.raises(UserError, match="not the file that was exported"):
        assemble_bundle(tmp_path / "candidate", measurements, tmp_path / "bundle", name="toy", version="1")


@pytest.mark.parametrize(
    ("precisions", "message"), [(["int4"], "no precision 'int4'"), ([], "no precision was asked for")]
)
def test_unknown_precisions_are_refused(student: Student, tmp_path: Path, precisions: list[str], message: str) -> None:
    """A typing mistake would leave an artifact out."""
    with pytest.raises(UserError, match=message):
        export_candidate(student, tmp_path / "candidate", precisions=precisions)


def test_a_slow_tokenizer_is_refused(student: Student, tmp_path: Path) -> None:
    """A bundle without tokenizer.json cannot be served."""
    (tmp_path / "slow").mkdir()
    slow = Student(student.model, student.config, tmp_path / "slow", student.tasks, student.inputs)

    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        export_candidate(slow, tmp_path / "candidate")


def test_a_folder_without_candidate_is_told(tmp_path: Path) -> None:
    """A traceback instead of a line."""
    with pytest.raises(UserError, match="no export candidate"):
        read_candidate(tmp_path)


def test_outputs_are_named_for_their_tasks() -> None:
    """Two outputs of one name would overwrite one another; other tools look for `logits`."""
    assert [task.output for task in name_outputs([INTENT])] == ["logits"]
    assert [task.output for task in name_outputs([INTENT, URGENCY])] == ["logits_intent", "logits_urgency"]
