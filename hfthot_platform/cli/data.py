"""Commands that bring data in: demo, ingest."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfthot_platform.cli.output import print_json, print_table, progress_bar
from hfthot_platform.cli.tables import new_stamp, opened_lake

if TYPE_CHECKING:
    from hfthot_platform.ingest import FileOutcome

__all__ = ["demo", "ingest"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def demo(context: typer.Context) -> None:
    """Ingest real sample data, check it, make bars and answer SQL, in one go and offline."""
    from hfthot_platform.demo import run

    run(context.obj.settings())


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files, or folders to walk; nothing is moved.")
    ] = None,
    *,
    landing: Annotated[bool, typer.Option("--landing", help="Take in what waits in the landing folder.")] = False,
    feed: Annotated[str | None, typer.Option("--feed", help="Fetch from this configured feed.")] = None,
    table: Annotated[str | None, typer.Option("--table", help="The table to fetch, with --feed.")] = None,
    first: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day to fetch.")] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Day before which to stop; one day by default."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check and publish files, the landing folder, or what a feed has for some days.

    A file is recognised by its content and ingested once.  Bad rows are quarantined with the reason.
    Exits with 1 if a file was rejected.
    """
    from hfthot_platform.errors import BadRequestError

    if sum((bool(paths), landing, feed is not None)) != 1:
        raise BadRequestError(
            "give paths, --landing or --feed, and only one of them",
            where="ingest",
            hint="For example `hfthot ingest trades.csv.zip` or `hfthot ingest --feed simulated --table market.trades "
            "--from 2024-01-01`.",
        )
    if feed is None and (table is not None or first is not None or end is not None):
        raise BadRequestError("--table, --from and --to belong to --feed", where="ingest")
    if feed is not None:
        if table is None or first is None:
            raise BadRequestError("--feed needs --table and --from", where="ingest")
        last = end or first + timedelta(days=1)
        _from_feed(context, feed, table, (first.date(), last.date()), as_json=as_json)
        return
    outcomes = _from_landing(context) if landing else _from_files(context, paths or [])
    _tell(outcomes, as_json=as_json)
    if any(each.status == "rejected" for each in outcomes):
        raise typer.Exit(1)


def _from_files(context: typer.Context, paths: list[Path]) -> list[FileOutcome]:
    from hfthot_platform.errors import BadRequestError
    from hfthot_platform.ingest import ingest_files

    for path in paths:
        if not path.exists():
            raise BadRequestError("there is no such file or folder", where=str(path))
    lake = opened_lake(context, new=True)
    with progress_bar("ingesting") as progress:
        return ingest_files(lake, paths, stamp=new_stamp("ingest"), progress=progress)


def _from_landing(context: typer.Context) -> list[FileOutcome]:
    from hfthot_platform.ingest import ingest_landing

    settings = context.obj.settings()
    with progress_bar("ingesting") as progress:
        return ingest_landing(
            opened_lake(context, new=True),
            settings.landing,
            now=datetime.now(UTC),
            settle_seconds=settings.landing_settle_seconds,
            stamp=new_stamp("ingest"),
            progress=progress,
        )


def _tell(outcomes: list[FileOutcome], *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json([{**asdict(each), "days": sorted(each.days)} for each in outcomes])
        return
    if not outcomes:
        typer.echo("No file to ingest.")
        return
    print_table(
        ("file", "status", "table", "read", "published", "duplicate", "quarantined", "reason"),
        [
            (
                each.name,
                each.status,
                each.table,
                *(f"{n:,}" for n in (each.rows_read, each.rows_published, each.rows_duplicate, each.rows_quarantined)),
                each.detail or each.reason,
            )
            for each in outcomes
        ],
        right=("read", "published", "duplicate", "quarantined"),
        styles=lambda row: {"rejected": "red", "repeated": "dim"}.get(row[1], ""),
    )


def _from_feed(context: typer.Context, feed: str, table: str, days: tuple[date, date], *, as_json: bool) -> None:
    from dataclasses import asdict

    from hfthot_platform.errors import BadRequestError
    from hfthot_platform.ingest import ingest_feed

    if days[1] <= days[0]:
        raise BadRequestError(f"--to {days[1]} is not after --from {days[0]}", where="ingest")
    lake = opened_lake(context, new=True)
    lake.table(table)  # an unknown table is told before anything is fetched
    stamp = new_stamp("ingest")
    with progress_bar(f"fetching {table}") as progress:
        commits = ingest_feed(lake, context.obj.settings(), feed, table, days, stamp=stamp, progress=progress)
    if as_json:
        print_json([asdict(each) for each in commits])
        return
    read, published, duplicate, quarantined = (
        sum(getattr(each, name) for each in commits)
        for name in ("rows_read", "rows_published", "rows_duplicate", "rows_quarantined")
    )
    version = f", version {commits[-1].version}" if commits else ""
    typer.echo(
        f"{table}: {read:,} rows read, {published:,} published, {duplicate:,} duplicate, "
        f"{quarantined:,} quarantined{version}"
    )
