"""Claims of a bundle: the honest ones hold, and each false one is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.sample import Sample
from export.verify import Claim, Origin, verify
from serving import certification
from serving.golden import SHORT_SET, read_golden, write_golden
from serving.manifest import Artifact, Manifest, read_manifest, write_manifest
from tests.export.conftest import accuracy

Edit = Callable[[Manifest], Manifest]


def _by_status(claims: list[Claim], status: str) -> list[str]:
    return [claim.name for claim in claims if claim.status == status]


def _failed(claims: list[Claim]) -> list[str]:
    return _by_status(claims, "failed")


def _edit(folder: Path, edit: Edit) -> None:
    write_manifest(folder, edit(read_manifest(folder)))


def _edit_artifact(folder: Path, precision: str, **changes: Any) -> None:
    def edit(manifest: Manifest) -> Manifest:
        edited = [msgspec.structs.replace(a, **changes) if a.precision == precision else a for a in manifest.artifacts]
        return msgspec.structs.replace(manifest, artifacts=tuple(edited))

    _edit(folder, edit)


def test_an_honest_bundle_with_its_data_and_run_has_every_claim_checked(
    claimed: Path, sample: Sample, origin: Origin
) -> None:
    """A check that cries wolf is switched off; one that is not made must not look made."""
    claims = verify(claimed, {"intent": sample}, origin=origin)

    assert not _failed(claims)
    assert not _by_status(claims, "not checkable here")
    assert len({claim.name for claim in claims}) == len(claims) > 40


def test_without_data_and_run_what_needs_them_is_not_called_checked(claimed: Path) -> None:
    """Silence about what was not checked is a lie."""
    claims = verify(claimed)

    assert not _failed(claims)
    missing = " ".join(_by_status(claims, "not checkable here"))
    for words in ("accuracy of intent", "parity with the torch model", "time of one text", "gates", "provenance"):
        assert words in missing


def test_a_false_metric_fails(claimed: Path, sample: Sample) -> None:
    """The claim a buyer reads first, raised by less than its interval's width."""
    metrics = read_manifest(claimed).artifact("int8").metrics["intent"]
    _edit_artifact(claimed, "int8", metrics={"intent": msgspec.structs.replace(metrics, value=metrics.value + 0.001)})

    failed = _failed(verify(claimed, {"intent": sample}))

    assert "accuracy of intent is" in failed[0]
    assert all(name.startswith(("model.int8.onnx: accuracy", "README.md")) for name in failed)


def test_other_data_prove_nothing_and_are_said_to_be_others(claimed: Path, sample: Sample) -> None:
    """A good figure on easy texts would vouch for a claim about hard ones."""
    other = Sample(sample.texts[:30], sample.labels[:30], accuracy)

    claims = [claim for claim in verify(claimed, {"intent": other}) if "accuracy of intent" in claim.name]

    assert [claim.status for claim in claims] == ["not checkable here"] * 2
    assert all("on 30 texts, but they are not the ones that the claim is about" in claim.detail for claim in claims)


def test_without_a_hash_of_its_data_a_metric_is_held_against_its_interval(bundle_folder: Path, sample: Sample) -> None:
    """Who gives the texts vouches for them; a value far off is still a false claim."""
    wrong = Sample(sample.texts, (sample.labels + 1) % 3, accuracy)
    good = [c for c in verify(bundle_folder, {"intent": sample}) if "accuracy of intent" in c.name]
    bad = [c for c in verify(bundle_folder, {"intent": wrong}) if "accuracy of intent" in c.name]

    assert [claim.status for claim in good] == ["checked", "checked"]
    assert [claim.status for claim in bad] == ["failed", "failed"]
    assert "has no hash of its texts" in good[0].detail


def test_on_another_machine_a_metric_must_lie_within_its_interval(
    claimed: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other kernels flip an answer now and then; equality would fail honest bundles everywhere else."""
    metrics = read_manifest(claimed).artifact("int8").metrics["intent"]
    nearly = msgspec.structs.replace(metrics, value=metrics.value + 0.001)
    _edit_artifact(claimed, "int8", metrics={"intent": nearly})
    monkeypatch.setattr(certification, "cpu_features", lambda: ("asimd",))

    claims = [c for c in verify(claimed, {"intent": sample}) if "accuracy of intent" in c.name]

    assert [claim.status for claim in claims] == ["checked", "checked"]
    assert "this CPU lacks" in claims[1].detail


@pytest.mark.parametrize(
    ("field", "value", "claim"),
    [
        ("bytes", 1, "bytes"),
        ("opset", 99, "opset"),
        ("ir_version", 99, "IR version"),
        ("quantised_nodes", 99, "int8 operators"),
        ("sha256", "0" * 64, "sha256"),
        ("tolerance", 9.0, "tolerance of the golden examples"),
    ],
)
def test_a_false_fact_of_an_artifact_fails(bundle_folder: Path, field: str, value: Any, claim: str) -> None:
    """Each fact must be read from the file, or it could say anything."""
    _edit_artifact(bundle_folder, "int8", **{field: value})

    assert f"model.int8.onnx: {claim}" in _failed(verify(bundle_folder))


def test_a_claimed_invariance_is_tried_out(bundle_folder: Path) -> None:
    """Dynamic int8 called invariant would be served in batches, and neighbours would change answers."""
    invariance = {
        task: msgspec.structs.replace(found, max_difference=0.0)
        for task, found in read_manifest(bundle_folder).artifact("int8").invariance.items()
    }
    _edit_artifact(bundle_folder, "int8", batch_difference=0.0, batch_invariant=True, invariance=invariance)

    assert "model.int8.onnx: company in a batch does not change its logits" in _failed(verify(bundle_folder))


def test_labels_that_differ_from_the_config_fail(bundle_folder: Path) -> None:
    """The same graph would answer differently here and in other tools."""
    _edit_config(bundle_folder, id2label={"0": "b", "1": "a", "2": "c"})

    assert set(_failed(verify(bundle_folder))) == {"config.json: sha256", "labels: manifest and config.json agree"}


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes), encoding="utf-8")


def test_a_pad_id_that_differs_from_the_config_fails(bundle_folder: Path) -> None:
    """Architectures that count positions from the pad id would count others."""
    _edit_config(bundle_folder, pad_token_id=5)

    assert "pad id: manifest and config.json agree" in _failed(verify(bundle_folder))


@pytest.mark.parametrize(
    ("example", "expected"), [(0, {"short set", "large set"}), (SHORT_SET, {"large set"}), (60, {"large set"})]
)
def test_golden_logits_that_the_graph_does_not_repeat_fail(
    bundle_folder: Path, example: int, expected: set[str]
) -> None:
    """The only claim that notices kernels which compute something else on this CPU."""
    golden = read_golden(bundle_folder)
    rows = list(golden.artifacts["fp32"]["intent"])
    rows[example] = (rows[example][0] + 0.01, *rows[example][1:])
    changed = {**golden.artifacts, "fp32": {"intent": tuple(rows)}}
    write_golden(bundle_folder, msgspec.structs.replace(golden, artifacts=changed))

    names = {f"model.fp32.onnx: golden examples, {name}" for name in expected}
    assert set(_failed(verify(bundle_folder))) == {"golden.json: sha256", *names}


def test_a_missing_graph_fails_its_claims_and_no_others(bundle_folder: Path) -> None:
    """One broken file must not hide what holds of the rest, nor end in a traceback."""
    (bundle_folder / "model.int8.onnx").unlink()

    failed = _failed(verify(bundle_folder))

    assert len(failed) > 4
    assert all(name.startswith("model.int8.onnx") for name in failed)


@pytest.mark.parametrize("name", ["../other", "/etc/hostname"])
def test_a_file_outside_the_bundle_fails_without_being_read(bundle_folder: Path, name: str) -> None:
    """A bundle from somewhere else must not probe the files of this host."""
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, files={**m.files, name: "0" * 64}))

    (claim,) = [claim for claim in verify(bundle_folder) if claim.status == "failed"]
    assert (claim.name, claim.detail) == (f"{name}: sha256", "lies outside the bundle")


@pytest.mark.parametrize("name", ["tokenizer.json", "golden.json", "config.json"])
def test_a_file_without_a_hash_fails(bundle_folder: Path, name: str) -> None:
    """What has no hash can be exchanged."""
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, files={k: v for k, v in m.files.items() if k != name}))

    assert "the manifest has a hash of every file" in _failed(verify(bundle_folder))


def test_files_that_nothing_is_claimed_of_are_named(bundle_folder: Path) -> None:
    """A second graph beside the measured ones may be the one that somebody serves."""
    (bundle_folder / "model.best.onnx").write_bytes(b"?")

    (claim,) = [claim for claim in verify(bundle_folder) if claim.name == "other files"]
    assert claim.status == "not checkable here"
    assert "model.best.onnx" in claim.detail


@pytest.mark.parametrize("verdict", ["failed", "passed"])
def test_a_verdict_that_does_not_follow_from_its_numbers_fails(bundle_folder: Path, verdict: str) -> None:
    """A failed gate is turned into a passed one with a single word."""
    gates = read_manifest(bundle_folder).gates
    turned = {"passed": {"measured": 9.0, "low": 9.0, "high": 9.0}, "failed": {}}[verdict]
    edited = ({**gates[0], **turned, "verdict": verdict}, *gates[1:])
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, gates=edited))

    assert any(name.startswith(f"gate {gates[0]['name']}") for name in _failed(verify(bundle_folder)))


def test_an_artifact_called_passed_needs_gates_that_did(bundle_folder: Path) -> None:
    """`passed` decides what is served."""
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, gates=()))
    assert "model.fp32.onnx: passed its gates" in _failed(verify(bundle_folder))


def test_the_default_artifact_is_the_fastest_that_passed(bundle_folder: Path) -> None:
    """It answers in production."""
    manifest = read_manifest(bundle_folder)
    other = next(a.precision for a in manifest.artifacts if a.precision != manifest.default_artifact)
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, default_artifact=other))
    assert f"the default artifact is {other}" in _failed(verify(bundle_folder))
    _edit(bundle_folder, lambda m: msgspec.structs.replace(m, default_artifact=None))
    assert "the default artifact is None" in _failed(verify(bundle_folder))


def test_kernels_that_its_instruction_sets_do_not_mean_fail(bundle_folder: Path) -> None:
    """A bundle relabelled for better kernels would get the short golden set on them."""
    certified = read_manifest(bundle_folder).artifact("int8").certified
    assert certified is not None
    _edit_artifact(bundle_folder, "int8", certified=msgspec.structs.replace(certified, int8_kernels="arm neon"))
    assert any("has arm neon int8 kernels" in name for name in _failed(verify(bundle_folder)))


def _artifact(origin: Origin, **changes: Any) -> Origin:
    """A run that measures int8 otherwise the second time."""
    again = tuple(
        msgspec.structs.replace(a, **changes) if a.precision == "int8" else a for a in origin.measurements.artifacts
    )
    return replace(origin, remeasure=lambda: msgspec.structs.replace(origin.measurements, artifacts=again))


def test_what_cannot_be_measured_again_fails(claimed: Path, origin: Origin) -> None:
    """A manifest that repeats a run's record repeats the record's inventions, too."""
    parity = origin.measurements.artifacts[1].parity["intent"]
    worse = {"intent": msgspec.structs.replace(parity, max_difference=parity.max_difference * 2)}

    failed = _failed(verify(claimed, origin=_artifact(origin, parity=worse)))

    assert failed == ["model.int8.onnx: parity, measured again"]


def test_rounding_is_no_difference(claimed: Path, origin: Origin) -> None:
    """Torch adds in another order with another number of threads."""
    parity = origin.measurements.artifacts[1].parity["intent"]
    nearly = {"intent": msgspec.structs.replace(parity, max_difference=parity.max_difference * 1.01)}

    assert not _failed(verify(claimed, origin=_artifact(origin, parity=nearly)))


def test_on_another_machine_what_differs_is_not_checkable(
    claimed: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its int8 kernels round otherwise; that makes nobody a liar."""
    monkeypatch.setattr(certification, "cpu_features", lambda: ("asimd",))
    claims = verify(claimed, origin=_artifact(origin, batch_difference=5.0))

    (claim,) = [claim for claim in claims if claim.name == "model.int8.onnx: batch_difference, measured again"]
    assert claim.status == "not checkable here"
    assert "this CPU lacks" in claim.detail


def _timed(origin: Origin, factor: float) -> Origin:
    seconds = {name: factor * value for name, value in origin.measurements.latency_seconds.items()}
    return replace(origin, remeasure=lambda: msgspec.structs.replace(origin.measurements, latency_seconds=seconds))


@pytest.mark.parametrize(
    ("factor", "load", "status"),
    [
        (2.0, 0.0, "checked"),
        (0.5, 0.0, "checked"),
        (4.0, 0.0, "failed"),
        (4.0, 99.0, "not checkable here"),
        (0.1, 99.0, "failed"),
    ],
)
def test_times_are_taken_again_roughly(
    claimed: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, factor: float, load: float, status: str
) -> None:
    """Ten times as fast as it is sells well; a busy machine proves nothing, except of a claim that was too slow."""
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))

    claims = [claim for claim in verify(claimed, origin=_timed(origin, factor)) if "time of one text" in claim.name]

    assert {claim.status for claim in claims} == {status}


def test_times_of_another_cpu_are_not_compared(claimed: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slower machine is no false claim."""
    monkeypatch.setattr(certification, "cpu_model", lambda: "Another CPU")

    claims = [claim for claim in verify(claimed, origin=_timed(origin, 9.0)) if "time of one text" in claim.name]

    assert {claim.status for claim in claims} == {"not checkable here"}


def test_an_artifact_that_the_run_does_not_have_fails(claimed: Path, origin: Origin) -> None:
    """A graph slipped into a bundle with a copied row of figures."""

    def add(manifest: Manifest) -> Manifest:
        fp16: Artifact = msgspec.structs.replace(manifest.artifact("fp32"), precision="fp16")
        return msgspec.structs.replace(manifest, artifacts=(*manifest.artifacts, fp16))

    _edit(claimed, add)
    failed = _failed(verify(claimed, origin=origin))
    assert "artifacts of the manifest" in failed
    assert "model.fp32.onnx: measured again" in failed
