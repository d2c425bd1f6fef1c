"""`compressor serve`: a bundle behind HTTP."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import BundleFolder
from serving.operations.settings import describe_settings, load_settings, parse_change, read_calibration

_SETTINGS = {row.name: row for row in describe_settings()}


def _meaning(name: str) -> str:
    """A setting's own words, with its default unless these name it."""
    row = _SETTINGS[name]
    default = row.default.strip('"')
    return row.meaning if default == "null" else f"{row.meaning} Default: {default}."


def serve(
    bundle: BundleFolder,
    host: Annotated[str | None, typer.Option(help=_meaning("host"), show_default=False)] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help=_meaning("port"), show_default=False)] = None,
    precision: Annotated[str | None, typer.Option(help=_meaning("precision"), show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help=_meaning("device"), show_default=False)] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help=_meaning("lanes"), show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help=_meaning("threads"), show_default=False)] = None,
    settings: Annotated[
        Path | None, typer.Option(help="Settings file, TOML or JSON; docs/operations.md has them all.")
    ] = None,
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. limits.texts=64.")
    ] = [],  # noqa: B006
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure lanes and threads, write the settings file, and stop.")
    ] = False,
) -> None:
    """Serve a bundle over HTTP: POST /v1/predict {"text": ...}.

    Probes: GET /livez, /readyz, /startupz; metrics: GET /metrics; API: GET /openapi.json. SIGTERM drains.
    """
    options: dict[str, Any] = {
        "host": host, "port": port, "precision": precision, "device": device, "lanes": lanes, "threads": threads,
    }  # fmt: skip
    changes = dict(map(parse_change, overrides)) | {key: value for key, value in options.items() if value is not None}
    chosen = load_settings(settings if settings is None or settings.is_file() or not calibrate else None, changes)
    if calibrate:
        from serving.operations.calibrate import calibrate as measure

        measure(bundle, chosen, settings or Path("serve.toml"), _print)
        return
    with _stop_before_the_server_listens_to_signals():
        from serving.operations.server import serve as run_server

        run_server(bundle, chosen, _print, calibration=None if settings is None else read_calibration(settings))


@contextlib.contextmanager
def _stop_before_the_server_listens_to_signals() -> Iterator[None]:
    """SIGTERM while its modules are imported and its port is opened is a clean end, too: nothing was promised yet."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(line: str) -> None:
    typer.echo(line, err=True)
