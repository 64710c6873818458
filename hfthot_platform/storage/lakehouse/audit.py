"""The audit between write and publish: conform to the contract, find duplicates, split good rows from bad.

Nothing here touches storage.  The result accounts for every row that came in:
`read = rows + duplicates + rejected`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import polars as pl

from hfthot_platform.core.errors import SchemaMismatchError, nearest
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA, REJECTED_SOURCE, ROW_NUMBER, Column
from hfthot_platform.domain.contracts.rules import Matches, OneOf, Rule

__all__ = [
    "CONFLICT",
    "Audited",
    "RuleResult",
    "audit",
    "conform",
    "quarantine_id",
    "quarantine_rows",
    "rejected_for_conflict",
]

_REASON = "_reason"
_CODE = "_code"
CONFLICT = "conflicting_key"


@dataclass(frozen=True)
class RuleResult:
    """How many rows broke one rule."""

    name: str
    says: str
    violations: int

    @property
    def passed(self) -> bool:
        """Return whether every row met the rule."""
        return self.violations == 0


@dataclass(frozen=True)
class Audited:
    """Rows that passed, rows that did not, and the account of both."""

    contract: TableContract
    #: Unique on the primary key, sorted, in the contract's schema.
    rows: pl.DataFrame
    #: Rows kept out, with `REJECTED_SCHEMA` and `REJECTED_SOURCE`.
    rejected: pl.DataFrame
    duplicates: int
    results: tuple[RuleResult, ...]
    #: Position of each of `rows` in its source, where the source told.
    row_numbers: pl.Series | None = None

    @property
    def read(self) -> int:
        """Return how many rows came in."""
        return self.rows.height + self.duplicates + self.rejected.height

    @property
    def publishable(self) -> bool:
        """Return whether the contract allows publishing the good rows."""
        return self.contract.tolerates(self.rejected.height, self.read)


def conform(contract: TableContract, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the contract's columns and types, with derived columns filled in.

    Widening casts (Int32 to Int64, milliseconds to microseconds, Enum to String) are made.  Casts that could
    lose information (Int64 to Float64, nanoseconds to microseconds) are made where they lose none in these
    rows; everything else is refused.

    Raises:
        SchemaMismatchError: names the first offending column, what was expected and what was found.
    """
    found = frame.schema
    where = contract.name
    known = {*contract.column_names, ROW_NUMBER}
    for name in found:
        if name not in known:
            raise SchemaMismatchError(
                f"unexpected column {name!r}",
                where=where,
                hint=nearest(name, contract.column_names) or f"Expected columns: {', '.join(contract.column_names)}.",
            )
    if ROW_NUMBER in found and not found[ROW_NUMBER].is_integer():
        raise SchemaMismatchError(
            f"column {ROW_NUMBER!r} has the wrong type; expected Int64, found {found[ROW_NUMBER]}", where=where
        )
    partition = contract.partition_expr()
    expressions: list[pl.Expr] = []
    for column in contract.columns:
        if column.name == contract.partition_by and partition is not None:
            continue
        if column.name in found:
            expressions.append(_cast(contract, column, frame[column.name]))
        elif column.name == "schema_version":
            expressions.append(pl.lit(contract.schema_version, dtype=pl.Int32()).alias(column.name))
        elif column.nullable:
            expressions.append(pl.lit(None, dtype=column.polars).alias(column.name))
        else:
            raise SchemaMismatchError(
                f"column {column.name!r} is missing; expected {column.polars}", where=where, hint="Add the column."
            )
    if ROW_NUMBER in found:
        expressions.append(pl.col(ROW_NUMBER).cast(pl.Int64))
    out = frame.select(expressions)
    if partition is not None:
        out = out.with_columns(partition)
    tail = [ROW_NUMBER] if ROW_NUMBER in found else []
    return out.select(*contract.column_names, *tail)


def _cast(contract: TableContract, column: Column, values: pl.Series) -> pl.Expr:
    expected, found = column.polars, values.dtype
    value = pl.col(column.name)
    if found == expected:
        return value
    if found == pl.Null() and column.nullable:
        return value.cast(expected)
    time = isinstance(found, pl.Datetime) and isinstance(expected, pl.Datetime)
    if time and getattr(found, "time_zone", None) is None:
        raise SchemaMismatchError(
            f"column {column.name!r} has no time zone; expected {expected}, found {found}",
            where=contract.name,
            hint="Attach the zone with .dt.replace_time_zone(...).",
        )
    text = isinstance(found, pl.Categorical | pl.Enum) and expected == pl.String()
    widening = (
        (expected == pl.Int64() and found in _NARROWER_THAN_64)
        or (expected == pl.Int32() and found in _NARROWER_THAN_32)
        or (expected == pl.Float64() and (found == pl.Float32() or found in _NARROWER_THAN_64))
    )
    if text or widening:
        return value.cast(expected)
    whole = expected in {pl.Int64(), pl.Float64()} and found.is_integer()
    if (whole or time) and _survives(values, expected):
        return value.cast(expected)
    lossy = " without loss" if whole or time else ""
    raise SchemaMismatchError(
        f"column {column.name!r} has the wrong type; expected {expected}, found {found}",
        where=contract.name,
        hint=f"It cannot be cast{lossy} automatically; convert the column before writing.",
    )


_NARROWER_THAN_32 = {pl.Int8(), pl.Int16(), pl.UInt8(), pl.UInt16()}
_NARROWER_THAN_64 = {*_NARROWER_THAN_32, pl.Int32(), pl.UInt32()}


def _survives(values: pl.Series, expected: pl.DataType) -> bool:
    """Whether a cast to the expected type and back gives the same values."""
    there = values.cast(expected, strict=False)
    return bool(there.cast(values.dtype, strict=False).eq_missing(values).all())


def audit(contract: TableContract, frame: pl.DataFrame, rejected: pl.DataFrame | None = None) -> Audited:
    """Conform, sort, find repeated keys and apply the contract's rules.

    A repeated key with equal values is a duplicate; with other values it is a conflict: the first row in
    order stays and the others are rejected as `conflicting_key`.

    Args:
        contract: the table's contract.
        frame: incoming rows; may carry `ROW_NUMBER`.
        rejected: rows that the source could not even parse (`REJECTED_SCHEMA`, optionally with `source_ref`).

    Raises:
        SchemaMismatchError: the frame does not fit the contract.
    """
    rows = conform(contract, frame)
    rows = _in_order(contract, rows)
    rows, bad, results = apply_rules(contract, rows)
    rows, conflicts, duplicates = _unique(contract, rows)
    parts = [_as_rejected(contract, part) for part in (bad, conflicts) if part.height]
    if rejected is not None and rejected.height:
        parts.append(_with_reference(rejected))
    if conflicts.height:
        results = (*results, RuleResult(CONFLICT, "one row per key", conflicts.height))
    nothing = pl.DataFrame(schema={**REJECTED_SCHEMA, REJECTED_SOURCE: pl.String()})
    return Audited(
        contract=contract,
        rows=rows.select(contract.column_names).cast(dict(contract.polars_schema)),  # type: ignore[arg-type]
        rejected=pl.concat(parts) if parts else nothing,
        duplicates=duplicates,
        results=results,
        row_numbers=rows[ROW_NUMBER] if ROW_NUMBER in rows.columns else None,
    )


def _in_order(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by the contract's order, with few-valued text as codes; a sorted frame is left alone."""
    words: dict[str, pl.Series] = {}
    few = [name for name in contract.sort_by if contract.column(name).few and rows.schema[name] == pl.String()]
    if few and rows.height:
        words = {name: rows[name].unique().drop_nulls().sort() for name in few}
        rows = rows.with_columns(pl.col(name).cast(pl.Enum(words[name])) for name in few)
    if rows.height < 2 or _is_sorted(rows, contract.sort_by):
        return rows
    rest = contract.sort_by[len(few) :]
    if few and tuple(few) == contract.sort_by[: len(few)] and _is_sorted(rows, rest):
        # Rows in order of time, as most sources give them: one stable sort by one code does it.
        code = reduce(
            lambda high, name: high * len(words[name]) + pl.col(name).to_physical().cast(pl.UInt64),
            few,
            pl.lit(0, dtype=pl.UInt64),
        )
        if rows.select(pl.all_horizontal(pl.col(name).is_not_null().all() for name in few)).item():
            return rows.with_columns(code.alias(_CODE)).sort(_CODE, maintain_order=True).drop(_CODE)
    return rows.sort(contract.sort_by, maintain_order=True)


def _is_sorted(rows: pl.DataFrame, by: tuple[str, ...]) -> bool:
    """Whether each row is no smaller than the one before it, lexicographically over `by`."""
    greater = pl.lit(value=False)
    equal = pl.lit(value=True)
    for name in by:
        value = pl.col(name)
        value = value.to_physical() if isinstance(rows.schema[name], pl.Enum) else value
        before = value.shift(1)
        greater = greater | (equal & (value > before))
        equal = equal & (value == before)
    # A null compares as null: such a frame counts as unsorted and takes the slow road.
    in_order = rows.select((greater | equal).slice(1).fill_null(value=False).all()).item()
    return bool(in_order)


def apply_rules(
    contract: TableContract, rows: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[RuleResult, ...]]:
    """Return the good rows, the bad rows with their reason, and what each rule found."""
    alone = [rule for rule in contract.rules if not rule.among_rows]
    among = [rule for rule in contract.rules if rule.among_rows]
    good, bad, found = _split(rows, alone)
    # Spikes are judged among rows that are good in themselves.
    good, outliers, found_among = _split(good, among)
    counts = found | found_among
    results = tuple(RuleResult(rule.name, rule.says, counts[rule.name]) for rule in contract.rules)
    return good, pl.concat([bad, outliers]) if outliers.height else bad, results


def _split(rows: pl.DataFrame, rules: Sequence[Rule]) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """Return the rows that meet all rules, the others with the first rule they break, and counts per rule."""
    none = rows.clear().with_columns(_REASON_NULL)
    if not rules or not rows.height:
        return rows, none, {rule.name: 0 for rule in rules}
    costly = [rule for rule in rules if not _all_words_pass(rows, rule)]
    counts = {rule.name: 0 for rule in rules}
    counts |= rows.select(rule.violated().sum().alias(rule.name) for rule in costly).row(0, named=True)
    broken = [rule for rule in rules if counts[rule.name]]
    if not broken:
        return rows, none, counts
    first = reduce(
        lambda otherwise, rule: pl.when(rule.violated()).then(pl.lit(rule.name)).otherwise(otherwise),
        reversed(broken),
        pl.lit(None, dtype=pl.String()),
    )
    judged = rows.with_columns(first.alias(_REASON))
    met = pl.col(_REASON).is_null()
    return judged.filter(met).drop(_REASON), judged.filter(met.not_()), counts


def _all_words_pass(rows: pl.DataFrame, rule: Rule) -> bool:
    """Whether a rule on text alone holds for each word of a column of codes: then it holds for its rows."""
    dtype = rows.schema[rule.column]
    if not isinstance(dtype, pl.Enum) or not isinstance(rule, Matches | OneOf):
        return False
    words = pl.DataFrame({rule.column: dtype.categories})
    return not words.select(rule.violated().any()).item()


_REASON_NULL = pl.lit(None, dtype=pl.String()).alias(_REASON)


def _unique(contract: TableContract, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return the rows unique on the key, the conflicting rows, and the number of duplicates."""
    none = rows.clear().with_columns(_REASON_NULL)
    *group, last = contract.primary_key
    if not rows.height:
        return rows, none, 0
    if tuple(group) == contract.sort_by[: len(group)]:
        # Rows are sorted by the key's leading columns: keys are unique when the last one rises strictly.
        same = pl.all_horizontal([pl.col(name) == pl.col(name).shift(1) for name in group] or [pl.lit(value=True)])
        if not rows.select((same & (pl.col(last) <= pl.col(last).shift(1))).any()).item():
            return rows, none, 0
    repeated = rows.select(contract.primary_key).is_duplicated()
    if not repeated.any():
        return rows, none, 0
    # Only the keys in question take the slow road.
    position = "_position"
    indexed = rows.with_row_index(position)
    suspects = indexed.filter(repeated)
    first = suspects.group_by(contract.primary_key, maintain_order=True).first()
    later = suspects.join(first.select(position), on=position, how="anti")
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_first")) for name in contract.value_columns)
    compared = later.join(first, on=contract.primary_key, how="left", suffix="_first", maintain_order="left")
    conflict = compared.select(differs).to_series() if contract.value_columns else pl.Series([False] * later.height)
    conflicts = later.filter(conflict).drop(position).with_columns(pl.lit(CONFLICT).alias(_REASON))
    kept = indexed.join(later.select(position), on=position, how="anti", maintain_order="left").drop(position)
    return kept, conflicts, later.height - conflicts.height


def _as_rejected(contract: TableContract, bad: pl.DataFrame) -> pl.DataFrame:
    """Turn rows with a reason into the quarantine's form.  Values travel as text, so that NaN survives."""
    says = {rule.name: rule.says for rule in contract.rules} | {
        CONFLICT: "another row with the same key has different values"
    }
    names = [column.name for column in contract.columns if not column.personal]
    number = pl.col(ROW_NUMBER) if ROW_NUMBER in bad.columns else pl.lit(None, dtype=pl.Int64())
    known = contract.provenance in bad.columns
    reference = pl.col(contract.provenance) if contract.provenance and known else pl.lit(None, dtype=pl.String())
    return bad.select(
        number.alias("row_number"),
        pl.col(_REASON).str.split(":").list.first().alias("reason"),
        pl.col(_REASON).replace(says).alias("detail"),
        pl.struct(pl.col(name).cast(pl.String) for name in names).struct.json_encode().alias("row"),
        reference.cast(pl.String).alias(REJECTED_SOURCE),
    )


def rejected_for_conflict(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose key is already published with other values, in the quarantine's form."""
    return _as_rejected(contract, rows.with_columns(pl.lit(CONFLICT).alias(_REASON)))


def _with_reference(rejected: pl.DataFrame) -> pl.DataFrame:
    if REJECTED_SOURCE not in rejected.columns:
        rejected = rejected.with_columns(pl.lit(None, dtype=pl.String()).alias(REJECTED_SOURCE))
    return rejected.select(*REJECTED_SCHEMA, REJECTED_SOURCE)


def quarantine_rows(rejected: pl.DataFrame, now: datetime, run_id: str) -> pl.DataFrame:
    """Return rejected rows as rows of a quarantine.

    Args:
        rejected: rows with `REJECTED_SCHEMA` and `REJECTED_SOURCE`.
        now: when they are kept out.
        run_id: the run that does it.
    """
    identity = pl.struct("reason", REJECTED_SOURCE, "row_number", "row").map_elements(
        lambda row: quarantine_id(row["reason"], row[REJECTED_SOURCE], row["row_number"], row["row"]),
        return_dtype=pl.String,
    )
    return rejected.with_columns(
        identity.alias("quarantine_id"),
        pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("quarantined_at"),
        pl.lit(now.date()).alias("quarantined_on"),
        pl.lit(run_id).alias("run_id"),
    )


def quarantine_id(reason: str, source_ref: str | None, row_number: int | None, row: str) -> str:
    """Return the identity of a rejected row: the same row of the same source, rejected again, has the same.

    Positions count from 1 where a source counts lines, from 0 where it counts elements: 0 is a position, and not the
    same as none.
    """
    number = "" if row_number is None else str(row_number)
    return hashlib.sha256("\x1f".join((reason, source_ref or "", number, row)).encode()).hexdigest()
