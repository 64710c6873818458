"""Great Expectations suites, generated from contracts, and a result page that people can read.

Every rule of a contract becomes expectations; so do its column order, types, nullability and primary key.  The
library is imported inside functions: it takes seconds.  It runs in memory, with its usage statistics and progress
bars off, and opens no connection.

Two suites per contract: `schema` is validated on no rows at all, in exact Arrow types; `rows` on the values.
Pandas takes NaN (a value that is wrong) for null (no value), so NaN travels as infinity.  Polars orders it above all
numbers, so every rule counts the same rows here and there; the exceptions are `AtLeast` and `PresentWhen`,
which become several expectations with counts of their own, and rows in which NaN meets infinity.
"""

from __future__ import annotations

import html as markup
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from hfthot_platform.core.errors import ContractError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.rules import (
    AtLeast,
    Between,
    Finite,
    Matches,
    NotNull,
    OneOf,
    PresentWhen,
    Rule,
    Spike,
    TimeBetween,
)
from hfthot_platform.services.quality.outcomes import Json
from hfthot_platform.storage.folders import StoredFolder

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.expectations.expectation import Expectation

__all__ = ["SAMPLE_ROWS", "ExpectationOutcome", "SuiteResult", "suites", "validate", "write_report"]

#: Most rows that are validated: the newest by the contract's time column, or the last ones without one.
SAMPLE_ROWS: Final = 1_000_000
#: Values that break an expectation and are shown as examples; never of personal columns.
_EXAMPLES: Final = 5
_LARGEST: Final = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class ExpectationOutcome:
    """What one expectation found."""

    #: Name of the contract's rule, or `column_order`, `column_type:x`, `not_null:x`, `primary_key`.
    rule: str
    #: The expectation's type as the library names it.
    expectation: str
    columns: tuple[str, ...]
    #: The expectation in words.
    says: str
    passed: bool
    #: Rows that break it; None for expectations on the table, and where it could not be evaluated.
    unexpected: int | None
    #: Up to five values that break it, as text; none of personal columns.
    examples: tuple[str, ...]
    #: What was found instead, or why it could not be evaluated.
    found: str = ""


@dataclass(frozen=True)
class SuiteResult:
    """The result of a contract's suites on some rows."""

    table: str
    passed: bool
    #: expectations, successful, failed, rows_checked, rows_total.
    statistics: dict[str, Json]
    #: The failed expectations in words.
    failed: tuple[str, ...]
    #: Which rows were checked.
    scope: str
    expectations: tuple[ExpectationOutcome, ...]
    #: A self-contained page.
    html: str


def suites(contract: TableContract) -> tuple[gx.ExpectationSuite, gx.ExpectationSuite]:
    """Return the `schema` and the `rows` suite of a contract.

    Each expectation's `meta` has `rule` (its name) and `columns`; its `description` is the rule in words.
    """
    gx = _library()
    return (
        gx.ExpectationSuite(name=f"{contract.name}.schema", expectations=list(_schema_expectations(contract))),
        gx.ExpectationSuite(name=f"{contract.name}.rows", expectations=list(_row_expectations(contract))),
    )


def validate(
    contract: TableContract, frame: pl.DataFrame | pl.LazyFrame, *, sample_rows: int = SAMPLE_ROWS
) -> SuiteResult:
    """Validate rows against the contract's suites.

    Args:
        contract: the table's contract.
        frame: rows of the table.
        sample_rows: at most this many are validated, the newest ones; the result says so.
    """
    rows, total = _newest(contract, frame, sample_rows)
    schema, values = suites(contract)
    # What a missing column breaks is said once, by the column order.
    values.expectations = [
        expectation for expectation in values.expectations if {*_metadata_of(expectation)["columns"]} <= {*rows.columns}
    ]
    found = [*_validated(schema, _schema_frame(rows)), *_validated(values, _as_pandas(contract, rows))]
    outcomes = tuple(_outcome(contract, result) for result in found)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    scope = f"All {total:,} rows were checked."
    if rows.height < total:
        which = f"newest (by {contract.time_column})" if contract.time_column in rows.columns else "last"
        scope = f"The {which} {rows.height:,} of {total:,} rows were checked."
    statistics: dict[str, Json] = {
        "expectations": len(outcomes),
        "successful": len(outcomes) - len(failed),
        "failed": len(failed),
        "rows_checked": rows.height,
        "rows_total": total,
    }
    return SuiteResult(
        table=contract.name,
        passed=not failed,
        statistics=statistics,
        failed=tuple(_in_words(outcome) for outcome in failed),
        scope=scope,
        expectations=outcomes,
        html=_page(contract, outcomes, scope),
    )


def write_report(result: SuiteResult, reports: StoredFolder) -> str:
    """Write the result page as `<table>.html` among the reports, and return where a person finds it.

    A page of the same table is replaced as a whole: a reader sees the old or the new one.
    """
    name = f"{result.table}.html"
    reports.put(name, result.html.encode())
    return reports.link(name)


# -- the contract as expectations ----------------------------------------------------------------------------


def _schema_expectations(contract: TableContract) -> Iterator[Expectation]:
    gxe = _library().expectations
    names = list(contract.column_names)
    yield gxe.ExpectTableColumnsToMatchOrderedList(
        column_list=names, meta=_rule_metadata("column_order"), description=f"the columns are {', '.join(names)}"
    )
    for column in contract.columns:
        yield gxe.ExpectColumnTypeToBe(
            column=column.name,
            type_=_dtype_name(column.dtype),
            meta=_rule_metadata(f"column_type:{column.name}", column.name),
            description=f"{column.name} has type {column.dtype}",
        )


def _row_expectations(contract: TableContract) -> Iterator[Expectation]:
    gxe = _library().expectations
    stated = {rule.column for rule in contract.rules if isinstance(rule, NotNull)}
    for column in contract.columns:
        if not column.nullable and column.name not in stated:
            yield gxe.ExpectColumnValuesToNotBeNull(
                column=column.name,
                meta=_rule_metadata(f"not_null:{column.name}", column.name),
                description=f"{column.name} is present",
            )
    key = list(contract.primary_key)
    about = {"meta": _rule_metadata("primary_key", *key), "description": f"no two rows have the same {', '.join(key)}"}
    if len(key) == 1:
        yield gxe.ExpectColumnValuesToBeUnique(column=key[0], **about)
    else:
        yield gxe.ExpectCompoundColumnsToBeUnique(column_list=key, **about)
    for rule in contract.rules:
        yield from _of_rule(rule)


def _of_rule(rule: Rule) -> Iterator[Expectation]:
    gxe = _library().expectations
    about = {"meta": _rule_metadata(rule.name, rule.column), "description": rule.says}
    match rule:
        case NotNull():
            yield gxe.ExpectColumnValuesToNotBeNull(column=rule.column, **about)
        case Finite():
            # Infinity, also in place of NaN, is beyond the largest number.
            yield gxe.ExpectColumnValuesToBeBetween(
                column=rule.column, min_value=-_LARGEST, max_value=_LARGEST, **about
            )
        case Between():
            yield gxe.ExpectColumnValuesToBeBetween(
                column=rule.column, min_value=rule.low, max_value=rule.high, strict_min=rule.open_low, **about
            )
        case TimeBetween():
            yield gxe.ExpectColumnValuesToBeBetween(
                column=rule.column, min_value=rule.low, max_value=rule.high, strict_max=True, **about
            )
        case OneOf():
            yield gxe.ExpectColumnValuesToBeInSet(column=rule.column, value_set=list(rule.values), **about)
        case Matches():
            # `$` alone would let a line break pass behind the last character.
            yield gxe.ExpectColumnValuesToMatchRegex(column=rule.column, regex=rf"\A(?:{rule.pattern})\Z", **about)
        case AtLeast():
            for other in rule.others:
                yield gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A=rule.column,
                    column_B=other,
                    or_equal=True,
                    ignore_row_if="either_value_is_missing",
                    meta=_rule_metadata(rule.name, rule.column, other),
                    description=f"{rule.column} >= {other}",
                )
        case PresentWhen():
            from great_expectations.expectations.row_conditions import Column

            about = {"meta": _rule_metadata(rule.name, rule.column, rule.when), "description": rule.says}
            kind = Column(rule.when)
            yield gxe.ExpectColumnValuesToNotBeNull(column=rule.column, row_condition=kind == rule.equals, **about)
            yield gxe.ExpectColumnValuesToBeNull(column=rule.column, row_condition=kind != rule.equals, **about)
        case Spike():
            yield gxe.ExpectColumnValuesToBeBetween(
                column=_times_off(rule.column),
                max_value=rule.factor,
                meta=_rule_metadata(rule.name, rule.column, *rule.by),
                description=rule.says,
            )
        case _:
            raise ContractError(
                f"no expectation for rule {type(rule).__name__}", where="quality", hint="Add it to `_of_rule`."
            )


@cache
def _library() -> Any:
    """Import the library, once, without the deprecation warnings that its modules raise while they load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
        import great_expectations.expectations
    return gx


def _rule_metadata(rule: str, *columns: str) -> dict[str, Any]:
    return {"rule": rule, "columns": list(columns)}


def _metadata_of(expectation: Expectation) -> dict[str, Any]:
    return dict(expectation.meta or {})


def _dtype_name(dtype: pa.DataType) -> str:
    return f"{'large_string' if dtype == pa.string() else dtype}[pyarrow]"


def _times_off(column: str) -> str:
    """Name the helper column: how many times a value is off its neighbours, from 1."""
    return f"{column} (times off its neighbours)"


# -- rows as the library wants them --------------------------------------------------------------------------


def _newest(contract: TableContract, frame: pl.DataFrame | pl.LazyFrame, most: int) -> tuple[pl.DataFrame, int]:
    rows = frame.lazy()
    total = int(rows.select(pl.len()).collect(engine="streaming").item())
    if total > most:
        time = contract.time_column
        rows = rows.top_k(most, by=time) if time in rows.collect_schema().names() else rows.tail(most)
    return rows.collect(), total


def _schema_frame(rows: pl.DataFrame) -> Any:
    codes = pl.selectors.categorical() | pl.selectors.enum()
    return rows.clear().with_columns(codes.cast(pl.String)).to_pandas(use_pyarrow_extension_array=True)


def _as_pandas(contract: TableContract, rows: pl.DataFrame) -> Any:
    """Return the rows for pandas, in the types that the library compares without a loop over values."""
    for rule in contract.rules:
        if isinstance(rule, Spike) and {rule.column, *rule.by} <= {*rows.columns}:
            rows = rows.sort([name for name in contract.sort_by if name in rows.columns])
            rows = rows.with_columns(_ratio_to_neighbours(rows, rule))
    return rows.with_columns(
        pl.selectors.integer().cast(pl.Int64),
        pl.selectors.float().cast(pl.Float64).fill_nan(math.inf),
        (pl.selectors.categorical() | pl.selectors.enum()).cast(pl.String),
    ).to_pandas()


def _ratio_to_neighbours(rows: pl.DataFrame, rule: Spike) -> pl.Series:
    """Return how many times each value is above or below the median of the five rows around it, itself included.

    A median between two values counts as the one nearer to the value.  Null where fewer than three are known.
    """
    value = rows[rule.column].cast(pl.Float64).fill_nan(math.inf).fill_null(math.nan).to_numpy()
    series = rows.select(pl.struct(rule.by).rle_id()).to_series().to_numpy()
    around = np.full((5, rows.height), math.nan)
    around[2] = value
    for lag in (1, 2):
        same = series[lag:] == series[:-lag]
        around[2 - lag, lag:] = np.where(same, value[:-lag], math.nan)
        around[2 + lag, :-lag] = np.where(same, value[lag:], math.nan)
    known = np.count_nonzero(~np.isnan(around), axis=0)
    around = np.sort(around, axis=0)  # NaN last
    every = np.arange(rows.height)
    lower = around[np.maximum(known - 1, 0) // 2, every]
    upper = around[known // 2 % 5, every]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.maximum(np.where(value > 0, lower / value, math.inf), value / upper)
    off[(known < 3) | np.isnan(value)] = math.nan
    return pl.Series(_times_off(rule.column), off).fill_nan(None)


def _validated(suite: gx.ExpectationSuite, rows: Any) -> list[Any]:
    """Run a suite in a fresh in-memory context and return the library's results, in the suite's order."""
    gx = _library()
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            # Off from the first moment: nothing is ever sent.
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": rows})
    with warnings.catch_warnings():
        # Pandas asks whether a pattern with groups was meant to extract them.
        warnings.filterwarnings("ignore", message=".*has match groups", category=UserWarning)
        results = batch.validate(
            suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES}
        ).results
    order = {_rule_and_description(expectation): position for position, expectation in enumerate(suite.expectations)}
    return sorted(results, key=lambda result: order[_rule_and_description(result.expectation_config)])


def _rule_and_description(expectation: Any) -> tuple[str, str]:
    return str(expectation.meta["rule"]), str(expectation.description)


# -- results in words ----------------------------------------------------------------------------------------


def _outcome(contract: TableContract, found: Any) -> ExpectationOutcome:
    config, result = found.expectation_config, found.result
    columns = tuple(config.meta["columns"])
    personal = any(name in contract.column_names and contract.column(name).personal for name in columns)
    unexpected = result.get("unexpected_count")
    remark = ""
    if not found.success:
        if unexpected is None and "observed_value" in result:
            observed = result["observed_value"]
            remark = ", ".join(map(str, observed)) if isinstance(observed, list) else str(observed)
        elif unexpected is None:
            # The library's own message may quote values.
            remark = "it could not be evaluated: the column is absent or has another type"
    values = [] if personal or found.success else result.get("partial_unexpected_list") or []
    return ExpectationOutcome(
        rule=config.meta["rule"],
        expectation=config.type,
        columns=columns,
        says=config.description,
        passed=bool(found.success),
        unexpected=None if unexpected is None else int(unexpected),
        examples=tuple(dict.fromkeys(_value_in_words(value) for value in values)),
        found=remark,
    )


def _value_in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join(map(_value_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_words(outcome: ExpectationOutcome) -> str:
    if outcome.unexpected is None:
        return f"Not met: {outcome.says}; found: {outcome.found}."
    rows = "row breaks" if outcome.unexpected == 1 else "rows break"
    examples = f" (such as {'; '.join(outcome.examples)})" if outcome.examples else ""
    return f"{outcome.unexpected:,} {rows} {outcome.says!r}{examples}."


_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.badge{display:inline-block;padding:.1rem .6rem;border-radius:1rem;color:#fff;font-weight:600;font-size:.9rem}
.ok{background:#1a7f37}.bad{background:#b42318}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d9dee4;vertical-align:top;overflow-wrap:anywhere}
th{font-size:.85rem;color:#57606a}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-size:.85rem;color:#57606a}
@media(prefers-color-scheme:dark){body{color:#e6e9ec;background:#14181d}th,td{border-color:#333b44}}
"""


def _page(contract: TableContract, outcomes: Sequence[ExpectationOutcome], scope: str) -> str:
    failed = [outcome for outcome in outcomes if not outcome.passed]
    passed = [outcome for outcome in outcomes if outcome.passed]
    badge = f'<span class="badge bad">{len(failed)} failed</span>' if failed else '<span class="badge ok">passed</span>'
    name = markup.escape(contract.name)
    sections = "".join(_section(title, part) for title, part in (("Failed", failed), ("Passed", passed)) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Quality of {name}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Quality of {name} {badge}</h1><p>{markup.escape(contract.description)}</p>"
        f"<p>{len(passed)} of {len(outcomes)} expectations met. {markup.escape(scope)}</p>{sections}</body></html>\n"
    )


def _section(title: str, outcomes: Sequence[ExpectationOutcome]) -> str:
    rows = "".join(
        f"<tr><td>{markup.escape(outcome.says)}</td>"
        f'<td class="n">{"" if outcome.unexpected is None else f"{outcome.unexpected:,}"}</td>'
        f"<td>{markup.escape('; '.join(outcome.examples) or outcome.found)}</td>"
        f"<td><code>{markup.escape(outcome.rule)}</code><br><code>{markup.escape(outcome.expectation)}</code></td></tr>"
        for outcome in outcomes
    )
    return (
        f"<h2>{title} ({len(outcomes)})</h2><table><thead><tr><th>Expectation</th><th>Rows that break it</th>"
        f"<th>Examples, or what was found</th><th>Rule</th></tr></thead><tbody>{rows}</tbody></table>"
    )
