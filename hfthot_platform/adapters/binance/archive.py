"""Binance's public archive: zip files of klines, trades and aggTrades of its spot, USD-M and COIN-M markets.

The oddities that stay at this boundary:

- spot times are microseconds from 2025-01-01 on, milliseconds before and on the futures markets;
- some files have a header line, most have none;
- trades have 7 columns on spot and 6 on futures, aggTrades 8 and 7;
- COIN-M quantities are contracts of 100 USD (BTC) or 10 USD; its kline's "quote volume" is in the base asset;
- the market is nowhere in a file: it is told by the folder, by what only one market has, or by its user.

Layouts: https://github.com/binance/binance-public-data (README).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised, content_hash, probe_file
from hfthot_platform.adapters.files.canonical import last_bar_open
from hfthot_platform.adapters.files.columns import refuse_by_name
from hfthot_platform.adapters.files.delimited import Layout, Sieve, file_blocks, gather, read_sieves
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.files.times import Times
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, check_request, no_progress
from hfthot_platform.core.errors import (
    BadRequestError,
    ChecksumMismatchError,
    RejectedFileError,
    SourceRefusedError,
    SourceUnavailableError,
)
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.intervals import of_length
from hfthot_platform.core.retry import RetryPolicy, retry
from hfthot_platform.core.time import MINUTE, ONE_DAY, each_day, midnight, partition_days
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market.symbols import from_vendor, to_binance

__all__ = ["ArchiveFeed", "BinanceArchive", "contract_size"]

Kind = Literal["klines", "trades", "aggTrades"]

#: Folder of each venue in the archive.
_FOLDERS: Final = {"binance": "spot", "binance_usdm": "futures/um", "binance_coinm": "futures/cm"}
_MEMBER: Final = re.compile(
    r"^(?P<symbol>[A-Z0-9]+(?:_(?:PERP|\d{6}))?)-(?P<kind>trades|aggTrades|\d+(?:mo|[smhdw]))-"
    r"(?P<year>\d{4})-(?P<month>\d{2})(?:-(?P<day>\d{2}))?\.csv$"
)
_INT: Final = pl.Int64()
_FLOAT: Final = pl.Float64()
_FLAG: Final = pl.Boolean()
_TEXT: Final = pl.String()
_AGGREGATES: Final[dict[str, pl.DataType]] = {
    "trade_id": _INT,
    "price": _FLOAT,
    "amount": _FLOAT,
    "first": _INT,
    "last": _INT,
    "ts": _INT,
    "maker_buys": _FLAG,
}
_TRADES: Final[dict[str, pl.DataType]] = {
    "trade_id": _INT,
    "price": _FLOAT,
    "amount": _FLOAT,
    "value": _FLOAT,
    "ts": _INT,
    "maker_buys": _FLAG,
}
_KLINES: Final[dict[str, pl.DataType]] = {
    "ts": _INT,
    "open": _FLOAT,
    "high": _FLOAT,
    "low": _FLOAT,
    "close": _FLOAT,
    "volume": _FLOAT,
    "close_time": _INT,
    "quote_volume": _FLOAT,
    "trades": _INT,
    "buy_volume": _FLOAT,
    "buy_value": _FLOAT,
    "ignored": _TEXT,
}
_BEST: Final[dict[str, pl.DataType]] = {"best_match": _TEXT}
_KEEP_TRADES: Final = ("trade_id", "price", "amount", "ts", "maker_buys")
#: 2025-01-01 in milliseconds: from then on milliseconds are futures, microseconds spot.
_SWITCH_MS: Final = 1_735_689_600_000
_NUMBER: Final = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?")
#: Intervals, beside 1m, of which the archive has a file for each day.
# Seconds.
_LONGEST_WAIT: Final = 60.0
_INTERVALS: Final = ("3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
_FLAGS: Final = frozenset({"true", "false"})


def contract_size(symbol: str) -> float:
    """Return the quote value (USD) of one COIN-M contract."""
    return 100.0 if symbol.upper().startswith("BTC") else 10.0


@dataclass(frozen=True)
class _Shape:
    """What the lines of a file look like."""

    kind: Kind
    width: int
    header: bool


class BinanceArchive:
    """Reads one file of the archive: zipped, gzipped or plain CSV."""

    name = "binance_archive"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if not probe.is_text:
            return None
        shape = _shape(probe.lines)
        if shape is None:
            return None
        _refuse_untraded(probe, shape)
        declared = probe.declared
        member = _MEMBER.match(probe.inner_name) or _MEMBER.match(Path(probe.name).with_suffix(".csv").name)
        symbol = declared.symbol or (member["symbol"] if member else None) or _folder_symbol(probe.path, shape.kind)
        if symbol is None:
            raise RejectedFileError(
                "unknown_symbol",
                f"{shape.kind} of Binance's archive whose name {probe.inner_name!r} does not contain a symbol",
                where=probe.name,
                hint="Keep the archive's own name (BTCUSDT-1m-2024-01.csv), or declare `symbol` in a mapping.",
            )
        venue = _venue(probe, shape, symbol)
        perpetual = venue != "binance" and "_" not in symbol
        try:
            canonical = from_vendor(symbol, perpetual=perpetual, venue=venue)
        except BadRequestError as error:
            raise RejectedFileError(
                "unknown_symbol", error.what, where=probe.name, hint="Declare `symbol` in a mapping."
            ) from error
        interval = _interval(probe, shape) if shape.kind == "klines" else None
        table = TRADES.name if interval is None else (BARS_1M.name if interval == "1m" else BARS.name)
        return Recognised(
            self,
            f"{_FOLDERS[venue].replace('/', '_')}_{shape.kind}",
            table,
            venue,
            canonical,
            {
                "shape": shape,
                "interval": interval,
                "known_end": declared.as_of or (_period_end(member) if member else None),
            },
        )

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        shape = claim.details["shape"]
        assert isinstance(shape, _Shape)
        columns = {
            "klines": _KLINES,
            "aggTrades": _AGGREGATES | (_BEST if shape.width == 8 else {}),
            "trades": _TRADES | (_BEST if shape.width == 7 else {}),
        }[shape.kind]
        keep = tuple(name for name in columns if name not in ("ignored", "best_match", "value", "first", "last"))
        layout = Layout(columns, required=keep, keep=keep)
        sieves = read_sieves(
            file_blocks(probe),
            layout,
            skip_lines=1 if shape.header else 0,
            end="sound" if probe.checks_its_end or probe.declared.complete else "judged",
            progress=progress,
        )
        batches = gather(_canonical(sieves, claim, source_ref), claim.table, source_ref, batch_rows)
        yield from batches if claim.details["known_end"] or claim.table == TRADES.name else last_bar_open(batches)


def _canonical(sieves: Iterator[Sieve], claim: Recognised, source_ref: str) -> Iterator[Sieve]:
    names = [name for name in ("ts", "close_time") if name in (_KLINES if claim.table != TRADES.name else _TRADES)]
    times = {name: Times(where=str(claim.symbol), bars=True) for name in names}
    for sieve in sieves:
        for name in names:
            times[name].read(sieve, name)
        to_rows = _trades if claim.table == TRADES.name else _bars
        sieve.rows = to_rows(sieve.rows, claim).with_columns(
            pl.lit(claim.venue).alias("venue"),
            pl.lit(claim.symbol).alias("symbol"),
            pl.lit("vendor_history").alias("source"),
            pl.lit(source_ref).alias("source_ref"),
        )
        yield sieve


def _refuse_untraded(probe: FileProbe, shape: _Shape) -> None:
    """Refuse klines of mark, index and premium prices: same columns and names, and never traded.

    Their volume is zero throughout, and their count is that of seconds.
    """
    refuse_by_name(probe)
    if shape.kind != "klines":
        return
    rows = [line.split(",") for line in probe.lines[shape.header :] if _line_shape(line) == ("klines", 12)]
    untraded = [row for row in rows if float(row[5]) == 0 and float(row[8]) > 0]
    if len(untraded) == len(rows):
        raise RejectedFileError(
            "unsupported_content",
            "klines with a count but no volume are mark, index or premium prices",
            where=probe.name,
            hint="The lake has no table for them.",
        )


def _trades(rows: pl.DataFrame, claim: Recognised) -> pl.DataFrame:
    amount = pl.col("amount")
    if claim.venue == "binance_coinm":
        amount = amount * contract_size(claim.symbol or "") / pl.col("price")
    side = pl.when("maker_buys").then(pl.lit("sell")).otherwise(pl.lit("buy"))
    return rows.select("ts", "trade_id", "price", amount.alias("amount"), side.alias("side"), ROW_NUMBER)


def _bars(rows: pl.DataFrame, claim: Recognised) -> pl.DataFrame:
    interval = str(claim.details["interval"])
    volume, quote_volume, buy_volume = pl.col("volume"), pl.col("quote_volume"), pl.col("buy_volume")
    if claim.venue == "binance_coinm":
        # volume counts contracts; what spot calls quote volume is the base asset here, and so for takers.
        volume, buy_volume = pl.col("quote_volume"), pl.col("buy_value")
        quote_volume = pl.col("volume") * contract_size(claim.symbol or "")
    known_end = claim.details["known_end"]
    ts_close = interval_of(interval).close_time(pl.col("ts"))
    interval_column = [pl.lit(interval).alias("interval")] if claim.table == BARS.name else []
    return rows.select(
        *interval_column,
        *("ts", "open", "high", "low", "close", "trades", ROW_NUMBER),
        ts_close.alias("ts_close"),
        volume.alias("volume"),
        quote_volume.alias("quote_volume"),
        buy_volume.alias("buy_volume"),
        (pl.lit(value=True) if known_end is None else ts_close <= pl.lit(known_end)).alias("final"),
        pl.lit("vendor").alias("origin"),
    )


def _shape(lines: list[str]) -> _Shape | None:
    """Judge the kind of a file by the majority of its first lines."""
    if not lines:
        return None
    first = lines[0].split(",")
    header = bool(re.match("[a-z_]", first[0]))
    if header and not {"price", "open"} & set(first):
        return None
    seen = Counter(_line_shape(line) for line in lines[header : header + 50])
    best = seen.most_common(1)[0][0] if seen else None
    return _Shape(best[0], best[1], header) if best else None


def _line_shape(line: str) -> tuple[Kind, int] | None:
    fields = [field.strip() for field in line.split(",")]
    pattern = "".join(
        "b" if field.lower() in _FLAGS else "i" if field.isdecimal() else "f" if _NUMBER.fullmatch(field) else "x"
        for field in fields
    ).replace("f", "n")
    if len(fields) == 12 and re.fullmatch("i[in]{5}i[in]i[in]{3}", pattern) and _is_time(fields[0], fields[6]):
        return "klines", 12
    if re.fullmatch("i[in]{2}iiibb?", pattern) and _is_time(fields[5]):
        return "aggTrades", len(fields)
    if re.fullmatch("i[in]{3}ibb?", pattern) and _is_time(fields[4]):
        return "trades", len(fields)
    return None


def _is_time(*fields: str) -> bool:
    return all(len(field) in (13, 16) for field in fields)


def _folder_symbol(path: Path, kind: Kind) -> str | None:
    """Return the symbol of the archive's folder layout: .../klines/BTCUSDT/1m/x.zip, .../trades/BTCUSDT/x.zip."""
    parents = [parent.name for parent in path.parents]
    position = 1 if kind == "klines" else 0
    if len(parents) > position + 1 and parents[position + 1] == kind:
        return parents[position]
    return None


def _venue(probe: FileProbe, shape: _Shape, symbol: str) -> str:
    if probe.declared.venue is not None:
        if probe.declared.venue not in _FOLDERS:
            raise RejectedFileError(
                "unknown_venue",
                f"{probe.declared.venue!r} is not a market of Binance's archive",
                where=probe.name,
                hint=f"Declare one of {', '.join(_FOLDERS)}.",
            )
        return probe.declared.venue
    folders = "/".join(probe.path.parent.parts)
    for venue, folder in _FOLDERS.items():
        if f"/{folder}/" in f"/{folders}/":
            return venue
    pair, _, tail = symbol.partition("_")
    if tail:
        return "binance_coinm" if pair.endswith("USD") else "binance_usdm"
    if (shape.kind, shape.width) in (("aggTrades", 8), ("trades", 7)):
        return "binance"
    if (shape.kind, shape.width) in (("aggTrades", 7), ("trades", 6)):
        return "binance_usdm"  # COIN-M names have a tail
    times = [fields[0] for line in probe.lines if (fields := line.split(","))[0].isdecimal()]
    if times and len(times[0]) == 16:
        return "binance"
    if times and int(times[0]) >= _SWITCH_MS:
        return "binance_usdm"
    raise RejectedFileError(
        "ambiguous_market",
        f"klines of {symbol} before 2025 look the same for spot and USD-M",
        where=probe.name,
        hint=f"Put the file into a folder named spot or futures/um, or declare `venue` ({', '.join(_FOLDERS)}) "
        f"in {probe.name}.mapping.yaml.",
    )


def _interval(probe: FileProbe, shape: _Shape) -> str:
    """Return the klines' length by their own open and close times."""
    lengths: Counter[int] = Counter()
    for line in probe.lines[shape.header : shape.header + 50]:
        if _line_shape(line) == ("klines", 12):
            fields = line.split(",")
            micro = 1 if len(fields[0]) == 16 else 1000
            lengths[(int(fields[6]) - int(fields[0]) + 1) * micro] += 1
    length = lengths.most_common(1)[0][0]
    # Microsecond files close at ...999999, millisecond files at ...999.
    if found := of_length(length + -length % MINUTE if -length % MINUTE <= 1000 else length):
        return found.name
    raise RejectedFileError(
        "unsupported_interval",
        f"the klines are {length / 1e6:g} s long",
        where=probe.name,
        hint="Use a whole number of minutes, hours, days, weeks or months.",
    )


def _period_end(member: re.Match[str]) -> datetime:
    """Return the end of the day or month that a file's name spells: all of it had passed when it was made."""
    year, month = int(member["year"]), int(member["month"])
    if member["day"]:
        return datetime(year, month, int(member["day"]), tzinfo=UTC) + ONE_DAY
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Period:
    """One file of the archive: a day or a month."""

    first: date
    monthly: bool

    @property
    def end(self) -> date:
        """Return the day after the last."""
        return partition_days("month" if self.monthly else "date", self.first)[1]

    @property
    def spelled(self) -> str:
        return f"{self.first:%Y-%m}" if self.monthly else f"{self.first:%Y-%m-%d}"

    @property
    def folder(self) -> str:
        return "monthly" if self.monthly else "daily"


class ArchiveFeed:
    """Fetches spans of time from the archive: by HTTP, or from a folder that mirrors its layout.

    Whole months come from monthly files where there are any, everything else from daily files.  Downloads
    go to `cache` (which then mirrors the archive, so nothing is downloaded twice), resume where they
    stopped, and are checked against the archive's checksums (files of a folder where the checksum lies beside
    them).  Days without a file are left out and listed in `skipped`.

    Args:
        location: a URL or a folder; it holds `data/spot/...` and `data/futures/...`.
        venue: binance, binance_usdm or binance_coinm.
        symbols: canonical symbols.
        cache: folder for downloads; not needed for a local folder.
        interval: which klines fill `market.bars`.
        trades: which files fill `market.trades`.  Their ids are of two different sequences: stay with one.
        attempts: bound on tries per request.
        wait: first wait between tries in seconds; doubles, with jitter.
        sleep: waits between tries.
    """

    name = "binance_archive"
    tables = (TRADES.name, BARS_1M.name, BARS.name)

    def __init__(
        self,
        location: str | Path = "https://data.binance.vision",
        *,
        venue: str = "binance",
        symbols: Sequence[str],
        cache: Path | None = None,
        interval: str = "1h",
        trades: Literal["aggTrades", "trades"] = "aggTrades",
        attempts: int = 5,
        wait: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if venue not in _FOLDERS:
            raise BadRequestError(
                f"unknown venue {venue!r}", where=self.name, hint=f"Choose one of {', '.join(_FOLDERS)}."
            )
        if interval not in _INTERVALS:
            raise BadRequestError(
                f"unknown interval {interval!r}", where=self.name, hint=f"Choose one of {', '.join(_INTERVALS)}."
            )
        self._remote = str(location).rstrip("/") if str(location).startswith(("http://", "https://")) else None
        if self._remote is not None and cache is None:
            raise BadRequestError("there is no cache folder for downloads", where=self.name, hint="Pass `cache`.")
        self._root = cache if self._remote is not None and cache is not None else Path(location)
        self._venue = venue
        self._symbols = {symbol: to_binance(symbol) for symbol in symbols}
        self._interval = interval
        self._trades = trades
        self._retries = RetryPolicy(attempts, first_wait=wait, longest_wait=_LONGEST_WAIT)
        self._sleep = sleep
        #: Paths of files that the archive does not have, of the last `fetch`.
        self.skipped: list[str] = []

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield rows with start <= ts < end, symbol by symbol, in time order.

        Raises:
            BadRequestError: as `check_request`.
            SourceUnavailableError: the archive did not answer within the bound of tries.
            SourceRefusedError: the archive refuses (any other answer than the file, "not found" or "later").
            ChecksumMismatchError: a file differs from its published checksum, or has none (by HTTP).
        """
        check_request(self.name, self.tables, table, start, end)
        self.skipped = []
        for symbol in self._symbols if start < end else ():
            for month in _months(start, end):
                yield from self._month(table, symbol, month, start, end, progress)

    def _month(
        self, table: str, symbol: str, month: _Period, start: datetime, end: datetime, progress: Progress
    ) -> Iterator[Batch]:
        days = [_Period(day, monthly=False) for day in each_day((month.first, month.end))]
        wanted = [day for day in days if midnight(day.first) < end and midnight(day.end) > start]
        whole = self._file(table, symbol, month, progress) if len(wanted) == len(days) else None
        if whole is not None:
            yield from self._rows(whole, start, end, progress)
            return
        for day in wanted:
            path = self._file(table, symbol, day, progress)
            if path is None and self._remote is None:
                # A local mirror may hold months only.
                path = self._file(table, symbol, month, progress)
            if path is None:
                self.skipped.append(self._relative(table, symbol, day))
                continue
            yield from self._rows(path, max(start, midnight(day.first)), min(end, midnight(day.end)), progress)

    def _rows(self, path: Path, start: datetime, end: datetime, progress: Progress) -> Iterator[Batch]:
        adapter = BinanceArchive()
        probe = replace(probe_file(path), declared=CsvMapping(venue=self._venue))
        claim = adapter.recognise(probe)
        if claim is None:
            raise RejectedFileError(
                "wrong_schema", "the columns are not those of the archive", where=path.name, hint="Download it again."
            )
        reference = f"{self.name}:{content_hash(path)}"
        for batch in adapter.read(probe, claim, source_ref=reference, progress=progress):
            rows = batch.rows.filter((pl.col("ts") >= start) & (pl.col("ts") < end))
            if rows.height or batch.rejected.height:
                yield replace(batch, rows=rows)

    def _relative(self, table: str, symbol: str, period: _Period) -> str:
        name = self._symbols[symbol]
        if table == TRADES.name:
            folder, stem = f"{self._trades}/{name}", f"{name}-{self._trades}"
        else:
            interval = "1m" if table == BARS_1M.name else self._interval
            folder, stem = f"klines/{name}/{interval}", f"{name}-{interval}"
        return f"data/{_FOLDERS[self._venue]}/{period.folder}/{folder}/{stem}-{period.spelled}.zip"

    def _file(self, table: str, symbol: str, period: _Period, progress: Progress) -> Path | None:
        """Return a verified local file, or None if the archive has none."""
        relative = self._relative(table, symbol, period)
        path = self._root / relative
        checksum = path.with_name(path.name + ".CHECKSUM")
        if path.exists() and (checksum.exists() or self._remote is None):
            if checksum.exists():
                _verify(path, checksum.read_text(encoding="ascii", errors="replace"), name=path.name)
            return path
        if self._remote is None:
            return None
        return self._download(relative, path, checksum, progress)

    def _download(self, relative: str, path: Path, checksum: Path, progress: Progress) -> Path | None:
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        url = f"{self._remote}/{relative}"
        resumed = part.exists()
        if not self._get(url, part, progress):
            return None
        declared = checksum.with_name(checksum.name + ".part")
        declared.unlink(missing_ok=True)
        if not self._get(f"{url}.CHECKSUM", declared, no_progress):
            part.unlink()
            raise ChecksumMismatchError(
                "the archive publishes no checksum for this file",
                where=url,
                hint="If you trust the file, download it and ingest it as a file.",
            )
        text = declared.read_text(encoding="ascii", errors="replace")
        try:
            _verify(part, text, name=path.name)
        except ChecksumMismatchError:
            part.unlink()
            if not resumed:
                raise
            # The part may be of an older edition of the file: once more from the start.
            if not self._get(url, part, progress):
                return None
            try:
                _verify(part, text, name=path.name)
            except ChecksumMismatchError:
                part.unlink()
                raise
        part.replace(path)
        declared.replace(checksum)
        return path

    def _get(self, url: str, target: Path, progress: Progress) -> bool:
        """Stream a URL to a file, continuing what is there; return False if the archive has no such file."""
        import httpx

        def gave_up(attempts: int, last: Exception) -> SourceUnavailableError:
            return SourceUnavailableError(
                f"no usable answer after {attempts} attempts ({last})",
                where=url,
                hint="The part that arrived is kept. Try again later.",
            )

        return retry(
            partial(_stream_to, url, target, progress),
            self._retries,
            on=(httpx.TransportError, _TryAgainError),
            gave_up=gave_up,
            sleep=self._sleep,
        )


class _TryAgainError(Exception):
    """An answer that another try may better."""


def _stream_to(url: str, target: Path, progress: Progress) -> bool:
    import httpx

    have = target.stat().st_size if target.exists() else 0
    # Compression in transit would make byte ranges meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with httpx.stream("GET", url, headers=headers, timeout=30.0, follow_redirects=True) as response:
        status = response.status_code
        if status == HTTPStatus.NOT_FOUND:
            return False
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return True  # all of it had arrived
            target.unlink()
            raise _TryAgainError("the kept part is longer than the file")
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TryAgainError(f"HTTP {status}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise SourceRefusedError(f"HTTP {status}", where=url, hint="Check the archive's address and the region.")
        done = have if status == HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with target.open("ab" if done else "wb") as stream:
            # Blocks as they arrive: collecting them would lose the last ones when the connection breaks.
            for block in response.iter_raw():
                stream.write(block)
                done += len(block)
                progress(done, total, "bytes")
    return True


def _verify(path: Path, checksum: str, *, name: str) -> None:
    expected = checksum.split(maxsplit=1)[0].lower() if checksum.split() else ""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ChecksumMismatchError(
            f"SHA-256 is {found}, published {expected or 'nothing'}", where=name, hint="Delete and fetch it again."
        )


def _months(start: datetime, end: datetime) -> Iterator[_Period]:
    first, _ = partition_days("month", start.astimezone(UTC).date())
    while midnight(first) < end:
        month = _Period(first, monthly=True)
        yield month
        first = month.end
