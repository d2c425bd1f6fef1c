"""Claims of a bundle: the honest ones hold, and each false one is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.measure import Sample
from export.verify import Claim, verify
from serving.golden import read_golden, write_golden
from serving.manifest import Manifest, read_manifest, write_manifest
from tests.export.conftest import accuracy

Edit = Callable[[Manifest], Manifest]


def test_an_honest_bundle_has_no_failed_claim(bundle_folder: Path, sample: Sample) -> None:
    """A check that cries wolf is switched off."""
    claims = verify(bundle_folder, {"intent": sample})

    assert not [claim for claim in claims if claim.status == "failed"]
    metrics = [claim for claim in claims if "accuracy of intent" in claim.name]
    assert [claim.status for claim in metrics] == ["checked", "checked"]


def test_without_data_the_metrics_are_not_called_checked(bundle_folder: Path) -> None:
    """Silence about what was not checked is a lie."""
    claims = verify(bundle_folder)

    metrics = [claim for claim in claims if "accuracy of intent" in claim.name]
    assert {claim.status for claim in metrics} == {"not checkable here"}


def test_a_false_metric_fails(bundle_folder: Path, sample: Sample) -> None:
    """The claim a buyer reads first."""
    wrong = Sample(sample.texts, (sample.labels + 1) % 3, accuracy)

    failed = _failed(verify(bundle_folder, {"intent": wrong}))

    assert [name for name in failed if "accuracy of intent" in name] == failed
    assert len(failed) == 2


@pytest.mark.parametrize(
    ("field", "value", "claim"),
    [
        ("bytes", 1, "bytes"),
        ("opset", 99, "opset"),
        ("ir_version", 99, "IR version"),
        ("quantised_nodes", 99, "int8 operators"),
        ("sha256", "0" * 64, "sha256"),
    ],
)
def test_a_false_fact_of_an_artifact_fails(bundle_folder: Path, field: str, value: Any, claim: str) -> None:
    """Each fact must be read from the file, or it could say anything."""

    def falsify(manifest: Manifest) -> Manifest:
        int8 = msgspec.structs.replace(manifest.artifact("int8"), **{field: value})
        return msgspec.structs.replace(manifest, artifacts=(manifest.artifact("fp32"), int8))

    _edit(bundle_folder, falsify)

    assert _failed(verify(bundle_folder)) == [f"model.int8.onnx: {claim}"]


def test_labels_that_differ_from_the_config_fail(bundle_folder: Path) -> None:
    """The same graph would answer differently here and in other tools."""
    path = bundle_folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {"0": "b", "1": "a", "2": "c"}
    path.write_text(json.dumps(config), encoding="utf-8")

    assert set(_failed(verify(bundle_folder))) == {
        "config.json: sha256",
        "labels: manifest and config.json agree",
    }


def test_golden_logits_that_the_graph_does_not_repeat_fail(bundle_folder: Path) -> None:
    """The only claim that notices kernels which compute something else on this CPU."""
    golden = read_golden(bundle_folder)
    rows = golden.artifacts["fp32"]["intent"]
    shifted = ((rows[0][0] + 0.01, *rows[0][1:]), *rows[1:])
    changed = {**golden.artifacts, "fp32": {"intent": shifted}}
    write_golden(bundle_folder, msgspec.structs.replace(golden, artifacts=changed))

    assert set(_failed(verify(bundle_folder))) == {"golden.json: sha256", "model.fp32.onnx: golden examples"}


def test_a_missing_graph_fails_its_claims_and_no_others(bundle_folder: Path) -> None:
    """One broken file must not hide what holds of the rest, nor end in a traceback."""
    (bundle_folder / "model.int8.onnx").unlink()

    failed = _failed(verify(bundle_folder))

    assert failed
    assert all(name.startswith("model.int8.onnx") for name in failed)


def _failed(claims: list[Claim]) -> list[str]:
    return [claim.name for claim in claims if claim.status == "failed"]


def _edit(folder: Path, edit: Edit) -> None:
    write_manifest(folder, edit(read_manifest(folder)))
