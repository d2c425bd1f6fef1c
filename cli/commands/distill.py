"""`compressor distill`: the student and its controls."""

from __future__ import annotations

import typer

from cli.options import Output, Place, Set, Stages


def distill(place: Place, overrides: Set = [], output: Output = None, stages: Stages = None) -> None:  # noqa: B006
    """Train the student of a recipe and its controls, with whatever they need."""
    from compressor.pipeline.run import open_existing

    run = open_existing(place, overrides, output, stages=stages)
    run.run(run.pipeline.student, *run.pipeline.controls.values())
    typer.echo(run.folder / "student")
