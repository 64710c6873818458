"""Commands about tables: list, describe, history, diff, check, restore, maintain."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfthot_platform.core.time import utc_now
from hfthot_platform.interfaces.cli.output import counted, note, print_json, print_table, progress_bar, size
from hfthot_platform.interfaces.cli.output import text as shown

if TYPE_CHECKING:
    from hfthot_platform.domain.contracts.model import Column
    from hfthot_platform.domain.contracts.views import SqlView, View
    from hfthot_platform.services.sql.diff import Kind
    from hfthot_platform.storage.lakehouse import Lakehouse, MaintenanceReport

__all__ = ["check", "describe", "diff", "history", "maintain", "restore", "tables"]

_Table = Annotated[str, typer.Argument(metavar="TABLE", help="A table such as market.trades.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def opened_lake(context: typer.Context, *, new: bool = False) -> Lakehouse:
    """Return the lake that the settings and the command line name, with the SQL models that are sound.

    Args:
        context: of the command.
        new: whether the command writes, so that the lake may be new where it was named by `--lake` or a whole path;
            a place that the working folder decides on may be the wrong one.

    Raises:
        LakeMissingError: there is none.
    """
    installation = context.obj.installation()
    lake: Lakehouse = installation.lake
    folder = installation.settings.lake_folder()
    if new and (context.obj.lake is not None or folder is None or folder.is_absolute()):
        lake.expect_new()
    lake.require()
    return lake


def new_stamp(what: str) -> Any:
    """Return a stamp that tells the commits of one command from all others."""
    import uuid

    from hfthot_platform.core.version import __version__
    from hfthot_platform.storage.lakehouse import Stamp

    return Stamp(run_id=f"cli-{what}-{uuid.uuid4().hex[:12]}", code_version=__version__)


def tables(
    context: typer.Context,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also the quarantines that are empty.")] = False,
    as_json: _Json = False,
) -> None:
    """List the tables with their rows, size and last event, from their logs alone."""
    from hfthot_platform.core.errors import LakehouseError

    rows = []
    for table in opened_lake(context).tables():
        problem = None
        try:
            snapshot = table.snapshot()
        except LakehouseError as error:
            snapshot, problem = None, error.what
        if snapshot is None and not problem and table.contract.namespace == "quarantine" and not every:
            continue
        row: dict[str, Any] = dict.fromkeys(("rows", "bytes", "files", "version", "committed_at", "last_event"))
        if snapshot is not None:
            row |= {
                "rows": snapshot.rows,
                "bytes": snapshot.bytes,
                "files": len(snapshot.paths),
                "version": snapshot.version,
                "committed_at": snapshot.committed_at,
                "last_event": snapshot.last_event,
            }
        rows.append({"table": table.contract.name, **row, "problem": problem})
    if as_json:
        print_json(rows)
        return
    print_table(
        ("table", "rows", "size", "files", "version", "committed", "last event"),
        [
            (
                row["table"],
                "damaged" if row["problem"] else _counted(row["rows"]),
                None if row["bytes"] is None else size(row["bytes"]),
                row["files"],
                row["version"],
                _to_second(row["committed_at"]),
                _to_second(row["last_event"]),
            )
            for row in rows
        ],
        right=("rows", "size", "files", "version"),
        styles=lambda row: "red" if row[1] == "damaged" else ("dim" if row[4] == "-" else ""),
    )
    if any(row["problem"] for row in rows):
        note("Run `hfthot doctor` to see what is damaged and what to do.")


def describe(context: typer.Context, name: _Table, *, as_json: _Json = False) -> None:
    """Show what a table is: columns, units, key, rules, layout and present size."""
    from hfthot_platform.domain.contracts.dictionary import keeping

    lake = opened_lake(context)
    if name in lake.views:
        _describe_view(lake.views[name], as_json=as_json)
        return
    table = lake.table(name)
    contract, snapshot = table.contract, table.snapshot()
    if as_json:
        print_json(
            {
                "table": contract.name,
                "description": contract.description,
                "columns": _columns(contract.columns),
                "primary_key": contract.primary_key,
                "partition_by": contract.partition_by,
                "sort_by": contract.sort_by,
                "rules": [{"name": rule.name, "says": rule.says} for rule in contract.rules],
                "schema_version": contract.schema_version,
                "history_days": contract.history_days,
                "retention_days": contract.retention_days,
                "max_rejected_share": contract.max_rejected_share,
                "version": snapshot and snapshot.version,
                "rows": snapshot and snapshot.rows,
                "bytes": snapshot and snapshot.bytes,
                "files": snapshot and len(snapshot.paths),
                "first_event": snapshot and snapshot.first_event,
                "last_event": snapshot and snapshot.last_event,
            }
        )
        return
    typer.echo(f"{contract.name}: {contract.description}\n")
    print_table(_COLUMN_TITLES, _column_rows(contract.columns, contract.primary_key))
    typer.echo(f"\nKey: {', '.join(contract.primary_key)}")
    typer.echo(f"Layout: {keeping(contract).replace('`', '')}")
    if snapshot is None:
        typer.echo("Now: nothing has been written yet")
    else:
        typer.echo(
            f"Now: version {snapshot.version}, {_counted(snapshot.rows)} rows, {size(snapshot.bytes)} "
            f"in {counted(len(snapshot.paths), 'file')}"
        )
    typer.echo(f"\nRules (a batch with more than {contract.max_rejected_share:.0%} of rejected rows is not published):")
    for rule in contract.rules:
        typer.echo(f"  {rule.says}")


def _describe_view(view: View | SqlView, *, as_json: bool) -> None:
    from hfthot_platform.domain.contracts.views import View

    of = view.of.name if isinstance(view, View) else None
    if as_json:
        facts = {"view": view.name, "of": of, "description": view.description}
        print_json({**facts, "columns": _columns(view.declared())})
        return
    typer.echo(f"{view.name}: {view.description} An SQL view{f' of {of}' if of else ''}.\n")
    print_table(_COLUMN_TITLES, _column_rows(view.declared(), view.of.primary_key if isinstance(view, View) else ()))


_COLUMN_TITLES = ("column", "type", "unit", "key", "empty", "meaning")


def _columns(columns: Iterable[Column]) -> list[dict[str, Any]]:
    from hfthot_platform.domain.contracts.dictionary import TYPE_NAMES

    return [
        {
            "name": column.name,
            "type": TYPE_NAMES[column.dtype],
            "unit": column.unit,
            "nullable": column.nullable,
            "personal": column.personal,
            "description": column.description,
        }
        for column in columns
    ]


def _column_rows(columns: Iterable[Column], key: Iterable[str]) -> list[tuple[object, ...]]:
    keys = set(key)
    return [
        (
            column["name"],
            column["type"],
            column["unit"],
            "key" if column["name"] in keys else "",
            "may be" if column["nullable"] else "",
            column["description"],
        )
        for column in _columns(columns)
    ]


def history(
    context: typer.Context,
    name: _Table,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many, newest first.")] = 20,
    as_json: _Json = False,
) -> None:
    """Show a table's versions: when, by which run, how many rows, and whether they can still be read."""
    table = opened_lake(context).table(name)
    versions = table.versions()
    readable = {commit.version for commit in table.readable_versions()}
    newest = versions[::-1][:limit]
    if as_json:
        print_json([{**asdict(commit), "readable": commit.version in readable} for commit in newest])
        return
    if not versions:
        typer.echo(f"{name}: nothing has been written yet")
        return
    print_table(
        ("version", "time", "operation", "rows", "readable", "run", "asset", "partition"),
        [
            (
                commit.version,
                commit.timestamp,
                commit.operation,
                _counted(commit.rows),
                commit.version in readable,
                commit.run_id or None,
                commit.asset or None,
                commit.partition or None,
            )
            for commit in newest
        ],
        right=("version", "rows"),
        styles=lambda row: "dim" if row[4] == "no" else "",
    )
    if len(versions) > limit:
        note(f"... {counted(len(versions) - limit, 'older version')} (--limit shows more)")


def diff(
    context: typer.Context,
    name: _Table,
    before: Annotated[int, typer.Argument(min=0, metavar="V1", help="The version to start from.")],
    after: Annotated[int, typer.Argument(min=0, metavar="V2", help="The version to compare with it.")],
    *,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Pair rows by these columns instead of the primary key.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Show at most this many rows of each kind.")] = 10,
    as_json: _Json = False,
) -> None:
    """Show which rows and values changed between two versions; what both have in common is not even read."""
    from hfthot_platform.services.sql.diff import diff as compare

    found = compare(opened_lake(context), name, before, after, key=key, limits=context.obj.installation().limits)
    kinds: dict[Kind, int] = {"added": found.added, "removed": found.removed, "changed": found.changed}
    frames = {kind: found.rows(kind, rows) for kind, count in kinds.items() if count and rows}
    if as_json:
        print_json(
            {
                "table": name,
                "before": before,
                "after": after,
                "key": found.key,
                "added": found.added,
                "removed": found.removed,
                "changed": found.changed,
                "columns": found.columns,
                "files_read": found.files_read,
                "files_shared": found.files_shared,
                "rows": {kind: frame.to_dicts() for kind, frame in frames.items()},
            }
        )
        return
    if not any(kinds.values()):
        typer.echo(f"{name}: no difference between versions {before} and {after}")
        return
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    typer.echo(f"{name}, version {before} to {after}: {counts}")
    if found.columns:
        print_table(("column", "changed"), list(found.columns.items()), right=("changed",))
    key_shown = [column for column in found.key if all(column in frame.columns for frame in frames.values())]
    table = [
        (_MARKS[kind], *(row[column] for column in key_shown), _values(kind, row, found.columns, key_shown))
        for kind, frame in frames.items()
        for row in frame.to_dicts()
    ]
    if table:
        print_table(
            ("", *key_shown, "values"),
            table,
            styles=lambda row: {"+": "green", "-": "red"}.get(row[0], "yellow"),
        )
    if sum(kinds.values()) > len(table):
        note(f"... {counted(sum(kinds.values()) - len(table), 'more row')} (--rows shows more)")


_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def _values(kind: str, row: dict[str, Any], changed: Iterable[str], key: Sequence[str]) -> str:
    """Return the values of a row in one line: all of a new or lost one, the different ones of a changed one."""
    if kind != "changed":
        return ", ".join(f"{name}: {shown(value)}" for name, value in row.items() if name not in key)
    pairs = [(name, row[f"{name}_before"], row[f"{name}_after"]) for name in changed if f"{name}_before" in row]
    # NaN differs from NaN, which is not a change.
    different = [(name, old, new) for name, old, new in pairs if old != new and not (_is_nan(old) and _is_nan(new))]
    said = ", ".join(f"{name}: {shown(old)} → {shown(new)}" for name, old, new in different)
    return said or "(personal values)"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def check(
    context: typer.Context,
    name: _Table,
    *,
    first: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day to check.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="End day, exclusive.")] = None,
    as_json: _Json = False,
) -> None:
    """Check a table as it stands: its files, and its rows against the contract.  Exits with 1 on an error."""
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.quality import run_checks

    if (first is None) != (end is None):
        raise BadRequestError("give both --from and --to, or neither", where="check")
    lake = opened_lake(context)
    span = None if first is None or end is None else (first.date(), end.date())
    problems = lake.table(name).problems()
    found: list[dict[str, Any]] = [
        {
            "check": "files",
            "passed": not problems,
            "severity": "error",
            "description": "; ".join(problems) or "Every file of the current version exists and is readable.",
        }
    ]
    if not problems:
        with progress_bar(f"checking {name}"):
            for result in run_checks(lake, name, span, utc_now()):
                outcome = asdict(result)
                found.append({"check": outcome.pop("name"), **outcome})
    failed = [outcome for outcome in found if not outcome["passed"] and outcome["severity"] == "error"]
    if as_json:
        print_json(found)
    else:
        print_table(
            ("check", "result", "found"),
            [
                (outcome["check"], "passed" if outcome["passed"] else outcome["severity"], outcome["description"])
                for outcome in found
            ],
            styles=lambda row: {"error": "red", "warn": "yellow"}.get(row[1], ""),
        )
    if failed:
        raise typer.Exit(1)


def restore(
    context: typer.Context,
    name: _Table,
    version: Annotated[int, typer.Argument(min=0, metavar="VERSION", help="A readable version from its history.")],
) -> None:
    """Make an older version current again, as a new version: nothing in between is lost.

    A user table follows the operational store: it is refused unless it is damaged; see `hfthot accounts restore`.
    """
    from hfthot_platform.domain.contracts.accounts import USER_TABLES

    commit = opened_lake(context).table(name).restore(version, stamp=new_stamp("restore"))
    typer.echo(f"{name}: version {version} is current again, as version {commit.version}")
    if any(table.name == name for table in USER_TABLES):
        note(
            "Now run `hfthot accounts restore --accept-loss --rewrite`: the store has rows that this version "
            "does not have."
        )


def maintain(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables; by default all that have data.")
    ] = None,
    *,
    history_days: Annotated[
        float | None,
        typer.Option(min=0, help="Days for which old versions stay readable, instead of the value in the contract."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove rows past their retention even if they are a large part of a table.")
    ] = False,
    clock_right: Annotated[
        bool, typer.Option("--clock-right", help="Confirm that the clock is right although the lake was idle.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Compact, checkpoint, vacuum and clean up, and report sizes before and after.

    Nothing is done where the clock leapt more than 14 days ahead of all that was committed, unless `--clock-right` says
    that it is right, or with `--dry-run`.

    Rows leave when they were written longer ago than their table's retention.  Where that is more than a quarter of a
    table, it asks first; without a terminal nothing of that table is removed, and the command exits with 1.
    """
    from hfthot_platform.core.errors import ClockError
    from hfthot_platform.storage.lakehouse import accept_clock, check_clock
    from hfthot_platform.storage.lakehouse import maintain as run
    from hfthot_platform.storage.lakehouse.maintenance import MOST_EXPIRED

    def once(name: str, most_expired: float) -> MaintenanceReport:
        return run(lake, name, history_days=history_days, most_expired=most_expired, dry_run=dry_run, stamp=stamp)

    lake = opened_lake(context)
    chosen = [lake.table(name).contract.name for name in names or ()]
    chosen = chosen or [table.contract.name for table in lake.tables() if table.version() is not None]
    stamp = new_stamp("maintain")
    if clock_right and not dry_run:
        accept_clock(lake, stamp=stamp)
    try:
        check_clock(lake)
    except ClockError as error:
        if not dry_run:
            raise
        note(f"The list below shows what would be removed if the clock were right. {error}")
    reports = []
    with progress_bar("maintaining") as progress:
        for done, name in enumerate(chosen, 1):
            reports.append(once(name, 1.0 if yes else MOST_EXPIRED))
            progress(done, len(chosen), "tables")
    for at, report in enumerate(reports):
        if report.rows_withheld and not dry_run and sys.stdin.isatty() and _agreed(report):
            reports[at] = once(report.table, 1.0)
    if as_json:
        print_json([asdict(report) for report in reports])
    elif reports:
        _print_reports(reports)
    else:
        typer.echo("Nothing has been written yet, so there is nothing to maintain.")
    withheld = [report for report in reports if report.rows_withheld]
    for report in withheld:
        note(
            f"{report.table}: {counted(report.rows_withheld, 'row')} past the retention were kept, because they are "
            f"more than {MOST_EXPIRED:.0%} of the table. Check the machine's clock; `hfthot maintain "
            f"{report.table} --yes` removes them."
        )
    if withheld and not dry_run:
        raise typer.Exit(1)


def _agreed(report: MaintenanceReport) -> bool:
    what = f"{report.table}: {counted(report.rows_withheld, 'row')} are past the retention, a large part of the table."
    return typer.confirm(f"{what} Remove them?", err=True)


def _print_reports(reports: Sequence[MaintenanceReport]) -> None:
    columns = (
        *("table", "size before", "size after", "files before", "files after", "rows expired", "withheld", "compacted"),
        *("vacuumed", "log entries", "leftovers", "readable from", "seconds"),
    )
    print_table(
        columns,
        [
            (
                report.table,
                size(report.bytes_before),
                size(report.bytes_after),
                report.files_before,
                report.files_after,
                report.rows_expired,
                report.rows_withheld,
                report.files_compacted,
                report.files_vacuumed,
                report.log_entries_removed,
                report.leftovers_removed,
                report.oldest_readable,
                round(report.seconds, 2),
            )
            for report in reports
        ],
        right=columns[1:],
    )


def _to_second(time: Any) -> Any:
    return time.replace(microsecond=0) if isinstance(time, datetime) else time


def _counted(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"
