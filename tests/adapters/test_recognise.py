"""Files are known by their content; what nobody knows is refused with the way out."""

from __future__ import annotations

import shutil
import zipfile

import pytest

from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nothing.csv", b"", "empty"),
        ("blank.csv", b" \n\n", "empty"),
        ("text.csv", b"hello world\n", "unrecognised"),
        ("page.csv", b"<html><body>404</body></html>", "unrecognised"),
        ("object.json", b'{"a": 1}', "unrecognised"),
        ("list.json", b'[{"a": 1}]', "unrecognised"),
        ("random.bin", bytes(range(256)), "unrecognised"),
        ("half.zip", b"PK\x03\x04 and no more", "truncated"),
        ("half.gz", b"\x1f\x8b\x08\x00", "truncated"),
        ("half.parquet", b"PAR1 and no more", "truncated"),
        ("half.feather", b"ARROW1\0\0 and no more", "truncated"),
        ("hollow.parquet", b"PAR1\x00\x00\x00\x00PAR1", "truncated"),
        ("hollow.feather", b"ARROW1\x00\x00ARROW1", "truncated"),
        ("closes.csv", b"date,AAPL,MSFT\n2024-01-01,1,2\n", "wrong_schema"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RejectedFileError) as caught:
        recognise(tmp_path / name)
    assert caught.value.reason == reason
    assert name in str(caught.value)
    assert caught.value.hint


def test_an_empty_zip_is_empty(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(RejectedFileError) as caught:
        recognise(tmp_path / "a.zip")
    assert caught.value.reason == "empty"


def test_an_unknown_file_is_told_how_to_be_described(tmp_path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n")
    with pytest.raises(RejectedFileError, match=r"Describe it in x\.csv\.mapping\.yaml"):
        recognise(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("trades/binance_kraken_trades/XRP_ETH-trades.feather", "columnar/arrow_trades"),
        ("trades/binance_kraken_trades/kraken/ETH_BTC-trades.json.gz", "json/ccxt_trades"),
        ("l2/binance_ws_2024_08/spot/ethusdt_20240808.gz", "binance_stream/combined_stream"),
        ("ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz", "csv/bitfinex_candles"),
        ("ohlcv/coinbase_bitfinex_csv/Coinbase_BTCUSD_1h.csv.gz", "csv/cryptodatadownload"),
    ],
)
def test_a_renamed_file_is_still_known(recordings, tmp_path, file, label) -> None:
    path = tmp_path / "renamed.dat"
    shutil.copy(recordings / file, path)
    path.with_name("renamed.dat.mapping.yaml").write_text("venue: kraken\nsymbol: BTC-USD\n")
    assert recognise(path)[1].label == label


def test_a_declared_mapping_wins_over_the_content(tmp_path) -> None:
    (tmp_path / "BTCEUR.csv").write_text("1700000000,1.5,2\n")
    assert recognise(tmp_path / "BTCEUR.csv")[1].venue == "kraken"
    (tmp_path / "BTCEUR.csv.mapping.yaml").write_text("venue: bitstamp\nsymbol: ETH-EUR\n")
    _, claim = recognise(tmp_path / "BTCEUR.csv")
    assert (claim.venue, claim.symbol) == ("bitstamp", "ETH-EUR")
