"""The audit between write and publish: conform to the contract, find duplicates, split good rows from bad.

Nothing here touches storage.  The result accounts for every row that came in:
`read = rows + duplicates + rejected`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import reduce

import polars as pl

from hfthot_platform.contracts import TableContract
from hfthot_platform.contracts.model import REJECTED_SCHEMA, ROW_NUMBER, Column
from hfthot_platform.errors import SchemaMismatchError, nearest

__all__ = ["CONFLICT", "Audited", "RuleResult", "audit", "conform", "quarantine_id", "rejected_for_conflict"]

_REASON = "_reason"
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
    #: Rows kept out, with `REJECTED_SCHEMA` and `source_ref`.
    rejected: pl.DataFrame
    duplicates: int
    results: tuple[RuleResult, ...]

    @property
    def read(self) -> int:
        """Return how many rows came in."""
        return self.rows.height + self.duplicates + self.rejected.height

    @property
    def rejected_share(self) -> float:
        """Return the share of rows kept out, between 0 and 1."""
        return self.rejected.height / self.read if self.read else 0.0

    @property
    def publishable(self) -> bool:
        """Return whether the contract allows publishing the good rows."""
        return self.rejected_share <= self.contract.max_rejected_share


def conform(contract: TableContract, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the contract's columns and types, with derived columns filled in.

    Widening casts (Int32 to Int64, milliseconds to microseconds, Enum to String) are made; anything that
    could lose information is refused.

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
    partition = contract.partition_expr()
    expressions: list[pl.Expr] = []
    for column in contract.columns:
        if column.name == contract.partition_by and partition is not None:
            continue
        if column.name in found:
            expressions.append(_cast(contract, column, found[column.name]))
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


def _cast(contract: TableContract, column: Column, found: pl.DataType) -> pl.Expr:
    expected = column.polars
    value = pl.col(column.name)
    if found == expected:
        return value
    if found == pl.Null() and column.nullable:
        return value.cast(expected)
    text = isinstance(found, pl.Categorical | pl.Enum) and expected == pl.String()
    widening = (
        (expected == pl.Int64() and found.is_integer() and found != pl.UInt64())
        or (expected == pl.Int32() and found in {pl.Int8(), pl.Int16(), pl.UInt8(), pl.UInt16()})
        or (expected == pl.Float64() and (found == pl.Float32() or found.is_integer()))
    )
    time = isinstance(found, pl.Datetime) and isinstance(expected, pl.Datetime)
    if time and getattr(found, "time_zone", None) is None:
        raise SchemaMismatchError(
            f"column {column.name!r} is a time without a zone; expected {expected}, found {found}",
            where=contract.name,
            hint="Attach the zone with .dt.replace_time_zone(...).",
        )
    if text or widening or time:
        return value.cast(expected)
    raise SchemaMismatchError(
        f"column {column.name!r} has the wrong type; expected {expected}, found {found}",
        where=contract.name,
        hint="Cast it before writing.",
    )


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
    rows, bad, results = _apply_rules(contract, rows)
    rows, conflicts, duplicates = _unique(contract, rows)
    parts = [_as_rejected(contract, each) for each in (bad, conflicts) if each.height]
    if rejected is not None and rejected.height:
        parts.append(_with_reference(rejected))
    if conflicts.height:
        results = (*results, RuleResult(CONFLICT, "one row per key", conflicts.height))
    nothing = pl.DataFrame(schema={**REJECTED_SCHEMA, "source_ref": pl.String()})
    return Audited(
        contract=contract,
        rows=rows.select(contract.column_names).cast(dict(contract.polars_schema)),  # type: ignore[arg-type]
        rejected=pl.concat(parts) if parts else nothing,
        duplicates=duplicates,
        results=results,
    )


def _in_order(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by the contract's order, with few-valued text as codes; a sorted frame is left alone."""
    few = [name for name in contract.sort_by if contract.column(name).few and rows.schema[name] == pl.String()]
    if few and rows.height:
        words = {name: rows[name].unique().drop_nulls().sort() for name in few}
        rows = rows.with_columns(pl.col(name).cast(pl.Enum(words[name])) for name in few)
    if rows.height < 2 or _is_sorted(rows, contract.sort_by):
        return rows
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


def _apply_rules(
    contract: TableContract, rows: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[RuleResult, ...]]:
    rules = contract.rules
    if not rules or not rows.height:
        return rows, rows.clear().with_columns(_REASON_NULL), tuple(RuleResult(r.name, r.says, 0) for r in rules)
    counts = rows.select(rule.violated().sum().alias(rule.name) for rule in rules).row(0)
    results = tuple(RuleResult(r.name, r.says, int(count)) for r, count in zip(rules, counts, strict=True))
    broken = [rule for rule, result in zip(rules, results, strict=True) if not result.passed]
    if not broken:
        return rows, rows.clear().with_columns(_REASON_NULL), results
    first = reduce(
        lambda otherwise, rule: pl.when(rule.violated()).then(pl.lit(rule.name)).otherwise(otherwise),
        reversed(broken),
        pl.lit(None, dtype=pl.String()),
    )
    judged = rows.with_columns(first.alias(_REASON))
    return judged.filter(pl.col(_REASON).is_null()).drop(_REASON), judged.filter(pl.col(_REASON).is_not_null()), results


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
        CONFLICT: "another row of the same key has other values"
    }
    names = [column.name for column in contract.columns if not column.personal]
    number = pl.col(ROW_NUMBER) if ROW_NUMBER in bad.columns else pl.lit(None, dtype=pl.Int64())
    reference = pl.col("source_ref") if "source_ref" in bad.columns else pl.lit(None, dtype=pl.String())
    return bad.select(
        number.alias("row_number"),
        pl.col(_REASON).str.split(":").list.first().alias("reason"),
        pl.col(_REASON).replace(says).alias("detail"),
        pl.struct(pl.col(name).cast(pl.String) for name in names).struct.json_encode().alias("row"),
        reference.cast(pl.String).alias("source_ref"),
    )


def rejected_for_conflict(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose key is already published with other values, in the quarantine's form."""
    return _as_rejected(contract, rows.with_columns(pl.lit(CONFLICT).alias(_REASON)))


def _with_reference(rejected: pl.DataFrame) -> pl.DataFrame:
    if "source_ref" not in rejected.columns:
        rejected = rejected.with_columns(pl.lit(None, dtype=pl.String()).alias("source_ref"))
    return rejected.select(*REJECTED_SCHEMA, "source_ref")


def quarantine_id(reason: str, source_ref: str | None, row_number: int | None, row: str) -> str:
    """Return the identity of a rejected row: the same row of the same source, rejected again, has the same."""
    return hashlib.sha256("\x1f".join((reason, source_ref or "", str(row_number or ""), row)).encode()).hexdigest()
