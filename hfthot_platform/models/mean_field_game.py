"""Mean field game of trade crowding: how a crowd of optimal traders moves the price.

Model (Cardaliaguet and Lehalle, "Mean field game of controls and an application to trade crowding", 2018).  A
continuum of agents holds inventories q and trades at rates v over [0, T]:

    dq = v dt + nu dB,      dS = alpha * mu(t) dt + sigma dW,      mu(t) = mean of v over the agents,

and each maximises  E[ -int v S + kappa |v|^b + phi |q|^c dt  +  q_T S_T  -  A |q_T|^c ],  that is cash plus the
marked inventory, less temporary impact, running risk and terminal penalty.  Writing the value as
x + q S + V(t, q), the equilibrium is the pair

    -dV/dt = alpha q mu - phi |q|^c + sup_v { v dV/dq - kappa |v|^b } + nu^2/2 d2V/dq2,   V(T, q) = -A |q|^c,
     dm/dt = -d(m v*)/dq + nu^2/2 d2m/dq2,                                                m(0, .) given,
     mu(t) = int v*(t, q) m(t, q) dq,         v* = sign(dV/dq) (|dV/dq| / (kappa b))^(1/(b-1)).

Agents are risk-neutral in S, so sigma widens the price band and changes nothing else.

Scheme.  Implicit Euler in time, upwind in inventory, after Achdou and Capuzzo-Dolcetta (2010).  It is dynamic
programming for a Markov chain on the grid that jumps up at rate v+/h + nu^2/(2h^2) and down at rate
v-/h + nu^2/(2h^2) and pays kappa (v+^b + v-^b): monotone without a step restriction.  Each implicit step is solved
by Howard's policy iteration; the density then moves by the transpose of the very same matrix, through the same LU
factors, whose signs allow no cancellation.  Hence mass is conserved and the density stays non-negative by
construction; nothing is renormalised or clipped.

The only coupling is the path mu, so the equilibrium is a fixed point mu = F(mu) in as many unknowns as there are
time steps.  It is found by Newton's method, the linear system solved by GMRES with exact tangents of the scheme,
with step halving; fictitious play is available as an independent check.

The scheme is first order.  By default the aggregates (mean inventory, rate, price) are Richardson-extrapolated with
a solution on every second node, which makes them second order; density and value are those of the fine grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numba import njit

from hfthot_platform.errors import BadRequestError, DataError, NotConvergedError
from hfthot_platform.models.arrays import FloatArray, FloatLike

__all__ = [
    "ClosedForm",
    "InventoryDensity",
    "MeanFieldSolution",
    "TradeCrowding",
    "closed_form",
    "solve",
]

_WHERE: Final = "models.mean_field_game"
#: Two-sided 95 % quantile of the normal law.
_Z95: Final = 1.959963984540054
#: Width of the density that stands for a single initial inventory, as a fraction of it.
_NARROW: Final = 0.02
#: Room beyond the initial inventories and zero on the grid, as a fraction of their span.
_PAD: Final = 0.75
#: Nodes of the rough solution that finds how fast agents trade.
_PILOT: Final = 41
#: Probability of a node, over the largest, from which on its agents count.
_NOTICEABLE: Final = 1e-3


@dataclass(frozen=True, eq=False)
class InventoryDensity:
    """A probability density of inventories, piecewise linear between its nodes and zero outside.

    `inventory` (n,) strictly increasing, `density` (n,) non-negative; it is normalised on construction.

    Raises:
        BadRequestError: nodes not increasing, a negative or non-finite density, or no mass.
    """

    inventory: FloatArray
    density: FloatArray

    def __post_init__(self) -> None:
        """Validate and normalise."""
        q = np.array(self.inventory, dtype=np.float64)
        m = np.array(self.density, dtype=np.float64)
        good = q.ndim == 1 and q.shape == m.shape and q.size >= 2
        good = good and bool(np.isfinite(q).all() and np.isfinite(m).all() and (np.diff(q) > 0).all() and (m >= 0).all())
        mass = float(np.sum(np.diff(q) * (m[1:] + m[:-1]) / 2)) if good else 0.0
        if mass <= 0:
            raise BadRequestError(
                f"{q.size} nodes and {m.size} values do not form a density",
                where=f"{_WHERE}.InventoryDensity",
                hint="Give strictly increasing inventories and as many finite values >= 0, not all zero.",
            )
        object.__setattr__(self, "inventory", q)
        object.__setattr__(self, "density", m / mass)

    @classmethod
    def gaussian(cls, mean: float, std: float) -> InventoryDensity:
        """Return a normal density cut off at five standard deviations."""
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise BadRequestError(
                f"mean {mean}, std {std}", where=f"{_WHERE}.InventoryDensity.gaussian", hint="Give std > 0."
            )
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
        lowest = {
            "impact": 0.0,
            "running_penalty": 0.0,
            "terminal_penalty": 0.0,
            "volatility": 0.0,
            "inventory_noise": 0.0,
        }
        problems = [
            f"{name} = {getattr(self, name)!r} must be a finite number >= {low:g}"
            for name, low in lowest.items()
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= low)
        ]
        problems += [
            f"{name} = {getattr(self, name)!r} must be a finite number > 0"
            for name in ("temporary_cost", "horizon")
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0)
        ]
        if not 1 < self.cost_power <= 4:
            problems.append(f"cost_power = {self.cost_power!r} must be in (1, 4]")
        if not 1 <= self.penalty_power <= 4:
            problems.append(f"penalty_power = {self.penalty_power!r} must be in [1, 4]")
        if not isinstance(self.initial_inventory, InventoryDensity):
            if not math.isfinite(self.initial_inventory):
                problems.append(f"initial_inventory = {self.initial_inventory!r} must be finite")
            elif self.initial_inventory == 0:
                problems.append("initial_inventory = 0 has no scale; give an InventoryDensity around it")
        if problems:
            raise BadRequestError("; ".join(problems), where=f"{_WHERE}.TradeCrowding", hint="Correct the parameters.")

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


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """The exact mean-field path of a linear-quadratic game: arrays of the shape of `times`."""

    times: FloatArray
    mean_inventory: FloatArray
    mean_trading_rate: FloatArray
    #: alpha (E(t) - E(0)): the expected price less the initial one.
    price_path: FloatArray


@dataclass(frozen=True, eq=False)
class MeanFieldSolution:
    """An equilibrium on a grid of n_time by n_inventory nodes, with its diagnostics.

    Attributes:
        times: (n_time,), from 0 to T.
        inventories: (n_inventory,), uniform.
        mean_inventory: (n_time,), E(t); second order if `extrapolated`.
        mean_trading_rate: (n_time,), mu(t).
        price_path: (n_time,), expected price less the initial one, alpha (E(t) - E(0)).
        price_band: (n_time, 2), 95 % band of the price at each time, from the volatility.
        density: (n_time, n_inventory), m(t, q) per unit of inventory; sums to 1/h at each time, never normalised.
        value: (n_time, n_inventory), V(t, q), in price times inventory.
        trading_rate: (n_time, n_inventory), v*(t, q).
        hjb_residual: largest residual of the discrete HJB equation with the population's own rate mu, over the
            largest |dV/dt|.
        fokker_planck_residual: largest residual of the discrete Fokker-Planck equation, over the largest |dm/dt|.
        mass_error: largest |mass - 1| over time.
        boundary_mass: largest probability at the two end nodes over time; not small means the grid is too short.
        residuals: (iterations,), max |F(mu) - mu| over max |F(mu)| at each iteration.
        exploitability: (iterations,), what one agent gains by a best response to the population of that iteration,
            in price times inventory; zero at the equilibrium.
        iterations: outer iterations on the fine grid.
        converged: whether the last residual met the tolerance.
        extrapolated: whether the aggregates are Richardson-extrapolated.
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
    if not game.is_linear_quadratic:
        raise BadRequestError(
            f"cost_power {game.cost_power:g}, penalty_power {game.penalty_power:g}",
            where=f"{_WHERE}.closed_form",
            hint="Only powers of 2 have a closed form; use solve().",
        )
    horizon, start = game.horizon, game.mean_initial_inventory
    t = np.linspace(0.0, horizon, 101) if times is None else np.asarray(times, dtype=np.float64)
    if t.size and not (t.min() >= 0 and t.max() <= horizon * (1 + 1e-12)):
        raise BadRequestError(
            f"times from {t.min():g} to {t.max():g}", where=f"{_WHERE}.closed_form", hint=f"Stay in [0, {horizon:g}]."
        )
    kappa, terminal = game.temporary_cost, game.terminal_penalty
    middle = -game.impact / (4 * kappa)
    gap = math.sqrt(kappa * game.running_penalty + game.impact**2 / 16) / kappa
    if gap == 0:  # no interaction, no running penalty: a straight line
        slope = -start * terminal / (kappa + terminal * horizon)
        return _closed_form(game, t, start + slope * t, np.full_like(t, slope))
    up, down = middle + gap, middle - gap
    # up = phi / (kappa * gap - kappa * middle) without the cancellation of middle + gap.
    up = game.running_penalty / (kappa * (gap - middle))
    if kappa * up + terminal == 0:  # nothing pushes the inventory: nobody trades
        return _closed_form(game, t, np.full_like(t, start), np.zeros_like(t))
    # E = c2 (exp(down t) - w exp(down T - up (T - t))): every exponent is <= 0 up to the growing mode's own size.
    weight = (kappa * down + terminal) / (kappa * up + terminal)
    scale = start / (1 - weight * math.exp((down - up) * horizon))
    decaying, growing = np.exp(down * t), np.exp(down * horizon - up * (horizon - t))
    mean = scale * (decaying - weight * growing)
    rate = scale * (down * decaying - weight * up * growing)
    return _closed_form(game, t, mean, rate)


def _closed_form(game: TradeCrowding, times: FloatArray, mean: FloatArray, rate: FloatArray) -> ClosedForm:
    return ClosedForm(times, mean, rate, game.impact * (mean - game.mean_initial_inventory))


def solve(
    game: TradeCrowding,
    n_inventory: int = 101,
    n_time: int = 101,
    *,
    method: Literal["newton", "fictitious_play"] = "newton",
    tolerance: float = 1e-10,
    max_iterations: int | None = None,
    extrapolate: bool = True,
    inventory_range: tuple[float, float] | None = None,
) -> MeanFieldSolution:
    """Return the equilibrium of a game on a uniform grid.

    Args:
        game: the parameters.
        n_inventory: nodes in inventory, odd and at least 11.
        n_time: nodes in time, odd and at least 11.
        method: `newton`, or `fictitious_play` (every agent answers the average of all past populations; slow, about
            1/iterations, but each of its steps is one of learning agents).
        tolerance: on max |F(mu) - mu| over max |F(mu)|.
        max_iterations: 30 for Newton, 1000 for fictitious play by default.
        extrapolate: whether to make the aggregates second order with a second solution on every second node.
        inventory_range: first and last node; by default the initial inventories and zero, with a quarter of their
            span (and five standard deviations of the inventory noise) beyond.

    Returns:
        The solution; `converged` is False, with the history in `residuals`, if the tolerance was not met.

    Raises:
        BadRequestError: a grid that is even, too small or does not hold the initial density.
        NotConvergedError: the iteration left the finite numbers.
    """
    for name, nodes in (("n_inventory", n_inventory), ("n_time", n_time)):
        if nodes < 11 or nodes % 2 == 0:
            raise BadRequestError(
                f"{name} = {nodes}", where=f"{_WHERE}.solve", hint="Give an odd number of nodes, 11 or more."
            )
    limit = max_iterations or (30 if method == "newton" else 1000)
    iterate = _newton if method == "newton" else _fictitious_play
    low, high = inventory_range or _default_range(game)
    fastest = _fastest_speed(game, low, high)
    fine = _Grid(game, low, high, n_inventory, n_time, fastest)
    start = np.zeros(n_time - 1)
    if not extrapolate:
        return _solution(fine, iterate(fine, start, tolerance, limit), tolerance)
    coarse = _Grid(game, low, high, n_inventory // 2 + 1, n_time // 2 + 1, fastest)
    rough = iterate(coarse, np.zeros(n_time // 2), tolerance, limit)
    # The coarse equilibrium is a good start for Newton; fictitious play has its own.
    start = np.repeat(rough.rate, 2) if method == "newton" else start
    return _solution(fine, iterate(fine, start, tolerance, limit), tolerance, _solution(coarse, rough, tolerance))


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
    speed = np.full(_PILOT, 4 * (high - low) / game.horizon)
    rate = np.zeros(_PILOT - 1)
    for _ in range(12):
        grid = _Grid(game, low, high, _PILOT, _PILOT, speed)
        found = _newton(grid, rate, 1e-2, 10)
        rate, mass = found.rate, found.response.mass
        wanted = np.abs(grid.wanted_speed(found.response.value))
        here = np.where(mass > _NOTICEABLE * mass.max(axis=1, keepdims=True), wanted, 0.0).max(axis=1)
        # Neighbouring times count too, because the bound is interpolated to other grids.
        padded = np.concatenate([here[:1], here, here[-1:]])
        needed = np.maximum(np.maximum(padded[:-2], padded[2:]), here)
        if (needed <= speed).all() and speed.sum() <= 1.5 * needed.sum():
            break
        speed = np.maximum(1.25 * needed, max(0.02 * float(needed.max()), np.finfo(float).tiny))
    return speed


class _Grid:
    """A game on a grid: everything the compiled sweeps need, and the sweeps with their arguments bound."""

    def __init__(
        self, game: TradeCrowding, low: float, high: float, n_inventory: int, n_time: int, fastest: FloatArray
    ) -> None:
        self.game = game
        self.q = np.linspace(low, high, n_inventory)
        self.h = (high - low) / (n_inventory - 1)
        self.times = np.linspace(0.0, game.horizon, n_time)
        self.dt = game.horizon / (n_time - 1)
        size = np.abs(self.q) ** game.penalty_power
        self.running = -game.running_penalty * size
        self.terminal = -game.terminal_penalty * size
        self.noise = game.inventory_noise**2 / 2
        # Of step n, which acts on [t_n, t_(n+1)].
        cap = np.interp(self.times[:-1], np.linspace(0.0, game.horizon, fastest.size), fastest)
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
        nodes = np.bincount(cell, weights * (1 - part), self.q.size)
        return nodes + np.bincount(cell + 1, weights * part, self.q.size)

    def respond(self, rate: FloatArray) -> _Response:
        """Return the best response to a population trading at `rate` (n_time - 1,), and what it leads to."""
        game = self.game
        value, speed, up, down, diag, low, worst = _hjb(
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
        mass = _fokker_planck(self.initial, self.dt, up, diag, low)
        return _Response(value, speed, up, down, diag, low, mass, (speed * mass[1:]).sum(axis=1))

    def payoff(self, response: _Response, rate: FloatArray) -> float:
        """Return what the strategy of `response` earns, on average over the agents, against `rate`."""
        game, mass = self.game, response.mass[1:]
        trading = game.temporary_cost * np.abs(response.speed) ** game.cost_power
        reward = game.impact * rate * (mass @ self.q) + (mass * (self.running - trading)).sum(axis=1)
        return float(self.dt * reward.sum() + response.mass[-1] @ self.terminal)

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
            return free / (2 * self.game.temporary_cost)
        return np.where(free, pace / (np.maximum(p, floor) * (self.game.cost_power - 1)), 0.0)


@dataclass(frozen=True, eq=False)
class _Response:
    value: FloatArray  # (n_time, n_inventory)
    speed: FloatArray  # (n_time - 1, n_inventory), v; the control of step n acts on [t_n, t_(n+1)]
    up: FloatArray  # the same: rates of the jumps up,
    down: FloatArray  # and down
    diag: FloatArray  # the same: U's diagonal of the step's matrix
    low: FloatArray  # the same: L's subdiagonal
    mass: FloatArray  # (n_time, n_inventory), probabilities
    mean_rate: FloatArray  # (n_time - 1,)


@dataclass(frozen=True, eq=False)
class _Equilibrium:
    rate: FloatArray  # the rate that the value function was computed against
    response: _Response
    residuals: list[float]
    exploitability: list[float]


def _gap(target: FloatArray, rate: FloatArray) -> float:
    """Return max |target - rate| relative to the larger of the two; 0 if nobody trades."""
    scale = max(float(np.abs(target).max()), float(np.abs(rate).max()))
    return float(np.abs(target - rate).max()) / scale if scale > 0 else 0.0


def _newton(grid: _Grid, rate: FloatArray, tolerance: float, limit: int) -> _Equilibrium:
    """Solve mu = F(mu) by Newton-GMRES, halving a step that does not reduce the residual."""
    from scipy.sparse.linalg import LinearOperator, gmres

    response = grid.respond(rate)
    residuals, gains = [], []
    for _ in range(limit):
        residual = _gap(response.mean_rate, rate)
        residuals.append(residual)
        best = grid.respond(response.mean_rate)
        gains.append(float(grid.initial @ best.value[0]) - grid.payoff(response, response.mean_rate))
        if residual <= tolerance:
            break
        slope = grid.responsiveness(response)

        def apply(step: Any, response: _Response = response, slope: FloatArray = slope) -> FloatArray:
            step = np.ascontiguousarray(step, dtype=np.float64).ravel()
            moved: FloatArray = step - _tangent(
                step,
                grid.q,
                grid.h,
                grid.dt,
                grid.game.impact,
                response.speed,
                slope,
                response.up,
                response.diag,
                response.low,
                response.mass,
            )
            return moved

        n = rate.size
        step, _ = gmres(
            LinearOperator((n, n), matvec=apply, dtype=np.float64),
            response.mean_rate - rate,
            rtol=min(1e-3, max(residual, 1e-6)),
            restart=min(n, 60),
            maxiter=2,
        )
        # Plain Picard is the last resort: its step is the residual itself, always finite.
        trials = [*(rate + step * 0.5**k for k in range(5)), rate + 0.1 * (response.mean_rate - rate)]
        for trial in trials:
            answer = grid.respond(trial)
            if _gap(answer.mean_rate, trial) < residual:
                break
        rate, response = trial, answer
    return _Equilibrium(rate, response, residuals, gains)


def _fictitious_play(grid: _Grid, rate: FloatArray, tolerance: float, limit: int) -> _Equilibrium:
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
        residuals.append(_gap(response.mean_rate, rate))
        average = cost + grid.dt * grid.game.impact * float(rate @ exposure)
        gains.append(float(grid.initial @ response.value[0]) - average)
        if residuals[-1] <= tolerance:
            break
    return _Equilibrium(rate, response, residuals, gains)


def _solution(
    grid: _Grid, found: _Equilibrium, tolerance: float, coarse: MeanFieldSolution | None = None
) -> MeanFieldSolution:
    """Package an equilibrium: residuals from the equations themselves, aggregates extrapolated if `coarse`."""
    game, response = grid.game, found.response
    value, mass = response.value, response.mass
    hjb, fokker_planck = _equation_residuals(grid, response)
    policy = np.vstack([response.speed, grid.wanted_speed(value[-1:])])
    mean = mass @ grid.q
    rate = (mass * policy).sum(axis=1)
    if coarse is not None:
        mean = mean + _refine(mean[::2] - coarse.mean_inventory)
        rate = rate + _refine(rate[::2] - coarse.mean_trading_rate)
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
        hjb_residual=hjb,
        fokker_planck_residual=fokker_planck,
        mass_error=float(np.abs(mass.sum(axis=1) - 1).max()),
        boundary_mass=float(mass[:, [0, -1]].max()),
        residuals=np.array(found.residuals),
        exploitability=np.array(found.exploitability),
        iterations=len(found.residuals),
        converged=bool(found.residuals[-1] <= tolerance) and (coarse is None or coarse.converged),
        extrapolated=coarse is not None,
    )


def _refine(difference: FloatArray) -> FloatArray:
    """Return a difference on every second time at all times; linear is enough, it is itself of first order."""
    fine = np.empty(2 * difference.size - 1)
    fine[::2] = difference
    fine[1::2] = (difference[1:] + difference[:-1]) / 2
    return fine


def _equation_residuals(grid: _Grid, response: _Response) -> tuple[float, float]:
    """Return the relative residuals of the two discrete equations, written out afresh, without the solver's parts."""
    game, h, value, after = grid.game, grid.h, response.value, response.mass[1:]
    p = grid.slope(value[:-1])
    speed = np.clip(
        grid.wanted_speed(value[:-1]), -2 * grid.viscosity[:, None] / h, 2 * grid.viscosity[:, None] / h
    )
    gain = speed * p - game.temporary_cost * np.abs(speed) ** game.cost_power
    spread = np.repeat(grid.viscosity[:, None], value.shape[1], axis=1)
    spread[:, [0, -1]] = grid.noise
    step = np.diff(value[:-1], axis=1) / h**2
    curvature = np.pad(step, ((0, 0), (0, 1))) - np.pad(step, ((0, 0), (1, 0)))
    source = game.impact * response.mean_rate[:, None] * grid.q + grid.running
    change = np.diff(value, axis=0) / grid.dt
    hjb = np.abs(change + source + gain + spread * curvature).max() / max(np.abs(change).max(), np.finfo(float).tiny)

    # Probability flux from node i to i + 1, less that from i + 1 to i: half the drift inside, all of it at an end.
    part = np.full(value.shape[1], 0.5)
    part[[0, -1]] = 1.0
    rising = after * (spread / h**2 + part * speed / h)
    falling = after * (spread / h**2 - part * speed / h)
    flux = rising[:, :-1] - falling[:, 1:]
    divergence = np.pad(flux, ((0, 0), (0, 1))) - np.pad(flux, ((0, 0), (1, 0)))
    change = np.diff(response.mass, axis=0) / grid.dt
    scale = max(np.abs(change).max(), np.finfo(float).tiny)
    return float(hjb), float(np.abs(change + divergence).max() / scale)


# --- compiled sweeps ------------------------------------------------------------------------------------------
# The matrix of a step, B = I - dt G with the chain's generator G, is tridiagonal:
#   B[i, i-1] = -dt down[i],  B[i, i+1] = -dt up[i],  B[i, i] = 1 - (the two others),
# an M-matrix.  B = L U with unit lower L (subdiagonal `low` <= 0) and upper U (diagonal `diag` > 0).


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _up(v: float, i: int, n: int, h: float, viscosity: float, noise: float) -> float:
    """Return the jump rate from node i to i + 1."""
    if i == n - 1:
        return 0.0
    return v / h + noise / (h * h) if i == 0 else (viscosity / h + 0.5 * v) / h


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _down(v: float, i: int, n: int, h: float, viscosity: float, noise: float) -> float:
    """Return the jump rate from node i to i - 1."""
    if i == 0:
        return 0.0
    return -v / h + noise / (h * h) if i == n - 1 else (viscosity / h - 0.5 * v) / h


@njit(cache=True, nogil=True, error_model="numpy")
def _hjb(
    rate: FloatArray,
    viscosity: FloatArray,
    noise: float,
    q: FloatArray,
    h: float,
    dt: float,
    running: FloatArray,
    terminal: FloatArray,
    impact: float,
    kappa: float,
    power: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Sweep the HJB equation backward; return V, v, jump rates, the LU factors, and max |V| (NaN if it failed)."""
    steps, n = rate.size, q.size
    value = np.empty((steps + 1, n))
    speed = np.zeros((steps, n))
    up, down = np.zeros((steps, n)), np.zeros((steps, n))
    diag, low = np.empty((steps, n)), np.zeros((steps, n))
    w, y = np.empty(n), np.empty(n)
    value[steps] = terminal
    quadratic = power == 2.0
    exponent = 1.0 / (power - 1.0)
    unit = 1.0 / (kappa * power)
    size = np.abs(terminal).max()
    for k in range(steps - 1, -1, -1):
        later = value[k + 1]
        w[:] = later
        v, a, b, d, lo = speed[k], up[k], down[k], diag[k], low[k]
        cap = 2.0 * viscosity[k] / h
        change = np.inf
        for _ in range(60):
            # Howard: the best controls for w, then the value of these controls.  Convergence is quadratic, so at the
            # break they are optimal to rounding, and value, controls and factors belong to each other exactly.
            if change <= 1e-12 * size:
                break
            for i in range(n):
                if i == 0:
                    p = max(0.0, (w[1] - w[0]) / h)
                elif i == n - 1:
                    p = min(0.0, (w[n - 1] - w[n - 2]) / h)
                else:
                    p = 0.5 * (w[i + 1] - w[i - 1]) / h
                pace = abs(p) * unit if quadratic else (abs(p) * unit) ** exponent
                pace = min(pace, cap)
                v[i] = pace if p > 0 else -pace
                a[i] = _up(v[i], i, n, h, viscosity[k], noise)
                b[i] = _down(v[i], i, n, h, viscosity[k], noise)
                cost = pace * pace if quadratic else pace**power
                right = later[i] + dt * (running[i] + impact * q[i] * rate[k] - kappa * cost)
                if i == 0:
                    d[0] = 1.0 + dt * a[0]
                    y[0] = right
                else:
                    before = d[i - 1]
                    lo[i] = -dt * b[i] / before
                    # 1 + dt (a + b) + lo dt a[i-1], written without a subtraction of nearly equal numbers.
                    d[i] = 1.0 + dt * a[i] + dt * b[i] * ((before - dt * a[i - 1]) / before)
                    y[i] = right - lo[i] * y[i - 1]
            change = 0.0
            for i in range(n - 1, -1, -1):
                x = y[i] / d[i] if i == n - 1 else (y[i] + dt * a[i] * y[i + 1]) / d[i]
                y[i] = x
                change = max(change, abs(x - w[i]))
                w[i] = x
                size = max(size, abs(x))
        value[k] = w
        if not np.isfinite(w.sum()) or change > 1e-6 * size:
            return value, speed, up, down, diag, low, np.nan
    return value, speed, up, down, diag, low, size


@njit(cache=True, nogil=True, error_model="numpy")
def _fokker_planck(initial: FloatArray, dt: float, up: FloatArray, diag: FloatArray, low: FloatArray) -> FloatArray:
    """Sweep the Fokker-Planck equation forward: B' m(n+1) = m(n), with the factors of the HJB sweep."""
    steps, n = up.shape
    mass = np.empty((steps + 1, n))
    mass[0] = initial
    for k in range(steps):
        _solve_transposed(dt, up[k], diag[k], low[k], mass[k], mass[k + 1])
    return mass


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_transposed(
    dt: float, up: FloatArray, diag: FloatArray, low: FloatArray, right: FloatArray, out: FloatArray
) -> None:
    n = right.size
    out[0] = right[0] / diag[0]
    for i in range(1, n):
        out[i] = (right[i] + dt * up[i - 1] * out[i - 1]) / diag[i]
    for i in range(n - 2, -1, -1):
        out[i] -= low[i + 1] * out[i + 1]


@njit(cache=True, nogil=True, error_model="numpy")
def _tangent(
    step: FloatArray,
    q: FloatArray,
    h: float,
    dt: float,
    impact: float,
    speed: FloatArray,
    slope: FloatArray,
    up: FloatArray,
    diag: FloatArray,
    low: FloatArray,
    mass: FloatArray,
) -> FloatArray:
    """Return F'(mu) step: the two sweeps, linearised around an iterate (the controls' optimality drops them)."""
    steps, n = up.shape
    dspeed = np.zeros((steps, n))
    dv, y = np.zeros(n), np.empty(n)
    for k in range(steps - 1, -1, -1):
        for i in range(n):
            right = dv[i] + dt * impact * q[i] * step[k]
            y[i] = right if i == 0 else right - low[k, i] * y[i - 1]
        dv[n - 1] = y[n - 1] / diag[k, n - 1]
        for i in range(n - 2, -1, -1):
            dv[i] = (y[i] + dt * up[k, i] * dv[i + 1]) / diag[k, i]
        dspeed[k, 0] = slope[k, 0] * (dv[1] - dv[0]) / h
        dspeed[k, n - 1] = slope[k, n - 1] * (dv[n - 1] - dv[n - 2]) / h
        for i in range(1, n - 1):
            dspeed[k, i] = slope[k, i] * 0.5 * (dv[i + 1] - dv[i - 1]) / h
    out = np.empty(steps)
    dm, right_side = np.zeros(n), np.empty(n)
    for k in range(steps):
        after = mass[k + 1]
        right_side[:] = dm
        for i in range(n):
            # The probability that the change of speed moves: half up, half down inside, all of it at an end.
            moved = dt / h * dspeed[k, i] * after[i]
            if i == 0:
                right_side[0] -= moved
                right_side[1] += moved
            elif i == n - 1:
                right_side[n - 1] += moved
                right_side[n - 2] -= moved
            else:
                right_side[i + 1] += 0.5 * moved
                right_side[i - 1] -= 0.5 * moved
        _solve_transposed(dt, up[k], diag[k], low[k], right_side, dm)
        total = 0.0
        for i in range(n):
            total += dm[i] * speed[k, i] + after[i] * dspeed[k, i]
        out[k] = total
    return out
