"""Bundles that were changed after they were assembled, and candidates that failed: what loading says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest

from export.bundle import assemble_bundle
from export.candidate import read_candidate
from export.measure import Measurements
from export.parity.rungs import FP32
from serving.bundle import Bundle
from serving.errors import BundleError, GateFailed, UserError
from serving.hashing import hash_file
from serving.manifest import read_manifest, write_manifest
from tests.export.parity.conftest import ALL_FILES, FP32_FILE, PLAIN_FILE, Mutate
from tests.export.parity.mutations import BIAS, divide_by_zero, freeze, shift_one_weight

Judge = Callable[[Path], Measurements]


def test_labels_swapped_in_a_bundle_are_refused(bundle_folder: Path) -> None:
    """A manifest edited by hand answers with the wrong names, and every file's hash is right."""
    manifest = read_manifest(bundle_folder)
    swapped = msgspec.structs.replace(manifest.tasks[0], labels=("b", "a", "c"))
    write_manifest(bundle_folder, msgspec.structs.replace(manifest, tasks=(swapped,)))

    with pytest.raises(BundleError, match="labels, thresholds or temperature in the manifest were changed"):
        Bundle.load(bundle_folder, FP32)


def test_a_tokenizer_changed_in_a_bundle_is_refused(bundle_folder: Path) -> None:
    """Another vocabulary under the same name, its hash written anew: the golden ids are what remains to notice."""
    path = bundle_folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] |= {"[UNK]": 4, "word0": 1}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    manifest = read_manifest(bundle_folder)
    files = manifest.files | {"tokenizer.json": hash_file(path)}
    write_manifest(bundle_folder, msgspec.structs.replace(manifest, files=files))

    with pytest.raises(BundleError, match="is tokenised into other ids"):
        Bundle.load(bundle_folder, FP32)


def test_a_graph_changed_in_a_bundle_is_refused_even_when_it_is_hashed_again(bundle_folder: Path) -> None:
    """A hash only says that nobody touched the file since; the golden logits say that it is the measured graph."""
    model = onnx.load(bundle_folder / FP32_FILE)
    shift_one_weight(BIAS, 0.01)(model)
    onnx.save_model(model, str(bundle_folder / FP32_FILE))
    manifest = read_manifest(bundle_folder)
    forged = [
        msgspec.structs.replace(artifact, sha256=hash_file(bundle_folder / artifact.file))
        for artifact in manifest.artifacts
    ]
    write_manifest(bundle_folder, msgspec.structs.replace(manifest, artifacts=tuple(forged)))

    with pytest.raises(BundleError, match="gives other logits"):
        Bundle.load(bundle_folder, FP32)


def test_what_fails_is_bundled_without_a_default(mutate: Mutate, measuring: Judge, tmp_path: Path) -> None:
    """Everything measured is written, but nobody serves it without naming it."""
    folder = mutate(shift_one_weight(BIAS, 2e-4))

    manifest = assemble_bundle(folder, measuring(folder), tmp_path / "bundle", name="toy", version="1")

    assert manifest.default_artifact is None
    assert [artifact.passed for artifact in manifest.artifacts] == [False, False]
    with pytest.raises(BundleError, match=r"no artifact of the bundle 'toy' passed its gates.*--precision: fp32, int8"):
        Bundle.load(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle", FP32).artifact.passed is False
    assert read_candidate(folder).plain.file == PLAIN_FILE
    assert not (tmp_path / "bundle" / "rungs").exists()


def test_a_graph_without_answers_is_left_out_of_the_bundle(mutate: Mutate, measuring: Judge, tmp_path: Path) -> None:
    """Nothing can be claimed of it, and no golden example could be recorded; the gates still name it."""
    folder = mutate(freeze(0, 1), FP32_FILE)

    manifest = assemble_bundle(folder, measuring(folder), tmp_path / "bundle", name="toy", version="1")

    assert [artifact.precision for artifact in manifest.artifacts] == ["int8"]
    assert not (tmp_path / "bundle" / FP32_FILE).exists()
    gates = {(gate["name"], gate["subject"]): gate for gate in manifest.gates}
    assert gates["export_logit_difference", "fp32 intent"]["measured"] is None
    assert "cannot run a batch of 7 x" in gates["export_logit_difference", "fp32 intent"]["reason"]


def test_a_candidate_without_answers_makes_no_bundle(mutate: Mutate, measuring: Judge, tmp_path: Path) -> None:
    """A bundle without artifacts would be an empty promise; exit code 3 names rung, task and limit."""
    folder = mutate(divide_by_zero, *ALL_FILES)

    with pytest.raises(GateFailed, match="export_logit_difference of plain on intent: failed, no value: it gives lo"):
        assemble_bundle(folder, measuring(folder), tmp_path / "bundle", name="toy", version="1")
    assert not (tmp_path / "bundle").exists()


def test_measurements_of_another_candidate_are_refused(mutate: Mutate, measuring: Judge, tmp_path: Path) -> None:
    """The good figures of yesterday's export, signed onto today's."""
    folder = mutate(lambda model: None)
    measured = measuring(folder)
    candidate = read_candidate(folder)
    (folder / "candidate.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(candidate, files={})))

    with pytest.raises(UserError, match="is not the one that was measured"):
        assemble_bundle(folder, measured, tmp_path / "bundle", name="toy", version="1")


def test_a_file_changed_before_it_is_measured_is_refused(mutate: Mutate, measuring: Judge) -> None:
    """What is measured must be what was exported."""
    folder = mutate(lambda model: None)
    with (folder / PLAIN_FILE).open("ab") as file:
        file.write(b"x")

    with pytest.raises(UserError, match=r"plain\.onnx' is not the file that was exported"):
        measuring(folder)


def test_a_default_artifact_that_did_not_pass_is_refused(bundle_folder: Path) -> None:
    """A manifest that serves without being asked what its own gates refuse."""
    path = bundle_folder / "manifest.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    for artifact in facts["artifacts"]:
        artifact["passed"] = False
    path.write_text(json.dumps(facts), encoding="utf-8")

    with pytest.raises(BundleError, match=r"the default artifact '.*' did not pass its gates"):
        read_manifest(bundle_folder)


def test_an_artifact_that_does_not_say_so_has_not_passed(bundle_folder: Path) -> None:
    """A manifest of an earlier program, or one whose line was lost."""
    path = bundle_folder / "manifest.json"
    facts = json.loads(path.read_text(encoding="utf-8")) | {"default_artifact": None}
    for artifact in facts["artifacts"]:
        del artifact["passed"]
    path.write_text(json.dumps(facts), encoding="utf-8")

    assert not any(artifact.passed for artifact in read_manifest(bundle_folder).artifacts)
