"""Every way that we know for an export to go wrong, and the rung or check that catches it.

Each mutant is what a defective exporter would have written, its hashes right. A test says which rung caught it; the
unmutated candidate passes all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from export.candidate import Candidate, Student, export_candidate
from export.measure import Measurements, measure
from export.parity.rungs import FP32, PLAIN, TOKENS, TORCH, Rung
from export.parity.verdicts import LOGITS_GATE, WEIGHTS_GATE
from export.sample import Sample
from serving.errors import UserError
from tests.export.conftest import INTENT, Heads, accuracy, make_config, make_model
from tests.export.parity.conftest import (
    FP32_FILE,
    INT8_FILE,
    LIMITS,
    PLAIN_FILE,
    Mutate,
    rung_of,
    sign_again,
    verdicts,
    with_graphs_changed,
)
from tests.export.parity.mutations import (
    BIAS,
    WORDS,
    divide_by_zero,
    freeze,
    ignore_mask,
    rename_outputs,
    reorder_logits,
    repeat_the_first_row,
    shift_one_weight,
    swap_inputs,
)

Climb = Callable[[Path], tuple[Rung, ...]]


def test_the_unmutated_candidate_passes_every_rung(candidate: tuple[Path, Candidate], climbing: Climb) -> None:
    """A ladder that finds faults everywhere is switched off."""
    ladder = climbing(candidate[0])

    assert verdicts(ladder) == {TOKENS: True, PLAIN: True, FP32: True, "int8": True}


@pytest.mark.parametrize(
    ("mutation", "problem"),
    [
        (shift_one_weight(BIAS, 2e-4), None),
        (shift_one_weight(WORDS, 0.01, place=32 * 2), None),  # of [CLS], which is in every text
        (reorder_logits, None),
        (ignore_mask, None),
        (swap_inputs("input_ids", "attention_mask"), None),
        (repeat_the_first_row, None),
        (freeze(0, 1), "cannot run a batch of 7 x"),
        (freeze(1, 9), "cannot run a batch of 1 x"),
        (divide_by_zero, "not numbers"),
    ],
    ids=["bias", "embedding", "labels", "mask", "inputs", "one row", "batch axis", "tokens axis", "nan"],
)
def test_a_wrong_graph_fails_at_the_first_rung_and_nothing_below_passes(
    mutate: Mutate, climbing: Climb, mutation: Any, problem: str | None
) -> None:
    """Everything is made from the plain graph: its defects reach all artifacts, and a small one no metric shows."""
    ladder = climbing(mutate(mutation, PLAIN_FILE, FP32_FILE))

    assert verdicts(ladder) == {TOKENS: True, PLAIN: False, FP32: False, "int8": False}
    assert problem in (rung_of(ladder, PLAIN).problem or "") if problem else rung_of(ladder, PLAIN).problem is None


@pytest.mark.parametrize("mutation", [shift_one_weight(BIAS, 2e-4), reorder_logits, freeze(0, 1), divide_by_zero])
def test_a_defect_of_fusing_fails_at_its_own_rung(mutate: Mutate, climbing: Climb, mutation: Any) -> None:
    """The rung says where the difference entered; int8, which is right, stands below a reference that is not."""
    ladder = climbing(mutate(mutation, FP32_FILE))

    assert verdicts(ladder) == {TOKENS: True, PLAIN: True, FP32: False, "int8": False}
    assert all(gate.verdict == "passed" for gate in rung_of(ladder, "int8").gates)


@pytest.mark.parametrize("mutation", [reorder_logits, freeze(0, 1), divide_by_zero])
def test_a_defect_of_quantising_fails_at_its_own_rung(mutate: Mutate, climbing: Climb, mutation: Any) -> None:
    """int8 has no logit limit: its metric must notice, and what gives no numbers must not get as far as a metric."""
    ladder = climbing(mutate(mutation, INT8_FILE))

    assert verdicts(ladder) == {TOKENS: True, PLAIN: True, FP32: True, "int8": False}


def test_a_quantised_graph_that_is_right_only_alone_is_called_with_one_text_alone(
    mutate: Mutate, climbing: Climb
) -> None:
    """Its metric is measured as it will be served; what it does to a batch stands in its invariance."""
    ladder = climbing(mutate(repeat_the_first_row, INT8_FILE))

    int8 = rung_of(ladder, "int8")
    assert int8.passed
    assert int8.invariance["intent"].answers_changed > 5


@pytest.mark.parametrize(("change", "is_seen"), [(0.5, False), (2.0, True)])
def test_logits_show_a_change_from_their_limit_on_and_the_weights_show_any(
    mutate: Mutate, climbing: Climb, change: float, is_seen: bool
) -> None:
    """A bias of the classifier moves its logit by as much as itself: how little is found is known, not guessed."""
    limit = LIMITS.export_logit_difference

    ladder = climbing(mutate(shift_one_weight(BIAS, change * limit), PLAIN_FILE))

    plain = rung_of(ladder, PLAIN)
    verdict = {gate.name: gate.verdict for gate in plain.gates}
    assert verdict == {LOGITS_GATE: "failed" if is_seen else "passed", WEIGHTS_GATE: "failed"}
    assert plain.comparisons[TORCH]["intent"].parity.max_difference == pytest.approx(change * limit, rel=0.2)
    assert plain.gates[1].reason == "not in the graph: models.intent.classifier.bias"


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_a_wrong_activation_is_found(student: Student, climbing: Climb, tmp_path: Path, activation: str) -> None:
    """GELU by tanh differs from GELU by erf in the fourth digit: no metric notices, another runtime's user does."""
    config = make_config("bert")
    config.hidden_act = activation
    wrong = make_model("bert")
    swap_activation(wrong, config)
    wrong.load_state_dict(student.model.state_dict())
    export_candidate(Student(wrong, config, student.tokenizer_folder, (INTENT,), student.inputs), tmp_path / "wrong")

    ladder = climbing(tmp_path / "wrong")

    assert not verdicts(ladder)[PLAIN]


def swap_activation(model: Heads, config: Any) -> None:
    """Give every feed-forward part the activation of a configuration."""
    from transformers.activations import ACT2FN

    for part in model.modules():
        if hasattr(part, "intermediate_act_fn"):
            part.intermediate_act_fn = ACT2FN[config.hidden_act]


@pytest.mark.parametrize(
    ("mutation", "what"),
    [
        (swap_inputs("token_type_ids", "attention_mask"), "types and mask"),
        (swap_inputs("token_type_ids", "input_ids"), "types and ids"),
        (rename_outputs({"logits_intent": "logits_tone", "logits_tone": "logits_intent"}), "outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_swapped_inputs_and_outputs_of_pairs_are_found(
    pair_candidate: Path,
    pair_student: Student,
    pairs: list[tuple[str, ...]],
    tmp_path: Path,
    mutation: Any,
    what: str,
) -> None:
    """All inputs have one type and shape, and so have the outputs of like tasks: nothing else would complain."""
    samples = {name: Sample(pairs, np.arange(len(pairs)) % 3, accuracy) for name in ("intent", "tone")}
    right = measure(pair_candidate, pair_student.model, samples, limits=LIMITS).ladder
    mutant = with_graphs_changed(pair_candidate, tmp_path / "mutant", mutation, (PLAIN_FILE, FP32_FILE))

    ladder = measure(mutant, pair_student.model, samples, limits=LIMITS).ladder

    assert verdicts(right) == {PLAIN: True, FP32: True}
    assert verdicts(ladder) == {PLAIN: False, FP32: False}, what
    assert {gate.subject for gate in rung_of(ladder, PLAIN).gates} == {"plain intent", "plain tone"}


def test_labels_swapped_by_the_exporter_are_refused(
    candidate: tuple[Path, Candidate], student: Student, sample: Sample, mutate: Mutate
) -> None:
    """Labels are numbers to every metric and logit: only their names can show that two of them were swapped."""
    swapped = msgspec.structs.replace(candidate[1].tasks[0], labels=("b", "a", "c"))
    folder = sign_again(mutate(lambda model: None), tasks=(swapped,))
    named = Sample(sample.texts, sample.labels, sample.metric, label_names=INTENT.labels)

    with pytest.raises(UserError, match=r"labels of task 'intent' are b, a, c, but .* are a, b, c"):
        measure(folder, student.model, {"intent": named}, limits=LIMITS)


def forget_words(path: Path, keep: int) -> None:
    """Cut a vocabulary to its first words; texts still have tokens, only others."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: number for word, number in vocabulary.items() if number < keep}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def test_a_truncated_vocabulary_fails_at_the_tokens(mutate: Mutate, measuring: Callable[[Path], Measurements]) -> None:
    """Torch and all graphs get the same wrong ids, agree with one another, and are wrong together."""
    folder = mutate(lambda model: None)
    forget_words(folder / "tokenizer.json", keep=40)

    measured = measuring(sign_again(folder))

    ladder = measured.ladder
    assert measured.default_artifact is None
    assert verdicts(ladder) == {TOKENS: False, PLAIN: False, FP32: False, "int8": False}
    assert all(gate.verdict == "passed" for gate in rung_of(ladder, PLAIN).gates)


@pytest.mark.parametrize(
    "change", [{"pad_id": 7}, {"max_length": 12}, {"truncation_side": "left"}], ids=["pad id", "length", "side"]
)
def test_a_wrong_way_to_feed_the_graph_fails_at_the_tokens(
    candidate: tuple[Path, Candidate], mutate: Mutate, climbing: Climb, change: Mapping[str, Any]
) -> None:
    """The mask hides a wrong pad id from BERT, but RoBERTa counts its positions by it."""
    inputs = msgspec.structs.replace(candidate[1].inputs, **change)

    ladder = climbing(sign_again(mutate(lambda model: None), inputs=inputs))

    assert [gate.verdict for gate in rung_of(ladder, TOKENS).gates] == ["failed"]
    assert not any(verdicts(ladder).values())


def test_a_pad_id_beyond_the_vocabulary_is_told(
    candidate: tuple[Path, Candidate], mutate: Mutate, measuring: Callable[[Path], Measurements]
) -> None:
    """Torch itself cannot look such an id up; a traceback would say nothing of the reason."""
    inputs = msgspec.structs.replace(candidate[1].inputs, pad_id=500)

    with pytest.raises(UserError, match="the student cannot be compared with its graphs: it cannot run a batch"):
        measuring(sign_again(mutate(lambda model: None), inputs=inputs))
