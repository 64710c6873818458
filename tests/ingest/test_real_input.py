"""Recordings through the lake: files as vendors make them, in; figures that are known otherwise, out."""

from __future__ import annotations

import gzip
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.core.intervals import DERIVED
from hfthot_platform.core.settings import load_settings
from hfthot_platform.domain.market.bars import bars_from_bars, bars_from_trades
from hfthot_platform.domain.market.gaps import completeness, missing_runs
from hfthot_platform.services.derive.derivation import derive
from hfthot_platform.services.ingest import ingest_files
from hfthot_platform.services.quality import run_checks
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.recordings import CSV, FREQTRADE, HOURS, PERP, STREAMS, XRP, Recordings

NOW = datetime(2025, 7, 1, tzinfo=UTC)
CANDLE = ["ts", "open", "high", "low", "close", "volume"]


class Lab:
    """A lake, and the recorded files handed to it in folders that are called after their venues."""

    def __init__(self, root: Path, data: Recordings) -> None:
        self.root = root
        self.data = data
        self.lake = Lakehouse.open(root / "lake", clock=lambda: NOW)
        self.settings = load_settings(lake_root=str(root / "lake"), scratch=root / "scratch", feeds=[])

    def ingest(self, venue: str, *files: str, mapping: str = ""):
        folder = self.root / "in" / venue
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for file in files:
            paths.append(folder / Path(file).name)
            shutil.copyfile(self.data / file, paths[-1])
            if mapping:
                paths[-1].with_name(f"{paths[-1].name}.mapping.yaml").write_text(mapping)
        outcomes = ingest_files(self.lake, paths)
        for outcome in outcomes:
            assert outcome.rows_read == outcome.rows_published + outcome.rows_duplicate + outcome.rows_quarantined
        return outcomes

    def rows(self, table: str) -> pl.DataFrame:
        return self.lake.table(table).scan().collect()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, recordings):
    def make(name: str) -> Lab:
        return Lab(tmp_path_factory.mktemp(name), recordings)

    return make


def counts(outcomes) -> list[tuple[str, int, int, int, int]]:
    return [(o.status, o.rows_read, o.rows_published, o.rows_duplicate, o.rows_quarantined) for o in outcomes]


# --- Binance XRP/ETH trades ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xrp(lab):
    made = lab("xrp")
    made.first = made.ingest("binance", f"{XRP}/XRP_ETH-trades.parquet")
    made.others = made.ingest(
        "binance",
        *(f"{XRP}/{name}" for name in ("XRP_ETH-trades.json.gz", "XRP_ETH-trades.feather", "XRP_OLD-trades.json.gz")),
    )
    return made


def test_all_trades_are_published(xrp):
    facts = xrp.data.facts
    assert counts(xrp.first) == [("published", facts.xrp_trades, facts.xrp_trades, 0, 0)]
    trades = xrp.rows("market.trades")
    ids = list(range(facts.xrp_first_id, facts.xrp_first_id + facts.xrp_trades))
    assert trades["trade_id"].sort().to_list() == ids
    assert trades["date"].unique().sort().to_list() == [date(2019, 10, 11) + timedelta(days=n) for n in range(3)]


def test_the_same_trades_in_other_containers_are_all_duplicates(xrp):
    count = xrp.data.facts.xrp_trades
    assert counts(xrp.others) == [("published", count, 0, count, 0)] * 3


@pytest.mark.parametrize("interval", ["1m", "5m"])
def test_bars_of_the_published_trades_are_exactly_the_recorded_ones(xrp, interval):
    found = bars_from_trades(xrp.lake.table("market.trades").scan(), interval=interval)
    assert found.height == xrp.data.facts.xrp_bars[interval]
    given = pl.read_ipc(xrp.data / f"{XRP}/XRP_ETH-{interval}.feather").rename({"date": "ts"})
    given = given.select(pl.col("ts").dt.cast_time_unit("us").dt.convert_time_zone("UTC"), *CANDLE[1:])
    assert_frame_equal(found.select(CANDLE), given, check_exact=True)


def test_bars_derived_from_trades_equal_the_vendors_that_take_their_place(xrp):
    lake, days = xrp.lake, (date(2019, 10, 11), date(2019, 10, 14))
    count = xrp.data.facts.xrp_bars["1m"]
    trades = lake.table("market.trades")

    def compute(unit):
        return bars_from_trades(trades.scan().filter(unit.within(trades.contract)))

    with derive(lake, "market.bars_1m", days, compute, settings=xrp.settings) as derivation:
        assert [commit.rows_published for commit in derivation.publish()] == [count]
    computed = xrp.rows("market.bars_1m")
    assert computed["origin"].unique().to_list() == ["trades"]
    (outcome,) = xrp.ingest("binance", f"{XRP}/XRP_ETH-1m.feather")
    assert (outcome.status, outcome.rows_read) == ("published", count)
    stated = xrp.rows("market.bars_1m")
    # The vendor's latest bar may have been open still: the computed one stays.
    assert stated["origin"].value_counts().sort("origin").rows() == [("trades", 1), ("vendor", count - 1)]
    assert_frame_equal(stated.select(CANDLE).sort("ts"), computed.select(CANDLE).sort("ts"), check_exact=True)


# --- Kraken --------------------------------------------------------------------------------------------------------


def test_kraken_dumps_in_both_formats(lab):
    made = lab("kraken")
    folder = f"{XRP}/kraken"
    outcomes = made.ingest("kraken", f"{folder}/ETH_BTC-trades.json.gz", f"{folder}/trades_csv/BCHEUR.csv")
    eths, bchs = made.data.facts.kraken_trades, made.data.facts.bch_trades
    assert counts(outcomes) == [("published", eths, eths, 0, 0), ("published", bchs, bchs, 0, 0)]
    trades = made.rows("market.trades")
    assert trades.group_by("symbol").len().sort("symbol").rows() == [("BCH-EUR", bchs), ("ETH-BTC", eths)]
    # The field count of the dump changes where Kraken began to number its trades.
    assert trades.filter(pl.col("trade_id") >= 0).height > 0
    assert trades.filter(pl.col("trade_id") < 0).height > bchs
    eth = trades.filter(pl.col("symbol") == "ETH-BTC")
    assert eth["ts"].min() == made.data.facts.kraken_first
    assert eth["date"].n_unique() == made.data.facts.kraken_days


# --- many symbols, days of minutes --------------------------------------------------------------------------------

PERP_1M = f"{PERP}/perp_1m.parquet"


@pytest.fixture(scope="module")
def perp(lab):
    made = lab("perp")
    made.outcomes = made.ingest("binance_usdm", PERP_1M)
    return made


def test_every_minute_of_many_symbols_is_published(perp):
    count = perp.data.facts.perp_minutes
    (outcome,) = perp.outcomes
    assert counts([outcome]) == [("published", count, count, 0, 0)]
    assert len(outcome.days) == perp.rows("market.bars_1m")["date"].n_unique()


def test_no_minute_is_missing(perp):
    found = completeness(perp.lake.table("market.bars_1m").scan(), "1m")
    assert found.height == perp.data.facts.perp_symbols
    assert found.select("missing", "off_grid", "runs").unique().rows() == [(0, 0, 0)]
    assert found["present"].sum() == perp.data.facts.perp_minutes


@pytest.mark.soak
def test_every_coarser_interval_equals_an_independent_computation(perp):
    lake = perp.lake
    minutes = lake.table("market.bars_1m")

    def compute(unit):
        rows = minutes.scan().filter(unit.within(minutes.contract)).collect()
        return pl.concat(bars_from_bars(rows, interval) for interval in DERIVED)

    days = date(2025, 5, 1), date(2025, 7, 1)
    with derive(lake, "market.bars", days, compute, settings=perp.settings) as derivation:
        derivation.publish()
    published = perp.rows("market.bars")
    given = (
        pl.read_parquet(perp.data / PERP_1M)
        .rename({"date": "ts"})
        .with_columns(
            pl.col("ts").dt.cast_time_unit("us").dt.convert_time_zone("UTC"),
            pl.col("symbol").str.extract(r"^([A-Z0-9]+?)[/_]?USDT").alias("base"),
        )
    )
    for interval in DERIVED:
        expected = (
            given.sort("base", "ts")
            .group_by_dynamic("ts", every=interval, group_by="base")
            .agg(
                pl.col("open").first(),
                pl.col("high").max(),
                pl.col("low").min(),
                pl.col("close").last(),
                pl.col("volume").sum(),
            )
        )
        found = published.filter(pl.col("interval") == interval).with_columns(
            pl.col("symbol").str.strip_suffix("-USDT-PERP").alias("base")
        )
        columns = ["base", *CANDLE]
        found, expected = (frame.select(columns).sort("base", "ts") for frame in (found, expected))
        prices = [name for name in columns if name != "volume"]
        assert_frame_equal(found.select(prices), expected.select(prices), check_exact=True)
        # Sums in another order differ in the last bits.
        assert_frame_equal(found.select("volume"), expected.select("volume"), rel_tol=1e-12, abs_tol=0)


def test_the_collected_set_of_5m_1h_1d_is_published(lab):
    made = lab("coarse")
    (outcome,) = made.ingest("binance_usdm", f"{PERP}/perp_5m_1h_1d.parquet")
    assert (outcome.status, outcome.rows_quarantined, outcome.rows_duplicate) == ("published", 0, 0)
    bars = made.rows("market.bars")
    assert outcome.rows_published == bars.height
    assert dict(bars.group_by("interval").agg(pl.col("symbol").n_unique()).rows()) == made.data.facts.coarse_symbols


# --- many symbols, hours --------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_the_hourly_set_and_its_local_time_csv_state_the_same(lab):
    made = lab("hours")
    symbols, hours = made.data.facts.hour_symbols, made.data.facts.hours
    outcomes = made.ingest("binance_usdm", f"{HOURS}/perp_1h_22sym.parquet", f"{HOURS}/BTCUSDT_1h.raw.csv.gz")
    total = symbols * hours
    assert counts(outcomes) == [("published", total, total, 0, 0), ("published", hours, 0, hours, 0)]
    found = completeness(made.lake.table("market.bars").scan(), "1h")
    assert found.select("present", "missing", "off_grid").rows() == [(hours, 0, 0)] * symbols


# --- Bitfinex -------------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_exactly_the_missing_minutes_are_reported(lab):
    made = lab("bitfinex")
    present, missing = made.data.facts.bitfinex_minutes, made.data.facts.bitfinex_missing
    outcomes = made.ingest("bitfinex", "ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz")
    assert counts(outcomes) == [("published", present, present, 0, 0)]
    checks = {check.name: check for check in run_checks(made.lake, "market.bars_1m", None, NOW)}
    assert not checks["completeness"].passed
    assert checks["completeness"].observed["missing"] == missing
    for name in ("values", "consistency", "unique_key", "file_order"):
        assert checks[name].passed, checks[name]
    runs = missing_runs(made.lake.table("market.bars_1m").scan(), "1m")
    assert runs["missing"].sum() == missing


# --- Binance's websocket over midnight -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(lab):
    made = lab("streams")
    made.outcomes = {}
    for market, names in {
        "spot": ("btcusdt_20240808", "btcusdt_20240809", "ethusdt_20240808", "ethusdt_20240809"),
        "usdm": ("btcusdt_20240808", "ethusdt_20240808"),
        "cm": ("btcusd_perp_20240808", "btcusd_perp_20240809"),
    }.items():
        for outcome in made.ingest(market, *(f"{STREAMS}/{market}/{name}.gz" for name in names)):
            made.outcomes[market, outcome.name.removesuffix(".gz")] = outcome
    return made


def test_every_recorded_trade_is_published(streams):
    assert {outcome.status for outcome in streams.outcomes.values()} == {"published"}
    assert all(outcome.rows_read == outcome.rows_published for outcome in streams.outcomes.values())
    for (market, name), outcome in streams.outcomes.items():
        recorded = gzip.decompress((streams.data / f"{STREAMS}/{market}/{name}.gz").read_bytes())
        assert outcome.rows_published == recorded.count(b'"e":"trade"'), name
    known = streams.data.facts.stream_trades
    assert streams.outcomes["usdm", "btcusdt_20240808"].rows_published == known["usdm/btcusdt_20240808"]
    trades = streams.rows("market.trades")
    assert trades.height == sum(outcome.rows_published for outcome in streams.outcomes.values()) == known["all"]
    assert trades["source"].unique().to_list() == ["replay"]
    assert trades["ts_received"].null_count() == 0


def test_ids_run_on_over_midnight_into_the_next_partition(streams):
    trades = streams.rows("market.trades")
    both = trades.filter(pl.col("venue").is_in(["binance", "binance_coinm"]))
    series = both.group_by("venue", "symbol").agg(
        (pl.col("trade_id").max() - pl.col("trade_id").min() + 1).alias("span"),
        pl.len().alias("trades"),
        pl.col("date").unique().sort().alias("dates"),
    )
    assert series.height == 3
    assert (series["span"] == series["trades"]).all()
    assert series["dates"].to_list() == [[date(2024, 8, 8), date(2024, 8, 9)]] * 3
    assert (trades["ts"].dt.date() == trades["date"]).all()
    partitions = {part for path in streams.lake.table("market.trades").snapshot().paths for part in Path(path).parts}
    assert {partition for partition in partitions if partition.startswith("date=")} == {
        "date=2024-08-08",
        "date=2024-08-09",
    }


def test_another_exchanges_recording_is_refused(lab):
    (outcome,) = lab("other").ingest("hyperliquid", f"{STREAMS}/hyperliquid/btcusd_20250126.gz")
    assert (outcome.status, outcome.reason) == ("rejected", "unrecognised")


# --- dumps of other tools and vendors ------------------------------------------------------------------------------


def test_freqtrade_dumps(lab):
    made = lab("freqtrade")
    pairs = made.data.names(f"{FREQTRADE}/*_BTC-5m.feather")
    assert len(pairs) == made.data.facts.freqtrade_pairs
    outcomes = made.ingest("binance", *pairs)
    assert {outcome.status for outcome in outcomes} == {"published"}
    assert sum(outcome.rows_published for outcome in outcomes) == made.rows("market.bars").height
    missing = dict(completeness(made.lake.table("market.bars").scan(), "5m").select("symbol", "missing").rows())
    for pair in pairs:
        times = pl.read_ipc(made.data / pair)["date"]
        span = (times.max() - times.min()) // timedelta(minutes=5) + 1
        assert missing[Path(pair).name.removesuffix("-5m.feather").replace("_", "-")] == span - times.len()
    assert sum(count > 0 for count in missing.values()) >= 4
    (minutes,) = made.ingest("binance", f"{FREQTRADE}/UNITTEST_BTC-1m.json")
    assert (minutes.table, minutes.rows_published) == ("market.bars_1m", made.data.facts.freqtrade_minutes)


def test_freqtrade_candles_that_were_never_traded_are_refused(lab):
    made = lab("untraded")
    outcomes = made.ingest(
        "binance",
        *(f"{FREQTRADE}/XRP_USDT_USDT-{kind}.feather" for kind in ("1h-mark", "8h-funding_rate", "5m-futures")),
    )
    assert [outcome.reason for outcome in outcomes] == ["unsupported_content", "unsupported_content", None]
    assert made.rows("market.bars")["symbol"].unique().to_list() == ["XRP-USDT-PERP"]


def test_coinbase_and_bitfinex_hours_newest_first(lab):
    made = lab("hourly_csv")
    facts = made.data.facts
    outcomes = made.ingest("csv", f"{CSV}/Coinbase_BTCUSD_1h.csv.gz", f"{CSV}/bitfinex-1h-btc-usd.csv.gz")
    assert [outcome.status for outcome in outcomes] == ["published", "published"]
    assert [outcome.rows_read for outcome in outcomes] == [facts.coinbase_hours, facts.bitfinex_hours]
    bars = made.rows("market.bars")
    assert bars.height == sum(outcome.rows_published for outcome in outcomes)
    assert sorted(bars["venue"].unique()) == ["bitfinex", "coinbase"]
    (wide,) = made.ingest("csv", f"{CSV}/bitstamp_(BTC,ETH,LTC)USD_d.csv.gz")
    assert (wide.status, wide.reason) == ("rejected", "wrong_schema")


def test_an_orderflow_csv_needs_its_mapping(lab):
    made = lab("orderflow")
    count = made.data.facts.orderflow[0]
    file = f"{XRP}/orderflow/public_trades_list.csv"
    assert made.ingest("somewhere", file)[0].reason == "unknown_venue"
    (outcome,) = made.ingest("somewhere", file, mapping="{venue: binance_usdm, symbol: ETHUSDT}")
    assert counts([outcome]) == [("published", count, count, 0, 0)]
