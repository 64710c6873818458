"""The scoreboard and the reasons: from rows and files that went through the real doors."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.storage.incidents import Incident, record

SCORES = "marts.data_quality_scoreboard"
REASONS = "marts.quarantine_reasons"
NOW = datetime.now(UTC).replace(microsecond=0)


def closes(days: list[str], symbol: str = "X", venue: str = "binance", **values: object) -> pl.DataFrame:
    rows = [{"venue": venue, "symbol": symbol, "date": date.fromisoformat(day), "close": 1.0, **values} for day in days]
    return pl.DataFrame(rows)


def trades(prices: list[float], ref: str = "csv:0123456789abcdef", start: datetime | None = None) -> pl.DataFrame:
    begin = start or NOW - timedelta(hours=5)
    ts = [begin + timedelta(seconds=second) for second in range(len(prices))]
    return pl.DataFrame(
        {
            "venue": "binance",
            "symbol": "X",
            "ts": ts,
            "trade_id": list(range(len(prices))),
            "price": prices,
            "amount": 1.0,
            "source": "vendor_history",
            "source_ref": ref,
        }
    ).cast({"ts": pl.Datetime("us", "UTC")})


def scores(lake, table: str) -> dict[str, object]:
    rows = lake.make(SCORES).filter(pl.col("table_name") == table).rows(named=True)
    assert len(rows) == 1
    return rows[0]


def test_rows_that_were_kept_out_are_counted_by_reason(shipped):
    lake = shipped({})
    lake.lake.table("market.trades").append(trades([100.0] * 20 + [-1.0, -2.0, float("nan")]))

    row, reasons = scores(lake, "market.trades"), lake.make(REASONS, "reason")

    kept_out = lake.read("quarantine.trades")
    expected = kept_out.group_by("reason").len().sort("reason")
    assert kept_out.height == 3
    assert reasons.select("reason", "quarantined_rows").rows() == expected.rows()
    assert set(reasons["adapter"]) == {"csv"}
    assert reasons["detail"].null_count() == 0
    assert (row["row_count"], row["quarantined_rows"], row["adapter"]) == (20, 3, "csv")
    assert row["quarantined_share"] == pytest.approx(3 / 23)
    top = expected.sort("len", "reason", descending=True)
    assert row["top_reason"] == top["reason"][0]
    assert row["reasons"] == ", ".join(f"{reason}: {count}" for reason, count in top.rows())


def test_a_table_is_as_stale_as_its_newest_row(shipped):
    lake = shipped({"market.trades": trades([1.0, 1.0, 1.0])})

    row = scores(lake, "market.trades")

    measured = row["measured_at"]
    assert isinstance(measured, datetime)
    assert abs(measured - datetime.now(UTC)) < timedelta(minutes=2)
    last = NOW - timedelta(hours=5) + timedelta(seconds=2)
    assert row["last_time"] == last
    assert row["staleness_hours"] == pytest.approx((measured - last).total_seconds() / 3600)


def test_days_without_a_row_are_missing(shipped):
    lake = shipped(
        {
            "market.closes": pl.concat(
                [
                    closes(["2024-03-01", "2024-03-02", "2024-03-05"]),
                    closes(["2024-03-04", "2024-03-05"], "Y"),
                    # Friday, Tuesday: the Monday is missing, the weekend is not.
                    closes(["2024-03-01", "2024-03-05"], "S", "us_equity"),
                    closes(["2024-03-01", "2024-03-04", "2024-03-05"], "T", "us_equity"),
                ]
            )
        }
    )

    row = scores(lake, "market.closes")

    assert (row["row_count"], row["series"], row["missing_days"]) == (10, 4, 2 + 0 + 1 + 0)
    assert (row["first_day"], row["last_day"]) == (date(2024, 3, 1), date(2024, 3, 5))


def test_adapters_are_kept_apart_and_closes_from_bars_are_computed(shipped):
    parts = [
        closes(["2024-03-01"], "A", source_ref="sample:a/b.csv.gz@12ab"),
        closes(["2024-03-01"], "B", source_ref="market.bars"),
        closes(["2024-03-01", "2024-03-02"], "C", source_ref="kraken market.closes 2024-03-01/2024-03-02"),
    ]

    found = shipped({"market.closes": pl.concat(parts)}).make(SCORES, "adapter")

    assert found.select("adapter", "row_count").rows() == [("computed", 1), ("kraken", 2), ("sample", 1)]


def test_files_are_counted_with_what_became_of_them(shipped):
    file = {"name": "f.csv", "bytes": 10, "rows_read": 5, "rows_published": 3, "rows_quarantined": 0, "run_id": "r"}
    rows = [
        {"status": "published", "adapter": "csv:kraken", "target": "market.trades", "rows_duplicate": 2},
        {"status": "published", "adapter": "csv:bitfinex", "target": "market.trades", "rows_duplicate": 1},
        {"status": "rejected", "adapter": "csv", "target": "market.trades", "rows_duplicate": 0},
        {"status": "rejected", "adapter": None, "target": None, "rows_duplicate": 0},
    ]
    hashes = [f"{number:064x}" for number in range(4)]
    frame = pl.DataFrame(
        [
            file | row | {"content_hash": content_hash, "ingested_at": NOW}
            for row, content_hash in zip(rows, hashes, strict=True)
        ]
    )

    found = shipped({"ops.ingest_files": frame}).make(SCORES, "table_name")

    columns = ("table_name", "adapter", "row_count", "files_published", "files_rejected", "duplicate_rows")
    assert found.select(columns).rows() == [("market.trades", "csv", 0, 2, 1, 3), ("unknown", "unknown", 0, 0, 1, 0)]


def test_recent_incidents_of_a_tables_step_count(shipped):
    lake = shipped({"market.trades": trades([1.0])})
    for number, (step, age) in enumerate(
        (("market__trades", 1), ("market__trades", 29), ("market__trades", 31), ("market__bars", 1))
    ):
        incident = Incident(
            incident_id=f"i{number}",
            ts=NOW - timedelta(days=age),
            severity="error",
            kind="run_failure",
            job="ingest",
            run_id="r",
            step=step,
            error_class="E",
            message="m",
        )
        record(lake.lake, incident)

    assert scores(lake, "market.trades")["recent_incidents"] == 2


def test_tables_that_are_not_due_every_day_miss_none(shipped):
    lake = shipped({})
    lake.add(
        "portfolio.weights",
        pl.DataFrame({"date": [date(2024, 3, 1), date(2024, 3, 9)], "method": "cara", "symbol": "A", "weight": 1.0}),
    )

    row = scores(lake, "portfolio.weights")

    assert (row["row_count"], row["missing_days"], row["adapter"]) == (2, None, "computed")


def test_every_quarantine_of_market_data_signals_and_portfolios_is_looked_at(models):
    from hfthot_platform.domain.contracts import CONTRACTS

    data = {
        contract.quarantine
        for contract in CONTRACTS.values()
        if contract.namespace in {"market", "signals", "portfolio"}
    }
    # The truth behind the simulated exchange is nobody's data.
    assert set(models["staging.quarantined_rows"].depends_on) == data - {"quarantine.simulated_regimes"}
