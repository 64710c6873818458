"""Rows per second of reading Binance archive zips, beside a bare `polars.read_csv` of the unzipped bytes.

Run: `python benchmarks/bench_archive.py [million rows]`.  Everything is measured in one process pinned to one
thread and timed in CPU seconds, so the figures are per core whatever else the machine does.
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


def _make(millions: float, folder: Path) -> None:
    import numpy as np
    import polars as pl

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
    (folder / "spot").mkdir()
    for name, frame in (("aggTrades", trades), ("1m", klines)):
        path = folder / "spot" / f"BTCUSDT-{name}-2024-01.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.with_suffix(".csv").name, frame.write_csv(include_header=False).encode())


def _measure(path: Path) -> None:
    import polars as pl

    from hfthot_platform.adapters.recognise import recognise

    ours, bare = [], []
    for _ in range(3):
        probe, claim = recognise(path)
        begin = time.process_time()
        rows = sum(batch.rows_read for batch in claim.adapter.read(probe, claim, source_ref="bench"))
        ours.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    for _ in range(3):
        begin = time.process_time()
        height = pl.read_csv(text, has_header=False).height
        bare.append(time.process_time() - begin)
    assert rows == height
    print(
        f"{path.stem[8:]:<20}{rows:>12,}{len(text) / 1e6:>8.0f}{rows / min(ours):>18,.0f}{rows / min(bare):>18,.0f}"
        f"{min(ours) / min(bare):>8.2f}{peak:>9.0f}"
    )


def main() -> None:
    """Make the files, then measure each in a process of one thread."""
    if len(sys.argv) == 3:
        _make(float(sys.argv[1]), Path(sys.argv[2]))
        return
    if len(sys.argv) == 2 and sys.argv[1].endswith(".zip"):
        _measure(Path(sys.argv[1]))
        return
    millions = sys.argv[1] if len(sys.argv) > 1 else "3"
    environment = os.environ | {"POLARS_MAX_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, millions, folder], check=True)
        print(
            f"{'file':<20}{'rows':>12}{'MB':>8}{'adapter rows/s':>18}{'read_csv rows/s':>18}{'ratio':>8}{'peak MB':>9}"
        )
        for path in sorted(Path(folder, "spot").glob("*.zip")):
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, str(path)], check=True, env=environment)


if __name__ == "__main__":
    main()
