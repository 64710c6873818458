"""Prices adjusted for splits and dividends."""

from __future__ import annotations

import io
import zipfile
from datetime import date

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.market.adjust import adjusted_closes
from tests.recordings import EQUITY


def closes(prices: list[float], symbol: str = "KO") -> pl.DataFrame:
    days = [date(2024, 1, 1 + k) for k in range(len(prices))]
    return pl.DataFrame({"venue": "us_equity", "symbol": symbol, "date": days, "close": prices})


def actions(*rows: tuple[int, str, float], symbol: str = "KO") -> pl.DataFrame:
    return pl.DataFrame(
        [
            ("us_equity", symbol, date(2024, 1, day), kind, *((value, None) if kind == "split" else (None, value)))
            for day, kind, value in rows
        ],
        schema={
            "venue": pl.String, "symbol": pl.String, "date": pl.Date, "kind": pl.String,
            "ratio": pl.Float64, "amount": pl.Float64,
        },
        orient="row",
    )  # fmt: skip


def test_a_split_divides_the_prices_before_it() -> None:
    found = adjusted_closes(closes([100, 102, 26, 27]), actions((3, "split", 4)))
    assert found["adjusted_close"].to_list() == [25, 25.5, 26, 27]
    assert found["dividend_factor"].to_list() == [1, 1, 1, 1]


def test_a_dividend_lowers_the_prices_before_it_so_that_returns_are_total_returns() -> None:
    found = adjusted_closes(closes([100, 98]), actions((2, "dividend", 2)))
    assert found["adjusted_close"].to_list() == pytest.approx([98, 98])


def test_actions_of_several_days_multiply_and_those_of_other_series_do_not_count() -> None:
    several = actions((2, "split", 2), (3, "dividend", 5), (4, "split", 2))
    found = adjusted_closes(closes([100, 50, 45, 22]), pl.concat([several, actions((2, "split", 7), symbol="PEP")]))
    assert found["split_factor"].to_list() == [0.25, 0.5, 0.5, 1]
    assert found["dividend_factor"].to_list() == pytest.approx([0.9, 0.9, 1, 1])


def test_an_action_before_the_first_close_changes_nothing() -> None:
    early = actions((1, "dividend", 500), (1, "split", 2))
    assert adjusted_closes(closes([100, 101]), early)["adjusted_close"].to_list() == [100, 101]


def test_closes_that_a_vendor_adjusted_are_adjusted_from_the_traded_ones() -> None:
    rows = closes([25, 26]).with_columns(adjusted=pl.Series([True, False]), raw_close=pl.Series([100.0, 26.0]))
    assert adjusted_closes(rows, actions((2, "split", 4)))["adjusted_close"].to_list() == [25, 26]
    unknown = rows.with_columns(raw_close=pl.lit(None, pl.Float64))
    with pytest.raises(BadRequestError, match="traded close of KO on 2024-01-01 is not known"):
        adjusted_closes(unknown, actions((2, "split", 4)))


@pytest.mark.parametrize(
    ("action", "why"),
    [((2, "merger", 1), "merger"), ((2, "split", 0), "positive"), ((2, "dividend", 100), "at a price of 100")],
)
def test_an_action_that_cannot_be_is_refused(action, why) -> None:
    with pytest.raises(BadRequestError, match=why):
        adjusted_closes(closes([100, 101]), actions(action))


@pytest.mark.parametrize("ticker", ["aapl", "ibm", "spy"])
def test_recorded_factors_are_reproduced_to_a_millionth(recordings, ticker) -> None:
    with zipfile.ZipFile(recordings / f"{EQUITY}/daily/{ticker}.zip") as archive:
        table = pl.read_csv(io.BytesIO(archive.read(archive.namelist()[0])), has_header=False)
    day = pl.col("column_0").cast(pl.String).str.slice(0, 8).str.to_date("%Y%m%d")
    traded = table.select(
        pl.lit("us_equity").alias("venue"), pl.lit(ticker.upper()).alias("symbol"), day.alias("date"),
        (pl.col("column_4") / 10_000).alias("close"),
    )  # fmt: skip
    names = ["last", "price_factor", "split_factor", "reference"]
    factors = pl.read_csv(recordings / f"{EQUITY}/factor_files/{ticker}.csv", has_header=False, new_columns=names)
    factors = factors.with_columns(pl.col("last").cast(pl.String).str.to_date("%Y%m%d")).sort("last")
    factors = factors.filter(pl.col("last") >= traded["date"].min(), pl.col("last") < traded["date"].max())
    # A line holds for the days up to its own; the action is between it and the next line.
    steps = factors.with_columns(
        ratio=pl.col("split_factor").shift(-1) / pl.col("split_factor"),
        share=1 - pl.col("price_factor") / pl.col("price_factor").shift(-1),
    ).drop_nulls()
    prior = steps.join_asof(traded.select("date", "close"), left_on="last", right_on="date", strategy="backward")
    ex = (pl.col("last") + pl.duration(days=1)).alias("date")
    label = [pl.lit("us_equity").alias("venue"), pl.lit(ticker.upper()).alias("symbol"), ex]
    splits = prior.filter((pl.col("ratio") - 1).abs() > 1e-6)
    dividends = prior.filter(pl.col("share") > 0)
    made = pl.concat(
        [
            splits.select(*label, pl.lit("split").alias("kind"), "ratio", pl.lit(None, pl.Float64).alias("amount")),
            dividends.select(
                *label, pl.lit("dividend").alias("kind"), pl.lit(None, pl.Float64).alias("ratio"),
                (pl.col("share") * pl.col("reference")).alias("amount"),
            ),
        ]
    )  # fmt: skip
    found = adjusted_closes(traded, made)
    newest = factors.tail(1)
    compared = factors.join_asof(found.drop("venue", "symbol"), left_on="last", right_on="date", strategy="backward")
    expected = pl.DataFrame(
        {
            "split": compared["split_factor"] / newest["split_factor"][0],
            "dividend": compared["price_factor"] / newest["price_factor"][0],
        }
    )
    assert compared.height > 5
    error = (compared["split_factor_right"] / expected["split"] - 1).abs().max()
    assert error < 1e-6
    assert (compared["dividend_factor"] / expected["dividend"] - 1).abs().max() < 1e-6
