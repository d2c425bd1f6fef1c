"""`compressor verify`: what can be checked of a bundle's claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, BundleFolder


def verify(
    bundle: BundleFolder,
    run: Annotated[
        Path | None,
        typer.Option(help="The run that made it: its validation texts are used.", show_default=False),
    ] = None,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[TASK=]FILE", help="Labelled texts to measure on; once per task where the bundle has several."
        ),
    ] = [],  # noqa: B006
    text: Annotated[
        list[str],
        typer.Option(metavar="[TASK=]COLUMN", help="Text column, of one task or of all; give it twice for text pairs."),
    ] = [],  # noqa: B006
    label: Annotated[
        list[str], typer.Option(metavar="[TASK=]COLUMN", help="Label column, of one task or of all.")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Check a bundle's claims, each `checked`, `failed` or `not checkable here`; exit code 3 if one failed."""
    from cli.printing import print_json
    from compressor.pipeline.foreign import verify_bundle
    from compressor.pipeline.labelled import LabelledTexts
    from serving.errors import GateFailed, UserError

    if run is not None and data:
        raise UserError("--run and --data were both given. Give one of them.")
    if (text or label) and not data:
        raise UserError("--text and --label name columns of --data, which was not given. Give it, or leave them out.")
    claims = verify_bundle(bundle, run=run, given=LabelledTexts(data, text, label) if data else None)
    if as_json:
        print_json([{"name": claim.name, "status": claim.status, "detail": claim.detail} for claim in claims])
    else:
        for claim in claims:
            typer.echo(f"{claim.status:<18}  {claim.name}: {claim.detail}")
    failed = [claim.name for claim in claims if claim.status == "failed"]
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(claims)} claims failed: {'; '.join(failed)}. Do not serve this bundle."
        )
