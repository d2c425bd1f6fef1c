"""From the bench to the bundle: the temperature is fitted once, written down, served, and held by golden examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.special import softmax

from export import slices
from export.bundle import assemble_bundle
from export.calibration import measure_calibration
from export.candidate import Candidate, Student
from export.card import confidence_figures
from export.gates import Limits
from export.measure import Measurements, measure
from export.runners import run_texts, torch_runner
from export.sample import Sample
from export.verify.card import card_claims
from serving.answers import probabilities
from serving.bundle import Bundle
from serving.errors import BundleError
from serving.manifest import read_manifest, write_manifest
from serving.tokenise import TextEncoder
from tests.export.conftest import make_texts

WIDE = Limits(quantisation_metric_drop=0.5)


@pytest.fixture(scope="module")
def sample(student: Student, encoder: TextEncoder) -> Sample:
    """Texts of a world in which the tiny BERT's logits are four times too large."""
    texts = make_texts(150)
    logits = run_texts(torch_runner(student.model), encoder, encoder.encode(texts))["intent"].astype(np.float64)
    shares = softmax(logits / 4.0, axis=1).cumsum(axis=1)
    labels = (np.random.default_rng(0).random(150)[:, None] > shares).sum(axis=1).clip(0, 2)
    return Sample(texts, labels, lambda labels, decisions: float(np.mean(labels == decisions)))


@pytest.fixture
def bundle_folder(candidate: tuple[Path, Candidate], measurements: Measurements, tmp_path: Path) -> Path:
    """A bundle with these measurements, which a test may damage."""
    assemble_bundle(candidate[0], measurements, tmp_path / "bundle", name="toy", version="1")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def measurements(candidate: tuple[Path, Candidate], student: Student, sample: Sample) -> Measurements:
    """The tiny BERT's artifacts, measured on these texts."""
    return measure(candidate[0], student.model, {"intent": sample}, limits=WIDE)


@pytest.fixture(scope="module")
def uncalibrated(candidate: tuple[Path, Candidate], student: Student, sample: Sample) -> Measurements:
    """The same candidate, measured with `export.temperature: none`."""
    asked = {"intent": replace(sample, fits_temperature=False)}
    return measure(candidate[0], student.model, asked, limits=WIDE)


def test_the_fitted_temperature_reaches_the_answers(bundle_folder: Path, measurements: Measurements) -> None:
    """A temperature that stays in a report, or is applied twice, gives scores that nobody measured."""
    fit = measurements.temperatures["intent"]
    assert fit.temperature == fit.fitted == pytest.approx(4.0, rel=0.5)
    bundle = Bundle.load(bundle_folder, "fp32")
    (task,) = bundle.manifest.tasks
    assert task.temperature == fit.temperature
    texts = ["word1 word2 word3", "word40"]
    shares = softmax(bundle.logits(texts)["intent"].astype(np.float64) / fit.temperature, axis=1)
    answers = [answer["intent"] for answer in bundle.predict(texts)]
    assert [answer["score"] for answer in answers] == pytest.approx(shares.max(axis=1))
    assert [answer["label"] for answer in answers] == [task.labels[place] for place in shares.argmax(axis=1)]


def test_a_temperature_changes_scores_and_no_label(measurements: Measurements, uncalibrated: Measurements) -> None:
    """The same golden texts with and without: labels must be the same, scores must not."""
    served, plain = (found.golden.answers["fp32"]["intent"] for found in (measurements, uncalibrated))
    assert [answer["label"] for answer in served] == [answer["label"] for answer in plain]
    assert [answer["score"] for answer in served] != pytest.approx([answer["score"] for answer in plain])
    assert uncalibrated.temperatures == {}


def test_an_edited_temperature_refuses_to_start(bundle_folder: Path) -> None:
    """Scores of another temperature look as good as the measured ones."""
    manifest = read_manifest(bundle_folder)
    tasks = tuple(msgspec.structs.replace(task, temperature=task.temperature * 1.2) for task in manifest.tasks)
    write_manifest(bundle_folder, msgspec.structs.replace(manifest, tasks=tasks))
    with pytest.raises(BundleError, match="temperature"):
        Bundle.load(bundle_folder, "fp32")


def test_every_artifact_has_figures_of_what_is_served(bundle_folder: Path, sample: Sample) -> None:
    """Figures at temperature 1, of another artifact or of other texts would flatter or slander the bundle."""
    manifest = read_manifest(bundle_folder)
    (task,) = manifest.tasks
    for artifact in manifest.artifacts:
        bundle = Bundle.load(bundle_folder, artifact.precision)
        logits = bundle.logits(sample.texts, batch_size=bundle.safe_batch_size)["intent"]
        claimed = artifact.calibration["intent"]
        assert claimed.rows == len(sample.texts)
        chosen = probabilities(logits, task)[np.arange(len(logits)), sample.labels]
        assert claimed.nll.value == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
        found = measure_calibration(task, logits, sample.labels)
        assert claimed.brier.value == pytest.approx(found.brier.value, rel=1e-4)
    first, second = (artifact.calibration["intent"].nll.value for artifact in manifest.artifacts)
    assert first != second


def test_the_card_states_them_and_a_doctored_one_is_found(bundle_folder: Path) -> None:
    """A card is what people read: a better ECE written into it must not go unnoticed."""
    manifest = read_manifest(bundle_folder)
    card = bundle_folder / "README.md"
    row = confidence_figures(manifest)[0]
    assert row["ECE"] in card.read_text()
    assert {claim.status for claim in card_claims(bundle_folder, manifest)} == {"checked"}
    card.write_text(card.read_text().replace(row["ECE"], "0.0001 (0.0000 to 0.0002)"))
    failed = [claim for claim in card_claims(bundle_folder, manifest) if claim.status == "failed"]
    assert len(failed) == 1
    assert "ECE" in failed[0].detail


def test_the_gate_on_slices_is_off_unless_asked(measurements: Measurements) -> None:
    """A gate that nobody set would fail every small validation split."""
    assert "worst_slice_drop" not in {gate.name for gate in measurements.gates}


def test_without_a_large_slice_the_gate_fails(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample
) -> None:
    """Forty texts have no slice of fifty: what was not measured must not pass."""
    sample = replace(sample, texts=sample.texts[:40], labels=sample.labels[:40])
    limits = Limits(quantisation_metric_drop=0.5, worst_slice_drop=0.99)
    found = measure(candidate[0], student.model, {"intent": sample}, limits=limits)
    (gate,) = [gate for gate in found.gates if gate.name == "worst_slice_drop"]
    assert (gate.subject, gate.verdict, gate.measured) == ("int8 intent", "failed", None)
    assert "no class and no length has 50" in gate.reason
    assert {artifact.precision: artifact.passed for artifact in found.artifacts} == {"fp32": True, "int8": False}


@pytest.mark.parametrize(("limit", "verdict"), [(0.9, "passed"), (1e-6, "inconclusive")])
def test_the_gate_holds_the_worst_slice_against_its_limit(
    candidate: tuple[Path, Candidate],
    student: Student,
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    verdict: str,
) -> None:
    """A gate on the mean, on the first slice or on the value without its interval would say something else."""
    monkeypatch.setattr(slices, "MIN_ROWS", 10)
    limits = Limits(quantisation_metric_drop=0.5, worst_slice_drop=limit)
    found = measure(candidate[0], student.model, {"intent": sample}, limits=limits)
    (gate,) = [gate for gate in found.gates if gate.name == "worst_slice_drop"]
    rung = next(rung for rung in found.ladder if rung.name == "int8")
    churn = rung.comparisons["torch"]["intent"].churn
    assert churn is not None
    assert (gate.measured, gate.low, gate.high) == churn.worst_drop
    assert len(churn.slices) > 4
    assert gate.verdict == verdict
    assert rung.passed is (verdict == "passed")


def test_a_bundle_without_temperature_is_as_the_student_gives_it(
    candidate: tuple[Path, Candidate], uncalibrated: Measurements, tmp_path: Path
) -> None:
    """`export.temperature: none` must leave probabilities alone, in the manifest as in the answers."""
    assemble_bundle(candidate[0], uncalibrated, tmp_path / "bundle", name="toy", version="1")
    bundle = Bundle.load(tmp_path / "bundle", "fp32")
    assert [task.temperature for task in bundle.manifest.tasks] == [1.0]
    logits = bundle.logits(["word5 word6"])["intent"].astype(np.float64)
    assert bundle.predict(["word5 word6"])[0]["intent"]["score"] == pytest.approx(softmax(logits, axis=1).max())
