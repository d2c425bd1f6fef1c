"""`compressor serve`: a bundle behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import BundleFolder, Precision, Threads


def serve(
    bundle: BundleFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    precision: Precision = None,
    threads: Threads = None,
) -> None:
    """Serve a bundle: POST /v1/predict {"text": ...}, GET /readyz, GET /livez."""
    from serving.server import serve as run_server

    run_server(bundle, host=host, port=port, precision=precision, threads=threads or 1)
