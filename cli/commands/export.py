"""`compressor export`: the bundle of a run, or of a model trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import AllowInconclusive, AsJson, Output, Set, Stages, TargetOpset, TargetRuntime, target_overrides


def export(
    place: Annotated[
        str,
        typer.Argument(
            help="A recipe, a run folder, or any checkpoint (folder, installed model, hub id).",
            show_default=False,
        ),
    ],
    overrides: Set = [],  # noqa: B006
    output: Output = None,
    stages: Stages = None,
    allow_inconclusive: AllowInconclusive = False,
    data: Annotated[str | None, typer.Option(help="For a checkpoint: labelled texts to measure on.")] = None,
    text: Annotated[list[str], typer.Option(help="Text column; give it twice for text pairs.")] = [],  # noqa: B006
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Names of the checkpoint's outputs in order, comma-separated.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="For a checkpoint: tokens per text.")] = 128,
    precisions: Annotated[str, typer.Option(help="For a checkpoint: artifacts, comma-separated.")] = "fp32,int8",
    target_opset: TargetOpset = None,
    target_runtime: TargetRuntime = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what quantisation did: every layer, its bytes and what it costs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export to ONNX, quantise, check against torch and assemble the bundle.

    With a recipe or run folder: the student of that run. With a checkpoint and --data: that model as it is.
    """
    from compressor.pipeline.foreign import ForeignModel, as_settings, export_model
    from compressor.pipeline.quantising import read_explanation
    from compressor.pipeline.run import RECIPE_FILE, open_existing
    from export.gates import describe_gate
    from export.target.compatibility import Target
    from serving.errors import GateFailed, UserError

    path = Path(place)
    if path.suffix in (".yaml", ".yml") or (path / RECIPE_FILE).is_file():
        changes = [*overrides, *target_overrides(target_opset, target_runtime)]
        run = open_existing(path, changes, output, stages=stages, allow_inconclusive=allow_inconclusive)
        found = run.export(explain=explain)
        _show(found, run.folder / "bundle", as_json=as_json)
        run.check_verdicts()
        return
    if data is None:
        raise UserError(f"exporting the checkpoint '{place}' needs labelled texts to check it on. Give --data FILE.")
    folder = output or Path("runs") / path.name
    names = labels.split(",") if labels else None
    target = Target(target_opset, target_runtime)
    source = ForeignModel(place, max_length, names, tuple(precisions.split(",")), target)
    settings = as_settings(data, text, label)
    gates = export_model(source, settings, folder, allow_inconclusive=allow_inconclusive, explain=explain)
    for gate in gates:
        typer.echo(describe_gate(gate), err=True)
    found = read_explanation(folder, folder / "candidate") if explain else None
    _show(found, folder / "bundle", as_json=as_json)
    failed = [
        gate
        for gate in gates
        if gate.verdict == "failed" or (gate.verdict == "inconclusive" and not allow_inconclusive)
    ]
    if failed:
        raise GateFailed("; ".join(describe_gate(gate) for gate in failed))


def _show(found: Mapping[str, Any] | None, bundle: Path, *, as_json: bool) -> None:
    """Where the bundle is and, where it was asked for, what quantisation did."""
    from cli.explaining import print_explanation
    from cli.printing import print_json

    if as_json:
        print_json({"bundle": str(bundle), "quantisation": found})
        return
    if found is not None:
        print_explanation(found)
    typer.echo(bundle)
