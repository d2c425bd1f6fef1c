"""`compressor verify` on the bundle of a run, and bundles for another runtime."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.pipeline import proving
from export.target.certify import certify_target

Compressor = Callable[..., Any]


def _claims(done: Any) -> dict[str, dict[str, str]]:
    return {claim["name"]: claim for claim in json.loads(done.out)}


@pytest.fixture(scope="module")
def verified(toy_run: Any, compressor: Compressor) -> dict[str, dict[str, str]]:
    """All claims of the finished run's bundle, with the run at hand."""
    done = compressor("verify", toy_run.run / "bundle", "--run", toy_run.run, "--json")
    assert done.code == 0, done.err
    return _claims(done)


def test_with_its_run_every_claim_of_a_bundle_is_checked(verified: dict[str, dict[str, str]]) -> None:
    """A run that cannot vouch for its own bundle, on the machine that made it a minute ago, vouches for nothing."""
    open_claims = {name for name, claim in verified.items() if claim["status"] != "checked"}
    assert all("time of one text" in name for name in open_claims), open_claims  # the machine may be busy


@pytest.mark.parametrize(
    "name",
    [
        "provenance: data",
        "provenance: models",
        "provenance: recipe",
        "provenance: stages",
        "artifacts of the manifest",
        "model.int8.onnx: parity, measured again",
        "gates, measured again",
        "README.md: 'Measured' says what the manifest says",
    ],
)
def test_the_run_answers_for_every_kind_of_claim(verified: dict[str, dict[str, str]], name: str) -> None:
    """A claim without a row is a claim that nobody looks at."""
    assert verified[name]["status"] == "checked"


@pytest.fixture
def doctored(toy_run: Any, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(toy_run.run / "bundle", tmp_path / "doctored"))


@pytest.mark.parametrize(
    ("place", "value", "claim"),
    [
        (("provenance", "data", "topic", "splits", "train", "sha256"), "0" * 64, "provenance: data"),
        (("provenance", "models", "student"), "0" * 64, "provenance: models"),
        (("provenance", "recipe", "training", "epochs"), 99, "provenance: recipe"),
        (("provenance", "intended_use"), "Medicine.", "provenance: intended_use"),
        (("version",), "2", "version is 2"),
    ],
)
def test_an_invented_origin_is_found_by_the_run(
    toy_run: Any, doctored: Path, compressor: Compressor, place: tuple[str, ...], value: object, claim: str
) -> None:
    """A bundle of other data, or another student, with the run's good name."""
    path = doctored / "manifest.json"
    manifest = json.loads(path.read_text())
    holder = manifest
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    path.write_text(json.dumps(manifest))
    done = compressor("verify", doctored, "--run", toy_run.run)
    assert done.code == 3
    assert claim in done.error


def test_recipe_fields_that_no_bundle_depends_on_may_change_after_it_was_made(
    own_run: Any, compressor: Compressor
) -> None:
    """More rounds of a benchmark make no other bundle, and must not make its origin a lie."""
    recipe = yaml.safe_load((own_run.run / "recipe.yaml").read_text())
    recipe["benchmark"]["rounds"] = 4
    (own_run.run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = compressor("verify", own_run.run / "bundle", "--run", own_run.run, "--json")
    assert _claims(done)["provenance: recipe"]["status"] == "checked"


def test_a_doctored_card_fails(doctored: Path, compressor: Compressor) -> None:
    """It is all that a buyer reads."""
    card = doctored / "README.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("| passed |", "| passed  with honours |", 1), encoding="utf-8")
    done = compressor("verify", doctored)
    assert done.code == 3
    assert "README.md: 'Gates' says what the manifest says" in done.error


def test_a_card_tells_the_intended_use_of_the_recipe(toy_run: Any) -> None:
    """Without one in the recipe the card must not invent one."""
    assert "has not said what it is for" in (toy_run.run / "bundle" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The release of ONNX Runtime that is installed here, found without pip."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def certify(*arguments: Any) -> Any:
        return certify_target(*arguments, find_python=lambda runtime: python)

    monkeypatch.setattr(proving, "certify_target", certify)
    return metadata.version("onnxruntime")


def test_a_bundle_for_a_runtime_was_replayed_under_it(own_run: Any, compressor: Compressor, installed: str) -> None:
    """`--target-runtime` must reach the graphs, the gates, the manifest and the card."""
    done = compressor("export", own_run.run, "--target-runtime", installed, "--target-opset", 16)
    assert done.code == 0, done.err
    bundle = own_run.run / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {artifact["opset"] for artifact in manifest["artifacts"]} == {16}
    assert manifest["target"]["is_verified"] is True
    gates = {(gate["name"], gate["subject"]): gate["verdict"] for gate in manifest["gates"]}
    assert gates["target_runtime", "int8 topic"] == "passed"
    assert f"onnxruntime {installed} (reads" in (bundle / "README.md").read_text(encoding="utf-8")


def test_a_runtime_that_cannot_read_the_opset_is_refused_before_anything_is_done(
    toy: Any, compressor: Compressor
) -> None:
    """After an hour of training is too late."""
    done = compressor("run", toy.recipe, "--output", toy.run, "--target-runtime", "1.11.0", "--target-opset", "17")
    assert done.code == 2
    assert "reads at most 16" in done.error
    assert not toy.run.exists()
