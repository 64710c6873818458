"""Running models: compute, judge, publish, as every table of the lake is written.

A run computes the rows of a model with the trusted engine, judges them by the model's tests and by its contract,
and only then replaces the table or its days.  The commit's stamp names the versions that were read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Literal

import polars as pl

from hfthot_platform.core.errors import BadRequestError, HfthotError
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.domain.contracts.views import View
from hfthot_platform.services.sql.engine import Connect, Limits, query
from hfthot_platform.services.sql.models.checks import ModelTest, TestOutcome, evaluate, over_rows
from hfthot_platform.services.sql.models.model import Models, SqlModel
from hfthot_platform.services.sql.relations import listed
from hfthot_platform.storage.lakehouse import Audited, Commit, Lakehouse, Stamp

__all__ = [
    "ComputedRows",
    "ModelRun",
    "compute",
    "inputs_of",
    "judge",
    "publish",
    "run_models",
    "span_of",
    "stamped",
]

Status = Literal["published", "unchanged", "view", "empty", "failed", "skipped"]


@dataclass(frozen=True)
class ComputedRows:
    """The rows of a run, judged and not yet published."""

    model: SqlModel
    #: The days that they replace; None is the whole table.
    days: Days | None
    audited: Audited
    #: Outcomes of the tests that gate publication.
    gates: tuple[TestOutcome, ...]
    #: Versions of the tables that were read.
    inputs: dict[str, int]
    seconds: float

    @property
    def publishable(self) -> bool:
        """Return whether every gate and the contract let the rows out."""
        return self.audited.publishable and all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class ModelRun:
    """What became of one model in a run."""

    model: SqlModel
    status: Status
    days: Days | None = None
    commit: Commit | None = None
    #: Of the tests that were judged: the gates, and after a publication the others.
    outcomes: tuple[TestOutcome, ...] = ()
    #: Why it failed or was skipped.
    reason: str = ""
    seconds: float = 0.0


def compute(
    lake: Lakehouse,
    model: SqlModel,
    days: Days | None,
    *,
    limits: Limits | None = None,
    connect: Connect | None = None,
    whole: bool = False,
) -> ComputedRows:
    """Compute the rows of a model and judge them; nothing is written.

    Args:
        lake: the lake, opened with the models.
        model: a table or an incremental model.
        days: for an incremental model, the days from a first to before a second one.
        limits: memory, threads and spill folder of the statement.
        connect: gives the database to use instead, see `hfthot_platform.services.sql.opened`.
        whole: whether the days stand for the whole table, which the rows then replace.

    Raises:
        BadRequestError: a view, or an incremental model without days.
        SqlError: the statement failed; the message says why.
    """
    if model.contract is None:
        raise BadRequestError("a view stores nothing, so there is nothing to run", where=model.name)
    if (model.materialized == "incremental") != (days is not None):
        hint = "Give --from and --to, or --full." if days is None else "Omit the days."
        raise BadRequestError(
            f"the model is computed {'by days' if days is None else 'as a whole'}", where=model.name, hint=hint
        )
    started = time.perf_counter()
    result = query(lake, model.sql, params=model.values(days), limits=limits, connect=connect)
    # A bound query gives the stored types; only whole numbers may come back narrower or wider.
    audited = lake.table(model.name).audit(result.frame)
    gates = _gates(lake, model, result.frame, limits or Limits())
    inputs = {name: version for name, version in result.tables.items() if version >= 0}
    span = None if whole else days
    return ComputedRows(model, span, audited, gates, inputs, time.perf_counter() - started)


def _gates(lake: Lakehouse, model: SqlModel, rows: pl.DataFrame, limits: Limits) -> tuple[TestOutcome, ...]:
    tests = [test for test in model.tests if test.gate]
    if not tests:
        return ()
    fields: dict[str, list[str]] = {}
    for test in tests:
        if test.kind == "relationships" and test.to != model.name:
            fields.setdefault(test.to, []).append(test.field)
    parents = {
        name: query(lake, f"SELECT DISTINCT {listed(dict.fromkeys(wanted))} FROM {name}", limits=limits).frame  # noqa: S608 - bound at load
        for name, wanted in fields.items()
    }
    declared = model.contract.polars_schema if model.contract else {}
    # The derived partition column is not among the statement's own.
    typed = rows.cast({name: declared[name] for name in rows.columns})
    with over_rows(model.name, typed, parents, limits) as ask:
        return evaluate(model.name, tests, ask, lake.clock())


def publish(lake: Lakehouse, computed: ComputedRows, stamp: Stamp) -> Commit:
    """Replace the days, or the whole table, by computed rows.  The same rows again make no version.

    Raises:
        AuditFailedError: the contract does not let the rows out.
        BadRequestError: a gate failed, or rows lie outside the days.
    """
    failed = [gate.test.says for gate in computed.gates if not gate.passed]
    if failed:
        raise BadRequestError(f"{failed[0]!r} does not hold", where=computed.model.name, hint="Nothing was published.")
    table = lake.table(computed.model.name)
    return table.replace(computed.days, computed.audited, stamp=stamped(stamp, computed))


def stamped(stamp: Stamp, computed: ComputedRows) -> Stamp:
    """Return a stamp with what the rows were computed from."""
    days = computed.days
    partition = stamp.partition or ("" if days is None else f"{days[0]}..{days[1] - ONE_DAY}")
    return replace(stamp, asset=stamp.asset or computed.model.name, partition=partition, inputs=computed.inputs)


def judge(
    lake: Lakehouse,
    model: SqlModel,
    tests: Iterable[ModelTest] | None = None,
    *,
    limits: Limits | None = None,
    connect: Connect | None = None,
) -> tuple[TestOutcome, ...]:
    """Judge tests (all by default) on what is published: the table at its current version, or the view.

    Args:
        lake: the lake, opened with the models.
        model: any model.
        tests: the tests to judge.
        limits: memory, threads and spill folder of the statements.
        connect: gives the database to use instead, see `hfthot_platform.services.sql.opened`.
    """
    chosen = list(model.tests if tests is None else tests)
    if not chosen:
        return ()
    return evaluate(
        model.name, chosen, lambda sql: query(lake, sql, limits=limits, connect=connect).frame, lake.clock()
    )


def inputs_of(lake: Lakehouse, models: Models, model: SqlModel) -> list[str]:
    """Return what a model reads, each once, and what the views among it read, to any depth."""
    found: dict[str, None] = {}
    waiting = [*model.depends_on]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = None
        view = lake.views.get(name)
        if isinstance(view, View):
            waiting.append(view.of.name)
        elif view is not None and name in models.by_name:
            waiting += models[name].depends_on
    return list(found)


def span_of(lake: Lakehouse, models: Models, model: SqlModel) -> Days | None:
    """Return the days for which a model's inputs have events, or None if they have none."""
    read = [name for name in inputs_of(lake, models, model) if name not in lake.views]
    ends = [day for name in read for day in _events(lake, name)]
    if not ends:
        return None
    days = sorted(end.date() if isinstance(end, datetime) else end for end in ends)
    return days[0], days[-1] + ONE_DAY


def _events(lake: Lakehouse, name: str) -> list[date]:
    """Return the first and last event of a table; from its log where that says it."""
    table = lake.table(name)
    column = table.contract.time_column
    snapshot = table.snapshot()
    if column is None or snapshot is None:
        return []
    if snapshot.first_event is not None and snapshot.last_event is not None:
        return [snapshot.first_event, snapshot.last_event]
    time_of = pl.col(column)
    found = table.scan(snapshot.version).select(time_of.min().alias("first"), time_of.max().alias("last")).collect()
    return [bound for bound in found.row(0) if bound is not None]


def run_models(
    lake: Lakehouse,
    models: Models,
    select: Iterable[str] = (),
    *,
    days: Days | None = None,
    full: bool = False,
    stamp: Stamp | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int | None, str], None] = lambda _done, _total, _unit: None,
) -> list[ModelRun]:
    """Run models in the order of their dependencies.

    A model that fails does not keep the others from running, but those that read it are skipped.

    Args:
        lake: the lake, opened with the models.
        models: the models.
        select: names, see `Models.select`; all by default.
        days: the days of incremental models, from a first to before a second one.
        full: rebuild incremental models whole, over all days for which their inputs have events.
        stamp: who runs and why.
        limits: memory, threads and spill folder of each statement.
        progress: called with models done, models in all, and the unit.

    Raises:
        BadRequestError: both days and `full` are given, or neither although an incremental model is selected.
        UnknownTableError: there is no such model.
    """
    chosen = models.select(select)
    if days is not None and full:
        raise BadRequestError("give days or full, not both", where="run")
    if days is None and not full and any(candidate.materialized == "incremental" for candidate in chosen):
        name = next(candidate.name for candidate in chosen if candidate.materialized == "incremental")
        raise BadRequestError("the model is computed by days", where=name, hint="Give --from and --to, or --full.")
    runs: list[ModelRun] = []
    broken: set[str] = set()
    for done, model in enumerate(chosen):
        progress(done, len(chosen), "models")
        bad = sorted(broken & set(model.depends_on))
        if bad:
            runs.append(ModelRun(model, "skipped", reason=f"{bad[0]} was not published"))
        else:
            runs.append(_run(lake, models, model, days, stamp or Stamp(), limits, full=full))
        if runs[-1].status in {"failed", "skipped"}:
            broken.add(model.name)
    progress(len(chosen), len(chosen), "models")
    return runs


def _run(
    lake: Lakehouse,
    models: Models,
    model: SqlModel,
    days: Days | None,
    stamp: Stamp,
    limits: Limits | None,
    *,
    full: bool,
) -> ModelRun:
    if model.materialized == "view":
        return ModelRun(model, "view")
    started = time.perf_counter()
    span = None
    try:
        if model.materialized == "incremental":
            span = span_of(lake, models, model) if full else days
            if span is None:
                return ModelRun(model, "empty", reason="its inputs have no rows with a time")
        computed = compute(lake, model, span, limits=limits, whole=full)
        if not computed.publishable:
            lake.table(model.name).quarantine(computed.audited, stamp=stamped(stamp, computed))
            reason = _why(computed)
            return ModelRun(model, "failed", span, None, computed.gates, reason, time.perf_counter() - started)
        commit = publish(lake, computed, stamp)
        after = judge(lake, model, [test for test in model.tests if not test.gate], limits=limits)
    except HfthotError as error:
        return ModelRun(model, "failed", span, reason=str(error), seconds=time.perf_counter() - started)
    status: Status = "published" if commit.changed else "unchanged"
    return ModelRun(model, status, span, commit, (*computed.gates, *after), "", time.perf_counter() - started)


def _why(computed: ComputedRows) -> str:
    for gate in computed.gates:
        if not gate.passed:
            return f"{gate.test.says}: {gate.description[0].lower()}{gate.description[1:]}"
    broken = [result for result in computed.audited.results if not result.passed]
    return f"{broken[0].says}: {broken[0].violations:,} rows break it" if broken else "rows were rejected"
