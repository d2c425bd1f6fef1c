"""Bundles: refused when they are not what was measured, and right in any batch when they are."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

from serving.answers import answer
from serving.bundle import Bundle
from serving.errors import BundleError, UserError
from serving.golden import read_golden
from serving.manifest import read_manifest

Edit = Callable[..., None]
WORDS = ("refund", "broken", "thanks", "please")


def _texts(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 6))) for _ in range(count)]


def test_a_sound_bundle_answers_every_type_of_task(bundle_folder: Path) -> None:
    """The chain from text to answer, each task with its own form."""
    (reply,) = Bundle.load(bundle_folder).predict(["broken thanks"])
    assert set(reply) == {"intent", "topics", "urgency"}
    assert set(reply["intent"]) == {"label", "score", "scores"}
    assert set(reply["topics"]) == {"labels", "scores"}
    assert set(reply["urgency"]) == {"value"}


def test_answers_do_not_depend_on_order_batch_size_or_which_tasks_are_asked(bundle_folder: Path) -> None:
    """Sorting by length inside must be undone, and padding must be masked: else texts swap their answers."""
    bundle = Bundle.load(bundle_folder)
    texts = _texts(40)
    alone = [bundle.logits([text]) for text in texts]
    for batch_size in (1, 3, 64):
        together = bundle.logits(texts, batch_size=batch_size)
        for task in bundle.manifest.tasks:
            expected = np.concatenate([logits[task.name] for logits in alone])
            np.testing.assert_allclose(together[task.name], expected, atol=1e-6)
    some = bundle.predict(texts, tasks=["urgency", "intent"])
    assert some == [{name: reply[name] for name in ("urgency", "intent")} for reply in bundle.predict(texts)]
    assert list(some[0]) == ["urgency", "intent"]


def test_predict_says_what_the_logits_say(bundle_folder: Path) -> None:
    """A task read with another task's description would still look like an answer."""
    bundle = Bundle.load(bundle_folder)
    texts = _texts(10)
    logits = bundle.logits(texts)
    for row, reply in enumerate(bundle.predict(texts, top_k=2, batch_size=1)):
        for task in bundle.manifest.tasks:
            assert reply[task.name] == answer(logits[task.name][row], task, top_k=2)


def test_an_artifact_whose_answers_depend_on_the_batch_runs_texts_alone_by_default(
    bundle_folder: Path,
) -> None:
    """Dynamic int8 scales over the batch: a neighbour would change an answer from one request to the next."""
    bundle = Bundle.load(bundle_folder, "int8")
    texts = ["refund", "thanks please"]
    alone = [bundle.predict([text])[0] for text in texts]
    assert bundle.predict(texts) == alone
    assert bundle.predict(texts, batch_size=2) != alone
    assert bundle.safe_batch_size == 1 < Bundle.load(bundle_folder, "fp32").safe_batch_size


def test_pairs_are_answered_in_their_order(pair_bundle_folder: Path) -> None:
    """A premise and a hypothesis that change places are another question; one string is none at all."""
    bundle = Bundle.load(pair_bundle_folder)
    assert bundle.encode([("refund", "thanks")]) != bundle.encode([("thanks", "refund")])
    assert set(bundle.predict([("refund", "thanks")])[0]) == {"intent"}
    with pytest.raises(UserError, match="a pair for each text"):
        bundle.predict(["refund"])


def test_a_truncated_text_is_answered_with_a_warning(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer for the first half of a text must not look like one for the whole."""
    bundle = Bundle.load(bundle_folder)
    bundle.predict(["refund", "refund " * 30])
    assert "1 of 2 texts are longer than this model's max_length of 8 tokens" in caplog.text


def test_no_texts_give_no_answers(bundle_folder: Path) -> None:
    """An empty file is no crash."""
    bundle = Bundle.load(bundle_folder)
    assert bundle.predict([]) == []
    assert bundle.logits([])["intent"].shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["refund", " "]}, "text 1 is empty"),
        ({"texts": [("refund", "thanks")]}, "one string for each text"),
        ({"texts": ["refund"], "tasks": ["tone"]}, "no task 'tone'. Choose among: intent, topics, urgency"),
        ({"texts": ["refund"], "tasks": []}, "no task was asked for"),
        ({"texts": ["refund"], "batch_size": 0}, "batch_size is 0"),
        ({"texts": ["refund"], "top_k": 0}, "top_k is 0"),
    ],
)
def test_wrong_questions_are_the_users_to_mend(bundle_folder: Path, arguments: dict[str, Any], message: str) -> None:
    """Each is one line with what to give, not a traceback and not an answer."""
    with pytest.raises(UserError, match=message):
        Bundle.load(bundle_folder).predict(**arguments)


def test_logits_that_are_not_numbers_are_no_answer(bundle_folder: Path) -> None:
    """The highest of NaNs is the first label: a broken model would answer 'billing' for ever."""
    with pytest.raises(BundleError, match=r"not numbers for text 1 \(task 'intent'\)"):
        Bundle.load(bundle_folder).predict(["refund", "thanks poison broken"], batch_size=2)


@pytest.mark.parametrize("name", ["tokenizer.json", "golden.json", "model.fp32.onnx", "model.int8.onnx"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_named_before_anything_is_answered(bundle_folder: Path, name: str, damage: str) -> None:
    """A copy that lost its last block may load and answer nonsense; the artifact not served counts too."""
    path = bundle_folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "cut" else bytes([content[-1] ^ 1])))
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle.load(bundle_folder)


def test_files_that_must_have_a_hash_cannot_be_left_out_of_the_manifest(
    bundle_folder: Path, edit_manifest: Edit
) -> None:
    """A bundle without a hash of its tokenizer would accept any tokenizer."""
    files = read_manifest(bundle_folder).files
    edit_manifest(bundle_folder, files={"golden.json": files["golden.json"]})
    with pytest.raises(BundleError, match=r"no hash of tokenizer\.json"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname"])
def test_a_manifest_cannot_reach_outside_its_folder(bundle_folder: Path, edit_manifest: Edit, name: str) -> None:
    """A bundle from somewhere else must not probe the files of this host."""
    edit_manifest(bundle_folder, files=read_manifest(bundle_folder).files | {name: "0" * 64})
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.load(bundle_folder)


def test_other_ids_than_recorded_refuse_to_start(bundle_folder: Path, edit_golden: Edit) -> None:
    """Another release of the tokenizer library may cut words differently, with every hash right."""
    ids = read_golden(bundle_folder).input_ids
    edit_golden(bundle_folder, input_ids=(*ids[:2], (2, 4, 4, 3), *ids[3:]))
    with pytest.raises(BundleError, match="golden example 2 is tokenised into other ids"):
        Bundle.load(bundle_folder)


def _shifted(bundle_folder: Path, example: int, by: float) -> dict[str, Any]:
    """The golden logits of fp32 with one example of one task moved."""
    artifacts = dict(read_golden(bundle_folder).artifacts)
    rows = list(artifacts["fp32"]["intent"])
    rows[example] = tuple(logit + by for logit in rows[example])
    return artifacts | {"fp32": artifacts["fp32"] | {"intent": tuple(rows)}}


@pytest.mark.parametrize(("by", "is_refused"), [(2e-3, True), (-2e-3, True), (5e-4, False)])
def test_logits_beyond_the_tolerance_refuse_to_start(
    bundle_folder: Path, edit_golden: Edit, by: float, is_refused: bool
) -> None:
    """A CPU whose int8 kernels saturate gives other logits from the very same file (tolerance: 1e-3)."""
    edit_golden(bundle_folder, artifacts=_shifted(bundle_folder, example=3, by=by))
    if is_refused:
        with pytest.raises(BundleError, match=r"golden example 3 gives other logits.*model\.fp32\.onnx.*0\.002"):
            Bundle.load(bundle_folder)
    else:
        Bundle.load(bundle_folder)


def test_another_kind_of_machine_warns_and_replays_all_examples(
    bundle_folder: Path, edit_golden: Edit, edit_manifest: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """The ninth example is beyond the short set: only the larger set can find what it shows."""
    edit_golden(bundle_folder, artifacts=_shifted(bundle_folder, example=8, by=1.0))
    Bundle.load(bundle_folder)
    assert not caplog.text
    artifacts = read_manifest(bundle_folder).artifacts
    here = artifacts[0].certified
    assert here is not None
    foreign = msgspec.structs.replace(here, cpu_features=(*here.cpu_features, "abacus"))
    edit_manifest(bundle_folder, artifacts=tuple(msgspec.structs.replace(a, certified=foreign) for a in artifacts))
    with caplog.at_level(logging.WARNING), pytest.raises(BundleError, match="golden example 8"):
        Bundle.load(bundle_folder)
    (record,) = caplog.records
    assert "model.fp32.onnx: this CPU lacks abacus" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_bundle_that_does_not_say_what_it_was_certified_on_gets_the_larger_set(
    bundle_folder: Path, edit_golden: Edit, edit_manifest: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """In doubt the short set would let a saturating CPU pass."""
    edit_golden(bundle_folder, artifacts=_shifted(bundle_folder, example=8, by=1.0))
    artifacts = read_manifest(bundle_folder).artifacts
    edit_manifest(bundle_folder, artifacts=tuple(msgspec.structs.replace(a, certified=None) for a in artifacts))
    with pytest.raises(BundleError, match="golden example 8"):
        Bundle.load(bundle_folder)
    assert "does not say what it was certified on" in caplog.text


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("intent", {"labels": ("defect", "billing", "praise")}),
        ("intent", {"temperature": 2.0}),
        ("topics", {"thresholds": (0.01, 0.01)}),
        ("urgency", {"range": (0.0, 1.0)}),
    ],
)
def test_an_edited_manifest_is_caught_by_the_recorded_answers(
    bundle_folder: Path, edit_manifest: Edit, task: str, changes: dict[str, Any]
) -> None:
    """Nothing hashes the manifest itself: two labels swapped there would swap every answer."""
    tasks = read_manifest(bundle_folder).tasks
    edited = [msgspec.structs.replace(spec, **changes) if spec.name == task else spec for spec in tasks]
    edit_manifest(bundle_folder, tasks=tuple(edited))
    with pytest.raises(BundleError, match=f"for task '{task}', but recorded was"):
        Bundle.load(bundle_folder)


def test_an_artifact_without_golden_examples_is_refused(bundle_folder: Path, edit_golden: Edit) -> None:
    """An empty replay would pass anything."""
    golden = read_golden(bundle_folder)
    edit_golden(bundle_folder, artifacts={"fp32": golden.artifacts["fp32"]})
    with pytest.raises(BundleError, match="no examples of artifact 'int8'"):
        Bundle.load(bundle_folder, "int8")


@pytest.mark.parametrize("changes", [{"texts": (), "input_ids": ()}, {"input_ids": ((2, 3),)}])
def test_incomplete_golden_examples_are_refused(
    bundle_folder: Path, edit_golden: Edit, changes: dict[str, Any]
) -> None:
    """Lists of unequal length would leave examples unchecked."""
    edit_golden(bundle_folder, **changes)
    with pytest.raises(BundleError, match=r"golden\.json cannot be read.*at least one text"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("outputs", "logits_tone", "the graph's outputs are"),
        ("inputs", ("input_ids",), "the graph's inputs are"),
        ("width", ("a", "b"), "needs"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(
    bundle_folder: Path, edit_manifest: Edit, field: str, value: Any, message: str
) -> None:
    """Tasks tied to the wrong output answer each other's questions."""
    manifest = read_manifest(bundle_folder)
    first, *others = manifest.tasks
    if field == "inputs":
        edit_manifest(bundle_folder, inputs=msgspec.structs.replace(manifest.inputs, names=value))
    else:
        changes = {"output": value} if field == "outputs" else {"labels": value}
        edit_manifest(bundle_folder, tasks=(msgspec.structs.replace(first, **changes), *others))
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle_folder)


def test_an_unknown_precision_names_the_choices(bundle_folder: Path) -> None:
    """And nothing else is served in its place."""
    with pytest.raises(BundleError, match=r"'fp16'\. Choose one of: fp32, int8"):
        Bundle.load(bundle_folder, "fp16")


def test_an_unchecked_load_reads_no_golden_examples(bundle_folder: Path) -> None:
    """Export loads what it is still building: without the examples that it is about to record."""
    (bundle_folder / "golden.json").unlink()
    assert Bundle.load(bundle_folder, check=False).predict(["refund"])


def test_only_the_outputs_asked_for_are_fetched(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching every output of a graph with many tasks costs copies that nobody reads."""
    asked: list[list[str]] = []
    run = InferenceSession.run

    def spy(self: Any, names: list[str], inputs: Any) -> Any:
        asked.append(names)
        return run(self, names, inputs)

    bundle = Bundle.load(bundle_folder)
    monkeypatch.setattr(InferenceSession, "run", spy)
    bundle.predict(["refund"], tasks=["urgency"])
    assert asked == [["logits_urgency"]]


def test_a_manifest_that_this_user_must_not_read_is_one_line(bundle_folder: Path, monkeypatch: Any) -> None:
    """Copied by root, served by somebody else: a traceback would call it a fault of ours."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(BundleError, match=r"cannot be read \(Permission denied\)"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize(("precision", "plans_memory"), [("fp32", False), ("int8", True)])
def test_memory_is_planned_where_calls_hold_one_text(bundle_folder: Path, precision: str, plans_memory: bool) -> None:
    """As many shapes as lengths are few; batches of any length have no end of shapes."""
    bundle = Bundle.load(bundle_folder, precision)
    session = bundle.model.session
    assert isinstance(session, InferenceSession)
    assert bundle.safe_batch_size == (1 if plans_memory else 16)
    assert session.get_session_options().enable_mem_pattern is plans_memory
