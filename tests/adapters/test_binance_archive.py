"""Files of Binance's archive in every known layout, and damaged in every known way."""

from __future__ import annotations

import gzip
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hfthot_platform.adapters.binance.archive import contract_size
from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError

START = 1_704_067_200_000  # 2024-01-01
KLINES_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
TRADES_HEADER = "id,price,qty,quote_qty,time,is_buyer_maker"


def klines(n: int = 5, start: int = START, step: int = 60_000, unit: int = 1) -> list[str]:
    return [
        f"{(start + i * step) * unit},42000.10,42010.00,41990.00,42005.50,12.5,{(start + (i + 1) * step) * unit - 1},"
        f"525000.25,100,6.25,262500.125,0"
        for i in range(n)
    ]


def agg_trades(n: int = 5, *, spot: bool, unit: int = 1, start: int = START) -> list[str]:
    tail = ",True" if spot else ""
    return [
        f"{100 + i},42000.5,0.25,{200 + i},{200 + i},{(start + i) * unit},{'True' if i % 2 else 'False'}{tail}"
        for i in range(n)
    ]


def trades(n: int = 5, *, spot: bool) -> list[str]:
    tail = ",true" if spot else ""
    return [f"{100 + i},42000.5,4,0.00095,{START + i},{'true' if i % 2 else 'false'}{tail}" for i in range(n)]


def zipped(path: Path, lines: list[str], member: str | None = None, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member or path.with_suffix(".csv").name, "\n".join(lines) + end)
    return path


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize(
    ("folder", "name", "lines", "venue", "symbol"),
    [
        ("spot", "BTCUSDT-1m-2024-01.zip", klines(), "binance", "BTC-USDT"),
        ("futures/um", "BTCUSDT-1m-2024-01-01.zip", klines(), "binance_usdm", "BTC-USDT-PERP"),
        ("futures/cm", "BTCUSD_PERP-1m-2024-01.zip", klines(), "binance_coinm", "BTC-USD-PERP"),
        ("futures/cm", "ETHUSD_240329-1m-2024-01.zip", klines(), "binance_coinm", "ETH-USD-240329"),
    ],
)
def test_klines_of_every_market(tmp_path, read_file, folder, name, lines, venue, symbol, header) -> None:
    path = zipped(tmp_path / folder / name, [KLINES_HEADER] * header + lines)
    got = read_file(path)
    assert (got.claim.table, got.rows.height, got.rejected.height) == ("market.bars_1m", 5, 0)
    first = got.rows.row(0, named=True)
    assert (first["venue"], first["symbol"], first["trades"], first["final"]) == (venue, symbol, 100, True)
    assert first["ts"] == datetime(2024, 1, 1, tzinfo=UTC)
    assert first["ts_close"] == datetime(2024, 1, 1, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize(
    ("folder", "name", "lines", "header_line", "venue"),
    [
        ("any", "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(spot=True), AGG_HEADER + ",is_best", "binance"),
        ("any", "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(spot=False), AGG_HEADER, "binance_usdm"),
        ("any", "BTCUSD_PERP-aggTrades-2024-01-01.zip", agg_trades(spot=False), AGG_HEADER, "binance_coinm"),
        ("any", "BTCUSDT-trades-2024-01-01.zip", trades(spot=True), TRADES_HEADER + ",is_best", "binance"),
        ("any", "BTCUSDT-trades-2024-01-01.zip", trades(spot=False), TRADES_HEADER, "binance_usdm"),
        ("any", "BTCUSDT_240329-trades-2024-01-01.zip", trades(spot=False), TRADES_HEADER, "binance_usdm"),
        ("any", "BTCUSD_PERP-trades-2024-01-01.zip", trades(spot=False), TRADES_HEADER, "binance_coinm"),
    ],
)
def test_trades_of_every_market_tell_it_by_their_columns(
    tmp_path, read_file, folder, name, lines, header_line, venue, header
) -> None:
    got = read_file(zipped(tmp_path / folder / name, [header_line] * header + lines))
    assert got.rows["venue"].unique().to_list() == [venue]
    assert got.rows["trade_id"].to_list() == [100, 101, 102, 103, 104]
    assert got.rows["side"].to_list() == ["buy", "sell", "buy", "sell", "buy"]
    assert got.rows["ts"][1] == datetime(2024, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)


def test_coin_margined_quantities_are_contracts(tmp_path, read_file) -> None:
    traded = read_file(zipped(tmp_path / "BTCUSD_PERP-trades-2024-01-01.zip", trades(spot=False))).rows
    assert traded["amount"].to_list() == pytest.approx([4 * 100 / 42000.5] * 5)
    bar = read_file(zipped(tmp_path / "ETHUSD_PERP-1m-2024-01.zip", klines())).rows.row(0, named=True)
    assert (bar["volume"], bar["quote_volume"], bar["buy_volume"]) == (525000.25, 125.0, 262500.125)
    assert (contract_size("BTCUSD_PERP"), contract_size("ETHUSD_PERP")) == (100.0, 10.0)


def test_spot_files_since_2025_are_in_microseconds(tmp_path, read_file) -> None:
    start = 1_735_689_600_000
    path = zipped(tmp_path / "BTCUSDT-1m-2025-01.zip", klines(start=start, unit=1000))
    got = read_file(path)
    assert got.claim.venue == "binance"
    assert got.rows["ts"][1] == datetime(2025, 1, 1, 0, 1, tzinfo=UTC)


def test_klines_since_2025_in_milliseconds_are_futures(tmp_path) -> None:
    _, claim = recognise(zipped(tmp_path / "BTCUSDT-1m-2025-01.zip", klines(start=1_735_689_600_000)))
    assert (claim.venue, claim.symbol) == ("binance_usdm", "BTC-USDT-PERP")


def test_a_file_may_change_its_time_unit(tmp_path, read_file) -> None:
    lines = agg_trades(6, spot=True) + agg_trades(2, spot=True, unit=1000, start=START + 6)
    got = read_file(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", lines))
    assert (got.rows.height, got.reasons) == (8, [])
    assert got.rows["ts"].dt.epoch("ms").to_list() == list(range(START, START + 8))


def test_a_row_of_another_time_unit_that_fits_nowhere_is_rejected(tmp_path, read_file) -> None:
    lines = agg_trades(6, spot=True) + agg_trades(1, spot=True, unit=1000, start=START - 10**10)
    got = read_file(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", lines))
    assert got.reasons == ["mixed_time_unit"]
    assert got.rejected["row"].to_list() == lines[6:]


@pytest.mark.parametrize(
    ("step", "table", "interval"),
    [(300_000, "market.bars", "5m"), (900_000, "market.bars", "15m"), (3_600_000, "market.bars", "1h")],
)
def test_coarser_klines_go_to_the_bars(tmp_path, read_file, step, table, interval) -> None:
    got = read_file(zipped(tmp_path / f"spot/BTCUSDT-{interval}-2024-01.zip", klines(step=step)))
    assert got.claim.table == table
    assert got.rows["interval"].unique().to_list() == [interval]


def test_an_unsupported_interval_is_named(tmp_path) -> None:
    with pytest.raises(RejectedFileError) as caught:
        recognise(zipped(tmp_path / "spot/BTCUSDT-1s-2024-01.zip", klines(step=1_000)))
    assert caught.value.reason == "unsupported_interval"


def test_a_renamed_zip_is_known_by_its_member(tmp_path) -> None:
    path = zipped(tmp_path / "copy (1).zip", agg_trades(spot=True), member="ETHBTC-aggTrades-2024-01-01.csv")
    assert recognise(path)[1].symbol == "ETH-BTC"


def test_a_renamed_csv_needs_a_declared_symbol(tmp_path, read_file) -> None:
    path = tmp_path / "mystery.csv"
    path.write_text("\n".join(agg_trades(spot=True)) + "\n")
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "unknown_symbol"
    (tmp_path / "mystery.csv.mapping.yaml").write_text("symbol: BTCUSDT\n")
    assert read_file(path).rows["symbol"].unique().to_list() == ["BTC-USDT"]


def test_the_folder_layout_of_the_archive_tells_the_symbol(tmp_path) -> None:
    path = tmp_path / "spot/monthly/klines/ETHUSDT/1m/renamed.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(klines()) + "\n")
    assert recognise(path)[1].symbol == "ETH-USDT"


def test_klines_of_an_undecidable_market_say_how_to_declare_it(tmp_path, read_file) -> None:
    path = zipped(tmp_path / "BTCUSDT-1m-2024-01.zip", klines())
    with pytest.raises(RejectedFileError, match="Put the file into a folder") as caught:
        recognise(path)
    assert caught.value.reason == "ambiguous_market"
    assert read_file(path, venue="binance_usdm").rows["symbol"][0] == "BTC-USDT-PERP"


def test_a_venue_that_binance_has_not_is_refused(tmp_path) -> None:
    path = zipped(tmp_path / "BTCUSDT-1m-2024-01.zip", klines())
    path.with_name(path.name + ".mapping.yaml").write_text("venue: kraken\n")
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "unknown_venue"


def test_a_kline_that_closes_after_the_files_own_day_is_not_final(tmp_path, read_file) -> None:
    lines = klines(3, start=START + 23 * 3_600_000, step=3_600_000)
    got = read_file(zipped(tmp_path / "spot/BTCUSDT-1h-2024-01-01.zip", lines))
    assert got.rows["final"].to_list() == [True, False, False]


def test_as_of_decides_which_klines_are_final(tmp_path, read_file) -> None:
    path = zipped(tmp_path / "BTCUSDT-1m-2024-01.zip", klines(3))
    got = read_file(path, venue="binance", as_of=datetime(2024, 1, 1, 0, 2, tzinfo=UTC))
    assert got.rows["final"].to_list() == [True, True, False]


def test_without_a_period_the_last_kline_is_not_final(tmp_path, read_file) -> None:
    path = tmp_path / "klines.csv"
    path.write_text("\n".join(klines(3)) + "\n")
    got = read_file(path, symbol="BTCUSDT", venue="binance", batch_rows=2)
    assert got.rows["final"].to_list() == [True, True, False]


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_unzipped_files_are_read_too(tmp_path, read_file, pack) -> None:
    path = tmp_path / ("BTCUSDT-aggTrades-2024-01-01.csv" + (".gz" if pack is gzip.compress else ""))
    path.write_bytes(pack(("\n".join(agg_trades(spot=True)) + "\n").encode()))
    assert read_file(path).rows.height == 5


def test_a_half_written_zip_is_refused(tmp_path) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(1000, spot=True))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "truncated"


def test_a_zip_with_a_flipped_bit_is_refused(tmp_path) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(100_000, spot=True))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "truncated"


def test_a_zip_of_several_files_is_refused(tmp_path) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(spot=True))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.csv", "1,2\n")
    with pytest.raises(RejectedFileError) as caught:
        recognise(path)
    assert caught.value.reason == "several_members"


def test_a_last_line_cut_off_costs_that_row_only(tmp_path, read_file) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2024-01-01.csv"
    path.write_text("\n".join(agg_trades(spot=True))[:-20])
    got = read_file(path)
    assert got.rows.height == 4
    assert got.reasons == ["truncated_row"]


def test_absurd_values_are_left_to_the_audit(tmp_path, read_file) -> None:
    lines = agg_trades(4, spot=True)
    lines[1] = lines[1].replace("42000.5", "-1")
    lines[2] = lines[2].replace("42000.5", "NaN")
    got = read_file(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", [*lines, lines[0]]))
    assert got.rows.height == 5
    assert got.rows["price"][1] == -1
    assert got.rows["price"].is_nan()[2]


def test_each_kind_of_unreadable_line_has_its_reason(tmp_path, read_file) -> None:
    lines = agg_trades(10, spot=True)
    lines[2] = "102,4x,0.25,1,1,1704067200002,True,True"
    lines[4] = "104,42000.5"
    lines[6] = "106,,0.25,1,1,1704067200006,True,True"
    lines[8] = lines[8].replace("False", "perhaps")
    got = read_file(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", lines))
    found = dict(zip(got.rejected["row_number"], got.reasons, strict=True))
    assert found == {3: "unparsable_value", 5: "wrong_field_count", 7: "missing_value", 9: "unparsable_value"}
    assert got.rejected["detail"][0] == "price is 4x"
    assert got.rejected["row"][1] == "104,42000.5"


def test_batches_are_bounded_and_in_file_order(tmp_path, read_file) -> None:
    got = read_file(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(25, spot=True)), batch_rows=10)
    assert got.batches == 3
    assert got.rows["trade_id"].to_list() == list(range(100, 125))


def test_progress_counts_rows(tmp_path) -> None:
    probe, claim = recognise(zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(25, spot=True)))
    seen: list[tuple[int, int | None, str]] = []
    list(claim.adapter.read(probe, claim, source_ref="t", progress=lambda *step: seen.append(step)))
    assert seen[-1] == (25, None, "rows")


def test_a_blank_line_is_no_row(tmp_path, read_file) -> None:
    lines = agg_trades(4, spot=True)
    got = read_file(
        zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", [*lines[:2], "", *lines[2:], "  "], end="\r\n")
    )
    assert (got.rows.height, got.rejected.height) == (4, 0)


def test_blocks_cut_anywhere_give_the_same_rows(tmp_path, read_file, monkeypatch) -> None:
    path = zipped(tmp_path / "BTCUSDT-aggTrades-2024-01-01.zip", agg_trades(200, spot=True))
    whole = read_file(path).rows
    monkeypatch.setattr("hfthot_platform.adapters.files.delimited.file_blocks.__kwdefaults__", {"size": 97})
    pieces = read_file(path).rows
    assert whole.equals(pieces)
