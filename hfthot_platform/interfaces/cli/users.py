"""Commands about user data from elsewhere: ingest-users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfthot_platform.interfaces.cli.output import print_json, print_table
from hfthot_platform.interfaces.cli.tables import new_stamp, opened_lake

if TYPE_CHECKING:
    from hfthot_platform.services.ingest.users import UserFile

__all__ = ["ingest_users"]


def ingest_users(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Files of user events; nothing is moved.")
    ] = None,
    *,
    landing: Annotated[bool, typer.Option("--landing", help="Ingest the files that wait in <landing>/users.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply registrations, logins, subscription changes and API calls that a web application exported.

    Files are JSON lines or Parquet.  Each event is applied once, however often its file comes.  Bad rows are
    quarantined without anything personal.  Exits with 1 if a file or a row was rejected.
    """
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.ingest.users import ingest_user_files, ingest_user_landing

    if bool(paths) == landing:
        raise BadRequestError("give either files or --landing", where="ingest-users", hint="Try --help.")
    lake, stamp = opened_lake(context, new=True), new_stamp("ingest-users")
    accounts = context.obj.installation().accounts
    if landing:
        outcomes = ingest_user_landing(accounts, lake, stamp=stamp)
    else:
        outcomes = ingest_user_files(paths or [], accounts, lake, stamp=stamp)
    _tell(outcomes, as_json=as_json)
    if any(outcome.status == "rejected" or (outcome.report and outcome.report.rejected) for outcome in outcomes):
        raise typer.Exit(1)


def _tell(outcomes: list[UserFile], *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
        return
    if not outcomes:
        typer.echo("No file to ingest.")
        return
    rows = []
    for outcome in outcomes:
        report = outcome.report
        counts = (report.read, report.applied, report.repeated, report.rejected, report.waiting) if report else ()
        reasons = ", ".join(f"{name} ({count})" for name, count in report.reasons.items()) if report else outcome.reason
        rows.append((outcome.name, outcome.status, *(f"{n:,}" for n in counts or (0,) * 5), reasons or None))
    print_table(
        ("file", "status", "read", "applied", "repeated", "rejected", "waiting", "reasons"),
        rows,
        right=("read", "applied", "repeated", "rejected", "waiting"),
        styles=lambda row: {"rejected": "red", "waiting": "dim"}.get(row[1], ""),
    )
