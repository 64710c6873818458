"""What a call of the client costs: verification, reads of the user tables, market data, versions of a symbol.

    python benchmarks/bench_client.py

Times are medians of calls through `LakehouseClient`, in one process, on a data folder in a temporary folder.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

ACCOUNTS = 2_000
ROWS = 100_000
DAYS = 90
COMMITS = 500
START = datetime(2024, 1, 1, tzinfo=UTC)


def bars(symbol: str, day: int, minutes: int) -> pl.DataFrame:
    """Return one-minute bars of a day."""
    first = pl.lit(START + timedelta(days=day)).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"i": range(minutes)}).select(
        ts=first + pl.duration(minutes=pl.col("i")),
        ts_close=first + pl.duration(minutes=pl.col("i") + 1),
        venue=pl.lit("binance"),
        symbol=pl.lit(symbol),
        open=pl.lit(100.0),
        high=pl.lit(100.0),
        low=pl.lit(100.0),
        close=pl.lit(100.0),
        volume=pl.lit(1.0),
        final=pl.lit(value=True),
        origin=pl.lit("vendor"),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("bench:1"),
    )


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    os.environ |= {"HFTHOT_ARGON2_MEMORY_KIB": "8", "HFTHOT_ARGON2_PASSES": "1", "HFTHOT_ARGON2_LANES": "1"}
    from hfthot_platform import LakehouseClient
    from hfthot_platform.app.personal import decrypted
    from hfthot_platform.storage.lakehouse import Lakehouse

    grid = Table("", "figure", "limit", title="LakehouseClient", title_justify="left")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        lake = Lakehouse.open(folder / "lake")
        minutes = lake.table("market.bars_1m")
        symbols = [f"S{i:02d}-USDT" for i in range(10)]
        minutes.append(pl.concat([bars(symbol, day, 1440) for day in range(DAYS) for symbol in symbols]))
        with LakehouseClient(folder) as client:
            users = [client.register(f"u{i}", f"u{i}@example.org", "a password", "First") for i in range(ACCOUNTS)]
            key = client.generate_hfthot_api_key(users[0].user_id).key
            token = client.login("u0", "a password").token
            grid.add_row("verify_api_key", f"{timed(lambda: client.verify_api_key(key), 5000) * 1e6:.0f} µs", "100 µs")
            grid.add_row("verify_token", f"{timed(lambda: client.verify_token(token), 5000) * 1e6:.0f} µs", "100 µs")
            started = time.perf_counter()
            client.flush()
            grid.add_row(f"flush of {ACCOUNTS:,} registrations", f"{time.perf_counter() - started:.2f} s", "")
            client.flush()
            grid.add_row("flush with nothing to publish", f"{timed(client.flush, 50) * 1e3:.1f} ms", "")
            version = client.list_versions("users")[-1]["version"]
            seconds = timed(lambda: client.read_version("users", version), 5)
            grid.add_row(f"read_version of {ACCOUNTS:,} users", f"{seconds * 1e3:.0f} ms", "")

            accounts = client.installation.accounts
            contract = lake.table("audit_log").contract
            subjects = [accounts.subject_of(user.user_id) for user in users]
            client.for_request(ip="192.0.2.1").login("u1", "a password")
            for user in users:  # gives each an audit key
                client.for_request(ip="192.0.2.1").update_user(user.user_id, last_name="Last")
            ciphers = accounts.ciphers(subjects, "audit")
            dice = random.Random(1)
            chosen = [dice.choice(subjects) for _ in range(ROWS)]
            rows = pl.DataFrame(
                {
                    "subject_id": chosen,
                    **{
                        column: [ciphers[subject].encrypt("audit_log", column, "192.0.2.1") for subject in chosen]
                        for column in ("ip", "user_agent", "personal_detail")
                    },
                }
            )
            seconds = timed(lambda: decrypted(accounts, contract, rows), 3)
            grid.add_row(
                f"decryption of {3 * ROWS:,} values of {ACCOUNTS:,} persons",
                f"{3 * ROWS / seconds:,.0f}/s",
                "100,000/s",
            )

            market = client.market(symbols[3])
            seconds = timed(lambda: market.ohlcv().tail(1000).collect(), 21)
            whole = timed(
                lambda: minutes.scan().filter(pl.col("symbol") == symbols[3]).sort("ts").tail(1000).collect(), 9
            )
            grid.add_row(f"newest 1,000 of {DAYS * 1440:,} bars of one in 10 symbols", f"{seconds * 1e3:.1f} ms", "")
            grid.add_row("  the same by reading all of the symbol", f"{whole * 1e3:.1f} ms", "")
            closes = lake.table("market.closes")
            for i in range(COMMITS):
                day = (START + timedelta(days=i % 300)).date()
                closes.append(
                    pl.DataFrame({"date": [day]}, schema={"date": pl.Date}).with_columns(
                        venue=pl.lit("us_equity"),
                        symbol=pl.lit(symbols[i % 10]),
                        close=pl.lit(1.0),
                        adjusted=pl.lit(value=False),
                        source=pl.lit("synthetic"),
                        source_ref=pl.lit(f"bench:{i}"),
                    )
                )
            seconds = timed(lambda: client.list_versions(f"market/{symbols[3]}"), 5)
            grid.add_row(f"versions of a symbol among {COMMITS:,} commits", f"{seconds * 1e3:.0f} ms", "")
    Console(file=sys.stdout).print(grid)


if __name__ == "__main__":
    main()
