"""Lakes for the shipped models: small tables made by hand, and the models run as `hfthot sql run` runs them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.app.lake import models_of, open_lake
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.sql.engine import query
from hfthot_platform.services.sql.models.model import Models
from hfthot_platform.services.sql.models.runner import run_models
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.storage import Storage

#: The models of the repository, whatever the working folder is.
FOLDER = Path(__file__).resolve().parents[3] / "dbt_like_sql"

_DEFAULTS: dict[str, dict[str, object]] = {
    "market.bars": {
        "interval": "1d",
        "volume": 10.0,
        "final": True,
        "origin": "vendor",
        "source": "synthetic",
        "source_ref": "test:a",
    },
    "market.bars_1m": {
        "volume": 10.0,
        "final": True,
        "origin": "vendor",
        "source": "synthetic",
        "source_ref": "test:b",
    },
    "market.closes": {"adjusted": False, "source": "synthetic", "source_ref": "test:c"},
    "market.trades": {"amount": 1.0, "source": "synthetic", "source_ref": "test:d"},
    "signals.regimes": {"confidence": 0.8, "p_trending": 0.1, "p_mean_reverting": 0.1, "p_volatile": 0.8}
    | {"strategy": "momentum", "identified": True, "model_id": "m"},
    "portfolio.weights": {
        "venue": "us_equity",
        "risk_contribution": 0.0,
        "volatility": 0.01,
        "turnover": 0.0,
        "kkt_residual": 0.0,
        "status": "optimal",
        "observations": 100,
        "shrinkage": 0.0,
    },
}
_SPANS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}


class Shipped:
    """A lake with the shipped models."""

    def __init__(self, root: Path, models: Models) -> None:
        ticks = itertools.count()
        start = datetime(2024, 6, 1, tzinfo=UTC)
        self.models = models
        self._made: set[str] = set()
        clock = lambda: start + timedelta(minutes=next(ticks))  # noqa: E731 - a clock that moves
        self.lake: Lakehouse = open_lake(Storage.parse(str(root)), clock, models, new=True)

    def add(self, table: str, rows: pl.DataFrame) -> None:
        """Add rows; columns that a test does not care about have plausible values."""
        contract = self.lake.table(table).contract
        missing = {name: value for name, value in _DEFAULTS.get(table, {}).items() if name not in rows.columns}
        rows = rows.with_columns(pl.lit(value).alias(name) for name, value in missing.items())
        if "ts_close" in contract.column_names and "ts_close" not in rows.columns:
            length = pl.col("interval").replace_strict(_SPANS) if "interval" in rows.columns else pl.lit(_SPANS["1m"])
            rows = rows.with_columns(ts_close=pl.col("ts") + length)
        if "data_until" in contract.column_names and "data_until" not in rows.columns:
            rows = rows.with_columns(data_until=pl.col("date") - timedelta(days=1))
        types = contract.polars_schema
        rows = rows.cast({name: types[name] for name in rows.columns})
        commit = self.lake.table(table).append(rows)
        self._made.clear()
        assert commit.rows_quarantined == 0, "the test's own rows break the contract"

    def run(self, *names: str, days: tuple[date, date] | None = None) -> None:
        """Run models (all by default), over some days or over everything."""
        runs = run_models(self.lake, self.models, names, days=days, full=days is None)
        for run in runs:
            assert run.status not in {"failed", "skipped"}, f"{run.model.name}: {run.reason}"

    def read(self, name: str, *keys: str) -> pl.DataFrame:
        """Return the rows of a table, a model or a view, sorted by the keys."""
        frame = query(self.lake, f"FROM {name}").frame
        return frame.sort(*keys) if keys else frame

    def make(self, name: str, *keys: str) -> pl.DataFrame:
        """Run a model with all that it reads, but for what was made of these rows already, and return its rows."""
        stale = [model.name for model in self.models.select([f"+{name}"]) if model.name not in self._made]
        if stale:
            self.run(*stale)
            self._made.update(stale)
        return self.read(name, *keys)


MakeLake = Callable[[Mapping[str, pl.DataFrame]], Shipped]


@pytest.fixture(scope="session")
def models() -> Models:
    return models_of(Settings(sql_models=FOLDER)).require_sound()


@pytest.fixture(scope="session")
def shipped(models, tmp_path_factory) -> MakeLake:
    """Return a function that makes a lake of some tables."""

    def make(tables: Mapping[str, pl.DataFrame]) -> Shipped:
        lake = Shipped(tmp_path_factory.mktemp("shipped"), models)
        for name, rows in tables.items():
            lake.add(name, rows)
        return lake

    return make


@pytest.fixture(scope="session")
def real(shipped) -> Shipped:
    """The S&P 500's daily bars of 1999 to 2018, and closes of the index and of 20 US stocks, as packages ship them."""
    from hfthot_platform.adapters.sample import SampleFeed

    feed = SampleFeed()
    span = datetime(2007, 1, 1, tzinfo=UTC), datetime(2010, 1, 1, tzinfo=UTC)
    found: dict[str, pl.DataFrame] = {}
    for table in ("market.bars", "market.closes"):
        found[table] = pl.concat([batch.rows for batch in feed.fetch(table, *span)], how="diagonal")
    return shipped(found)
