"""The doctor: what is configured, reachable, stale or broken, and what to do about each.

It only looks (a probe file in the lake's folder comes and goes); every remedy is a command for a person.
No finding holds a secret.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from hfthot_platform.app.findings import Finding, Level
from hfthot_platform.app.installation import Installation
from hfthot_platform.core.errors import ClockError, DamagedTableError, DocumentError, HfthotError
from hfthot_platform.core.locks import is_locked
from hfthot_platform.core.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    FeedSettings,
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
)
from hfthot_platform.core.time import ONE_DAY, midnight
from hfthot_platform.domain.contracts.model import TableContract
from hfthot_platform.storage.lakehouse import Lakehouse, Table, check_clock
from hfthot_platform.storage.lakehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from hfthot_platform.services.sql.models import Models
    from hfthot_platform.storage.operational.store import Store

__all__ = ["diagnose"]


_GB = 1_000_000_000
_LITTLE_ROOM = 10 * _GB
_NO_ROOM = 1 * _GB
#: Spill folders and staged batches older than this belong to processes that died.
_ABANDONED = timedelta(days=1)
_LOCK_LINE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$", re.MULTILINE)
_REPOSITORY = Path(__file__).resolve().parents[2]


def diagnose(
    settings: Settings,
    now: datetime,
    *,
    dagster_home: Path | None = None,
    online: bool = False,
    lock_file: Path = _REPOSITORY / "requirements.lock",
    runs: Callable[[], Iterable[Finding]] = tuple,
) -> list[Finding]:
    """Look at everything and return what was found, in the order in which to read it.

    Args:
        settings: the settings in force.
        now: the present time, with a zone.
        dagster_home: folder of the Dagster instance, None if none is set.
        online: also ask the remote feeds for a little data.
        lock_file: the lock file that the installed packages should agree with.
        runs: looks at the orchestrator's runs, which this module knows nothing of.
    """
    installation = Installation(settings, lambda: now, new=True)
    looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("lake", lambda: _lake(installation.lake)),
        ("feeds", lambda: _feeds(settings, now, online=online)),
        ("tables", lambda: _tables(installation, now)),
        ("accounts", lambda: _accounts(installation)),
        ("private folders", lambda: _loose(settings)),
        ("landing", lambda: _landing(settings, now)),
        ("scratch", lambda: _scratch(settings, now)),
        ("sql", lambda: _sql(installation)),
        ("sql models", lambda: _models(installation.models)),
        ("notifier", lambda: _notifier(settings)),
        ("erasures", lambda: _erasures(installation, now)),
        ("dagster", lambda: _dagster(dagster_home)),
        ("runs", runs),
        ("packages", lambda: _packages(lock_file)),
    ]
    findings: list[Finding] = []
    with installation:
        for subject, look in looks:
            try:
                findings += look()
            except HfthotError as error:
                findings.append(_failed(subject, error))
            except OSError as error:
                reason = error.strerror or type(error).__name__
                step = "Check that the path exists, and that its owner and mode give this user access."
                findings.append(Finding("error", subject, f"{reason}: {error.filename}", step))
    return findings


def _failed(subject: str, error: HfthotError) -> Finding:
    message = f"{error.where}: {error.what}" if error.where and error.where != subject else error.what
    return Finding("error", subject, message, error.hint)


# -- the lake ---------------------------------------------------------------------------------------------------


def _lake(lake: Lakehouse) -> Iterator[Finding]:
    root = lake.storage.local
    if root is None:
        # A look at one table answers whether address, credentials and network are right.
        lake.table("ops.ingest_files").version()
        lake.storage.require_safe()
        options = ", ".join(sorted(lake.storage.options)) or "none"
        yield Finding(
            "ok", "lake", f"{lake.storage.root} answers and creates an object only once; storage options set: {options}"
        )
        return
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir():
        yield Finding("error", "lake", f"{existing} is not a folder", "Point HFTHOT_LAKE_ROOT to a folder.")
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Finding(
            "error",
            "lake",
            f"{existing} is not writable ({error.strerror})",
            "Check the owner, mode and mount of the lake's folder.",
        )
    else:
        if lake.exists():
            yield Finding("ok", "lake", f"{root} is writable")
        else:
            step = (
                "Change to the folder that contains `data/lake`, or set HFTHOT_LAKE_ROOT; `hfthot init` "
                "creates a new lake."
            )
            yield Finding("error", "lake", f"there is no lake at {root}", step)
    free = shutil.disk_usage(existing).free
    if free < _LITTLE_ROOM:
        level: Level = "error" if free < _NO_ROOM else "warn"
        yield Finding(
            level, "disk", f"{free / _GB:.1f} GB free", "Run `hfthot maintain`, or move the lake to a larger device."
        )
    else:
        yield Finding("ok", "disk", f"{free / _GB:,.0f} GB free")


# -- feeds ------------------------------------------------------------------------------------------------------


def _feeds(settings: Settings, now: datetime, *, online: bool) -> Iterator[Finding]:
    from hfthot_platform.app.feeds import build_feed

    if not settings.feeds:
        yield Finding("warn", "feeds", "no feed is configured", "Declare one under `feeds` in hfthot.toml.")
    for feed_settings in settings.feeds:
        subject = f"feed {feed_settings.kind}"
        try:
            feed = build_feed(feed_settings, settings)
        except HfthotError as error:
            yield _failed(subject, error)
            continue
        subject = f"feed {feed.name}"
        if (
            isinstance(feed_settings, ArchiveFeedSettings)
            and not _remote(feed_settings)
            and not Path(feed_settings.location).is_dir()
        ):
            step = "Correct `location` of this feed in hfthot.toml, or omit it to download."
            yield Finding("error", subject, f"its folder {feed_settings.location} is missing", step)
            continue
        yield Finding("ok", subject, f"fills {', '.join(feed.tables)}; {_described(feed_settings)}")
        if online and _remote(feed_settings):
            table = next(name for name in ("market.bars_1m", *feed.tables) if name in feed.tables)
            ago = timedelta(days=2) if isinstance(feed_settings, ArchiveFeedSettings) else timedelta(minutes=10)
            try:
                batch = next(iter(feed.fetch(table, now - ago, now)), None)
            except HfthotError as error:
                yield _failed(subject, error)
            else:
                rows = 0 if batch is None else batch.rows_read
                yield Finding("ok", subject, f"answers: {rows} rows of {table} from the last {ago}")


def _described(feed: FeedSettings) -> str:
    match feed:
        case SampleFeedSettings():
            return "history that is included in packages"
        case SimulatedFeedSettings():
            return f"seed {feed.seed}; {_counted(len(feed.symbols), 'symbol')}"
        case ArchiveFeedSettings():
            return f"from {feed.location}; {_counted(len(feed.symbols), 'symbol')}"
        case CcxtFeedSettings():
            key = "with an API key" if feed.api_key else "without an API key"
            return f"{_counted(len(feed.symbols), 'symbol')}; {key}"


def _remote(feed: FeedSettings) -> bool:
    archive = isinstance(feed, ArchiveFeedSettings) and feed.location.startswith(("http://", "https://"))
    return archive or isinstance(feed, CcxtFeedSettings)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# -- tables -----------------------------------------------------------------------------------------------------


def _tables(installation: Installation, now: datetime) -> Iterator[Finding]:
    settings, lake = installation.settings, installation.lake
    if not lake.exists():
        return  # told under the lake itself
    fed = _fed(settings)
    written = 0
    for table in lake.tables():
        contract = table.contract
        try:
            snapshot = table.snapshot()
        except DamagedTableError as error:
            written += 1
            # With a file missing the table cannot be opened; the others may be damaged too.
            yield _failed(contract.name, error)
            yield from (
                Finding("error", contract.name, problem, error.hint)
                for problem in table.problems()
                if problem not in str(error)
            )
            continue
        except HfthotError as error:
            yield _failed(contract.name, error)
            continue
        if snapshot is None:
            if contract.name in fed:
                step = f"`hfthot ingest --feed {fed[contract.name]} --table {contract.name} --from DAY --to DAY`"
                yield Finding("warn", contract.name, "configured feeds fill it, but it has no data yet", step)
            continue
        written += 1
        yield from _table(lake, table, snapshot)
        if contract.name in fed:
            yield from _staleness(contract, snapshot, fed[contract.name], settings.stale_after_hours, now)
    if not written:
        yield Finding("warn", "tables", "the lake is empty", "`hfthot demo` fills it with real sample data.")
    try:
        check_clock(lake)
    except ClockError as error:
        yield _failed("clock (lake)", error)
    yield from _incidents(lake, now)


def _fed(settings: Settings) -> dict[str, str]:
    """Return the tables that a feed keeps filling, with its name; a packaged sample is history and ends."""
    from hfthot_platform.app.feeds import build_feed

    fed: dict[str, str] = {}
    for feed_settings in settings.feeds:
        if isinstance(feed_settings, SampleFeedSettings):
            continue
        try:
            feed = build_feed(feed_settings, settings)
        except HfthotError:
            continue  # told under the feed itself
        for name in feed.tables:
            fed.setdefault(name, feed.name)
    return fed


def _table(lake: Lakehouse, table: Table, snapshot: Snapshot) -> Iterator[Finding]:
    from hfthot_platform.storage.lakehouse import overdue_share
    from hfthot_platform.storage.lakehouse.maintenance import MOST_EXPIRED

    name = table.contract.name
    problems = table.problems()
    for problem in problems:
        yield Finding(
            "error",
            name,
            problem,
            f"`hfthot history {name}` lists the versions and `hfthot restore {name} VERSION` goes back to one. "
            "Or restore the file from a backup, or materialise its partition again.",
        )
    overdue, share = overdue_share(lake, name)
    if share > MOST_EXPIRED:
        what = f"retention is blocked: {_counted(overdue, 'row')} ({share:.0%}) are older than the table's retention"
        step = f"Check the machine's clock; then `hfthot maintain {name} --yes` removes them."
        yield Finding("error", name, what, step)
    if not problems:
        rows = "?" if snapshot.rows is None else f"{snapshot.rows:,}"
        last = "" if snapshot.last_event is None else f", last event {_when(snapshot.last_event)}"
        yield Finding("ok", name, f"version {snapshot.version} is intact: {rows} rows{last}")
    folder = Path(table.uri)
    if not folder.is_dir():
        return
    if leftovers := len(table.backend.unfinished()):
        what = _counted(leftovers, "leftover file")
        yield Finding("warn", name, f"{what} of interrupted writers", f"`hfthot maintain {name}` removes them.")
    lock = folder.parent.parent / "_locks" / f"{name}.lock"
    if lock.exists() and is_locked(lock):
        step = f"Wait for it to end; if it never does, `fuser {lock}` names the process."
        yield Finding("warn", name, "a writer or maintenance holds its lock right now", step)


def _staleness(
    contract: TableContract, snapshot: Snapshot, feed: str, hours: float, now: datetime
) -> Iterator[Finding]:
    last = snapshot.last_event
    if last is None:
        return
    if not isinstance(last, datetime):
        # A day's row speaks for the whole day.
        last = midnight(last + ONE_DAY)
    behind = now - last
    if behind > timedelta(hours=hours):
        yield Finding(
            "warn",
            contract.name,
            f"stale: the last event is {behind.total_seconds() / 3600:,.0f} hours old; the limit is {hours:g}",
            "Look at the ingest job's schedule and last runs, or fetch now: "
            f"`hfthot ingest --feed {feed} --table {contract.name} --from {last:%Y-%m-%d} --to {now:%Y-%m-%d}`",
        )


def _incidents(lake: Lakehouse, now: datetime) -> Iterator[Finding]:
    import polars as pl

    recent = lake.table("ops.incidents").scan().filter(pl.col("ts") >= now - ONE_DAY)
    count = int(recent.select(pl.len()).collect().item())
    if count:
        step = '`hfthot sql "FROM ops.incidents ORDER BY ts DESC LIMIT 10"`'
        yield Finding("warn", "incidents", f"{_counted(count, 'incident')} in the last 24 hours", step)


def _when(event: datetime | date) -> str:
    return f"{event:%Y-%m-%d %H:%M}" if isinstance(event, datetime) else f"{event:%Y-%m-%d}"


def _accounts(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    place = "the configured database" if settings.accounts_url else str(settings.accounts.absolute())
    if not installation.has_accounts:
        yield Finding(
            "warn", "accounts", f"there are no accounts in {place}", "`hfthot init` creates them, with new keys."
        )
    elif settings.key_source == "file" and not settings.key_file.exists():
        what = f"the keys of the accounts are missing: {settings.key_file.absolute()}"
        yield Finding(
            "error", "accounts", what, "Restore the file from a backup; new keys cannot decrypt the accounts."
        )
    else:
        yield Finding("ok", "accounts", f"the accounts are in {place}")
        yield from _store(installation.store)


def _store(store: Store) -> Iterator[Finding]:
    """Tell of what keeps the store from being published whole, or cut for its age."""
    aside = store.waiting_aside()
    try:
        store.check_clock()
    except ClockError as error:
        yield _failed("clock", error)
    if aside:
        what = f"{_counted(len(aside), 'change')} could not be published and {'waits' if len(aside) == 1 else 'wait'}"
        yield Finding("warn", "set aside", what, "`hfthot accounts set-aside` says why; `--retry` publishes them.")


def _loose(settings: Settings) -> Iterator[Finding]:
    """Tell of folders with personal data or keys that others may enter, for instance of an older version."""
    private = {settings.accounts, settings.key_file.parent, settings.exports, settings.certificates}
    for folder in sorted(folder.absolute() for folder in private):
        if folder.is_dir() and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
            what = f"other users can access {folder} (mode {mode:04o})"
            yield Finding("warn", "private folders", what, f"`chmod go= {shlex.quote(str(folder))}`")
    # Other applications may drop files there, as the folder's group.
    users = (settings.landing / "users").absolute()
    if users.is_dir() and (mode := stat.S_IMODE(users.stat().st_mode)) & 0o007:
        what = f"all users can access {users}, where files of user events are in plain text (mode {mode:04o})"
        yield Finding("warn", "private folders", what, f"`chmod o= {shlex.quote(str(users))}`")


# -- folders ----------------------------------------------------------------------------------------------------


def _landing(settings: Settings, now: datetime) -> Iterator[Finding]:
    from hfthot_platform.services.ingest import folders_not_read, waiting_files

    landing = settings.landing.absolute()
    if not landing.exists() and not landing.is_symlink():
        yield Finding("ok", "landing", f"{landing} does not exist yet; `hfthot init` or `hfthot demo` creates it")
        return
    if not landing.is_dir():
        step = "Move the file away, or set HFTHOT_LANDING to a folder."
        yield Finding("error", "landing", f"{landing} is not a folder", step)
        return
    if not os.access(landing, os.R_OK | os.W_OK | os.X_OK):
        step = "Give the user of this process read and write permission, because files are moved after ingestion."
        yield Finding("error", "landing", f"{landing} is not readable and writable", step)
        return
    settled = waiting_files(landing, now=now, settle_seconds=settings.landing_settle_seconds)
    waiting = _counted(len(settled), "file")
    if settled:
        step = "The landing sensor ingests them while `make dev` runs; or ingest them now: `hfthot ingest --landing`"
        yield Finding("warn", "landing", f"{waiting} waiting in {landing}", step)
    else:
        yield Finding("ok", "landing", f"no files are waiting in {landing}")
    for folder, files in folders_not_read(landing).items():
        step = f"Folders in the landing folder are not read; `hfthot ingest {shlex.quote(str(folder))}` reads this one."
        yield Finding("warn", "landing", f"{_counted(files, 'file')} in {folder}, which is not read", step)
    rejected = landing / "rejected"
    reasons = list(rejected.glob("*.reason.json")) if rejected.is_dir() else []
    if reasons:
        step = f"The reason is next to each file in {rejected}. Correct the file and put it into the landing folder."
        yield Finding("warn", "landing", f"{_counted(len(reasons), 'file')} rejected", step)


def _scratch(settings: Settings, now: datetime) -> Iterator[Finding]:
    scratch = settings.scratch
    existing = next(folder for folder in (scratch, *scratch.absolute().parents) if folder.exists())
    if not existing.is_dir():
        step = "Move the file away, or set HFTHOT_SCRATCH to a folder."
        yield Finding("error", "scratch", f"{existing} is not a folder", step)
        return
    if not os.access(existing, os.W_OK):
        step = "Give the user of this process write permission, or set HFTHOT_SCRATCH to another folder."
        yield Finding("error", "scratch", f"{existing} is not writable", step)
        return
    if existing != scratch:
        return
    limit = (now - _ABANDONED).timestamp()
    old = [folder for folder in scratch.glob("sql-*") if folder.stat().st_mtime < limit]
    if old:
        what = _counted(len(old), "spill folder")
        yield Finding("warn", "scratch", f"{what} left by processes that died", f"Remove {scratch}/sql-*")


# -- services ---------------------------------------------------------------------------------------------------


def _sql(installation: Installation) -> Iterator[Finding]:
    from hfthot_platform.services.sql import query

    limits = replace(installation.limits, spill=None)
    query(installation.lake, "SELECT 1", limits=limits)
    yield Finding("ok", "sql", f"DuckDB answers; {limits.memory} of memory, {_counted(limits.threads, 'thread')}")


def _models(models: Models) -> Iterator[Finding]:
    for mistake in models.mistakes:
        step = mistake.hint or "Correct the file; `hfthot sql compile` checks it again."
        yield Finding("error", "sql models", f"{mistake.file}:{mistake.line}: {mistake.what}", step)
    if not models.folder.is_dir():
        step = "Correct HFTHOT_SQL_MODELS, or unset it."
        yield Finding("error", "sql models", f"there is no folder {models.folder.absolute()}", step)
    elif not models.mistakes:
        yield Finding("ok", "sql models", f"{_counted(len(models), 'model')} in {models.folder}")


def _notifier(settings: Settings) -> Iterator[Finding]:
    target = settings.notify.get_secret_value()
    if target == "log":
        yield Finding("ok", "notifier", "incidents go to the log")
    elif urlparse(target).scheme in {"http", "https"} and urlparse(target).hostname:
        # The path of a webhook is its password.
        yield Finding("ok", "notifier", f"incidents go to a webhook at {urlparse(target).hostname}")
    else:
        yield Finding("error", "notifier", "it is neither `log` nor a URL", "Correct HFTHOT_NOTIFY.")


def _erasures(installation: Installation, now: datetime) -> Iterator[Finding]:
    """Tell of erasures without a proof; looking makes no store where there is none."""
    from hfthot_platform.services.privacy.erasure_requests import list_erasures

    if not installation.has_accounts:
        return
    erasures = list_erasures(installation.accounts)
    failed = [erasure for erasure in erasures if erasure.state == "failed"]
    for erasure in failed:
        until = "" if erasure.deadline is None else f"; it can be proven until {erasure.deadline:%Y-%m-%d %H:%M} UTC"
        step = (
            f"`hfthot privacy hits {erasure.request_id}` shows what is left. Remove it, or accept it with a reason, "
            f"then `hfthot privacy resume {erasure.request_id}`"
        )
        level: Level = (
            "error" if erasure.deadline is not None and erasure.deadline - now < timedelta(days=7) else "warn"
        )
        yield Finding(level, "erasures", f"{erasure.request_id} failed: {erasure.problem}{until}", step)
    ended = [erasure for erasure in erasures if erasure.state == "unproven"]
    if ended:
        step = f"`hfthot privacy hits {ended[0].request_id}` says what could not be proven for the newest request"
        yield Finding("warn", "erasures", f"{_counted(len(ended), 'request')} ended without a proof", step)
    if not failed and not ended:
        yield Finding("ok", "erasures", f"{_counted(len(erasures), 'request')}, all proven or in progress")


def _dagster(home: Path | None) -> Iterator[Finding]:
    from hfthot_platform.core.documents import load_yaml

    step = "`make dev` sets it; for other shells: export DAGSTER_HOME=<repository>/dagster_home"
    if home is None:
        yield Finding("warn", "dagster", "DAGSTER_HOME is not set, so runs are not kept", step)
        return
    file = home / "dagster.yaml"
    if not home.is_absolute() or not file.is_file():
        what = (
            f"DAGSTER_HOME is {home}, which is not an absolute path" if not home.is_absolute() else f"{file} is missing"
        )
        yield Finding("error", "dagster", what, step)
        return
    try:
        instance = load_yaml(file.read_text(encoding="utf-8"), where=str(file)) or {}
    except DocumentError:
        yield Finding("error", "dagster", f"{file} is not valid YAML", "Restore it from version control.")
        return
    telemetry = instance.get("telemetry") if isinstance(instance, dict) else None
    if isinstance(telemetry, dict) and telemetry.get("enabled") is False:
        yield Finding("ok", "dagster", f"instance {home}")
    else:
        yield Finding("warn", "dagster", "telemetry is on", f"Set `telemetry: enabled: false` in {file}.")


def _packages(lock_file: Path) -> Iterator[Finding]:
    from packaging.markers import Marker

    if not lock_file.is_file():
        yield Finding("warn", "packages", f"{lock_file} is missing", "Restore it from version control.")
        return
    pinned = {
        name: version
        for name, version, marker in _LOCK_LINE.findall(lock_file.read_text(encoding="utf-8"))
        if not marker or Marker(marker).evaluate()
    }
    differing = []
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a deployment need not have the development tools
        if installed != version:
            differing.append(f"{name} {installed} instead of {version}")
    if differing:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        yield Finding(
            "warn", "packages", f"not the locked versions: {shown}", "`make setup` installs the locked versions."
        )
    else:
        yield Finding("ok", "packages", f"installed packages agree with {lock_file.name}")
