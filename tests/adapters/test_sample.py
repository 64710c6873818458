"""The sample that ships with the packages, against independent copies of the same history."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters import sample
from hfthot_platform.adapters.ports import Feed
from hfthot_platform.adapters.sample import INDEX, SampleFeed
from hfthot_platform.core.errors import BadRequestError, SourceUnavailableError
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.market.gaps import agreement, completeness

EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def fetch(table: str, start: datetime = EVER[0], end: datetime = EVER[1]) -> pl.DataFrame:
    batches = list(SampleFeed().fetch(table, start, end))
    return pl.concat([batch.rows for batch in batches]) if batches else pl.DataFrame()


@pytest.mark.parametrize("table", SampleFeed.tables)
def test_rows_are_those_of_the_contract_and_break_no_rule(table: str) -> None:
    rows = fetch(table)
    declared = contract(table)
    for name, dtype in rows.schema.items():
        assert declared.column(name).polars == dtype
    absent = set(declared.column_names) - set(rows.columns) - {declared.partition_by, "schema_version"}
    assert all(declared.column(name).nullable for name in absent)
    assert rows.select(declared.primary_key).is_unique().all()
    complete = rows.with_columns(
        *(pl.lit(None, declared.column(name).polars).alias(name) for name in absent), schema_version=pl.lit(1)
    )
    for rule in declared.rules:
        assert complete.filter(rule.violated()).is_empty(), rule.says


def test_it_is_a_feed_that_reports_progress() -> None:
    feed: Feed = SampleFeed()
    seen: list[tuple[int, int | None, str]] = []
    rows = sum(
        batch.rows_read for batch in feed.fetch("market.closes", *EVER, progress=lambda *step: seen.append(step))
    )
    assert seen[-1] == (rows, rows, "rows")


def test_a_span_is_left_closed_and_right_open() -> None:
    start = datetime(2015, 1, 5, tzinfo=UTC)
    rows = fetch("market.bars", start, start + timedelta(days=4))
    assert rows["ts"].dt.date().to_list() == [date(2015, 1, 5), date(2015, 1, 6), date(2015, 1, 7), date(2015, 1, 8)]
    assert (rows["ts_close"] - rows["ts"]).unique().to_list() == [timedelta(days=1)]


def test_a_span_without_data_yields_nothing() -> None:
    assert list(SampleFeed().fetch("market.bars", EVER[0], datetime(1950, 1, 1, tzinfo=UTC))) == []


def test_the_index_and_twenty_stocks_are_known_from_their_first_day() -> None:
    instruments = fetch("market.instruments")
    assert instruments.filter(pl.col("kind") == "equity").height == 20
    assert instruments.filter(pl.col("symbol") == INDEX).select("kind", "listed_on").row(0) == (
        "index",
        date(1999, 1, 4),
    )


def test_no_trading_day_is_missing() -> None:
    for table, series in (("market.bars", 1), ("market.closes", 21)):
        counted = completeness(fetch(table), "1d")
        assert counted.height == series
        assert counted.select(pl.col("missing", "off_grid").sum()).row(0) == (0, 0)


def test_the_two_packages_agree_on_the_index() -> None:
    bars = fetch("market.bars").select("venue", "symbol", "close", date=pl.col("ts").dt.date())
    compared = agreement(bars, fetch("market.closes"), 1e-7, columns=("close",)).row(0, named=True)
    assert (compared["compared"], compared["differing"]) == (5_031, 0)


def test_provenance_names_package_file_and_content() -> None:
    refs = fetch("market.closes")["source_ref"].unique().sort()
    assert refs.str.contains(r"^sample:skfolio/datasets/data/sp500_\w+\.csv\.gz@[0-9a-f]{16}$").all()


def test_another_table_and_a_naive_time_are_refused() -> None:
    with pytest.raises(BadRequestError, match=r"Did you mean 'market\.bars'"):
        list(SampleFeed().fetch("market.bars_1m", *EVER))
    with pytest.raises(BadRequestError, match="has no time zone"):
        list(SampleFeed().fetch("market.bars", datetime(2000, 1, 1), EVER[1]))


def test_a_package_without_its_file_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "INDEX_BARS", ("arch", "data/gone.csv.gz"))
    with pytest.raises(SourceUnavailableError, match="Install the package arch again"):
        list(SampleFeed().fetch("market.bars", *EVER))


def test_the_packages_are_not_imported() -> None:
    code = (
        "import sys, datetime as d\n"
        "from hfthot_platform.adapters.sample import SampleFeed\n"
        "utc = d.timezone.utc\n"
        "for table in SampleFeed.tables:\n"
        "    list(SampleFeed().fetch(table, d.datetime(2000, 1, 1, tzinfo=utc), d.datetime(2001, 1, 1, tzinfo=utc)))\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'arch', 'skfolio', 'sklearn', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Real data


def test_stocks_equal_the_published_copy(shared_data: Path) -> None:
    folder = shared_data / "equities/skfolio_datasets"
    wide = pl.read_csv(folder / "sp500_dataset.csv.gz", try_parse_dates=True)
    mine = fetch("market.closes").filter(pl.col("venue") == "us_equity")
    assert_frame_equal(
        mine.pivot("symbol", index="date", values="close").rename({"date": "Date"}), wide, check_column_order=False
    )


def test_the_index_agrees_with_an_independent_history(shared_data: Path) -> None:
    other = pl.read_csv(shared_data / "equities/sp500_index_1927_2019/sp500_close.csv", try_parse_dates=True).select(
        pl.lit("us_index").alias("venue"),
        pl.lit(INDEX).alias("symbol"),
        pl.col("Date").alias("date"),
        pl.col("Close").alias("close"),
    )
    bars = fetch("market.bars").select("venue", "symbol", "close", date=pl.col("ts").dt.date())
    assert agreement(bars, other, 1e-8, columns=("close",)).select("compared", "differing").row(0) == (5_031, 0)
    index = fetch("market.closes").filter(pl.col("venue") == "us_index")
    assert agreement(index, other, 1e-7, columns=("close",)).select("compared", "differing").row(0) == (7_559, 0)
