"""End to end: files of Binance's archive to checked, durable, versioned rows, beside bare parsing and writing.

Run: `python benchmarks/bench_ingest.py [million rows]`.  "ingest" is `ingest_files` of one zip into a new lake:
hash, check the container, recognise, parse, audit, deduplicate, sort, commit durably, record.  "bare" is what
cannot be left out: unzip, `polars.read_csv`, a cast of the times and `write_deltalake`, without any check.  Each
runs in its own process, alternately; the best of three counts.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

_FILES = ("BTCUSDT-aggTrades-2024-01.zip", "BTCUSDT-1m-2024-01.zip")
_RUNS = 3


def _make(millions: float, folder: Path) -> None:
    import numpy as np
    import polars as pl

    rows = int(millions * 1e6)
    rng = np.random.default_rng(7)
    number = np.arange(rows)
    price = np.round(42_000 + rng.normal(0, 0.5, rows).cumsum(), 2)
    amount = np.round(rng.exponential(0.05, rows) + 1e-5, 5)
    trades = pl.DataFrame(
        {
            "id": number + 3_000_000_000,
            "price": price,
            "qty": amount,
            "first": number * 2 + 3_400_000_000,
            "last": number * 2 + 3_400_000_001,
            # A month of them, as in a monthly file.
            "ts": 1_704_067_200_000 + number * (30 * 86_400_000 // rows),
            "maker": rng.random(rows) < 0.5,
            "best": True,
        }
    )
    # As many minutes as fit between 2020 and the first microsecond files: 2 M are almost four years.
    minutes = 1_577_836_800_000 + number * 60_000
    klines = pl.DataFrame(
        {
            "open_time": minutes,
            "open": price,
            "high": price + 5,
            "low": price - 5,
            "close": price + 1,
            "volume": amount * 100,
            "close_time": minutes + 59_999,
            "quote_volume": np.round(amount * price * 100, 4),
            "count": number % 1000,
            "buy": amount * 50,
            "buy_quote": np.round(amount * price * 50, 4),
            "ignore": 0,
        }
    )
    for name, frame in zip(_FILES, (trades, klines), strict=True):
        path = folder / "spot" / name
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{path.stem}.csv", frame.write_csv(include_header=False).encode())


def _ingest(path: Path, lake: Path) -> int:
    from hfthot_platform.services.ingest import ingest_files
    from hfthot_platform.storage.lakehouse import Lakehouse

    begin = time.perf_counter()
    (outcome,) = ingest_files(Lakehouse.open(lake), [path])
    seconds = time.perf_counter() - begin
    if outcome.rows_published != outcome.rows_read:
        raise SystemExit(f"{outcome}")
    print(outcome.rows_published, seconds)
    return 0


def _bare(path: Path, lake: Path) -> int:
    import polars as pl
    from deltalake import write_deltalake

    begin = time.perf_counter()
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    frame = pl.read_csv(text, has_header=False)
    at = "column_6" if frame.width == 8 else "column_1"
    frame = frame.with_columns(pl.from_epoch(at, time_unit="ms").dt.cast_time_unit("us"))
    frame = frame.with_columns(date=pl.col(at).dt.date())
    write_deltalake(str(lake), frame, partition_by=["date"])
    seconds = time.perf_counter() - begin
    print(frame.height, seconds)
    return 0


def _measured(what: str, path: Path, folder: Path, run: int) -> tuple[int, float, float]:
    """Return rows, seconds and peak megabytes of one run in its own process."""
    command = [sys.executable, __file__, "--run", what, str(path), str(folder / f"{what}-{path.stem}-{run}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{what} of {path.name} failed")
    *_, line, peak = said.splitlines()
    rows, seconds = line.split()
    return int(rows), float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", type=float, nargs="?", default=2.0)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        what, path, lake = arguments.run
        {"ingest": _ingest, "bare": _bare}[what](Path(path), Path(lake))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(
        f"{'file':>10} {'rows':>10} {'ingest':>9} {'rows/s':>10} {'bare':>9} {'ratio':>6} {'peak MB':>8} {'bare MB':>8}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _make(arguments.millions, folder)
        for name in _FILES:
            path = folder / "spot" / name
            ours, bare = [], []
            for run in range(_RUNS):
                bare.append(_measured("bare", path, folder, run))
                ours.append(_measured("ingest", path, folder, run))
            rows, seconds = ours[0][0], min(run[1] for run in ours)
            base = min(run[1] for run in bare)
            print(
                f"{name.split('-')[1]:>10} {rows:>10,} {seconds:>7.2f} s {rows / seconds:>10,.0f} {base:>7.2f} s "
                f"{seconds / base:>6.2f} {max(run[2] for run in ours):>8,.0f} {max(run[2] for run in bare):>8,.0f}"
            )


if __name__ == "__main__":
    main()
