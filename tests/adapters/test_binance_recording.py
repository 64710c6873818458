"""Trades out of recorded websocket messages."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

import polars as pl
import pytest

from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError
from tests.recordings import STREAMS

CLOCK = 1_723_161_255_088_176_367


def _message(**changes) -> str:
    event = {
        "e": "trade",
        "E": 1,
        "T": 1_723_161_256_322,
        "s": "BTCUSDT",
        "t": 7,
        "p": "61800.30",
        "q": "0.5",
        "m": False,
    }
    event |= changes
    return f'{CLOCK} {{"stream":"x@trade","data":{json.dumps(event, separators=(",", ":"))}}}'


def _write(path, lines, end="\n"):
    path.write_bytes(gzip.compress(("\n".join(lines) + end).encode()))
    return path


@pytest.mark.parametrize(
    ("name", "venue", "symbol"),
    [
        ("usdm/btcusdt_20240808", "binance_usdm", "BTC-USDT-PERP"),
        ("spot/btcusdt_20240808", "binance", "BTC-USDT"),
        ("cm/btcusd_perp_20240808", "binance_coinm", "BTC-USD-PERP"),
    ],
)
def test_every_trade_of_a_recording(recordings, read_file, name, venue, symbol) -> None:
    got = read_file(recordings / f"{STREAMS}/{name}.gz")
    assert (got.rows.height, got.rejected.height) == (recordings.facts.stream_trades[name], 0)
    assert got.rows.select("venue", "symbol", "source").unique().row(0) == (venue, symbol, "replay")
    assert got.rows["trade_id"].diff().drop_nulls().unique().to_list() == [1]
    assert got.rows["ts"].is_sorted()


@pytest.mark.parametrize("name", ["spot/btcusdt", "spot/ethusdt", "cm/btcusd_perp"])
def test_recordings_join_without_a_gap_over_midnight(recordings, read_file, name) -> None:
    days = [read_file(recordings / f"{STREAMS}/{name}_{day}.gz").rows for day in (20240808, 20240809)]
    both = pl.concat(days)
    assert both["trade_id"].diff().drop_nulls().unique().to_list() == [1]
    assert both["ts"].dt.date().n_unique() == 2


def test_the_local_clock_is_kept_beside_the_venues(recordings, read_file) -> None:
    rows = read_file(recordings / f"{STREAMS}/usdm/btcusdt_20240808.gz").rows
    lag = (rows["ts_received"] - rows["ts"]).median()
    low, high = recordings.facts.stream_lag
    assert low < lag < high


def test_an_event_is_read_exactly(tmp_path, read_file) -> None:
    row = read_file(_write(tmp_path / "a.gz", [_message(M=True, m=True)])).rows.row(0, named=True)
    assert row["ts"] == datetime(2024, 8, 8, 23, 54, 16, 322_000, tzinfo=UTC)
    assert row["ts_received"] == datetime(2024, 8, 8, 23, 54, 15, 88_176, tzinfo=UTC)
    assert (row["trade_id"], row["price"], row["amount"], row["side"]) == (7, 61800.3, 0.5, "sell")


def test_contracts_become_base_amounts(tmp_path, read_file) -> None:
    lines = [
        _message(s="BTCUSD_PERP", X="MARKET", q="4", p="50000"),
        _message(s="ETHUSD_PERP", X="MARKET", q="4", p="2500"),
    ]
    rows = read_file(_write(tmp_path / "a.gz", lines)).rows
    assert rows["amount"].to_list() == pytest.approx([4 * 100 / 50_000, 4 * 10 / 2500])


def test_other_events_are_no_rows(tmp_path, read_file) -> None:
    lines = [f'{CLOCK} {{"stream":"btcusdt@bookTicker","data":{{"e":"bookTicker"}}}}', _message(X="MARKET")]
    got = read_file(_write(tmp_path / "a.gz", lines))
    assert (got.rows.height, got.rejected.height) == (1, 0)


def test_each_unreadable_event_has_its_reason(tmp_path, read_file) -> None:
    good = _message(X="MARKET")
    lines = [good, good[:-9], _message(p="cheap"), _message(s="?"), "now" + good[3:], good.replace('"t":7,', "")]
    got = read_file(_write(tmp_path / "a.gz", lines))
    assert got.rows.height == 1
    assert got.reasons == ["malformed_json", "unparsable_value", "unknown_symbol", "unparsable_value", "missing_value"]
    assert got.rejected["row"].to_list() == lines[1:]


def test_a_last_event_cut_off_costs_that_row_only(tmp_path, read_file) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join([_message(X="MARKET")] * 2)[:-5])
    got = read_file(path)
    assert (got.rows.height, got.reasons) == (1, ["truncated_row"])


def test_another_exchanges_recording_is_not_taken_for_binances(recordings) -> None:
    with pytest.raises(RejectedFileError) as caught:
        recognise(recordings / f"{STREAMS}/hyperliquid/btcusd_20250126.gz")
    assert caught.value.reason == "unrecognised"
