"""Commands that bring data in or ask questions of it: demo, ingest, sql."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfthot_platform.cli.output import as_json as to_json
from hfthot_platform.cli.output import counted, note, print_json, print_table, progress_bar
from hfthot_platform.cli.tables import new_stamp, opened_lake

if TYPE_CHECKING:
    import polars as pl

    from hfthot_platform.ingest import FileOutcome
    from hfthot_platform.sql import SqlStream

__all__ = ["demo", "ingest", "sql"]

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
    lake = opened_lake(context)
    with progress_bar("ingesting") as progress:
        return ingest_files(lake, paths, stamp=new_stamp("ingest"), progress=progress)


def _from_landing(context: typer.Context) -> list[FileOutcome]:
    from hfthot_platform.ingest import ingest_landing

    settings = context.obj.settings()
    with progress_bar("ingesting") as progress:
        return ingest_landing(
            opened_lake(context),
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
    lake = opened_lake(context)
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


class Format(StrEnum):
    """How the rows of a query are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def sql(
    context: typer.Context,
    statement: Annotated[
        str | None, typer.Argument(metavar="[SELECT ...]", help="One SELECT; read from stdin if it is left out or -.")
    ] = None,
    *,
    version_of: Annotated[
        list[str] | None, typer.Option("--version-of", metavar="TABLE=N", help="Read this version of a table.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="Read all other tables as they were at this time, such as 2026-01-15T14:00 (UTC)."),
    ] = None,
    kind: Annotated[
        Format | None, typer.Option("--format", help="By default from the ending of --output, else a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Rows to show of a table.")] = 40,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Answer one SELECT over any version of the tables (DuckDB's dialect, read-only, times in UTC)."""
    from hfthot_platform.sql import Limits, opened

    form = Format.JSON if as_json else kind or _format_of(output)
    text = _statement(statement)
    versions = dict(map(_version_of, version_of or ()))
    settings = context.obj.settings()
    limits = Limits(settings.duckdb_memory, settings.duckdb_threads, settings.scratch)
    lake, time = opened_lake(context), _time(as_of)
    with opened(lake, text, versions=versions, as_of=time, limits=limits) as stream:
        if output is not None:
            rows = _to_file(stream, form, output)
            note(f"{output}: {counted(rows, 'row')}")
        elif form is Format.TABLE:
            _show(stream, limit)
        elif form is Format.PARQUET:
            from hfthot_platform.errors import BadRequestError

            raise BadRequestError("Parquet goes to a file", where="sql", hint="Add --output result.parquet.")
        else:
            _write(stream, form, sys.stdout)


def _format_of(output: Path | None) -> Format:
    from hfthot_platform.errors import BadRequestError, nearest

    if output is None:
        return Format.TABLE
    known = {".csv": Format.CSV, ".json": Format.JSON, ".parquet": Format.PARQUET, ".txt": Format.TABLE}
    if output.suffix not in known:
        raise BadRequestError(
            f"the ending {output.suffix!r} says no format",
            where=f"--output {output}",
            hint=nearest(output.suffix, known) or "Give --format csv, json, parquet or table.",
        )
    return known[output.suffix]


def _statement(text: str | None) -> str:
    from hfthot_platform.errors import BadRequestError

    if text is None or text == "-":
        if text is None and sys.stdin.isatty():
            raise BadRequestError("no statement", where="sql", hint='For example `hfthot sql "FROM market.ohlcv"`.')
        text = sys.stdin.read()
    return text


def _version_of(given: str) -> tuple[str, int]:
    from hfthot_platform.errors import BadRequestError

    name, _, version = given.partition("=")
    if not version.isdecimal():
        raise BadRequestError(
            f"{given!r} is not TABLE=N", where="--version-of", hint="For example --version-of market.trades=5."
        )
    return name, int(version)


def _time(given: str | None) -> datetime | None:
    from hfthot_platform.errors import BadRequestError

    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given)
    except ValueError:
        raise BadRequestError(f"{given!r} is no time", where="--as-of", hint="Write 2026-01-15T14:00.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _show(stream: SqlStream, limit: int) -> None:
    shown: list[tuple[Any, ...]] = []
    total = 0
    right: list[str] = []
    for batch in stream.batches():
        right = [name for name, dtype in batch.schema.items() if dtype.is_numeric()]
        shown += batch.head(limit - len(shown)).rows()
        total += batch.height
    if stream.columns == ["explain_key", "explain_value"]:
        typer.echo("\n".join(str(row[1]) for row in shown))
        return
    print_table(stream.columns, shown, right=right)
    if total > len(shown):
        typer.echo(f"... {counted(total - len(shown), 'more row')} (--limit shows more, --output writes all)")
    read = ", ".join(f"{name} {'empty' if v < 0 else f'version {v}'}" for name, v in stream.tables.items())
    note(counted(total, "row") + (f" from {read}" if read else ""))


def _to_file(stream: SqlStream, form: Format, output: Path) -> int:
    """Write all rows; the file appears under its name only when it is complete."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        if form is Format.PARQUET:
            rows = _write_parquet(stream, partial)
        else:
            with partial.open("w", encoding="utf-8", newline="") as handle:
                rows = _write(stream, form, handle)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _write_parquet(stream: SqlStream, path: Path) -> int:
    import pyarrow.parquet as pq

    rows, writer = 0, None
    try:
        for batch in stream.batches():
            table = batch.to_arrow()
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            if table.num_rows:
                writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows


def _write(stream: SqlStream, form: Format, handle: Any) -> int:
    rows = 0
    if form is Format.TABLE:
        import polars as pl

        frame = pl.concat(list(stream.batches()))
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=-1, fmt_str_lengths=10_000):
            handle.write(f"{frame}\n")
        return frame.height
    if form is Format.JSON:
        handle.write("[")
    for number, batch in enumerate(stream.batches()):
        if form is Format.CSV:
            handle.write(_flat(batch).write_csv(include_header=number == 0))
        else:
            _write_json(batch, handle, first=rows == 0)
        rows += batch.height
    if form is Format.JSON:
        handle.write("\n]\n" if rows else "]\n")
    return rows


def _write_json(batch: pl.DataFrame, handle: Any, *, first: bool) -> None:
    import json

    for row in batch.iter_rows(named=True):
        handle.write("\n  " if first else ",\n  ")
        handle.write(json.dumps(to_json(row), ensure_ascii=False))
        first = False


def _flat(batch: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with lists and structures as JSON text, because CSV has only text."""
    import json

    import polars as pl

    nested = [name for name, dtype in batch.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(name, [None if each is None else json.dumps(to_json(each)) for each in batch[name].to_list()])
        for name in nested
    ]
    return batch.with_columns(each.cast(pl.String) for each in texts)
