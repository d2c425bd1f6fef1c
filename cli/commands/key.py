"""`compressor key`: a new API key for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="Who will use it; shown in logs.", show_default=False)],
    file: Annotated[Path, typer.Option(help="The keys file: the key's hash is appended to it.", show_default=False)],
    rate: Annotated[
        float | None, typer.Option(min=1, help="Tokens per second that it may use. Default: the server's setting.")
    ] = None,
) -> None:
    """Make an API key: printed once, only its hash is kept. A running server notices within a second."""
    from serving.errors import UserError
    from serving.http.keys import make_key, read_keys

    secret, line = make_key(name, rate)
    try:
        before = file.read_text(encoding="utf-8") if file.is_file() else ""
        if before and name in [known.name for known in read_keys(file, None, 0.0)]:
            raise UserError(
                f"the keys file '{file}' has a key named '{name}'. Choose another name, or remove its line."
            )
        with file.open("a", encoding="utf-8") as keys:
            keys.write(f"{'' if before.endswith(chr(10)) or not before else chr(10)}{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the keys file '{file}' cannot be written: {error}. Give another with --file.") from error
    typer.echo(secret)
