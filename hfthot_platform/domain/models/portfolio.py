"""Portfolios: mean-variance under constraints (CARA), risk parity, sparse; and the moments that they start from.

Three problems, with mu (n,) expected returns and S (n, n) covariance of one and the same period:

- CARA investor with risk aversion gamma (exponential utility of normal returns):
      max  mu'w - gamma/2 w'S w - cost |w - w0|_1     within `Constraints`,
  a quadratic programme, set up once in cvxpy and re-solved for new mu (`MeanVariance`); also for a target return.
- Risk parity with budgets b (Maillard, Roncalli and Teiletche 2010; Spinu 2013): w_i (S w)_i / w'S w = b_i.  The
  unique positive solution is the normalised minimiser of the convex  y'S y / 2 - sum b_i log y_i,  found by cyclical
  coordinate descent (Griveau-Billion, Richard and Roncalli 2013), exact in each coordinate, while that is quick, and
  else by Newton's method with exact line searches, which converges for every positive definite S.
- Sparse: min  w'S w / 2 - mu'w + rho max|mu| |w|_1,  signed and free in the sum, then scaled to |w|_1 = 1.  (With
  w >= 0 and sum w = 1 the L1 norm is constant and would do nothing.)

Every result carries its KKT residual: the largest violation of stationarity, of a constraint, of a multiplier's sign
or of complementarity, relative to the problem's own scale.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import array, choice, number, symbol_names, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike
from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import BadRequestError, DataError, InfeasibleError, NotConvergedError, nearest

__all__ = [
    "AlignedReturns",
    "Allocation",
    "Constraints",
    "Group",
    "MeanVariance",
    "Moments",
    "align_returns",
    "cara",
    "estimate_moments",
    "risk_parity",
    "sparse",
]

_WHERE: Final = "models.portfolio"
#: Weights that a portfolio prints.
_SHOWN: Final = 10
#: A KKT residual up to this is called optimal.
_OPTIMAL: Final = 1e-7
#: Correlations may differ by this across the diagonal; single-precision covariances do.
_ASYMMETRY: Final = 1e-6
_CLARABEL: Final = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}

Status = Literal["optimal", "approximate"]


# --- moments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AlignedReturns:
    """Simple returns of several symbols on common days.

    `dates` (T,) of the end of each return, `symbols` (n,), `returns` (T, n), `dropped`: symbol and why.
    """

    dates: tuple[date | datetime, ...]
    symbols: tuple[str, ...]
    returns: FloatArray
    dropped: dict[str, str] = field(default_factory=dict)


def align_returns(closes: pl.DataFrame, *, min_coverage: float = 0.95) -> AlignedReturns:
    """Bring closes in long form to common days and return simple returns.

    Symbols present on fewer than `min_coverage` of all days are dropped; then days on which a remaining symbol is
    missing.  Nothing is filled forward: a stale price would look like a return of zero.

    Args:
        closes: `symbol`, `close` and `date` (market.closes) or `ts` (market.bars of one interval).
        min_coverage: in (0, 1].

    Raises:
        BadRequestError: columns are missing or a symbol has two closes at one time.
        DataError: a close is not positive, or fewer than two common days or no symbol remain.
    """
    where = f"{_WHERE}.align_returns"
    time = "date" if "date" in closes.columns else "ts"
    if not {time, "symbol", "close"} <= set(closes.columns):
        raise BadRequestError(f"columns {closes.columns}", where=where, hint="Give symbol, close and date (or ts).")
    number(min_coverage, "min_coverage", where, above=0, most=1)
    rows = closes.select(time, pl.col("symbol").cast(pl.String), pl.col("close").cast(pl.Float64)).drop_nulls("close")
    if rows.select(time, "symbol").is_duplicated().any():
        raise BadRequestError(
            "a symbol has two closes at one time", where=where, hint="Filter to one venue and one interval."
        )
    if rows.height == 0 or not rows.select((pl.col("close").is_finite() & (pl.col("close") > 0)).all()).item():
        raise DataError("no closes, or a close that is not positive", where=where, hint="Repair the prices.")
    wide = rows.pivot(on="symbol", index=time, values="close").sort(time)
    names = sorted(name for name in wide.columns if name != time)
    present = {name: 1 - wide[name].null_count() / wide.height for name in names}
    kept = [name for name in names if present[name] >= min_coverage]
    dropped = {
        name: f"present on {present[name]:.1%} of {wide.height} days" for name in names if present[name] < min_coverage
    }
    common = wide.select(time, *kept).drop_nulls()
    if not kept or common.height < 2:
        raise DataError(
            f"{common.height} common days of {len(kept)} symbols",
            where=where,
            hint="Use a shorter span, fewer symbols, or another min_coverage.",
        )
    prices = common.select(kept).to_numpy()
    return AlignedReturns(tuple(common[time].to_list()[1:]), tuple(kept), prices[1:] / prices[:-1] - 1, dropped)


CovarianceMethod = Literal["ledoit_wolf", "sample", "ewma"]
MeanMethod = Literal["bayes_stein", "sample", "zero"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Estimated mean (n,) and covariance (n, n) per period of the returns, and how they came about.

    Attributes:
        mean: expected returns.
        covariance: symmetric positive definite.
        observations: rows used (the effective number for `ewma`).
        covariance_shrinkage: weight of the Ledoit-Wolf target (no correlation), 0 for the other methods.
        mean_shrinkage: weight of the common mean.
        condition_number: of the covariance.
        repaired: whether small eigenvalues had to be raised.
    """

    mean: FloatArray
    covariance: FloatArray
    observations: float
    covariance_shrinkage: float
    mean_shrinkage: float
    condition_number: float
    repaired: bool


def estimate_moments(
    returns: FloatLike,
    *,
    covariance: CovarianceMethod = "ledoit_wolf",
    mean: MeanMethod = "bayes_stein",
    halflife: float = 60.0,
) -> Moments:
    """Estimate what the portfolios start from.

    Covariance: `ledoit_wolf` (2004; scikit-learn's, well conditioned at any length), `sample`, or `ewma` with the
    given half-life in periods.  Ledoit-Wolf is applied to the returns over their standard deviations, so that it
    shrinks the correlations and leaves the variances alone: shrunk to a multiple of the identity, the variance of a
    bill or a stablecoin among stocks would come out many times too large.  The other two are singular for histories
    shorter than the number of assets: eigenvalues of the correlations below 1e-8 of the largest are then raised to
    that, the variances restored by scaling, and `repaired` is set.  All three therefore follow the unit of each asset.

    Means: `bayes_stein` (Jorion 1986) shrinks the sample means to the return of the minimum-variance portfolio by
    (n + 2) / (n + 2 + T d), d the squared Mahalanobis distance between the two; `sample`; `zero`.

    Args:
        returns: (T, n), T >= 20, finite, no constant column.
        covariance: method.
        mean: method.
        halflife: > 0, long enough for an effective number of two observations.

    Raises:
        BadRequestError: an unknown method or a bad half-life.
        DataError: too few rows, NaN or infinity, a constant column, or numbers too large or small for a variance.
    """
    where = f"{_WHERE}.estimate_moments"
    choice(covariance, "covariance", where, get_args(CovarianceMethod))
    choice(mean, "mean", where, get_args(MeanMethod))
    number(halflife, "halflife", where, above=0)
    x = array(returns, "returns", where, shape=(None, None))
    t, n = x.shape
    if t < 20 or n == 0:
        raise DataError(f"returns of shape {x.shape}", where=where, hint="Give (T, n) with T of 20 or more.")
    weights = (1.0 if covariance != "ewma" else 0.5 ** (1 / halflife)) ** np.arange(t - 1, -1, -1.0)
    weights /= weights.sum()
    observations = 1 / float(weights @ weights)
    if observations < 2:
        raise BadRequestError(
            f"halflife = {halflife:g} leaves {observations:.2g} effective observations", where=where, hint="Raise it."
        )
    with np.errstate(all="ignore"):  # what overflows is caught below
        average = weights @ x
        centred = x - average
        deviation = np.sqrt(weights @ centred**2)
        flat = np.flatnonzero((np.ptp(x, axis=0) == 0) | ~(deviation > np.finfo(float).eps * np.abs(average)))
        if flat.size:
            raise DataError(f"column {flat[0]} is constant", where=where, hint="Drop the asset.")
        # Correlations: whatever is done to them follows the unit of each asset.
        unit = centred / deviation
        shrinkage, repaired = 0.0, False
        if covariance == "ledoit_wolf":
            from sklearn.covariance import ledoit_wolf

            _require_finite(unit, where)
            correlation, shrinkage = ledoit_wolf(unit, assume_centered=True)
        else:
            deviation = deviation / math.sqrt(1 - 1 / observations)
            correlation = unit.T @ (unit * weights[:, None])
            _require_finite(correlation, where)
            correlation, repaired = _raise_eigenvalues(correlation)
        matrix = correlation * deviation * deviation[:, None]
        matrix = (matrix + matrix.T) / 2
        _require_finite(matrix, where)
        if np.diag(matrix).min() < np.finfo(float).tiny:
            raise DataError(f"column {np.diag(matrix).argmin()} is constant", where=where, hint="Drop the asset.")
        pull = float(mean == "zero")
        if mean == "zero":
            average = np.zeros(n)
        elif mean == "bayes_stein":
            average, pull = _bayes_stein(average, matrix, observations)
        values = np.linalg.eigvalsh(matrix)
        if values[0] <= 0:
            # Where volatilities lie eight orders of magnitude apart, only a bound is free of rounding (Ostrowski).
            values[0] = np.linalg.eigvalsh(correlation)[0] * np.diag(matrix).min()
        condition = float(values[-1] / values[0])
    if not (condition > 0 and math.isfinite(pull) and np.isfinite(average).all()):
        raise DataError(
            f"the covariance is singular to working precision (eigenvalues {values[0]:.3g} to {values[-1]:.3g})",
            where=where,
            hint="Drop duplicates and assets of negligible volatility, or use ledoit_wolf.",
        )
    return Moments(average, matrix, observations, float(shrinkage), pull, condition, repaired=repaired)


def _require_finite(matrix: FloatArray, where: str) -> None:
    if not np.isfinite(matrix).all():
        bad = int(np.argwhere(~np.isfinite(matrix))[0][1])
        raise DataError(
            f"the variance of column {bad} is out of range", where=where, hint="Give returns, such as 0.01 for 1 %."
        )


def _raise_eigenvalues(correlation: FloatArray) -> tuple[FloatArray, bool]:
    values, vectors = np.linalg.eigh(correlation)
    floor = 1e-8 * values[-1]
    if values[0] >= floor:
        return correlation, False
    raised = (vectors * np.maximum(values, floor)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(raised))
    return raised * scale * scale[:, None], True


def _bayes_stein(average: FloatArray, matrix: FloatArray, observations: float) -> tuple[FloatArray, float]:
    n = average.size
    solved = np.linalg.solve(matrix, np.column_stack([np.ones(n), average]))
    common = float(solved[:, 1].sum() / solved[:, 0].sum())
    distance = float((average - common) @ (solved[:, 1] - common * solved[:, 0]))
    pull = (n + 2) / (n + 2 + observations * distance)
    return (1 - pull) * average + pull * common, pull


# --- the result and its constraints -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Allocation(Displayed):
    """A portfolio with its diagnostics.

    Attributes:
        method: `cara`, `minimum_variance`, `risk_parity` or `sparse`.
        weights: (n,), in the order of the inputs.
        symbols: (n,), where given.
        expected_return: mu'w per period; None without mu.
        volatility: sqrt(w'S w) per period.
        risk_contributions: (n,), w_i (S w)_i / w'S w, summing to 1 (zeros for an empty portfolio).
        kkt_residual: relative violation of the optimality conditions; see the module.
        status: `optimal` if that is at most 1e-7, else `approximate`.
        turnover: sum of |w - previous|, previous weights being zero where not given.
        cost: turnover times the cost per unit.
        iterations: of the solver.
    """

    method: str
    weights: FloatArray
    symbols: tuple[str, ...] | None
    expected_return: float | None
    volatility: float
    risk_contributions: FloatArray
    kkt_residual: float
    status: Status
    turnover: float
    cost: float
    iterations: int

    def __str__(self) -> str:
        rows = self.to_frame().filter(pl.col("weight") != 0)
        expected = "" if self.expected_return is None else f"expected return {self.expected_return:+.4%}, "
        rows = rows.sort(pl.col("weight").abs(), descending=True)
        lines = [f"Portfolio {self.method}, {self.status} (optimality to {self.kkt_residual:.0e})"]
        lines.append(
            f"  {expected}volatility {self.volatility:.4%} per period, "
            f"turnover {self.turnover:.2f}, cost {self.cost:.4%}"
        )
        lines += [
            f"  {row['symbol']:<15} {row['weight']:+8.2%}, {row['risk_contribution']:7.1%} of the risk"
            for row in rows.head(_SHOWN).iter_rows(named=True)
        ]
        if rows.height > _SHOWN:
            lines.append(f"  and {rows.height - _SHOWN:,} more")
        return "\n".join(lines)

    def to_frame(self) -> pl.DataFrame:
        """Return one row per asset: symbol (its position, where no symbols were given), weight, risk_contribution."""
        names = self.symbols or tuple(map(str, range(self.weights.size)))
        return pl.DataFrame(
            {"symbol": list(names), "weight": self.weights, "risk_contribution": self.risk_contributions},
            schema_overrides={"symbol": pl.String},
        )


@dataclass(frozen=True, eq=False)
class Group:
    """Bounds on the summed weights of some assets (a sector, say).

    `members` are their positions, or their names where the method is given `symbols`.

    Raises:
        BadRequestError: no member, one that is neither a position nor a name, a member twice, or a bound that is not a
                number.
    """

    members: Sequence[int] | Sequence[str]
    lower: float = -math.inf
    upper: float = math.inf
    name: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without knowing the assets."""
        where = f"{_WHERE}.Group"
        try:
            members = [self.members] if isinstance(self.members, str) else list(self.members)
        except TypeError as error:
            raise BadRequestError(
                f"members = {self.members!r}", where=where, hint="Give a list of positions or of names."
            ) from error
        named = all(isinstance(member, str) for member in members)
        kept = members if named else [whole(member, "a member", where, least=0) for member in members]
        if not kept or len(set(kept)) < len(kept):
            raise BadRequestError(
                f"group {self.name!r} has the members {members}", where=where, hint="Give one or more, each once."
            )
        object.__setattr__(self, "members", tuple(kept))
        _bound(self.lower, f"lower of group {self.name!r}", where)
        _bound(self.upper, f"upper of group {self.name!r}", where)
        if self.lower == math.inf or self.upper == -math.inf:
            raise BadRequestError(
                f"group {self.name!r} has bounds {self.lower} and {self.upper}", where=where, hint="Swap them."
            )


@dataclass(frozen=True, eq=False)
class Constraints:
    """What weights are allowed; long-only and fully invested by default.

    Attributes:
        lower: scalar or (n,), may be -inf.
        upper: scalar or (n,), may be inf.
        budget: sum of the weights, or None for a free sum.
        leverage: largest sum of |w|, or None.
        turnover: largest sum of |w - previous|, or None.
        groups: bounds on sums of weights.

    Raises:
        BadRequestError: a bound that is not a number (NaN is not a number), or a negative leverage or turnover.
    """

    lower: FloatLike = 0.0
    upper: FloatLike = 1.0
    budget: float | None = 1.0
    leverage: float | None = None
    turnover: float | None = None
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without knowing the assets."""
        where = f"{_WHERE}.Constraints"
        for name, useless in (("lower", math.inf), ("upper", -math.inf)):
            try:
                bound = np.array(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise BadRequestError(f"{name} is not made of numbers", where=where, hint=_NO_BOUND) from error
            if np.isnan(bound).any() or (bound == useless).any():
                raise BadRequestError(
                    f"{name} has a bound that is {'NaN' if np.isnan(bound).any() else useless}",
                    where=where,
                    hint=_NO_BOUND,
                )
            # A copy, so that the caller's array may change.
            object.__setattr__(self, name, bound if bound.ndim else float(bound))
        if self.budget is not None:
            number(self.budget, "budget", where)
        for name in ("leverage", "turnover"):
            limit = getattr(self, name)
            if limit is not None and limit != math.inf:
                number(limit, name, where, least=0)
            elif limit is not None:
                object.__setattr__(self, name, None)
        groups: Any = (self.groups,) if isinstance(self.groups, Group) else self.groups
        if not isinstance(groups, tuple | list) or not all(isinstance(group, Group) for group in groups):
            raise BadRequestError(f"groups = {groups!r}", where=where, hint="Give a tuple of `Group`.")
        object.__setattr__(self, "groups", tuple(groups))


_NO_BOUND: Final = "Give numbers; -inf below and inf above for no bound."


def _bound(value: Any, name: str, where: str) -> None:
    """Refuse a bound that is neither a number nor an infinity.

    Raises:
        BadRequestError: so it is.
    """
    if not (isinstance(value, float | np.floating) and math.isinf(value)):
        number(value, name, where)


class _Covariance(NamedTuple):
    """A checked covariance: the matrix, its correlations (n, n) and the standard deviations (n,)."""

    matrix: FloatArray
    correlation: FloatArray
    deviation: FloatArray


def _covariance(cov: FloatLike, where: str) -> _Covariance:
    """Return a checked covariance.

    Raises:
        DataError: not square, not finite, not symmetric, or not positive semi-definite.
    """
    from scipy.linalg.lapack import dpotrf

    matrix = np.ascontiguousarray(array(cov, "covariance", where, shape=(None, None)))
    if matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise DataError(f"a covariance of shape {matrix.shape}", where=where, hint="Give a square matrix.")
    diagonal = np.diag(matrix)
    if diagonal.min() < np.finfo(float).tiny:
        bad = int(diagonal.argmin())
        raise DataError(f"asset {bad} has variance {diagonal[bad]:g}", where=where, hint="Drop the asset.")
    deviation = np.sqrt(diagonal)
    correlation, asymmetry = _correlations(matrix, 1 / deviation)
    if asymmetry > 0:
        if not asymmetry <= _ASYMMETRY:
            raise DataError("the covariance is not symmetric", where=where, hint="Use (S + S.T) / 2.")
        matrix, correlation = (matrix + matrix.T) / 2, (correlation + correlation.T) / 2
    shifted = correlation.copy()
    np.fill_diagonal(shifted, 1 + 1e-10)
    # A Cholesky factorisation is three times as fast as the eigenvalues.
    if dpotrf(shifted.T, lower=1, clean=0, overwrite_a=1)[1] != 0:
        least = float(np.linalg.eigvalsh(correlation)[0])
        raise DataError(
            f"the correlations have the eigenvalue {least:.3g}",
            where=where,
            hint="Use estimate_moments, which repairs it.",
        )
    return _Covariance(matrix, correlation, deviation)


@compiled
def _correlations(matrix: FloatArray, unit: FloatArray) -> tuple[FloatArray, float]:
    """Return the matrix in units of the deviations, and the largest difference across its diagonal."""
    n = unit.size
    out = np.empty((n, n))
    asymmetry = 0.0
    for i in range(n):
        out[i, i] = 1.0
        for j in range(i):
            scale = unit[i] * unit[j]
            out[i, j] = matrix[i, j] * scale
            out[j, i] = matrix[j, i] * scale
            asymmetry = max(asymmetry, abs(out[i, j] - out[j, i]))
    return out, asymmetry


def _vector(values: FloatLike, n: int, name: str, where: str) -> FloatArray:
    return array(values, name, where, shape=(n,))


def _allocation(
    method: str,
    weights: FloatArray,
    cov: FloatArray,
    mu: FloatArray | None,
    symbols: tuple[str, ...] | None,
    residual: float,
    iterations: int,
    previous: FloatArray | None,
    cost: float,
) -> Allocation:
    with np.errstate(all="ignore"):
        marginal = cov @ weights
        variance = float(weights @ marginal)
    if not (math.isfinite(variance) and np.isfinite(weights).all() and math.isfinite(residual)):
        raise NotConvergedError(
            "weights or variance are out of range", where=f"{_WHERE}.{method}", hint="Check the scale of the moments."
        )
    turnover = float(np.abs(weights - (0.0 if previous is None else previous)).sum())
    return Allocation(
        method=method,
        weights=weights,
        symbols=symbols,
        expected_return=None if mu is None else float(mu @ weights),
        volatility=math.sqrt(max(variance, 0.0)),
        risk_contributions=weights * marginal / variance if variance > 0 else np.zeros_like(weights),
        kkt_residual=residual,
        status="optimal" if residual <= _OPTIMAL else "approximate",
        turnover=turnover,
        cost=cost * turnover,
        iterations=iterations,
    )


# --- mean-variance ----------------------------------------------------------------------------------------------


class MeanVariance:
    """The mean-variance problem of one covariance and one set of constraints, set up once, solved many times.

    In standard form, with x = (w, t, s), t >= |w| where leverage is limited and s >= |w - w0| where trading is limited
    or costs:   min  w'S w / 2 - mu'w / gamma + (cost / gamma) sum s   s.t.  A x = b,  G x <= h.
    mu, gamma, w0 and the target return enter q and h only, so a re-solve keeps cvxpy's canonical form.

    Args:
        cov: (n, n) covariance.
        constraints: long-only and fully invested by default.
        cost: of one unit of turnover, in units of return, >= 0.
        symbols: (n,) names.

    Raises:
        BadRequestError: constraints of the wrong shape, a group of unknown assets, or a negative cost.
        DataError: the covariance is not one.
        InfeasibleError: the bounds contradict the budget.
    """

    def __init__(
        self,
        cov: FloatLike,
        constraints: Constraints | None = None,
        *,
        cost: float = 0.0,
        symbols: Sequence[str] | None = None,
    ) -> None:
        where = f"{_WHERE}.MeanVariance"
        self._cov = _covariance(cov, where).matrix
        self._n = self._cov.shape[0]
        self._symbols = symbol_names(symbols, self._n, where)
        self._rules = _resolved(constraints, self._n, self._symbols, where)
        self._cost = number(cost, "cost", where, least=0)
        self._lower, self._upper = _bounds(self._rules, self._n, where)
        # Solvers have absolute tolerances, so the problem is brought to variances around 1.
        self._scale = float(np.diag(self._cov).mean())
        self._forms: dict[bytes, _QuadraticProgram] = {}

    def cara(self, mu: FloatLike, gamma: float = 2.0, *, previous: FloatLike | None = None) -> Allocation:
        """Maximise mu'w - gamma/2 w'S w - cost |w - previous|_1.

        Args:
            mu: (n,) expected returns.
            gamma: risk aversion, > 0.
            previous: (n,) weights held now; nothing by default.

        Raises:
            BadRequestError: gamma is not positive.
            DataError: mu or previous has the wrong shape or is not finite.
            InfeasibleError: no weights satisfy the constraints, or the utility is unbounded.
            NotConvergedError: the solver gave up.
        """
        where = f"{_WHERE}.cara"
        gamma = number(gamma, "gamma", where, above=0)
        mean = _vector(mu, self._n, "mu", where)
        with np.errstate(over="ignore"):
            return self._solve("cara", mean, mean / gamma, self._cost / gamma, None, previous)

    def minimum_variance(
        self, mu: FloatLike, target_return: float | None = None, *, previous: FloatLike | None = None
    ) -> Allocation:
        """Minimise w'S w / 2 + cost |w - previous|_1 subject to mu'w >= target_return.

        Args:
            mu: (n,) expected returns.
            target_return: per period; None for the global minimum of variance.
            previous: (n,) weights held now; nothing by default.

        Raises:
            BadRequestError: the target is not a finite number.
            DataError: mu or previous has the wrong shape or is not finite.
            InfeasibleError: no weights satisfy the constraints and reach the return.
            NotConvergedError: the solver gave up.
        """
        if target_return is not None:
            number(target_return, "target_return", f"{_WHERE}.minimum_variance")
        mean = _vector(mu, self._n, "mu", f"{_WHERE}.minimum_variance")
        return self._solve("minimum_variance", mean, np.zeros(self._n), self._cost, target_return, previous)

    def _solve(
        self,
        method: str,
        mean: FloatArray,
        linear: FloatArray,
        cost: float,
        target: float | None,
        previous: FloatLike | None,
    ) -> Allocation:
        where = f"{_WHERE}.{method}"
        held = None if previous is None else _vector(previous, self._n, "previous", where)
        form = self._form(mean if target is not None else None)
        q = np.zeros(form.size)
        q[: self._n] = -linear / self._scale
        q[form.traded] = cost / self._scale
        if not np.isfinite(q).all():
            raise DataError(
                "mean over risk aversion and variance is out of range",
                where=where,
                hint="Check the scale of mu, gamma and the covariance.",
            )
        weights, residual, iterations = form.solve(
            q, form.right(np.zeros(self._n) if held is None else held, target), where
        )
        weights = np.clip(weights, self._lower, self._upper)
        return _allocation(method, weights, self._cov, mean, self._symbols, residual, iterations, held, self._cost)

    def _form(self, mean: FloatArray | None) -> _QuadraticProgram:
        """Return the standard form, built at first use; a target return puts mu into the matrix."""
        key = b"" if mean is None else mean.tobytes()
        if key not in self._forms:
            kept = {b"": self._forms[b""]} if b"" in self._forms else {}
            self._forms = kept | {
                key: _QuadraticProgram(
                    self._cov / self._scale, self._rules, self._lower, self._upper, mean, costly=self._cost > 0
                )
            }
        return self._forms[key]


def cara(
    mu: FloatLike,
    cov: FloatLike,
    gamma: float = 2.0,
    *,
    constraints: Constraints | None = None,
    previous: FloatLike | None = None,
    cost: float = 0.0,
    symbols: Sequence[str] | None = None,
) -> Allocation:
    """Return the portfolio of an investor with constant absolute risk aversion gamma.

    For several mu on one covariance use `MeanVariance`, whose arguments and errors these are.
    """
    return MeanVariance(cov, constraints, cost=cost, symbols=symbols).cara(mu, gamma, previous=previous)


class _QuadraticProgram:
    """min w'P w / 2 + q'x  s.t.  A x = b,  G x <= h,  as one cvxpy problem with parameters q and h."""

    def __init__(
        self,
        P: FloatArray,
        rules: Constraints,
        lower: FloatArray,
        upper: FloatArray,
        mean: FloatArray | None,
        *,
        costly: bool = False,
        penalised: bool = False,
    ) -> None:
        import cvxpy as cp
        from scipy import sparse as sp

        n = P.shape[0]
        self._P = P
        levered, trading = penalised or rules.leverage is not None, costly or rules.turnover is not None
        self.size = n * (1 + levered + trading)
        self.gross = slice(n, n * (1 + levered))
        self.traded = slice(n * (1 + levered), self.size)
        eye, none = sp.eye_array(n, format="csr"), sp.csr_array((n, n))

        def place(w: Any, t: Any, s: Any) -> Any:
            return sp.hstack([w, *([t] if levered else []), *([s] if trading else [])], format="csr")

        def total(values: FloatArray, where: int) -> Any:
            blocks = [sp.csr_array((1, n)) for _ in range(3)]
            blocks[where] = sp.csr_array(values[None, :])
            return place(*blocks)

        equal: list[Any] = []
        unequal: list[Any] = []
        b: list[float] = []
        h: list[FloatArray] = []
        for sign, bound in ((-1.0, lower), (1.0, upper)):
            finite = np.flatnonzero(np.isfinite(bound))
            unequal.append(place(sign * eye[finite], none[finite], none[finite]))
            h.append(sign * bound[finite])
        for row, low, high in _constraint_rows(rules, n):
            if low == high:
                equal.append(total(row, 0))
                b.append(low)
                continue
            for sign, end in ((-1.0, low), (1.0, high)):
                if math.isfinite(end):
                    unequal.append(total(sign * row, 0))
                    h.append(np.array([sign * end]))
        if levered:
            unequal += [place(eye, -eye, none), place(-eye, -eye, none)]
            h.append(np.zeros(2 * n))
            if rules.leverage is not None:
                unequal.append(total(np.ones(n), 1))
                h.append(np.array([rules.leverage]))
        self._held_rows = slice(0, 0)
        if trading:
            first = sum(limits.size for limits in h)
            self._held_rows = slice(first, first + 2 * n)
            unequal += [place(eye, none, -eye), place(-eye, none, -eye)]
            h.append(np.zeros(2 * n))
            if rules.turnover is not None:
                unequal.append(total(np.ones(n), 2))
                h.append(np.array([rules.turnover]))
        # The row of mu is scaled like the others, whose coefficients are 1.
        self._unit = 1.0
        if mean is not None:
            self._unit = max(float(np.abs(mean).max()), np.finfo(float).tiny)
            unequal.append(total(-mean / self._unit, 0))
            h.append(np.zeros(1))
        self._A = sp.vstack(equal, format="csr") if equal else sp.csr_array((0, self.size))
        self._b = np.array(b)
        self._G = sp.vstack(unequal, format="csr")
        self._h = np.concatenate(h)

        self._x, self._q, self._right = cp.Variable(self.size), cp.Parameter(self.size), cp.Parameter(self._h.size)
        limits = [self._G @ self._x <= self._right] if self._h.size else []
        limits += [self._A @ self._x == self._b] if equal else []
        risk = cp.quad_form(self._x[:n], cp.psd_wrap(P)) / 2
        self._problem = cp.Problem(cp.Minimize(risk + self._q @ self._x), limits)

    def right(self, held: FloatArray, target: float | None) -> FloatArray:
        """Return h for the weights held now and a target return."""
        h = self._h.copy()
        h[self._held_rows] = np.concatenate([held, -held])[: self._held_rows.stop - self._held_rows.start]
        if target is not None:
            h[-1] = -target / self._unit
        return h

    def solve(self, q: FloatArray, h: FloatArray, where: str) -> tuple[FloatArray, float, int]:
        """Return weights, KKT residual and iterations.

        Raises:
            InfeasibleError: no solution, or none that is finite.
            NotConvergedError: the solver gave up.
        """
        import cvxpy as cp

        self._q.value, self._right.value = q, h
        try:
            with warnings.catch_warnings():
                # "Solution may be inaccurate": the KKT residual says how accurate.
                warnings.simplefilter("ignore", UserWarning)
                self._problem.solve(solver=cp.CLARABEL, warm_start=True, **_CLARABEL)
        except (cp.SolverError, ArithmeticError, ValueError) as error:
            raise NotConvergedError(
                f"the solver gave up ({error})", where=where, hint="Check the scale of mu and the constraints."
            ) from error
        status = self._problem.status
        if status.startswith("infeasible"):
            raise InfeasibleError(
                "no weights satisfy the constraints",
                where=where,
                hint="Lower the target return, or loosen bounds, groups, leverage or turnover.",
            )
        if status.startswith("unbounded"):
            raise InfeasibleError(
                "the utility is unbounded", where=where, hint="Bound the weights or use a non-singular covariance."
            )
        x = self._x.value
        if x is None or not np.isfinite(x).all():
            raise NotConvergedError(f"solver status {status}", where=where, hint="Check the scale of mu.")
        return x[: self._P.shape[0]], self._residual(x, q, h), int(self._problem.solver_stats.num_iters)

    def _residual(self, x: FloatArray, q: FloatArray, h: FloatArray) -> float:
        """Return the largest KKT violation of x with the multipliers found; forces over their scale, weights as is."""
        duals = [limit.dual_value for limit in self._problem.constraints]
        z = np.asarray(duals.pop(0)) if self._h.size else np.zeros(0)
        y = np.asarray(duals.pop(0)) if duals else np.zeros(0)
        n = self._P.shape[0]
        risk = np.zeros(self.size)
        risk[:n] = self._P @ x[:n]
        force = max(float(np.abs(q).max()), float(np.abs(risk).max()), np.finfo(float).tiny)
        slack = h - self._G @ x
        violations = (
            np.abs(risk + q + self._A.T @ y + self._G.T @ z) / force,
            np.maximum(-z, 0) / force,
            np.maximum(-slack, 0),
            np.abs(self._A @ x - self._b),
            np.abs(z * slack) / force,
        )
        return max(float(violation.max(initial=0.0)) for violation in violations)


def _resolved(rules: Constraints | None, n: int, symbols: tuple[str, ...] | None, where: str) -> Constraints:
    """Return constraints whose groups hold positions.

    Raises:
        BadRequestError: a member is not an asset.
    """
    rules = Constraints() if rules is None else rules
    if not isinstance(rules, Constraints):
        raise BadRequestError(f"constraints = {rules!r}", where=where, hint="Give `Constraints`.")
    groups = []
    for group in rules.groups:
        members: list[int] = []
        for member in group.members:
            if isinstance(member, int):
                members.append(member)
            elif symbols is None:
                raise BadRequestError(
                    f"group {group.name!r} names {member!r}, and the assets have no names",
                    where=where,
                    hint="Give symbols=, or positions of assets as members.",
                )
            elif member not in symbols:
                raise BadRequestError(
                    f"group {group.name!r} names {member!r}, which is not one of the {n} symbols",
                    where=where,
                    hint=nearest(member, symbols) or "Give names that are in symbols.",
                )
            else:
                members.append(symbols.index(member))
        if max(members) >= n:
            raise BadRequestError(
                f"group {group.name!r} has members outside 0..{n - 1}", where=where, hint="Give positions of assets."
            )
        groups.append(replace(group, members=members))
    return replace(rules, groups=tuple(groups))


def _bounds(rules: Constraints, n: int, where: str) -> tuple[FloatArray, FloatArray]:
    try:
        lower = np.broadcast_to(np.asarray(rules.lower, dtype=np.float64), (n,))
        upper = np.broadcast_to(np.asarray(rules.upper, dtype=np.float64), (n,))
    except ValueError as error:
        raise BadRequestError("bounds of the wrong length", where=where, hint=f"Give scalars or {n} values.") from error
    for group in rules.groups:
        if group.lower > group.upper:
            raise InfeasibleError(
                f"group {group.name!r} has lower bound {group.lower:g} above upper {group.upper:g}",
                where=where,
                hint="Correct the bounds.",
            )
    clash = np.flatnonzero(lower > upper)
    if clash.size:
        raise InfeasibleError(
            f"asset {clash[0]} has lower bound {lower[clash[0]]:g} above upper {upper[clash[0]]:g}",
            where=where,
            hint="Correct the bounds.",
        )
    if rules.budget is not None and not lower.sum() - 1e-12 <= rules.budget <= upper.sum() + 1e-12:
        raise InfeasibleError(
            f"bounds allow sums from {lower.sum():g} to {upper.sum():g}, the budget is {rules.budget:g}",
            where=where,
            hint="Loosen the bounds or change the budget.",
        )
    if rules.budget is not None and rules.leverage is not None and rules.leverage < abs(rules.budget):
        raise InfeasibleError(
            f"leverage {rules.leverage:g} is below the budget {rules.budget:g}", where=where, hint="Raise the leverage."
        )
    return lower, upper


def _constraint_rows(rules: Constraints, n: int) -> list[tuple[FloatArray, float, float]]:
    """Return the linear constraints as (coefficients (n,), low, high)."""
    rows: list[tuple[FloatArray, float, float]] = []
    if rules.budget is not None:
        rows.append((np.ones(n), rules.budget, rules.budget))
    for group in rules.groups:
        row = np.zeros(n)
        row[np.asarray(group.members)] = 1.0
        rows.append((row, group.lower, group.upper))
    return rows


# --- risk parity ------------------------------------------------------------------------------------------------


def risk_parity(
    cov: FloatLike,
    budgets: FloatLike | None = None,
    *,
    previous: FloatLike | None = None,
    cost: float = 0.0,
    symbols: Sequence[str] | None = None,
    tolerance: float = 1e-10,
    max_sweeps: int = 2000,
) -> Allocation:
    """Return the long-only portfolio whose risk contributions are the budgets, equal ones by default.

    Args:
        cov: (n, n) covariance.
        budgets: (n,) positive, scaled to sum to 1.
        previous: (n,) weights held now, for turnover and cost in the result.
        cost: of one unit of turnover.
        symbols: (n,) names.
        tolerance: on the largest |contribution - budget|.  Near a singular covariance rounding the weights alone moves
            the contributions by more: then by that is enough, up to 1e-7, and `kkt_residual` tells how near it is.
        max_sweeps: sweeps over all coordinates and Newton steps together.

    Raises:
        BadRequestError: a budget is not positive, or an argument out of its domain.
        DataError: the covariance is not one.
        NotConvergedError: the tolerance was not met: with a singular covariance no solution need exist.
    """
    where = f"{_WHERE}.risk_parity"
    cost = number(cost, "cost", where, least=0)
    tolerance = number(tolerance, "tolerance", where, above=0)
    max_sweeps = whole(max_sweeps, "max_sweeps", where, least=1)
    matrix, correlation, deviation = _covariance(cov, where)
    n = matrix.shape[0]
    names = symbol_names(symbols, n, where)
    held = None if previous is None else _vector(previous, n, "previous", where)
    b = np.full(n, 1 / n) if budgets is None else _vector(budgets, n, "budgets", where)
    if b.min() <= 0:
        raise BadRequestError(f"budget {b.min():g}", where=where, hint="Give positive budgets; drop the other assets.")
    b = b / b.max()
    b /= b.sum()
    # In units of the standard deviations, where only correlations matter.
    y, iterations, residual = _coordinate_descent(correlation, b, tolerance, min(max_sweeps, _SWEEPS))
    if not residual <= tolerance:
        y, steps, residual = _risk_parity_newton(correlation, b, y, tolerance, max_sweeps - iterations)
        iterations += steps
    if not residual <= tolerance:
        # Rounding the weights moves the contributions by this, so that nothing better is to be had.
        rounding = np.finfo(float).eps * float((y * (np.abs(correlation) @ y)).max() / (y @ correlation @ y))
        if not residual <= min(rounding, _OPTIMAL):
            told = f"risk contributions are {residual:.1e} off after {iterations} iterations"
            if rounding > tolerance:
                told += f"; the covariance is so near singular that rounding alone moves them by {rounding:.0e}"
            raise NotConvergedError(
                told,
                where=where,
                hint="Use a better conditioned covariance (ledoit_wolf), another tolerance, or more sweeps.",
            )
    weights = y / deviation * deviation.min()
    return _allocation("risk_parity", weights / weights.sum(), matrix, None, names, residual, iterations, held, cost)


#: Sweeps of coordinate descent before Newton's method; well-behaved covariances need about ten.
_SWEEPS: Final = 40
#: Sweeps after which the pace so far decides whether coordinate descent goes on.
_PACE: Final = 10


@compiled
def _coordinate_descent(
    cov: FloatArray, budgets: FloatArray, tolerance: float, max_sweeps: int
) -> tuple[FloatArray, int, float]:
    """Minimise y'S y / 2 - sum b_i log y_i; each coordinate's minimum is the positive root of a quadratic.

    It ends early where at its pace it would not reach the tolerance.
    """
    n = budgets.size
    # The solution for uncorrelated assets, scaled so that y'S y = sum b, as at the solution.
    y = np.empty(n)
    for i in range(n):
        y[i] = np.sqrt(budgets[i] / cov[i, i])
    marginal = cov @ y
    scale = 1.0 / np.sqrt(y @ marginal)
    if np.isfinite(scale):
        y *= scale
        marginal *= scale
    residual = math.inf
    mark = math.inf
    for sweep in range(1, max_sweeps + 1):
        for i in range(n):
            rest = marginal[i] - cov[i, i] * y[i]
            root = np.sqrt(rest * rest + 4.0 * cov[i, i] * budgets[i])
            # The form without cancellation, whatever the sign of rest.
            after = 2.0 * budgets[i] / (rest + root) if rest > 0 else (root - rest) / (2.0 * cov[i, i])
            step = after - y[i]
            y[i] = after
            for j in range(n):
                marginal[j] += step * cov[i, j]
        total = 0.0
        for i in range(n):
            total += y[i] * marginal[i]
        residual = 0.0
        for i in range(n):
            residual = max(residual, abs(y[i] * marginal[i] / total - budgets[i]))
        if residual <= tolerance:
            # Once more with fresh products: the updated ones have gathered rounding.
            marginal = cov @ y
            total = float(y @ marginal)
            residual = float(np.abs(y * marginal / total - budgets).max())
            if residual <= tolerance:
                return y, sweep, residual
        if sweep % _PACE == 0:
            if residual * (residual / mark) ** ((max_sweeps - sweep) / _PACE) > tolerance:
                return y, sweep, residual
            mark = residual
    return y, max_sweeps, residual


def _risk_parity_newton(
    correlation: FloatArray, b: FloatArray, y: FloatArray, tolerance: float, max_steps: int
) -> tuple[FloatArray, int, float]:
    """Minimise y'C y / 2 - sum b_i log y_i by Newton's method with exact line searches; return y, steps, residual.

    In the coordinates u = (change of y) / y the Hessian is Y C Y + diag(b), positive definite for every C that is not
    indefinite, and the objective along a line costs one product with C.  The best iterate is returned: near a
    singular C rounding ends the descent before the tolerance does.
    """
    from scipy.linalg import cho_factor, cho_solve

    best, least, lowest, since = y, math.inf, math.inf, 0
    steps = 0
    with np.errstate(all="ignore"):
        while True:
            share = y * (correlation @ y)
            residual = float(np.abs(share / share.sum() - b).max())
            value = float(share.sum() / 2 - b @ np.log(y))
            # Far from the solution the objective falls while the residual may rise.
            since = 0 if residual < 0.5 * least or value < lowest - 1e-6 else since + 1
            lowest = min(lowest, value)
            if residual < least:
                best, least = y, residual
            # Six steps without progress: rounding, or no solution.
            if residual <= tolerance or steps >= max_steps or since >= 6 or not math.isfinite(residual):
                return best, steps, least
            hessian = correlation * y * y[:, None]
            hessian[np.diag_indices_from(hessian)] += b
            try:
                factor = cho_factor(hessian, overwrite_a=True, check_finite=False)
            except np.linalg.LinAlgError:
                return best, steps, least
            u = cho_solve(factor, b - share, check_finite=False)
            y = y * (1 + _line_minimum(share, float((y * u) @ (correlation @ (y * u))), b, u) * u)
            steps += 1


def _line_minimum(share: FloatArray, curvature: float, b: FloatArray, u: FloatArray) -> float:
    """Return t > 0 that minimises t share'u + t^2/2 curvature - sum b log(1 + t u), by guarded Newton steps."""
    slope = float(share @ u)
    low, high = 0.0, math.inf if u.min() >= 0 else -1 / float(u.min())
    t = min(1.0, 0.99 * high)
    for _ in range(60):
        part = u / (1 + t * u)
        first = slope + t * curvature - float(b @ part)
        low, high = (low, t) if first > 0 else (t, high)
        second = curvature + float(b @ part**2)
        trial = t - first / second if second > 0 else math.nan
        if not low < trial < high:
            trial = 2 * t if high == math.inf else (low + high) / 2
        if abs(trial - t) <= 1e-3 * t:
            return trial
        t = trial
    return t


# --- sparse -----------------------------------------------------------------------------------------------------


def sparse(
    mu: FloatLike,
    cov: FloatLike,
    rho: float = 0.05,
    *,
    constraints: Constraints | None = None,
    previous: FloatLike | None = None,
    cost: float = 0.0,
    symbols: Sequence[str] | None = None,
    tolerance: float = 1e-9,
    max_sweeps: int = 20_000,
) -> Allocation:
    """Return a long-short portfolio of few assets: the minimiser of w'S w / 2 - mu'w + rho max|mu| |w|_1, scaled.

    rho is relative, so that the same value suits daily and annual moments: an asset enters if its mean, less what the
    others already explain, exceeds rho times the largest mean in size; at rho = 1 nothing does.  The solution is
    scaled to sum |w| = 1, which makes it the same for every risk aversion.

    With `constraints` the same objective is minimised within them by the solver of `MeanVariance`; the weights are
    then what the constraints are about, and are not scaled.  Those below 1e-7 of the largest are set to zero.

    Args:
        mu: (n,) expected returns, not all zero.
        cov: (n, n) covariance.
        rho: in [0, 1).
        constraints: none by default.
        previous: (n,) weights held now, for turnover and cost in the result.
        cost: of one unit of turnover.
        symbols: (n,) names.
        tolerance: on the subgradient conditions, relative to max|mu|.
        max_sweeps: of coordinate descent.

    Raises:
        BadRequestError: an argument is out of its domain, or the constraints make the penalty a constant.
        InfeasibleError: no weights satisfy the constraints.
        DataError: the moments have the wrong shape or are not finite, or all means are zero.
        NotConvergedError: the tolerance was not met.
    """
    where = f"{_WHERE}.sparse"
    cost = number(cost, "cost", where, least=0)
    tolerance = number(tolerance, "tolerance", where, above=0)
    max_sweeps = whole(max_sweeps, "max_sweeps", where, least=1)
    rho = number(rho, "rho", where, least=0, below=1)
    matrix = _covariance(cov, where).matrix
    n = matrix.shape[0]
    names = symbol_names(symbols, n, where)
    mean = _vector(mu, n, "mu", where)
    held = None if previous is None else _vector(previous, n, "previous", where)
    largest = float(np.abs(mean).max())
    if largest == 0:
        raise DataError("all expected returns are zero", where=where, hint="Give expected returns.")
    if constraints is not None:
        rules = _resolved(constraints, n, names, where)
        w, residual, sweeps = _sparse_within(matrix, mean, rho * largest, rules, held, where)
        return _allocation("sparse", w, matrix, mean, names, residual, sweeps, held, cost)
    try:
        w, sweeps, residual = _soft_threshold_descent(matrix, mean / largest, rho, tolerance, max_sweeps)
    except np.linalg.LinAlgError as error:
        raise NotConvergedError(
            "some combination of the assets carries no risk",
            where=where,
            hint="Drop duplicates, or use ledoit_wolf for the covariance.",
        ) from error
    if not residual <= tolerance:
        raise NotConvergedError(
            f"subgradient conditions are {residual:.1e} off after {sweeps} sweeps",
            where=where,
            hint="Use a better conditioned covariance (ledoit_wolf), a larger rho, or more sweeps.",
        )
    weights = w / np.abs(w).sum()
    return _allocation("sparse", weights, matrix, mean, names, residual, sweeps, held, cost)


def _sparse_within(
    cov: FloatArray, mean: FloatArray, penalty: float, rules: Constraints, held: FloatArray | None, where: str
) -> tuple[FloatArray, float, int]:
    n = mean.size
    lower, upper = _bounds(rules, n, where)
    if rules.budget is not None and (lower >= 0).all():
        raise BadRequestError(
            f"weights >= 0 that sum to {rules.budget:g} have the same L1 norm, so the penalty does nothing",
            where=where,
            hint="Allow short positions, or set budget=None.",
        )
    scale = float(np.diag(cov).mean())
    form = _QuadraticProgram(cov / scale, rules, lower, upper, None, penalised=True)
    q = np.zeros(form.size)
    q[:n] = -mean / scale
    q[form.gross] = penalty / scale
    weights, residual, iterations = form.solve(q, form.right(np.zeros(n) if held is None else held, None), where)
    weights = np.clip(weights, lower, upper)
    small = np.abs(weights) <= 1e-7 * np.abs(weights).max()
    return np.where(small & (lower <= 0) & (upper >= 0), 0.0, weights), residual, iterations


@compiled
def _soft_threshold_descent(
    cov: FloatArray, mean: FloatArray, rho: float, tolerance: float, max_sweeps: int
) -> tuple[FloatArray, int, float]:
    """Minimise w'S w / 2 - mean'w + rho |w|_1 by coordinate descent with exact steps on a settled support.

    Coordinate descent finds the support and the signs; where both have settled, the minimiser on that face is one
    linear solve away.  If the way there crosses a sign change, the step ends at it: the objective still falls.
    """
    n = mean.size
    w = np.zeros(n)
    marginal = np.zeros(n)  # S w
    signs = np.zeros(n)
    next_try = 3
    residual = math.inf
    for sweep in range(1, max_sweeps + 1):
        settled = True
        for i in range(n):
            pull = mean[i] - marginal[i] + cov[i, i] * w[i]
            after = 0.0
            if pull > rho:
                after = (pull - rho) / cov[i, i]
            elif pull < -rho:
                after = (pull + rho) / cov[i, i]
            if np.sign(after) != signs[i]:
                settled = False
                signs[i] = np.sign(after)
            step = after - w[i]
            if step != 0.0:
                w[i] = after
                for j in range(n):
                    marginal[j] += step * cov[i, j]
        if settled and sweep >= next_try:
            next_try = sweep + 10
            support = np.flatnonzero(w)
            if support.size > 0:
                target = np.linalg.solve(
                    np.ascontiguousarray(cov[support][:, support]), mean[support] - rho * signs[support]
                )
                reach = 1.0
                first = -1
                for k in range(support.size):
                    if target[k] * signs[support[k]] <= 0.0:
                        part = w[support[k]] / (w[support[k]] - target[k])
                        if part < reach:
                            reach, first = part, k
                for k in range(support.size):
                    w[support[k]] += reach * (target[k] - w[support[k]])
                if first >= 0:
                    w[support[first]] = 0.0
                    signs[support[first]] = 0.0
                marginal = cov @ w
        residual = 0.0
        for i in range(n):
            force = mean[i] - marginal[i]
            off = abs(force - rho * signs[i]) if w[i] != 0.0 else max(0.0, abs(force) - rho)
            residual = max(residual, off)
        if residual <= tolerance:
            return w, sweep, residual
    return w, max_sweeps, residual
