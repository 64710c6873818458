"""Corporate actions: prices adjusted for splits and dividends.

The usual backward adjustment (CRSP's cumulative factors): a price before an ex-date is multiplied by the factors of all
actions that come after it, so the newest prices are those that were traded, and returns are total returns.  A split
of `ratio` new shares for one old has the factor 1/ratio; a dividend of `amount` per share has 1 - amount / close, with
the last traded close before its ex-date.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.market import ACTION_KINDS

__all__ = ["adjusted_closes"]

_KEY: Final = ("venue", "symbol")


def adjusted_closes(closes: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return closes with the factors that adjust them, and the adjusted closes.

    Args:
        closes: rows of `market.closes`, or traded closes: `venue`, `symbol`, `date`, `close`; in any order, one per
            series and day.  Where `adjusted` says that a close is adjusted already, its `raw_close` is taken.
        actions: rows of `market.corporate_actions`: `venue`, `symbol`, `date` (ex-date), `kind`, `ratio`, `amount`.

    Returns:
        The closes by symbol, venue and date, with `split_factor`, `dividend_factor` (products over all later actions)
        and `adjusted_close` = traded close * split_factor * dividend_factor.  A dividend before the first close of its
        series changes nothing.

    Raises:
        BadRequestError: an unknown kind, a ratio or an amount that is missing or not positive, a dividend of at least
            the price, or an adjusted close whose traded one is not known.
    """
    unknown = actions.filter(~pl.col("kind").is_in(ACTION_KINDS))
    if unknown.height:
        raise BadRequestError(
            f"an action of the kind {unknown['kind'][0]!r}", where="actions", hint=f"One of {', '.join(ACTION_KINDS)}."
        )
    valued = actions.with_columns(_value=pl.when(pl.col("kind") == "split").then("ratio").otherwise("amount"))
    bad = valued.filter(~((pl.col("_value") > 0) & pl.col("_value").is_finite()).fill_null(value=False))
    if bad.height:
        raise BadRequestError(
            f"{bad['kind'][0]} of {bad['symbol'][0]} on {bad['date'][0]}: {bad['_value'][0]}",
            where="actions",
            hint="A split has a positive ratio (new shares for one old), a dividend a positive amount (per share).",
        )
    ordered = closes.sort("symbol", "venue", "date").with_columns(_traded=_traded(closes))
    unknown = ordered.filter(pl.col("_traded").is_null())
    if unknown.height:
        raise BadRequestError(
            f"the traded close of {unknown['symbol'][0]} on {unknown['date'][0]} is not known",
            where="closes",
            hint="Adjusted closes without `raw_close` cannot be adjusted again: leave them out.",
        )
    parts = [ordered.clear().with_columns(split_factor=pl.lit(1.0), dividend_factor=pl.lit(1.0))]
    later = {key: part.sort("date") for key, part in valued.partition_by(*_KEY, as_dict=True).items()}
    for key, series in ordered.partition_by(*_KEY, as_dict=True, maintain_order=True).items():
        parts.append(_with_factors(series, later.get(key)))
    whole = pl.concat(parts)
    adjusted = pl.col("_traded") * pl.col("split_factor") * pl.col("dividend_factor")
    return whole.with_columns(adjusted_close=adjusted).drop("_traded")


def _traded(closes: pl.DataFrame) -> pl.Expr:
    """Return the close as it was traded, null where it is not known."""
    if "adjusted" not in closes.columns:
        return pl.col("close")
    raw = pl.col("raw_close") if "raw_close" in closes.columns else pl.lit(None, pl.Float64)
    return pl.when("adjusted").then(raw).otherwise("close")


def _with_factors(series: pl.DataFrame, actions: pl.DataFrame | None) -> pl.DataFrame:
    """Return one series, sorted by date, with the product of the factors of all actions after each date."""
    split = np.ones(series.height)
    dividend = np.ones(series.height)
    if actions is not None:
        days = series["date"].to_numpy().astype("datetime64[D]")
        close = series["_traded"].to_numpy()
        # Rows before the ex-date: positions up to `place`, exclusive.
        place = np.searchsorted(days, actions["date"].to_numpy().astype("datetime64[D]"))
        value = actions["_value"].to_numpy()
        is_split = (actions["kind"] == "split").to_numpy()
        before = close[np.maximum(place - 1, 0)]
        known = place > 0
        factor = np.where(is_split, 1.0 / value, np.where(known, 1.0 - value / before, 1.0))
        if (factor <= 0).any():
            at = int(np.argmax(factor <= 0))
            raise BadRequestError(
                f"a dividend of {value[at]} at a price of {before[at]}",
                where=f"{series['symbol'][0]}, {actions['date'][at]}",
                hint="Give cash per share in the currency of the price, as it was on the day before.",
            )
        for factors, chosen in ((split, is_split), (dividend, ~is_split)):
            steps = np.ones(series.height + 1)
            np.multiply.at(steps, place[chosen], factor[chosen])
            # A row's factor is the product of the steps at all later positions.
            factors[:] = np.cumprod(steps[::-1])[::-1][1:]
    return series.with_columns(split_factor=pl.Series(split), dividend_factor=pl.Series(dividend))
