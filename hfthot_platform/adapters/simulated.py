"""A seeded exchange whose regimes are known, for tests, demos and for judging models.

Any day can be computed by itself, in milliseconds, and days join without a seam:

1. Level.  The log price at each midnight is a random walk, pinned to the symbol's base price every 4096 days.
   It is built as a bridge by halving (Levy's construction): a midnight needs twelve draws, each from a generator
   keyed by (seed, symbol, place in the tree), and no other day.
2. Regimes.  The regime at each midnight is drawn from the chain's stationary distribution; between two
   midnights the chain runs minute by minute conditional on both ends (a Markov bridge).  As the chain forgets
   its state within hours, this is the law of one long chain.
3. Minutes.  Log returns follow r_t = phi_s r_(t-1) + sigma_s e_t, the Markov-switching AR(1) that the regime
   models estimate: trending has phi > 0, mean_reverting phi < 0, volatile a large sigma.  The difference
   between their sum and the step between the two midnights is spread over the minutes in proportion to
   sigma_s^2; per minute that is a few percent of sigma_s.  The lag across midnight is taken as zero.
4. Arrivals.  Trades per minute are a self-exciting count process (a Hawkes process in minutes): N_t is Poisson
   with rate w_t + 0.5 N_(t-1) + 0.3 rate_(t-1), where w_t has the time of day and the regime's activity in it.
5. Trades.  Within a minute the mid price is a Brownian bridge between the minute's ends.  Takers buy with
   probability (1 + 0.4 z) / 2, z being the minute's return in units of sigma_s, so flow moves with price (linear
   impact, shallower books when volatile).  Prices are half a spread away from the mid, on the tick; amounts are
   log-normal, on the lot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, check_request, no_progress
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import DAY, MINUTE, day_at_or_after, day_number
from hfthot_platform.domain.contracts.market import INSTRUMENTS, SIMULATED_REGIMES, TRADES

__all__ = ["REGIMES", "Regime", "SimulatedExchange"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Regime:
    """One regime: autocorrelation and standard deviation of 1m log returns, activity, mean length."""

    name: str
    phi: float
    sigma: float
    #: Trades relative to the average.
    activity: float
    minutes: float


REGIMES: Final = (
    Regime("trending", phi=0.35, sigma=0.0006, activity=1.0, minutes=120),
    Regime("mean_reverting", phi=-0.40, sigma=0.0004, activity=0.8, minutes=180),
    Regime("volatile", phi=0.0, sigma=0.0016, activity=1.6, minutes=60),
)

_MINUTES: Final = 1440
# Days between two midnights at the base price: 2 to the number of halvings.
_HALVINGS: Final = 12
_SELF_EXCITATION: Final = 0.5
_PERSISTENCE: Final = 0.3
_IMPACT: Final = 0.4
_HALF_SPREAD: Final = 0.00004
# Standard deviation of the path inside a minute, relative to that of the minute's return.
_INSIDE: Final = 0.4
_SIZE_SIGMA: Final = 1.2
# Dollars of a typical trade; the lot follows from it and the base price.
_TYPICAL_VALUE: Final = 400.0
_MOST_TRADES: Final = 10_000_000
# Ids of a day's trades start at the day's number times this.
_IDS_PER_DAY: Final = 1_000_000_000


class SimulatedExchange:
    """A feed of trades, true regimes and instruments of an exchange that does not exist.

    The same (seed, symbols, parameters) give the same bits for any day, in any order of asking.  Trade ids grow
    with time per symbol and jump at midnight.  Rows say `synthetic`.
    """

    name = "simulated"
    tables = (INSTRUMENTS.name, TRADES.name, SIMULATED_REGIMES.name)

    def __init__(
        self,
        seed: int = 7,
        symbols: Sequence[str] = ("ALPHA-USDT", "BRAVO-USDT", "CHARLIE-USDT"),
        *,
        venue: str = "simulated",
        trades_per_day: float = 20_000,
        regimes: tuple[Regime, Regime, Regime] = REGIMES,
    ) -> None:
        """Describe the exchange.

        Args:
            seed: any integer.
            symbols: spot symbols, `BASE-QUOTE`.
            venue: the venue's name in the rows.
            trades_per_day: mean number of trades per symbol and day.
            regimes: trending, mean_reverting and volatile, in this order.

        Raises:
            BadRequestError: a symbol is not BASE-QUOTE, or the number of trades is out of range.
        """
        for symbol in symbols:
            if symbol.count("-") != 1 or not all(symbol.split("-")):
                raise BadRequestError(
                    f"{symbol!r} is not a pair", where="simulated symbols", hint="Write it as BASE-QUOTE."
                )
        if not 0 < trades_per_day <= _MOST_TRADES:
            raise BadRequestError(
                f"{trades_per_day} is out of range", where="trades_per_day", hint=f"Choose 1 to {_MOST_TRADES:,}."
            )
        self.seed = seed
        self.symbols = tuple(symbols)
        self.venue = venue
        self.trades_per_day = trades_per_day
        self.regimes = regimes

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the rows of `table` with start <= time < end, by day and symbol, in batches of at most `BATCH_ROWS`.

        Instruments do not depend on the span.

        Raises:
            BadRequestError: as `check_request`.
        """
        check_request(self.name, self.tables, table, start, end)
        if table == INSTRUMENTS.name:
            yield Batch(table, self._instruments(), self._ref)
            return
        rows_of = self.trades if table == TRADES.name else self.true_regimes
        inside = (pl.col("ts") >= pl.lit(start).cast(_TIME)) & (pl.col("ts") < pl.lit(end).cast(_TIME))
        first = start.astimezone(UTC).date()
        days = max(0, (day_at_or_after(end) - first).days)
        total = days * len(self.symbols)
        waiting: list[pl.DataFrame] = []
        for offset in range(days):
            for number, symbol in enumerate(self.symbols, start=1):
                waiting.append(rows_of(symbol, first + timedelta(days=offset)).filter(inside))
                progress(offset * len(self.symbols) + number, total, "symbol-days")
                if sum(rows.height for rows in waiting) >= BATCH_ROWS:
                    *whole, rest = pl.concat(waiting).iter_slices(BATCH_ROWS)
                    for rows in whole if rest.height < BATCH_ROWS else [*whole, rest]:
                        yield Batch(table, rows, self._ref)
                    waiting = [rest] if rest.height < BATCH_ROWS else []
        if any(rows.height for rows in waiting):
            yield Batch(table, pl.concat(waiting), self._ref)

    def trades(self, symbol: str, day: date) -> pl.DataFrame:
        """Return one symbol's trades of one UTC day, as rows of `market.trades`, ordered by time."""
        minutes = self.minutes_of_day(symbol, day)
        sigma = self._sigma[minutes.regime]
        rng = self._rng(symbol, "trades", day_number(day))
        minute = np.repeat(np.arange(_MINUTES), self._counts(minutes.regime, rng))
        n = len(minute)
        inside = rng.random(n)
        time = minute + inside
        order = np.argsort(time, kind="stable")
        time = time[order]
        # Brownian motion over trades and minute ends together, then minus its own chord in each minute.
        at = np.concatenate([time, np.arange(_MINUTES + 1.0)])
        merged = np.argsort(at, kind="stable")
        step = np.diff(at[merged], prepend=0.0)
        scale = sigma[np.minimum(at[merged].astype(np.int64), _MINUTES - 1)]
        walk = np.empty(len(at))
        walk[merged] = np.cumsum(_INSIDE * scale * np.sqrt(step) * rng.standard_normal(len(at)))
        bridge = walk[:n] - np.interp(time, at[n:], walk[n:])
        mid = np.exp(np.interp(time, at[n:], minutes.log_price) + bridge)
        z = np.diff(minutes.log_price) / sigma
        buys = rng.random(n) < np.clip((1 + _IMPACT * z) / 2, 0.05, 0.95)[minute]
        tick, lot = self._steps(symbol)
        price = np.maximum(np.round(mid * np.where(buys, 1 + _HALF_SPREAD, 1 - _HALF_SPREAD) / tick), 1) * tick
        size = _TYPICAL_VALUE / self._base_price(symbol) * np.exp(_SIZE_SIGMA * rng.standard_normal(n))
        amount = np.maximum(np.round(size / lot), 1) * lot
        number = day_number(day)
        return pl.DataFrame(
            {
                "venue": pl.repeat(self.venue, n, eager=True),
                "symbol": pl.repeat(symbol, n, eager=True),
                "ts": pl.Series(number * DAY + (time * MINUTE).astype(np.int64)).cast(_TIME),
                "trade_id": number * _IDS_PER_DAY + np.arange(1, n + 1),
                # Whole steps times a step have digits of noise behind the last one: 0.30000000000000004.
                "price": np.round(price, _decimals(tick)),
                "amount": np.round(amount, _decimals(lot)),
                "side": pl.select(pl.when(pl.Series(buys)).then(pl.lit("buy")).otherwise(pl.lit("sell"))).to_series(),
                "source": pl.repeat("synthetic", n, eager=True),
                "source_ref": pl.repeat(self._ref, n, eager=True),
            }
        )

    def true_regimes(self, symbol: str, day: date) -> pl.DataFrame:
        """Return the regime of each minute of one UTC day, as rows of `market.simulated_regimes`."""
        names = pl.Series([regime.name for regime in self.regimes])
        number = day_number(day)
        return pl.DataFrame(
            {
                "venue": pl.repeat(self.venue, _MINUTES, eager=True),
                "symbol": pl.repeat(symbol, _MINUTES, eager=True),
                "ts": pl.Series(number * DAY + np.arange(_MINUTES) * MINUTE).cast(_TIME),
                "regime": names.gather(self.minutes_of_day(symbol, day).regime),
                "source": pl.repeat("synthetic", _MINUTES, eager=True),
                "source_ref": pl.repeat(self._ref, _MINUTES, eager=True),
            }
        )

    @property
    def _ref(self) -> str:
        if self.regimes == REGIMES:
            return f"simulated:seed={self.seed},trades_per_day={self.trades_per_day:g}"
        changed = hashlib.sha256(repr(self.regimes).encode()).hexdigest()[:12]
        return f"simulated:seed={self.seed},trades_per_day={self.trades_per_day:g},regimes={changed}"

    def _instruments(self) -> pl.DataFrame:
        rows = []
        for symbol in self.symbols:
            base, quote = symbol.split("-")
            rows.append((self.venue, symbol, "spot", base, quote, *self._steps(symbol), "synthetic", self._ref))
        names = ("venue", "symbol", "kind", "base", "quote", "tick_size", "lot_size", "source", "source_ref")
        return pl.DataFrame(rows, schema={name: INSTRUMENTS.column(name).polars for name in names}, orient="row")

    def _rng(self, symbol: str, purpose: str, *place: int) -> np.random.Generator:
        """Return the generator of one purpose and place: a function of its name only, never of what ran before."""
        name = "/".join(("hfthot", str(self.seed), symbol, purpose, *map(str, place)))
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
        return np.random.Generator(np.random.Philox(key=key))

    def _base_price(self, symbol: str) -> float:
        return float(10 ** self._rng(symbol, "base price").uniform(0, 4.5))

    def _steps(self, symbol: str) -> tuple[float, float]:
        """Return tick and lot: powers of ten, about 1e-5 of the price and 1e-3 of a typical amount."""
        price = self._base_price(symbol)
        return 10.0 ** (np.floor(np.log10(price)) - 5), 10.0 ** (np.floor(np.log10(_TYPICAL_VALUE / price)) - 3)

    # The chain of regimes

    @cached_property
    def _sigma(self) -> _Floats:
        return np.array([regime.sigma for regime in self.regimes])

    @cached_property
    def _powers(self) -> _Floats:
        """Transition matrices over 0 to 1440 minutes, shape (1441, 3, 3); a regime is left for either other."""
        leave = np.array([1 / regime.minutes for regime in self.regimes])
        one = np.diag(1 - leave) + (leave / 2)[:, None] * (1 - np.eye(len(leave)))
        powers = np.empty((_MINUTES + 1, *one.shape))
        powers[0] = np.eye(len(leave))
        for k in range(_MINUTES):
            powers[k + 1] = powers[k] @ one
        return powers

    @cached_property
    def _stationary(self) -> _Floats:
        """Share of time in each regime: proportional to the mean lengths, as all are entered equally often."""
        lengths = np.array([regime.minutes for regime in self.regimes])
        return np.asarray(lengths / lengths.sum(), dtype=np.float64)

    def _at_midnight(self, symbol: str, number: int) -> int:
        draw = self._rng(symbol, "midnight", number).random()
        return int(np.searchsorted(np.cumsum(self._stationary)[:-1], draw, side="right"))

    def _chain(self, symbol: str, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the regime of each minute, given those at this and the next midnight."""
        powers = self._powers
        state, goal = self._at_midnight(symbol, number), self._at_midnight(symbol, number + 1)
        # P(next | state, goal) is proportional to P(state -> next) P(next -> goal in the minutes that remain).
        left = _MINUTES - np.arange(1, _MINUTES)
        weights = powers[1][None, :, :] * powers[left][:, :, goal][:, None, :]
        steps = np.cumsum(weights / weights.sum(axis=2, keepdims=True), axis=2)[:, :, :-1].tolist()
        path = [state]
        for thresholds, draw in zip(steps, rng.random(_MINUTES - 1).tolist(), strict=True):
            low, high = thresholds[state]
            state = 0 if draw < low else 1 if draw < high else 2
            path.append(state)
        return np.array(path)

    # The price

    @cached_property
    def sigma_of_day(self) -> float:
        """Standard deviation of a day's log return, from the long-run variance of each regime's AR(1)."""
        per_minute = sum(
            share * (regime.sigma / (1 - regime.phi)) ** 2
            for share, regime in zip(self._stationary, self.regimes, strict=True)
        )
        return float(np.sqrt(_MINUTES * per_minute))

    def level_of_day(self, symbol: str, number: int) -> float:
        """Return the log price at a midnight."""
        block, place = divmod(number, 1 << _HALVINGS)
        low, high, left, right = 0, 1 << _HALVINGS, 0.0, 0.0
        while low < place:
            middle = (low + high) // 2
            # The middle of a bridge over T steps has variance T/4.
            draw = self._rng(symbol, "level", block, low, high).standard_normal()
            value = (left + right) / 2 + self.sigma_of_day * np.sqrt((high - low) / 4) * draw
            if place < middle:
                high, right = middle, value
            else:
                low, left = middle, value
        return float(np.log(self._base_price(symbol)) + left)

    def minutes_of_day(self, symbol: str, day: date) -> _Minutes:
        number = day_number(day)
        rng = self._rng(symbol, "minutes", number)
        regime = self._chain(symbol, number, rng)
        sigma = self._sigma[regime]
        phi = np.array([parameters.phi for parameters in self.regimes])[regime].tolist()
        shocks = (sigma * rng.standard_normal(_MINUTES)).tolist()
        returns, last = [], 0.0
        for slope, shock in zip(phi, shocks, strict=True):
            last = slope * last + shock
            returns.append(last)
        start, end = self.level_of_day(symbol, number), self.level_of_day(symbol, number + 1)
        path = np.cumsum(returns)
        weight = np.cumsum(sigma**2)
        path += (end - start - path[-1]) * weight / weight[-1]
        return _Minutes(regime, np.concatenate([[start], start + path[:-1], [end]]))

    # Arrivals

    @cached_property
    def _time_of_day(self) -> _Floats:
        """Activity by minute of the day with mean 1: quiet at 04:00, busiest in the American morning (UTC)."""
        hour = 2 * np.pi * np.arange(_MINUTES) / _MINUTES
        return np.asarray(
            1 + 0.35 * np.cos(hour - 2 * np.pi * 15 / 24) + 0.12 * np.cos(2 * (hour - 2 * np.pi * 14 / 24))
        )

    def _counts(self, regime: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        activity = np.array([parameters.activity for parameters in self.regimes])
        mean = self.trades_per_day / _MINUTES / float(activity @ self._stationary)
        own = (1 - _SELF_EXCITATION - _PERSISTENCE) * mean * self._time_of_day * activity[regime]
        rate = count = own[0] / (1 - _SELF_EXCITATION - _PERSISTENCE)
        counts = []
        for base in own.tolist():
            rate = base + _SELF_EXCITATION * count + _PERSISTENCE * rate
            count = rng.poisson(rate)
            counts.append(count)
        return np.array(counts)


@dataclass(frozen=True)
class _Minutes:
    """A day: the regime of each minute, shape (1440,), and the log price at each minute's ends, shape (1441,)."""

    regime: NDArray[np.int64]
    log_price: _Floats


_TIME: Final = pl.Datetime("us", "UTC")


def _decimals(step: float) -> int:
    return max(0, round(-float(np.log10(step))))
