"""`hfthot sql`: one SELECT, or the SQL models: compile, run, test, docs."""

from __future__ import annotations

import sys
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hfthot_platform.core.time import ONE_DAY, utc_from_iso
from hfthot_platform.interfaces.cli.output import as_json as to_json
from hfthot_platform.interfaces.cli.output import counted, note, print_json, print_table, progress_bar
from hfthot_platform.interfaces.cli.tables import new_stamp, opened_lake

if TYPE_CHECKING:
    import polars as pl

    from hfthot_platform.services.sql import SqlStream
    from hfthot_platform.services.sql.models import Models, SqlModel, TestOutcome
    from hfthot_platform.services.sql.models.runner import ModelRun
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["sql"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Models, by default all; +MODEL adds all that it reads, MODEL+ all that read it.",
    ),
]


class _QueryByDefault(TyperGroup):
    """Takes any argument that is not the name of a command as a statement: `hfthot sql "SELECT 1"`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["query", *args]
        return super().parse_args(ctx, args)


sql = typer.Typer(cls=_QueryByDefault, add_completion=False, pretty_exceptions_enable=False)


@sql.callback()
def _sql() -> None:
    """Run one SELECT (`hfthot sql "FROM market.ohlcv"`), or work on the SQL models.

    `hfthot sql query --help` lists the options of a SELECT.
    """


class Format(StrEnum):
    """How the rows of a query are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@sql.command()
def query(
    context: typer.Context,
    statement: Annotated[
        str | None, typer.Argument(metavar="[SELECT ...]", help="One SELECT; read from stdin if it is left out or -.")
    ] = None,
    *,
    at_version: Annotated[
        list[str] | None,
        typer.Option(
            "--at-version",
            "--version-of",
            metavar="[TABLE=]N",
            help="Read this version; the table can be omitted if the statement names only one.",
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="Read all other tables as they were at this time, such as 2026-01-15T14:00 (UTC)."),
    ] = None,
    kind: Annotated[
        Format | None, typer.Option("--format", help="By default from the extension of --output, otherwise a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Number of rows to show in a table.")] = 40,
    spreadsheet: Annotated[
        bool,
        typer.Option(
            "--spreadsheet", help="CSV for spreadsheets: put an apostrophe before text that would run as a formula."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Run one SELECT over any version of the tables (DuckDB's dialect, read-only, times in UTC).

    CSV has the exact values, for programs. Use --spreadsheet for files that a person opens in a spreadsheet.
    """
    from hfthot_platform.services.sql import opened

    form = Format.JSON if as_json else kind or _format_of(output)
    if spreadsheet and form is not Format.CSV:
        from hfthot_platform.core.errors import BadRequestError

        raise BadRequestError("--spreadsheet needs CSV", where="--spreadsheet", hint="Add --format csv.")
    text = _statement(statement)
    lake, time = opened_lake(context), _time(as_of)
    versions = dict(_version(given, text, lake) for given in at_version or ())
    with opened(lake, text, versions=versions, as_of=time, limits=context.obj.installation().limits) as stream:
        if output is not None:
            rows = _to_file(stream, form, output, spreadsheet=spreadsheet)
            note(f"{output}: {counted(rows, 'row')}")
        elif form is Format.TABLE:
            _show(stream, limit)
        elif form is Format.PARQUET:
            from hfthot_platform.core.errors import BadRequestError

            raise BadRequestError("Parquet output needs a file", where="sql", hint="Add --output result.parquet.")
        else:
            _write(stream, form, sys.stdout, spreadsheet=spreadsheet)


def _format_of(output: Path | None) -> Format:
    from hfthot_platform.core.errors import BadRequestError, nearest

    if output is None:
        return Format.TABLE
    known = {".csv": Format.CSV, ".json": Format.JSON, ".parquet": Format.PARQUET, ".txt": Format.TABLE}
    if output.suffix not in known:
        raise BadRequestError(
            f"the extension {output.suffix!r} is not a known format",
            where=f"--output {output}",
            hint=nearest(output.suffix, known) or "Give --format csv, json, parquet or table.",
        )
    return known[output.suffix]


def _statement(text: str | None) -> str:
    from hfthot_platform.core.errors import BadRequestError

    if text is None or text == "-":
        if text is None and sys.stdin.isatty():
            raise BadRequestError(
                "no statement is given", where="sql", hint='For example `hfthot sql "FROM market.ohlcv"`.'
            )
        text = sys.stdin.read()
    return text


def _version(given: str, statement: str, lake: Lakehouse) -> tuple[str, int]:
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.sql.relations import known_names
    from hfthot_platform.services.sql.statement import DISCOVERY, parse

    name, equals, version = given.rpartition("=")
    if not version.isdecimal() or bool(name) != bool(equals):
        raise BadRequestError(
            f"{given!r} is neither N nor TABLE=N", where="--at-version", hint="For example market.trades=5, or 5."
        )
    if not name:
        named = sorted(
            {reference.name for reference in parse(statement, known_names(lake)).references} - set(DISCOVERY)
        )
        if len(named) != 1:
            raise BadRequestError(
                f"version {version} was requested, but the statement names {', '.join(named) or 'no table'}",
                where="--at-version",
                hint="Write TABLE=N, once per table.",
            )
        name = named[0]
    return name, int(version)


def _time(given: str | None) -> datetime | None:
    from hfthot_platform.core.errors import BadRequestError

    if given is None:
        return None
    try:
        return utc_from_iso(given)
    except ValueError:
        raise BadRequestError(f"{given!r} is not a time", where="--as-of", hint="Write 2026-01-15T14:00.") from None


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


def _to_file(stream: SqlStream, form: Format, output: Path, *, spreadsheet: bool) -> int:
    """Write all rows; the file appears under its name only when it is complete."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        if form is Format.PARQUET:
            rows = _write_parquet(stream, partial)
        else:
            with partial.open("w", encoding="utf-8", newline="") as handle:
                rows = _write(stream, form, handle, spreadsheet=spreadsheet)
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


def _write(stream: SqlStream, form: Format, handle: Any, *, spreadsheet: bool) -> int:
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
            flat = _flat(batch)
            if spreadsheet:
                from hfthot_platform.services.privacy.export import neutralised

                flat = neutralised(flat)
            handle.write(flat.write_csv(include_header=number == 0))
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
        pl.Series(name, [None if value is None else json.dumps(to_json(value)) for value in batch[name].to_list()])
        for name in nested
    ]
    return batch.with_columns(text.cast(pl.String) for text in texts)


# -- models -----------------------------------------------------------------------------------------------------


@sql.command("compile")
def compile_(context: typer.Context, names: _Names = None, *, as_json: _Json = False) -> None:
    """Check the model files, and show the SQL that runs, what it reads, and its columns.

    Exits with 2 if a file has a mistake; each is listed with its file, its line and a suggestion.
    """
    models = _models(context).require_sound()
    chosen = models.select(names or ())
    if as_json:
        print_json([_described(model) for model in chosen])
        return
    if not names:
        print_table(
            ("model", "materialized", "columns", "tests", "reads"),
            [
                (model.name, model.materialized, len(model.columns), len(model.tests), ", ".join(model.depends_on))
                for model in chosen
            ],
            right=("columns", "tests"),
        )
        return
    for number, model in enumerate(chosen):
        if number:
            typer.echo()
        _show_model(model)


def _show_model(model: SqlModel) -> None:
    from hfthot_platform.domain.contracts.dictionary import TYPE_NAMES

    typer.echo(f"{model.name} ({model.materialized}), {model.file}: {model.description}")
    typer.echo(f"Reads: {', '.join(model.depends_on) or 'no table'}")
    typer.echo(f"Parameters: {', '.join(sorted(model.parameters)) or 'none'}\n")
    print_table(
        ("column", "type", "unit", "empty", "made of", "meaning"),
        [
            (
                column.name,
                TYPE_NAMES[column.dtype],
                column.unit,
                "may be" if column.nullable else "",
                ", ".join(f"{table}.{name}" for table, name in model.lineage.get(column.name, ())),
                column.description,
            )
            for column in model.published_columns
        ],
    )
    typer.echo(f"\n{model.sql}")


def _described(model: SqlModel) -> dict[str, Any]:
    from hfthot_platform.domain.contracts.dictionary import TYPE_NAMES

    return {
        "model": model.name,
        "file": model.file,
        "materialized": model.materialized,
        "description": model.description,
        "owner": model.header.owner,
        "depends_on": model.depends_on,
        "parameters": sorted(model.parameters),
        "columns": [
            {
                "name": column.name,
                "type": TYPE_NAMES[column.dtype],
                "unit": column.unit,
                "nullable": column.nullable,
                "personal": column.personal,
                "description": column.description,
                "made_of": [f"{table}.{name}" for table, name in model.lineage.get(column.name, ())],
            }
            for column in model.published_columns
        ],
        "tests": [{"name": test.name, "says": test.says, "gate": test.gate} for test in model.tests],
        "sql": model.sql,
    }


@sql.command()
def run(
    context: typer.Context,
    names: _Names = None,
    *,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of incremental models.")
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="End day, exclusive; by default one day."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All days for which the inputs have data.")] = False,
    as_json: _Json = False,
) -> None:
    """Compute models, check them, and publish those that pass.  Exits with 1 if one did not.

    Models that are disabled by a mistake in a file are skipped and listed.
    """
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.sql.models.runner import run_models

    if first is None and end is not None:
        raise BadRequestError("--to needs --from", where="sql run")
    days = None if first is None else (first.date(), _end(first.date(), end))
    models = _models(context)
    lake = opened_lake(context)
    with progress_bar("running") as progress:
        runs = run_models(
            lake,
            models,
            names or (),
            days=days,
            full=full,
            stamp=new_stamp("sql"),
            limits=context.obj.installation().limits,
            progress=progress,
        )
    if as_json:
        print_json([_outcome_of(run) for run in runs])
    else:
        _tell_runs(runs)
    if _tell_disabled(models, names) or any(run.status in {"failed", "skipped"} for run in runs):
        raise typer.Exit(1)


def _end(first: date, end: datetime | None) -> date:
    from hfthot_platform.core.errors import BadRequestError

    last = first + ONE_DAY if end is None else end.date()
    if last <= first:
        raise BadRequestError(f"--to {last} is not after --from {first}", where="sql run")
    return last


def _tell_runs(runs: list[ModelRun]) -> None:
    print_table(
        ("model", "status", "rows", "version", "tests", "seconds", "why"),
        [
            (
                run.model.name,
                run.status,
                None if run.commit is None else f"{run.commit.rows_published:,}",
                None if run.commit is None else run.commit.version,
                f"{sum(outcome.passed for outcome in run.outcomes)}/{len(run.outcomes)}",
                f"{run.seconds:.2f}",
                run.reason or "; ".join(_failed(run.outcomes)),
            )
            for run in runs
        ],
        right=("rows", "version", "tests", "seconds"),
        styles=lambda row: {"failed": "red", "skipped": "yellow", "view": "dim"}.get(row[1], ""),
    )


def _failed(outcomes: tuple[TestOutcome, ...]) -> list[str]:
    return [f"{outcome.test.says}: {outcome.description}" for outcome in outcomes if not outcome.passed]


def _outcome_of(run: ModelRun) -> dict[str, Any]:
    commit = run.commit
    return {
        "model": run.model.name,
        "status": run.status,
        "days": run.days,
        "version": commit and commit.version,
        "rows": commit and commit.rows_published,
        "quarantined": commit and commit.rows_quarantined,
        "tests": [_outcome(outcome) for outcome in run.outcomes],
        "reason": run.reason,
        "seconds": run.seconds,
    }


def _outcome(outcome: TestOutcome) -> dict[str, Any]:
    return {
        "test": outcome.test.name,
        "says": outcome.test.says,
        "passed": outcome.passed,
        "failing": outcome.failing,
        "rows": outcome.rows,
        "description": outcome.description,
    }


@sql.command("test")
def judge_tests(context: typer.Context, names: _Names = None, *, as_json: _Json = False) -> None:
    """Run the tests of models on the published data.  Exits with 1 if one fails."""
    from hfthot_platform.services.sql.models.runner import judge

    models = _models(context)
    lake, limits = opened_lake(context), context.obj.installation().limits
    chosen = models.select(names or ())
    found: list[tuple[SqlModel, TestOutcome]] = []
    with progress_bar("testing") as progress:
        for done, model in enumerate(chosen, 1):
            found += [(model, outcome) for outcome in judge(lake, model, limits=limits)]
            progress(done, len(chosen), "models")
    if as_json:
        print_json([{"model": model.name, **_outcome(outcome)} for model, outcome in found])
    else:
        print_table(
            ("model", "test", "result", "found"),
            [
                (model.name, outcome.test.says, "passed" if outcome.passed else "failed", outcome.description)
                for model, outcome in found
            ],
            styles=lambda row: "red" if row[2] == "failed" else "",
        )
    if _tell_disabled(models, names) or not all(outcome.passed for _, outcome in found):
        raise typer.Exit(1)


@sql.command()
def docs(
    context: typer.Context,
    names: _Names = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pages.")] = Path("site"),
) -> None:
    """Write a page per model, in HTML and Markdown: columns, lineage, tests, and the SQL."""
    from hfthot_platform.services.sql.models.docs import write_docs

    models = _models(context)
    pages = write_docs(models, output, select=names or ())
    note(f"{output / 'index.html'}: {counted(pages, 'model')}")
    if _tell_disabled(models, names):
        raise typer.Exit(1)


def _models(context: typer.Context) -> Models:
    from hfthot_platform.core.errors import ConfigError

    models: Models = context.obj.installation().models
    if not models.folder.is_dir():
        raise ConfigError(
            f"there is no folder {str(models.folder.absolute())!r}",
            where="setting 'sql_models'",
            hint="Correct HFTHOT_SQL_MODELS, or unset it.",
        )
    return models


def _tell_disabled(models: Models, names: list[str] | None) -> bool:
    """Name the files that keep models out of a command on all models; return whether there are any."""
    if names:
        # Asking for a disabled model by name is an error already.
        return False
    for what in models.faults.values():
        note(f"disabled: {what}")
    return bool(models.mistakes)
