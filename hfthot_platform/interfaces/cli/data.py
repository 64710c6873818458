"""Commands that bring data in, take it out again, and say what is missing: demo, ingest, withdraw, derive, gaps."""

from __future__ import annotations

import shlex
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfthot_platform.core.time import ONE_DAY, utc_now
from hfthot_platform.interfaces.cli.output import counted, note, print_json, print_table, progress_bar
from hfthot_platform.interfaces.cli.tables import new_stamp, opened_lake

if TYPE_CHECKING:
    from hfthot_platform.services.ingest import FileOutcome

__all__ = ["demo", "derive", "gaps", "ingest", "withdraw"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def demo(context: typer.Context) -> None:
    """Ingest real sample data, check it, make bars and answer SQL, in one go and offline."""
    from hfthot_platform.interfaces.demo import run

    run(context.obj.settings())


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files or folders to read; nothing is moved.")
    ] = None,
    *,
    landing: Annotated[
        bool, typer.Option("--landing", help="Ingest the files that wait in the landing folder.")
    ] = False,
    feed: Annotated[str | None, typer.Option("--feed", help="Fetch from this configured feed.")] = None,
    table: Annotated[str | None, typer.Option("--table", help="The table to fetch, with --feed.")] = None,
    first: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day to fetch.")] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="End day, exclusive; by default one day is fetched."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check and publish files, the landing folder, or what a feed has for some days.

    A file is recognised by its content, published whole or not at all, and ingested once; with another mapping
    it is read again, and that reading takes the place of the one before.  Bad rows are quarantined with the
    reason.  A file that fails never stops the others.  Exits with 1 if one was rejected.
    """
    from hfthot_platform.core.errors import BadRequestError

    if sum((bool(paths), landing, feed is not None)) != 1:
        raise BadRequestError(
            "give exactly one of paths, --landing and --feed",
            where="ingest",
            hint="For example `hfthot ingest trades.csv.zip` or `hfthot ingest --feed simulated --table market.trades "
            "--from 2024-01-01`.",
        )
    if feed is None and (table is not None or first is not None or end is not None):
        raise BadRequestError("--table, --from and --to need --feed", where="ingest")
    if feed is not None:
        if table is None or first is None:
            raise BadRequestError("--feed needs --table and --from", where="ingest")
        last = end or first + ONE_DAY
        _from_feed(context, feed, table, (first.date(), last.date()), as_json=as_json)
        return
    outcomes = _from_landing(context) if landing else _from_files(context, paths or [])
    _tell(outcomes, as_json=as_json)
    if any(outcome.status in {"rejected", "failed"} for outcome in outcomes):
        raise typer.Exit(1)


def withdraw(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An ingested file: its path, its name, or the first eight digits of its content hash.",
            show_default=False,
        ),
    ],
    *,
    as_json: _Json = False,
) -> None:
    """Take the rows of an ingested file out of its table again, as a new version: nothing before it is lost.

    What they had taken the place of comes back, as far as the table's history goes.  Tables that are computed from
    the days follow as soon as Dagster runs.  The file can be ingested again.
    """
    from hfthot_platform.services.ingest import withdraw_file

    outcome = withdraw_file(opened_lake(context), file, stamp=new_stamp("withdraw"))
    if as_json:
        print_json(_facts(outcome))
        return
    days = f", {counted(len(outcome.days), 'day')} changed" if outcome.days else ""
    back = f", {outcome.rows_restored:,} that they had replaced are restored" if outcome.rows_restored else ""
    typer.echo(f"{outcome.table}: {counted(outcome.rows_withdrawn, 'row')} of {outcome.name} withdrawn{back}{days}")
    if outcome.detail:
        note(outcome.detail)


_From = Annotated[datetime, typer.Argument(metavar="FROM", formats=["%Y-%m-%d"], help="First day.", show_default=False)]
_To = Annotated[
    datetime, typer.Argument(metavar="TO", formats=["%Y-%m-%d"], help="End day, exclusive.", show_default=False)
]


def derive(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="market.bars_1m, market.bars or market.closes.")],
    first: _From,
    end: _To,
    *,
    interval: Annotated[
        str | None,
        typer.Option("--interval", help="For market.bars: only this interval, such as 1w; by default the usual ones."),
    ] = None,
) -> None:
    """Compute a table's rows for some days from the table below it, as Dagster does; also for days before 1970.

    Vendors' rows stay.  Running it again changes nothing.
    """
    from hfthot_platform.services.derive.tables import derive_table

    commits = derive_table(
        opened_lake(context),
        table,
        (first.date(), end.date()),
        interval=interval,
        settings=context.obj.settings(),
        stamp=new_stamp("derive"),
    )
    rows = sum(commit.rows_published for commit in commits)
    typer.echo(f"{table}: {counted(rows, 'row')} of {first:%Y-%m-%d} to before {end:%Y-%m-%d}")


def gaps(
    context: typer.Context,
    table: Annotated[
        str, typer.Argument(metavar="[TABLE]", help="market.bars_1m, market.bars or market.closes.")
    ] = "market.bars",
    *,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only this symbol.")] = None,
    venue: Annotated[str | None, typer.Option("--venue", help="Only this venue.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="Only bars of this length.")] = None,
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="First day expected; by default the day of each symbol's first row."
        ),
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="End of the expected days, exclusive.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of gaps to show.")] = 50,
    as_json: _Json = False,
) -> None:
    """List the stretches in which bars or closes are missing: series, interval, from, to, how many."""
    import polars as pl

    from hfthot_platform.services.derive.tables import missing_in

    found = missing_in(
        opened_lake(context),
        table,
        symbol=symbol,
        venue=venue,
        interval=interval,
        first=first.replace(tzinfo=UTC) if first else None,
        end=end.replace(tzinfo=UTC) if end else None,
    )
    if as_json:
        print_json(found.with_columns(pl.col("start", "end").cast(pl.String)).to_dicts())
        return
    shown = found.head(limit)
    print_table(shown.columns, [[f"{value}" for value in row] for row in shown.iter_rows()])
    more = f"; the first {limit} are shown" if found.height > limit else ""
    note(f"{counted(found.height, 'gap')} in {table}, {int(found['missing'].sum()):,} intervals missing{more}")


def _from_files(context: typer.Context, paths: list[Path]) -> list[FileOutcome]:
    from hfthot_platform.services.ingest import ingest_files

    with progress_bar("ingesting") as progress:
        return ingest_files(
            opened_lake(context, new=True),
            paths,
            scratch=context.obj.settings().scratch,
            stamp=new_stamp("ingest"),
            progress=progress,
            on_unexpected=_traceback if context.obj.debug else lambda _path, _error: None,
        )


def _from_landing(context: typer.Context) -> list[FileOutcome]:
    from hfthot_platform.core.settings import ready_landing
    from hfthot_platform.services.ingest import ingest_waiting, places_not_read

    settings = context.obj.settings()
    if not isinstance(settings.landing, Path) or not settings.landing.exists():
        opened_lake(context, new=True)  # no landing folder is made in passing where there is no installation
    ready_landing(settings)
    for folder, files in places_not_read(settings).items():
        note(
            f"{counted(files, 'file')} in {folder} not read, because folders in the landing folder are ignored; "
            f"`hfthot ingest {shlex.quote(folder)}` reads them."
        )
    with progress_bar("ingesting") as progress:
        return ingest_waiting(
            opened_lake(context, new=True),
            settings,
            now=utc_now(),
            stamp=new_stamp("ingest"),
            progress=progress,
            on_unexpected=_traceback if context.obj.debug else lambda _path, _error: None,
        )


def _traceback(path: Path, error: BaseException) -> None:
    import traceback

    note(f"{path}:\n" + "".join(traceback.format_exception(error)))


def _facts(outcome: FileOutcome) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(outcome), "days": sorted(outcome.days), "query": outcome.query}


def _tell(outcomes: list[FileOutcome], *, as_json: bool) -> None:
    if as_json:
        print_json([_facts(outcome) for outcome in outcomes])
        return
    if not outcomes:
        typer.echo("No file to ingest.")
        return
    print_table(
        ("file", "status", "table", "read", "published", "duplicate", "quarantined", "reason"),
        [
            (
                outcome.name,
                outcome.status,
                outcome.table,
                *(
                    f"{n:,}"
                    for n in (
                        outcome.rows_read,
                        outcome.rows_published,
                        outcome.rows_duplicate,
                        outcome.rows_quarantined,
                    )
                ),
                outcome.detail or outcome.reason,
            )
            for outcome in outcomes
        ],
        right=("read", "published", "duplicate", "quarantined"),
        styles=lambda row: {"rejected": "red", "failed": "red", "repeated": "dim"}.get(row[1], ""),
    )
    for outcome in outcomes:
        if outcome.rows_gaps:
            note(
                f"{outcome.name}: {counted(outcome.rows_gaps, 'row')} say that nothing was traded; "
                "they are treated as gaps"
            )
        for rejection in outcome.rejections:
            note(
                f"{outcome.name}: {counted(rejection.count, 'row')} quarantined as {rejection.reason}: "
                f"{rejection.detail}"
            )
        if outcome.query:
            note(f'{outcome.name}: to see them, hfthot sql "{outcome.query}"')


def _from_feed(context: typer.Context, feed: str, table: str, days: tuple[date, date], *, as_json: bool) -> None:
    from dataclasses import asdict

    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.ingest import ingest_feed

    if days[1] <= days[0]:
        raise BadRequestError(f"--to {days[1]} is not after --from {days[0]}", where="ingest")
    settings = context.obj.settings()
    lake = opened_lake(context, new=True)
    lake.table(table)  # an unknown table is told before anything is fetched
    stamp = new_stamp("ingest")
    with progress_bar(f"fetching {table}") as progress:
        configured = context.obj.installation().feeds
        commits = ingest_feed(lake, configured, feed, table, days, settings=settings, stamp=stamp, progress=progress)
    if as_json:
        print_json([asdict(commit) for commit in commits])
        return
    read, published, duplicate, quarantined = (
        sum(getattr(commit, name) for commit in commits)
        for name in ("rows_read", "rows_published", "rows_duplicate", "rows_quarantined")
    )
    version = f", version {commits[-1].version}" if commits else ""
    typer.echo(
        f"{table}: {read:,} rows read, {published:,} published, {duplicate:,} duplicate, "
        f"{quarantined:,} quarantined{version}"
    )
