"""The proof scan: looks for values in everything that the platform keeps, in every encoding, and proves itself.

Files are read as bytes from end to end.  What bytes alone do not show is decoded as well: Parquet, Arrow and ORC
(dictionaries and data, whatever the compression), members of archives within each other, and SQLite rows that are
spread over several pages.  A PostgreSQL database is read through SQL, and its files where the server lets us.  What is
damaged is searched as far as it decodes.  Before a scan a made-up value, the canary, is put into every place in every
encoding and container; unless the scan finds every one of them, its result does not count.

This module is what the rest of the platform calls.  Its rooms: `places` (what is there), `canary` (the self-test),
`search` (values in bytes), `containers` and `values` (packed and paged forms), `readers` (a place's files),
`findings` (what is said about them).  What a finding means is not decided here.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hfthot_platform.core.errors import ErasureUnverifiedError
from hfthot_platform.services.privacy.proof.canary import CANARY_KIND, CANARY_PREFIX, Canary
from hfthot_platform.services.privacy.proof.findings import (
    FoundValue,
    PlaceReport,
    Progress,
    ScanLimits,
    ScanReport,
    ScanRun,
)
from hfthot_platform.services.privacy.proof.places import FileEntry, Folder, ObjectStore, Place, SqlDatabase
from hfthot_platform.services.privacy.proof.readers import JoinedBlocks, PlaceReader
from hfthot_platform.services.privacy.proof.search import Needle, Searcher
from hfthot_platform.services.privacy.proof.sqlite_reader import FileOpener

__all__ = [
    "Folder",
    "FoundValue",
    "Needle",
    "ObjectStore",
    "Place",
    "PlaceReport",
    "Progress",
    "ScanLimits",
    "ScanReport",
    "SqlDatabase",
    "scan",
]


def scan(
    needles: Iterable[Needle],
    places: Sequence[Place],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    tested: bool = True,
    limits: ScanLimits = ScanLimits(),  # noqa: B008 - frozen
) -> ScanReport:
    """Look for values in places.

    Args:
        needles: the values.
        places: where to look.  A folder inside another one's is read once, as part of the first that is listed.
        workers: files read at the same time.
        progress: called with bytes done, bytes in all (None while unknown) and "bytes".
        tested: whether the scan proves itself with canaries; one that does not proves nothing by finding nothing.
        limits: what bounds its work and memory.

    A place that canaries cannot be put into (it is read-only, or full) says so in its report.

    Memory is bounded by about 64 MB per worker, whatever the sizes of the files.

    Raises:
        ErasureUnverifiedError: a canary was not found where it had been put: the result would prove nothing.
    """
    started = time.perf_counter()
    needles = tuple(dict.fromkeys(needles))
    canary = Canary(f"{int(time.time()):08x}{secrets.token_hex(8)}")
    searcher = Searcher((*needles, canary.needle))
    expected: set[tuple[str, str, str, str]] = set()
    untested: dict[str, str] = {}
    try:
        for place in places if tested else ():
            try:
                place.sweep()
                expected |= {(place.name, *planted) for planted in place.plant(canary)}
            except OSError as error:
                untested[place.name] = error.strerror or type(error).__name__
        if tested and untested and not expected:
            raise ErasureUnverifiedError(
                "the test values of the search could not be written anywhere",
                where="scan",
                hint="Make the platform's folders writable, and free some disk space.",
            )
        with FileOpener() as opener:
            state = ScanRun(searcher, opener, limits=limits, progress=progress, untested=untested)
            reports = _read_all(state, places, workers)
    finally:
        for place in places if tested else ():
            # What cannot be removed is left for the next scan, which removes it first.
            with suppress(OSError):
                place.sweep(canary.token)
        canary.release()
    if missed := sorted(expected - state.canaries):
        where, file, inside, encoding = missed[0]
        raise ErasureUnverifiedError(
            f"the scan missed {len(missed)} of {len(expected)} planted test values, the first one in {where}: "
            f"{file} ({inside}, {encoding})",
            where="scan",
            hint="The result is invalid. Report this with the version of the platform.",
        )
    return ScanReport(
        places=tuple(reports),
        findings=tuple(sorted(state.findings, key=lambda finding: (finding.place, finding.file, finding.offset))),
        needles=dict(sorted(Counter(needle.kind for needle in searcher.searched if needle != canary.needle).items())),
        left_out=tuple(dict.fromkeys(left for left in searcher.left_out if left[0] != CANARY_KIND)),
        canaries=len(expected),
        seconds=time.perf_counter() - started,
        truncated=state.truncated,
        counts=state.counts,
    )


def _read_all(state: ScanRun, places: Sequence[Place], workers: int) -> list[PlaceReport]:
    """Read every place, a file that lies in several of them once, and say what was read."""
    reports = []
    seen: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
        for place in places:
            if isinstance(place, SqlDatabase):
                reports.append(_read_database(state, place))
            else:
                reports.append(_read_files(state, place, pool, seen))
    return reports


def _read_files(
    state: ScanRun, place: Folder | ObjectStore, pool: ThreadPoolExecutor, seen: set[tuple[int, int]]
) -> PlaceReport:
    reader = PlaceReader(state, place.name, shared=isinstance(place, Folder) and place.shared)
    todo: list[FileEntry] = []
    for name, entry in place.walk(reader.noted):
        if entry is None or entry.path is None:
            reader.name(name)
        if entry is None or entry.identity in seen:
            continue
        if entry.identity is not None:
            seen.add(entry.identity)
        todo.append(entry)
    own = [entry for entry in todo if CANARY_PREFIX in entry.name]
    reader.canaries = frozenset(entry.name for entry in own)
    reader.modified = {entry.name: entry.modified for entry in todo if entry.modified is not None}
    state.total += sum(entry.size for entry in todo)
    # The largest first, so that no worker ends with a long file alone.
    todo.sort(key=lambda entry: -entry.size)
    parts = (part for entry in todo for part in reader.parts(entry))
    for _ in pool.map(lambda part: part(), parts):
        pass
    return reader.report(len(todo) - len(own))


def _read_database(state: ScanRun, place: SqlDatabase) -> PlaceReport:
    reader = PlaceReader(state, place.name)
    tables = 0
    for table, how, blocks in place.streams(reader.noted):
        if CANARY_PREFIX in table:
            reader.canaries |= {table}
        elif how == "sql":
            tables += 1
        reader.stream(table, how, JoinedBlocks(blocks), decoded=False)
    return reader.report(tables)
