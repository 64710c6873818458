"""What the table-level checks find in a real lake on disk."""

import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError, UnknownTableError
from hfthot_platform.domain.contracts import CONTRACTS, contract
from hfthot_platform.domain.market.bars import bars_from_trades
from hfthot_platform.services.quality import checks_of, rows, run_checks
from hfthot_platform.storage.lakehouse import Lakehouse

DAY = date(2024, 3, 4)
START = datetime(2024, 3, 4, tzinfo=UTC)
NOW = datetime(2024, 3, 5, 6, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    return Lakehouse.open(tmp_path / "lake", clock=lambda: NOW, new=True)


def bars(minutes, *, symbol="BTC-USDT", start=START, venue="binance"):
    """Vendor bars of one minute, at these minutes after a start."""
    price = [100.0 + minute % 7 for minute in minutes]
    ts = [start + timedelta(minutes=minute) for minute in minutes]
    return pl.DataFrame(
        {
            "venue": venue,
            "symbol": symbol,
            "ts": ts,
            "ts_close": [moment + timedelta(minutes=1) for moment in ts],
            "open": price,
            "high": price,
            "low": price,
            "close": price,
            "volume": 1.0,
            "final": True,
            "origin": "vendor",
            "source": "vendor_history",
            "source_ref": "test",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "ts_close": pl.Datetime("us", "UTC")},
    )


def trades(count, *, symbol="BTC-USDT", first_id=1, start=START, step=timedelta(seconds=20)):
    return pl.DataFrame(
        {
            "venue": "binance",
            "symbol": symbol,
            "ts": [start + step * i for i in range(count)],
            "trade_id": range(first_id, first_id + count),
            "price": [100.0 + i % 5 for i in range(count)],
            "amount": 0.5,
            "side": "buy",
            "source": "vendor_history",
            "source_ref": "test",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC")},
    )


def instruments(*symbols, delisted_on=None):
    return pl.DataFrame(
        {
            "venue": "binance",
            "symbol": symbols,
            "kind": "spot",
            "delisted_on": pl.Series([delisted_on] * len(symbols), dtype=pl.Date),
            "source": "vendor_history",
            "source_ref": "test",
        }
    )


def outcome(lake, table, name, *, span=DAY, now=NOW):
    return next(check for check in run_checks(lake, table, span, now) if check.name == name)


def test_a_complete_fresh_known_table_passes_every_check(lake):
    lake.table("market.instruments").append(instruments("BTC-USDT"))
    lake.table("market.bars_1m").append(bars(range(1440)))
    found = run_checks(lake, "market.bars_1m", DAY, NOW)
    # The Delta writer may interleave batches of rows, so the order within files is not this test's matter.
    assert {check.name for check in found if not check.passed} <= {"file_order"}


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_table_has_its_checks_even_before_it_is_written(lake, name):
    found = run_checks(lake, name, None, NOW)
    assert [(check.name, check.severity) for check in found] == [
        (check.name, check.severity) for check in checks_of(contract(name))
    ]
    assert all(check.passed for check in found)


def test_which_checks_apply_follows_from_the_contract():
    names = {name: {check.name for check in checks_of(contract(name))} for name in CONTRACTS}
    everything = {"values", "consistency", "spikes", "unique_key", "file_order", "completeness", "staleness"}
    assert names["market.bars_1m"] == everything | {"agreement", "known_symbols"}
    assert names["market.trades"] == everything - {"consistency", "completeness"} | {"known_symbols"}
    assert names["ops.ingest_files"] == {"values", "unique_key", "file_order"}
    assert "staleness" not in names["market.corporate_actions"]


def test_outcomes_are_plain_json(lake):
    lake.table("market.bars_1m").append(bars([0, 1, 5]))
    for check in run_checks(lake, "market.bars_1m", None, NOW):
        assert json.loads(json.dumps(asdict(check)))["observed"]["version"] == lake.table("market.bars_1m").version()


def test_missing_minutes_are_counted_and_not_filled(lake):
    lake.table("market.bars_1m").append(bars([0, 1, 2, 6, 7, 20]))
    found = outcome(lake, "market.bars_1m", "completeness", span=None)
    assert not found.passed
    assert found.severity == "warn"
    assert (found.observed["expected"], found.observed["present"], found.observed["missing"]) == (21, 6, 15)
    assert found.observed["worst"][0] == {
        "venue": "binance",
        "symbol": "BTC-USDT",
        "interval": "1m",
        "expected": 21,
        "missing": 15,
        "runs": 2,
        "longest": 12,
    }
    assert lake.table("market.bars_1m").scan().select(pl.len()).collect().item() == 6


def test_a_series_that_goes_on_is_expected_up_to_the_borders_of_the_span(lake):
    before, after = START - timedelta(minutes=1), START + timedelta(days=1)
    lake.table("market.bars_1m").append(
        pl.concat([bars([0], start=before), bars(range(10, 1430)), bars([0], start=after)])
    )
    assert outcome(lake, "market.bars_1m", "completeness").observed["missing"] == 20


def test_a_day_without_any_row_between_two_days_with_rows_is_missing_as_a_whole(lake):
    lake.table("market.bars_1m").append(pl.concat([bars([-1]), bars([1440])]))
    assert outcome(lake, "market.bars_1m", "completeness").observed["missing"] == 1440


def test_a_series_that_begins_within_the_span_is_expected_from_its_first_row_only(lake):
    lake.table("market.bars_1m").append(pl.concat([bars(range(700, 1440)), bars([0], start=START + timedelta(days=1))]))
    assert outcome(lake, "market.bars_1m", "completeness").passed


def test_a_weekend_is_no_gap_in_daily_closes_of_us_shares(lake):
    days = [date(2024, 3, 1), date(2024, 3, 4), date(2024, 3, 6)]
    closes = pl.DataFrame(
        {"date": days, "venue": "us_equity", "symbol": "AAPL", "close": [1.0, 1.1, 1.2], "adjusted": True}
    ).with_columns(source=pl.lit("vendor_history"), source_ref=pl.lit("test"))
    lake.table("market.closes").append(closes)
    assert outcome(lake, "market.closes", "completeness", span=None).observed["missing"] == 1  # Tuesday the 5th


def test_series_are_counted_alike_when_taken_a_few_at_a_time(lake, monkeypatch):
    lake.table("market.bars_1m").append(
        pl.concat([bars([0, 2, 5], symbol=f"S{i}-USDT") for i in range(5)], how="vertical")
    )
    whole = outcome(lake, "market.bars_1m", "completeness", span=None).observed
    monkeypatch.setattr("hfthot_platform.services.quality.series.ROWS_AT_ONCE", 7)
    assert outcome(lake, "market.bars_1m", "completeness", span=None).observed == whole
    assert whole["missing"] == 15


def test_a_key_appended_twice_is_found(lake):
    lake.table("market.bars_1m").append(bars(range(10)))
    lake.table("market.bars_1m").append(bars(range(8, 12)))
    found = outcome(lake, "market.bars_1m", "unique_key")
    assert (found.passed, found.severity, found.observed["repeated"]) == (False, "error", 2)


@pytest.mark.parametrize("at_once", [5_000_000, 3])
def test_a_trade_id_repeated_on_another_day_is_found_across_memory_bounded_pieces(lake, monkeypatch, at_once):
    monkeypatch.setattr("hfthot_platform.storage.lakehouse.days.CHUNK_ROWS", 5)
    monkeypatch.setattr(rows, "KEYS_AT_ONCE", at_once)
    lake.table("market.trades").append(trades(5))
    lake.table("market.trades").append(trades(5, first_id=4, start=START + timedelta(days=1)))
    assert outcome(lake, "market.trades", "unique_key", span=None).observed["repeated"] == 2


def test_rows_that_got_past_the_gate_are_found_by_the_contracts_rules(lake, monkeypatch):
    """A table written before a rule was added, or by somebody else."""
    table = lake.table("market.bars_1m")
    bad = bars(range(4)).with_columns(high=pl.Series([100.0, 50.0, 102.0, 103.0]), close=pl.Series([100.0, 1, 102, -3]))
    monkeypatch.setattr(
        "hfthot_platform.storage.lakehouse.audit.apply_rules", lambda _c, frame: (frame, none(frame), ())
    )
    table.append(bad)
    assert outcome(lake, "market.bars_1m", "consistency").observed["violations"] == {
        "inconsistent_bar:high": 1,
        "inconsistent_bar:close": 2,
    }
    assert outcome(lake, "market.bars_1m", "values").observed["violations"] == {"out_of_bounds:close": 1}


def none(frame):
    return frame.clear().with_columns(pl.lit(None, dtype=pl.String()).alias("_reason"))


def test_a_spike_that_only_two_batches_together_show_is_found(lake):
    calm = bars(range(6)).with_columns(close=100.0, high=100.0, open=100.0, low=100.0)
    lake.table("market.bars_1m").append(calm.filter(pl.col("ts") != START + timedelta(minutes=3)))
    odd = calm.filter(pl.col("ts") == START + timedelta(minutes=3)).with_columns(
        close=9000.0, high=9000.0, open=9000.0, low=9000.0
    )
    lake.table("market.bars_1m").append(odd)
    found = outcome(lake, "market.bars_1m", "spikes")
    assert (found.passed, found.observed["violations"]) == (False, {"absurd_value:close": 1})


def test_a_data_file_out_of_order_is_found(tmp_path):
    good = trades(10).with_columns(symbol=pl.Series(["A-USDT"] * 5 + ["B-USDT"] * 5))
    good.write_parquet(tmp_path / "good.parquet")
    good.reverse().write_parquet(tmp_path / "bad.parquet")
    paths = [str(tmp_path / "good.parquet"), str(tmp_path / "bad.parquet")]
    assert rows.unsorted_files(contract("market.trades"), paths, {}) == paths[1:]


def test_only_files_of_the_span_are_looked_at(lake):
    lake.table("market.bars_1m").append(pl.concat([bars(range(3)), bars(range(3), start=START + timedelta(days=1))]))
    assert outcome(lake, "market.bars_1m", "file_order").observed["files"] == 1
    assert outcome(lake, "market.bars_1m", "file_order", span=None).observed["files"] == 2


def test_a_live_series_that_stopped_is_stale_and_the_others_are_not(lake):
    now = START + timedelta(days=4)
    lake.table("market.bars_1m").append(
        pl.concat([bars([0], symbol="OLD-USDT"), bars([0], symbol="NEW-USDT", start=now - timedelta(hours=1))])
    )
    found = outcome(lake, "market.bars_1m", "staleness", span=None, now=now)
    assert not found.passed
    assert (found.observed["series"], found.observed["stale_series"]) == (2, 1)
    assert [series["symbol"] for series in found.observed["worst"]] == ["OLD-USDT"]
    assert found.observed["worst"][0]["hours_behind"] == pytest.approx(96, abs=0.1)


def test_a_delisted_series_is_not_stale(lake):
    now = START + timedelta(days=4)
    lake.table("market.instruments").append(instruments("OLD-USDT", delisted_on=DAY))
    lake.table("market.bars_1m").append(
        pl.concat([bars([0], symbol="OLD-USDT"), bars([0], symbol="NEW-USDT", start=now - timedelta(hours=1))])
    )
    assert outcome(lake, "market.bars_1m", "staleness", span=None, now=now).passed


def test_a_table_whose_every_series_ended_long_ago_is_stale(lake):
    lake.table("market.trades").append(trades(3))
    found = outcome(lake, "market.trades", "staleness", span=None, now=START + timedelta(days=90))
    assert (found.passed, found.observed["newest"]) == (False, "2024-03-04T00:00:40+00:00")


def test_a_backfilled_day_is_not_stale(lake):
    lake.table("market.bars_1m").append(bars(range(10)))
    assert outcome(lake, "market.bars_1m", "staleness", now=START + timedelta(days=90)).passed


def test_vendor_bars_that_equal_their_trades_agree(lake):
    done = trades(60)
    lake.table("market.trades").append(done)
    lake.table("market.bars_1m").append(bars_from_trades(done).with_columns(origin=pl.lit("vendor")))
    found = outcome(lake, "market.bars_1m", "agreement")
    # Twenty minutes, without the first and the last.
    assert (found.passed, found.observed["compared"], found.observed["differing"]) == (True, 18, 0)


@pytest.mark.parametrize("chunk", [1_000_000, 50])
def test_vendor_bars_that_differ_from_their_trades_are_counted(lake, monkeypatch, chunk):
    monkeypatch.setattr("hfthot_platform.storage.lakehouse.days.CHUNK_ROWS", chunk)
    done = pl.concat([trades(60), trades(60, first_id=1000, start=START + timedelta(days=1))])
    lake.table("market.trades").append(done)
    off = (pl.col("ts").dt.minute() == 7).cast(pl.Float64)
    lake.table("market.bars_1m").append(
        bars_from_trades(done).with_columns(origin=pl.lit("vendor"), volume=pl.col("volume") + off * 0.15)
    )
    found = outcome(lake, "market.bars_1m", "agreement", span=None)
    assert (found.passed, found.observed["compared"], found.observed["differing"]) == (False, 38, 2)
    assert found.observed["worst_relative_difference"] == pytest.approx(0.15 / 1.65)


def test_coarse_vendor_bars_are_compared_with_1m_bars(lake):
    lake.table("market.bars_1m").append(bars(range(180)))
    hourly = bars([0, 60, 120]).with_columns(
        ts_close=pl.col("ts") + pl.duration(hours=1), interval=pl.lit("1h"), volume=60.0, high=106.0, low=100.0
    )
    hourly = hourly.with_columns(close=pl.Series([100.0 + minute % 7 for minute in (59, 119, 179)]))
    lake.table("market.bars").append(hourly)
    found = outcome(lake, "market.bars", "agreement")
    assert (found.passed, found.observed["compared"]) == (True, 1)


def test_symbols_without_an_instrument_are_named(lake):
    lake.table("market.instruments").append(instruments("BTC-USDT"))
    lake.table("market.trades").append(pl.concat([trades(3), trades(3, symbol="NEW-USDT")]))
    found = outcome(lake, "market.trades", "known_symbols")
    assert (found.passed, found.severity, found.observed["names"]) == (False, "warn", ["binance:NEW-USDT"])
    assert found.tables == ("market.trades", "market.instruments")


def test_a_naive_present_and_an_unknown_table_are_refused(lake):
    with pytest.raises(BadRequestError, match="no time zone"):
        run_checks(lake, "market.trades", None, datetime(2024, 1, 1))
    with pytest.raises(UnknownTableError, match=r"market\.trades"):
        run_checks(lake, "market.trade", None, NOW)


@pytest.mark.soak
def test_every_missing_minute_of_a_recording_is_reported(lake, recordings):
    """A vendor's file of BTC-USD lacks a known number of minutes between its first and its last row."""
    facts = recordings.facts
    path = recordings / "ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz"
    columns = ["ms", "open", "close", "high", "low", "volume"]
    given = pl.read_csv(path, has_header=False, new_columns=columns).with_columns(
        pl.col("open", "close", "high", "low", "volume").cast(pl.Float64),
        ts=pl.from_epoch("ms", time_unit="ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC"),
    )
    table = lake.table("market.bars_1m")
    table.append(
        given.drop("ms").with_columns(
            ts_close=pl.col("ts") + pl.duration(minutes=1),
            venue=pl.lit("bitfinex"),
            symbol=pl.lit("BTC-USD"),
            final=pl.lit(value=True),
            origin=pl.lit("vendor"),
            source=pl.lit("vendor_history"),
            source_ref=pl.lit("test"),
        )
    )
    assert table.scan().select(pl.len()).collect().item() == facts.bitfinex_minutes
    found = outcome(lake, "market.bars_1m", "completeness", span=(date(2016, 1, 1), date(2017, 1, 1)))
    assert (found.observed["present"], found.observed["missing"]) == (facts.bitfinex_minutes, facts.bitfinex_missing)
    expected = facts.bitfinex_minutes + facts.bitfinex_missing
    assert found.description.startswith(f"{facts.bitfinex_missing:,} of {expected:,} intervals have no row")
