"""What a table contract is.  The contracts themselves are in one module per namespace beside this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from hfthot_platform.core.errors import ContractError
from hfthot_platform.core.time import Grain
from hfthot_platform.domain.contracts.rules import NotNull, Rule

__all__ = [
    "DATE",
    "FLAG",
    "FLOAT",
    "INT",
    "REJECTED_SCHEMA",
    "REJECTED_SOURCE",
    "ROW_NUMBER",
    "SMALL",
    "TEXT",
    "TIME",
    "Column",
    "Grain",
    "Role",
    "TableContract",
]

TIME = pa.timestamp("us", tz="UTC")
DATE = pa.date32()
TEXT = pa.string()
FLOAT = pa.float64()
INT = pa.int64()
SMALL = pa.int32()
FLAG = pa.bool_()


#: Optional helper column of incoming rows: the position in their source, from 1.  It reaches the quarantine if
#: the audit rejects the row, and is never stored otherwise.
ROW_NUMBER = "_row_number"
#: A row that was kept out: where it was, why (for machines, for people), and the row itself as text.
REJECTED_SCHEMA: dict[str, pl.DataType] = {
    "row_number": pl.Int64(),
    "reason": pl.String(),
    "detail": pl.String(),
    "row": pl.String(),
}

#: The column of a row that was kept out that tells which source it is from.
REJECTED_SOURCE = "source_ref"

#: What storage asks of a column, whatever it is called:
#:
#: - `sequence`: the number of the row in an ordered log that the table follows;
#: - `finality`: false while the row may still change: such a row fills a gap, and never takes another's place;
#: - `provenance`: which source the row came from: rows of one source are known, and taken out again, by it;
#: - `subject`: the person whom the row is about;
#: - `redaction`: whether the row's personal columns were erased.
Role = Literal["sequence", "finality", "provenance", "subject", "redaction"]

_POLARS: dict[pa.DataType, pl.DataType] = {
    TIME: pl.Datetime("us", "UTC"),
    DATE: pl.Date(),
    TEXT: pl.String(),
    FLOAT: pl.Float64(),
    INT: pl.Int64(),
    SMALL: pl.Int32(),
    FLAG: pl.Boolean(),
}
_SQL: dict[pa.DataType, str] = {
    TIME: "TIMESTAMP WITH TIME ZONE",
    DATE: "DATE",
    TEXT: "VARCHAR",
    FLOAT: "DOUBLE",
    INT: "BIGINT",
    SMALL: "INTEGER",
    FLAG: "BOOLEAN",
}


@dataclass(frozen=True)
class Column:
    """One column: its type, its meaning and its unit."""

    name: str
    dtype: pa.DataType
    description: str
    unit: str = ""
    nullable: bool = False
    #: Few distinct values per file: handled as codes in memory, which makes sorting and grouping cheap.
    few: bool = False
    #: Personal data: never in statistics, metadata or samples.
    personal: bool = False
    #: Says where and when a row came from; two rows that differ in this alone are the same row.
    provenance: bool = False
    #: What the column is to storage; None for one that is only data.
    role: Role | None = None

    @property
    def polars(self) -> pl.DataType:
        """Return the Polars type of the column."""
        return _POLARS[self.dtype]

    @property
    def sql_type(self) -> str:
        """Return DuckDB's name of the column's type."""
        return _SQL[self.dtype]


@dataclass(frozen=True)
class TableContract:
    """The only declaration of a table; schema, keys, checks, SQL name and documentation derive from it.

    A partition column is derived from `time_column` by its name: `date` (the day), `month` (its first
    day) or `year` (an integer), so that dense tables get a directory per day and sparse ones do not drown
    in tiny files.

    A column that is not nullable implies the rule `NotNull`: it need not be declared.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    sort_by: tuple[str, ...]
    partition_by: Grain | None = None
    #: The column (a time or a date) that partition values derive from.
    time_column: str | None = None
    rules: tuple[Rule, ...] = ()
    #: Columns with file statistics, for pruning; everything else stays out of the Delta log.
    stats_columns: tuple[str, ...] = ()
    #: Days for which old versions stay readable.
    history_days: int = 30
    #: Days for which rows are kept from when they were written, whatever day they are about, or None for ever.
    retention_days: int | None = None
    #: The column that has the day on which the platform wrote the row; without one the Delta log says it.
    written_column: str | None = None
    schema_version: int = 1
    #: Tables and views that an SQL model computes the rows from: who may not read those may not read these.  None
    #: for all other tables.
    made_from: tuple[str, ...] | None = None
    #: Largest share of rejected rows with which the rest of a batch is still published; above it, the batch
    #: says that its source or its computation is broken, and nothing is.
    max_rejected_share: float = 0.5
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        """Check that the contract is consistent in itself."""
        by_name = {column.name: column for column in self.columns}
        object.__setattr__(self, "_by_name", by_name)
        problems = []
        if not all(self.parts) or len(self.parts) > 2:
            problems.append("a table name must be namespace.table, or only table for the user tables")
        if len(by_name) != len(self.columns):
            problems.append("a column is declared twice")
        named = {*self.primary_key, *self.sort_by, *self.stats_columns, *(rule.column for rule in self.rules)}
        if self.partition_by:
            named |= {self.partition_by, self.time_column or "time_column"}
        problems += [f"column {name!r} is used but not declared" for name in sorted(named - set(by_name))]
        problems += [
            f"key column {name!r} must not be nullable"
            for name in self.primary_key
            if name in by_name and by_name[name].nullable
        ]
        roles = [column.role for column in self.columns if column.role is not None]
        problems += [f"two columns have the role {role!r}" for role in sorted({r for r in roles if roles.count(r) > 1})]
        for role, dtype in (("sequence", INT), ("finality", FLAG), ("redaction", FLAG), ("subject", TEXT)):
            name = self._with_role(role)
            if name is not None and by_name[name].dtype != dtype:
                problems.append(f"column {name!r} has the role {role!r}, but not the type {dtype}")
        names = [rule.name for rule in self.rules]
        problems += [f"rule {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
        if self.partition_by not in {None, *get_args(Grain)}:
            problems.append(f"a table is partitioned by {', '.join(get_args(Grain))}, not by {self.partition_by!r}")
        if not 0 <= self.max_rejected_share <= 1:
            problems.append(f"max_rejected_share is {self.max_rejected_share}, which is not between 0 and 1")
        if self.written_column:
            named_written = by_name.get(self.written_column)
            if named_written is None or named_written.dtype != pa.date32():
                problems.append(f"written_column {self.written_column!r} is not a date column of the table")
        elif self.retention_days is not None and self.partition_by is None:
            problems.append("a table with a retention needs a partition or a written_column")
        if not self.primary_key:
            problems.append("a table needs a primary key")
        if any(by_name[name].personal for name in self.stats_columns if name in by_name):
            problems.append("a personal column must not have file statistics")
        if problems:
            raise ContractError("; ".join(problems), where=f"contract {self.name}", hint="Correct its declaration.")
        # A null that reached storage in such a column would be refused there, and the whole batch with it.  The
        # derived partition column is null exactly where the time is.
        derived = self.partition_by if self.partition_expr() is not None else None
        required = [column.name for column in self.columns if not column.nullable and column.name != derived]
        present = [NotNull(name) for name in required]
        object.__setattr__(self, "rules", (*present, *(rule for rule in self.rules if rule not in present)))

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of the name; the user tables have one, all others two."""
        return tuple(self.name.split("."))

    @property
    def namespace(self) -> str:
        """Return the part of the name before the dot; the user tables, which have none, belong to `accounts`."""
        return self.parts[0] if len(self.parts) > 1 else "accounts"

    @property
    def concerns_nobody(self) -> bool:
        """Whether rows of the table cannot be about a person: of market data, with no personal column and no subject.

        What was rejected, what happened, and what an SQL model computes are not among these tables.
        """
        personal = self.subject is not None or any(column.personal for column in self.columns)
        return self.namespace in {"market", "signals", "portfolio"} and self.made_from is None and not personal

    @property
    def table(self) -> str:
        """Return the last part of the name."""
        return self.parts[-1]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the column names in their order on storage."""
        return tuple(self._by_name)

    @property
    def value_columns(self) -> tuple[str, ...]:
        """Return the columns that make two rows of the same key different."""
        apart = {*self.primary_key, self.partition_by}
        return tuple(column.name for column in self.columns if column.name not in apart and not column.provenance)

    @property
    def sequence(self) -> str | None:
        """Return the column that has the row's number in the ordered log that the table follows."""
        return self._with_role("sequence")

    @property
    def finality(self) -> str | None:
        """Return the column that is false while a row may still change."""
        return self._with_role("finality")

    @property
    def provenance(self) -> str | None:
        """Return the column that says which source a row came from."""
        return self._with_role("provenance")

    @property
    def subject(self) -> str | None:
        """Return the column that says whom a row is about."""
        return self._with_role("subject")

    @property
    def redaction(self) -> str | None:
        """Return the column that says whether a row's personal columns were erased."""
        return self._with_role("redaction")

    def _with_role(self, role: str) -> str | None:
        return next((column.name for column in self.columns if column.role == role), None)

    def column(self, name: str) -> Column:
        """Return a column by name."""
        return self._by_name[name]

    @property
    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema, with description and unit in each field's metadata."""
        return pa.schema(
            pa.field(
                column.name,
                column.dtype,
                nullable=column.nullable,
                metadata={"comment": column.description, "unit": column.unit},
            )
            for column in self.columns
        )

    @property
    def polars_schema(self) -> dict[str, pl.DataType]:
        """Return the Polars schema."""
        return {column.name: column.polars for column in self.columns}

    @property
    def quarantine(self) -> str:
        """Return the name of the table that takes this table's rejected rows."""
        return f"quarantine.{self.table}"

    def tolerates(self, rejected: int, read: int) -> bool:
        """Return whether the good rows may be published although so many of those read were rejected."""
        # The quotient, not `share * read`: 0.29 * 100 is less than 29.
        return not rejected or rejected / read <= self.max_rejected_share

    def partition_expr(self) -> pl.Expr | None:
        """Return the expression that computes the partition column, or None for an unpartitioned table."""
        if self.partition_by is None or self.time_column is None or self.partition_by == self.time_column:
            return None
        time = pl.col(self.time_column)
        if self.partition_by == "year":
            return time.dt.year().cast(pl.Int32).alias("year")
        day = time.dt.date()
        return (day if self.partition_by == "date" else day.dt.truncate("1mo")).alias(self.partition_by)

    def empty(self) -> pl.DataFrame:
        """Return a frame without rows in the contract's schema."""
        return pl.DataFrame(schema=self.polars_schema)
