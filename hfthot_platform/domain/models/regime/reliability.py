"""Whether a stated probability is one: said against right in bins, with the error that chance alone would show.

What belongs here: the comparison of any stated probabilities with what came of them.  What does not: where they come
from; `regime.WalkForward.judged` and `RegimeModel.predictive_probability` give the pairs for regimes.

The expected calibration error is the mean, over the observations, of the distance between said and right in their bin.
In a finite sample even a perfect forecaster has one: the mean of a distance is never zero, and calls in a row that rest
on the same bars err together.  So every error here comes beside its chance level: the errors of a perfect forecaster
with the same noise, drawn by a bootstrap of blocks of the deviations, centred in each bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hfthot_platform.core.arguments import array, number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Reliability", "reliability"]

_WHERE: Final = "reliability"


@dataclass(frozen=True, eq=False, repr=False)
class Reliability(Displayed):
    """A reliability curve; bins without an observation are NaN.

    Attributes:
        edges: of the bins, (B + 1,).
        share: of the observations that fall into each bin, (B,).
        said: mean stated probability of each bin, (B,).
        right: mean outcome of each bin, (B,).
        error: expected calibration error.
        chance: median error of a perfect forecaster on as many observations with the same dependence.
        chance_95: its 95 % point: an error above it is more than chance.
        n: observations.
    """

    edges: FloatArray
    share: FloatArray
    said: FloatArray
    right: FloatArray
    error: float
    chance: float
    chance_95: float
    n: int

    def __str__(self) -> str:
        verdict = "within chance" if self.error <= self.chance_95 else "MORE THAN CHANCE"
        lines = [
            f"Calibration error {self.error:.4f} over {self.n:,} observations, {verdict}",
            f"  (a perfect forecaster: median {self.chance:.4f}, 95 % below {self.chance_95:.4f})",
            f"  {'bin':>14}{'share':>8}{'said':>8}{'right':>8}",
        ]
        lines += [
            f"  {low:6.2f} to {high:4.2f}{share:8.1%}{said:8.3f}{right:8.3f}"
            for low, high, share, said, right in zip(
                self.edges[:-1], self.edges[1:], self.share, self.said, self.right, strict=True
            )
            if share
        ]
        return "\n".join(lines)

    def to_frame(self) -> pl.DataFrame:
        """Return one row per bin: its edges, share, what was said and what was right."""
        import polars as pl

        columns = {"low": self.edges[:-1], "high": self.edges[1:], "share": self.share}
        return pl.DataFrame(columns | {"said": self.said, "right": self.right}).fill_nan(None)


def reliability(
    said: FloatLike,
    right: FloatLike,
    *,
    least: float = 0.0,
    bins: int = 10,
    block: int = 60,
    draws: int = 500,
    seed: int = 0,
) -> Reliability:
    """Compare stated probabilities with what came of them.

    Args:
        said: probabilities, (N,), in the order of time. right: what came of each, (N,): 0 or 1, or a later and better
            informed probability of the same event.
        least: smallest probability that can be said (1 / K for the most probable of K states); the bins begin there.
        bins: of equal width, from `least` to 1.
        block: observations in a row that may depend on each other: the blocks of the bootstrap.
        draws: of the bootstrap.  seed: of its draws.

    Raises:
        BadRequestError: an option is out of its domain.
        DataError: not as many outcomes as probabilities, none at all, or a value outside [0, 1].
    """
    number(least, "least", _WHERE, least=0.0, below=1.0)
    whole(bins, "bins", _WHERE, least=1, most=1_000)
    whole(block, "block", _WHERE, least=1)
    whole(draws, "draws", _WHERE, least=20, most=100_000)
    whole(seed, "seed", _WHERE, least=0)
    stated = array(said, "said", _WHERE, shape=(None,))
    came = array(right, "right", _WHERE, shape=(stated.size,))
    for name, values in (("said", stated), ("right", came)):
        if not (values.size and values.min() >= -1e-9 and values.max() <= 1.0 + 1e-9):
            found = f"from {values.min():g} to {values.max():g}" if values.size else "empty"
            raise DataError(f"{name} is {found}", where=_WHERE, hint="Give probabilities, or outcomes of 0 and 1.")
    edges = np.linspace(least, 1.0, bins + 1)
    place = np.clip(np.digitize(stated, edges) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    full = np.maximum(count, 1)
    deviation = came - stated
    off = np.bincount(place, deviation, bins) / full
    chance = _chance(place, deviation - off[place], bins, min(block, stated.size), draws, seed)
    empty = np.where(count > 0, 0.0, np.nan)
    return Reliability(
        edges=edges,
        share=count / stated.size,
        said=np.bincount(place, stated, bins) / full + empty,
        right=np.bincount(place, came, bins) / full + empty,
        error=float(count @ np.abs(off)) / stated.size,
        chance=float(np.median(chance)),
        chance_95=float(np.quantile(chance, 0.95)),
        n=stated.size,
    )


def _chance(place: IntArray, noise: FloatArray, bins: int, block: int, draws: int, seed: int) -> FloatArray:
    """Return the errors (draws,) of forecasters whose deviations from right are noise (N,) centred in each bin (N,).

    Blocks of deviations are drawn with replacement, as many as there are; each keeps its bins.
    """
    starts = np.arange(0, noise.size, block)
    cells = (np.arange(noise.size) // block) * bins + place
    sums = np.bincount(cells, noise, starts.size * bins).reshape(-1, bins)
    generator = np.random.default_rng([seed, 4])
    drawn = generator.multinomial(starts.size, np.full(starts.size, 1.0 / starts.size), draws)
    return np.asarray(np.abs(drawn @ sums).sum(axis=1) / noise.size)
