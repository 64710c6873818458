"""Files of daily closes."""

from __future__ import annotations

from datetime import date

import pytest

from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError


def read(tmp_path, lines, name="closes.csv", **mapping):
    path = tmp_path / name
    path.write_text("\n".join([*lines, ""]))
    probe, claim = recognise(path, CsvMapping(**mapping))
    (batch,) = claim.adapter.read(probe, claim, source_ref="test:1")
    return claim, batch


def test_a_declared_long_file_of_one_symbol_is_read(tmp_path) -> None:
    lines = ["Date,Close", "2023-05-02,410.5", "2023-05-03,411"]
    claim, batch = read(tmp_path, lines, table="market.closes", venue="us_index", symbol="^GSPC")
    assert claim.table == "market.closes"
    assert batch.rows.select("date", "symbol", "close", "adjusted", "raw_close").rows() == [
        (date(2023, 5, 2), "SPX", 410.5, False, 410.5),
        (date(2023, 5, 3), "SPX", 411.0, False, 411.0),
    ]


def test_a_column_tells_the_symbol_and_an_unknown_one_is_set_aside_with_a_hint(tmp_path) -> None:
    lines = ["Date,Ticker,Price", "2023-05-02,BRK-B,320", "2023-05-02,12345,1"]
    _, batch = read(tmp_path, lines, table="market.closes", venue="us_equity")
    assert batch.rows["symbol"].to_list() == ["BRK.B"]
    assert batch.rejected["reason"].to_list() == ["unknown_symbol"]
    assert "not the ticker" in batch.rejected["detail"][0]


def test_adjusted_and_traded_closes_are_told_apart(tmp_path) -> None:
    lines = ["Date,Open,High,Low,Close,Adj Close,Volume", "2023-05-02,9,12,8,10,9.5,100"]
    _, batch = read(tmp_path, lines, name="KO.csv", table="market.closes", venue="us_equity")
    assert batch.rows.select("symbol", "close", "adjusted", "raw_close").row(0) == ("KO", 9.5, True, 10.0)


@pytest.mark.parametrize(("header", "declared"), [("Date,Adj Close", {}), ("Date,Close", {"adjusted": True})])
def test_a_file_of_adjusted_closes_only_does_not_know_the_traded_ones(tmp_path, header, declared) -> None:
    lines = [header, "2023-05-02,9.5"]
    _, batch = read(tmp_path, lines, table="market.closes", venue="us_equity", symbol="KO", **declared)
    assert batch.rows.select("close", "adjusted", "raw_close").row(0) == (9.5, True, None)


def test_a_table_of_days_by_tickers_is_recognised_and_an_empty_cell_is_no_row(tmp_path) -> None:
    lines = ["Date,KO,GBTC,BRK.B", "2023-05-02,60,,320", "2023-05-03,61,15,321"]
    claim, batch = read(tmp_path, lines, venue="us_equity")
    assert claim.label == "closes/wide"
    assert batch.rows.select("symbol", "close").rows() == [
        ("KO", 60.0), ("BRK.B", 320.0), ("KO", 61.0), ("GBTC", 15.0), ("BRK.B", 321.0),
    ]  # fmt: skip
    assert batch.rows_read == 5


def test_columns_of_coins_are_a_table_of_closes_only_where_that_is_declared(tmp_path) -> None:
    lines = ["date,BTCUSDT,ETHUSDT", "2023-05-02,28000,1800"]
    with pytest.raises(RejectedFileError):
        read(tmp_path, lines, venue="binance")
    _, batch = read(tmp_path, lines, venue="binance", table="market.closes")
    assert batch.rows["symbol"].to_list() == ["BTC-USDT", "ETH-USDT"]


def test_bars_of_shares_are_bars(tmp_path) -> None:
    path = tmp_path / "KO.csv"
    path.write_text("Date,Open,High,Low,Close,Volume\n2023-05-02,9,12,8,10,1\n2023-05-03,9,12,8,10,1\n")
    assert recognise(path, CsvMapping(venue="us_equity"))[1].table == "market.bars"


def test_a_value_that_is_no_number_is_set_aside(tmp_path) -> None:
    _, batch = read(tmp_path, ["Date,KO,PEP", "2023-05-02,sixty,180"], venue="us_equity")
    assert batch.rows["symbol"].to_list() == ["PEP"]
    assert batch.rejected["reason"].to_list() == ["unparsable_value"]


@pytest.mark.parametrize(
    ("lines", "mapping", "reason"),
    [
        (["Date,Close", "2023-05-02,1"], {"venue": "us_equity"}, "unknown_symbol"),
        (["Date,Close", "2023-05-02,1"], {"symbol": "KO"}, "unknown_venue"),
        (["a,b", "2023-05-02,1"], {"venue": "us_equity", "symbol": "KO"}, "wrong_schema"),
    ],
)
def test_what_is_missing_is_named(tmp_path, lines, mapping, reason) -> None:
    with pytest.raises(RejectedFileError) as refused:
        read(tmp_path, lines, table="market.closes", **mapping)
    assert refused.value.reason == reason
