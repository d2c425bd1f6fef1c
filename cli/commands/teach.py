"""`compressor teach`: the teacher alone."""

from __future__ import annotations

import typer

from cli.options import Output, Place, Set, Stages


def teach(place: Place, overrides: Set = [], output: Output = None, stages: Stages = None) -> None:  # noqa: B006
    """Fine-tune the teacher of a recipe (or take the one it names), and nothing else."""
    from compressor.pipeline.run import open_existing
    from serving.errors import UserError

    run = open_existing(place, overrides, output, stages=stages)
    if not run.pipeline.all_teachers:
        raise UserError(
            "no task of this recipe has a teacher (teacher: none). Give one task a teacher, or go on with "
            "`compressor distill`."
        )
    run.run(*run.pipeline.all_teachers)
    typer.echo(run.folder / "teacher")
