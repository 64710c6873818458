"""Rows per second of reading Binance archive zips, beside a bare `polars.read_csv` of the unzipped bytes.

Run: `python benchmarks/bench_archive.py [million rows]`.  Everything is measured in one process pinned to one
thread, so the figures are per core.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path


def _worker(millions: float, folder: Path) -> None:
    import numpy as np
    import polars as pl

    from hfthot_platform.market.sources.recognise import recognise

    rows = int(millions * 1e6)
    rng = np.random.default_rng(7)
    start = 1_704_067_200_000
    price = np.round(42_000 + rng.normal(0, 0.5, rows).cumsum(), 2)
    amount = np.round(rng.exponential(0.05, rows), 5)
    number = np.arange(rows)
    trades = pl.DataFrame(
        {
            "id": number + 3_000_000_000,
            "price": price,
            "qty": amount,
            "first": number * 2 + 3_400_000_000,
            "last": number * 2 + 3_400_000_001,
            "ts": start + number * 20,
            "maker": rng.random(rows) < 0.5,
            "best": True,
        }
    )
    klines = pl.DataFrame(
        {
            "open_time": start + number * 60_000,
            "open": price,
            "high": price + 5,
            "low": price - 5,
            "close": price + 1,
            "volume": amount * 100,
            "close_time": start + number * 60_000 + 59_999,
            "quote_volume": np.round(amount * price * 100, 4),
            "count": number % 1000,
            "buy": amount * 50,
            "buy_quote": np.round(amount * price * 50, 4),
            "ignore": 0,
        }
    )
    print(f"{'file':<12}{'rows':>12}{'MB':>8}{'adapter rows/s':>18}{'read_csv rows/s':>18}{'ratio':>8}{'peak MB':>9}")
    for name, frame in (("aggTrades", trades), ("1m", klines)):
        text = frame.write_csv(include_header=False).encode()
        path = folder / "spot" / f"BTCUSDT-{name}-2024-01.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.with_suffix(".csv").name, text)
        del frame

        bare = []
        ours = []
        for _ in range(3):
            begin = time.perf_counter()
            height = pl.read_csv(text, has_header=False).height
            bare.append(time.perf_counter() - begin)
        size = len(text) / 1e6
        del text
        for _ in range(3):
            probe, claim = recognise(path)
            begin = time.perf_counter()
            read = sum(batch.rows_read for batch in claim.adapter.read(probe, claim, source_ref="bench"))
            ours.append(time.perf_counter() - begin)
        assert read == height == rows
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name:<12}{rows:>12,}{size:>8.0f}{rows / min(ours):>18,.0f}{rows / min(bare):>18,.0f}"
            f"{min(ours) / min(bare):>8.2f}{peak:>9.0f}"
        )


def main() -> None:
    """Start the measurement in a process of one thread."""
    if len(sys.argv) == 3:
        _worker(float(sys.argv[1]), Path(sys.argv[2]))
        return
    millions = sys.argv[1] if len(sys.argv) > 1 else "3"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"POLARS_MAX_THREADS": "1"}
        subprocess.run([sys.executable, __file__, millions, folder], check=True, env=environment)


if __name__ == "__main__":
    main()
