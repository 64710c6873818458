"""freqtrade's and ccxt's dumps, and columnar files, in every container."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

import polars as pl
import pytest

from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from tests.recordings import FREQTRADE, PERP, SPOT, XRP


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("XRP_ETH-trades.json.gz", "json/trades_json"),
        ("XRP_OLD-trades.json.gz", "json/ccxt_trades"),
        ("XRP_ETH-trades.parquet", "columnar/parquet_trades"),
        ("XRP_ETH-trades.feather", "columnar/arrow_trades"),
    ],
)
def test_the_same_trades_in_every_container(recordings, read_file, file, label) -> None:
    facts = recordings.facts
    got = read_file(recordings / f"{XRP}/{file}", venue="binance")
    assert (got.claim.label, got.claim.table) == (label, "market.trades")
    assert (got.rows.height, got.rejected.height) == (facts.xrp_trades, 0)
    assert got.rows["trade_id"].to_list() == list(range(facts.xrp_first_id, facts.xrp_first_id + facts.xrp_trades))
    assert got.rows["symbol"].unique().to_list() == ["XRP-ETH"]
    assert (got.rows["ts"].min(), got.rows["ts"].max()) == (facts.xrp_first, facts.xrp_last)
    reference = read_file(recordings / f"{XRP}/XRP_ETH-trades.feather", venue="binance").rows
    assert got.rows.select(sorted(reference.columns)).equals(reference.select(sorted(reference.columns)))


def test_krakens_arrays_change_their_length_in_the_middle(recordings, read_file) -> None:
    facts = recordings.facts
    got = read_file(recordings / f"{XRP}/kraken/ETH_BTC-trades.json.gz")
    assert (got.rows.height, got.rejected.height, got.claim.venue) == (facts.kraken_trades, 0, "kraken")
    assert got.rows["trade_id"].n_unique() == facts.kraken_trades
    named = got.rows.filter(pl.col("trade_id") >= 0)
    assert 0 < named.height < facts.kraken_trades
    # Kraken's own time is finer than the milliseconds beside it.
    assert got.rows["ts"][0] == facts.kraken_first
    assert got.rows["symbol"].unique().to_list() == ["ETH-BTC"]


@pytest.mark.parametrize(("interval", "table"), [("1m", "bars_1m"), ("5m", "bars")])
def test_bars_of_the_same_span(recordings, read_file, interval, table) -> None:
    got = read_file(recordings / f"{XRP}/XRP_ETH-{interval}.feather", venue="binance")
    assert (got.claim.table, got.rows.height) == (f"market.{table}", recordings.facts.xrp_bars[interval])


def test_minutes_of_many_symbols(recordings, read_file) -> None:
    facts = recordings.facts
    got = read_file(recordings / f"{PERP}/perp_1m.parquet", venue="binance_usdm")
    assert (got.claim.table, got.rows.height, got.rejected.height) == ("market.bars_1m", facts.perp_minutes, 0)
    assert got.rows["symbol"].n_unique() == facts.perp_symbols
    assert got.rows["symbol"].str.ends_with("-USDT-PERP").all()
    assert (~got.rows["final"]).sum() == facts.perp_symbols


def test_a_column_of_lengths(recordings, read_file) -> None:
    got = read_file(recordings / f"{PERP}/perp_5m_1h_1d.parquet", venue="binance_usdm")
    assert (got.claim.table, got.rejected.height) == ("market.bars", 0)
    assert set(got.rows["interval"].unique()) == {"5m", "1h", "1d"}


def test_the_raw_feather_equals_the_collected_set(recordings, read_file) -> None:
    raw = read_file(recordings / f"{PERP}/SOL_USDT_USDT-1m-futures.raw.feather", venue="binance_usdm").rows
    collected = read_file(recordings / f"{PERP}/perp_1m.parquet", venue="binance_usdm").rows
    columns = [column for column in raw.columns if column != ROW_NUMBER]
    assert raw.select(columns).equals(collected.filter(pl.col("symbol") == "SOL-USDT-PERP").select(columns))


def test_full_kline_fields(recordings, read_file) -> None:
    got = read_file(recordings / f"{SPOT}/spot_1d.parquet", venue="binance")
    assert got.rows["interval"].unique().to_list() == ["1d"]
    assert got.rows.select(pl.col("quote_volume", "trades", "buy_volume").null_count()).row(0) == (0, 0, 0)
    assert (got.rows["buy_volume"] <= got.rows["volume"]).all()


def test_json_bars(recordings, read_file) -> None:
    got = read_file(recordings / f"{FREQTRADE}/UNITTEST_BTC-1m.json", venue="binance")
    expected = recordings.json(f"{FREQTRADE}/UNITTEST_BTC-1m.json")
    assert len(expected) == recordings.facts.freqtrade_minutes
    assert got.rows["close"].to_list() == [row[4] for row in expected]
    assert got.rows["ts"].dt.epoch("ms").to_list() == [row[0] for row in expected]


@pytest.mark.parametrize("suffix", ["1h-mark", "8h-funding_rate"])
def test_candles_that_are_not_of_trades_are_refused(recordings, suffix) -> None:
    with pytest.raises(RejectedFileError) as caught:
        recognise(recordings / f"{FREQTRADE}/XRP_USDT_USDT-{suffix}.feather")
    assert caught.value.reason == "unsupported_content"


def test_funding_rates_are_no_trades(recordings) -> None:
    with pytest.raises(RejectedFileError) as caught:
        recognise(recordings / f"{PERP}/funding_8h.parquet")
    assert caught.value.reason == "unsupported_content"


def test_the_folder_tells_the_venue(tmp_path) -> None:
    for folder, venue, symbol in (
        ("kraken", "kraken", "XRP-ETH"),
        ("binance/futures", "binance_usdm", "XRP-USDT-PERP"),
    ):
        name = "XRP_USDT_USDT-1m-futures.json" if "futures" in folder else "XRP_ETH-1m.json"
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        path.write_text("[[1700006400000,1,1,1,1,1],[1700006460000,1,1,1,1,1]]")
        _, claim = recognise(path)
        assert (claim.venue, claim.symbol, claim.table) == (venue, symbol, "market.bars_1m")


def test_json_cut_off_costs_the_last_row_only(tmp_path, read_file) -> None:
    arrays = "[[1700006400000,1,1,1,1,1],[1700006460000,1,1,1,1,1],[1700006520000,1,1,1,1,12"
    (tmp_path / "XRP_ETH-1m.json").write_text(arrays)
    got = read_file(tmp_path / "XRP_ETH-1m.json", venue="binance")
    assert (got.rows.height, got.reasons) == (2, ["truncated_row"])


def test_ccxt_json_cut_off_costs_the_last_row_only(tmp_path, read_file) -> None:
    trade = {"timestamp": 1_700_006_400_000, "symbol": "XRP/ETH", "id": "5", "side": "buy", "price": 1.5, "amount": 2}
    text = json.dumps([trade | {"id": str(i)} for i in range(5)], indent=1)
    (tmp_path / "a.json").write_text(text[:-20])
    got = read_file(tmp_path / "a.json", venue="binance")
    assert (got.rows["trade_id"].to_list(), got.reasons) == ([0, 1, 2, 3], ["truncated_row"])


def test_odd_elements_of_ccxt_json_are_kept_as_rejected_rows(tmp_path, read_file) -> None:
    trade = {"timestamp": 1_700_006_400_000, "symbol": "XRP/ETH", "id": "5", "side": "buy", "price": 1.5, "amount": 2}
    elements = [trade, {"symbol": "XRP/ETH"}, 17, trade | {"symbol": "?", "id": "6"}]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(elements).encode()))
    got = read_file(tmp_path / "a.json.gz", venue="binance")
    assert got.rows.height == 1
    assert got.reasons == ["missing_value", "missing_value", "unknown_symbol"]
    assert [json.loads(row) for row in got.rejected["row"]] == elements[1:]


def test_json_of_another_width_is_a_wrong_schema(tmp_path) -> None:
    (tmp_path / "XRP_ETH-1m.json").write_text("[[1,2,3]]")
    with pytest.raises(RejectedFileError) as caught:
        recognise(tmp_path / "XRP_ETH-1m.json")
    assert caught.value.reason == "wrong_schema"


def test_a_parquet_cut_off_is_refused(tmp_path) -> None:
    path = tmp_path / "kraken" / "a.parquet"
    path.parent.mkdir()
    pl.DataFrame({"ts": [1], "price": [1.0], "amount": [1.0]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "truncated"


def test_a_parquet_with_damaged_pages_is_refused(tmp_path, read_file) -> None:
    path = tmp_path / "BTC_EUR-trades.parquet"
    pl.DataFrame({"ts": range(10**4), "price": 1.0, "amount": 1.0}).write_parquet(path)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:8] + bytes(half - 8) + data[half:])
    with pytest.raises(RejectedFileError) as caught:
        read_file(path, venue="kraken")
    assert caught.value.reason == "truncated"


def test_declared_columns_of_a_parquet(tmp_path, read_file) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"when": [datetime(2024, 1, 1, 12)], "rate": ["1.5"], "lot": [2]}).write_parquet(path)
    columns = {"ts": "when", "price": "rate", "amount": "lot"}
    got = read_file(path, venue="kraken", symbol="BTC-EUR", columns=columns, zone="America/New_York")
    assert got.rows.select("ts", "price", "amount").row(0) == (datetime(2024, 1, 1, 17, tzinfo=UTC), 1.5, 2.0)


def test_rejected_rows_of_a_parquet_are_json(tmp_path, read_file) -> None:
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame({"ts": [1_700_000_000, None, 1_700_000_001], "price": ["1", "2", "x"], "amount": [1, 2, 3]})
    frame.write_parquet(path)
    got = read_file(path, venue="kraken", symbol="BTC-EUR")
    assert dict(zip(got.rejected["row_number"], got.reasons, strict=True)) == {
        2: "missing_value",
        3: "unparsable_value",
    }
    assert json.loads(got.rejected["row"][1]) == {"ts": 1_700_000_001, "price": "x", "amount": 3}
