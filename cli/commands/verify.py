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
        str | None, typer.Option(help="Labelled texts that the metrics were measured on.", show_default=False)
    ] = None,
    text: Annotated[list[str], typer.Option(help="Text column; give it twice for text pairs.")] = [],  # noqa: B006
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's claims, each `checked`, `failed` or `not checkable here`; exit code 3 if one failed."""
    from cli.printing import print_json
    from compressor.pipeline.foreign import verify_bundle
    from serving.errors import GateFailed, UserError

    if run is not None and data is not None:
        raise UserError("--run and --data were both given. Give one of them.")
    claims = verify_bundle(bundle, run=run, data=data, text=text, label=label)
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
