"""Gates end a run with exit code 3, and everything measured is written all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest


def tighten(toy: Any, compressor: Callable[..., Any], gates: dict[str, Any], *options: str) -> Any:
    return compressor("run", toy.write(gates=gates), "--output", toy.run, *options)


def test_a_failed_gate_ends_with_3_and_everything_is_written(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a failed proof that looks like success, and a failure that throws its evidence away."""
    for name in ("report.json", "report.html"):
        (own_run.run / name).unlink()
    done = tighten(own_run, compressor, {"export_logit_difference": 1e-12, "allow_inconclusive": True})
    assert done.code == 3
    assert "export_logit_difference of fp32" in done.error
    assert "serve it" not in done.out
    assert "no artifact passed its gates" in done.out
    report = own_run.report()
    verdicts = {(gate["name"], gate["artifact"]): gate["verdict"] for gate in report["gates"]}
    assert verdicts["export_logit_difference", "fp32"] == "failed"
    assert (own_run.run / "report.html").is_file()
    assert (own_run.run / "bundle" / "manifest.json").is_file()
    assert not any(artifact["passed"] or artifact["is_default"] for artifact in report["artifacts"])
    refused = compressor("predict", own_run.run / "bundle", "my card")
    assert refused.code == 2
    assert "no artifact of the bundle 'toy' passed its gates" in refused.error
    named = compressor("predict", own_run.run / "bundle", "my card", "--precision", "int8")
    assert named.code == 0
    assert "warning: model.int8.onnx did not pass its gates" in named.err


@pytest.mark.slow
def test_an_undecided_gate_fails_unless_it_is_allowed(toy: Any, skilled: Path, compressor: Callable[..., Any]) -> None:
    """Catches a sample too small to decide that is sold as a passed gate."""
    gates = {"teacher_metric_drop": 1.0, "quantisation_metric_drop": 0.5}
    recipe = toy.write(teacher={"model": str(skilled), "train": False}, gates=gates)
    assert compressor("run", recipe, "--output", toy.run).code == 0
    drop = next(gate for gate in toy.report()["gates"] if gate["name"] == "teacher_metric_drop")
    assert drop["low"] < drop["high"]
    limit = (drop["low"] + drop["high"]) / 2
    strict = compressor("run", toy.run, "--set", f"gates.teacher_metric_drop={limit}")
    assert strict.code == 3
    assert "teacher_metric_drop of student on topic: inconclusive" in strict.error
    assert "--allow-inconclusive" in strict.error
    allowed = compressor("run", toy.run, "--allow-inconclusive")
    assert allowed.code == 0, allowed.err
    assert [gate["verdict"] for gate in toy.report()["gates"]].count("inconclusive") == 1
    assert compressor("report", toy.run).code == 0  # the run folder remembers what was allowed


@pytest.mark.parametrize(("limit", "code"), [(1e-12, 3), (1e-3, 0)])
def test_export_alone_checks_the_gates_too(
    own_run: Any, compressor: Callable[..., Any], limit: float, code: int
) -> None:
    """Catches a bundle that `export` hands out although a gate failed."""
    own_run.write(gates={"export_logit_difference": limit, "quantisation_metric_drop": 0.5, "allow_inconclusive": True})
    done = compressor("export", own_run.recipe, "--output", own_run.run)
    assert done.code == code, done.err
    assert done.out == f"{own_run.run}/bundle\n"


def test_a_graph_that_cannot_run_fails_its_gate_and_is_named(
    own_run: Any, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a broken export that ends as a user's mistake, a traceback, or a bundle that says passed."""
    from export import candidate, optimise

    def freeze(*arguments: Any) -> Any:
        fusion = fuse(*arguments)
        model = onnx.load(arguments[1])
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save_model(model, str(arguments[1]))
        return fusion

    fuse = optimise.fuse_attention
    monkeypatch.setattr(candidate, "fuse_attention", freeze)
    own_run.write(export={"opset": 18}, gates={"quantisation_metric_drop": 0.5, "allow_inconclusive": True})
    done = compressor("run", own_run.recipe, "--output", own_run.run)
    assert done.code == 3, done.err
    assert "export_logit_difference of fp32 on topic: failed, no value: it cannot run a batch of 7 x" in done.error
    assert "limit 0.0001" in done.error
    report = own_run.report()
    assert [artifact["precision"] for artifact in report["artifacts"]] == ["int8"]
    assert not report["artifacts"][0]["passed"]
    assert {rung["rung"]: rung["passed"] for rung in report["ladder"]} == {
        "tokens": True, "plain": True, "fp32": False, "int8": False,
    }  # fmt: skip
