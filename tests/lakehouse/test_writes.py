"""The three ways to write: what each publishes, counts, quarantines, and says in the history."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.core.errors import AuditFailedError, BadRequestError, SchemaMismatchError
from hfthot_platform.storage.lakehouse import Stamp
from hfthot_platform.storage.lakehouse import days as lake_days

DAY = date(2024, 1, 1)
NEXT = date(2024, 1, 2)


def ids(table, **scan):
    return sorted(table.scan(**scan).select("trade_id").collect().to_series().to_list())


def counts(commit):
    return (commit.rows_read, commit.rows_published, commit.rows_duplicate, commit.rows_quarantined)


# -- append


def test_nothing_is_created_before_the_first_write(lake, table, tmp_path):
    assert table.scan().collect().height == 0
    assert table.version() is None
    assert table.versions() == []
    assert list(tmp_path.iterdir()) == []


def test_append_publishes_rows_and_returns_their_version(table, trades):
    commit = table.append(trades())

    assert counts(commit) == (10, 10, 0, 0)
    assert commit.changed
    assert commit.version == table.version() == 1
    assert commit.files_added == 1
    assert commit.bytes_added > 0
    given = trades()
    assert_frame_equal(table.scan().select(given.columns).collect(), given)


def test_append_finds_repeats_within_its_rows_only(table, trades):
    table.append(trades())

    commit = table.append(pl.concat([trades(5, 10), trades(5, 10)]))

    assert counts(commit) == (10, 5, 5, 0)
    assert ids(table) == list(range(15))


def test_append_of_a_lazy_frame_is_one_commit_of_many_pieces(table, trades, monkeypatch):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 25)
    frames = [trades(10, 10 * day, DAY + timedelta(days=day)) for day in range(8)]

    commit = table.append(pl.concat(frames).sample(fraction=1.0, shuffle=True, seed=3).lazy())

    assert counts(commit) == (80, 80, 0, 0)
    assert commit.version == 1
    assert commit.files_added == 8
    assert ids(table) == list(range(80))


def test_append_of_lazy_rows_in_another_time_zone_loses_none(table, trades, monkeypatch):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 5)
    frame = pl.concat([trades(4, 4 * day, DAY + timedelta(days=day)) for day in range(4)])

    commit = table.append(frame.lazy().with_columns(pl.col("ts").dt.convert_time_zone("America/New_York")))

    assert counts(commit) == (16, 16, 0, 0)
    assert ids(table) == list(range(16))


def test_lazy_rows_with_bad_ones_among_them_are_quarantined_before_the_good_are_public(
    lake, table, trades, monkeypatch
):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 25)
    frames = [trades(10, 10 * day, DAY + timedelta(days=day)) for day in range(8)]
    price = pl.when(pl.col("trade_id") % 20 == 3).then(-1.0).otherwise(100.0)

    commit = table.append(pl.concat(frames).lazy().with_columns(price=price))

    assert counts(commit) == (80, 76, 0, 4)
    assert lake.table("quarantine.trades").scan().collect()["reason"].to_list() == ["out_of_bounds"] * 4
    quarantined, published = lake.table("quarantine.trades").versions()[-1], table.versions()[-1]
    assert quarantined.timestamp <= published.timestamp


def test_lazy_rows_without_a_time_or_far_outside_the_calendar_are_quarantined(lake, table, trades, monkeypatch):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 25)
    frames = [trades(10, 10 * day, DAY + timedelta(days=day)) for day in range(8)]
    microseconds_as_milliseconds = (
        pl.col("ts").dt.epoch("us").cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime("us", "UTC"))
    )
    ts = (
        pl.when(pl.col("trade_id") == 5)
        .then(None)
        .when(pl.col("trade_id") == 77)
        .then(microseconds_as_milliseconds)
        .otherwise(pl.col("ts"))
    )

    commit = table.append(pl.concat(frames).lazy().with_columns(ts=ts))

    assert counts(commit) == (80, 78, 0, 2)
    assert sorted(lake.table("quarantine.trades").scan().collect()["reason"]) == ["missing_value", "time_out_of_range"]


def test_a_lazy_frame_of_the_wrong_schema_is_refused_before_it_is_read(table, trades):
    with pytest.raises(SchemaMismatchError, match="'price' is missing"):
        table.append(trades().lazy().drop("price"))
    with pytest.raises(SchemaMismatchError, match="'ts' is missing"):
        table.append(trades().lazy().drop("ts"))

    assert table.version() is None


def test_an_error_of_the_rows_own_source_is_not_blamed_on_the_table(table, trades, tmp_path):
    trades().write_parquet(tmp_path / "rows.parquet")
    rows = pl.scan_parquet(tmp_path / "rows.parquet")
    broken = rows.with_columns(price=pl.col("price").map_batches(_fail, return_dtype=pl.Float64))

    with pytest.raises(OSError, match="the source broke off"):
        table.append(broken)

    assert table.scan().collect().height == 0


def _fail(values):
    raise OSError("the source broke off")


def test_too_many_bad_rows_publish_nothing(lake, table, trades):
    bad = trades(price=pl.when(pl.col("trade_id") < 6).then(-1.0).otherwise(1.0))

    for write in (
        table.append,
        table.merge,
        lambda rows: table.replace(DAY, rows),
        lambda rows: table.append(rows.lazy()),
    ):
        with pytest.raises(
            AuditFailedError, match=r"6 of 10 rows break a rule, most often out_of_bounds \(6\); the limit is 50%"
        ):
            write(bad)

    assert table.scan().collect().height == 0
    assert lake.table("quarantine.trades").version() is None


def test_what_an_audit_returned_can_be_written_but_not_against_its_verdict(table, trades):
    audited = table.audit(trades(price=-1.0))

    for write in (table.append, table.merge):
        with pytest.raises(AuditFailedError):
            write(audited)
    assert counts(table.append(table.audit(trades()))) == (10, 10, 0, 0)


def test_rows_audited_for_another_table_are_refused(lake, table, closes):
    audited = lake.table("market.closes").audit(closes([DAY]))

    for write in (table.append, table.merge):
        with pytest.raises(BadRequestError, match=r"audited for market\.closes"):
            write(audited)


@pytest.mark.parametrize("lazy", [False, True])
def test_files_are_sorted_whatever_order_the_rows_came_in(table, trades, lazy):
    midnight = datetime(2024, 1, 1, tzinfo=UTC)
    rows = pl.concat(
        trades(1, symbol=pl.lit(symbol))
        .select(pl.all().repeat_by(50_000).explode())
        .with_columns(trade_id=pl.int_range(50_000), ts=pl.lit(midnight) + pl.duration(seconds=pl.int_range(50_000)))
        for symbol in ("ETH-USDT", "BTC-USDT")
    ).sample(fraction=1.0, shuffle=True, seed=5)

    if lazy:
        table.append(rows.lazy())
    else:
        table.replace(DAY, rows)

    for path in table.snapshot().paths:
        stored = pl.read_parquet(path, hive_partitioning=False)
        assert stored.equals(stored.sort("symbol", "venue", "ts", "trade_id"))


# -- merge


def test_merge_adds_what_is_new_and_counts_what_was_there(table, trades):
    table.append(trades())

    commit = table.merge(trades(15, source_ref="test:2"))

    assert counts(commit) == (15, 5, 10, 0)
    assert ids(table) == list(range(15))


def test_a_merge_run_again_makes_no_version(table, trades):
    first = table.merge(trades())

    again = table.merge(trades())

    assert not again.changed
    assert again.version == first.version == table.version()
    assert counts(again) == (10, 10, 0, 0)
    assert again.rows_replayed == 10


def test_rows_of_an_interrupted_run_count_as_published_by_its_re_run(table, trades):
    table.merge(trades(6))

    commit = table.merge(trades(10))

    assert counts(commit) == (10, 10, 0, 0)
    assert commit.rows_replayed == 6


@pytest.mark.parametrize(
    ("on_change", "expected", "amount"),
    [("update", (5, 2, 3, 0), 9.0), ("keep", (5, 0, 5, 0), 1.0), ("reject", (5, 0, 3, 2), 1.0)],
)
def test_merge_meets_other_values_as_told(lake, table, trades, on_change, expected, amount):
    table.append(trades(5))
    changed = trades(5, source_ref="test:2", amount=pl.when(pl.col("trade_id") < 2).then(9.0).otherwise(1.0))

    commit = table.merge(changed, on_change=on_change)

    assert counts(commit) == expected
    assert commit.rows_updated == (2 if on_change == "update" else 0)
    assert table.scan().filter(pl.col("trade_id") == 0).collect()["amount"].to_list() == [amount]
    assert ids(table) == list(range(5))
    quarantine = lake.table("quarantine.trades").scan().collect()
    assert quarantine["reason"].to_list() == (["conflicting_key"] * 2 if on_change == "reject" else [])


def test_merge_spans_partitions_and_venues(table, trades):
    table.append(trades())

    commit = table.merge(pl.concat([trades(5, venue="binance"), trades(5, 100, NEXT), trades(5)]))

    assert counts(commit) == (15, 15, 0, 0)
    assert commit.rows_replayed == 5
    assert table.scan().collect().height == 20


@pytest.mark.parametrize("name", ["market.closes", "market.bars", "ops.ingest_files"])
def test_merge_works_for_every_partitioning(lake, bars, closes, name):
    days = [date(2023, 12, 31), date(2024, 1, 1), date(2024, 2, 29)]
    files = pl.DataFrame({"content_hash": ["a" * 64, "b" * 64]}).with_columns(
        name=pl.lit("f.csv"),
        bytes=pl.lit(1, dtype=pl.Int64),
        status=pl.lit("published"),
        rows_read=pl.lit(1, dtype=pl.Int64),
        rows_published=pl.lit(1, dtype=pl.Int64),
        rows_duplicate=pl.lit(0, dtype=pl.Int64),
        rows_quarantined=pl.lit(0, dtype=pl.Int64),
        ingested_at=pl.lit(datetime(2024, 1, 1, tzinfo=UTC)),
        run_id=pl.lit("r"),
    )
    rows = {"market.closes": closes(days), "market.bars": bars(days), "ops.ingest_files": files}[name]
    table = lake.table(name)
    table.merge(rows[:1])

    commit = table.merge(rows)
    again = table.merge(rows)

    assert commit.rows_published == rows.height if name != "ops.ingest_files" else commit.rows_published == 1
    assert not again.changed
    assert table.scan().collect().height == rows.height


# -- replace


def test_replace_leaves_other_days_alone(table, trades):
    table.append(pl.concat([trades(), trades(10, 10, NEXT)]))

    commit = table.replace(DAY, trades(3, 50))

    assert counts(commit) == (3, 3, 0, 0)
    assert ids(table) == [*range(10, 20), 50, 51, 52]


def test_replace_with_the_same_rows_makes_no_version(table, trades):
    table.replace(DAY, trades())
    version = table.version()

    for rows in (trades(), trades().lazy(), trades().sample(fraction=1.0, shuffle=True, seed=1)):
        again = table.replace(DAY, rows)

        assert not again.changed
        assert counts(again) == (10, 10, 0, 0)
    assert table.version() == version


def test_replace_gives_a_function_the_rows_that_are_there(table, trades):
    table.append(pl.concat([trades(), trades(10, 10, NEXT)]))

    table.replace(DAY, lambda now: pl.concat([now.collect().filter(pl.col("trade_id") > 4), table.contract.empty()]))

    assert ids(table) == list(range(5, 20))


def test_replace_refuses_rows_outside_the_days(table, trades):
    for rows in (trades(2, 0, NEXT), trades(2, 0, NEXT).lazy()):
        with pytest.raises(BadRequestError, match="2 of 2 rows are outside 2024-01-01"):
            table.replace(DAY, rows)


def test_replace_refuses_an_empty_span(table, trades):
    with pytest.raises(BadRequestError, match="is empty"):
        table.replace((DAY, DAY), trades())


def test_replace_of_a_span_streams_in_pieces(table, trades, monkeypatch):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 25)
    table.append(pl.concat([trades(10, 10 * day, DAY + timedelta(days=day)) for day in range(8)]))
    new = pl.concat([trades(9, 100 + 9 * day, DAY + timedelta(days=day)) for day in range(7)])

    commit = table.replace((DAY, DAY + timedelta(days=7)), new.lazy())

    assert counts(commit) == (63, 63, 0, 0)
    assert ids(table) == [*range(70, 80), *range(100, 163)]


def test_a_streamed_replace_refuses_rows_outside_the_days(table, trades, monkeypatch):
    monkeypatch.setattr(lake_days, "CHUNK_ROWS", 5)
    table.append(trades())

    with pytest.raises(BadRequestError, match="are outside"):
        table.replace(DAY, pl.concat([trades(5), trades(5, 10, NEXT)]).lazy())

    assert ids(table) == list(range(10))


def test_replace_of_one_day_in_a_month_partition_keeps_the_rest_of_the_month(lake, bars):
    table = lake.table("market.bars")
    table.append(bars([date(2024, 1, day) for day in (1, 2, 3, 31)] + [date(2024, 2, 1)]))

    table.replace(date(2024, 1, 2), bars([date(2024, 1, 2)], close=99.0))

    now = table.scan().sort("ts").collect()
    assert now["close"].to_list() == [10.0, 99.0, 10.0, 10.0, 10.0]


def test_replace_of_a_span_over_month_ends(lake, bars):
    table = lake.table("market.bars")
    table.append(bars([date(2023, 12, 31), date(2024, 1, 1), date(2024, 1, 31), date(2024, 2, 1), date(2024, 2, 2)]))

    table.replace((date(2024, 1, 1), date(2024, 2, 2)), bars([date(2024, 1, 15)], close=99.0))

    assert table.scan().sort("ts").collect()["close"].to_list() == [10.0, 99.0, 10.0]


def test_replace_of_days_in_a_year_partition(lake, closes):
    table = lake.table("market.closes")
    table.append(closes([date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)]))

    table.replace((date(2023, 12, 29), date(2024, 1, 3)), closes([date(2023, 12, 29), date(2024, 1, 2)], close=99.0))

    assert table.scan().sort("date").collect()["close"].to_list() == [99.0, 99.0, 10.0]


def test_replace_of_a_whole_table(lake, table, trades):
    table.append(pl.concat([trades(), trades(10, 10, NEXT)]))

    table.replace(None, trades(2, 7))

    assert ids(table) == [7, 8]


def test_replace_with_nothing_empties_the_days(table, trades):
    table.append(pl.concat([trades(), trades(10, 10, NEXT)]))

    table.replace(DAY, table.contract.empty())

    assert ids(table) == list(range(10, 20))


def test_a_table_without_time_is_replaced_whole_only(lake):
    table = lake.table("market.instruments")
    rows = pl.DataFrame(
        {"venue": ["kraken"], "symbol": ["BTC-USDT"], "kind": ["spot"], "source": ["replay"], "source_ref": ["x"]}
    )

    assert table.replace(None, rows).rows_published == 1
    assert not table.replace(None, rows).changed
    with pytest.raises(BadRequestError, match="no time column"):
        table.replace(DAY, rows)


# -- quarantine


def test_a_rejected_row_is_quarantined_with_rule_source_position_and_run(lake, table, trades):
    bad = trades(price=pl.when(pl.col("trade_id") == 3).then(-1.0).otherwise(100.0)).with_row_index(
        "_row_number", offset=1
    )

    commit = table.merge(bad, stamp=Stamp(run_id="run-7"))

    row = lake.table("quarantine.trades").scan().collect().row(0, named=True)
    assert counts(commit) == (10, 9, 0, 1)
    assert (row["reason"], row["detail"]) == ("out_of_bounds", "0 < price <= 1e+09")
    assert (row["source_ref"], row["row_number"], row["run_id"]) == ("test:1", 4, "run-7")
    assert json.loads(row["row"])["price"] == "-1.0"


def test_a_re_run_quarantines_nothing_twice(lake, table, trades):
    bad = trades(price=pl.when(pl.col("trade_id") < 3).then(-1.0).otherwise(100.0))

    first, again = table.merge(bad), table.merge(bad)

    assert first.rows_quarantined == again.rows_quarantined == 3
    assert lake.table("quarantine.trades").scan().collect().height == 3
    assert lake.table("quarantine.trades").version() == 1


def test_a_table_without_quarantine_refuses_bad_rows(lake):
    files = lake.table("ops.incidents")
    good = {
        "incident_id": "x",
        "ts": datetime(2024, 1, 1, tzinfo=UTC),
        "severity": "error",
        "kind": "run_failure",
    }
    rows = pl.DataFrame([good, {**good, "incident_id": "y", "kind": "boredom"}])

    with pytest.raises(AuditFailedError, match="has no quarantine"):
        files.append(rows)

    assert files.scan().collect().height == 0


# -- stamps


def test_every_commit_says_who_why_and_from_what(table, trades):
    stamp = Stamp("run-1", "trades", "2024-01-01", "abc123", {"market.instruments": 4})
    commit = table.append(trades(), stamp=stamp)

    entry = table.versions()[-1]
    log = (table.folder / "_delta_log" / f"{commit.version:020d}.json").read_text().splitlines()
    said = next(json.loads(line)["commitInfo"] for line in log if "commitInfo" in line)

    assert (entry.version, entry.run_id, entry.asset, entry.partition) == (1, "run-1", "trades", "2024-01-01")
    assert (entry.operation, entry.rows) == ("APPEND", 10)
    assert said["hfthot.code_version"] == "abc123"
    assert json.loads(said["hfthot.inputs"]) == {"market.instruments": 4}


def test_the_history_tells_operations_and_rows(table, trades):
    table.append(trades())
    table.merge(trades(12))
    table.replace(DAY, trades(3))
    table.restore(1)

    told = [(version.operation, version.rows) for version in table.versions()]

    assert told[:4] == [("CREATE TABLE", None), ("APPEND", 10), ("MERGE", 2), ("OVERWRITE", 3)]
    assert told[4][0] == "RESTORE"


def test_statistics_are_kept_for_the_declared_columns_only(table, trades):
    table.append(trades())

    log = (table.folder / "_delta_log" / f"{1:020d}.json").read_text().splitlines()
    stats = next(json.loads(json.loads(line)["add"]["stats"]) for line in log if '"add"' in line)

    assert set(stats["minValues"]) == {"symbol", "ts", "trade_id"}


def test_a_table_can_be_written_from_its_own_scan(table, trades):
    table.append(trades())

    table.replace(DAY, table.scan().filter(pl.col("trade_id") > 6).collect())

    assert ids(table) == [7, 8, 9]
