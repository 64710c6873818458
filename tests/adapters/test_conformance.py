"""What every feed and every file adapter must do: the specification of `docs/adapters.md`, executed.

A new kind of feed, a new exchange format or a new file adapter needs an entry here; the first tests fail without it.
Each test names the requirement that it states (F for feeds, A for adapters of files).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.ccxt.venues import VENUES
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Feed
from hfthot_platform.adapters.recognise import ADAPTERS, recognise
from hfthot_platform.app.feeds import build_feeds
from hfthot_platform.core.errors import BadRequestError, HfthotError, RejectedFileError, SourceUnavailableError
from hfthot_platform.core.settings import FeedSettings, load_settings
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.contracts.market import SOURCES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.storage.lakehouse.audit import audit
from tests.adapters import replay_server as venues
from tests.adapters.archive_server import ArchiveServer
from tests.recordings import CSV, PERP, STREAMS, XRP, Generated, tape, write_archive

SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._]*(-[A-Z0-9._]+)*")
START = datetime(2024, 1, 1, tzinfo=UTC)
MIDDLE, END = START + timedelta(hours=2), START + timedelta(hours=5)
#: The present: bars of the day are not finished, those of minutes are.
NOW = START + timedelta(hours=11, seconds=30)
MINUTE = 60_000_000
#: Tables whose rows are not of a time: they are what they are now.
TIMELESS = {"market.instruments"}


class Pace:
    """A clock that only waiting moves: a rate limit or a pause between tries costs no time of the test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Case:
    """A feed that is built from settings, a span that it has rows for, and how its source is made to fail."""

    feed: Feed
    requests: Callable[[], int] = lambda: 0
    #: Makes the source fail in the middle; None where nothing can: it computes, or reads what is installed.
    fail: Callable[[], None] | None = None
    heal: Callable[[], None] = lambda: None
    start: datetime = START
    middle: datetime = MIDDLE
    end: datetime = END
    known: dict[tuple[str, datetime, datetime], list[Batch]] = field(default_factory=dict)

    def batches(self, table: str, start: datetime | None = None, end: datetime | None = None) -> list[Batch]:
        """Return what the feed yields, asked for once."""
        key = table, start or self.start, end or self.end
        if key not in self.known:
            self.known[key] = list(self.feed.fetch(*key))
        return self.known[key]

    def rows(self, table: str, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
        """Return the rows that the feed yields, as one frame with the contract's order of columns."""
        return together(table, self.batches(table, start, end))


def together(table: str, batches: list[Batch]) -> pl.DataFrame:
    declared = contract(table).polars_schema
    empty = pl.DataFrame(schema=declared)
    return pl.concat([empty, *(batch.rows.drop(ROW_NUMBER, strict=False) for batch in batches)], how="diagonal")


# --- feeds: one entry for each kind, and for each exchange format ---------------------------------------------------


@contextmanager
def sample(_folder: Path) -> Iterator[Case]:
    start = datetime(2010, 1, 1, tzinfo=UTC)
    yield Case(_built({"kind": "sample"}), start=start, middle=start.replace(month=6), end=start.replace(year=2012))


@contextmanager
def simulated(_folder: Path) -> Iterator[Case]:
    made = {"kind": "simulated", "symbols": ["ALPHA-USDT", "BRAVO-USDT"], "trades_per_day": 2_000}
    yield Case(_built(made), end=START + timedelta(hours=30))


ARCHIVE: dict[str, Any] = {
    "kind": "binance_archive",
    "symbols": ["BTC-USDT", "ETH-USDT"],
    "tables": ["market.trades", "market.bars_1m", "market.bars"],
}
# Over New Year of 2025, when the archive changed the unit of its times.
ARCHIVE_SPAN = {"start": datetime(2024, 12, 30, 6, tzinfo=UTC), "middle": datetime(2024, 12, 31, 12, tzinfo=UTC)}
ARCHIVE_SPAN |= {"end": datetime(2025, 1, 1, 18, tzinfo=UTC)}


@contextmanager
def archive_folder(folder: Path) -> Iterator[Case]:
    write_archive(folder / "mirror", ["BTCUSDT", "ETHUSDT"], date(2024, 12, 30), 3)
    yield Case(_built(ARCHIVE | {"location": str(folder / "mirror")}), **ARCHIVE_SPAN)


@contextmanager
def archive_http(folder: Path) -> Iterator[Case]:
    write_archive(folder / "remote", ["BTCUSDT"], date(2024, 12, 30), 3)
    server = ArchiveServer(folder / "remote")

    def fail() -> None:
        """Forget what was downloaded but the first day, and be busy from then on."""
        for path in (folder / "scratch").rglob("*.zip*"):
            if "2024-12-30" not in path.name:
                path.unlink()
        server.fail = [503] * 1000

    def heal() -> None:
        server.fail = []

    yield Case(
        _built(ARCHIVE | {"location": server.url, "symbols": ["BTC-USDT"]}, scratch=folder / "scratch"),
        requests=lambda: len(server.requests),
        fail=fail,
        heal=heal,
        **ARCHIVE_SPAN,
    )
    server.close()


#: How exchanges spell intervals, in minutes.
SPELLED = {"1": 1, "5": 5, "15": 15, "60": 60, "1440": 1440, "1m": 1, "5m": 5, "15m": 15, "1h": 60, "1H": 60}
SPELLED |= {"1d": 1440, "1D": 1440, "1Dutc": 1440, "ONE_MINUTE": 1, "FIVE_MINUTE": 5, "FIFTEEN_MINUTE": 15}
SPELLED |= {"ONE_HOUR": 60, "ONE_DAY": 1440}


class ByInterval:
    """An exchange whose bars are those of the interval that a request spells."""

    def __init__(self, exchange: Any) -> None:
        self.exchange = exchange

    def answer(self, path: str, query: dict[str, str], body: Any) -> Any:
        asked = {**query, **((body or {}).get("req") or {})}
        names = [asked[name] for name in ("interval", "bar", "granularity") if name in asked]
        names += re.findall(r"trade:(\w+):", path)
        self.exchange.bars = made_bars(SPELLED[names[0]]) if names else []
        return self.exchange.answer(path, query, body)


def made_bars(minutes: int) -> list[Any]:
    first = int(START.timestamp()) * 1_000_000
    count = 720 // minutes or 1
    return [
        venues.Bar(first + n * minutes * MINUTE, f"{100 + n % 7}.0", "120.0", "90.0", f"{100 + n % 5}.5", "3.25")
        for n in range(count)
    ]


def exchange(name: str, answers: Callable[..., Any], symbol: str, path: str, *, good: int = 1) -> Callable[[Path], Any]:
    """Return the entry of an exchange's REST format.

    `path` ends the address of its trades; of these answers so many are good before it fails.
    """

    @contextmanager
    def entry(_folder: Path) -> Iterator[Case]:
        first = int(START.timestamp()) * 1_000_000 - MINUTE
        trades = tape("rest", 1_500, first, 5_000, gap=18.0, price="40000.0", tick="0.1", lot="0.001")
        server = venues.ReplayServer(ByInterval(answers([venues.Trade(*trade) for trade in trades])))
        made = {"kind": "ccxt", "exchange": name, "symbols": [symbol], "base_url": server.url}
        tables = ["market.trades", "market.bars_1m", "market.bars", "market.instruments"]
        feed = _built(made | {"tables": tables})

        def fail() -> None:
            server.script(path, [None] * good)
            server.always(path, venues.Status(503))

        yield Case(feed, requests=lambda: len(server.seen), fail=fail, heal=server.heal)
        server.close()

    return entry


def _all_kept(trades: list[Any]) -> Any:
    return venues.Hyperliquid(trades, kept_trades=len(trades))


#: Kind of the settings, and name of the entry -> what makes it.  Exchanges that ccxt knows under several names share
#: a format (`VENUES`); `bitfinex` stands for those that are read by ccxt's unified methods.
FEEDS: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("sample", "sample"): sample,
    ("simulated", "simulated"): simulated,
    ("binance_archive", "folder"): archive_folder,
    ("binance_archive", "http"): archive_http,
    ("ccxt", "binance"): exchange("binance", venues.Binance, "BTC-USDT", "/aggTrades"),
    ("ccxt", "binanceusdm"): exchange("binanceusdm", venues.Binance, "BTC-USDT-PERP", "/aggTrades"),
    ("ccxt", "binancecoinm"): exchange("binancecoinm", venues.Binance, "BTC-USD-PERP", "/aggTrades"),
    ("ccxt", "kraken"): exchange("kraken", venues.Kraken, "BTC-USD", "/Trades"),
    ("ccxt", "okx"): exchange("okx", venues.Okx, "BTC-USDT", "/history-trades"),
    ("ccxt", "coinbase"): exchange("coinbase", venues.Coinbase, "BTC-USD", "/ticker"),
    ("ccxt", "hyperliquid"): exchange("hyperliquid", _all_kept, "BTC-USDC-PERP", "/info", good=0),
    ("ccxt", "bitfinex"): exchange("bitfinex", venues.Bitfinex, "BTC-USD", "/hist"),
}


def _built(settings: dict[str, Any], **others: Any) -> Feed:
    pace = Pace()
    loaded = load_settings(feeds=[settings], **others)
    (feed,) = build_feeds(loaded, lambda: NOW, sleep=pace.sleep, monotonic=pace.now)
    return feed


@pytest.fixture(scope="module", params=FEEDS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with ExitStack() as stack:
        yield stack.enter_context(FEEDS[request.param](tmp_path_factory.mktemp("feed")))


PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


def test_the_page_states_what_is_tested_here() -> None:
    stated = re.findall(r"^\| ([FA]\d+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tested = [name.split("_")[1].upper() for name in globals() if re.match(r"test_[fa]\d+_", name)]
    assert stated == tested


# --- F: what a feed must do -----------------------------------------------------------------------------------------


def test_every_kind_of_feed_and_every_exchange_format_has_an_entry() -> None:
    union, _discriminator = get_args(FeedSettings)
    kinds = {settings.model_fields["kind"].default for settings in get_args(union)}
    assert {kind for kind, _ in FEEDS} == kinds
    assert set(VENUES) <= {name for kind, name in FEEDS if kind == "ccxt"}


def test_f1_its_tables_are_contracts_and_at_least_one(case: Case) -> None:
    assert case.feed.name
    assert case.feed.tables
    for table in case.feed.tables:
        assert contract(table).name == table


@pytest.mark.parametrize(("kind", "name"), FEEDS, ids=lambda part: part)
def test_f2_building_it_contacts_nothing(kind: str, name: str) -> None:
    nobody = "http://127.0.0.1:9"
    settings = {
        "binance_archive": ARCHIVE | {"location": nobody},
        "ccxt": {"kind": "ccxt", "exchange": name, "symbols": ["BTC-USD"], "base_url": nobody},
    }
    feed = _built(settings.get(kind, {"kind": kind}))
    assert feed.tables


def test_f3_rows_have_the_columns_and_types_of_the_contract(case: Case) -> None:
    for table in case.feed.tables:
        declared = contract(table)
        filled = {declared.partition_by, "schema_version"}
        needed = {column.name for column in declared.columns if not column.nullable} - filled
        assert case.batches(table), table
        for batch in case.batches(table):
            found = dict(batch.rows.drop(ROW_NUMBER, strict=False).schema)
            assert batch.table == table
            assert needed <= set(found)
            assert found == {name: declared.polars_schema[name] for name in found}


def test_f4_rows_pass_the_audit_without_a_rejection_or_a_repetition(case: Case) -> None:
    for table in case.feed.tables:
        audited = audit(contract(table), case.rows(table).drop("schema_version", strict=False))
        assert audited.rejected.height == 0, table
        assert audited.duplicates == 0, table
        assert sum(batch.rejected.height for batch in case.batches(table)) == 0


def test_f5_times_lie_in_the_span_its_begin_included_and_its_end_not(case: Case) -> None:
    for table in set(case.feed.tables) - TIMELESS:
        rows = case.rows(table)
        at = rows["date"].cast(pl.Datetime("us", "UTC")) if table == "market.closes" else rows["ts"]
        assert at.min() >= case.start
        assert at.max() < case.end


def test_f6_rows_are_in_order_of_time_for_each_series(case: Case) -> None:
    for table in set(case.feed.tables) - TIMELESS:
        rows = case.rows(table)
        series = ["venue", "symbol", *(["interval"] if "interval" in rows.columns else [])]
        for part in rows.partition_by(series):
            assert part["date" if table == "market.closes" else "ts"].is_sorted()


def test_f7_the_same_span_gives_the_same_rows(case: Case) -> None:
    for table in case.feed.tables:
        again = together(table, list(case.feed.fetch(table, case.start, case.end)))
        assert_frame_equal(again, case.rows(table))


@pytest.mark.soak
def test_f8_the_parts_of_a_span_together_are_the_whole(case: Case) -> None:
    for table in set(case.feed.tables) - TIMELESS:
        parts = [case.rows(table, case.start, case.middle), case.rows(table, case.middle, case.end)]
        assert all(part.height for part in parts), table
        key = [name for name in contract(table).primary_key if name in parts[0].columns]
        key = [name for name in key if parts[0][name].null_count() == 0]
        # A reference may name the span of the request.
        whole = case.rows(table).drop("source_ref").sort(key)
        assert_frame_equal(pl.concat(parts).drop("source_ref").sort(key), whole)


def test_f9_an_empty_span_gives_nothing_and_asks_nobody(case: Case) -> None:
    for table in set(case.feed.tables) - TIMELESS:
        asked = case.requests()
        assert list(case.feed.fetch(table, case.middle, case.middle)) == []
        assert case.requests() == asked


def test_f10_each_row_that_was_read_is_accounted_for(case: Case) -> None:
    for table in case.feed.tables:
        for batch in case.batches(table):
            assert batch.rows_read == batch.rows.height + batch.rejected.height + batch.gaps


def test_f11_each_row_says_where_it_came_from(case: Case) -> None:
    for table in case.feed.tables:
        for batch in case.batches(table):
            assert set(batch.rows["source"]) <= set(SOURCES)
            assert batch.source_ref
            assert batch.rows["source_ref"].unique().to_list() == [batch.source_ref]


def test_f12_what_cannot_be_asked_is_refused_with_a_typed_error(case: Case) -> None:
    table = case.feed.tables[0]
    naive, zoned = case.start.replace(tzinfo=None), case.start
    for asked in (("market.nothing", zoned, case.end), (table, naive, case.end), (table, case.end, zoned)):
        with pytest.raises(BadRequestError):
            list(case.feed.fetch(*asked))
    with pytest.raises(BadRequestError, match="does not fill"):
        list(case.feed.fetch("market.universe", zoned, case.end))


def test_f13_a_source_that_fails_is_given_up_and_never_looks_like_the_end_of_the_data(case: Case) -> None:
    if case.fail is None:
        return  # It asks nobody: its entry says so.
    table = "market.trades"
    whole, asked, got = case.rows(table), case.requests(), []
    case.fail()
    try:
        with pytest.raises(SourceUnavailableError) as caught:
            got.extend(case.feed.fetch(table, case.start, case.end))
    finally:
        case.heal()
    assert case.requests() - asked <= 30
    begun = together(table, got).drop("source_ref")
    # What came is of the answer, and from its beginning; where to go on is said, and nothing before it is missing.
    assert_frame_equal(begun, whole.drop("source_ref").head(begun.height))
    if caught.value.resume_from is not None:
        assert begun.height == whole.filter(pl.col("ts") < caught.value.resume_from).height
    # Once the source answers again, so does the feed.
    assert_frame_equal(together(table, list(case.feed.fetch(table, case.start, case.end))), whole)


def test_f14_symbols_and_venues_are_canonical(case: Case) -> None:
    for table in case.feed.tables:
        for venue, symbol in case.rows(table).select("venue", "symbol").unique().rows():
            assert re.fullmatch("[a-z][a-z0-9_]*", venue)
            assert SYMBOL.fullmatch(symbol)


def test_f15_a_bar_is_final_only_once_its_interval_is_over(case: Case) -> None:
    for table in {"market.bars_1m", "market.bars"} & set(case.feed.tables):
        rows = case.rows(table)
        assert rows["final"].any()
        assert (rows["ts_close"] > rows["ts"]).all()
        assert not rows.filter(pl.col("final") & (pl.col("ts_close") > max(NOW, case.end + timedelta(days=1)))).height
        if "1d" in set(rows["interval"] if "interval" in rows.columns else []) and case.start == START:
            assert not rows.filter(pl.col("interval") == "1d")["final"].any()


def test_f16_memory_is_bounded(case: Case) -> None:
    for table in case.feed.tables:
        assert max(batch.rows.height for batch in case.batches(table)) <= BATCH_ROWS


@pytest.mark.soak
def test_f17_progress_has_a_unit_and_never_passes_its_total(case: Case) -> None:
    for table in set(case.feed.tables) - TIMELESS:
        said: list[tuple[int, int | None, str]] = []
        list(case.feed.fetch(table, case.start, case.end, progress=lambda *report, to=said: to.append(report)))
        for done, total, unit in said:
            assert unit
            assert done >= 0
            assert total is None or done <= total


# --- files: one entry for each adapter ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A file, written by `write`, and what its user declares of it."""

    write: Callable[[Generated, Path], Path]
    declared: dict[str, Any] = field(default_factory=dict)
    #: Whether it holds bars of which the last one may be unfinished.
    open_end: bool = False


def recorded(name: str, **declared: Any) -> Callable[[], Example]:
    open_end = declared.pop("open_end", False)
    return lambda: Example(lambda generated, _folder: generated / name, declared, open_end)


def text(name: str, *lines: str, **declared: Any) -> Callable[[], Example]:
    def write(_generated: Generated, folder: Path) -> Path:
        (folder / name).write_text("\n".join([*lines, ""]))
        return folder / name

    return lambda: Example(write, declared)


def archive_file(_generated: Generated, folder: Path) -> Path:
    write_archive(folder, ["BTCUSDT"], date(2025, 1, 1), 1)
    return folder / "data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-01.zip"


CLOSES = ("2023-05-02,60.5,320.25", "2023-05-03,61,321", "2023-05-04,61.25,319")
FILES: dict[tuple[str, str], Callable[[], Example]] = {
    ("binance_stream", "spot"): recorded(f"{STREAMS}/spot/btcusdt_20240808.gz"),
    ("binance_stream", "coins"): recorded(f"{STREAMS}/cm/btcusd_perp_20240809.gz"),
    ("binance_archive", "trades"): lambda: Example(archive_file),
    ("actions", "kinds"): text(
        "actions.csv",
        "Ex-Date,Ticker,Type,Split Ratio,Cash Amount,Currency",
        *("2022-07-18,GOOGL,Split,20,,", "2023-05-02,BRK-B,Cash Dividend,,1.5,USD"),
        venue="us_equity",
    ),
    ("closes", "wide"): text("closes.csv", "Date,KO,BRK.B", *CLOSES, venue="us_equity"),
    ("json", "freqtrade"): recorded(f"{XRP}/XRP_ETH-trades.json.gz", venue="binance"),
    ("json", "ccxt"): recorded(f"{XRP}/kraken/ETH_BTC-trades.json.gz"),
    ("columnar", "parquet"): recorded(f"{PERP}/perp_1m.parquet", venue="binance_usdm", open_end=True),
    ("columnar", "feather"): recorded(f"{XRP}/XRP_ETH-1m.feather", venue="binance", open_end=True),
    ("csv", "hours"): recorded(f"{CSV}/Coinbase_BTCUSD_1h.csv.gz", open_end=True),
    ("csv", "trades"): recorded(f"{XRP}/kraken/trades_csv/BCHEUR.csv"),
}


@dataclass
class Read:
    """A file as its adapter reads it, in batches of at most 100 rows."""

    path: Path
    declared: CsvMapping | None
    adapter: str
    table: str
    batches: list[Batch]
    open_end: bool

    def rows(self) -> pl.DataFrame:
        return together(self.table, self.batches)


ROWS = 100


def read(path: Path, declared: CsvMapping | None, batch_rows: int) -> tuple[str, str, list[Batch]]:
    probe, claim = recognise(path, declared)
    return (
        claim.adapter.name,
        claim.table,
        list(claim.adapter.read(probe, claim, source_ref="file:1", batch_rows=batch_rows)),
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return Generated(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module", params=FILES, ids="-".join)
def file(request: pytest.FixtureRequest, generated: Generated, tmp_path_factory: pytest.TempPathFactory) -> Read:
    example = FILES[request.param]()
    path = example.write(generated, tmp_path_factory.mktemp("file"))
    declared = CsvMapping(**example.declared) if example.declared else None
    adapter, table, batches = read(path, declared, ROWS)
    assert adapter == request.param[0], "its own adapter recognises it"
    return Read(path, declared, adapter, table, batches, example.open_end)


def test_every_file_adapter_has_an_entry() -> None:
    assert {adapter for adapter, _ in FILES} == {adapter.name for adapter in ADAPTERS}


def test_a1_its_table_is_a_contract_whose_columns_and_types_it_fills(file: Read) -> None:
    declared = contract(file.table)
    needed = {column.name for column in declared.columns if not column.nullable}
    for batch in file.batches:
        found = dict(batch.rows.drop(ROW_NUMBER, strict=False).schema)
        assert needed - {declared.partition_by, "schema_version"} <= set(found) | {"date"}
        assert found == {name: declared.polars_schema[name] for name in found}


def test_a2_rows_pass_the_audit_without_a_rejection_or_a_repetition(file: Read) -> None:
    audited = audit(contract(file.table), file.rows().drop("schema_version", strict=False))
    assert (audited.rejected.height, audited.duplicates) == (0, 0)
    assert sum(batch.rejected.height for batch in file.batches) == 0


def test_a3_each_row_that_was_read_is_accounted_for_once(file: Read) -> None:
    # A line of a wide table holds a row for each symbol.
    places = [place for batch in file.batches for place in batch.rows.select(ROW_NUMBER, "symbol").iter_rows()]
    assert len(set(places)) == len(places)
    assert sum(batch.rows_read for batch in file.batches) == len(places) + sum(batch.gaps for batch in file.batches)


def test_a4_memory_is_bounded_and_the_size_of_batches_changes_nothing(file: Read) -> None:
    assert max(batch.rows.height for batch in file.batches) <= ROWS
    _, table, whole = read(file.path, file.declared, BATCH_ROWS)
    assert_frame_equal(together(table, whole), file.rows())


def test_a5_each_row_says_where_it_came_from(file: Read) -> None:
    rows = file.rows()
    assert set(rows["source"]) <= set(SOURCES)
    assert rows["source_ref"].unique().to_list() == ["file:1"]


def test_a6_symbols_and_venues_are_canonical(file: Read) -> None:
    for venue, symbol in file.rows().select("venue", "symbol").unique().rows():
        assert re.fullmatch("[a-z][a-z0-9_]*", venue)
        assert SYMBOL.fullmatch(symbol)


def test_a7_the_last_bar_of_a_file_that_does_not_say_when_it_was_made_is_not_final(file: Read) -> None:
    if not file.open_end:
        assert "final" not in file.rows().columns or file.rows()["final"].null_count() == file.rows().height
        return
    for series in file.rows().partition_by("symbol"):
        newest = series["ts"] == series["ts"].max()
        assert not series.filter(newest)["final"].any()
        assert series.filter(~newest)["final"].all()


def test_a8_a_container_that_is_cut_off_is_refused_before_any_row(file: Read, tmp_path: Path) -> None:
    if file.path.suffix == ".csv":
        return  # A plain text has no end that could be missing; its last line is judged by its own rules.
    cut = tmp_path / file.path.name
    content = file.path.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(RejectedFileError) as caught:
        recognise(cut, file.declared)
    assert isinstance(caught.value, HfthotError)
    assert caught.value.reason == "truncated"
