"""Data files have one form, whatever wrote them: sorted, texts as Arrow `string`, statistics in the log."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import ONE_DAY
from hfthot_platform.services.sql import query
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.lakehouse.units import Extent, cuts, units_of

DAY = date(2024, 1, 1)


def types(path):
    return {field.name: field.type for field in pq.read_schema(path)}


def wanted(contract):
    return {column.name: column.dtype for column in contract.columns if column.name != contract.partition_by}


WAYS = {
    "append": lambda table, rows: table.append(rows(5, 100)),
    "append of a lazy frame": lambda table, rows: table.append(rows(5, 100).lazy()),
    "merge of new rows": lambda table, rows: table.merge(rows(5, 100)),
    "merge of changed rows": lambda table, rows: table.merge(rows(3, amount=7.0)),
    "replace": lambda table, rows: table.replace(DAY, rows(4)),
    "replace of the whole table": lambda table, rows: table.replace(None, rows(4)),
    "publish": lambda table, rows: table.publish(lambda: [table.audit(rows(5, 100))], source_ref="test:1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_texts_are_arrow_strings_however_they_were_written(table, trades, way):
    table.append(trades())
    before = set(table.snapshot().paths)

    WAYS[way](table, trades)

    new = set(table.snapshot().paths) - before
    assert new
    assert all(types(path) == wanted(table.contract) for path in new)


def test_texts_of_quarantined_rows_and_of_what_replaces_one_day_of_a_month_are_arrow_strings(lake, bars, trades):
    lake.table("market.trades").merge(trades(price=pl.when(pl.col("trade_id") == 3).then(-1.0).otherwise(1.0)))
    lake.table("market.bars").append(bars([DAY, DAY + timedelta(days=1)]))
    lake.table("market.bars").replace(DAY, bars([DAY], close=11.0))
    for name in ("quarantine.trades", "market.bars"):
        table = lake.table(name)
        assert [types(path) for path in table.snapshot().paths] == [wanted(table.contract)]


def test_texts_of_rows_that_outlive_others_of_their_file_are_arrow_strings(tmp_path, trades):
    clock = [datetime(2024, 1, 1, tzinfo=UTC)]
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: clock[0])
    bad = trades(price=pl.when(pl.col("trade_id") == 3).then(-1.0).otherwise(1.0))
    for reference in ("first", "second"):
        lake.table("market.trades").merge(bad.with_columns(source_ref=pl.lit(reference)))
        maintain(lake, "quarantine.trades")
        clock[0] += timedelta(days=200)
    clock[0] = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=400)

    assert maintain(lake, "quarantine.trades", most_expired=1.0, history_days=0).rows_expired == 1

    quarantined = lake.table("quarantine.trades")
    (path,) = quarantined.snapshot().paths
    assert types(path) == wanted(quarantined.contract)
    assert quarantined.scan().collect()["source_ref"].to_list() == ["second"]


def test_files_of_an_older_release_are_read_and_compaction_writes_them_in_the_new_form(lake, table, trades):
    table.append(trades())
    audited = table.audit(trades(10, 100)).rows
    write_deltalake(table.uri, audited.to_arrow(), mode="append")
    old = {path for path in table.snapshot().paths if types(path)["symbol"] == pa.large_string()}
    assert len(old) == 1
    rows = table.scan().sort("trade_id").collect()
    assert rows["trade_id"].to_list() == [*range(10), *range(100, 110)]

    maintain(lake, "market.trades")

    assert [types(path) for path in table.snapshot().paths] == [wanted(table.contract)]
    assert table.scan().sort("trade_id").collect().equals(rows)


# -- a day of more files -----------------------------------------------------------------------------------------------


def day_of(trades, symbols, commits, rows_each=200):
    """Yield a day's trades as they come in: every commit has some of every symbol."""
    for commit in range(commits):
        names = [f"S{(at * 7 + commit) % symbols:03d}-USD" for at in range(rows_each)]
        yield trades(rows_each, commit * rows_each).with_columns(symbol=pl.Series(names))


def spans(table):
    files = table.files().entries
    return sorted(zip(files.column("min.symbol").to_pylist(), files.column("max.symbol").to_pylist(), strict=True))


@pytest.fixture
def large_day(lake, table, trades):
    for rows in day_of(trades, symbols=40, commits=6):
        table.append(rows)
    return table


def test_a_day_larger_than_a_file_becomes_sorted_files_that_share_no_symbol(lake, large_day):
    rows = large_day.scan().sort("symbol", "venue", "ts", "trade_id").collect()
    version = large_day.version()

    report = maintain(lake, "market.trades", file_bytes=8_000)

    found = spans(large_day)
    assert len(found) > 3
    assert all(high < low for (_, high), (low, _) in pairwise(found))
    for path in large_day.snapshot().paths:
        stored = pl.read_parquet(path)
        assert stored.equals(stored.sort("symbol", "venue", "ts", "trade_id"))
    assert large_day.scan().sort("symbol", "venue", "ts", "trade_id").collect().equals(rows)
    assert (report.files_compacted, large_day.version()) == (6, version + 1)
    assert large_day.problems(deep=True) == []


def test_what_is_in_order_already_is_left_alone_and_what_comes_later_is_put_in(lake, large_day, trades):
    maintain(lake, "market.trades", file_bytes=8_000)
    version = large_day.version()
    assert maintain(lake, "market.trades", file_bytes=8_000).files_compacted == 0
    assert large_day.version() == version

    large_day.append(trades(5, 1_000_000).with_columns(symbol=pl.lit("S007-USD")))

    assert maintain(lake, "market.trades", file_bytes=8_000).files_compacted > 0
    found = spans(large_day)
    assert all(high < low for (_, high), (low, _) in pairwise(found))
    assert large_day.scan().collect().height == 6 * 200 + 5


def test_after_it_a_question_about_one_symbol_opens_one_file(lake, large_day):
    statement = "SELECT count(*) AS n FROM market.trades WHERE symbol = 'S020-USD'"
    whole = query(lake, statement)
    before = large_day.bytes_and_files()[0]

    maintain(lake, "market.trades", file_bytes=3_000)

    found = query(lake, statement)
    sizes = large_day.files().entries.column("size_bytes").to_pylist()
    assert (found.frame["n"].item(), whole.frame["n"].item()) == (30, 30)
    assert whole.bytes_scanned == before
    assert found.bytes_scanned in sizes


# -- units of a day ----------------------------------------------------------------------------------------------------


def of_units(table, units):
    return [table.scan().filter(unit.within(table.contract)).collect() for unit in units]


@pytest.mark.parametrize("compacted", [True, False], ids=["files without overlap", "files of every symbol"])
def test_units_have_every_row_once_and_no_more_than_they_may(lake, large_day, compacted):
    if compacted:
        maintain(lake, "market.trades", file_bytes=8_000)

    units = units_of(large_day, (DAY, DAY + ONE_DAY), most_rows=100)

    parts = of_units(large_day, units)
    assert len(units) >= 1200 // 100
    assert max(part.height for part in parts) <= 100
    together = pl.concat(part.sort("symbol", "venue", "ts", "trade_id") for part in parts)
    assert together.equals(large_day.scan().sort("symbol", "venue", "ts", "trade_id").collect())


def test_where_files_do_not_overlap_the_log_alone_tells_the_units(lake, large_day):
    maintain(lake, "market.trades", file_bytes=8_000)
    most = max(large_day.files().entries.column("num_records").to_pylist())
    for path in large_day.snapshot().paths:
        Path(path).unlink()

    units = units_of(large_day, (DAY, DAY + ONE_DAY), most_rows=most)

    assert [unit.least for unit in units] == [None, *(low for low, _ in spans(large_day)[1:])]


def test_a_symbol_is_never_divided_and_a_small_day_is_one_unit(table, trades):
    table.append(trades(50))
    table.append(trades(50, 100))
    assert len(units_of(table, (DAY, DAY + ONE_DAY), most_rows=10)) == 1
    assert len(units_of(table, (DAY, DAY + ONE_DAY))) == 1
    assert len(units_of(table, (DAY + ONE_DAY, DAY + 2 * ONE_DAY), most_rows=10)) == 1


def test_a_day_replaced_unit_by_unit_is_the_same_as_one_replaced_at_once(lake, large_day):
    days = (DAY, DAY + ONE_DAY)
    units = units_of(large_day, days, most_rows=100)

    def dearer(rows):
        return rows.with_columns(price=pl.col("price") + 1).collect()

    commit = large_day.replace_units(units, lambda _unit, current: dearer(current))
    by_units = large_day.scan().collect().sort("symbol", "venue", "ts", "trade_id")

    assert (commit.rows_published, commit.changed) == (1200, True)
    large_day.restore(commit.version - 1)
    large_day.replace(days, dearer)
    assert large_day.scan().collect().sort("symbol", "venue", "ts", "trade_id").equals(by_units)
    again = large_day.replace_units(units, lambda unit, _: by_units.filter(unit.holds))
    assert (again.changed, again.rows_replayed) == (False, 1200)


def test_units_that_leave_rows_out_and_rows_of_another_unit_are_refused(large_day):
    days = (DAY, DAY + ONE_DAY)
    units = units_of(large_day, days, most_rows=400)
    version = large_day.version()
    with pytest.raises(BadRequestError, match="do not divide the rows of one span"):
        large_day.replace_units(units[:-1], lambda _unit, current: current.collect())
    with pytest.raises(BadRequestError, match="outside the unit of symbol"):
        large_day.replace_units(units, lambda _unit, _current: large_day.scan().collect())
    assert large_day.version() == version
    assert len(list(large_day.folder.rglob("*.parquet"))) == 6, "nothing is left of what was written"


@settings(deadline=None, max_examples=40)
@given(
    files=st.lists(st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=30), min_size=1, max_size=6),
    most=st.integers(1, 40),
)
def test_units_are_as_large_as_they_may_be_and_no_larger(files, most):
    extents = [Extent(min(names), max(names), len(names), 10 * len(names)) for names in files]

    def count(positions):
        names = [name for at in positions for name in files[at]]
        return pl.DataFrame({"symbol": names}, schema={"symbol": pl.String}).group_by("symbol").len()

    found = cuts(extents, count, most_rows=most, most_bytes=10**9)

    assert found == sorted(set(found))
    edges = ["", *found, "Z"]
    everything = [name for names in files for name in names]
    for low, high in pairwise(edges):
        mine = [name for name in everything if low <= name < high]
        assert mine
        assert len(mine) <= most or len(set(mine)) == 1
