"""Checks of the user tables: who refers to whom, nothing personal in clear, no gap in the audit, no negative quota.

They look at what is published; nothing that they say holds a value, only tables, files, columns and counts.
Outcomes are about the current versions, so run them while no publisher is between two tables
(`Publisher.alone`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from hfthot_platform.core.errors import VersionUnavailableError
from hfthot_platform.core.files import write_whole
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG, ENVELOPE, USAGE, USER_TABLES, USERS
from hfthot_platform.services.quality.outcomes import Check, CheckOutcome, Json
from hfthot_platform.services.quality.series import Observed
from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["PATTERNS", "ScanState", "account_checks_of", "run_account_checks"]

_UNIQUE: Final = Check("unique_key", "error", "No two rows have the same primary key.")
_SUBJECTS: Final = Check("known_subjects", "error", "Every row belongs to a user that exists and was not erased.")
_QUOTA: Final = Check("quota_not_negative", "error", "No counter, quota or remaining quota is below zero.")
_GAPLESS: Final = Check("sequence_without_gaps", "error", "Every entry between the first and the last one exists.")
_REDACTED: Final = Check(
    "redacted_rows_empty", "error", "A row whose personal columns were erased has no personal data."
)
_CLEAR: Final = Check("no_plaintext", "error", "No text in the files looks like personal data or a secret in clear.")

#: What personal data and secrets look like, by name.  Envelopes and hexadecimal ids and hashes are not looked at.
PATTERNS: Final[Mapping[str, str]] = {
    "e-mail address": r"(?i)[a-z0-9._%+-]+(?:@|%40)[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}",
    "IPv4 address": r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b",
    "IPv6 address": r"(?i)\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}\b|\b(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4})\b",
    "telephone number": (
        r"\+\d{1,3}(?:[ .()-]{0,2}\d){7,12}\b|\b0\d{1,3}(?:[ .-]\d{2,4}){2,4}\b|\b\d{3}-\d{3}-\d{4}\b"
        r"|\(\d{3}\) ?\d{3}-\d{4}\b"
    ),
    "web token": r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.",
    "key or token": (
        r"\bhft_(?:free|hob|pro|ent)_[A-Za-z0-9_-]{12,}|\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8,}"
        r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:\bbearer )[A-Za-z0-9._~+/-]{16,}"
    ),
    "password hash": r"\$(?:argon2(?:id|i|d)|2[aby]|scrypt|pbkdf2)[^ ]*\$",
}
_HARMLESS: Final = rf"^(?:{ENVELOPE}|[0-9a-f]{{32}}|[0-9a-f]{{64}})$"


class ScanState:
    """Up to which version of each table the files were already looked through; a file beside the operational store.

    Without the file everything is looked through again, which is slower and never wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, int]:
        """Return the versions by table."""
        try:
            found = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): int(version) for name, version in found.items()} if isinstance(found, dict) else {}

    def save(self, versions: Mapping[str, int]) -> None:
        """Add versions to what is kept."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(self.load() | dict(versions), sort_keys=True))


def account_checks_of(declared: TableContract) -> tuple[Check, ...]:
    """Return the checks of a user table; `run_account_checks` returns one outcome for each, in this order."""
    applies = {
        _UNIQUE: True,
        _SUBJECTS: declared not in {USERS, AUDIT_LOG},
        _QUOTA: declared == USAGE,
        _GAPLESS: declared == AUDIT_LOG,
        _REDACTED: declared == AUDIT_LOG,
        _CLEAR: True,
    }
    return tuple(check for check, does in applies.items() if does)


def run_account_checks(lake: Lakehouse, table: str, scanned: Mapping[str, int] | None = None) -> Iterator[CheckOutcome]:
    """Run every check of a user table on its current version.

    Args:
        lake: the lake.
        table: `users`, `sessions`, `api_keys`, `usage` or `audit_log`.
        scanned: versions, by table, whose files `no_plaintext` looked through before.  The versions that it has
            looked through when it passes are in its outcome, as `scanned`.
    """
    declared = next(contract for contract in USER_TABLES if contract.name == table)
    judges: dict[Check, Callable[[], tuple[Observed, tuple[str, ...]]]] = {
        _UNIQUE: lambda: (_keys_repeat_nowhere(declared, lake.table(table).scan()), ()),
        _SUBJECTS: lambda: (_subjects_are_users(lake, table), (USERS.name,)),
        _QUOTA: lambda: (_quotas_are_not_negative(lake.table(table).scan()), ()),
        _GAPLESS: lambda: (_entries_have_no_gap(lake.table(table).scan()), ()),
        _REDACTED: lambda: (_redacted_rows_are_empty(lake.table(table).scan()), ()),
        _CLEAR: lambda: _no_plaintext(lake, declared, scanned or {}),
    }
    for check in account_checks_of(declared):
        found, others = judges[check]()
        yield CheckOutcome(
            name=check.name,
            passed=found.passed,
            severity=check.severity,
            description=found.says,
            observed={"version": lake.table(table).version(), **found.figures},
            tables=(table, *others),
        )


def _keys_repeat_nowhere(declared: TableContract, rows: pl.LazyFrame) -> Observed:
    keys = rows.select(declared.primary_key)
    total = keys.select(pl.len()).collect(engine="streaming").item()
    distinct = keys.unique().select(pl.len()).collect(engine="streaming").item()
    repeated = total - distinct
    says = f"{repeated:,} of {total:,} rows repeat a key ({', '.join(declared.primary_key)})."
    return Observed(repeated == 0, says, {"rows": total, "repeated": repeated})


def _subjects_are_users(lake: Lakehouse, table: str) -> Observed:
    users = lake.table(USERS.name).scan().select("subject_id")
    counts = (
        lake.table(table)
        .scan()
        .group_by("subject_id")
        .len()
        .join(users, on="subject_id", how="anti")
        .select(pl.len().alias("subjects"), pl.col("len").sum().alias("rows"))
        .collect(engine="streaming")
        .row(0, named=True)
    )
    says = f"{counts['rows']:,} rows belong to {counts['subjects']:,} subjects that are not registered users."
    return Observed(counts["rows"] == 0, says, {"rows": counts["rows"], "subjects": counts["subjects"]})


def _quotas_are_not_negative(rows: pl.LazyFrame) -> Observed:
    names = ("used", "used_today", "quota", "remaining")
    below = rows.select((pl.col(name) < 0).sum().alias(name) for name in names).collect().row(0, named=True)
    says = f"{sum(below.values()):,} values are below zero."
    return Observed(not any(below.values()), says, dict(below))


def _entries_have_no_gap(rows: pl.LazyFrame) -> Observed:
    seen = rows.select(
        pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last"), pl.col("seq").n_unique().alias("entries")
    )
    first, last, entries = seen.collect(engine="streaming").row(0)
    if first is None:
        return Observed(True, "There are no entries.", {"entries": 0})
    missing = last - first + 1 - entries
    says = f"{missing:,} of the entries {first:,} to {last:,} are missing."
    return Observed(missing == 0, says, {"first": first, "last": last, "entries": entries, "missing": missing})


def _redacted_rows_are_empty(rows: pl.LazyFrame) -> Observed:
    personal = [pl.col(column.name).is_not_null() for column in AUDIT_LOG.columns if column.personal]
    wrong = rows.select((pl.col("redacted") & pl.any_horizontal(personal)).sum()).collect().item()
    return Observed(wrong == 0, f"{wrong:,} redacted rows still hold personal columns.", {"rows": wrong})


def _no_plaintext(
    lake: Lakehouse, declared: TableContract, scanned: Mapping[str, int]
) -> tuple[Observed, tuple[str, ...]]:
    """Look through the files that are new since the versions given, of a table and of its quarantine."""
    findings: list[Json] = []
    versions: dict[str, Json] = {}
    files = 0
    size = 0
    total = 0
    for name in (declared.name, declared.quarantine):
        table = lake.table(name)
        now = table.snapshot()
        if now is None:
            continue
        known: set[str] = set()
        if scanned.get(name, -1) >= 0:
            try:
                before = table.snapshot(version=scanned[name])
            except VersionUnavailableError:
                before = None  # the log does not tell any more: everything is looked through
            known = set() if before is None else set(before.paths)
        versions[name] = now.version
        for path in now.paths:
            if path in known:
                continue
            files += 1
            for column, pattern, count in _personal_values_in(path, dict(lake.storage.options)):
                total += count
                findings.append(
                    {"table": name, "file": path.rsplit("/", 1)[-1], "column": column, "like": pattern, "count": count}
                )
        size += now.bytes
    says = f"{total:,} texts in {files:,} new files look like personal data or secrets in clear."
    figures: dict[str, Json] = {"files": files, "found": total, "findings": findings[:100], "scanned": versions}
    return Observed(not findings, says, figures), (declared.quarantine,)


def _personal_values_in(path: str, options: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """Yield column, pattern and number of values of a file that look like something personal."""
    frame = pl.scan_parquet(path, hive_partitioning=False, storage_options=options or None)
    texts = [name for name, dtype in frame.collect_schema().items() if dtype == pl.String()]
    for name in texts:
        # One column at a time: memory is bounded by the largest column of one file.
        suspects = (
            frame.select(name)
            .filter(pl.col(name).str.contains(_HARMLESS).not_())
            .group_by(name)
            .len()
            .collect(engine="streaming")
        )
        counts = suspects.select(
            pl.col("len").filter(pl.col(name).str.contains(pattern)).sum().alias(like)
            for like, pattern in PATTERNS.items()
        ).row(0, named=True)
        for like, count in counts.items():
            if count:
                yield name, like, int(count)
