"""Market data of one symbol through the client."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import (
    AmbiguousVenueError,
    BadRequestError,
    DamagedTableError,
    UnknownSymbolError,
    VersionUnavailableError,
)
from hfthot_platform.interfaces.client import LakehouseClient
from hfthot_platform.interfaces.client.market import Market, MarketQuery
from hfthot_platform.storage.lakehouse import Lakehouse, maintain

from .conftest import TODAY, closes, minutes

FIRST = TODAY - timedelta(days=3)


@pytest.fixture
def lake(folder: Path) -> Lakehouse:
    return Lakehouse.open(folder / "lake")


def test_the_call_of_the_product_returns_the_newest_bars_in_order(client):
    bars = client.market("ALPHA-USDT").ohlcv(interval="5m").tail(100).collect()

    assert bars.height == 100
    assert bars["ts"].is_sorted()
    assert bars["ts"].max() == FIRST + timedelta(days=2, minutes=-5)
    assert bars["interval"].unique().to_list() == ["5m"]


def test_market_data_need_no_operational_store(folder):
    with LakehouseClient(folder) as client:
        client.market("ALPHA-USDT").closes().collect()

    assert not (folder / "accounts").exists()
    assert not (folder / "keys").exists()


def test_a_tail_opens_the_newest_partitions_alone(client, folder):
    oldest = min((folder / "lake/market/bars_1m").glob("date=*"))
    for path in oldest.glob("*.parquet"):
        path.write_bytes(b"x" * path.stat().st_size)  # whoever reads it fails

    tail = client.market("ALPHA-USDT").ohlcv("1m").tail(1000).collect()

    assert tail.height == 1000
    with pytest.raises(pl.exceptions.PolarsError):
        client.market("ALPHA-USDT").ohlcv("1m").tail(2000).collect()


def test_a_missing_file_harms_those_queries_alone_that_need_it(client, folder):
    oldest = min((folder / "lake/market/bars_1m").glob("date=*"))
    for path in oldest.glob("*.parquet"):
        path.unlink()

    assert client.market("ALPHA-USDT").ohlcv("1m").tail(1000).collect().height == 1000
    with pytest.raises(DamagedTableError, match="is missing"):
        client.market("ALPHA-USDT").ohlcv("1m").tail(2000).collect()
    with pytest.raises(DamagedTableError, match="is missing"):
        client.market("ALPHA-USDT").ohlcv("1m").lazy()


@pytest.fixture
def opens(monkeypatch):
    """Return a list that grows with each opening of a Delta log."""
    opened, original = [], DeltaTable.__init__

    def opening(*args, **kwargs):
        opened.append(True)
        original(*args, **kwargs)

    monkeypatch.setattr(DeltaTable, "__init__", opening)
    return opened


@pytest.mark.parametrize(
    "read",
    [
        lambda client, _: client.market("ALPHA-USDT").ohlcv("1m").tail(1).collect(),
        lambda client, version: client.read_version("market.bars_1m", version).tail(1).collect(),
    ],
    ids=["newest bar", "newest version"],
)
def test_a_read_opens_the_log_once_whoever_commits_and_however_often(client, lake, opens, read):
    table = lake.table("market.bars_1m")
    counts = []
    for number in range(8):
        commit = table.replace(FIRST.date(), minutes("ALPHA-USDT", FIRST, 10 + number))
        opens.clear()
        assert read(client, commit.version).height == 1
        counts.append(len(opens))
        opens.clear()
        read(client, commit.version)
        assert not opens, "nothing came, so nothing is opened"

    assert counts[0] <= 1
    assert not any(counts[1:]), "what others committed is followed"


def test_a_span_opens_its_own_partitions_alone(client, folder):
    newest = max((folder / "lake/market/bars_1m").glob("date=*"))
    for path in newest.glob("*.parquet"):
        path.write_bytes(b"x" * path.stat().st_size)

    rows = client.market("ALPHA-USDT").ohlcv("1m", start=FIRST, end=FIRST + timedelta(days=1))

    assert rows.collect().height == 1440
    assert rows.lazy().collect().height == 1440


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    """Return a market of a symbol on some of forty days, and all its rows."""
    lake = Lakehouse.open(tmp_path_factory.mktemp("scattered") / "lake")
    days = [1, 2, 3, 9, 17, 18, 30, 39]
    mine = pl.concat([minutes("BTC-USDT", FIRST + timedelta(days=day), 10 + day) for day in days])
    other = pl.concat([minutes("ABC-USDT", FIRST + timedelta(days=day), 3) for day in range(40)])
    lake.table("market.bars_1m").append(pl.concat([mine, other]))
    whole = lake.table("market.bars_1m").scan().filter(pl.col("symbol") == "BTC-USDT").sort("ts").collect()
    market = Market(lake, "BTC-USDT", None, lambda _: None)
    return market, whole.select(market.ohlcv().head(1).collect().columns)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 300),
    newest=st.booleans(),
    filtered=st.booleans(),
    first=st.none() | st.integers(-2, 45),
    length=st.none() | st.integers(1, 45),
)
def test_head_and_tail_are_those_of_all_rows(scattered, n, newest, filtered, first, length):
    market, whole = scattered
    start = None if first is None else FIRST + timedelta(days=first, minutes=5)
    end = None if length is None else (start or FIRST) + timedelta(days=length)

    query = market.ohlcv("1m", start, end)
    expected = whole
    if start is not None:
        expected = expected.filter(pl.col("ts") >= start)
    if end is not None:
        expected = expected.filter(pl.col("ts") < end)
    if filtered:
        query, expected = query.filter(pl.col("close") > 103), expected.filter(pl.col("close") > 103)
    expected = expected.tail(n) if newest else expected.head(n)

    assert (query.tail(n) if newest else query.head(n)).collect().equals(expected)


def test_steps_before_and_after_a_limit_are_taken_in_their_order(scattered):
    market, whole = scattered
    high = pl.col("close") > 103

    before = market.ohlcv().filter(high).tail(20).select("ts").collect()
    after = market.ohlcv().tail(20).filter(high).select("ts").head(3).collect()

    assert before.equals(whole.filter(high).tail(20).select("ts"))
    assert after.equals(whole.tail(20).filter(high).select("ts").head(3))
    assert market.ohlcv().tail(7).lazy().collect().equals(whole.tail(7))
    assert market.ohlcv().lazy().select("close").collect().equals(whole.select("close"))


def test_trades_and_closes_are_there_too(client):
    trades = client.market("ALPHA-USDT").trades().collect()
    found = client.market("ALPHA-USDT").closes(start=FIRST + timedelta(hours=1)).collect()

    assert trades["trade_id"].to_list() == list(range(100))
    assert found["date"].to_list() == [(FIRST + timedelta(days=1)).date()]


def test_a_bound_may_be_a_day_which_begins_at_midnight_utc(client):
    day = FIRST.date() + timedelta(days=1)
    market = client.market("ALPHA-USDT")

    for bound in (day, day.isoformat(), FIRST + timedelta(days=1)):
        assert market.closes(start=bound).collect()["date"].min() == day
        assert market.ohlcv(end=bound).collect()["ts"].max() < FIRST + timedelta(days=1)


@pytest.mark.parametrize("written", ["alpha-usdt", "ALPHA/USDT", "alpha_usdt", "Alpha usdt"])
def test_a_symbol_in_other_letters_is_suggested_as_the_lake_writes_it(client, written):
    with pytest.raises(BadRequestError, match="Did you mean 'ALPHA-USDT'"):
        client.market(written).ohlcv().collect()


@pytest.mark.parametrize("written", ["alpha-usdx", "correct horse", "a/b"])
def test_no_other_instrument_is_suggested_and_what_was_written_is_not_repeated(client, written):
    with pytest.raises(BadRequestError) as caught:
        client.market(written)

    assert "Did you mean" not in str(caught.value)
    assert written not in str(caught.value)


def test_prices_of_two_venues_are_never_mixed(client, lake):
    lake.table("market.bars_1m").append(minutes(venue="kraken", count=5))

    with pytest.raises(AmbiguousVenueError, match="kraken, simulated") as caught:
        client.market("ALPHA-USDT").ohlcv().collect()
    with pytest.raises(AmbiguousVenueError):
        client.market("ALPHA-USDT").ohlcv().filter(pl.col("close") < 0).head(1).collect()
    with pytest.raises(AmbiguousVenueError):
        client.market("ALPHA-USDT").ohlcv().lazy()

    assert caught.value.venues == ("kraken", "simulated")
    assert client.market("ALPHA-USDT", venue="kraken").ohlcv().collect().height == 5
    assert client.market("ALPHA-USDT", "simulated").ohlcv().lazy().collect().height == 2880


def test_the_past_is_read_by_version_and_by_time(client, lake):
    table = lake.table("market.bars_1m")
    before = table.versions()[-1]
    table.append(minutes(start=FIRST + timedelta(days=2), count=10))
    market = client.market("ALPHA-USDT")

    assert market.ohlcv().collect().height == 2890
    assert market.ohlcv(version=before.version).collect().height == 2880
    assert market.ohlcv(as_of=before.timestamp).tail(1).collect()["ts"].item() < FIRST + timedelta(days=2)
    with pytest.raises(VersionUnavailableError, match="Readable: version"):
        market.ohlcv(version=99).collect()
    with pytest.raises(BadRequestError, match="not both"):
        market.ohlcv(version=1, as_of=TODAY).collect()


@pytest.mark.parametrize(
    ("symbol", "says"), [("NONE-USDT", "Known: ALPHA-USDT."), ("ALPHAUSDT", "Did you mean 'ALPHA-USDT'?")]
)
@pytest.mark.parametrize(
    "read", [MarketQuery.collect, MarketQuery.lazy, lambda query: query.tail(3).collect()], ids=["all", "lazy", "tail"]
)
def test_an_unknown_symbol_is_an_error_that_has_its_right_spelling_or_what_there_is(client, symbol, says, read):
    query = client.market(symbol).ohlcv("1h")

    with pytest.raises(UnknownSymbolError, match=f"no market table has the symbol '{symbol}'") as caught:
        read(query)

    assert says in str(caught.value)


def test_a_known_symbol_has_no_rows_where_nothing_was_traded(client):
    nothing = client.market("ALPHA-USDT").ohlcv("5m", start=TODAY + timedelta(days=90)).collect()

    assert nothing.is_empty()
    assert nothing.columns[:6] == ["ts", "open", "high", "low", "close", "volume"]


def test_frames_begin_with_what_people_read_and_end_with_where_it_came_from(client):
    market = client.market("ALPHA-USDT")
    bars, trades, closes = (query.tail(1).collect() for query in (market.ohlcv("1h"), market.trades(), market.closes()))

    assert bars.columns[:6] == ["ts", "open", "high", "low", "close", "volume"]
    assert trades.columns[:4] == ["ts", "price", "amount", "side"]
    assert closes.columns[:2] == ["date", "close"]
    for frame, partition in ((bars, "month"), (trades, "date"), (closes, "year")):
        assert frame.columns[-1] == partition
        assert "source" in frame.columns[-6:]


def test_an_empty_lake_knows_no_symbol(tmp_path):
    with LakehouseClient(tmp_path / "new", create=True) as fresh:
        query = fresh.market("ALPHA-USDT").trades().tail(5)
        with pytest.raises(UnknownSymbolError, match="Nothing has been written yet"):
            query.collect()


@pytest.mark.parametrize(
    "call",
    [
        lambda market: market.ohlcv("7q"),
        lambda market: market.ohlcv(start=datetime(2024, 1, 1)),
        lambda market: market.ohlcv(start=TODAY, end=TODAY),
        lambda market: market.ohlcv(start="2024-13-01"),
        lambda market: market.ohlcv(version=-1),
        lambda market: market.ohlcv(version=True),
        lambda market: market.ohlcv().tail(-1),
        lambda market: market.ohlcv().head("5"),
    ],
    ids=["interval", "naive", "empty", "text", "version", "flag", "tail", "head"],
)
def test_arguments_out_of_their_domain_are_refused(client, call):
    with pytest.raises(BadRequestError):
        call(client.market("ALPHA-USDT"))


class TestVersionsOfASymbol:
    def test_only_versions_that_touched_it_are_listed(self, client, lake):
        table = lake.table("market.bars_1m")
        later = FIRST + timedelta(days=10)
        table.append(minutes("ETH-USDT", later, 5))  # another symbol
        own = table.append(minutes("ALPHA-USDT", later, 5)).version
        table.append(pl.concat([minutes("AAA-USDT", later, 5), minutes("ZZZ-USDT", later, 5)]))  # bounds around it
        table.merge(minutes("AAA-USDT", later, 5, close=200.0))  # may write the file again that has both
        changed = table.merge(minutes("ALPHA-USDT", later, 2, close=300.0)).version

        found = [
            version for version in client.list_versions("market/ALPHA-USDT") if version["table"] == "market.bars_1m"
        ]

        assert [version["version"] for version in found] == [1, own, changed]
        assert [version["operation"] for version in found] == ["APPEND", "APPEND", "MERGE"]
        assert all(version["ts"].tzinfo is not None for version in found)

    def test_replacing_a_neighbour_in_the_same_file_does_not_touch_it(self, client, lake):
        table, later = lake.table("market.bars_1m"), FIRST + timedelta(days=10)
        both = pl.concat([minutes("ALPHA-USDT", later, 5), minutes("OTHER-USDT", later, 5)])
        table.replace(later.date(), both)
        one = table.replace(later.date(), pl.concat([both.head(5), minutes("OTHER-USDT", later, 5, close=9.0)])).version
        gone = table.replace(later.date(), minutes("OTHER-USDT", later, 5, close=9.0)).version

        found = [
            version["version"]
            for version in client.list_versions("market/ALPHA-USDT")
            if version["table"] == "market.bars_1m"
        ]

        assert one not in found
        assert gone in found

    def test_maintenance_does_not_touch_it(self, client, lake):
        table = lake.table("market.bars_1m")
        for start in range(5):
            table.append(minutes("ALPHA-USDT", FIRST + timedelta(days=20, minutes=start), 1))
        before = client.list_versions("market/ALPHA-USDT")
        maintain(lake, "market.bars_1m", history_days=30)

        assert client.list_versions("market/ALPHA-USDT") == before
        table.replace((FIRST + timedelta(days=20)).date(), minutes("ALPHA-USDT", FIRST + timedelta(days=20), 4))
        assert len(client.list_versions("market/ALPHA-USDT")) == len(before) + 1

    def test_after_a_purge_it_begins_with_the_oldest_readable_version(self, client, lake):
        table = lake.table("market.closes")
        table.append(closes("ALPHA-USDT", [TODAY]))
        maintain(lake, "market.closes", history_days=0)
        oldest = table.readable_versions()[0].version
        found = [
            version for version in client.list_versions("market/ALPHA-USDT") if version["table"] == "market.closes"
        ]

        assert [version["version"] for version in found] in ([], [oldest])
        assert client.market("ALPHA-USDT").closes(version=oldest).collect().height == 3

    def test_files_of_other_symbols_are_not_opened(self, client, lake, folder):
        later = FIRST + timedelta(days=10)
        lake.table("market.bars_1m").append(minutes("ZZZ-USDT", later, 5))
        for path in (folder / "lake/market/bars_1m" / f"date={later:%Y-%m-%d}").glob("*.parquet"):
            path.write_bytes(b"x" * path.stat().st_size)

        assert {version["table"] for version in client.list_versions("market/ALPHA-USDT")} == {
            "market.bars",
            "market.bars_1m",
            "market.closes",
            "market.trades",
        }

    def test_a_lake_that_nobody_wrote_to_has_none(self, tmp_path):
        with LakehouseClient(tmp_path / "new", create=True) as fresh:
            assert fresh.list_versions("market/BTC-USDT") == []
            assert fresh.list_versions("market.trades") == []


def test_the_folder_may_be_the_data_folder_or_the_lake_in_it(folder, tmp_path):
    for named in (folder, folder / "lake", str(folder)):
        with LakehouseClient(named, create=True) as opened:
            assert opened.market("ALPHA-USDT").closes().collect().height == 2
            opened.flush()
    assert sorted(path.name for path in folder.iterdir()) == ["accounts", "keys", "lake"]
    with LakehouseClient(tmp_path / "fresh" / "lake", create=True) as opened:
        opened.flush()
    assert (tmp_path / "fresh" / "accounts").is_dir()
    shutil.rmtree(tmp_path / "fresh")


def test_an_object_store_needs_settings():
    with pytest.raises(BadRequestError, match="from_settings"):
        LakehouseClient("s3://bucket/lake")


def test_times_of_other_zones_are_the_same_instant(client):
    from zoneinfo import ZoneInfo

    start = datetime(FIRST.year, FIRST.month, FIRST.day, 12, tzinfo=UTC)
    there = start.astimezone(ZoneInfo("Asia/Tokyo"))

    assert client.market("ALPHA-USDT").ohlcv(start=there).collect()["ts"].min() == start
