"""`compressor doctor`: what this installation and machine offer, and what to do about clashes."""

from __future__ import annotations

import typer

from cli.options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, CPU features, threads and quota, and clashes with what to do."""
    from cli.printing import print_json
    from serving.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        for section in ("versions", "host", "devices"):
            typer.echo(f"{section}:")
            for name, value in findings[section].items():
                shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
                typer.echo(f"  {name}: {shown}")
        for problem in findings["problems"]:
            typer.echo(f"problem: {problem}")
        if not findings["problems"]:
            typer.echo("no problems found")
    if findings["problems"]:
        raise typer.Exit(2)
