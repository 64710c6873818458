"""The `ccxt` feed: history and newest trades, bars and instruments of an exchange, over REST.

`CcxtFeed` adds to what `ccxt_venues` knows of each exchange: retries, deduplication, order, batches of
bounded size, provenance, errors that say where to resume.  Nothing is lost silently: what a venue no longer
keeps is a `HistoryUnavailableError`, what does not read is in the batch's `rejected`.

    feed = CcxtFeed("binance", ["BTC-USDT"], clock=lambda: datetime.now(UTC))
    for batch in feed.fetch("market.trades", start, end):
        ...
"""

from __future__ import annotations

import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import polars as pl

from hfthot_platform.adapters.ccxt.venues import (
    INTERVALS,
    VENUES,
    BarRow,
    Market,
    Page,
    StalledError,
    TimeRange,
    TradeRow,
    UnexpectedAnswerError,
    Unified,
    canonical_symbol,
)
from hfthot_platform.adapters.ports import Batch, Progress, check_request, no_progress
from hfthot_platform.core.errors import (
    BadRequestError,
    HistoryUnavailableError,
    SourceError,
    SourceRefusedError,
    SourceUnavailableError,
    nearest,
)
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.retry import RetryPolicy, retry
from hfthot_platform.core.time import microseconds, moment
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA
from hfthot_platform.domain.market.trade_ids import arrival_rank, synthetic_trade_id, venue_trade_id

__all__ = ["CcxtFeed", "CcxtOptions", "Credentials", "SecretValue", "venue_name"]

_T = TypeVar("_T")
_TABLES: Final = ("market.trades", "market.bars_1m", "market.bars", "market.instruments")
_TIME: Final = pl.Datetime("us", "UTC")
_CONTRACT_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Z0-9._]*(-[A-Z0-9._]+)*")
# These are answers for good: bad request, credentials, region or firewall, unknown or removed endpoint.
_FINAL_STATUS: Final = frozenset({400, 401, 403, 404, 405, 410, 451})


class SecretValue(Protocol):
    """A value that shows itself only when asked (`pydantic.SecretStr`)."""

    def get_secret_value(self) -> str:
        """Return the value in clear."""
        ...


@dataclass(frozen=True)
class Credentials:
    """An exchange's API key, where its public endpoints give more with one.  Never shown."""

    api_key: SecretValue = field(repr=False)
    secret: SecretValue = field(repr=False)
    password: SecretValue | None = field(default=None, repr=False)

    def redact(self, text: str) -> str:
        """Return a text without these values, wherever they come from (an exchange may echo them)."""
        for secret in (self.api_key, self.secret, self.password):
            if secret is not None and secret.get_secret_value():
                text = text.replace(secret.get_secret_value(), "***")
        return text

    def apply(self, exchange: Any) -> None:
        """Give the values to ccxt's object for an exchange."""
        exchange.apiKey = self.api_key.get_secret_value()
        exchange.secret = self.secret.get_secret_value()
        if self.password is not None:
            exchange.password = self.password.get_secret_value()


@dataclass(frozen=True)
class CcxtOptions:
    """How an exchange is reached and how patiently."""

    #: Scheme, host and port that replace the exchange's own (a mirror, a test server).
    base_url: str | None = None
    #: URL of a proxy for all requests.
    proxy: str | None = field(default=None, repr=False)
    #: Rows asked for per page, at most; None for as many as the exchange gives.
    page_rows: int | None = None
    #: Rows per batch; REST pages are small and slow, so a batch is too.
    batch_rows: int = 50_000
    #: Attempts per request before giving up.
    attempts: int = 6
    #: Longest pause between two attempts, in seconds; a longer Retry-After gives up at once.
    longest_wait: float = 120.0
    #: First pause between two attempts, in seconds; it doubles from attempt to attempt.
    first_wait: float = 0.5
    #: Seconds until a request without an answer counts as failed.
    timeout: float = 30.0
    #: Milliseconds between two requests; None for ccxt's own figure for the exchange.
    rate_limit_ms: float | None = None
    #: Intervals of `market.bars`.
    intervals: tuple[str, ...] = tuple(name for name in INTERVALS if name != "1m")


def venue_name(exchange_id: str, market: Mapping[str, Any]) -> str:
    """Return the canonical venue of a ccxt market: Binance's three order book systems are three venues."""
    if exchange_id in {"binance", "binanceusdm", "binancecoinm"}:
        if not market.get("contract"):
            return "binance"
        return "binance_coinm" if market.get("inverse") else "binance_usdm"
    return exchange_id


class _TransientError(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class _GaveUpError(Exception):
    """A request failed on every attempt."""

    def __init__(self, what: str, retry_after: float | None) -> None:
        self.what = what
        self.retry_after = retry_after
        super().__init__(what)


@dataclass
class _ExchangeConnection:
    """The connection to one exchange: ccxt's object, the retries around it, and what was last heard."""

    exchange: Any
    options: CcxtOptions
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    monotonic: Callable[[], float]
    credentials: Credentials | None = None
    status: int | None = None
    retry_after: str | None = None
    #: When the newest request went out, by `monotonic`.
    asked_at: float = float("-inf")

    def __post_init__(self) -> None:
        """Listen to each answer's status and Retry-After, which ccxt's errors do not carry.

        An answer that is not JSON is made an error: ccxt hands it on as text, in which its own parsers then
        find no rows, so that a cut-off page would look like the end of the data.
        """
        import ccxt

        def heard(code: int, _reason: str, _url: str, _method: str, headers: Any, body: str, *_: Any) -> str:
            self.status, self.retry_after = code, headers.get("Retry-After")
            return body.strip()

        as_json = self.exchange.parse_json

        def parsed(body: str) -> Any:
            content = as_json(body)
            if content is None and (self.status or 200) < 400:
                raise ccxt.BadResponse(f"the answer is not complete JSON, but {len(body)} characters of text")
            return content

        self.exchange.throttle = self._pace
        self.exchange.on_rest_response = heard
        self.exchange.parse_json = parsed

    def _pace(self, cost: float | None = None) -> None:
        """Wait until the exchange's rate limit lets a request of this cost follow the one before it.

        In place of ccxt's own waiting, which goes by the wall clock.
        """
        due = self.asked_at + self.exchange.rateLimit * (1 if cost is None else cost) / 1000
        if (pause := due - self.monotonic()) > 0:
            self.sleep(pause)
        self.asked_at = self.monotonic()

    def ask(self, method: str, query: dict[str, Any], pick: Callable[[Any], list[Any]]) -> list[Any]:
        """Return the rows of an endpoint's answer.

        Raises:
            _GaveUpError: no useful answer on any attempt.
            SourceRefusedError: the exchange refuses for good.
        """
        shown = ", ".join(f"{name}={value}" for name, value in query.items())

        def once() -> list[Any]:
            call = getattr(self.exchange, method)
            return pick(call(**query) if method.startswith("fetch_") else call(query))

        return self.patiently(once, f"{method}({shown})")

    def patiently(self, call: Callable[[], _T], named: str) -> _T:
        """Return what `call` returns, trying again on what may pass; errors as in `ask`."""
        options = self.options

        def gave_up(attempts: int, last: Exception) -> _GaveUpError:
            tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            asked = last.retry_after if isinstance(last, _TransientError) else None
            return _GaveUpError(f"{self._redacted(named)} failed on {tried}; the last: {last}", asked)

        return retry(
            partial(self._once, call, named),
            RetryPolicy(options.attempts, options.first_wait, options.longest_wait),
            on=_TransientError,
            gave_up=gave_up,
            sleep=self.sleep,
        )

    def _once(self, call: Callable[[], _T], named: str) -> _T:
        import ccxt

        self.status = self.retry_after = None
        failure: Exception
        try:
            return call()
        except ccxt.BaseError as error:
            failure = self._judged(error, ccxt, named)
        except UnexpectedAnswerError as error:
            failure = _TransientError(self._redacted(str(error)), self._asked_to_wait())
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            # ccxt's own parsing of an answer of another shape than it knows
            failure = _TransientError(f"ccxt could not read the answer ({type(error).__name__})")
        # Raised here, not above, so that ccxt's error, whose text may hold what was sent, is not chained to it.
        raise failure

    def _judged(self, error: Exception, ccxt: Any, named: str) -> Exception:
        """Return the typed error that says whether trying again can help."""
        status = f"HTTP {self.status}, " if self.status is not None else ""
        text = re.sub(r"\s+", " ", str(error))[:300]
        detail = self._redacted(f"{status}{type(error).__name__}: {text}")
        throttled = isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded) or self.status in {418, 429}
        broken = self.status is not None and self.status >= 500
        passing = isinstance(error, ccxt.OperationFailed) and self.status not in _FINAL_STATUS
        if throttled or broken or passing:
            return _TransientError(detail, self._asked_to_wait())
        hint = "Check the exchange's terms and the request. Repeating the same request does not help."
        if isinstance(error, ccxt.BadSymbol):
            hint = "Check the spelling, and that the market still exists."
        elif isinstance(error, ccxt.AuthenticationError) or self.status == 401:
            hint = "Check the API key and its permissions."
        elif isinstance(error, ccxt.RestrictedLocation) or self.status in {403, 451}:
            hint = "The exchange does not serve this location. Use a permitted host or `proxy`."
        elif isinstance(error, ccxt.NotSupported):
            hint = "This exchange does not offer this data over REST."
        return SourceRefusedError(f"{self._redacted(named)} was refused: {detail}", hint=hint)

    def _asked_to_wait(self) -> float | None:
        if self.retry_after is None:
            return None
        if re.fullmatch(r"\d+(\.\d+)?", self.retry_after):
            return float(self.retry_after)
        try:
            until = email.utils.parsedate_to_datetime(self.retry_after)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max((until - self.clock()).total_seconds(), 0.0)

    def _redacted(self, text: str) -> str:
        return self.credentials.redact(text) if self.credentials else text


def _connect(
    exchange_id: str,
    options: CcxtOptions,
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
    credentials: Credentials | None,
) -> _ExchangeConnection:
    """Make ccxt's object for an exchange, rate limiter on, without keys yet."""
    import ccxt

    if exchange_id not in ccxt.exchanges:
        hint = nearest(exchange_id, ccxt.exchanges) or "See ccxt's list of exchanges."
        raise BadRequestError(f"unknown exchange {exchange_id!r}", where="ccxt", hint=hint)
    exchange = getattr(ccxt, exchange_id)({"enableRateLimit": True, "timeout": int(options.timeout * 1000)})
    # ccxt logs request headers, keys included, at DEBUG level.
    exchange.logger = logging.getLogger(f"{__name__}.silent")
    exchange.logger.disabled = True
    # Currencies are not needed, and are private endpoints on some exchanges.
    exchange.has["fetchCurrencies"] = False
    exchange.options.update(VENUES.get(exchange_id, Unified).options)
    if options.rate_limit_ms is not None:
        exchange.rateLimit = options.rate_limit_ms
    if options.base_url is not None:
        exchange.urls["api"] = _rebased(exchange.urls["api"], options.base_url.rstrip("/"))
    if options.proxy is not None:
        plain = (options.base_url or "https:").startswith("http:")
        setattr(exchange, "httpProxy" if plain else "httpsProxy", options.proxy)
    return _ExchangeConnection(exchange, options, clock, sleep, monotonic, credentials)


def _rebased(urls: Any, base_url: str) -> Any:
    if isinstance(urls, dict):
        return {name: _rebased(url, base_url) for name, url in urls.items()}
    return re.sub(r"^https?://[^/]+", lambda _: base_url, urls) if isinstance(urls, str) else urls


class CcxtFeed:
    """Trades, bars and instruments of one exchange that ccxt speaks.

    Args:
        exchange_id: ccxt's id: binance, binanceusdm, kraken, okx, coinbase, hyperliquid, ...
        symbols: canonical (`BTC-USDT`, `BTC-USDT-PERP`, `BTC-USD-240927`) or ccxt's (`BTC/USDT:USDT`).
            None at all is allowed for `market.instruments`, which then lists the whole exchange.
        clock: returns the present time, with zone; decides which bars are finished.
        credentials: an API key, where there is one.  It is used for public endpoints only and never shown.
        options: where and how patiently.
        markets: another feed's `markets`, which saves loading them again.
        sleep: waits, between attempts and for the rate limit.
        monotonic: the seconds that the rate limit goes by.

    The requests of one feed keep the distance of ccxt's figure for the exchange; two feeds of one exchange know
    nothing of each other, so use one per exchange and process, one after another.

    The methods raise BadRequestError (unknown exchange, ambiguous symbol, time without zone),
    SourceRefusedError (unknown symbol, credentials, region: never retried), HistoryUnavailableError (the
    venue no longer keeps the begin of the span) and SourceUnavailableError (retried, in vain).
    """

    def __init__(
        self,
        exchange_id: str,
        symbols: Sequence[str] = (),
        *,
        clock: Callable[[], datetime],
        credentials: Credentials | None = None,
        options: CcxtOptions | None = None,
        markets: Sequence[Market] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange_id = exchange_id
        self._symbols = tuple(symbols)
        self._clock = clock
        self._credentials = credentials
        self._options = options or CcxtOptions()
        self._known_markets = markets
        self._sleep = sleep
        self._monotonic = monotonic
        self._connected: _ExchangeConnection | None = None
        for interval in self._options.intervals:
            if interval not in INTERVALS or interval == "1m":
                hint = nearest(interval, INTERVALS) or f"Known: {', '.join(INTERVALS)}."
                raise BadRequestError(f"unknown interval {interval!r}", where=self.name, hint=hint)

    def __repr__(self) -> str:
        return f"CcxtFeed({self._exchange_id!r}, {list(self._symbols)!r})"

    @property
    def name(self) -> str:
        """Return the feed's name, as in settings and provenance."""
        return f"ccxt/{self._exchange_id}"

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables that this feed can fill."""
        return _TABLES

    @property
    def markets(self) -> list[Market]:
        """Return ccxt's description of all markets; they are loaded once."""
        return list(self._line().exchange.markets.values())

    def close(self) -> None:
        """Close the connections; the feed opens them again when used."""
        if self._connected is not None:
            self._known_markets = self.markets
            self._connected.exchange.close()
            self._connected = None

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the rows with start <= time < end, symbol by symbol, ordered by time, in bounded memory.

        A bar of an interval without trades is left out, as the tables want it.  For `market.instruments` the
        span does not matter: the exchange knows the present only.

        Raises:
            SourceUnavailableError: with `resume_from`; every complete row before it was yielded.
            HistoryUnavailableError: with `available_from`.
            SourceRefusedError: the exchange refuses for good.
            BadRequestError: as `check_request`, and an ambiguous symbol.
        """
        check_request(self.name, self.tables, table, start, end)
        self._check_table(table)
        if start == end and table != "market.instruments":
            return iter(())
        return self._fetch(table, start, end, progress)

    def latest(self, table: str, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the newest trades or bars of each symbol, one request each, unfinished bars included.

        Raises:
            SourceUnavailableError, SourceRefusedError, BadRequestError: as in `fetch`.
        """
        self._check_table(table)
        return self._latest(table, progress)

    def _check_table(self, table: str) -> None:
        if table not in _TABLES:
            hint = nearest(table, _TABLES) or f"It fills {', '.join(_TABLES)}."
            raise BadRequestError(f"this feed does not fill {table!r}", where=self.name, hint=hint)
        if not self._symbols and table != "market.instruments":
            raise BadRequestError("no symbol is given", where=self.name, hint="Name at least one symbol.")

    # --- connection and markets ---

    def _line(self) -> _ExchangeConnection:
        if self._connected is None:
            self._connected = self._open()
        return self._connected

    def _open(self) -> _ExchangeConnection:
        line = _connect(self._exchange_id, self._options, self._clock, self._sleep, self._monotonic, self._credentials)
        if self._known_markets is not None:
            line.exchange.set_markets(list(self._known_markets))
        else:
            failure: SourceUnavailableError | None = None
            try:
                line.patiently(line.exchange.load_markets, "load_markets")
            except _GaveUpError as error:
                failure = SourceUnavailableError(error.what, where=self.name, hint=_later(error.retry_after))
            if failure is not None:
                raise failure
        # Only now: loading the markets would use keys for private endpoints that nothing here needs.
        if self._credentials is not None:
            self._credentials.apply(line.exchange)
        return line

    def _resolved(self, line: _ExchangeConnection) -> list[tuple[str, Market]]:
        """Return canonical symbol and market of each symbol asked for."""
        markets: dict[str, Market] = line.exchange.markets
        by_canonical: dict[str, list[Market]] = {}
        for market in markets.values():
            if name := canonical_symbol(market):
                by_canonical.setdefault(name, []).append(market)
        found: dict[tuple[str, str], tuple[str, Market]] = {}
        for symbol in self._symbols:
            candidates = [markets[symbol]] if symbol in markets else by_canonical.get(symbol, [])
            if not candidates:
                hint = nearest(symbol, [*by_canonical, *markets]) or "See `market.instruments`."
                raise SourceRefusedError(f"unknown symbol {symbol!r}", where=self.name, hint=hint)
            if len(candidates) > 1:
                names = " or ".join(repr(candidate["symbol"]) for candidate in candidates)
                raise BadRequestError(f"{symbol!r} may mean {names}", where=self.name, hint="Use ccxt's spelling.")
            (market,) = candidates
            name = canonical_symbol(market)
            if name is None or not _CONTRACT_SYMBOL.fullmatch(name):
                what = f"{symbol!r} has no canonical symbol"
                raise BadRequestError(what, where=self.name, hint="Options and indices are not supported.")
            key = (venue_name(self._exchange_id, market), name)
            other = found.setdefault(key, (name, market))[1]
            if other["symbol"] != market["symbol"]:
                what = f"{other['symbol']!r} and {market['symbol']!r} both map to {name!r}"
                raise BadRequestError(what, where=self.name, hint="Fetch one of them only.")
        return list(found.values())

    # --- history ---

    def _fetch(self, table: str, start: datetime, end: datetime, progress: Progress) -> Iterator[Batch]:
        line = self._line()
        now = microseconds(self._clock())
        if table == "market.instruments":
            yield self._instruments(line, moment(now), "vendor_history")
            return
        venue = VENUES.get(self._exchange_id, Unified)(line.ask, self._options.page_rows)
        span = TimeRange(microseconds(start), min(microseconds(end), now), now)
        wanted = self._resolved(line)
        jobs = [(symbol, market, interval) for symbol, market in wanted for interval in self._intervals(table)]
        total = 0
        for number, (symbol, market, interval) in enumerate(jobs):
            place = f"{self.name} {table} {symbol}{f' {interval}' if interval else ''}"
            ref = f"{place} {start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}/{end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            make = _FrameBuilder(
                table, venue_name(self._exchange_id, market), symbol, interval, ref, "vendor_history", now
            )
            pages = venue.bars(market, interval, span) if interval else venue.trades(market, span)
            gathered = _RowBuffer(make, span)
            failure: SourceError | None = None
            while failure is None:
                try:
                    page = next(pages, None)
                except _GaveUpError as error:
                    failure = self._unavailable(error.what, place, error.retry_after, gathered, span, jobs[number:])
                except StalledError as error:
                    failure = self._unavailable(str(error), place, None, gathered, span, jobs[number:])
                except HistoryUnavailableError as error:
                    first = error.available_from
                    failure = HistoryUnavailableError(error.what, where=place, hint=error.hint, available_from=first)
                except SourceRefusedError as error:
                    failure = SourceRefusedError(error.what, where=place, hint=error.hint)
                else:
                    if page is None:
                        break
                    total += gathered.take(page)
                    progress(total, None, "rows")
                    if gathered.height >= self._options.batch_rows:
                        yield from gathered.batches(gathered.complete)
            yield from gathered.batches(gathered.complete if failure else None)
            if failure:
                raise failure

    def _intervals(self, table: str) -> tuple[str, ...]:
        """Return the intervals to fetch; trades have the empty one."""
        return {"market.trades": ("",), "market.bars_1m": ("1m",)}.get(table, self._options.intervals)

    def _unavailable(
        self,
        what: str,
        place: str,
        retry_after: float | None,
        gathered: _RowBuffer,
        span: TimeRange,
        left: Sequence[tuple[str, Market, str]],
    ) -> SourceUnavailableError:
        """Return the error that says where to go on; symbols not begun yet must begin at the start."""
        done = moment(gathered.complete)
        resume = done if len(left) == 1 else moment(span.start)
        hint = f"Delivered up to {_iso(done)}; fetch again from {_iso(resume)}"
        hint += f" (not begun: {', '.join(' '.join(job[::2]).strip() for job in left[1:])})" if len(left) > 1 else ""
        return SourceUnavailableError(what, where=place, hint=f"{hint}. {_later(retry_after)}", resume_from=resume)

    # --- newest ---

    def _latest(self, table: str, progress: Progress) -> Iterator[Batch]:
        line = self._line()
        if table == "market.instruments":
            yield self._instruments(line, self._clock(), "live_recon")
            return
        venue = VENUES.get(self._exchange_id, Unified)(line.ask, self._options.page_rows)
        total = 0
        for symbol, market in self._resolved(line):
            for interval in self._intervals(table):
                place = f"{self.name} {table} {symbol}{f' {interval}' if interval else ''}"
                failure: SourceError | None = None
                page = Page([], [], 0)
                try:
                    asked = microseconds(self._clock())
                    page = venue.newest_bars(market, interval, asked) if interval else venue.newest_trades(market)
                except (_GaveUpError, StalledError) as error:
                    later = _later(error.retry_after if isinstance(error, _GaveUpError) else None)
                    failure = SourceUnavailableError(str(error), where=place, hint=later)
                except SourceRefusedError as error:
                    failure = SourceRefusedError(error.what, where=place, hint=error.hint)
                if failure:
                    raise failure
                heard = microseconds(self._clock())
                ref = f"{place} newest at {_iso(moment(asked))}"
                name = venue_name(self._exchange_id, market)
                # Whether a bar was finished is judged by the time of asking: the answer may be that old.
                make = _FrameBuilder(table, name, symbol, interval, ref, "live_recon", asked, received=heard)
                gathered = _RowBuffer(make, TimeRange(0, 2**62, heard))
                total += gathered.take(page)
                progress(total, None, "rows")
                yield from gathered.batches(None)

    # --- instruments ---

    def _instruments(self, line: _ExchangeConnection, now: datetime, source: str) -> Batch:
        exchange = line.exchange
        markets = [market for _, market in self._resolved(line)] if self._symbols else exchange.markets.values()
        ref = f"{self.name} market.instruments {_iso(now)}"
        steps_are_sizes = exchange.precisionMode == 4  # ccxt.TICK_SIZE; otherwise decimal places
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        rejected: list[tuple[int, str, str, str]] = []
        for number, market in enumerate(markets, 1):
            symbol = canonical_symbol(market)
            if symbol is None:
                continue  # an option or an index: not an instrument of this table
            venue = venue_name(self._exchange_id, market)
            reason = ""
            if not _CONTRACT_SYMBOL.fullmatch(symbol):
                reason, detail = "unmappable_symbol", f"{symbol!r} is not a canonical symbol"
            elif (venue, symbol) in rows:
                reason, detail = "ambiguous_symbol", f"{symbol!r} is already the symbol of another market"
            if reason:
                rejected.append((number, reason, detail, _json(market.get("info") or market["symbol"])))
                continue
            rows[venue, symbol] = _instrument(market, venue, symbol, steps_are_sizes=steps_are_sizes, now=now)
        declared = contract("market.instruments").polars_schema
        schema = {name: dtype for name, dtype in declared.items() if name != "schema_version"}
        frame = pl.DataFrame([{**row, "source": source, "source_ref": ref} for row in rows.values()], schema=schema)
        return Batch(
            "market.instruments",
            frame.sort("symbol", "venue"),
            ref,
            pl.DataFrame(rejected, REJECTED_SCHEMA, orient="row"),
        )


def _instrument(market: Market, venue: str, symbol: str, *, steps_are_sizes: bool, now: datetime) -> dict[str, Any]:
    def step(name: str) -> float | None:
        value = (market.get("precision") or {}).get(name)
        if value is None:
            return None
        size = float(value) if steps_are_sizes else 10.0 ** -int(value)
        return size if size > 0 else None

    inverse = bool(market.get("inverse"))
    size = float(market.get("contractSize") or 0) or None
    lot = step("amount")
    if market.get("contract"):
        # contracts become base currency; an inverse contract's amount of it depends on the price
        lot = None if inverse or lot is None or size is None else lot * size
    created, expiry = market.get("created"), market.get("expiry")
    expired = expiry is not None and int(expiry) * 1000 <= microseconds(now)
    return {
        "venue": venue,
        "symbol": symbol,
        "kind": "spot" if market.get("spot") else "perpetual" if market.get("swap") else "future",
        "base": market["base"],
        "quote": market["quote"],
        "tick_size": step("price"),
        "lot_size": lot,
        "contract_size": size if inverse else None,
        "listed_on": moment(int(created) * 1000).date() if created else None,
        "delisted_on": moment(int(expiry) * 1000).date() if expired and expiry is not None else None,
    }


@dataclass(frozen=True)
class _FrameBuilder:
    """Turns rows of one symbol into frames of one table."""

    table: str
    venue: str
    symbol: str
    #: Empty for trades.
    interval: str
    ref: str
    source: str
    now: int
    received: int | None = None

    def frame(self, rows: Sequence[TradeRow | BarRow]) -> pl.DataFrame:
        """Return the rows as a frame of the table, sorted by its key."""
        frame = self._bars(rows) if self.interval else self._trades(rows)
        frame = frame.with_columns(
            pl.lit(self.venue).alias("venue"),
            pl.lit(self.symbol).alias("symbol"),
            pl.lit(self.source).alias("source"),
            pl.lit(self.ref).alias("source_ref"),
        )
        declared = contract(self.table).polars_schema
        return frame.select(pl.col(name).cast(declared[name]) for name in declared if name in frame.columns)

    def _trades(self, rows: Sequence[TradeRow | BarRow]) -> pl.DataFrame:
        schema = {"ts": pl.Int64, "id": pl.String, "price": pl.Float64, "amount": pl.Float64, "side": pl.String}
        own = venue_trade_id(pl.col("id"))
        made = synthetic_trade_id(pl.col("ts"), arrival_rank(by=()))
        return (
            pl.DataFrame(rows, schema, orient="row")
            .with_columns(pl.col("ts").cast(_TIME), pl.lit(self.received, pl.Int64).cast(_TIME).alias("ts_received"))
            .with_columns(pl.when(pl.col("id").is_null()).then(made).otherwise(own).alias("trade_id"))
            .drop("id")
            .sort("ts", "trade_id")
        )

    def _bars(self, rows: Sequence[TradeRow | BarRow]) -> pl.DataFrame:
        names = ("ts", "open", "high", "low", "close", "volume", "quote_volume", "trades", "buy_volume", "closed")
        others = {"ts": pl.Int64, "trades": pl.Int64, "closed": pl.Boolean}
        closes = pl.col("ts") + interval_of(self.interval).microseconds
        idle = (pl.col("volume") == 0) & (pl.col("trades").fill_null(0) == 0)
        return (
            pl.DataFrame(rows, {name: others.get(name, pl.Float64) for name in names}, orient="row")
            .filter(~idle)
            .sort("ts")
            .with_columns(
                closes.cast(_TIME).alias("ts_close"),
                ((closes <= self.now) & pl.col("closed").fill_null(value=True)).alias("final"),
                pl.col("ts").cast(_TIME),
                pl.lit("vendor").alias("origin"),
                pl.lit(self.interval).alias("interval"),
            )
        )


class _RowBuffer:
    """Rows between the exchange and the caller: without repetitions, held until their time is complete."""

    def __init__(self, make: _FrameBuilder, span: TimeRange) -> None:
        self._make = make
        self._span = span
        self._pending: dict[Any, TradeRow | BarRow] = {}
        # Keys of the batch before: a page that comes twice comes soon.
        self._delivered: set[Any] = set()
        self._rejected: list[tuple[int, str, str, str]] = []
        self._known_bad: set[str] = set()
        self._read = 0
        self.complete = span.start

    @property
    def height(self) -> int:
        """Return how many rows wait."""
        return len(self._pending) + len(self._rejected)

    def take(self, page: Page) -> int:
        """Take a page's rows in and return how many are new."""
        before = self._read
        occurrences: dict[Any, int] = {}
        for row in page.rows:
            if not self._span.start <= row.ts < self._span.stop:
                continue
            if isinstance(row, BarRow):
                key: Any = row.ts
            elif row.trade_id is not None:
                key = row.trade_id
            else:  # equal trades of one page are different trades; the same ones in the next page are not
                occurrences[row] = occurrences.get(row, -1) + 1
                key = (row, occurrences[row])
            if key in self._delivered:
                continue
            if key not in self._pending:
                self._read += 1
                self._pending[key] = row
            elif isinstance(row, BarRow):
                self._pending[key] = row  # the later answer knows more of an unfinished bar
        for raw, reason, detail in page.bad:
            text = _json(raw)
            if text not in self._known_bad:
                self._known_bad.add(text)
                self._read += 1
                self._rejected.append((self._read, reason, detail, text))
        self.complete = max(self.complete, min(page.complete_to, self._span.stop))
        return self._read - before

    def batches(self, before: int | None) -> Iterator[Batch]:
        """Yield what is complete before a time (all, for None), if anything, as a batch."""
        ready = {key: row for key, row in self._pending.items() if before is None or row.ts < before}
        if not ready and not self._rejected:
            return
        self._pending = {key: row for key, row in self._pending.items() if key not in ready}
        self._delivered = set(ready)
        rejected = pl.DataFrame(self._rejected, REJECTED_SCHEMA, orient="row")
        self._rejected = []
        rows = self._make.frame(list(ready.values()))
        yield Batch(self._make.table, rows, self._make.ref, rejected)


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _later(retry_after: float | None) -> str:
    return f"The exchange asked to wait {retry_after:.0f} s." if retry_after else "Try again later."


def _json(raw: Any) -> str:
    return raw if isinstance(raw, str) else json.dumps(raw, default=str, ensure_ascii=False)
