"""Vendors' text files: declared mappings, presets, and every way in which a line can be bad."""

from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from tests.recordings import CSV, HOURS, XRP

BARS = ["ts", "open", "high", "low", "close", "volume"]
TRADES = {"venue": "kraken", "symbol": "BTC-EUR", "columns": ["ts", "price", "amount"], "table": "market.trades"}


def _write(path, lines, end="\n"):
    path.write_text("\n".join(lines) + end)
    return path


def _bars(times) -> list[str]:
    return [f"{time},1.5,1.7,1.4,1.6,10" for time in times]


# --- presets, on recorded files ---------------------------------------------------------------------------------------


def test_kraken_trades(recordings, read_file) -> None:
    got = read_file(recordings / f"{XRP}/kraken/trades_csv/BCHEUR.csv")
    facts = recordings.facts
    ts, price, amount = facts.bch_first
    assert got.claim.label == "csv/kraken_trades"
    assert (got.rows.height, got.rejected.height) == (facts.bch_trades, 0)
    assert got.rows.row(0, named=True) | {"trade_id": 0} == {
        "venue": "kraken",
        "symbol": "BCH-EUR",
        "ts": ts,
        "trade_id": 0,
        "price": price,
        "amount": amount,
        "source": "vendor_history",
        "source_ref": "test:1",
        ROW_NUMBER: 1,
    }
    assert (got.rows["trade_id"] < 0).all()
    assert got.rows["trade_id"].n_unique() == facts.bch_trades


def test_bitfinex_candles_are_open_close_high_low(recordings, read_file) -> None:
    got = read_file(recordings / "ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz")
    assert (got.claim.label, got.claim.table, got.claim.symbol) == ("csv/bitfinex_candles", "market.bars_1m", "BTC-USD")
    assert (got.rows.height, got.rejected.height) == (recordings.facts.bitfinex_minutes, 0)
    assert got.rows.select(pl.all_horizontal(pl.col("high") >= pl.max_horizontal("open", "close", "low"))).item(0, 0)
    assert (got.rows["high"] >= got.rows["low"]).all()
    span = got.rows["ts"].max() - got.rows["ts"].min()
    assert span // timedelta(minutes=1) + 1 - got.rows["ts"].n_unique() == recordings.facts.bitfinex_missing
    assert got.rows["final"].sum() == got.rows.height - 1


def test_coinbase_with_banner_twelve_hour_clock_and_descending_time(recordings, read_file) -> None:
    got = read_file(recordings / f"{CSV}/Coinbase_BTCUSD_1h.csv.gz")
    ts, volume, quote_volume = recordings.facts.coinbase_first
    assert (got.claim.label, got.claim.venue, got.claim.table) == ("csv/cryptodatadownload", "coinbase", "market.bars")
    assert (got.rows.height, got.rejected.height) == (recordings.facts.coinbase_hours, 0)
    first = got.rows.row(0, named=True)
    assert (first["symbol"], first["interval"], first["volume"]) == ("BTC-USD", "1h", volume)
    assert first["quote_volume"] == quote_volume
    assert first["ts"] == ts
    assert first["final"] is False  # the newest bar of a file that does not say when it was made
    assert got.rows["final"][1:].all()
    assert set(got.rows["ts"].dt.hour().unique()) == set(range(24))


def test_bitfinex_hours_of_the_same_vendor(recordings, read_file) -> None:
    got = read_file(recordings / f"{CSV}/bitfinex-1h-btc-usd.csv.gz")
    facts = recordings.facts
    assert (got.claim.venue, got.rows.height, got.rejected.height) == ("bitfinex", facts.bitfinex_hours, 0)
    assert got.rows["volume"][0] == facts.bitfinex_first_volume


def test_local_times_with_offsets_equal_the_utc_set(recordings, read_file) -> None:
    local = read_file(recordings / f"{HOURS}/BTCUSDT_1h.raw.csv.gz", venue="binance_usdm").rows
    utc = read_file(recordings / f"{HOURS}/perp_1h_22sym.parquet", venue="binance_usdm").rows
    columns = ["symbol", *BARS]
    utc = utc.filter(pl.col("symbol") == "BTC-USDT-PERP").sort("ts")
    assert local.height == recordings.facts.hours
    assert local.select(columns).equals(utc.select(columns))


def test_freqtrade_trades_as_csv(recordings, read_file) -> None:
    path = recordings / f"{XRP}/orderflow/public_trades_list.csv"
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "unknown_venue"
    got = read_file(path, venue="binance_usdm", symbol="ETHUSDT")
    assert got.rows["symbol"].unique().to_list() == ["ETH-USDT-PERP"]
    assert (got.rows.height, got.rows["ts"][0], got.rows["trade_id"][0]) == recordings.facts.orderflow


def test_a_wide_file_is_not_guessed_at(recordings) -> None:
    with pytest.raises(RejectedFileError) as caught:
        recognise(recordings / f"{CSV}/bitstamp_(BTC,ETH,LTC)USD_d.csv.gz")
    assert caught.value.reason == "wrong_schema"


# --- declared mappings --------------------------------------------------------------------------------------------


def test_a_sidecar_describes_any_file(tmp_path, read_file) -> None:
    path = tmp_path / "export.txt"
    path.write_text("report of today\n\nWhen;What;Rate;Size;Taker\n31.12.2023 23:59:59;XBTEUR;1,5;0,25;Käufer\n")
    (tmp_path / "export.txt.mapping.yaml").write_text(
        """
table: market.trades
venue: kraken
columns: {ts: When, symbol: What, price: Rate, amount: Size, side: Taker}
skip_lines: 2
separator: ;
decimal: ","
time: "%d.%m.%Y %H:%M:%S"
zone: Europe/Berlin
sides: {Käufer: buy}
"""
    )
    row = read_file(path).rows.row(0, named=True)
    assert row["ts"] == datetime(2023, 12, 31, 22, 59, 59, tzinfo=UTC)
    assert (row["symbol"], row["price"], row["amount"], row["side"]) == ("BTC-EUR", 1.5, 0.25, "buy")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("venue: [1", "not valid YAML"),
        ("- 1", "dictionary"),
        ("venue: Kraken!", "venue"),
        ("colums: [ts]", "colums"),
        ("columns: [ts, prize]", "Did you mean 'price'"),
        ("columns: [ts, ts]", "twice"),
        ("zone: Europe/Berln", "Did you mean 'Europe/Berlin'"),
        ("interval: often", "interval"),
        ("source: rumour", "source"),
        ("separator: ','\ndecimal: ','", "same character"),
        ("as_of: 2024-01-01T00:00:00", "zone"),
    ],
)
def test_a_mistaken_mapping_names_the_mistake(tmp_path, content, says) -> None:
    path = _write(tmp_path / "BTCEUR.csv", ["1700000000,1,1"])
    path.with_name("BTCEUR.csv.mapping.yaml").write_text(content)
    with pytest.raises(RejectedFileError, match=says) as caught:
        recognise(path)
    assert caught.value.reason == "bad_mapping"


def test_a_header_without_the_declared_column_is_a_wrong_schema(tmp_path) -> None:
    path = _write(tmp_path / "a.csv", ["time,price", "1,2"])
    with pytest.raises(RejectedFileError, match="'qty'") as caught:
        recognise(path, _mapping(columns={"ts": "time", "price": "price", "amount": "qty"}))
    assert caught.value.reason == "wrong_schema"


def test_a_mapping_without_a_needed_column_is_a_wrong_schema(tmp_path) -> None:
    path = _write(tmp_path / "a.csv", ["1,2"])
    with pytest.raises(RejectedFileError, match="amount") as caught:
        recognise(path, _mapping(columns=["ts", "price"]))
    assert caught.value.reason == "wrong_schema"


def _mapping(**fields):
    from hfthot_platform.adapters.files.mapping import CsvMapping

    return CsvMapping(**{"venue": "kraken", "symbol": "BTC-EUR", "table": "market.trades"} | fields)


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9), ("auto", 1), ("auto", 10**9)]
)
def test_units_of_time(tmp_path, read_file, unit, factor) -> None:
    path = _write(tmp_path / "a.csv", [f"{(1_700_000_000 + i) * factor},1,2" for i in range(3)])
    assert read_file(path, **TRADES, time=unit).rows["ts"][1] == datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)


def test_fractional_seconds_keep_their_microseconds(tmp_path, read_file) -> None:
    path = _write(tmp_path / "a.csv", ["1582070402.9811,1,2", "1582070403,1,2"])
    assert read_file(path, **TRADES).rows["ts"].dt.microsecond().to_list() == [981_100, 0]


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01 12:30:00",
        "2024-03-01T12:30:00Z",
        "2024-03-01T14:30:00.000+02:00",
        "2024-03-01 12:30",
        "2024/03/01 12:30:00",
        "2024-03-01 12:30 PM",
    ],
)
def test_usual_spellings_of_time_need_no_declaration(tmp_path, read_file, text) -> None:
    got = read_file(_write(tmp_path / "a.csv", [f"{text},1,2"]), **TRADES)
    assert got.rows["ts"].to_list() == [datetime(2024, 3, 1, 12, 30, tzinfo=UTC)]


def test_dates_alone_are_midnight(tmp_path, read_file) -> None:
    path = _write(tmp_path / "a.csv", _bars(["2024-03-01", "2024-03-02"]))
    got = read_file(path, venue="kraken", symbol="BTC-EUR", columns=BARS)
    assert got.rows["interval"].unique().to_list() == ["1d"]
    assert got.rows["ts"][1] == datetime(2024, 3, 2, tzinfo=UTC)


def test_an_unknown_spelling_of_time_is_refused(tmp_path) -> None:
    path = _write(tmp_path / "a.csv", _bars(["yesterday", "today"]))
    with pytest.raises(RejectedFileError, match="yesterday") as caught:
        recognise(path, _mapping(table=None, columns=BARS))
    assert caught.value.reason == "unrecognised_time"


def test_local_times_that_happen_twice_or_never_are_rejected(tmp_path, read_file) -> None:
    times = ["2023-03-26 01:30:00", "2023-03-26 02:30:00", "2023-03-26 03:30:00", "2023-10-29 02:30:00"]
    path = _write(tmp_path / "a.csv", [f"{time},1,2" for time in times])
    got = read_file(path, **TRADES, zone="Europe/Berlin")
    assert got.rows["ts"].dt.hour().to_list() == [0, 1]
    assert got.reasons == ["ambiguous_local_time"] * 2
    assert got.rejected["row_number"].to_list() == [2, 4]


def test_an_offset_in_the_text_resolves_the_clock_change(tmp_path, read_file) -> None:
    times = ["2023-10-29 02:30:00+02:00", "2023-10-29 02:30:00+01:00"]
    path = _write(tmp_path / "a.csv", [f"{time},1,2" for time in times])
    assert read_file(path, **TRADES, zone="Europe/Berlin").rows["ts"].dt.hour().to_list() == [0, 1]


def test_rows_of_another_time_unit_are_read_where_they_fit_in(tmp_path, read_file) -> None:
    times = ["1700000000", "1700000001", "1700000002000", "1700000003000000", "1700000004000000000", "1600000000000"]
    got = read_file(_write(tmp_path / "a.csv", [f"{time},1,2" for time in times]), **TRADES)
    assert got.rows["ts"].dt.epoch("s").to_list() == list(range(1_700_000_000, 1_700_000_005))
    assert got.reasons == ["mixed_time_unit"]
    assert got.rejected["row"].to_list() == ["1600000000000,1,2"]


def test_a_declared_unit_out_of_the_types_range_is_rejected(tmp_path, read_file) -> None:
    path = _write(tmp_path / "a.csv", ["1700000000,1,2", "1700000002000000000,1,2"])
    assert read_file(path, **TRADES, time="s").reasons == ["mixed_time_unit"]


def test_ids_of_any_kind(tmp_path, read_file) -> None:
    path = _write(tmp_path / "a.csv", ["1700000000,1,2,17", "1700000000,1,2,a-b", "1700000000,1,2,", "1700000000,1,2,"])
    ids = read_file(path, **TRADES | {"columns": ["ts", "price", "amount", "trade_id"]}).rows["trade_id"].to_list()
    assert ids[0] == 17
    assert ids[1] >= 2**62
    assert ids[2] < ids[3] < 0


def test_trades_of_one_second_are_told_apart_across_batches_and_blocks(tmp_path, read_file, monkeypatch) -> None:
    path = _write(tmp_path / "a.csv", [f"{1_700_000_000 + i // 2500},1,2" for i in range(6000)])
    whole = read_file(path, **TRADES).rows["trade_id"]
    assert whole.n_unique() == 6000
    assert whole.is_sorted()
    monkeypatch.setattr("hfthot_platform.adapters.files.delimited.file_blocks.__kwdefaults__", {"size": 1000})
    assert read_file(path, **TRADES, batch_rows=500).rows["trade_id"].equals(whole)


def test_a_descending_file_gives_the_same_count_of_ids(tmp_path, read_file, monkeypatch) -> None:
    monkeypatch.setattr("hfthot_platform.adapters.files.delimited.file_blocks.__kwdefaults__", {"size": 1000})
    path = _write(tmp_path / "a.csv", [f"{1_700_000_000 - i // 7},1,2" for i in range(3000)])
    got = read_file(path, **TRADES)
    assert got.rows["trade_id"].n_unique() == got.rows.height == 3000


def test_a_trade_without_id_far_out_of_order_is_rejected_not_merged(tmp_path, read_file, monkeypatch) -> None:
    monkeypatch.setattr("hfthot_platform.adapters.files.delimited.file_blocks.__kwdefaults__", {"size": 1000})
    lines = [f"{1_700_000_000 + i},1,2" for i in range(3000)]
    got = read_file(_write(tmp_path / "a.csv", [*lines, lines[5]]), **TRADES)
    assert got.reasons == ["out_of_order"]


def test_symbols_in_a_column_in_any_spelling(tmp_path, read_file) -> None:
    names = ["BTC-USDT", "eth/usdt", "XRP_USDT", "tLTCUSD", "XBTUSD", "what"]
    path = _write(tmp_path / "a.csv", ["ts,pair,price,amount", *(f"170000000{i},{n},1,2" for i, n in enumerate(names))])
    got = read_file(path, venue="kraken")
    assert got.rows["symbol"].to_list() == ["BTC-USDT", "ETH-USDT", "XRP-USDT", "LTC-USD", "BTC-USD"]
    assert got.reasons == ["unknown_symbol"]


def test_quoted_fields(tmp_path, read_file) -> None:
    path = _write(tmp_path / "a.csv", ['"1700000000","1.5","2"', '"1700000001",1.5,"2,5"'])
    got = read_file(path, **TRADES)
    assert got.rows["price"].to_list() == [1.5]
    assert got.reasons == ["unparsable_value"]


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path, read_file) -> None:
    path = tmp_path / "BTCEUR.csv"
    path.write_bytes(b"\xef\xbb\xbfts,price,amount\n1700000000,1,2\n")
    assert read_file(path, venue="kraken").rows.height == 1


def test_invalid_text_is_kept_as_a_rejected_row(tmp_path, read_file) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"1700000000,1,2\n\xff\xfe\x00,1,2\n1700000001,1,2\n")
    got = read_file(path, **TRADES)
    assert (got.rows.height, got.reasons) == (2, ["unparsable_value"])


# --- bars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "interval", "table"), [(1, "1m", "bars_1m"), (15, "15m", "bars"), (60, "1h", "bars")]
)
def test_the_length_of_bars_is_found(tmp_path, read_file, minutes, interval, table) -> None:
    times = [1_700_000_100 - 1_700_000_100 % 3600 + i * int(60 * minutes) for i in (0, 1, 2, 5, 6, 9)]
    got = read_file(_write(tmp_path / "a.csv", _bars(times)), venue="kraken", symbol="BTC-EUR", columns=BARS)
    assert got.claim.table == f"market.{table}"
    assert (got.rows["ts_close"][0] - got.rows["ts"][0]).total_seconds() == 60 * minutes


@pytest.mark.parametrize(
    ("name", "minutes", "reason"),
    [
        ("BTCEUR-5m.csv", 1, "interval_mismatch"),
        ("BTCEUR-1h.csv", 90, "interval_mismatch"),
        ("BTCEUR.csv", 0.5, "unsupported_interval"),
        ("BTCEUR.csv", None, "unknown_interval"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(tmp_path, name, minutes, reason) -> None:
    times = [1_700_006_400 + i * int(60 * minutes) for i in range(5)] if minutes else [1_700_006_400]
    path = _write(tmp_path / name, ["ts,open,high,low,close,volume", *_bars(times)])
    with pytest.raises(RejectedFileError) as caught:
        recognise(path, _mapping(table=None))
    assert caught.value.reason == reason


def test_as_of_decides_which_bars_are_final(tmp_path, read_file) -> None:
    path = _write(tmp_path / "BTCEUR-1m.csv", ["ts,open,high,low,close,volume", *_bars([1_700_006_400, 1_700_006_460])])
    at = datetime.fromtimestamp(1_700_006_490, UTC)
    assert read_file(path, venue="kraken", as_of=at).rows["final"].to_list() == [True, False]


def test_the_latest_bar_of_each_symbol_is_open_whatever_the_batches(tmp_path, read_file) -> None:
    lines = [f"{1_700_006_400 + i * 60},{s},1,1,1,1,1" for s in ("BTCEUR", "ETHEUR") for i in range(5)]
    path = _write(tmp_path / "a.csv", ["ts,symbol,open,high,low,close,volume", *lines])
    for size in (100, 3, 1):
        final = read_file(path, venue="kraken", batch_rows=size).rows["final"].to_list()
        assert final == [True] * 4 + [False] + [True] * 4 + [False]


def test_bars_of_a_length_in_a_column(tmp_path, read_file) -> None:
    path = _write(
        tmp_path / "BTCEUR.csv",
        [
            "ts,tf,open,high,low,close,volume",
            *(f"1700006400,{tf},1,1,1,1,1" for tf in ("5m", "60min", "1m", "2h", "30s")),
        ],
    )
    got = read_file(path, venue="kraken")
    assert got.rows["interval"].to_list() == ["5m", "1h", "2h"]
    assert got.reasons == ["unsupported_interval"] * 2


# --- damaged files ------------------------------------------------------------------------------------------------


def test_an_empty_file_is_refused(tmp_path) -> None:
    for name, content in (("a.csv", b""), ("b.csv", b"\n \n"), ("c.csv.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RejectedFileError) as caught:
            recognise(tmp_path / name)
        assert caught.value.reason == "empty"


def test_a_header_without_rows_is_empty(tmp_path) -> None:
    path = _write(tmp_path / "BTCEUR.csv", ["ts,price,amount"])
    with pytest.raises(RejectedFileError, match="header but no rows") as caught:
        recognise(path, _mapping())
    assert caught.value.reason == "empty"


def test_a_gzip_cut_off_is_refused(tmp_path) -> None:
    path = tmp_path / "BTCEUR.csv.gz"
    path.write_bytes(gzip.compress("\n".join(f"{1_700_000_000 + i},1,2" for i in range(9999)).encode())[:-100])
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "truncated"


def test_a_last_line_needs_no_line_feed(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("1700000000,1.5,2\n1700000001,1.5,2.125")
    got = read_file(tmp_path / "a.csv", **TRADES)
    assert (got.rows["amount"].to_list(), got.reasons) == ([2, 2.125], [])


@pytest.mark.parametrize("cut", [2, 3, 6, 13])
def test_a_last_line_that_looks_cut_off_is_rejected(tmp_path, read_file, cut) -> None:
    text = "".join(f"170000000{n},1.5,2.12{n}\n" for n in range(5))
    (tmp_path / "a.csv").write_text(text[:-cut])
    got = read_file(tmp_path / "a.csv", **TRADES)
    assert (got.rows.height, got.reasons) == (4, ["truncated_row"])
    if cut < 4:
        assert "complete: true" in got.rejected["detail"][0]
        assert read_file(tmp_path / "a.csv", **TRADES, complete=True).rows.height == 5


def test_inside_a_container_a_last_line_needs_no_line_feed(tmp_path, read_file) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1700000000,1.5,2\n1700000001,1.5,2.125"))
    assert read_file(tmp_path / "a.csv.gz", **TRADES).rows.height == 2


@pytest.mark.parametrize("stray", ["17e11", "-9e11", "92e11"])
def test_a_time_beyond_any_calendar_costs_its_row_alone(tmp_path, read_file, stray) -> None:
    text = b"".join(b"%d,%d.5,2\n" % (1_700_000_000 + i, i) for i in range(12))
    (tmp_path / "a.csv").write_bytes(text.replace(b"1700000009", stray.encode()))
    # Read row by row, a row is a run of its own, whose unit nothing contradicts.
    got = read_file(tmp_path / "a.csv", **TRADES, time="s", batch_rows=1)
    assert got.rows.height == 11
    assert set(got.reasons) <= {"time_out_of_range", "mixed_time_unit", "bad_time"}


_PIECES = st.one_of(
    st.binary(max_size=3), st.sampled_from([b"\n", b",", b'"', b"\r", b"\x00", b"-", b"e", b"\n\n", b" "])
)
_EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), _PIECES), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_EDITS, st.booleans(), st.integers(1, 7))
def test_no_corruption_ever_loses_a_row(tmp_path, read_file, edits, bars, batch_rows) -> None:
    _check_corrupted(tmp_path, read_file, edits, bars, batch_rows)


@pytest.mark.soak
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_EDITS, st.booleans(), st.integers(1, 7))
def test_no_corruption_ever_loses_a_row_in_thousands_of_files(tmp_path, read_file, edits, bars, batch_rows) -> None:
    _check_corrupted(tmp_path, read_file, edits, bars, batch_rows)


def _check_corrupted(tmp_path, read_file, edits, bars, batch_rows) -> None:
    if bars:
        declared = {"venue": "kraken", "symbol": "BTC-EUR", "columns": BARS, "interval": "1m", "time": "ms"}
        text = "\n".join(_bars(range(1_700_000_000_000, 1_700_000_600_000, 60_000))).encode() + b"\n"
    else:
        declared = {**TRADES, "time": "s"}
        text = b"".join(b"%d,%d.5,2\n" % (1_700_000_000 + i, i) for i in range(12))
    for place, removed, added in edits:
        at = int(place * len(text))
        text = text[:at] + added + text[at + removed :]
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    written = text.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").split("\n")
    # Python alone counts these four control characters as blanks.
    lines = [line for line in written if re.sub("[\x1c-\x1f]", "x", line).strip()]
    assume(lines)
    assume(not text.startswith((b"\x1f\x8b\x08", b"PK")))  # that is a broken container, and refused as one
    try:
        got = read_file(path, batch_rows=batch_rows, **declared)
    except RejectedFileError as error:
        refusals = {"ambiguous_number", "interval_mismatch", "time_too_early", "unsupported_container"}
        assert error.reason in refusals  # noqa: PT017 - refused as a whole, so nothing is lost
        return
    assert got.rows.height + got.rejected.height + got.gaps == len(lines)
    kept = dict(zip(got.rejected["row_number"], got.rejected["row"], strict=True))
    assert all(kept[number].strip() == lines[number - 1].strip() for number in kept)
