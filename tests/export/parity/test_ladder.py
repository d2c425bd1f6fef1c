"""The ladder: what it says of an honest candidate, and that nothing passes that was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from export.candidate import Candidate, Student
from export.measure import Measurements, measure, read_measurements, write_measurements
from export.parity.bench import Answers, Bench
from export.parity.climbed import Climbed
from export.parity.ladder import judge
from export.parity.rungs import FP32, PLAIN, TOKENS, TORCH, Rung
from export.runners import Inputs, run_texts, torch_runner
from export.sample import Sample
from serving.claims import Invariance
from serving.errors import UserError
from serving.tokenise import TextEncoder
from tests.export.conftest import accuracy, make_model, make_texts
from tests.export.parity.conftest import LIMITS, rung_of


@pytest.fixture(scope="module")
def measured(candidate: tuple[Path, Candidate], student: Student, sample: Sample, encoder: TextEncoder) -> Measurements:
    """The honest candidate."""

    def own_tokens(texts: Sequence[tuple[str, ...]]) -> Inputs:
        return encoder.batch(encoder.encode(texts))

    return measure(candidate[0], student.model, {"intent": sample}, limits=LIMITS, tokenise=own_tokens)


def moved_by(difference: float) -> Invariance:
    """Company that moves the logits so far."""
    return Invariance(max_difference=difference, answers_changed=0, texts=24, placements=96)


def climbed(bench: Bench, name: str, made_from: str = PLAIN) -> Climbed:
    """A graph that says exactly what torch says."""
    return Climbed(name, "", made_from, None, bench.torch, {"intent": moved_by(0.0)}, {"intent": []})


def test_every_rung_is_held_against_torch_and_what_it_was_made_from(measured: Measurements, sample: Sample) -> None:
    """Without the second comparison nobody can tell where a difference entered."""
    assert [rung.name for rung in measured.ladder] == [TOKENS, PLAIN, FP32, "int8"]
    assert {rung.name: set(rung.comparisons) for rung in measured.ladder} == {
        TOKENS: set(),
        PLAIN: {TORCH},
        FP32: {TORCH, PLAIN},
        "int8": {TORCH, PLAIN},
    }
    fused = rung_of(measured.ladder, FP32).comparisons
    int8 = rung_of(measured.ladder, "int8").comparisons
    assert fused[PLAIN]["intent"].parity.max_difference < 1e-4 < int8[PLAIN]["intent"].parity.max_difference
    assert int8[TORCH]["intent"].parity.texts == len(sample.texts)
    assert {batch for batch, _ in int8[TORCH]["intent"].parity.shapes} >= {1, 3, 7, 8}


def test_the_metric_lost_is_paired_and_has_its_sign(measured: Measurements) -> None:
    """With its sign turned a worse graph would show a gain."""
    drop = rung_of(measured.ladder, "int8").comparisons[TORCH]["intent"].metric_drop
    metrics = {artifact.precision: artifact.metrics["intent"].value for artifact in measured.artifacts}

    assert drop is not None
    assert drop.value == pytest.approx(measured.student["intent"].value - metrics["int8"])
    assert drop.low <= drop.value <= drop.high
    fp32 = rung_of(measured.ladder, FP32).comparisons[TORCH]["intent"].metric_drop
    assert fp32 is not None
    assert (fp32.value, fp32.low, fp32.high) == (0.0, 0.0, 0.0)


def test_an_artifact_has_its_steps_from_torch_down(measured: Measurements) -> None:
    """The manifest's summary must lead from the student to the served file without a gap."""
    steps = {artifact.precision: artifact.ladder["intent"] for artifact in measured.artifacts}

    assert [(step.made_from, step.rung) for step in steps["int8"]] == [(TORCH, PLAIN), (PLAIN, "int8")]
    assert [(step.made_from, step.rung) for step in steps[FP32]] == [(TORCH, PLAIN), (PLAIN, FP32)]


def test_every_labelled_text_is_compared_and_not_only_a_few(bench: Bench) -> None:
    """A graph wrong for one text of the validation split alone must not slip through the picked ones."""
    logits = bench.torch.sample["intent"].copy()
    logits[17] += 1.0

    answers = Answers(bench.torch.shaped, {"intent": logits})

    assert bench.parity(bench.torch, answers, "intent").max_difference == pytest.approx(1.0)


def test_golden_texts_are_compared_with_torch(bench: Bench) -> None:
    """Golden logits are recorded from the graph: unless torch repeats them they would preserve its defects."""
    assert len(bench.batches) == len(bench.torch.shaped)
    golden = bench.encoder.encode(make_texts(3, seed=5))
    tail = [inputs["input_ids"][0].tolist() for inputs in bench.batches[-3:]]
    assert tail == [encoding.input_ids for encoding in golden]


@pytest.mark.parametrize("name", [PLAIN, FP32, "int8"])
def test_a_rung_without_measurements_fails_its_gates(bench: Bench, name: str) -> None:
    """What was not measured once counted as not failed."""
    missing = Climbed(name, "", TORCH, problem="it was lost")

    (rung,) = judge(bench, [missing], LIMITS)

    assert not rung.passed
    assert rung.gates
    assert {gate.verdict for gate in rung.gates} == {"failed"}
    assert {gate.reason for gate in rung.gates} == {"it was lost"}


def test_a_rung_passes_only_below_rungs_that_did(bench: Bench) -> None:
    """A perfect graph below a broken reference proves nothing."""
    graphs = [climbed(bench, PLAIN, TORCH), climbed(bench, FP32), climbed(bench, "int8")]
    broken = [climbed(bench, PLAIN, TORCH), Climbed(FP32, "", PLAIN, problem="no"), climbed(bench, "int8")]
    failed = Rung(name=TOKENS, passed=False)

    assert [rung.passed for rung in judge(bench, graphs, LIMITS)] == [True, True, True]
    assert [rung.passed for rung in judge(bench, broken, LIMITS)] == [True, False, False]
    assert [rung.passed for rung in judge(bench, graphs, LIMITS, above=[failed])] == [False, False, False]


def test_an_fp32_graph_that_depends_on_its_company_fails(bench: Bench) -> None:
    """Parity alone does not see it where torch itself depends on padding in the same way."""
    moved = moved_by(2e-5)
    graph = Climbed(FP32, "", PLAIN, None, bench.torch, {"intent": moved}, {"intent": []})

    rungs = judge(bench, [climbed(bench, PLAIN, TORCH), graph], LIMITS)

    assert [rung.passed for rung in rungs] == [True, False]
    assert [gate.name for gate in rungs[1].gates if gate.verdict == "failed"] == ["batch_invariance"]


def test_a_graph_whose_metric_is_undefined_fails(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample, encoder: TextEncoder
) -> None:
    """A graph that answers one class only has no correlation, and NaN is within every limit."""

    def undefined_unless_perfect(labels: object, predictions: object) -> float:
        value = accuracy(labels, predictions)
        return value if value == 1.0 else float("nan")

    own = run_texts(torch_runner(student.model), encoder, encoder.encode(sample.texts))["intent"]
    labels = own.argmax(axis=1)
    perfect = Sample(sample.texts, labels, undefined_unless_perfect)

    measured = measure(candidate[0], student.model, {"intent": perfect}, limits=LIMITS)

    int8 = rung_of(measured.ladder, "int8")
    assert not int8.passed
    assert int8.gates[0].measured is None
    assert "undefined" in int8.gates[0].reason
    assert measured.default_artifact == FP32


def test_a_student_without_numbers_is_told(candidate: tuple[Path, Candidate], sample: Sample) -> None:
    """NaN against NaN is no difference that a comparison could see."""
    broken = make_model("bert")
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))

    with pytest.raises(UserError, match="the student cannot be compared with its graphs: it gives logits that are not"):
        measure(candidate[0], broken, {"intent": sample}, limits=LIMITS)


def test_measurements_whose_verdict_contradicts_their_numbers_are_not_read(
    measured: Measurements, tmp_path: Path
) -> None:
    """A verdict edited by hand, or written by another version's rule."""
    write_measurements(tmp_path, measured)
    path = tmp_path / "measurements.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"limit": 0.0001', '"limit": 1e-12', 1), encoding="utf-8")

    with pytest.raises(UserError, match="says passed, but its numbers say failed"):
        read_measurements(tmp_path)


def test_samples_of_other_tasks_are_left_alone(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample
) -> None:
    """A recipe may hold tasks that this student does not answer."""
    measured = measure(candidate[0], student.model, {"other": sample, "intent": sample}, limits=LIMITS)

    assert list(measured.student) == ["intent"]
