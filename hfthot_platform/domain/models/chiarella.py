"""Chiarella's market of fundamentalists, chartists and noise traders: simulate, judge stability, calibrate.

What belongs here: the linear model's equations, its exact moments, its likelihood.  What does not: prices from
tables, schedules.

The price p (a logarithm, or a level: the equations are the same) moves with excess demand (Chiarella 1992; Beja and
Goldman 1980),

    dp = lambda (w_F D_F + w_C D_C + w_N D_N) dt + sigma dW,
    D_F = alpha_F (F - p),   D_C = alpha_C (p_t - p_(t-dt)) / dt,   D_N ~ N(0, sigma_N^2) at each step,
    dF  = (mu_F + theta (level - F)) dt + sigma_F dB,

W and B independent Brownian motions.  Demands are in shares of the average daily volume per unit of time, so
lambda is the move of the price per share of the daily volume.  A step of dt is the Euler step

    p_(t+1) = p_t + a (F_t - p_t) + c (p_t - p_(t-1)) + e_(t+1),
    a = lambda w_F alpha_F dt,   c = lambda w_C alpha_C,
    Var e = (lambda w_N sigma_N dt)^2 + sigma^2 dt;

with dt = 1 it is the model as published.  With constant F the deviation x = p - F is the AR(2) process
x_(t+1) = (1 - a + c) x_t - c x_(t-1) + e_(t+1): it is stationary if and only if c < 1 and 0 < a < 2 (1 + c).

**Assumptions.**  Demand is linear, so bubbles grow without bound instead of bursting, and the impact of an order
is proportional to its size and permanent only if a = 0.  Traders do not learn and do not switch strategy.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from hfthot_platform.core.arguments import array, number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike
from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, NotConvergedError

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Calibration",
    "ChiarellaParams",
    "Estimate",
    "Impact",
    "PriceMoments",
    "Simulation",
    "Stability",
    "autocovariance",
    "calibrate",
    "forecast",
    "order_impact",
    "simulate",
    "stability",
]

#: Paths that share one stream of random numbers; part of what a seed means, so it must not change.
_BLOCK: Final = 256
#: Orders up to this share of the average daily volume are taken to leave the market as it is.
_MATERIAL: Final = 0.01
#: Coefficients and noise of a step beyond this leave the range of numbers within a few steps.
_LARGEST: Final = 1e100
#: Simulated prices, at most: eight gigabytes of them.
_MOST_POINTS: Final = 1_000_000_000
_MOST_WORKERS: Final = 64
#: Half the width of a 95 % interval, in standard errors.
_TWO_SIDED: Final = 1.959963984540054


@dataclass(frozen=True)
class ChiarellaParams:
    """Parameters of the market and where it starts; time in units of the caller's choice.

    Attributes:
        impact: lambda, move of the price per share of the average daily volume.
        alpha_fundamental: demand per unit of mispricing and of time.
        alpha_chartist: demand per unit of the price's speed.
        sigma_noise: standard deviation of the noise traders' demand in a step.
        volatility: sigma, of news that moves the price without trade, per square root of time.
        weight_fundamental: share of fundamentalists. weight_chartist: of chartists. weight_noise: of noise traders.
        price: where the price starts. previous_price: one step before; the same where None.
        fundamental: where the fundamental value starts; at the price where None.
        fundamental_drift: mu_F, per unit of time. fundamental_volatility: sigma_F, per square root of time.
        fundamental_reversion: theta, per unit of time. fundamental_level: what it returns to.
    """

    impact: float = 1.0
    alpha_fundamental: float = 0.1
    alpha_chartist: float = 0.3
    sigma_noise: float = 0.01
    volatility: float = 0.0
    weight_fundamental: float = 1.0
    weight_chartist: float = 1.0
    weight_noise: float = 1.0
    price: float = 0.0
    previous_price: float | None = None
    fundamental: float | None = None
    fundamental_drift: float = 0.0
    fundamental_volatility: float = 0.0
    fundamental_reversion: float = 0.0
    fundamental_level: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, and negative scales and weights."""
        for name, value in asdict(self).items():
            if value is not None:
                number(value, name, "ChiarellaParams")
        for name in (
            *("impact", "sigma_noise", "volatility", "fundamental_volatility", "fundamental_reversion"),
            *("weight_fundamental", "weight_chartist", "weight_noise"),
        ):
            if getattr(self, name) < 0:
                raise BadRequestError(f"{name}={getattr(self, name)!r} is negative", where="ChiarellaParams")

    def coefficients(self, dt: float = 1.0) -> tuple[float, float, float]:
        """Return a, c and the standard deviation of e for a step of dt.

        Raises:
            BadRequestError: dt is not a positive number.
        """
        number(dt, "dt", "Chiarella", above=0)
        pull = self.impact * self.weight_fundamental * self.alpha_fundamental * dt
        chase = self.impact * self.weight_chartist * self.alpha_chartist
        noise = math.hypot(self.impact * self.weight_noise * self.sigma_noise * dt, self.volatility * math.sqrt(dt))
        wander = self.fundamental_volatility * math.sqrt(dt)
        if not max(abs(pull), abs(chase), noise, wander) < _LARGEST:
            raise BadRequestError(
                f"a step of dt={dt:g} has a={pull:g}, c={chase:g}, noise {noise:g} and moves F by {wander:g}",
                where="Chiarella",
                hint=f"Check the units: all must be below {_LARGEST:g}.",
            )
        return pull, chase, noise

    @property
    def start(self) -> tuple[float, float, float]:
        """Return price, previous price and fundamental value at the start."""
        previous = self.price if self.previous_price is None else self.previous_price
        fundamental = self.price if self.fundamental is None else self.fundamental
        return self.price, previous, fundamental


# ------------------------------------------------------------------------------------------------- simulation


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Displayed):
    """Simulated paths.

    Attributes:
        times: (n_steps + 1,).
        prices: (n_paths, n_steps + 1), the first column the start.
        fundamental: (n_paths, n_steps + 1); a read-only view where the value is the same on every path.
        stability: of the deviation from the fundamental value.
        diverged: paths that left the range of floating point.
    """

    times: FloatArray
    prices: FloatArray
    fundamental: FloatArray
    stability: Stability
    diverged: int

    def mean(self) -> tuple[FloatArray, FloatArray]:
        """Return the mean price and its standard error at each time, (n_steps + 1,) each."""
        error = self.prices.std(axis=0, ddof=1) / math.sqrt(len(self.prices)) if len(self.prices) > 1 else np.nan
        return self.prices.mean(axis=0), np.broadcast_to(error, self.times.shape)

    def fan(self, levels: FloatLike = (0.05, 0.25, 0.5, 0.75, 0.95)) -> FloatArray:
        """Return quantiles of the price at each time, (levels, n_steps + 1)."""
        return np.asarray(np.quantile(self.prices, np.asarray(levels, dtype=np.float64), axis=0))

    def __str__(self) -> str:
        last = self.prices[:, -1]
        last = last[np.isfinite(last)]
        low, middle, high = np.quantile(last, (0.05, 0.5, 0.95)) if last.size else (math.nan,) * 3
        diverged = f"\n  {self.diverged:,} paths DIVERGED beyond the floating point range" if self.diverged else ""
        return (
            f"{len(self.prices):,} simulated paths of {self.times.size - 1:,} steps to time {self.times[-1]:g}, "
            f"{self.stability.kind} market\n"
            f"  last price {middle:.6g}, 5 % to 95 % of paths {low:.6g} to {high:.6g}{diverged}"
        )

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time: time, mean, standard_error, and the quantiles q05, q25, q50, q75, q95."""
        import polars as pl

        levels = (0.05, 0.25, 0.5, 0.75, 0.95)
        with np.errstate(invalid="ignore", over="ignore"):
            mean, error = self.mean()
            quantiles = dict(zip((f"q{100 * level:02.0f}" for level in levels), self.fan(levels), strict=True))
        return pl.DataFrame({"time": self.times, "mean": mean, "standard_error": np.array(error), **quantiles})


def _market(params: Any, where: str) -> ChiarellaParams:
    if not isinstance(params, ChiarellaParams):
        raise BadRequestError(f"params is a {type(params).__name__}", where=where, hint="Give ChiarellaParams.")
    return params


def _times(n_steps: int, dt: float) -> FloatArray:
    return dt * np.arange(n_steps + 1, dtype=np.float64)


@compiled
def _walk(
    noise: FloatArray,
    news: FloatArray,
    start: FloatArray,
    law: FloatArray,
    order: FloatArray,
    prices: FloatArray,
    fundamental: FloatArray,
) -> None:
    """Fill prices (P, N + 1) and fundamental (P or 1, N + 1), path by path.

    Args:
        noise: standard normals of the price, (P, N). news: of the fundamental value, (P, N) or (0, 0).
        start: price, previous price, fundamental value, (3,).
        law: a, c, standard deviation of e, then drift, reversion, level and deviation of F per step, (7,).
        order: move of the price by an order at each step, (N,).
        prices: filled. fundamental: filled; one row where there is no news.
    """
    a, c, deviation, drift, reversion, level, jump = law
    steps = noise.shape[1]
    own = news.shape[0] > 0
    keep = 1.0 - a + c
    for i in range(prices.shape[0]):
        value = fundamental[i if own else 0]
        if own or i == 0:
            value[0] = start[2]
            current, constant = start[2], drift + reversion * level
            for t in range(steps):
                current = (1.0 - reversion) * current + (constant + jump * news[i, t] if own else constant)
                value[t + 1] = current
        p, before = start[0], start[1]
        prices[i, 0] = p
        for t in range(steps):
            # Everything but keep * p is off the chain of dependent operations, which is what takes the time.
            following = keep * p + (a * value[t] + deviation * noise[i, t] + order[t] - c * before)
            before, p = p, following
            prices[i, t + 1] = p


def simulate(
    params: ChiarellaParams,
    n_paths: int = 1000,
    n_steps: int = 300,
    dt: float = 1.0,
    *,
    seed: int,
    order: FloatLike | None = None,
    workers: int = 1,
) -> Simulation:
    """Simulate the market.

    Each block of 256 paths has its own stream of random numbers, so the result depends on the seed but not on
    the number of threads, and the first paths are the same however many follow.

    Args:
        params: the market. n_paths: paths. n_steps: steps of dt.
        dt: length of a step. seed: 0 or more.
        order: extra demand in each step, in shares of the average daily volume, (n_steps,).
        workers: threads.

    Raises:
        BadRequestError: a count, dt or the seed is out of range, or the order has another length.
    """
    where = "chiarella.simulate"
    a, c, deviation = _market(params, where).coefficients(dt)
    whole(n_paths, "n_paths", where, least=1)
    whole(n_steps, "n_steps", where, least=1)
    workers = min(whole(workers, "workers", where, least=1), _MOST_WORKERS)
    whole(seed, "seed", where, least=0)
    if n_paths * (n_steps + 1) > _MOST_POINTS:
        raise BadRequestError(
            f"n_paths={n_paths} of n_steps={n_steps}", where=where, hint=f"At most {_MOST_POINTS:,} prices in all."
        )
    try:
        push = np.zeros(n_steps) if order is None else params.impact * array(order, "order", where, shape=(n_steps,))
    except DataError as error:
        raise BadRequestError(error.what, where=where, hint=error.hint) from error
    if np.abs(push).max() > _LARGEST:
        raise BadRequestError("the order is out of range", where=where, hint="Shares of the average daily volume.")
    start = np.array(params.start)
    jump = params.fundamental_volatility * math.sqrt(dt)
    law = np.array(
        [
            *(a, c, deviation, params.fundamental_drift * dt, params.fundamental_reversion * dt),
            *(params.fundamental_level, jump),
        ]
    )
    random_value = jump > 0
    prices = np.empty((n_paths, n_steps + 1))
    fundamental = np.empty((n_paths if random_value else 1, n_steps + 1))
    blocks = -(-n_paths // _BLOCK)

    def run(first: int) -> None:
        """Simulate every `workers`-th block, in memory that is used again and again."""
        size = min(_BLOCK, n_paths)
        noise = np.empty((size, n_steps))
        news = np.empty((size, n_steps) if random_value else (0, 0))
        for k in range(first, blocks, workers):
            rows = slice(k * _BLOCK, min((k + 1) * _BLOCK, n_paths))
            count = rows.stop - rows.start
            np.random.default_rng([seed, 0, k]).standard_normal(out=noise[:count])
            if random_value:
                np.random.default_rng([seed, 1, k]).standard_normal(out=news[:count])
            values = fundamental[rows] if random_value else fundamental
            _walk(noise[:count], news[:count], start, law, push, prices[rows], values)

    if workers == 1 or blocks == 1:
        for first in range(workers):
            run(first)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(workers)))
    diverged = int(n_paths - np.isfinite(prices[:, -1]).sum())
    values = np.broadcast_to(fundamental, prices.shape)
    return Simulation(_times(n_steps, dt), prices, values, stability(params, dt), diverged)


# ---------------------------------------------------------------------------------------------- exact results


@dataclass(frozen=True)
class Stability:
    """How a deviation from the fundamental value dies out, or does not.

    Attributes:
        kind: `explosive` if a root of z^2 - (1 - a + c) z + c reaches the unit circle, else `oscillating` if
            the larger root is complex or negative, else `stable`.
        roots: the two roots, the larger modulus first.
        modulus: of the larger root.
        half_life: steps until a deviation has halved, by the larger root; infinite if explosive.
        period: steps of one oscillation; infinite without one.
        amplification: largest deviation, at any later time, per unit of deviation now.
        bubble_prone: whether a deviation grows before it dies: amplification above 1, that is c > a, or explosive.
    """

    kind: Literal["stable", "oscillating", "explosive"]
    roots: tuple[complex, complex]
    modulus: float
    half_life: float
    period: float
    amplification: float
    bubble_prone: bool


def stability(params: ChiarellaParams, dt: float = 1.0) -> Stability:
    """Judge the market's stability from the characteristic roots of the deviation.

    Raises:
        BadRequestError: dt is not a positive number.
    """
    a, c, _ = _market(params, "chiarella.stability").coefficients(dt)
    first, second = sorted(np.roots([1.0, -(1.0 - a + c), c]).astype(complex).tolist(), key=abs, reverse=True)
    modulus = abs(first)
    explosive = modulus >= 1.0 - 1e-12
    oscillating = abs(first.imag) > 1e-12 or first.real < -1e-12
    angle = abs(math.atan2(first.imag, first.real))
    response = _impulse_response(a, c)
    amplification = math.inf if modulus > 1.0 + 1e-12 else float(np.abs(response).max())
    return Stability(
        kind="explosive" if explosive else ("oscillating" if oscillating else "stable"),
        roots=(first, second),
        modulus=modulus,
        half_life=math.inf if explosive else (math.log(0.5) / math.log(modulus) if modulus > 0 else 0.0),
        period=2.0 * math.pi / angle if oscillating and angle > 0 else math.inf,
        amplification=amplification,
        bubble_prone=explosive or amplification > 1.0 + 1e-9,
    )


def _impulse_response(a: float, c: float) -> FloatArray:
    """Return the deviation at each step after a move of one unit at step 0, until it has settled or exploded."""
    response = [1.0]
    previous = 0.0
    for _ in range(5000):
        # A move at step 0 is a deviation and, to chartists, a trend.
        following = (1.0 - a + c) * response[-1] - c * previous
        previous = response[-1]
        response.append(following)
        if abs(following) + abs(previous) < 1e-3 or abs(following) > 1e12 or following == previous:
            break
    return np.array(response)


def _transition(params: ChiarellaParams, dt: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the matrix, constant and noise covariance of the state (p_t, p_(t-1), F_t)."""
    a, c, deviation = params.coefficients(dt)
    theta = params.fundamental_reversion * dt
    matrix = np.array([[1.0 - a + c, -c, a], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0 - theta]])
    constant = np.array([0.0, 0.0, params.fundamental_drift * dt + theta * params.fundamental_level])
    return matrix, constant, np.diag([deviation**2, 0.0, params.fundamental_volatility**2 * dt])


class PriceMoments(NamedTuple):
    """Exact mean and standard deviation of the price at each time, (n_steps + 1,) each."""

    times: FloatArray
    mean: FloatArray
    deviation: FloatArray


def forecast(params: ChiarellaParams, n_steps: int = 300, dt: float = 1.0) -> PriceMoments:
    """Return the price's exact distribution, which is Gaussian: what `simulate` converges to.

    Raises:
        BadRequestError: n_steps or dt is not positive.
    """
    _market(params, "chiarella.forecast")
    whole(n_steps, "n_steps", "chiarella.forecast", least=1, most=10_000_000)
    matrix, constant, noise = _transition(params, dt)
    state, covariance = np.array(params.start), np.zeros((3, 3))
    mean, variance = np.empty(n_steps + 1), np.empty(n_steps + 1)
    for t in range(n_steps + 1):
        mean[t], variance[t] = state[0], covariance[0, 0]
        state, covariance = matrix @ state + constant, matrix @ covariance @ matrix.T + noise
    return PriceMoments(_times(n_steps, dt), mean, np.sqrt(variance))


def autocovariance(params: ChiarellaParams, n_lags: int = 20, dt: float = 1.0) -> FloatArray:
    """Return the exact stationary autocovariances of the deviation p - F at lags 0 .. n_lags, (n_lags + 1,).

    With constant F they are those of the AR(2) process; with a moving F they include its moves.

    Raises:
        ModelError: the deviation is not stationary.
        BadRequestError: dt is not a positive number.
    """
    from scipy.linalg import solve_discrete_lyapunov

    where = "chiarella.autocovariance"
    a, c, deviation = _market(params, where).coefficients(dt)
    whole(n_lags, "n_lags", where, least=0, most=10_000_000)
    found = stability(params, dt)
    theta = params.fundamental_reversion * dt
    if found.kind == "explosive" or theta >= 2.0:
        raise ModelError(
            f"the deviation is not stationary: largest root {found.modulus:.4g}",
            where="chiarella.autocovariance",
            hint="Lower alpha_chartist, or raise alpha_fundamental.",
        )
    # State (x_t, x_(t-1), dF_t, F_t - level): x_(t+1) = (1-a+c) x_t - c x_(t-1) + c dF_t + e - dF_(t+1).
    variance = params.fundamental_volatility**2 * dt
    matrix = np.array(
        [
            [1.0 - a + c, -c, c, theta],
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, -theta],
            [0.0, 0.0, 0.0, 1.0 - theta],
        ]
    )
    shock = np.array([-1.0, 0.0, 1.0, 1.0])
    noise = variance * np.outer(shock, shock)
    noise[0, 0] += deviation**2
    size = 4 if theta > 0 else 3  # without reversion F itself is not stationary, and nothing else needs it
    matrix, noise = matrix[:size, :size], noise[:size, :size]
    covariance = np.asarray(solve_discrete_lyapunov(matrix, noise))
    out = np.empty(n_lags + 1)
    for k in range(n_lags + 1):
        out[k] = covariance[0, 0]
        covariance = matrix @ covariance
    return out


# --------------------------------------------------------------------------------------------------- impact


@dataclass(frozen=True, eq=False, repr=False)
class Impact(Displayed):
    """What an order does to the price.

    Attributes:
        size: the order, in shares of the average daily volume; negative sells.
        times: (n_steps + 1,).
        path: mean move of the price caused by the order at each time, (n_steps + 1,).
        standard_error: of the path, (n_steps + 1,).  Both simulations use the same random numbers, and the
            model is linear, so only rounding is left of it.
        peak: the largest move in the direction of the order. permanent: the move at the last time.
        slippage: mean move during execution, what the order pays on average.
        material: whether the order exceeds 1 % of the average daily volume; below that it is best ignored.
    """

    size: float
    times: FloatArray
    path: FloatArray
    standard_error: FloatArray
    peak: float
    permanent: float
    slippage: float
    material: bool

    def __str__(self) -> str:
        return (
            f"{'Sale' if self.size < 0 else 'Purchase'} of {abs(self.size):.2%} of a day's volume"
            + ("" if self.material else "; not material")
            + f"\n  peak {self.peak:+.6g}, at the end {self.permanent:+.6g}, mean during execution {self.slippage:+.6g}"
        )

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time: time, move, standard_error."""
        import polars as pl

        return pl.DataFrame({"time": self.times, "move": self.path, "standard_error": self.standard_error})


def order_impact(
    params: ChiarellaParams,
    size: float,
    *,
    execution_steps: int = 10,
    n_paths: int = 1000,
    n_steps: int = 300,
    dt: float = 1.0,
    seed: int,
    workers: int = 1,
) -> Impact:
    """Simulate the market with and without an order, on the same random numbers.

    Args:
        params: the market, with `impact` from `calibrate` on order flow.
        size: signed, in shares of the average daily volume.
        execution_steps: the order is spread evenly over so many steps.
        n_paths: pairs of paths. n_steps: steps. dt: length of a step. seed: 0 or more. workers: threads.

    Raises:
        BadRequestError: the size is not finite, or execution takes longer than the simulation.
    """
    where = "chiarella.order_impact"
    number(size, "size", where)
    whole(execution_steps, "execution_steps", where, least=1)
    whole(n_steps, "n_steps", where, least=1, most=_MOST_POINTS)
    if execution_steps > n_steps:
        raise BadRequestError(
            f"execution_steps={execution_steps}", where=where, hint=f"Give 1 to {n_steps}, the steps simulated."
        )
    order = np.zeros(n_steps)
    order[:execution_steps] = size / execution_steps
    without = simulate(params, n_paths, n_steps, dt, seed=seed, workers=workers)
    moved = simulate(params, n_paths, n_steps, dt, seed=seed, order=order, workers=workers)
    difference = moved.prices - without.prices
    path = difference.mean(axis=0)
    error = difference.std(axis=0, ddof=1) / math.sqrt(n_paths) if n_paths > 1 else np.full(n_steps + 1, np.nan)
    sign = math.copysign(1.0, size)
    return Impact(
        size=size,
        times=without.times,
        path=path,
        standard_error=error,
        peak=sign * float((sign * path).max()),
        permanent=float(path[-1]),
        slippage=float(path[1 : execution_steps + 1].mean()),
        material=abs(size) > _MATERIAL,
    )


# -------------------------------------------------------------------------------------------------- calibration


class Estimate(NamedTuple):
    """An estimated number with its 95 % interval."""

    value: float
    low: float
    high: float
    #: False if the data say little about it: see `Calibration.warnings`.
    identified: bool

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.identified)


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Displayed):
    """A market fitted to data.

    Attributes:
        params: ready to simulate from the last observed price and the estimated fundamental value.
        estimates: `pull` (a / dt), `chase` (c), `noise` (standard deviation of e per square root of time),
            `fundamental_volatility` (sigma_F) and `fundamental_drift` (mu_F).  With order flow `pull` is
            w_F alpha_F, `chase` w_C alpha_C, `noise` w_N sigma_N, and `impact` is lambda.
        log_likelihood: of the prices, or of flow and prices together.
        fundamental: filtered fundamental value, (T,): mean given the past. fundamental_deviation: its standard
            deviation at the end.
        stability: of the fitted market.
        warnings: what the data cannot tell; empty if all is well.
        evaluations: of the likelihood. converged: whether the optimisers met their tolerances.
        n_observations: price changes used.
    """

    params: ChiarellaParams
    estimates: dict[str, Estimate]
    log_likelihood: float
    fundamental: FloatArray
    fundamental_deviation: float
    stability: Stability
    warnings: tuple[str, ...]
    evaluations: int
    converged: bool
    n_observations: int

    def __str__(self) -> str:
        lines = [
            f"Chiarella market fitted to {self.n_observations:,} price changes, {self.stability.kind}, "
            f"log-likelihood {self.log_likelihood:,.1f}" + ("" if self.converged else "; NOT CONVERGED")
        ]
        lines += [
            f"  {name:<22} {estimate.value:12.5g}  ({estimate.low:.5g} to {estimate.high:.5g})"
            + ("" if estimate.identified else "  not identified")
            for name, estimate in self.estimates.items()
        ]
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])

    def to_frame(self) -> pl.DataFrame:
        """Return one row per estimate: parameter, value, low, high (95 %), identified."""
        import polars as pl

        return pl.DataFrame([{"parameter": name, **estimate._asdict()} for name, estimate in self.estimates.items()])


@compiled
def kalman_likelihood(
    y: FloatArray,
    price: FloatArray,
    move: FloatArray,
    pull: float,
    chase: float,
    variance: float,
    drift: float,
    wander: float,
    spread: float,
    filtered: FloatArray,
) -> tuple[float, float]:
    """Return the log-likelihood of y_t = pull (F_t - price_t) + chase move_t + e_t, and the last variance of F.

    F is a random walk with drift, known at the start only as N(price_0, spread): a scalar Kalman filter.

    Args:
        y: (T,). price: (T,). move: last move of the price, (T,).
        pull: a. chase: c. variance: of e. drift: of F. wander: variance of a step of F. spread: of F_0.
        filtered: filled with the mean of F_t given y up to t, (T,).
    """
    mean, uncertainty = price[0], spread
    total = 0.0
    for t in range(y.size):
        innovation = y[t] - chase * move[t] - pull * (mean - price[t])
        scale = pull * pull * uncertainty + variance
        gain = pull * uncertainty / scale
        total -= 0.5 * (math.log(6.283185307179586 * scale) + innovation * innovation / scale)
        mean += gain * innovation
        uncertainty *= 1.0 - gain * pull
        filtered[t] = mean
        mean += drift
        uncertainty += wander
    return total, uncertainty


def calibrate(
    prices: FloatLike,
    order_flow: FloatLike | None = None,
    *,
    dt: float = 1.0,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    max_generations: int = 300,
) -> Calibration:
    """Fit the market by the exact likelihood of the linear model.

    The fundamental value is a latent random walk with drift, filtered out by a Kalman filter.  Without order flow
    the likelihood is that of the price changes.  With it, the flow in each step is the traders' total demand, and
    the likelihood is that of the flow given the prices so far, times that of the price change given the flow.
    Differential evolution finds the maximum, Nelder-Mead polishes it, and intervals come from the observed
    information.

    Args:
        prices: log-prices (or levels), (T,), one per step, oldest first.
        order_flow: net signed volume from each price to the next, in shares of the average daily volume, (T - 1,).
        dt: length of a step.
        weights: of fundamentalists, chartists and noise traders; the data know only products of weight and alpha.
        seed: of the differential evolution. max_generations: its bound.

    Raises:
        DataError: fewer than 100 prices, numbers that are not finite, constant prices or flow.
        BadRequestError: weights that are not positive, or dt.
        NotConvergedError: no finite maximum was found.
    """
    p = _checked(prices, "prices", 100)
    place = "chiarella.calibrate"
    shares = array(weights, "weights", place, shape=(3,))
    if shares.min() <= 0:
        raise BadRequestError(f"weights={weights}", where=place, hint="Give three positive numbers.")
    number(dt, "dt", place, above=0)
    whole(seed, "seed", place, least=0, most=2**32 - 1)
    whole(max_generations, "max_generations", place, least=1, most=1_000_000)
    change = np.diff(p)
    flow = None
    if order_flow is not None:
        flow = _checked(order_flow, "order_flow", 99)
        if flow.size != change.size:
            raise DataError(f"{flow.size} flows for {p.size} prices", where="chiarella.calibrate", hint="T - 1 flows.")
    y = change[1:] if flow is None else flow[1:]
    level, move = p[1:-1], change[:-1]
    fit = _Likelihood(np.ascontiguousarray(y), np.ascontiguousarray(level), np.ascontiguousarray(move))
    found = fit.maximise(seed, max_generations)
    pull, chase, noise, wander, drift = found.natural
    estimates, warnings = fit.intervals(found)
    filtered = np.empty(y.size)
    likelihood, last_variance = fit.run(found.natural, filtered)
    fundamental = float(filtered[-1]) + drift
    w_f, w_c, w_n = weights
    start = {"price": float(p[-1]), "previous_price": float(p[-2]), "fundamental": fundamental}
    value = {"fundamental_drift": drift / dt, "fundamental_volatility": wander / math.sqrt(dt)}
    if flow is None:
        params = ChiarellaParams(
            impact=1.0,
            alpha_fundamental=pull / dt / w_f,
            alpha_chartist=chase / w_c,
            sigma_noise=0.0,
            volatility=noise / math.sqrt(dt),
            weight_fundamental=w_f,
            weight_chartist=w_c,
            weight_noise=w_n,
            **start,
            **value,
        )
        warnings.append("impact is not identified by prices alone (it is set to 1): pass order_flow to judge orders")
    else:
        impact, error, residual = _slope(flow[1:], change[1:])
        params = ChiarellaParams(
            impact=max(impact, 0.0),
            alpha_fundamental=pull / dt / w_f,
            alpha_chartist=chase / w_c,
            sigma_noise=noise / dt / w_n,
            volatility=residual / math.sqrt(dt),
            weight_fundamental=w_f,
            weight_chartist=w_c,
            weight_noise=w_n,
            **start,
            **value,
        )
        likelihood += _gaussian_likelihood(change[1:] - impact * flow[1:], residual)
        sure = impact > _TWO_SIDED * error
        estimates["impact"] = Estimate(impact, impact - _TWO_SIDED * error, impact + _TWO_SIDED * error, sure)
        if not sure:
            warnings.append("impact does not differ from zero: the price does not follow this order flow")
    scale = {"pull": 1.0 / dt, "noise": 1.0 / math.sqrt(dt), "fundamental_volatility": 1.0 / math.sqrt(dt)}
    scale["fundamental_drift"] = 1.0 / dt
    if flow is not None:
        scale["noise"] = 1.0 / dt
    estimates = {name: estimate.scaled(scale.get(name, 1.0)) for name, estimate in estimates.items()}
    return Calibration(
        params=params,
        estimates=estimates,
        log_likelihood=likelihood,
        fundamental=filtered,
        fundamental_deviation=math.sqrt(last_variance),
        stability=stability(params, dt),
        warnings=tuple(warnings),
        evaluations=found.evaluations,
        converged=found.converged,
        n_observations=y.size,
    )


def _checked(values: FloatLike, name: str, least: int) -> FloatArray:
    """Return a contiguous array of at least so many finite numbers that are not all the same."""
    try:
        out = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not an array of numbers ({error})", where="chiarella.calibrate") from error
    if out.ndim != 1 or out.size < least:
        raise DataError(
            f"{name} has shape {out.shape}, expected (T,) with T >= {least}",
            where="chiarella.calibrate",
            hint="Pass a longer series; 1000 and more give usable intervals.",
        )
    if not np.isfinite(out).all():
        where = int((~np.isfinite(out)).argmax())
        raise DataError(f"{name}[{where}] is {out[where]!r}", where="chiarella.calibrate", hint="Fill or cut gaps.")
    if np.ptp(out) <= 1e-12 * float(np.abs(out).max()) or (name == "prices" and not np.diff(out).any()):
        raise DataError(
            f"{name} is constant ({float(out[0])!r})", where="chiarella.calibrate", hint="Check the source."
        )
    return out


def _slope(x: FloatArray, y: FloatArray) -> tuple[float, float, float]:
    """Return slope through the origin, its standard error, and the residual standard deviation."""
    slope = float(x @ y / (x @ x))
    residual = float(np.sqrt(np.mean((y - slope * x) ** 2)))
    return slope, residual / math.sqrt(float(x @ x)), residual


def _gaussian_likelihood(residual: FloatArray, deviation: float) -> float:
    deviation = max(deviation, 1e-300)
    return float(
        -0.5 * np.sum((residual / deviation) ** 2) - residual.size * math.log(deviation * math.sqrt(2 * math.pi))
    )


class _Natural(NamedTuple):
    """Parameters of the likelihood, per step."""

    pull: float
    chase: float
    noise: float
    wander: float
    drift: float


class _Maximum(NamedTuple):
    """The maximum: working coordinates, natural ones, and how it was found."""

    working: FloatArray
    natural: _Natural
    value: float
    evaluations: int
    converged: bool


#: Working standard errors up to which a parameter counts as identified, in the order of `_NAMES`.
_SURE: Final = (1.0, 0.5, 1.0, 1.0, 50.0)
#: Twice the gain in likelihood by which a pull differs from none: the square of the 5 % point of Dickey and Fuller's
#: statistic with trend, -3.41.
_UNIT_ROOT: Final = 3.41**2
#: Least fundamental volatility that is told from zero, as a share of the noise.
_LEAST_WANDER: Final = 1e-3
_NAMES: Final = ("pull", "chase", "noise", "fundamental_volatility", "fundamental_drift")


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """The likelihood in working coordinates that are free of units.

    They are log pull, chase, log noise, log(fundamental volatility), and the drift's distance from the mean move
    in standard errors of that mean.
    """

    y: FloatArray
    level: FloatArray
    move: FloatArray

    @property
    def unit(self) -> float:
        """Return the standard deviation of what is explained."""
        return float(self.y.std())

    @property
    def step(self) -> float:
        """Return the standard deviation of the price's moves."""
        return float(self.move.std())

    def natural(self, working: FloatArray) -> _Natural:
        """Return the parameters at a point of the working coordinates."""
        per_price = self.unit / self.step
        return _Natural(
            math.exp(working[0]) * per_price,
            float(working[1]) * per_price,
            math.exp(working[2]) * self.unit,
            math.exp(working[3]) * self.step,
            float(self.move.mean() + working[4] * self.step / math.sqrt(self.move.size)),
        )

    def run(self, natural: _Natural, filtered: FloatArray) -> tuple[float, float]:
        pull, chase, noise, wander, drift = natural
        # The start of the fundamental value is known no better than the price's whole range.
        spread = float(np.ptp(self.level)) ** 2 + self.step**2
        return kalman_likelihood(
            *(self.y, self.level, self.move, pull, chase, noise**2, drift, wander**2, spread, filtered)
        )

    def maximise(self, seed: int, max_generations: int) -> _Maximum:
        from scipy.optimize import differential_evolution, minimize

        scratch = np.empty(self.y.size)

        def cost(working: FloatArray) -> float:
            value = -self.run(self.natural(working), scratch)[0]
            return value if math.isfinite(value) else 1e300

        bounds = [
            (math.log(1e-5), math.log(1.9)),
            (-0.99, 1.2),
            (math.log(0.02), math.log(2.0)),
            (math.log(_LEAST_WANDER / 3), math.log(3.0)),
            (-5.0, 5.0),
        ]
        rough = differential_evolution(
            cost, bounds, seed=seed, maxiter=max_generations, popsize=12, tol=1e-6, polish=False, init="sobol"
        )
        fine = minimize(
            cost, rough.x, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-8, "maxfev": 4000}
        )
        best = fine if fine.fun <= rough.fun else rough
        if not math.isfinite(best.fun) or best.fun >= 1e299:
            raise NotConvergedError(
                "the likelihood has no finite maximum", where="chiarella.calibrate", hint="Look for absurd prices."
            )
        working = np.asarray(best.x, dtype=np.float64)
        done = bool(fine.success)
        return _Maximum(working, self.natural(working), -float(best.fun), int(rough.nfev + fine.nfev), done)

    def intervals(self, found: _Maximum) -> tuple[dict[str, Estimate], list[str]]:
        """Return estimates with 95 % intervals from the observed information, and what is not identified."""
        scratch = np.empty(self.y.size)

        def value(working: FloatArray) -> float:
            return self.run(self.natural(working), scratch)[0]

        warnings = []
        at = found.working.copy()
        free = [0, 1, 2, 3, 4]
        without = at.copy()
        without[3] = -60.0
        moves = bool(2.0 * (found.value - value(without)) > _TWO_SIDED**2)
        if not moves:
            # At its lower end the likelihood is flat in the logarithm, which would spoil all intervals.
            at[3] = min(at[3], -12.0)
            free = [0, 1, 2, 4]
            warnings.append(
                "fundamental_volatility does not differ from zero: a constant fundamental value fits as well"
            )
        information = _hessian(lambda x: -value(_filled(at, free, x)), at[free])
        errors = np.full(5, np.inf)
        try:
            covariance = np.linalg.inv(information)
            if (np.diag(covariance) > 0).all():
                errors[free] = np.sqrt(np.diag(covariance))
                correlation = covariance / np.outer(errors[free], errors[free])
                warnings += _tied(correlation, free)
        except np.linalg.LinAlgError:
            pass
        estimates = {}
        for k, name in enumerate(_NAMES):
            ends = [found.working.copy(), found.working.copy()]
            error = min(float(errors[k]), 50.0)
            ends[0][k] -= _TWO_SIDED * error
            ends[1][k] += _TWO_SIDED * error
            low, high = (self.natural(end)[k] for end in ends)
            sure = bool(errors[k] < _SURE[k])
            if k == 3 and not moves:
                low, high, sure = 0.0, self._upper_wander(found, value), False
            elif not sure:
                warnings.append(f"{name} is not identified: the likelihood is almost flat in it")
            estimates[name] = Estimate(found.natural[k], low, high, sure)
        if 2.0 * (found.value - self.without_pull()) < _UNIT_ROOT:
            # Near a unit root the interval above is not valid: estimates of the pull are biased upwards.
            estimates["pull"] = estimates["pull"]._replace(low=0.0, identified=False)
            warnings.append("pull does not differ from zero: a random walk without a fundamental value fits as well")
        return estimates, warnings

    def without_pull(self) -> float:
        """Return the likelihood of the same without a fundamental value: a regression on the last move."""
        design = np.column_stack([np.ones_like(self.move), self.move])
        residual = self.y - design @ np.linalg.lstsq(design, self.y, rcond=None)[0]
        return _gaussian_likelihood(residual, float(np.sqrt(np.mean(residual**2))))

    def _upper_wander(self, found: _Maximum, value: Any) -> float:
        """Return the largest fundamental volatility within the 95 % fall of the likelihood, others fixed."""
        low, high = found.working[3], math.log(3.0)
        for _ in range(40):
            middle = 0.5 * (low + high)
            trial = found.working.copy()
            trial[3] = middle
            if 2.0 * (found.value - value(trial)) > _TWO_SIDED**2:
                high = middle
            else:
                low = middle
        return math.exp(high) * self.step


def _filled(at: FloatArray, free: list[int], x: FloatArray) -> FloatArray:
    out = at.copy()
    out[free] = x
    return out


def _tied(correlation: FloatArray, free: list[int]) -> list[str]:
    """Return a warning for each pair of estimates that the data can hardly tell apart."""
    pairs = zip(*np.triu_indices(len(free), 1), strict=True)
    return [
        f"{_NAMES[free[i]]} and {_NAMES[free[j]]} are tied together (correlation {correlation[i, j]:+.2f})"
        for i, j in pairs
        if abs(correlation[i, j]) > 0.97
    ]


def _hessian(function: Any, at: FloatArray) -> FloatArray:
    """Return the matrix of second derivatives by central differences."""
    size = at.size
    step = 1e-3
    out = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for s, t, sign in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
                x = at.copy()
                x[i] += s * step
                x[j] += t * step
                total += sign * function(x)
            out[i, j] = out[j, i] = total / (4.0 * step * step)
    return out
