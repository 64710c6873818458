"""The user tables' old versions: taking them away, and proving what they still say and what not."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import ClockError, DecryptionError, ErasureUnverifiedError, LakehouseError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import CATEGORY, USER_TABLES, Category
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.files_of_subject import RetainedFile, read_file, retained
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, maintain
from hfthot_platform.storage.operational import schema

__all__ = ["check_history", "clean_log"]

_CHUNK: Final = 500


def clean_log(
    lake: Lakehouse, contract: TableContract, *, stamp: Stamp, keep_history: bool, history_days: float | None = None
) -> int:
    """Remove data files that no version within the time travel needs; return how many.

    Without history that is every file that the newest version does not need, and after them every log entry and
    checkpoint before it: they hold names and statistics of what is gone.

    Under a clock that leapt ahead the history that is kept stays whole: its files go with a later round.

    Raises:
        LockTimeoutError: writers held the table's lock all the time.
    """
    try:
        report = maintain(lake, contract.name, history_days=history_days if keep_history else 0, stamp=stamp)
    except ClockError:
        return 0
    if report.oldest_readable is None or keep_history:
        return report.files_vacuumed
    lake.table(contract.name).log.forget_older()
    return report.files_vacuumed


def check_history(
    accounts: Accounts, lake: Lakehouse, subject_id: str, *, keep_history: bool, where: str
) -> dict[str, int]:
    """Read every retained version of every user table, each data file once.

    Of the erased subject no key is left and no row of a newest version has an envelope; without history no data
    file of any kind has one.  Every envelope of everybody else decrypts.

    Returns:
        Versions, files, and envelopes of others that were decrypted (each state of a row once).

    Raises:
        ErasureUnverifiedError: any of this is not so; the message says in which table and file.
    """
    counts = {"versions_read": 0, "files_read": 0, "envelopes_decrypted": 0}
    with accounts.store.reading() as rx:
        keys = schema.subject_keys.c
        left = rx.execute(sa.select(sa.func.count()).where(keys.subject_id == subject_id)).scalar_one()
    if left:
        raise ErasureUnverifiedError(
            f"{left} keys of the person still exist", where=where, hint="Run the request again."
        )
    for contract in USER_TABLES:
        try:
            found = retained(lake, contract)
            if found is None:
                continue
            counts["versions_read"] += len(found.versions)
            counts["files_read"] += len(found.files)
            # The newest files first: their rows' states repeat in older ones.
            files = sorted(found.files, key=lambda file: file.name not in found.current)
            reader = _RetainedFileReader(accounts, lake, contract, subject_id)
            for file in files:
                counts["envelopes_decrypted"] += reader.read(file)
                if reader.own and (not keep_history or file.name in found.current):
                    raise ErasureUnverifiedError(
                        f"{reader.own} rows still have encrypted data of the person",
                        where=f"{where}, {contract.name}, {file.name}",
                        hint="Run the request again; a writer may have locked the table.",
                    )
        except LakehouseError as error:
            raise ErasureUnverifiedError(
                f"a retained version cannot be read ({error.what})",
                where=f"{where}, {contract.name}",
                hint=f"{error.hint} Then run the request again.",
            ) from None
    return counts


class _RetainedFileReader:
    """Reads data files of one table, and decrypts what it has not decrypted before."""

    def __init__(self, accounts: Accounts, lake: Lakehouse, contract: TableContract, subject_id: str) -> None:
        self._accounts = accounts
        self._lake = lake
        self._contract = contract
        self._subject_id = subject_id
        self._personal = [column.name for column in contract.columns if column.personal]
        self._seen = _Seen()
        #: Rows of the subject with an envelope in the file that was read last.
        self.own = 0

    def read(self, file: RetainedFile) -> int:
        """Read a file whole and return how many envelopes of others were decrypted."""
        contract = self._contract
        try:
            rows = read_file(self._lake, contract, file, list(contract.column_names))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ErasureUnverifiedError(
                f"a data file of a retained version cannot be read ({type(error).__name__})",
                where=f"{contract.name}, {file.name}",
                hint="Restore it from a backup, or vacuum the versions that need it, then run the request again.",
            ) from None
        self.own = 0
        if not self._personal or not rows.height:
            return 0
        sealed = rows.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in self._personal))
        self.own = sealed.filter(pl.col("subject_id") == self._subject_id).height
        state = (
            sealed.select(*dict.fromkeys((*contract.primary_key, contract.sequence or "", *self._personal)))
            .hash_rows()
            .to_numpy()
        )
        new = sealed.filter(pl.Series(self._seen.add(state), dtype=pl.Boolean))
        return sum(self._decrypted(part, file) for part in new.iter_slices(20_000))

    def _decrypted(self, rows: pl.DataFrame, file: RetainedFile) -> int:
        category = CATEGORY[self._contract.name]
        subjects = rows["subject_id"].drop_nulls().unique().to_list()
        ciphers = self._accounts.ciphers(subjects, category)
        without = [subject for subject in subjects if subject not in ciphers and subject != self._subject_id]
        if without and (lost := set(without) - _erased(self._accounts, without, category)):
            raise ErasureUnverifiedError(
                f"{len(lost)} other persons' rows have lost their keys",
                where=f"{self._contract.name}, {file.name}",
                hint="Restore the operational store from a backup: these people were not erased.",
            )
        count = 0
        for name in self._personal:
            part = rows.select("subject_id", name).drop_nulls()
            for subject, envelope in part.iter_rows():
                if (cipher := ciphers.get(subject)) is not None:
                    try:
                        cipher.decrypt(self._contract.name, name, envelope)
                    except DecryptionError:
                        raise ErasureUnverifiedError(
                            f"a value of another person in column {name!r} cannot be decrypted",
                            where=f"{self._contract.name}, {file.name}",
                            hint="It was altered. See `hfthot privacy chain` and the table's history.",
                        ) from None
                    count += 1
        return count


def _erased(accounts: Accounts, subject_ids: list[str], category: Category) -> set[str]:
    """Return those of the subjects whose key of a category is gone because it was destroyed."""
    found: set[str] = set()
    requests, subjects = schema.erasure_requests.c, schema.subjects.c
    with accounts.store.reading() as rx:
        for start in range(0, len(subject_ids), _CHUNK):
            part = subject_ids[start : start + _CHUNK]
            gone = sa.select(subjects.subject_id).where(subjects.subject_id.in_(part), subjects.erased_at.is_not(None))
            found |= set(rx.execute(gone).scalars())
            held = sa.select(requests.subject_id, requests.report).where(
                requests.subject_id.in_(part), requests.report.like(f'%"{category}"%')
            )
            found |= {row[0] for row in rx.execute(held)}
    return found


class _Seen:
    """Hashes of row states, each added once; 8 bytes for each."""

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)

    def add(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Add hashes and return which of them are new."""
        at = np.searchsorted(self._sorted, hashes)
        there = np.zeros(hashes.size, dtype=np.bool_)
        inside = at < self._sorted.size
        there[inside] = self._sorted[at[inside]] == hashes[inside]
        new = ~there
        if new.any():
            self._sorted = np.union1d(self._sorted, hashes[new])
        return new
