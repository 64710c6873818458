"""The game of trade crowding: its parameters, closed form, solver, calibration and the price it predicts.

What belongs here: everything about one game but the compiled sweeps (`loops`).  The equations and the scheme are
in the package's docstring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import NormalDist
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import array, choice, number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import BadRequestError, DataError, NotConvergedError
from hfthot_platform.domain.models.mean_field_game.loops import fokker_planck, hjb, tangent

__all__ = [
    "ClosedForm",
    "CrowdingCalibration",
    "InventoryDensity",
    "MeanFieldSolution",
    "PriceForecast",
    "TradeCrowding",
    "calibrate_crowding",
    "closed_form",
    "predict_price",
    "solve",
]

_WHERE: Final = "models.mean_field_game"
#: Two-sided 95 % quantile of the normal law.
_Z95: Final = 1.959963984540054
#: Width of the density that stands for a single initial inventory, as a fraction of it.
_NARROW: Final = 0.02
#: Room beyond the initial inventories and zero on the grid, as a fraction of their span.
_PAD: Final = 0.75
#: Nodes in time and in inventory of the rough solution that finds how fast agents trade.
_PILOT: Final = 41
_PILOT_NODES: Final = 81
#: Points of a grid, at most: a solution holds eight arrays of that size.
_MOST_POINTS: Final = 4_000_000
#: Weight of the logarithmic parts of the time grid, beside the uniform part.
_GRADING: Final = 0.5
#: Least bound on the speed, as a fraction of the largest over time.
_SLOWEST: Final = 1e-6
#: Share of the first-order difference of two grids that is counted as error after extrapolation.
_DOUBT: Final = 0.05
#: The same for other powers of the costs, where the error falls at an order between 0.5 and 1.
_FIRST_ORDER: Final = 5.0
#: Share of the difference of two extrapolated means that is counted: a third of it is the error expected.
_SAFETY: Final = 0.6
#: A residual of the fixed point from which on nothing bounds the error.
_LOST: Final = 1e-2
#: Mean inventories below this many standard deviations of the inventories count as none.
_BALANCED: Final = 3e-8
#: A solution within this of |E0| is called converged.
_ACCURATE: Final = 1e-3
#: Probability of a node, over the largest, from which on its agents count.
_NOTICEABLE: Final = 1e-3


Method = Literal["newton", "fictitious_play"]


@dataclass(frozen=True, eq=False)
class InventoryDensity:
    """A probability density of inventories, piecewise linear between its nodes and zero outside.

    `inventory` (n,) strictly increasing, `density` (n,) non-negative; it is normalised on construction.

    Raises:
        BadRequestError: nodes not increasing, a negative density, or no mass.
        DataError: no one-dimensional arrays of finite numbers.
    """

    inventory: FloatArray
    density: FloatArray

    def __post_init__(self) -> None:
        """Validate and normalise."""
        where = f"{_WHERE}.InventoryDensity"
        q = np.array(array(self.inventory, "inventory", where, shape=(None,)))
        m = np.array(array(self.density, "density", where, shape=(None,)))
        good = q.shape == m.shape and q.size >= 2 and bool((np.diff(q) > 0).all() and (m >= 0).all())
        with np.errstate(over="ignore"):
            mass = float(np.sum(np.diff(q) * (m[1:] + m[:-1]) / 2)) if good else 0.0
        if not 0 < mass < math.inf:
            raise BadRequestError(
                f"{q.size} nodes and {m.size} values do not form a density",
                where=where,
                hint="Give strictly increasing inventories and as many finite values >= 0, not all zero.",
            )
        object.__setattr__(self, "inventory", q)
        object.__setattr__(self, "density", m / mass)

    @classmethod
    def gaussian(cls, mean: float, std: float) -> InventoryDensity:
        """Return a normal density cut off at five standard deviations."""
        number(mean, "mean", f"{_WHERE}.InventoryDensity.gaussian")
        number(std, "std", f"{_WHERE}.InventoryDensity.gaussian", above=0)
        z = np.linspace(-5.0, 5.0, 201)
        return cls(mean + std * z, np.exp(-(z**2) / 2))

    def atoms(self) -> tuple[FloatArray, FloatArray]:
        """Return points and weights (summing to 1) that integrate every cubic against the density exactly."""
        left, right = self.inventory[:-1], self.inventory[1:]
        middle, half = (left + right) / 2, (right - left) / 2
        points, weights = [], []
        for node in (-1 / math.sqrt(3), 1 / math.sqrt(3)):  # Gauss-Legendre: exact to degree 3 on each segment
            x = middle + half * node
            points.append(x)
            weights.append(half * np.interp(x, self.inventory, self.density))
        weight = np.concatenate(weights)
        return np.concatenate(points), weight / weight.sum()

    @property
    def mean(self) -> float:
        """Return the mean inventory."""
        points, weights = self.atoms()
        return float(points @ weights)

    @property
    def std(self) -> float:
        """Return the standard deviation of the inventories."""
        points, weights = self.atoms()
        return math.sqrt(float(weights @ (points - points @ weights) ** 2))


@dataclass(frozen=True, eq=False)
class TradeCrowding:
    """Parameters of the game; units: time t, inventory q, price p.

    Attributes:
        impact: alpha >= 0, permanent impact of the mean rate, p/q.
        running_penalty: phi >= 0, cost of holding, p/(q^(c-1) t).
        temporary_cost: kappa > 0, cost of trading fast, p t^(b-1)/q^(b-1).
        terminal_penalty: A >= 0, cost of what is left at T, p/q^(c-1).
        horizon: T > 0, t.
        initial_inventory: the mean (not 0; a narrow density is put around it) or a density, q.
        volatility: sigma >= 0 of the price, p/sqrt(t).
        inventory_noise: nu >= 0 of each agent's inventory, q/sqrt(t).
        cost_power: b in (1, 4], power of the temporary cost; 2 is linear-quadratic.
        penalty_power: c in [1, 4], power of both inventory penalties; 2 is linear-quadratic.

    Raises:
        BadRequestError: a parameter is outside its domain.
    """

    impact: float
    running_penalty: float
    temporary_cost: float
    terminal_penalty: float
    horizon: float
    initial_inventory: float | InventoryDensity
    volatility: float = 0.0
    inventory_noise: float = 0.0
    cost_power: float = 2.0
    penalty_power: float = 2.0

    def __post_init__(self) -> None:
        """Check the domain of every parameter."""
        where = f"{_WHERE}.TradeCrowding"
        for name in ("impact", "running_penalty", "terminal_penalty", "volatility", "inventory_noise"):
            number(getattr(self, name), name, where, least=0)
        for name in ("temporary_cost", "horizon"):
            number(getattr(self, name), name, where, above=0)
        number(self.cost_power, "cost_power", where, above=1, most=4)
        number(self.penalty_power, "penalty_power", where, least=1, most=4)
        if not isinstance(self.initial_inventory, InventoryDensity):
            number(self.initial_inventory, "initial_inventory", where)
            if self.initial_inventory == 0:
                raise BadRequestError(
                    "initial_inventory = 0 has no scale", where=where, hint="Give an InventoryDensity around it."
                )

    @property
    def density(self) -> InventoryDensity:
        """Return the initial density, the narrow one if only a mean was given."""
        if isinstance(self.initial_inventory, InventoryDensity):
            return self.initial_inventory
        return InventoryDensity.gaussian(self.initial_inventory, _NARROW * abs(self.initial_inventory))

    @property
    def mean_initial_inventory(self) -> float:
        """Return E(0)."""
        start = self.initial_inventory
        return start.mean if isinstance(start, InventoryDensity) else float(start)

    @property
    def is_linear_quadratic(self) -> bool:
        """Return whether the mean inventory has a closed form."""
        return self.cost_power == 2 and self.penalty_power == 2


@dataclass(frozen=True, eq=False, repr=False)
class ClosedForm(Displayed):
    """The exact mean-field path of a linear-quadratic game: arrays of the shape of `times`."""

    times: FloatArray
    mean_inventory: FloatArray
    mean_trading_rate: FloatArray
    #: alpha (E(t) - E(0)): the expected price less the initial one.
    price_path: FloatArray

    def __str__(self) -> str:
        if not self.times.size:
            return "Exact mean-field path at no time"
        return (
            f"Exact mean-field path at {self.times.size:,} times, {self.times.min():g} to {self.times.max():g}\n"
            f"  {_course(self.mean_inventory.ravel(), self.price_path.ravel())}"
        )

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time: time, mean_inventory, mean_trading_rate, price_move."""
        return pl.DataFrame(
            {
                "time": self.times.ravel(),
                "mean_inventory": self.mean_inventory.ravel(),
                "mean_trading_rate": self.mean_trading_rate.ravel(),
                "price_move": self.price_path.ravel(),
            }
        )


def _course(inventory: FloatArray, price: FloatArray) -> str:
    return f"mean inventory {inventory[0]:.6g} to {inventory[-1]:.6g}, price moves by {price[-1]:+.6g}"


@dataclass(frozen=True, eq=False, repr=False)
class MeanFieldSolution(Displayed):
    """An equilibrium on a grid of n_time by n_inventory nodes, with its diagnostics.

    Attributes:
        times: (n_time,), from 0 to T, dense where the game is fast.
        inventories: (n_inventory,), uniform.
        mean_inventory: (n_time,), E(t); second order if `extrapolated`.
        mean_trading_rate: (n_time,), mu(t).
        price_path: (n_time,), expected price less the initial one, alpha (E(t) - E(0)).
        price_band: (n_time, 2), 95 % band of the price at each time, from the volatility.
        density: (n_time, n_inventory), m(t, q) per unit of inventory; sums to 1/h at each time, never normalised.
        value: (n_time, n_inventory), V(t, q), in price times inventory.
        trading_rate: (n_time, n_inventory), v*(t, q).
        hjb_residual: largest residual of the discrete HJB equation with the population's own rate mu, over the
            largest |dV/dt| (or |V|/T, if that is larger).
        fokker_planck_residual: largest residual of the discrete Fokker-Planck equation, over the largest |dm/dt|
            (or m/T).
        mass_error: largest |mass - 1| over time.
        boundary_mass: largest probability at the two end nodes over time; not small means the grid is too short.
        residuals: (iterations,), max |F(mu) - mu| over max |F(mu)| at each iteration.
        exploitability: (iterations,), what one agent gains by a best response to the population of that iteration,
            in price times inventory; zero at the equilibrium.
        iterations: outer iterations on the fine grid.
        converged: whether the mean inventory is right: the last residual met the tolerance, here and on the coarser
            grids, and `grid_error` is at most 1e-3.
        extrapolated: whether the aggregates are Richardson-extrapolated.
        grid_error: upper estimate of the error of the mean inventory, over |E(0)| (or the largest |E|, or a tiny part
            of the standard deviation where buyers and sellers balance): from the comparison with coarser grids, the
            probability that reached the ends of the grid, and the last residual; infinite where the fixed point was
            not found, or a step of time is longer than 4 kappa / alpha: use more nodes of time, or `closed_form`.
    """

    game: TradeCrowding
    times: FloatArray
    inventories: FloatArray
    mean_inventory: FloatArray
    mean_trading_rate: FloatArray
    price_path: FloatArray
    price_band: FloatArray
    density: FloatArray
    value: FloatArray
    trading_rate: FloatArray
    hjb_residual: float
    fokker_planck_residual: float
    mass_error: float
    boundary_mass: float
    residuals: FloatArray
    exploitability: FloatArray
    iterations: int
    converged: bool
    extrapolated: bool
    grid_error: float

    def __str__(self) -> str:
        found = "converged" if self.converged else "NOT CONVERGED"
        return (
            f"Mean-field equilibrium on {self.times.size} x {self.inventories.size} nodes of time and inventory, "
            f"{found} in {self.iterations} iterations\n"
            f"  {_course(self.mean_inventory, self.price_path)}\n"
            f"  errors: grid {self.grid_error:.1e}, mass {self.mass_error:.1e}, at the ends of the grid "
            f"{self.boundary_mass:.1e}, last residual {self.residuals[-1] if self.residuals.size else math.nan:.1e}"
        )

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time: time, mean_inventory, mean_trading_rate, price_move and its band, lower, upper."""
        return pl.DataFrame(
            {
                "time": self.times,
                "mean_inventory": self.mean_inventory,
                "mean_trading_rate": self.mean_trading_rate,
                "price_move": self.price_path,
                "lower": self.price_band[:, 0],
                "upper": self.price_band[:, 1],
            }
        )


def closed_form(game: TradeCrowding, times: FloatLike | None = None) -> ClosedForm:
    """Return the exact mean inventory of a linear-quadratic game.

    The mean solves 2 kappa E'' + alpha E' - 2 phi E = 0, E(0) = E0, kappa E'(T) + A E(T) = 0, so
    E(t) = c1 exp(r+ t) + c2 exp(r- t), r = -alpha/(4 kappa) +- sqrt(kappa phi + alpha^2/16)/kappa, whatever the shape
    of the initial density and the inventory noise (Cardaliaguet and Lehalle 2018, section 3).  With alpha = 0 it is
    the trajectory of Almgren and Chriss (2001).

    Args:
        game: a game with both powers equal to 2.
        times: where to evaluate, any shape, within [0, T]; 101 equidistant times by default.

    Raises:
        BadRequestError: the costs are not quadratic, or a time lies outside [0, T].
    """
    _game(game, f"{_WHERE}.closed_form")
    if not game.is_linear_quadratic:
        raise BadRequestError(
            f"cost_power {game.cost_power:g}, penalty_power {game.penalty_power:g}",
            where=f"{_WHERE}.closed_form",
            hint="Only powers of 2 have a closed form; use solve().",
        )
    horizon, start = game.horizon, game.mean_initial_inventory
    where = f"{_WHERE}.closed_form"
    t = np.linspace(0.0, horizon, 101) if times is None else array(times, "times", where)
    if t.size and not (t.min() >= 0 and t.max() <= horizon * (1 + 1e-12)):
        raise BadRequestError(f"times from {t.min():g} to {t.max():g}", where=where, hint=f"Stay in [0, {horizon:g}].")
    kappa, terminal = game.temporary_cost, game.terminal_penalty
    middle = -game.impact / (4 * kappa)
    gap = math.hypot(math.sqrt(game.running_penalty / kappa), middle)
    if not (math.isfinite(gap) and math.isfinite(kappa * gap * horizon + terminal)):
        raise BadRequestError(
            f"impact {game.impact:g}, running_penalty {game.running_penalty:g} and terminal_penalty {terminal:g} over "
            f"temporary_cost {kappa:g} are out of range",
            where=where,
            hint="Check the units of the parameters.",
        )
    if game.running_penalty == terminal == 0:  # nothing pushes the inventory: nobody trades
        return _closed_form(game, t, np.full_like(t, start), np.zeros_like(t))
    if gap * horizon < 1:
        # The same without the cancellation of two exponentials that are nearly one; m and g are middle and gap:
        # E = E0 exp((m - g) t) N(T - t) / N(T),  N(u) = kappa (1 + e)/2 + (A + kappa m)(1 - e)/(2 g),  e = exp(-2 g u).
        left, pull = horizon - t, terminal + kappa * middle

        def weight(u: FloatArray) -> FloatArray:
            span = -np.expm1(-2 * gap * u) / (2 * gap) if gap * horizon > 1e-150 else u
            return np.asarray(kappa * (1 + np.exp(-2 * gap * u)) / 2 + pull * span)

        whole_weight = float(weight(np.array(horizon)))
        decay = np.exp((middle - gap) * t)
        mean = start * decay * weight(left) / whole_weight
        bend = (kappa * gap - pull) * np.exp(-2 * gap * left)
        return _closed_form(game, t, mean, (middle - gap) * mean + start * decay * bend / whole_weight)
    up, down = middle + gap, middle - gap
    # up = phi / (kappa * gap - kappa * middle) without the cancellation of middle + gap.
    up = game.running_penalty / (kappa * (gap - middle))
    # With B(r) = kappa r + A: E proportional to B(up) exp(down t) - B(down) exp(down T - up (T - t)).  No exponent is
    # positive, and nothing is divided by B(up), which may be as small as it likes.
    up_end, down_end = kappa * up + terminal, kappa * down + terminal
    scale = start / (up_end - down_end * math.exp((down - up) * horizon))
    decaying = up_end * np.exp(down * t)
    growing = down_end * np.exp(down * horizon - up * (horizon - t))
    mean = scale * (decaying - growing)
    rate = scale * (down * decaying - up * growing)
    return _closed_form(game, t, mean, rate)


def _game(game: Any, where: str) -> None:
    if not isinstance(game, TradeCrowding):
        raise BadRequestError(f"game is a {type(game).__name__}", where=where, hint="Give a TradeCrowding.")


def _closed_form(game: TradeCrowding, times: FloatArray, mean: FloatArray, rate: FloatArray) -> ClosedForm:
    price = game.impact * (mean - game.mean_initial_inventory)
    if not (np.isfinite(mean).all() and np.isfinite(rate).all() and np.isfinite(price).all()):
        raise BadRequestError(
            "the path is out of range", where=f"{_WHERE}.closed_form", hint="Check the units of the parameters."
        )
    return ClosedForm(times, mean, rate, price)


def solve(
    game: TradeCrowding,
    n_inventory: int = 101,
    n_time: int = 101,
    *,
    method: Method = "newton",
    tolerance: float = 1e-10,
    max_iterations: int | None = None,
    extrapolate: bool = True,
    inventory_range: tuple[float, float] | None = None,
) -> MeanFieldSolution:
    """Return the equilibrium of a game on a grid, uniform in inventory, dense in time where the game is fast.

    Args:
        game: the parameters.
        n_inventory: nodes in inventory, odd and at least 11.
        n_time: nodes in time, odd and at least 11.
        method: `newton`, or `fictitious_play` (every agent answers the average of all past populations; slow, about
            1/iterations, but each of its steps is one of learning agents).
        tolerance: on max |F(mu) - mu| over max |F(mu)| (or a thousandth of the agents' own rates, if that is more).
        max_iterations: 30 for Newton, 1000 for fictitious play by default.
        extrapolate: whether to make the aggregates second order with a second solution on every second node.
        inventory_range: first and last node, with zero between them; by default the initial inventories and zero,
            with three quarters of their span (and five standard deviations of the inventory noise) beyond.

    Returns:
        The solution; `converged` says whether its mean inventory is right to 1e-3 of E(0).  `residuals` and
        `grid_error` tell what is missing: iterations, or nodes.  `n_time` - 1 should be a multiple of four: else only
        one coarser grid can be compared, and `grid_error` is a first-order estimate, several times too large.

    Raises:
        BadRequestError: an argument out of its domain, a grid that is even, too small or too large, or one that does
            not hold the initial density and zero.
        NotConvergedError: the iteration left the finite numbers.
    """
    where = f"{_WHERE}.solve"
    _game(game, where)
    for name, nodes in (("n_inventory", n_inventory), ("n_time", n_time)):
        if whole(nodes, name, where, least=11) % 2 == 0:
            raise BadRequestError(f"{name} = {nodes}", where=where, hint="Give an odd number of nodes, 11 or more.")
    choice(method, "method", where, get_args(Method))
    number(tolerance, "tolerance", where, above=0)
    default = 30 if method == "newton" else 1000
    limit = default if max_iterations is None else whole(max_iterations, "max_iterations", where, least=1)
    iterate = partial(_newton, with_gains=True) if method == "newton" else _fictitious_play
    low, high = _range(game, inventory_range, where)
    if n_time * n_inventory > _MOST_POINTS:
        raise BadRequestError(
            f"{n_time} x {n_inventory} nodes", where=where, hint=f"Give {_MOST_POINTS:,} or fewer in all."
        )
    fastest = _fastest_speed(game, low, high)

    def grid_of(time_part: int, inventory_part: int) -> _GameGrid:
        times = _graded_times(game, (n_time - 1) // time_part + 1)
        return _GameGrid(game, low, high, (n_inventory - 1) // inventory_part + 1, times, fastest)

    # The comparison with coarser grids makes the aggregates second order and says how good they are.
    parts = [4, 2] if (n_time - 1) % 4 == 0 else [2]
    rate = _expected_rate(game, _graded_times(game, (n_time - 1) // parts[0] + 1))
    coarse: list[_Coarse] = []
    for part in parts:
        grid = grid_of(part, 2)
        found = _newton(grid, rate, tolerance, max(limit, 30))
        coarse.append(_Coarse(found.response.mass @ grid.q, _rates(grid, found), found.residuals[-1]))
        rate = np.repeat(found.rate, 2)
    fine = grid_of(1, 1)
    # The coarse equilibrium is a good start for Newton; fictitious play starts with nobody trading.
    start = rate if method == "newton" else np.zeros(n_time - 1)
    with np.errstate(all="ignore"):
        solution = _solution(fine, iterate(fine, start, tolerance, limit), tolerance, coarse, extrapolate=extrapolate)
    if not (np.isfinite(solution.mean_inventory).all() and np.isfinite(solution.price_band).all()):
        raise NotConvergedError(
            "the mean inventory or price is not finite", where=where, hint="Check the units of the parameters."
        )
    return solution


def _range(game: TradeCrowding, given: tuple[float, float] | None, where: str) -> tuple[float, float]:
    """Return the first and the last inventory of the grid.

    Raises:
        BadRequestError: no pair of increasing numbers, or zero, where agents are headed, is not between them.
    """
    if given is None:
        return _default_range(game)
    try:
        low, high = given
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"inventory_range = {given!r}", where=where, hint="Give (lowest, highest).") from error
    low, high = number(low, "inventory_range", where), number(high, "inventory_range", where)
    if not (low < high and low <= 0 <= high):
        raise BadRequestError(
            f"inventory_range = ({low:g}, {high:g})",
            where=where,
            hint="Give (lowest, highest), with zero between them: agents trade towards it.",
        )
    return low, high


def _default_range(game: TradeCrowding) -> tuple[float, float]:
    density = game.density
    low, high = min(0.0, float(density.inventory[0])), max(0.0, float(density.inventory[-1]))
    pad = _PAD * (high - low) + 5 * game.inventory_noise * math.sqrt(game.horizon)
    return low - pad, high + pad


def _fastest_speed(game: TradeCrowding, low: float, high: float) -> FloatArray:
    """Return a bound (_PILOT,) on the speeds that agents want at equidistant times, from a rough solution.

    The bound sets the numerical viscosity and caps the speed.  Only nodes with noticeable mass count: the empty far
    ends of the grid would ask for a viscosity many times larger, and capping them changes nothing where agents are.
    """
    times = _graded_times(game, _PILOT)
    speed = np.full(_PILOT, 4 * (high - low) / game.horizon)
    rate = _expected_rate(game, times)
    for _ in range(12):
        grid = _GameGrid(game, low, high, _PILOT_NODES, times, speed)
        found = _newton(grid, rate, 1e-2, 10)
        rate, mass = found.rate, found.response.mass
        wanted = np.abs(grid.wanted_speed(found.response.value))
        here = np.where(mass > _NOTICEABLE * mass.max(axis=1, keepdims=True), wanted, 0.0).max(axis=1)
        # Neighbouring times count too, because the bound is interpolated to other grids.
        padded = np.concatenate([here[:1], here, here[-1:]])
        needed = np.maximum(np.maximum(padded[:-2], padded[2:]), here)
        if (needed <= speed).all() and speed.sum() <= 1.5 * needed.sum():
            break
        speed = np.maximum(1.25 * needed, max(_SLOWEST * float(needed.max()), np.finfo(float).tiny))
    return speed


def _quadratic(game: TradeCrowding) -> tuple[float, float, float]:
    """Return kappa, phi and A of the linear-quadratic game that is nearest: same marginal costs at typical sizes."""
    density = game.density
    size = math.hypot(density.mean, density.std)
    grip = game.penalty_power * size ** (game.penalty_power - 2) / 2
    phi, terminal = game.running_penalty * grip, game.terminal_penalty * grip
    kappa = game.temporary_cost
    pace = 1 / game.horizon
    for _ in range(20 if game.cost_power != 2 else 0):
        kappa = game.temporary_cost * game.cost_power * (size * pace) ** (game.cost_power - 2) / 2
        wanted = max(1 / game.horizon, _decay(game.impact, kappa, phi))
        pace = math.sqrt(pace * wanted)
    return kappa, phi, terminal


def _decay(impact: float, kappa: float, phi: float) -> float:
    """Return -r-, the rate at which the mean inventory of a linear-quadratic game falls at first."""
    return impact / (4 * kappa) + math.sqrt(phi / kappa + (impact / (4 * kappa)) ** 2)


def _graded_times(game: TradeCrowding, n: int) -> FloatArray:
    """Return n times from 0 to T, dense where the game is fast: at the start by crowding, at the end by the penalty.

    They are a smooth function of the node's number, so that doubling the nodes halves every step and the errors of
    the grids can be extrapolated.
    """
    kappa, phi, terminal = _quadratic(game)
    # Times over T; the layers are not resolved below a ten-millionth of it.
    first = max(1 / (_decay(game.impact, kappa, phi) * game.horizon + 1), 1e-7)
    last = max(kappa / (terminal * game.horizon + kappa), 1e-7)

    def place(t: FloatArray) -> FloatArray:
        return t + _GRADING * (np.log1p(t / first) + math.log1p(1 / last) - np.log1p((1 - t) / last))

    share = np.linspace(0.0, 1.0, n)
    low, high = np.zeros(n), np.ones(n)
    target = share * place(np.ones(1))[0]
    for _ in range(60):
        middle = (low + high) / 2
        below = place(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    times: FloatArray = (low + high) / 2 * game.horizon
    times[0], times[-1] = 0.0, game.horizon
    return times


def _expected_rate(game: TradeCrowding, times: FloatArray) -> FloatArray:
    """Return where Newton starts: the mean rate between the times of the nearest linear-quadratic game."""
    kappa, phi, terminal = _quadratic(game)
    near = replace(
        game, temporary_cost=kappa, running_penalty=phi, terminal_penalty=terminal, cost_power=2.0, penalty_power=2.0
    )
    return np.diff(closed_form(near, times).mean_inventory) / np.diff(times)


class _GameGrid:
    """A game on a grid: everything the compiled sweeps need, and the sweeps with their arguments bound."""

    def __init__(
        self, game: TradeCrowding, low: float, high: float, n_inventory: int, times: FloatArray, fastest: FloatArray
    ) -> None:
        self.game = game
        self.q = np.linspace(low, high, n_inventory)
        self.h = (high - low) / (n_inventory - 1)
        self.times = times
        self.dt = np.diff(times)
        size = np.abs(self.q) ** game.penalty_power
        self.running = -game.running_penalty * size
        self.terminal = -game.terminal_penalty * size
        self.noise = game.inventory_noise**2 / 2
        # Of step n, which acts on [t_n, t_(n+1)].
        cap = np.interp(times[:-1], _graded_times(game, fastest.size), fastest)
        self.viscosity = np.maximum(self.noise, cap * self.h / 2)
        self.initial = self._project(game.density)

    def _project(self, density: InventoryDensity) -> FloatArray:
        """Return the probabilities of the nodes: each atom is split over its two neighbours, keeping the mean."""
        points, weights = density.atoms()
        x = (points - self.q[0]) / self.h
        if x.min() < 0 or x.max() > self.q.size - 1:
            raise BadRequestError(
                f"initial inventories from {points.min():g} to {points.max():g} leave the grid "
                f"[{self.q[0]:g}, {self.q[-1]:g}]",
                where=f"{_WHERE}.solve",
                hint="Widen inventory_range.",
            )
        cell = np.minimum(x.astype(np.int64), self.q.size - 2)
        part = x - cell
        nodes: FloatArray = np.zeros(self.q.size)
        np.add.at(nodes, cell, weights * (1 - part))
        np.add.at(nodes, cell + 1, weights * part)
        return nodes

    def respond(self, rate: FloatArray) -> _Response:
        """Return the best response to a population trading at `rate` (n_time - 1,), and what it leads to."""
        game = self.game
        value, speed, up, down, inverse, low, worst = hjb(
            rate,
            self.viscosity,
            self.noise,
            self.q,
            self.h,
            self.dt,
            self.running,
            self.terminal,
            game.impact,
            game.temporary_cost,
            game.cost_power,
        )
        if not np.isfinite(worst):
            raise NotConvergedError(
                "the value function is not finite",
                where=f"{_WHERE}.solve",
                hint="Check the units of the parameters, or use more time nodes.",
            )
        mass = fokker_planck(self.initial, self.dt, up, inverse, low)
        return _Response(value, speed, up, down, inverse, low, mass, (speed * mass[1:]).sum(axis=1))

    def payoff(self, response: _Response, rate: FloatArray) -> float:
        """Return what the strategy of `response` earns, on average over the agents, against `rate`."""
        game, mass = self.game, response.mass[1:]
        trading = game.temporary_cost * np.abs(response.speed) ** game.cost_power
        reward = game.impact * rate * (mass @ self.q) + (mass * (self.running - trading)).sum(axis=1)
        return float(self.dt @ reward + response.mass[-1] @ self.terminal)

    def slope(self, value: FloatArray) -> FloatArray:
        """Return dV/dq (.., n_inventory): central inside, one-sided and inward only at the ends."""
        p = np.empty_like(value)
        p[..., 1:-1] = (value[..., 2:] - value[..., :-2]) / (2 * self.h)
        p[..., 0] = np.maximum(value[..., 1] - value[..., 0], 0) / self.h
        p[..., -1] = np.minimum(value[..., -1] - value[..., -2], 0) / self.h
        return p

    def wanted_speed(self, value: FloatArray) -> FloatArray:
        """Return the optimal speed before the cap."""
        p, game = self.slope(value), self.game
        pace: FloatArray = np.sign(p) * (np.abs(p) / (game.temporary_cost * game.cost_power)) ** (
            1 / (game.cost_power - 1)
        )
        return pace

    def responsiveness(self, response: _Response) -> FloatArray:
        """Return dv/dp at the controls (n_time - 1, n_inventory): v = (p/(kappa b))^(1/(b-1)) has slope v/(p (b-1))."""
        p = np.abs(self.slope(response.value[:-1]))
        # For b > 2 the slope is infinite at p = 0; the floor bounds it and only slows Newton down there.
        floor = 1e-9 * max(float(p.max()), np.finfo(float).tiny)
        pace = np.abs(response.speed)
        free = (pace < 2 * self.viscosity[:, None] / self.h) & (p > 0)
        if self.game.cost_power == 2:
            return np.where(free, 1 / (2 * self.game.temporary_cost), 0.0)
        return np.where(free, pace / (np.maximum(p, floor) * (self.game.cost_power - 1)), 0.0)


@dataclass(frozen=True, eq=False)
class _Response:
    value: FloatArray  # (n_time, n_inventory)
    speed: FloatArray  # (n_time - 1, n_inventory), v; the control of step n acts on [t_n, t_(n+1)]
    up: FloatArray  # the same: rates of the jumps up,
    down: FloatArray  # and down
    inverse: FloatArray  # the same: 1 / U's diagonal, of the step's matrix
    low: FloatArray  # the same: L's subdiagonal
    mass: FloatArray  # (n_time, n_inventory), probabilities
    mean_rate: FloatArray  # (n_time - 1,)


@dataclass(frozen=True, eq=False)
class _Equilibrium:
    rate: FloatArray  # the rate that the value function was computed against
    response: _Response
    residuals: list[float]
    exploitability: list[float]


def _gap(grid: _GameGrid, response: _Response, rate: FloatArray) -> float:
    """Return max |F(mu) - mu| relative to the larger of the two.

    Where buyers and sellers balance, their rates nearly cancel, and rounding is relative to the rates: mean rates
    below a thousandth of the agents' own are judged relative to that; and where hardly anybody trades, relative to a
    millionth of the grid over the horizon.
    """
    target = response.mean_rate
    typical = math.sqrt(float((response.mass[1:] * response.speed**2).sum(axis=1).max()))
    least = max(1e-3 * typical, 1e-6 * float(grid.q[-1] - grid.q[0]) / grid.game.horizon)
    return float(np.abs(target - rate).max()) / max(float(np.abs(target).max()), float(np.abs(rate).max()), least)


def _newton(
    grid: _GameGrid, rate: FloatArray, tolerance: float, limit: int, *, with_gains: bool = False
) -> _Equilibrium:
    """Solve mu = F(mu) by Newton-GMRES, halving a step that does not reduce the residual."""
    from scipy.sparse.linalg import LinearOperator, gmres

    response = grid.respond(rate)
    residuals, gains = [], []
    for _ in range(limit):
        residual = _gap(grid, response, rate)
        residuals.append(residual)
        if with_gains:  # costs another sweep, and only the published iteration needs it
            best = grid.respond(response.mean_rate)
            gains.append(float(grid.initial @ best.value[0]) - grid.payoff(response, response.mean_rate))
        # Eight iterations that do not halve the residual: it leads nowhere.
        if residual <= tolerance or (len(residuals) > 8 and min(residuals[-8:]) > 0.5 * min(residuals[:-8])):
            break
        slope = grid.responsiveness(response)

        def apply(step: Any, response: _Response = response, slope: FloatArray = slope) -> FloatArray:
            step = np.ascontiguousarray(step, dtype=np.float64).ravel()
            moved: FloatArray = step - tangent(
                step,
                grid.q,
                grid.h,
                grid.dt,
                grid.game.impact,
                response.speed,
                slope,
                response.up,
                response.inverse,
                response.low,
                response.mass,
            )
            return moved

        n = rate.size
        step, _ = gmres(
            LinearOperator((n, n), matvec=apply, dtype=np.float64),
            response.mean_rate - rate,
            rtol=min(1e-3, max(residual, 1e-6)),
            restart=min(n, 100),
            maxiter=2,
        )
        # Plain Picard is the last resort: its step is the residual itself, always finite.
        trials = [*(rate + step * 0.5**k for k in range(5)), rate + 0.1 * (response.mean_rate - rate)]
        for trial in trials:
            answer = grid.respond(trial)
            if _gap(grid, answer, trial) < residual:
                break
        rate, response = trial, answer
    return _Equilibrium(rate, response, residuals, gains)


def _fictitious_play(grid: _GameGrid, rate: FloatArray, tolerance: float, limit: int) -> _Equilibrium:
    """Let every agent answer the average of all past populations (Cardaliaguet and Hadikhanlou 2017)."""
    response = grid.respond(rate)
    residuals, gains = [], []
    # Payoffs are affine in mu, so the average payoff of all past strategies needs two averages only.
    cost, exposure = 0.0, np.zeros_like(rate)
    for k in range(1, limit + 1):
        rate = rate + (response.mean_rate - rate) / k
        exposure += (response.mass[1:] @ grid.q - exposure) / k
        cost += (grid.payoff(response, np.zeros_like(rate)) - cost) / k
        response = grid.respond(rate)
        residuals.append(_gap(grid, response, rate))
        average = cost + grid.game.impact * float((grid.dt * rate) @ exposure)
        gains.append(float(grid.initial @ response.value[0]) - average)
        if residuals[-1] <= tolerance:
            break
    return _Equilibrium(rate, response, residuals, gains)


class _Coarse(NamedTuple):
    """Aggregates of a solution on a coarser grid: mean inventory and rate (n,), and the residual."""

    mean: FloatArray
    rate: FloatArray
    residual: float


def _rates(grid: _GameGrid, found: _Equilibrium) -> FloatArray:
    """Return the mean rate at the nodes, (n_time,)."""
    policy = np.vstack([found.response.speed, grid.wanted_speed(found.response.value[-1:])])
    return np.asarray((found.response.mass * policy).sum(axis=1))


def _solution(
    grid: _GameGrid, found: _Equilibrium, tolerance: float, coarse: list[_Coarse], *, extrapolate: bool
) -> MeanFieldSolution:
    """Package an equilibrium: residuals from the equations themselves, aggregates extrapolated, errors judged."""
    game, response = grid.game, found.response
    value, mass = response.value, response.mass
    hjb_residual, fokker_planck_residual = _equation_residuals(grid, response)
    policy = np.vstack([response.speed, grid.wanted_speed(value[-1:])])
    mean, rate = mass @ grid.q, _rates(grid, found)
    boundary = float(mass[:, [0, -1]].max())
    density = game.density
    half = coarse[-1]
    raw = mean[::2] - half.mean
    error = float(np.abs(raw).max()) * (1 if game.is_linear_quadratic and extrapolate else _FIRST_ORDER)
    if extrapolate:
        if len(coarse) > 1:
            # The extrapolated means of two pairs of grids; the error of the finer is a third of their difference.
            before = half.mean[::2] + (half.mean[::2] - coarse[0].mean)
            error = error * (_DOUBT if game.is_linear_quadratic else 1) + _SAFETY * float(
                np.abs(mean[::4] + raw[::2] - before).max()
            )
        else:
            # One comparison alone cannot tell whether the grids are fine enough for it.
            error *= 2
        mean = mean + _refine(raw)
        rate = rate + _refine(rate[::2] - half.rate)
    # What has reached an end of the grid is not where the game would have it; nor is what Newton has left undone.
    error += boundary * float(grid.q[-1] - grid.q[0]) + 1e-11 * density.std
    residuals = [*(solved.residual for solved in coarse), found.residuals[-1]]
    if max(residuals) > tolerance:
        error += max(residuals) * game.horizon * float(np.abs(rate).max())
    # Over a step longer than the crowd's own time, kappa / alpha, all grids are wrong alike: they tell nothing.
    blind = game.is_linear_quadratic and game.impact * float(np.max(grid.dt)) > 4 * game.temporary_cost
    if max(residuals) > _LOST or blind:
        error = math.inf
    scale = max(abs(game.mean_initial_inventory), float(np.abs(mean).max()), _BALANCED * density.std)
    error /= scale
    price = game.impact * (mean - game.mean_initial_inventory)
    half_band = _Z95 * game.volatility * np.sqrt(grid.times)
    return MeanFieldSolution(
        game=game,
        times=grid.times,
        inventories=grid.q,
        mean_inventory=mean,
        mean_trading_rate=rate,
        price_path=price,
        price_band=np.stack([price - half_band, price + half_band], axis=1),
        density=mass / grid.h,
        value=value,
        trading_rate=policy,
        hjb_residual=hjb_residual,
        fokker_planck_residual=fokker_planck_residual,
        mass_error=float(np.abs(mass.sum(axis=1) - 1).max()),
        boundary_mass=boundary,
        residuals=np.array(found.residuals),
        exploitability=np.array(found.exploitability),
        iterations=len(found.residuals),
        converged=max(residuals) <= tolerance and error <= _ACCURATE,
        extrapolated=extrapolate,
        grid_error=error,
    )


def _refine(difference: FloatArray) -> FloatArray:
    """Return a difference on every second time at all times; linear is enough, it is itself of first order."""
    fine = np.empty(2 * difference.size - 1)
    fine[::2] = difference
    fine[1::2] = (difference[1:] + difference[:-1]) / 2
    return fine


def _equation_residuals(grid: _GameGrid, response: _Response) -> tuple[float, float]:
    """Return the relative residuals of the two discrete equations, written out afresh, without the solver's parts."""
    game, h, value, after = grid.game, grid.h, response.value, response.mass[1:]
    p = grid.slope(value[:-1])
    speed = np.clip(grid.wanted_speed(value[:-1]), -2 * grid.viscosity[:, None] / h, 2 * grid.viscosity[:, None] / h)
    gain = speed * p - game.temporary_cost * np.abs(speed) ** game.cost_power
    spread = np.repeat(grid.viscosity[:, None], value.shape[1], axis=1)
    spread[:, [0, -1]] = grid.noise
    step = np.diff(value[:-1], axis=1) / h**2
    curvature = np.pad(step, ((0, 0), (0, 1))) - np.pad(step, ((0, 0), (1, 0)))
    source = game.impact * response.mean_rate[:, None] * grid.q + grid.running
    change = np.diff(value, axis=0) / grid.dt[:, None]
    # The second scale is for games in which nothing changes but rounding.
    scale = max(float(np.abs(change).max()), float(np.abs(value).max()) / game.horizon, np.finfo(float).tiny)
    hjb_residual = float(np.abs(change + source + gain + spread * curvature).max()) / scale

    # Probability flux from node i to i + 1, less that from i + 1 to i: half the drift inside, all of it at an end.
    part = np.full(value.shape[1], 0.5)
    part[[0, -1]] = 1.0
    rising = after * (spread / h**2 + part * speed / h)
    falling = after * (spread / h**2 - part * speed / h)
    flux = rising[:, :-1] - falling[:, 1:]
    divergence = np.pad(flux, ((0, 0), (0, 1))) - np.pad(flux, ((0, 0), (1, 0)))
    change = np.diff(response.mass, axis=0) / grid.dt[:, None]
    scale = max(float(np.abs(change).max()), float(response.mass.max()) / game.horizon)
    return hjb_residual, float(np.abs(change + divergence).max()) / scale


@dataclass(frozen=True)
class CrowdingCalibration:
    """What recent order flow says about a market; time in minutes, price in quote, quantity in base.

    Attributes:
        bins: intervals used, of `bin_minutes` each.
        last_price: of the last interval.
        kyle_lambda: slope of the price change on the signed volume of an interval, quote per base; may be negative.
        kyle_t: its t-statistic with heteroskedasticity-robust (White) standard errors.
        half_spread: half of the effective spread, quote.
        volume_per_minute: traded quantity, base per minute.
        volatility: of the price change that signed volume does not explain, quote per sqrt(minute).
        flow_persistence: slope of the next horizon's signed volume on the last one's; positive if orders go on.
        flow_t: its t-statistic.
        last_flow: signed volume over the last horizon, base.
        flow_noise: standard deviation of the next horizon's signed volume around its prediction, base.
        signed_by: where the signs came from: `taker_side`, `buy_volume`, `tick_rule` or `bulk`.
        spread_from: `opposite_trades`, `high_low`, `roll` or `tick` (the smallest price step seen); `none`, with a
            half-spread of 0, where the price never moved.
    """

    bins: int
    bin_minutes: float
    last_price: float
    kyle_lambda: float
    kyle_t: float
    half_spread: float
    volume_per_minute: float
    volatility: float
    flow_persistence: float
    flow_t: float
    last_flow: float
    flow_noise: float
    signed_by: str
    spread_from: str


@dataclass(frozen=True, eq=False, repr=False)
class PriceForecast(Displayed):
    """An expected price path with its band, and everything that it rests on.

    Attributes:
        minutes: (n_time,), from 0 to the horizon.
        expected: (n_time,), expected price.
        lower, upper: (n_time,), band at `confidence`: unexplained volatility and the sampling of finitely many agents.
        agents_std: (n_time,), the part of the band's standard deviation that is due to the finite number of agents.
        mean_inventory: (n_time,), of an agent.
        confidence: two-sided level of the band.
        calibration: what was measured.
        game: the game whose exact path this is.
        nodes: of the grid of `solution`, in inventory and in time.
    """

    minutes: FloatArray
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    agents_std: FloatArray
    mean_inventory: FloatArray
    confidence: float
    calibration: CrowdingCalibration
    game: TradeCrowding
    nodes: tuple[int, int]

    def __str__(self) -> str:
        found = self.calibration
        return (
            f"Price expected in {self.minutes[-1]:g} minutes: {self.expected[-1]:.8g}, now {found.last_price:.8g}\n"
            f"  {self.confidence:.0%} band {self.lower[-1]:.8g} to {self.upper[-1]:.8g}\n"
            f"  from {found.bins:,} intervals of {found.bin_minutes:g} minutes, signed by {found.signed_by}: Kyle's "
            f"lambda {found.kyle_lambda:.3g} (t {found.kyle_t:.1f}), persistence of flow {found.flow_persistence:.2f} "
            f"(t {found.flow_t:.1f})"
        )

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time: minutes, expected, lower, upper, agents_std, mean_inventory."""
        names = ("minutes", "expected", "lower", "upper", "agents_std", "mean_inventory")
        return pl.DataFrame({name: getattr(self, name) for name in names})

    @cached_property
    def solution(self) -> MeanFieldSolution:
        """Return the equilibrium on a grid, solved when first asked for: for the density, and as a check of the path.

        Raises:
            NotConvergedError: the iteration left the finite numbers.
        """
        return solve(self.game, *self.nodes)

    @property
    def closed_form_error(self) -> float:
        """Return the largest difference of the grid's expected move from the exact one, over the largest exact move."""
        exact = closed_form(self.game, self.solution.times).price_path
        largest = float(np.abs(exact).max())
        return float(np.abs(self.solution.price_path - exact).max()) / largest if largest > 0 else 0.0


#: Minutes of a millisecond, the shortest horizon.
_SHORTEST: Final = 1e-3 / 60
#: Minutes of ten years, the longest horizon.
_LONGEST: Final = 5_256_000.0
#: Intervals that a calibration needs, and horizons for the persistence of flow.
_MIN_BINS: Final = 50
_MIN_WINDOWS: Final = 10


def calibrate_crowding(market: pl.DataFrame, *, horizon_minutes: float = 5.0) -> CrowdingCalibration:
    """Measure impact, costs, volatility and order flow on the recent trades or bars of one symbol.

    Trades are gathered into intervals of a fifth of the horizon (an interval without trades has no flow and no price
    change); bars are used as they are, and must not be longer than the horizon.  Signs come from the taker's side or
    the takers' bought volume; else from the tick rule (trades) or bulk classification (bars: the share bought is the
    normal distribution function of the standardised price change, Easley, Lopez de Prado and O'Hara 2012).  Bulk
    signs are derived from prices, so that lambda is then an upper bound rather than a measurement.

    Args:
        market: `ts, price, amount` and optionally `side`, as in market.trades; or `ts, close, volume` and optionally
            `high, low, buy_volume`, as in market.bars; sorted by time.
        horizon_minutes: of the forecast.

    Raises:
        BadRequestError: columns are missing, several symbols are mixed, or bars are longer than the horizon.
        DataError: too few intervals, a missing or non-positive price, or no volume.
    """
    where = f"{_WHERE}.calibrate_crowding"
    number(horizon_minutes, "horizon_minutes", where, least=_SHORTEST, most=_LONGEST)
    if not isinstance(market, pl.DataFrame):
        raise BadRequestError(f"market is a {type(market).__name__}", where=where, hint="Give a Polars frame.")
    columns = set(market.columns)
    if "symbol" in columns and market["symbol"].n_unique() > 1:
        raise BadRequestError(
            f"{market['symbol'].n_unique()} symbols", where=where, hint="Filter the frame to one symbol."
        )
    if {"ts", "price", "amount"} <= columns:
        flow = _flow_of_trades(market, horizon_minutes / 5)
    elif {"ts", "close", "volume"} <= columns:
        flow = _flow_of_bars(market, horizon_minutes)
    else:
        raise BadRequestError(
            f"columns {sorted(columns)}", where=where, hint="Give ts, price, amount or ts, close, volume."
        )
    change, signed, volume = flow.change, flow.signed, flow.volume
    slope, slope_t, residual = _regress(signed, change)
    per_window = max(1, round(horizon_minutes / flow.minutes))
    windows = signed[signed.size % per_window :].reshape(-1, per_window).sum(axis=1)
    if windows.size < _MIN_WINDOWS:
        raise DataError(
            f"{windows.size} horizons of {horizon_minutes:g} minutes", where=where, hint=f"Give {_MIN_WINDOWS} or more."
        )
    persistence, persistence_t, surprise = _regress(windows[:-1], windows[1:])
    return CrowdingCalibration(
        bins=change.size,
        bin_minutes=flow.minutes,
        last_price=flow.last_price,
        kyle_lambda=slope,
        kyle_t=slope_t,
        half_spread=flow.spread / 2,
        volume_per_minute=float(volume.mean()) / flow.minutes,
        volatility=float(residual.std()) / math.sqrt(flow.minutes),
        flow_persistence=persistence,
        flow_t=persistence_t,
        last_flow=float(windows[-1]),
        flow_noise=float(surprise.std()),
        signed_by=flow.signed_by,
        spread_from=flow.spread_from,
    )


def predict_price(
    market: pl.DataFrame,
    *,
    horizon_minutes: float = 5.0,
    n_agents: int = 1000,
    seed: int = 0,
    urgency: float = 2.0,
    confidence: float = 0.95,
    n_inventory: int = 101,
    n_time: int = 401,
) -> PriceForecast:
    """Return the price path that optimal execution by a crowd of agents implies, from recent order flow.

    Assumptions, each replaceable by solving a `TradeCrowding` of one's own:

    - N agents share the flow equally.  With lambda Kyle's slope, s the half-spread and V the volume per minute,
      impact = N max(lambda, 0) and temporary_cost = s N / V: an agent that trades its share V/N pays the half-spread.
    - The flow that the last horizon's flow X predicts, b X, is what the agents still have to trade: their mean
      inventory is -b X / N.  The regression decides whether flow goes on (b > 0, split orders) or is unwound (b < 0).
      b X is shrunk by t^2 / (1 + t^2), so that noise predicts nothing.
    - Inventories are normal and independent, with the standard deviation that makes the sum of N vary like the
      flow's unpredicted part; the band is therefore pinned to the flow, and N matters only through the draw.
    - running_penalty = temporary_cost (urgency / T)^2: without interaction, inventories decay like exp(-urgency t/T);
      terminal_penalty = 10 temporary_cost / T: little is left at T.

    The expected price moves by impact times the change of the mean inventory, which has a closed form, since the game
    is linear-quadratic: no move where nothing is to be traded.  The band adds the unexplained volatility and the
    sampling error of N agents, drawn and moved by the equilibrium's strategy.

    Args:
        market: see `calibrate_crowding`.
        horizon_minutes: T.
        n_agents: N, at least 2.
        seed: of the drawn inventories.
        urgency: of the agents, > 0.
        confidence: of the band, in (0, 1).
        n_inventory: nodes of the grid of `PriceForecast.solution`, see `solve`.
        n_time: points of the path, and nodes of that grid.

    Raises:
        BadRequestError: an argument is out of its domain, or the frame has not the columns.
        DataError: the data cannot carry the calibration.
    """
    where = f"{_WHERE}.predict_price"
    whole(n_agents, "n_agents", where, least=2, most=10_000_000)
    whole(seed, "seed", where, least=0)
    number(confidence, "confidence", where, above=0, below=1)
    number(urgency, "urgency", where, above=0, most=1e6)
    for name, nodes in (("n_inventory", n_inventory), ("n_time", n_time)):
        if whole(nodes, name, where, least=11, most=_MOST_POINTS // 11) % 2 == 0:
            raise BadRequestError(f"{name} = {nodes}", where=where, hint="Give an odd number of nodes, 11 or more.")
    found = calibrate_crowding(market, horizon_minutes=horizon_minutes)
    trust = found.flow_t**2 / (1 + found.flow_t**2) if math.isfinite(found.flow_t) else 1.0
    to_trade = trust * found.flow_persistence * found.last_flow
    # Where the price never moved its spread is not seen, and not needed: nothing moves the price.
    kappa = max(found.half_spread, 1e-9 * found.last_price) * n_agents / found.volume_per_minute
    # A flow that the last one predicts exactly leaves no noise; the density then keeps a little width.
    spread = max(found.flow_noise, 1e-6 * max(abs(to_trade), found.volume_per_minute * horizon_minutes))
    game = TradeCrowding(
        impact=n_agents * max(found.kyle_lambda, 0.0),
        running_penalty=kappa * (urgency / horizon_minutes) ** 2,
        temporary_cost=kappa,
        terminal_penalty=10 * kappa / horizon_minutes,
        horizon=horizon_minutes,
        initial_inventory=InventoryDensity.gaussian(-to_trade / n_agents, spread / math.sqrt(n_agents)),
        volatility=found.volatility,
    )
    minutes = np.linspace(0.0, horizon_minutes, n_time)
    path = closed_form(game, minutes)
    # An agent's distance from the mean shrinks as if it were alone.
    alone = closed_form(replace(game, impact=0.0, initial_inventory=1.0), minutes).mean_inventory
    drawn = _drawn(game.density, n_agents, seed)
    agents_std = game.impact * (1 - alone) * drawn.std() / math.sqrt(n_agents)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(game.volatility**2 * minutes + agents_std**2)
    expected = found.last_price + path.price_path
    return PriceForecast(
        minutes=minutes,
        expected=expected,
        lower=expected - half,
        upper=expected + half,
        agents_std=agents_std,
        mean_inventory=path.mean_inventory,
        confidence=confidence,
        calibration=found,
        game=game,
        nodes=(n_inventory, n_time),
    )


def _drawn(density: InventoryDensity, n_agents: int, seed: int) -> FloatArray:
    """Return (n_agents,) inventories drawn from a density."""
    q, m = density.inventory, density.density
    mass = np.concatenate([[0.0], np.cumsum(np.diff(q) * (m[1:] + m[:-1]))])
    return np.asarray(np.interp(np.random.default_rng(seed).random(n_agents), mass / mass[-1], q))


@dataclass(frozen=True, eq=False)
class _Flow:
    minutes: float
    change: FloatArray  # (n,) price changes
    signed: FloatArray  # (n,) bought less sold
    volume: FloatArray  # (n,)
    last_price: float
    spread: float
    signed_by: str
    spread_from: str


def _regress(x: FloatArray, y: FloatArray) -> tuple[float, float, FloatArray]:
    """Return slope, its White t-statistic and the residuals of y on a constant and x; slope 0 if x is constant."""
    centred = x - x.mean()
    total = float(centred @ centred)
    if total == 0:
        return 0.0, 0.0, y - y.mean()
    slope = float(centred @ y) / total
    residual = y - y.mean() - slope * centred
    error = math.sqrt(float(((centred * residual) ** 2).sum())) / total
    return slope, slope / error if error > 0 else math.copysign(math.inf, slope), residual


def _positive(values: FloatArray, name: str) -> FloatArray:
    if values.size < _MIN_BINS:
        raise DataError(f"{values.size} rows", where=f"{_WHERE}.calibrate_crowding", hint=f"Give {_MIN_BINS} or more.")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(
            f"{name} has a missing, non-finite or non-positive value",
            where=f"{_WHERE}.calibrate_crowding",
            hint="Drop or repair the row.",
        )
    return values


def _tick(price: FloatArray) -> float:
    steps = np.abs(np.diff(price))
    return float(steps[steps > 0].min(initial=math.inf))


def _roll(price: FloatArray) -> float:
    """Return Roll's (1984) spread, 2 sqrt(-cov of successive changes), or 0 if the covariance is positive."""
    change = np.diff(price)
    return 2 * math.sqrt(max(0.0, -float(np.mean((change[1:] - change.mean()) * (change[:-1] - change.mean())))))


def _flow_of_trades(trades: pl.DataFrame, bin_minutes: float) -> _Flow:
    price = _positive(trades["price"].cast(pl.Float64).to_numpy(), "price")
    amount = _positive(trades["amount"].cast(pl.Float64).to_numpy(), "amount")
    time = trades["ts"].dt.epoch("us").to_numpy() / 60e6
    if np.any(np.diff(time) < 0):
        raise BadRequestError(
            "trades are not in order of time", where=f"{_WHERE}.calibrate_crowding", hint="Sort by ts."
        )
    # Tick rule: an unchanged price keeps the last direction.
    step = np.sign(np.diff(price, prepend=price[0]))
    last = np.maximum.accumulate(np.where(step != 0, np.arange(step.size), 0))
    sign, signed_by = step[last], "tick_rule"
    if "side" in trades.columns and trades["side"].null_count() < trades.height:
        side = trades["side"].cast(pl.String)
        known = side.is_not_null().to_numpy()
        sign = np.where(known, np.where((side == "buy").fill_null(value=False).to_numpy(), 1.0, -1.0), sign)
        signed_by = "taker_side"
    # Neighbours of opposite sides differ by the spread, up to the move between them; the median sheds the moves.
    turned = (sign[1:] != sign[:-1]) & (sign[1:] * sign[:-1] != 0)
    gap = (np.diff(price) * sign[1:])[turned]
    opposite = float(np.median(gap)) if signed_by == "taker_side" and gap.size >= _MIN_WINDOWS else 0.0
    spread, spread_from = _first_positive(
        ("opposite_trades", opposite),
        ("roll", _roll(price) if signed_by == "tick_rule" else 0.0),
        ("tick", _tick(price)),
    )

    # Intervals are counted back from the last trade, so that the last one is whole.
    back = ((time[-1] - time) / bin_minutes).astype(np.int64)
    n = int((time[-1] - time[0]) / bin_minutes)
    if n < _MIN_BINS:
        raise DataError(
            f"{n} whole intervals of {bin_minutes:g} minutes",
            where=f"{_WHERE}.calibrate_crowding",
            hint=f"Give {_MIN_BINS} or more.",
        )
    inside = back < n
    index = n - 1 - back[inside]
    signed: FloatArray = np.bincount(index, (sign * amount)[inside], n).astype(np.float64)
    volume: FloatArray = np.bincount(index, amount[inside], n).astype(np.float64)
    # The price at the end of each interval: of the last trade before it.
    ends = time[-1] - bin_minutes * np.arange(n, -1, -1)
    close = price[np.maximum(np.searchsorted(time, ends, side="right") - 1, 0)]
    return _Flow(bin_minutes, np.diff(close), signed, volume, float(price[-1]), spread, signed_by, spread_from)


def _flow_of_bars(bars: pl.DataFrame, horizon_minutes: float) -> _Flow:
    close = _positive(bars["close"].cast(pl.Float64).to_numpy(), "close")
    volume = bars["volume"].cast(pl.Float64).to_numpy()
    time = bars["ts"].dt.epoch("us").to_numpy() / 60e6
    gaps = np.diff(time)
    minutes = float(np.median(gaps))
    where = f"{_WHERE}.calibrate_crowding"
    if gaps.min() <= 0:
        raise BadRequestError("bars are not in order of time", where=where, hint="Sort by ts, one row per bar.")
    if minutes > horizon_minutes:
        raise BadRequestError(
            f"bars of {minutes:g} minutes for a horizon of {horizon_minutes:g}",
            where=where,
            hint="Use shorter bars or a longer horizon.",
        )
    if not (np.isfinite(volume).all() and (volume >= 0).all() and volume.sum() > 0):
        raise DataError("volume has a missing or negative value, or is all zero", where=where, hint="Repair it.")
    whole = np.isclose(gaps, minutes)  # a change over a gap belongs to no single interval
    change, traded = np.diff(close)[whole], volume[1:][whole]
    if change.size < _MIN_BINS:
        raise DataError(f"{change.size} consecutive bars", where=where, hint=f"Give {_MIN_BINS} or more.")
    if "buy_volume" in bars.columns and bars["buy_volume"].null_count() == 0:
        signed = 2 * bars["buy_volume"].cast(pl.Float64).to_numpy()[1:][whole] - traded
        signed_by = "buy_volume"
    else:
        from scipy.special import ndtr

        scale = float(change.std()) or 1.0
        signed, signed_by = traded * (2 * ndtr(change / scale) - 1), "bulk"
    spread, spread_from = _first_positive(
        ("high_low", _abdi_ranaldo(bars, close)), ("roll", _roll(close)), ("tick", _tick(close))
    )
    return _Flow(minutes, change, signed, traded, float(close[-1]), spread, signed_by, spread_from)


def _abdi_ranaldo(bars: pl.DataFrame, close: FloatArray) -> float:
    """Return the spread after Abdi and Ranaldo (2017), 2 sqrt(E[(c_t - m_t)(c_t - m_(t+1))]) with mid-ranges m."""
    if not {"high", "low"} <= set(bars.columns):
        return 0.0
    high, low = (np.log(bars[name].cast(pl.Float64).to_numpy()) for name in ("high", "low"))
    middle, last = (high + low) / 2, np.log(close)
    product = float(np.mean((last[:-1] - middle[:-1]) * (last[:-1] - middle[1:])))
    return 2 * math.sqrt(max(0.0, product)) * float(close[-1])


def _first_positive(*candidates: tuple[str, float]) -> tuple[float, str]:
    for name, value in candidates:
        if 0 < value < math.inf:
            return value, name
    return 0.0, "none"
