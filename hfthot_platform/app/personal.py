"""Rows of the user tables as a person reads them: personal columns decrypted, those of erased subjects null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from hfthot_platform.domain.contracts.accounts import CATEGORY

if TYPE_CHECKING:
    from hfthot_platform.domain.contracts import TableContract
    from hfthot_platform.services.accounts.accounts import Accounts
    from hfthot_platform.storage.vault import SubjectCipher

__all__ = ["decrypted"]

#: Rows whose subjects' keys are held at a time: memory is bounded by it, however large the table is.
CHUNK: Final = 50_000


def decrypted(accounts: Accounts, contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a user table with their personal columns in clear.

    Args:
        accounts: where the subjects' keys are; a subject without a key is erased, and its fields become null.
        contract: of the table.
        rows: as they are stored, of any version.

    Raises:
        DecryptionError: a value was altered, or belongs to another row, column or subject.
    """
    personal = [column.name for column in contract.columns if column.personal and column.name in rows.columns]
    if not personal or not rows.height:
        return rows
    category = CATEGORY[contract.name]
    chunks = []
    for chunk in rows.iter_slices(CHUNK):
        sealed = chunk.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in personal))
        ciphers = accounts.ciphers(sealed["subject_id"].drop_nulls().unique().to_list(), category)
        columns = (_in_clear(contract.name, chunk["subject_id"], chunk[name], ciphers) for name in personal)
        chunks.append(chunk.with_columns(*columns))
    return pl.concat(chunks)


def _in_clear(table: str, subjects: pl.Series, values: pl.Series, ciphers: dict[str, SubjectCipher]) -> pl.Series:
    if values.null_count() == len(values):
        return values
    name = values.name
    found: list[str | None] = []
    for subject, value in zip(subjects.to_list(), values.to_list(), strict=True):
        cipher = None if value is None or subject is None else ciphers.get(subject)
        found.append(None if cipher is None else cipher.decrypt(table, name, value))
    return pl.Series(name, found, dtype=pl.String)
