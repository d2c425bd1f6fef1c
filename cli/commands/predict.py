"""`compressor predict`: answers for arguments or for lines on stdin."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from cli.options import AsJson, BundleFolder, Precision, Threads


def predict(
    bundle: BundleFolder,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none: one per line on stdin.", show_default=False)
    ] = None,
    precision: Precision = None,
    threads: Threads = None,
    task: Annotated[list[str] | None, typer.Option(help="Answer only this task; may be given again.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Scores to show per task. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer texts with a bundle.

    A text pair is one argument or line with a tab between its two texts. With --json, one JSON object per text.
    """
    from cli.printing import print_answers
    from serving.bundle import Bundle
    from serving.errors import UserError

    given = texts or ([] if sys.stdin.isatty() else [line.rstrip("\n") for line in sys.stdin if line.strip()])
    if not given:
        raise UserError("no texts to answer. Give them as arguments or one per line on stdin.")
    loaded = Bundle.load(bundle, precision, threads=threads or 1)
    if not loaded.artifact.passed:
        typer.echo(f"warning: {loaded.artifact.file} did not pass its gates; see the bundle's README.md", err=True)
    width = len(loaded.manifest.inputs.text_columns)
    rows = [tuple(text.split("\t")) if width == 2 else (text,) for text in given]
    answers = loaded.predict(rows, tasks=task, top_k=top_k)
    if not as_json:
        print_answers(given, answers)
        return
    for text, answer in zip(given, answers, strict=True):
        typer.echo(json.dumps({"text": text, "answers": answer}, ensure_ascii=False))
