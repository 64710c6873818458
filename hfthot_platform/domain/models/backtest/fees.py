"""What trading costs: the rates, and the cost of one trade.

What belongs here: fees and slippage.  What does not: who trades what (`fills`), and who pays (`ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hfthot_platform.core.arguments import number
from hfthot_platform.core.compiled import inlined
from hfthot_platform.core.errors import BadRequestError

__all__ = ["DEFAULT_COSTS", "Costs", "cost_rate", "refuse_leverage"]


@dataclass(frozen=True)
class Costs:
    """What trading costs, as shares of the traded value.

    Attributes:
        fee: of the venue, each way.  The default, 10 basis points, is what a spot exchange takes from a beginner.
        slippage: by how much the price is worse than the open, each way: half the spread and a little impact.
    """

    fee: float = 0.001
    slippage: float = 0.0005

    def __post_init__(self) -> None:
        """Refuse rates outside [0, 0.2]."""
        for name in ("fee", "slippage"):
            number(getattr(self, name), name, "Costs (shares of the value: 0.001 is 0.1 %)", least=0.0, most=0.2)

    @property
    def buy(self) -> float:
        """Return the cost of buying, per unit of value at the open."""
        return (1 + self.slippage) * (1 + self.fee) - 1

    @property
    def sell(self) -> float:
        """Return the cost of selling, per unit of value at the open."""
        return 1 - (1 - self.slippage) * (1 - self.fee)


DEFAULT_COSTS: Final = Costs()


def refuse_leverage(costs: Costs, leverage: float) -> None:
    """Refuse targets whose trades could cost half of the equity: no equity after costs may then exist.

    Args:
        costs: that are charged.
        leverage: sum of the absolute targets that are decided at once.

    Raises:
        BadRequestError: they could.
    """
    if max(costs.buy, costs.sell) * leverage >= 0.5:
        raise BadRequestError(
            f"costs of {costs.buy:.1%} at a leverage of {leverage:.1f}",
            where="models.backtest.backtest",
            hint="One trade would cost half of the equity: lower the weights or the costs.",
        )


@inlined
def cost_rate(trade: float, buy: float, sell: float) -> float:
    """Return the cost of a trade over its signed value: of a purchase `buy`, of a sale `-sell`."""
    return buy if trade > 0.0 else -sell
