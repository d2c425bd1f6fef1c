"""Every other command on the folder of a run: single stages, export, verify, predict, recipe, doctor, help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.recipe import Recipe


def test_single_stages_build_up_the_same_run(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a stage command that does more than its stage, or whose work `run` does not find again."""
    out = ["--output", toy.run]
    taught = compressor("teach", toy.recipe, *out)
    assert (taught.code, taught.out) == (0, f"{toy.run}/teacher\n"), taught.err
    assert {name.rpartition("-")[0] for name in toy.stages()} == {"data", "teacher-topic"}
    assert "no finished stage" in compressor("report", toy.run).error
    assert compressor("distill", toy.run).code == 0
    assert {"student-kd", "student-none"} <= {name.rpartition("-")[0] for name in toy.stages()}
    exported = compressor("export", toy.run)
    assert (exported.code, exported.out) == (0, f"{toy.run}/bundle\n"), exported.err
    rows = json.loads(compressor("benchmark", toy.run, "--json").out)["measurements"]
    assert {"p50_ms", "variant"} <= rows[0].keys()
    before = toy.stages()
    assert compressor("run", toy.run).code == 0
    new = toy.new_stages(before)
    assert new
    assert {name.partition("-")[0] for name in new} <= {"figures", "confidence", "quantisation"}
    (toy.run / "report.html").unlink()
    report = json.loads(compressor("report", toy.run, "--json").out)
    assert report == toy.report()
    assert (toy.run / "report.html").is_file()


def test_export_takes_a_checkpoint_trained_elsewhere(toy: Any, skilled: Path, compressor: Callable[..., Any]) -> None:
    """Catches an export that loses the checkpoint's own label order, or claims another model's accuracy."""
    options = ["--data", toy.data, "--text", "text", "--label", "topic", "--allow-inconclusive"]
    done = compressor("export", skilled, *options, "--output", toy.folder / "exported")
    assert done.code in (0, 3), done.err  # int8 of a toy may lose too much; the bundle is there all the same
    bundle = toy.folder / "exported" / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["tasks"][0]["labels"] == ["delivery", "account", "billing"]
    assert manifest["artifacts"][0]["metrics"]["task"]["value"] > 0.6
    again = compressor("export", skilled, *options, "--output", toy.folder / "exported")
    assert again.code == 2
    assert "exists" in again.error
    checked = compressor("verify", bundle, "--data", toy.data, "--text", "text", "--label", "topic", "--json")
    claims = json.loads(checked.out)
    assert any(": accuracy of" in claim["name"] and claim["status"] == "checked" for claim in claims)


def test_an_interrupted_export_can_be_given_again(toy: Any, skilled: Path, compressor: Callable[..., Any]) -> None:
    """Catches half a bundle that blocks the same command for ever."""
    half = toy.folder / "exported" / "bundle.partial"
    half.mkdir(parents=True)
    (half / "model.fp32.onnx").write_bytes(b"half")
    options = ["--data", toy.data, "--label", "topic", "--allow-inconclusive"]
    assert compressor("export", skilled, *options, "--output", toy.folder / "exported").code in (0, 3)
    assert not half.exists()


def test_export_of_a_checkpoint_without_data_says_what_is_missing(
    skilled: Path, compressor: Callable[..., Any]
) -> None:
    """Catches a bundle whose claims nobody measured."""
    done = compressor("export", skilled)
    assert done.code == 2
    assert "--data" in done.error


def test_verify_checks_a_good_bundle(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a verifier that fails what is right, or that calls unmeasured claims checked."""
    bundle = toy_run.run / "bundle"
    plain = compressor("verify", bundle, "--json")
    assert plain.code == 0, plain.err
    claims = {claim["name"]: claim["status"] for claim in json.loads(plain.out)}
    assert claims["model.int8.onnx: sha256"] == "checked"
    accuracy = [status for name, status in claims.items() if ": accuracy of" in name]
    assert accuracy == ["not checkable here"] * 2
    full = compressor("verify", bundle, "--run", toy_run.run)
    assert full.code == 0, full.err
    lines = [line for line in full.out.splitlines() if ": accuracy of" in line]
    assert len(lines) == 2
    assert all(line.startswith("checked") for line in lines)


def test_verify_fails_a_changed_bundle_and_names_the_claim(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a model file that was swapped after it was measured."""
    model = own_run.run / "bundle" / "model.int8.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    done = compressor("verify", own_run.run / "bundle")
    assert done.code == 3
    assert "model.int8.onnx: sha256" in done.error
    assert "model.fp32.onnx: sha256" not in done.error


def test_verify_takes_one_source_of_texts(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches one of two given sources that is ignored in silence."""
    done = compressor("verify", toy_run.run / "bundle", "--run", toy_run.run, "--data", toy_run.data)
    assert done.code == 2
    assert "Give one of them" in done.error


def test_predict_answers_arguments_and_stdin_alike(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches lines of stdin that are dropped, or answered out of order."""
    bundle, texts = toy_run.run / "bundle", ["late order", "money refund card", "cancel my account"]
    given = compressor("predict", bundle, *texts)
    piped = compressor("predict", bundle, stdin="\n".join(texts) + "\n\n")
    assert given.code == 0
    assert given.out == piped.out
    assert [line.partition("\t")[2] for line in given.out.splitlines()] == texts


def test_predict_prints_json_lines(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches output that a program cannot read line by line."""
    done = compressor("predict", toy_run.run / "bundle", "läte order", "--json", "--top-k", 2, "--precision", "fp32")
    line = json.loads(done.out)
    assert line["text"] == "läte order"
    assert len(line["answers"]["topic"]["scores"]) == 2


def test_predict_without_texts_says_so(toy_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a command that ends with success and no answer."""
    assert "no texts" in compressor("predict", toy_run.run / "bundle", stdin="\n").error


def test_the_example_recipe_is_a_recipe_with_every_key(compressor: Callable[..., Any]) -> None:
    """Catches an example that the program itself refuses, or that hides a knob."""
    shown = compressor("recipe", "--example").out
    assert Recipe.model_validate(yaml.safe_load(shown)).name == "my-run"
    for name, field in Recipe.model_fields.items():
        assert f"{name}:" in shown, field


def test_the_schema_describes_every_section(compressor: Callable[..., Any]) -> None:
    """Catches a schema that editors cannot check a recipe with."""
    schema = json.loads(compressor("recipe", "--schema").out)
    assert schema["properties"].keys() == Recipe.model_fields.keys()
    assert compressor("recipe").code == 2


def test_doctor_prints_its_findings_as_json(compressor: Callable[..., Any]) -> None:
    """Catches an exit code that does not say whether there are problems."""
    done = compressor("doctor", "--json")
    findings = json.loads(done.out)
    assert findings["versions"]["numpy"]
    assert done.code == (2 if findings["problems"] else 0)
    assert compressor("doctor").out.startswith("versions:")


WITHOUT_TORCH = """
import sys
sys.argv = ["compressor", *sys.argv[1:]]
from cli.main import run_app
try:
    run_app()
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", sorted({"torch", "transformers", "pandas", "yaml"} & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["predict", "BUNDLE", "late order"]])
def test_help_and_predict_import_nothing_heavy(toy_run: Any, arguments: list[str]) -> None:
    """Catches a help that takes four seconds, and a serving host that needs torch."""
    words = [str(toy_run.run / "bundle") if word == "BUNDLE" else word for word in arguments]
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
