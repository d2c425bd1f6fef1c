"""`compressor report`: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write report.json and report.html of a finished run again, measuring nothing."""
    from cli.printing import print_json, print_summary
    from compressor.pipeline.run import open_existing

    run = open_existing(folder, [], None)
    written = run.write_report()
    if as_json:
        print_json(written)
    else:
        print_summary(written, run.folder)
