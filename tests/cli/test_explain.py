"""`compressor export --explain`: what quantisation did, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def explained(
    toy_run: Any, tmp_path_factory: pytest.TempPathFactory, compressor: Callable[..., Any], make_toy: Any
) -> Any:
    """The toy run's student with every precision, and what --explain --json said of it."""
    folder = tmp_path_factory.mktemp("explained")
    recipe = make_toy(folder).write(
        export={
            "precisions": ["fp32", "int8", "int8_static", "int8_weights", "fp16"],
            "calibration_texts": 40,
            "exclude": ["pooler"],
        }
    )
    options = ["--output", folder / "run", "--stages", toy_run.run / "stages"]
    return compressor("export", recipe, *options, "--explain", "--json"), recipe, options


def test_json_has_every_precision_with_every_layer(explained: Any) -> None:
    """Catches an explanation that lacks what the page shows, or a stdout that programs cannot read."""
    done, _, _ = explained
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert Path(found["bundle"]).name == "bundle"
    assert list(found["quantisation"]) == ["int8", "int8_static", "int8_weights", "fp16"]
    for precision, facts in found["quantisation"].items():
        stored = {layer["role"]: layer["stored"] for layer in facts["layers"]}
        if precision == "fp16":
            assert set(stored.values()) == {"fp16"}
            continue
        assert stored["pooler"] == "fp32"
        assert set(stored.values()) == {"int8", "fp32"}
        assert facts["exclusion"]["mode"] == "by name"
        assert facts["exclusion"]["bytes_paid"] > 0
        assert len(facts["sensitivity"]) == len(facts["layers"])
        assert facts["num_quantised"] == sum(facts["operators"].values()) == len(facts["layers"]) - 1
    assert len(found["quantisation"]["int8_static"]["ranges"]) == 5
    assert found["quantisation"]["int8_static"]["calibration_texts"] == 40


def test_what_an_export_leaves_out_is_said_while_it_runs(explained: Any) -> None:
    """Catches graphs that are not what they usually are, with nobody told but a file of the run."""
    said = [line for line in explained[0].err.splitlines() if line.startswith("  int8: stayed fp32: ")]

    assert len(said) == 1
    assert "pooler" in said[0]


def test_a_terminal_shows_tables_and_the_bundle_last(explained: Any, compressor: Callable[..., Any]) -> None:
    """Catches an explanation that only programs can read, and work that is done twice."""
    _, recipe, options = explained
    done = compressor("export", recipe, *options, "--explain")
    assert done.code == 0, done.err
    for said in ("int8_static", "attention query", "left in fp32 by the recipe", "least squared error", "logit MSE"):
        assert said in done.out
    assert done.out.splitlines()[-1].endswith("/bundle")
    assert all("done before" in line for line in done.err.splitlines() if line[:1] in "=>")


def test_manifest_and_candidate_say_what_was_left_out(explained: Any) -> None:
    """Catches layers in fp32 that the bundle is silent about."""
    bundle = Path(json.loads(explained[0].out)["bundle"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    artifacts = {artifact["precision"]: artifact for artifact in manifest["artifacts"]}
    assert artifacts["fp32"].get("exclusion") is None
    for precision in ("int8", "int8_static", "int8_weights"):
        (left,) = artifacts[precision]["exclusion"]["layers"]
        assert "pooler" in left
    assert manifest["default_artifact"] != "fp16"


def test_a_run_of_fp32_alone_says_that_nothing_was_quantised(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a crash where there is nothing to explain."""
    done = compressor("export", own_run.run, "--set", "export.precisions=[fp32]", "--explain")
    assert done.code == 0, done.err
    assert "nothing was quantised" in done.out
    done = compressor("export", own_run.run, "--set", "export.precisions=[fp32]", "--explain", "--json")
    assert json.loads(done.out)["quantisation"] == {}


def test_an_exclusion_that_fits_nothing_is_a_user_error(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a typo in a layer's name that quietly quantises everything."""
    done = compressor("export", own_run.run, "--set", "export.exclude=[atention query]")
    assert done.code == 2
    assert "no layer is called 'atention query'" in done.error
    assert "attention query" in done.error


def test_a_checkpoint_trained_elsewhere_is_explained_too(
    toy: Any, skilled: Path, compressor: Callable[..., Any]
) -> None:
    """Catches --explain that works for runs only."""
    options = ["--data", toy.data, "--text", "text", "--label", "topic", "--allow-inconclusive"]
    more = ["--precisions", "fp32,int8_weights", "--explain", "--json", "--output", toy.folder / "exported"]
    done = compressor("export", skilled, *options, *more)
    assert done.code in (0, 3), done.err
    found = json.loads(done.out)["quantisation"]
    assert list(found) == ["int8_weights"]
    assert found["int8_weights"]["sensitivity"]
