"""Trade ids: numbers stay, text is hashed, missing ids are made from time and arrival."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.domain.market.trade_ids import arrival_rank, synthetic_trade_id, venue_trade_id


def _ids(values: list, dtype: pl.DataType | None = None) -> list[int | None]:
    return (
        pl.DataFrame({"id": pl.Series(values, dtype=dtype)}).select(venue_trade_id(pl.col("id"))).to_series().to_list()
    )


def test_a_number_is_kept_whether_quoted_or_not() -> None:
    numbers = [0, 28457, 10**18, 1_582_369_061_705_295_754, 2**62 - 1]
    assert _ids(numbers) == _ids([str(number) for number in numbers]) == numbers


@pytest.mark.parametrize("number", [2**62, 2**63 - 1, 2**63, 10**19 - 1, 10**25])
def test_a_number_of_2_to_the_62_or_more_is_hashed_like_text(number: int) -> None:
    (found,) = _ids([str(number)])
    assert found is not None
    assert 2**62 <= found < 2**63
    assert found != number


def test_text_becomes_a_stable_number_above_every_venue_number() -> None:
    (number,) = _ids(["0afd7c70-3dd1-4b3c-8a7f-0c9f5b3c0b1e"])
    # The value itself is pinned: it must never change between releases, or trades would be stored twice.
    assert number == 7256099855851799221
    assert 2**62 <= number < 2**63


def test_texts_that_only_look_alike_get_different_ids() -> None:
    ids = _ids(["7", "07", "7a", "7.0", "0" + "1" * 18, "1" * 18, "1" * 19])
    assert len(set(ids)) == 7


@pytest.mark.parametrize("nothing", [None, "", "  ", "-5"])
def test_an_id_that_is_none_stays_null_for_the_audit(nothing: str | None) -> None:
    assert _ids([nothing], pl.String()) == [None]


def test_a_negative_integer_is_not_an_id() -> None:
    assert _ids([-1]) == [None]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20, unique_by=str.strip))
def test_ids_are_positive_and_do_not_depend_on_neighbours(texts: list[str]) -> None:
    together = _ids(texts, pl.String())
    assert together == [_ids([text], pl.String())[0] for text in texts]
    assert all(number is None or 0 <= number < 2**63 for number in together)


def _synthetic(times: list[datetime], **kwargs: int) -> list[int | None]:
    frame = pl.DataFrame(
        {"venue": "v", "symbol": "A-B", "ts": times}, schema_overrides={"ts": pl.Datetime("us", "UTC")}
    )
    return frame.select(synthetic_trade_id(pl.col("ts"), arrival_rank(), **kwargs)).to_series().to_list()


def test_a_synthetic_id_is_the_documented_formula() -> None:
    ts = datetime(2024, 1, 1, tzinfo=UTC)
    us = int(ts.timestamp()) * 10**6
    assert _synthetic([ts, ts]) == [-(2**63) + 1 + us * 1000, -(2**63) + 1 + us * 1000 + 1]


@given(
    st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)), min_size=1)
)
def test_synthetic_ids_are_negative_distinct_and_order_by_time_then_arrival(times: list[datetime]) -> None:
    ids = _synthetic(times)
    assert all(number is not None and number < 0 for number in ids)
    assert len(set(ids)) == len(ids)
    by_id = [index for _, index in sorted(zip(ids, range(len(ids)), strict=True))]
    assert by_id == sorted(range(len(times)), key=lambda index: (times[index], index))


def test_each_symbol_counts_for_itself() -> None:
    ts = datetime(2024, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame({"venue": ["v"] * 3, "symbol": ["A", "B", "A"], "ts": [ts] * 3})
    assert frame.select(arrival_rank()).to_series().to_list() == [0, 0, 1]


def test_the_1001st_trade_of_a_microsecond_is_left_to_the_audit() -> None:
    ids = _synthetic([datetime(2024, 1, 1, tzinfo=UTC)] * 1001)
    assert ids[-1] is None
    assert None not in ids[:-1]


def test_a_source_in_whole_seconds_has_room_for_more() -> None:
    ids = _synthetic([datetime(2024, 1, 1, tzinfo=UTC)] * 1001, resolution_us=1_000_000)
    assert len(set(ids)) == 1001
    assert None not in ids


def test_a_time_before_1970_gets_no_synthetic_id() -> None:
    assert _synthetic([datetime(1969, 12, 31, tzinfo=UTC)]) == [None]
