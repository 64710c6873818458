"""Files of splits and dividends."""

from __future__ import annotations

from datetime import date

import pytest

from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError

TABLE = "market.corporate_actions"


def read(tmp_path, lines, name="actions.csv", **mapping):
    path = tmp_path / name
    path.write_text("\n".join([*lines, ""]))
    probe, claim = recognise(path, CsvMapping(**mapping))
    assert claim.table == TABLE
    (batch,) = claim.adapter.read(probe, claim, source_ref="test:1")
    assert batch.rows_read == batch.rows.height + batch.rejected.height + batch.gaps
    return batch


def actions(batch):
    return batch.rows.select("date", "symbol", "kind", "ratio", "amount").rows()


def test_a_file_with_kinds_has_a_ratio_or_an_amount_for_each(tmp_path) -> None:
    lines = [
        "Ex-Date,Ticker,Type,Split Ratio,Cash Amount,Currency",
        "2022-07-18,GOOGL,Split,20,,", "2023-05-02,BRK-B,Cash Dividend,,1.5,USD",
    ]  # fmt: skip
    batch = read(tmp_path, lines, venue="us_equity")
    assert actions(batch) == [
        (date(2022, 7, 18), "GOOGL", "split", 20.0, None),
        (date(2023, 5, 2), "BRK.B", "dividend", None, 1.5),
    ]
    assert batch.rows["currency"].to_list() == [None, "USD"]


@pytest.mark.parametrize("written", ["4", "4.0", "4:1", "8/2", "4-for-1", "4 for 1"])
def test_a_ratio_is_written_in_several_ways(tmp_path, written) -> None:
    batch = read(tmp_path, ["Date,Stock Splits", f"2020-08-31,{written}"], name="AAPL.csv", venue="us_equity")
    assert actions(batch) == [(date(2020, 8, 31), "AAPL", "split", 4.0, None)]


def test_one_column_of_values_is_both_beside_a_column_of_kinds(tmp_path) -> None:
    lines = ["date,kind,value", "2024-01-02,split,2", "2024-01-03,dividend,0.5"]
    batch = read(tmp_path, lines, table=TABLE, venue="us_equity", symbol="KO")
    assert actions(batch) == [
        (date(2024, 1, 2), "KO", "split", 2.0, None),
        (date(2024, 1, 3), "KO", "dividend", None, 0.5),
    ]


def test_of_prices_with_actions_the_days_without_any_are_gaps(tmp_path) -> None:
    lines = [
        "Date,Open,Close,Volume,Dividends,Stock Splits",
        "2014-06-06,1,1,1,0.0,0.0", "2014-06-09,1,1,1,0.5,7.0",
    ]  # fmt: skip
    batch = read(tmp_path, lines, table=TABLE, venue="us_equity", symbol="AAPL")
    assert actions(batch) == [
        (date(2014, 6, 9), "AAPL", "split", 7.0, None),
        (date(2014, 6, 9), "AAPL", "dividend", None, 0.5),
    ]
    assert batch.gaps == 2


def test_a_day_written_as_its_midnight_is_that_day_in_any_zone(tmp_path) -> None:
    lines = ["Date,Dividends", "2024-03-28 00:00:00+09:00,37.5"]
    batch = read(tmp_path, lines, table=TABLE, venue="jp_equity", symbol="7203.T")
    assert batch.rows["date"].to_list() == [date(2024, 3, 28)]


def test_what_is_no_action_is_set_aside_with_its_reason(tmp_path) -> None:
    lines = ["date,symbol,kind,ratio,amount", "2024-01-02,KO,merger,1,", "2024-01-03,KO,split,four,"]
    batch = read(tmp_path, lines, venue="us_equity")
    assert batch.rows.is_empty()
    assert batch.rejected["reason"].to_list() == ["unknown_value", "unparsable_value"]
    assert batch.rejected["row"].to_list() == ["2024-01-02,KO,merger", "2024-01-03,KO,split,four"]


def test_declared_columns_name_the_day_the_kind_and_the_values(tmp_path) -> None:
    columns = {"date": "When", "kind": "What", "ratio": "Number", "amount": "Number"}
    lines = ["When;What;Number", "31.01.2024;dividend;0,25"]
    declared = {"venue": "us_equity", "symbol": "KO", "columns": columns, "decimal": ",", "time": "%d.%m.%Y"}
    assert actions(read(tmp_path, lines, table=TABLE, **declared)) == [
        (date(2024, 1, 31), "KO", "dividend", None, 0.25)
    ]


@pytest.mark.parametrize(
    ("lines", "mapping", "reason"),
    [
        (["Date,Dividends", "2023-05-02,1"], {"venue": "us_equity"}, "unknown_symbol"),
        (["Date,Dividends", "2023-05-02,1"], {"symbol": "KO"}, "unknown_venue"),
        (["Date,Close", "2023-05-02,1"], {"venue": "us_equity", "symbol": "KO"}, "wrong_schema"),
    ],
)
def test_what_is_missing_is_named(tmp_path, lines, mapping, reason) -> None:
    with pytest.raises(RejectedFileError) as refused:
        read(tmp_path, lines, table=TABLE, **mapping)
    assert refused.value.reason == reason
