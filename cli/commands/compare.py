"""`compressor compare`: methods against their controls over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, Set, Stages


def compare(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML): what all methods share.", show_default=False)],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods joined by commas, with their knobs: none,kd,swa,sda:k=all,kd+swa; none@single trains a "
            "student per task. Default: the recipe's own.",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file of arms: LABEL: {method: swa, set: {training.epochs: 3}}.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; each has its own data order.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The lowest of the seeds.")] = 0,
    train_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled training rows that every seed draws for itself.", show_default=False),
    ] = None,
    main: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD:BASELINE[@TASK]",
            help="The one comparison that needs no correction. Default: the first method against none (of @single: "
            "none@single).",
            show_default=False,
        ),
    ] = None,
    rename_main: Annotated[
        bool, typer.Option("--rename-main", help="Change the main comparison after results; the report says so.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, each in a process of its own.")] = 1,
    overrides: Set = [],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the comparison. Default: comparisons/NAME.", show_default=False),
    ] = None,
    stages: Stages = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods with their controls over seeds: paired differences, intervals, and what could have been seen.

    A second call continues where the first stopped; with more methods or seeds it adds them and repeats nothing.
    """
    from cli.printing import print_comparison, print_json
    from compressor.comparison.run import Wanted, check_finished, default_output
    from compressor.comparison.run import compare as run_comparison
    from compressor.recipe_file import load_recipe

    found = load_recipe(recipe, overrides)
    wanted = Wanted(
        methods=methods,
        arms=arms,
        num_seeds=seeds,
        first_seed=first_seed,
        train_rows=train_rows,
        main=main,
        rename_main=rename_main,
        jobs=jobs,
    )
    folder = output or default_output(found)
    result, failures = run_comparison(found, wanted, folder, stages)
    if as_json:
        print_json(result)
    else:
        print_comparison(result, folder)
    check_finished(failures, folder)
