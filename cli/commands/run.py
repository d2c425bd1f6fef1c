"""`compressor run`: everything, from a recipe or from a handful of options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AllowInconclusive, AsJson, Output, Set, Stages, TargetOpset, TargetRuntime, target_overrides


def run(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe (YAML), or the folder of an earlier run.", show_default=False),
    ] = None,
    overrides: Set = [],  # noqa: B006
    output: Output = None,
    stages: Stages = None,
    allow_inconclusive: AllowInconclusive = False,
    target_opset: TargetOpset = None,
    target_runtime: TargetRuntime = None,
    as_json: AsJson = False,
    data: Annotated[str | None, typer.Option(help="Without a recipe: the data, as in tasks.*.data.")] = None,
    text: Annotated[list[str], typer.Option(help="Text column; give it twice for text pairs.")] = [],  # noqa: B006
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher checkpoint: folder, installed model or hub id.")] = None,
    student_layers: Annotated[int | None, typer.Option(min=1, help="Layers of the student.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Methods (none, kd, bam, sda, sdv, swa, se, ema, source, refill, l2a, avg, vote) joined by +, with "
            "their knobs: kd+swa:every=1."
        ),
    ] = None,
) -> None:
    """Run all stages; a second call continues where it stopped and repeats nothing.

    Fine-tunes the teacher, distils the student and its control, exports, quantises, checks, measures and reports.
    """
    from cli.printing import print_json, print_summary
    from compressor.pipeline.run import RunFolder, default_output, open_existing
    from compressor.recipe_file import recipe_from_options
    from serving.errors import UserError

    options = {
        "data": data,
        "text": text,
        "label": label,
        "teacher": teacher,
        "layers": student_layers,
        "method": method,
    }
    given = sorted(name for name, value in options.items() if value)
    changes = [*overrides, *target_overrides(target_opset, target_runtime)]
    if recipe is not None and given:
        raise UserError(f"a recipe and --{given[0]} were both given. Put it into the recipe, or use --set.")
    if recipe is not None:
        folder = open_existing(recipe, changes, output, stages=stages, allow_inconclusive=allow_inconclusive)
    else:
        made = recipe_from_options(options, changes)
        folder = RunFolder.open(
            output or default_output(made), made, stages=stages, allow_inconclusive=allow_inconclusive
        )
    report = folder.run_all()
    if as_json:
        print_json(report)
    else:
        print_summary(report, folder.folder)
    folder.check_gates(report)
