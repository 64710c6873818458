"""Telling what is left of a person from what only looks like it.

A hit does not count if it cannot be the person's: ciphertext without a key that the kept history still holds; another
person's export, or row with the same hash or look-up (who registers again has the same address); a word that the
market tables themselves have; a name in a file that was written before the person came.  Whatever remains is a hit
that the officer looks at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.proof.scan import FoundValue, ScanReport
from hfthot_platform.services.privacy.search_values import WEAK, RemainingTrace, SearchValues
from hfthot_platform.services.privacy.words import table_with_word, word_pattern
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema

__all__ = ["Outcome", "judged"]

#: Files and the like that a certificate names; of more it says how many there are.
_MOST_NAMED: Final = 20
#: What an export of somebody else can show of a person: a shared name, address or key, and what was registered again.
_NEVER_ANOTHERS: Final = frozenset({"user_id", "password_hash", "wrapped_key", "token_hash", "key_hash", "envelope"})
#: Places whose files may have been waiting for the person before the account was made.
_WAITING: Final = frozenset({"landing", "exports"})


@dataclass(frozen=True)
class Outcome:
    """What a proof's search means."""

    #: What may be the person's, accepted or not.
    remains: list[RemainingTrace]
    #: How many hits were none of the person's, by kind and reason.
    coincidences: dict[str, int]
    #: (kind, reason) of values that turned out to say nothing.
    left_out: list[tuple[str, str]]
    #: What was not searched, in sentences.
    limits: list[str]


def judged(
    accounts: Accounts, lake: Lakehouse, found: SearchValues, report: ScanReport, *, subject_id: str, keep_history: bool
) -> Outcome:
    """Return what the findings of a search mean."""
    numbers = {(needle.kind, needle.value): number for number, needle in enumerate(found.searched())}
    others = _others(accounts, found, subject_id)
    words = _words_of_tables(lake, report.findings)
    rows = _RowOwners(accounts, lake, subject_id)
    remains: dict[tuple[Any, ...], RemainingTrace] = {}
    coincidences: Counter[str] = Counter()
    for finding in report.findings:
        value = finding.needle.kind, finding.needle.value
        form = finding.place, finding.path, finding.needle, finding.encoding, finding.inside
        if form in remains:
            continue
        count = report.counts.get(form, 1)
        why = _coincidence(finding, found, others, words, rows, keep_history=keep_history)
        if why is not None:
            coincidences[f"{finding.kind}, {why}"] += 1
            continue
        number = numbers[value]
        remains[form] = RemainingTrace(
            hit=found.name_of(finding.place, finding.path, number, finding.encoding, finding.inside),
            place=finding.place,
            file=finding.file,
            kind=finding.kind,
            encoding=finding.encoding,
            inside=finding.inside,
            offset=finding.offset,
            count=count,
            before=_before(found, finding, number),
            modified=finding.modified,
            value=number,
            path=finding.path,
            context=finding.context,
        )
    unread = [
        RemainingTrace(
            hit=found.name_of(place.name, "unreadable", name),
            place=place.name,
            file=name,
            kind="unreadable",
            encoding="",
            inside="",
            offset=0,
            count=1,
            before=None,
            modified=None,
            value=None,
            path=name,
            context="",
        )
        for place in report.places
        for name in place.unreadable
    ]
    return Outcome(
        [*remains.values(), *unread],
        dict(sorted(coincidences.items())),
        [(kind, f"a word of {table}") for (kind, _), table in words.items()],
        _limits(report),
    )


def _before(found: SearchValues, finding: FoundValue, number: int) -> int | None:
    if found.before is None or finding.place == "lake":
        return None
    return found.before.get((finding.place, finding.path, number), 0)


def _coincidence(
    finding: FoundValue,
    found: SearchValues,
    others: _OtherPersons,
    words: dict[tuple[str, str | bytes], str],
    rows: _RowOwners,
    *,
    keep_history: bool,
) -> str | None:
    """Return why a finding is nothing of the person's, or None if it may be."""
    value = finding.needle.kind, finding.needle.value
    place = finding.place.partition(" ")[0]
    if finding.kind == "envelope" and keep_history and place == "lake":
        # Ciphertext without a key stays in old data files until the time travel has passed.
        return "kept history"
    if value in others.values and place == "store":
        return "another account's"
    if place == "exports" and finding.kind not in _NEVER_ANOTHERS and finding.path.partition("/")[0] in others.exports:
        return "another person's export"
    if value in words:
        return "a word of a market table"
    if finding.kind in WEAK and rows.only_others(finding, place):
        return "another person's row"
    older = found.since is not None and finding.modified is not None and finding.modified * 1e6 < found.since
    if older and finding.kind in WEAK and place not in _WAITING:
        return "older than the account"
    return None


class _RowOwners:
    """Whose rows of the user tables have a value in clear: what one person typed may be another one's name."""

    def __init__(self, accounts: Accounts, lake: Lakehouse, subject_id: str) -> None:
        self._accounts = accounts
        self._lake = lake
        self._subject_id = subject_id
        self._known: dict[tuple[str, str], bool] = {}

    def only_others(self, finding: FoundValue, place: str) -> bool:
        """Whether the finding is in rows of others alone."""
        value = finding.needle.value
        if not isinstance(value, str) or place not in {"lake", "store"}:
            return False
        where = finding.path if place == "lake" else ""
        key = where, value
        if key not in self._known:
            self._known[key] = self._in_lake(where, value) if place == "lake" else self._in_store(value)
        return self._known[key]

    def _in_lake(self, path: str, value: str) -> bool:
        storage = self._lake.storage.users
        if not path.endswith(".parquet") or "_delta_log" in path:
            return False
        for contract in USER_TABLES:
            if not path.startswith("/".join((*contract.parts, ""))):
                continue
            try:
                rows = pl.read_parquet(
                    f"{storage.root}/{path}", hive_partitioning=False, storage_options=dict(storage.options) or None
                )
            except (pl.exceptions.PolarsError, OSError):
                return False
            columns = [
                column.name
                for column in contract.columns
                if column.polars == pl.String and not column.personal and column.name in rows.columns
            ]
            having = rows.filter(pl.any_horizontal(pl.col(name).str.contains(word_pattern(value)) for name in columns))
            owners = having["subject_id"].to_list()
            return bool(owners) and None not in owners and self._subject_id not in owners
        return False

    def _in_store(self, value: str) -> bool:
        others = 0
        with self._accounts.store.reading() as rx:
            for table in schema.metadata.sorted_tables:
                texts = [column for column in table.c if isinstance(column.type, sa.String)]
                if not texts:
                    continue
                same = sa.or_(*(column.icontains(value, autoescape=True) for column in texts))
                whose = table.c.subject_id if "subject_id" in table.c else sa.null()
                for owner in rx.execute(sa.select(whose).select_from(table).where(same)).scalars():
                    if owner is None or owner == self._subject_id:
                        return False
                    others += 1
        return others > 0


@dataclass(frozen=True)
class _OtherPersons:
    """What belongs to other persons now."""

    #: Values, by kind, that another account has in the store.
    values: frozenset[tuple[str, str | bytes]]
    #: Folders of other persons' exports.
    exports: frozenset[str]


def _others(accounts: Accounts, found: SearchValues, subject_id: str) -> _OtherPersons:
    users, exports = schema.users.c, schema.exports.c
    values: set[tuple[str, str | bytes]] = set()
    with accounts.store.reading() as rx:
        for kind, value in found.needles:
            if kind == "lookup":
                same = sa.or_(users.username_lookup == value, users.email_lookup == value)
            elif kind == "password_hash":
                same = users.password_hash == value
            else:
                continue
            if rx.execute(sa.select(users.subject_id).where(same, users.subject_id != subject_id)).first():
                values.add((kind, value))
        kept = sa.select(exports.request_id).where(exports.subject_id != subject_id)
        return _OtherPersons(frozenset(values), frozenset(rx.execute(kept).scalars()))


def _words_of_tables(lake: Lakehouse, findings: Iterable[FoundValue]) -> dict[tuple[str, str | bytes], str]:
    """Return the names among what was found in the lake that its market tables have as words, and which table."""
    suspected = {
        (finding.needle.kind, finding.needle.value)
        for finding in findings
        if finding.kind in WEAK and finding.kind != "ip"
    }
    found: dict[tuple[str, str | bytes], str] = {}
    for kind, value in sorted(suspected, key=str):
        if isinstance(value, str) and (table := table_with_word(lake, value)) is not None:
            found[kind, value] = table
    return found


def _limits(report: ScanReport) -> list[str]:
    """Return what was not searched, in sentences."""
    found = []
    for place in report.places:
        for what, names in (
            ("compressed files were not fully decoded (their bytes were searched)", place.undecoded),
            ("files or folders were not read", place.skipped),
        ):
            if names:
                shown = ", ".join(names[:_MOST_NAMED])
                more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
                found.append(f"In {place.name}, {len(names)} {what}: {shown}{more}.")
        if not place.tested:
            found.append(f"No test value could be written to {place.name}, so the search was not tested there.")
    return found
