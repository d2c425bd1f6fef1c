"""`compressor export`: the bundle of a run, or of a model trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AllowInconclusive, Output, Set, Stages


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
) -> None:
    """Export to ONNX, quantise, check against torch and assemble the bundle.

    With a recipe or run folder: the student of that run. With a checkpoint and --data: that model as it is.
    """
    from compressor.pipeline.foreign import ForeignModel, as_settings, describe, export_model
    from compressor.pipeline.run import RECIPE_FILE, open_existing
    from serving.errors import GateFailed, UserError

    path = Path(place)
    if path.suffix in (".yaml", ".yml") or (path / RECIPE_FILE).is_file():
        run = open_existing(path, overrides, output, stages=stages, allow_inconclusive=allow_inconclusive)
        run.run(run.pipeline.bundle)
        typer.echo(run.folder / "bundle")
        run.check_verdicts()
        return
    if data is None:
        raise UserError(f"exporting the checkpoint '{place}' needs labelled texts to check it on. Give --data FILE.")
    folder = output or Path("runs") / path.name
    source = ForeignModel(place, max_length, labels.split(",") if labels else None)
    gates = export_model(source, as_settings(data, text, label), folder, allow_inconclusive=allow_inconclusive)
    for gate in gates:
        typer.echo(describe(gate), err=True)
    typer.echo(folder / "bundle")
    failed = [
        gate
        for gate in gates
        if gate.verdict == "failed" or (gate.verdict == "inconclusive" and not allow_inconclusive)
    ]
    if failed:
        raise GateFailed("; ".join(describe(gate) for gate in failed))
