"""Table contracts: what each table IS.

One module per namespace.  This package knows no storage, no orchestration and no clock.  To add a table,
declare it in its namespace's module and list it here; everything else derives from the contract.
"""

from __future__ import annotations

from collections.abc import Mapping

from hfthot_platform.core.errors import UnknownTableError, nearest
from hfthot_platform.domain.contracts import accounts, market, ops, portfolio, signals
from hfthot_platform.domain.contracts.model import Column, TableContract

__all__ = ["CONTRACTS", "Column", "TableContract", "contract"]

_DATA = (
    market.INSTRUMENTS,
    market.TRADES,
    market.BARS_1M,
    market.BARS,
    market.CLOSES,
    market.CORPORATE_ACTIONS,
    market.UNIVERSE,
    market.SIMULATED_REGIMES,
    signals.REGIME_MODELS,
    signals.REGIMES,
    signals.REGIME_CHANGES,
    signals.MFG_PRICES,
    signals.CHIARELLA_FORECASTS,
    portfolio.WEIGHTS,
    portfolio.ADAPTIVE_WEIGHTS,
    portfolio.BACKTESTS,
    portfolio.BACKTEST_EQUITY,
    *accounts.USER_TABLES,
)

#: All contracts by table name.
CONTRACTS: dict[str, TableContract] = {
    contract.name: contract
    for contract in (*_DATA, *(ops.quarantine_of(table) for table in _DATA), ops.INGEST_FILES, ops.INCIDENTS)
}


def contract(name: str, among: Mapping[str, TableContract] = CONTRACTS) -> TableContract:
    """Return the contract of a table.

    Raises:
        UnknownTableError: no table has this name; the message suggests the nearest one.
    """
    try:
        return among[name]
    except KeyError:
        hint = nearest(name, among) or f"Known tables: {', '.join(among)}."
        raise UnknownTableError(f"unknown table {name!r}", hint=hint) from None
