"""Commands about the platform itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hfthot_platform.core.time import utc_now
from hfthot_platform.interfaces.cli.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hfthot_platform.app.findings import Finding

__all__ = ["doctor"]


def doctor(
    context: typer.Context,
    *,
    online: Annotated[bool, typer.Option("--online", help="Also fetch a little data from the remote feeds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is configured, reachable, stale or broken, and what to do.  Exits with 1 on an error."""
    from hfthot_platform.app.findings import worst
    from hfthot_platform.interfaces.doctor import diagnose

    settings = context.obj.settings()
    with progress_bar("looking"):
        home = settings.dagster_folder()
        findings = diagnose(settings, utc_now(), dagster_home=home, online=online, runs=lambda: _runs(home))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("", "subject", "found"),
            [(finding.level, finding.subject, finding.message) for finding in findings],
            styles=lambda row: {"error": "red", "warn": "yellow"}.get(row[0], ""),
        )
        steps = {finding.next_step: finding.subject for finding in findings if finding.next_step}
        if steps:
            typer.echo("\nWhat to do:")
        for step, subject in steps.items():
            typer.echo(f"  {subject}: {step}")
    if worst(findings) == "error":
        raise typer.Exit(1)


def _runs(home: Path | None) -> Iterator[Finding]:
    """Look at Dagster's runs, where there is an instance: importing it takes seconds."""
    if home is None or not (home / "history").is_dir():
        return
    from resources.runs import diagnose_runs

    yield from diagnose_runs(home)
