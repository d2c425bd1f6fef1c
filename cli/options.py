"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[Path, typer.Argument(help="A recipe (YAML), or the folder of an earlier run.", show_default=False)]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe, e.g. training.epochs=3."),
]
Output = Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.", show_default=False)]
Stages = Annotated[
    Path | None,
    typer.Option(help="A stage store to share between runs. Default: inside the run folder.", show_default=False),
]
AllowInconclusive = Annotated[
    bool,
    typer.Option("--allow-inconclusive", help="Accept gates that the validation split is too small to decide."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
BundleFolder = Annotated[Path, typer.Argument(help="The bundle folder of a run.", show_default=False)]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32, int8, int8_static, int8_weights or fp16. Default: the fastest artifact that passed its gates.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: one.", show_default=False)]
TargetOpset = Annotated[
    int | None, typer.Option(help="ONNX opset of the graphs, as export.opset of a recipe.", show_default=False)
]
TargetRuntime = Annotated[
    str | None,
    typer.Option(
        help="Release of ONNX Runtime that must read the bundle, e.g. 1.17.3, as export.target_runtime of a recipe.",
        show_default=False,
    ),
]


def target_overrides(opset: int | None, runtime: str | None) -> list[str]:
    """`--target-opset` and `--target-runtime` as overrides of a recipe; quoted, since 1.20 is no number here."""
    found = {"opset": opset, "target_runtime": None if runtime is None else f"'{runtime}'"}
    return [f"export.{name}={value}" for name, value in found.items() if value is not None]
