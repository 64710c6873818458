"""Columnar files: Parquet and Feather, by the names of their columns, freqtrade's and anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import polars as pl
import pyarrow as pa

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised, truncated
from hfthot_platform.adapters.files.canonical import canonical_batches
from hfthot_platform.adapters.files.columns import match_columns, refuse_by_name, refuse_other_tables
from hfthot_platform.adapters.files.csv import complete, type_of
from hfthot_platform.adapters.files.delimited import Sieve
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import RejectedFileError
from hfthot_platform.domain.contracts.market import CLOSES, CORPORATE_ACTIONS, TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER

__all__ = ["Columnar"]

_SAMPLE_ROWS: Final = 200
#: A columnar file within a container is needed whole, in memory.
_LARGEST_PACKED: Final = 1 << 30


class Columnar:
    """Reads Parquet and Feather files by the names of their columns."""

    name = "columnar"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if probe.container not in ("parquet", "arrow"):
            return None
        refuse_by_name(probe)
        names = _schema(probe).names
        if probe.declared.table in (CLOSES.name, CORPORATE_ACTIONS.name):
            raise RejectedFileError(
                "unsupported_container",
                f"rows of {probe.declared.table} can be read only from text",
                where=probe.name,
                hint="Write the table as CSV.",
            )
        sample = _sample(probe, names)
        declared = probe.declared.columns
        matched = (
            declared
            if isinstance(declared, dict)
            else {target: names[place] for target, place in match_columns(names, sample).items()}
        )
        refuse_other_tables(names, sample, probe, bars="open" in matched)
        absent = [name for name in matched.values() if name not in names]
        if not matched or absent:
            raise RejectedFileError(
                "wrong_schema",
                f"no column {', '.join(absent)}"
                if absent
                else f"columns {', '.join(names)} are neither bars nor trades",
                where=probe.name,
                hint=f"Declare `columns` in {probe.name}.mapping.yaml (target: column). Daily closes and "
                "corporate actions can be read only from text: write them as CSV.",
            )
        head = next(_frames(probe, matched), pl.DataFrame()).head(20_000)
        mapping, table = complete(probe.declared, probe, tuple(matched), head, matched)
        return Recognised(
            self,
            f"{probe.container}_{'trades' if table == TRADES.name else 'bars'}",
            table,
            mapping.venue,
            mapping.symbol,
            {"mapping": mapping, "columns": matched},
        )

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        mapping, columns = claim.details["mapping"], claim.details["columns"]
        assert isinstance(mapping, CsvMapping)
        assert isinstance(columns, dict)
        sieves = _columnar_sieves(probe, columns, progress)
        yield from canonical_batches(sieves, mapping, probe, claim, source_ref, batch_rows)


def _source(probe: FileProbe) -> object:
    """Return what pyarrow reads: the file, or its bytes out of a container."""
    if not probe.route:
        return str(probe.path)
    with probe.open() as stream:
        data = stream.read(_LARGEST_PACKED + 1)
    if len(data) > _LARGEST_PACKED:
        raise RejectedFileError(
            "too_large",
            f"the file is a compressed {probe.container} file of more than {_LARGEST_PACKED:,} bytes",
            where=probe.name,
            hint="Unpack it: {probe.container} files are already compressed.",
        )
    return pa.BufferReader(data)


def _opened(probe: FileProbe) -> pa.RecordBatchFileReader:
    source = _source(probe)
    return pa.ipc.open_file(pa.memory_map(source) if isinstance(source, str) else source)


def _schema(probe: FileProbe) -> pa.Schema:
    try:
        if probe.container == "parquet":
            import pyarrow.parquet as pq

            return pq.read_schema(_source(probe))
        with _opened(probe) as reader:
            return reader.schema
    except (pa.ArrowInvalid, OSError) as error:
        raise truncated(probe.name, error) from error


def _sample(probe: FileProbe, names: list[str]) -> list[list[str]]:
    """Return the first rows as text."""
    first = next(_frames(probe, {name: name for name in names if names.count(name) == 1}), pl.DataFrame())
    rows = first.head(_SAMPLE_ROWS)
    cells = [_as_text(rows[name]) if name in rows.columns else [""] * rows.height for name in names]
    return [list(row) for row in zip(*cells, strict=True)]


def _as_text(values: pl.Series) -> list[str]:
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        return ["[]" if value is None else "nested" for value in values]
    if values.dtype.is_float() and values.drop_nulls().eq(values.drop_nulls().round()).all():
        values = values.cast(pl.Int64, strict=False)
    return [value or "" for value in values.cast(pl.String, strict=False)]


def _frames(probe: FileProbe, columns: dict[str, str]) -> Iterator[pl.DataFrame]:
    """Yield the file's columns under their target names, in pieces."""
    try:
        if probe.container == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(_source(probe)) as file:
                for piece in file.iter_batches(batch_size=250_000, columns=sorted(set(columns.values()))):
                    yield _renamed(piece, columns)
        else:
            with _opened(probe) as reader:
                for index in range(reader.num_record_batches):
                    yield _renamed(reader.get_batch(index), columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise truncated(probe.name, error) from error


def _renamed(piece: pa.RecordBatch, columns: dict[str, str]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches([piece]))
    assert isinstance(frame, pl.DataFrame)
    return frame.select(pl.col(name).alias(target) for target, name in columns.items())


def _columnar_sieves(probe: FileProbe, columns: dict[str, str], progress: Progress) -> Iterator[Sieve]:
    done = 0
    for frame in _frames(probe, columns):
        source, first = frame, done + 1

        def raw(failing: pl.DataFrame, source: pl.DataFrame = source, first: int = first) -> pl.Series:
            rows = source[failing[ROW_NUMBER] - first]
            return rows.select(pl.struct(pl.all()).struct.json_encode()).to_series()

        sieve = Sieve(
            frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias(ROW_NUMBER)), raw
        )
        for name in columns:
            if type_of(name) != pl.Float64:
                continue
            value = pl.col(name)
            number = value.cast(pl.Float64, strict=False)
            sieve.reject(
                value.is_not_null() & number.is_null(),
                "unparsable_value",
                pl.format(f"{name} is {{}}", value.cast(pl.String)),
            )
            sieve.rows = sieve.rows.with_columns(number)
        for name in ("ts", "date", "time"):
            if name in columns:
                sieve.reject(pl.col(name).is_null(), "missing_value", f"{name} is empty")
        done += frame.height
        yield sieve
        progress(done, None, "rows")
