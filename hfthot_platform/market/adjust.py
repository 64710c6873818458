"""Corporate actions: prices adjusted for splits and dividends.

The usual backward adjustment (CRSP's cumulative factors): a price before an ex-date is multiplied by the factors of all
actions that come after it, so the newest prices are those that were traded, and returns are total returns.  A split
of `ratio` new shares for one old has the factor 1/ratio; a dividend of `cash` per share has 1 - cash / close, with the
last traded close before its ex-date.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from hfthot_platform.errors import BadRequestError

__all__ = ["ACTION_KINDS", "adjusted_closes"]

#: `split`: value is the number of new shares for one old; `dividend`: value is cash per share.
ACTION_KINDS: Final = ("split", "dividend")

_KEY: Final = ("venue", "symbol")


def adjusted_closes(closes: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return closes with the factors that adjust them, and the adjusted closes.

    Args:
        closes: traded closes: `venue`, `symbol`, `date`, `close`, in any order, one per series and day.
        actions: `venue`, `symbol`, `ex_date`, `kind` (split or dividend) and `value`.

    Returns:
        The closes by symbol, venue and date, with `split_factor`, `dividend_factor` (products over all later actions)
        and `adjusted_close` = close * split_factor * dividend_factor.  A dividend before the first close of its series
        changes nothing.

    Raises:
        BadRequestError: an unknown kind, a value that is not positive, or a dividend of at least the price.
    """
    unknown = actions.filter(~pl.col("kind").is_in(ACTION_KINDS))
    if unknown.height:
        raise BadRequestError(
            f"an action of the kind {unknown['kind'][0]!r}", where="actions", hint=f"One of {', '.join(ACTION_KINDS)}."
        )
    bad = actions.filter(~((pl.col("value") > 0) & pl.col("value").is_finite()).fill_null(value=False))
    if bad.height:
        raise BadRequestError(
            f"{bad['kind'][0]} of {bad['symbol'][0]} on {bad['ex_date'][0]}: {bad['value'][0]}",
            where="actions",
            hint="Values are positive: new shares for one old, or cash per share.",
        )
    ordered = closes.sort("symbol", "venue", "date")
    parts = [ordered.clear().with_columns(split_factor=pl.lit(1.0), dividend_factor=pl.lit(1.0))]
    later = {key: part.sort("ex_date") for key, part in actions.partition_by(*_KEY, as_dict=True).items()}
    for key, series in ordered.partition_by(*_KEY, as_dict=True, maintain_order=True).items():
        parts.append(_with_factors(series, later.get(key)))
    whole = pl.concat(parts)
    return whole.with_columns(adjusted_close=pl.col("close") * pl.col("split_factor") * pl.col("dividend_factor"))


def _with_factors(series: pl.DataFrame, actions: pl.DataFrame | None) -> pl.DataFrame:
    """Return one series, sorted by date, with the product of the factors of all actions after each date."""
    split = np.ones(series.height)
    dividend = np.ones(series.height)
    if actions is not None:
        days = series["date"].to_numpy().astype("datetime64[D]")
        close = series["close"].to_numpy()
        # Rows before the ex-date: positions up to `place`, exclusive.
        place = np.searchsorted(days, actions["ex_date"].to_numpy().astype("datetime64[D]"))
        value = actions["value"].to_numpy()
        is_split = (actions["kind"] == "split").to_numpy()
        before = close[np.maximum(place - 1, 0)]
        known = place > 0
        factor = np.where(is_split, 1.0 / value, np.where(known, 1.0 - value / before, 1.0))
        if (factor <= 0).any():
            at = int(np.argmax(factor <= 0))
            raise BadRequestError(
                f"a dividend of {value[at]} at a price of {before[at]}",
                where=f"{series['symbol'][0]}, {actions['ex_date'][at]}",
                hint="Give cash per share in the currency of the price, as it was on the day before.",
            )
        for factors, chosen in ((split, is_split), (dividend, ~is_split)):
            steps = np.ones(series.height + 1)
            np.multiply.at(steps, place[chosen], factor[chosen])
            # A row's factor is the product of the steps at all later positions.
            factors[:] = np.cumprod(steps[::-1])[::-1][1:]
    return series.with_columns(split_factor=pl.Series(split), dividend_factor=pl.Series(dividend))
