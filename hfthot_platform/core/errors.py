"""The one error hierarchy.

Every error says what was wrong (with the offending value), where, and what to do next.  Library code
raises these and nothing else on purpose; callers catch `HfthotError` or the narrowest class that they
can act on.  Messages never hold secrets or personal data.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = [
    "AccountError",
    "AmbiguousVenueError",
    "AuditFailedError",
    "AuthenticationError",
    "BadRequestError",
    "CertificateError",
    "ChecksumMismatchError",
    "ClockError",
    "CommitConflictError",
    "ConfigError",
    "ContractError",
    "DamagedTableError",
    "DataError",
    "DecryptionError",
    "DocumentError",
    "DuplicateAccountError",
    "ErasedSubjectError",
    "ErasureUnverifiedError",
    "ExpiredTokenError",
    "HfthotError",
    "InactiveAccountError",
    "InvalidCredentialsError",
    "InvalidTokenError",
    "KeySourceError",
    "LakeMissingError",
    "LakehouseError",
    "LegalHoldError",
    "LockTimeoutError",
    "LookAheadError",
    "ModelError",
    "NotConvergedError",
    "PermissionDeniedError",
    "PrivacyError",
    "QuotaExceededError",
    "RejectedFileError",
    "RevokedTokenError",
    "RowRefusedError",
    "SchemaMismatchError",
    "SourceError",
    "SourceRefusedError",
    "SourceUnavailableError",
    "SqlBusyError",
    "SqlCancelledError",
    "SqlDeadlineError",
    "SqlError",
    "SqlMemoryError",
    "SqlModelsError",
    "SqlQuotaError",
    "SqlRefusedError",
    "SqlWorkerError",
    "StorageFullError",
    "StorageReadOnlyError",
    "StoreError",
    "StoreMissingError",
    "StrategyError",
    "TierForbiddenError",
    "TooManyAttemptsError",
    "UnknownColumnError",
    "UnknownSymbolError",
    "UnknownTableError",
    "UnknownUserError",
    "UnsupportedTableError",
    "VersionUnavailableError",
    "nearest",
    "nearest_symbol",
    "same_symbol",
]


class HfthotError(Exception):
    """Base of all errors raised on purpose.

    `what` holds the offending value, `where` the place (a table, a file, a setting), `hint` the next step.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        message = f"{where}: {what}" if where else what
        stop = "" if message.endswith("?") else "."
        super().__init__(f"{message}{stop} {hint}" if hint else message)


class ConfigError(HfthotError):
    """A setting is missing, malformed or contradicts another."""


class BadRequestError(HfthotError, ValueError):
    """An argument of a call is out of its domain (a naive timestamp, an unknown interval, ...)."""


class AmbiguousVenueError(BadRequestError):
    """A symbol is there from several venues, whose prices must not be mixed; `venues` names them."""

    def __init__(self, what: str, *, venues: tuple[str, ...], where: str = "", hint: str = "") -> None:
        self.venues = venues
        super().__init__(what, where=where, hint=hint)


class UnknownSymbolError(BadRequestError):
    """No table has this symbol; the message names the same instrument in another spelling, or what there is."""


class ContractError(HfthotError):
    """A table contract is inconsistent in itself."""


class DocumentError(HfthotError):
    """A YAML text cannot be read, or is refused before it is expanded; `line` counts from 1."""

    def __init__(self, what: str, *, line: int, where: str = "", hint: str = "") -> None:
        self.line = line
        super().__init__(what, where=f"{where}:{line}" if where else f"line {line}", hint=hint)


class UnknownTableError(HfthotError, KeyError):
    """No contract has this name; the message suggests the nearest one."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class SqlError(HfthotError):
    """A statement cannot run: its syntax, its types, its parameters, or more than its limits allow."""


class SqlModelsError(SqlError):
    """Files of SQL models have mistakes; the message lists each with its file, line and a suggestion."""


class SqlBusyError(SqlError):
    """No place in the queue, or none that became free in time; the same statement may succeed later."""


class SqlCancelledError(SqlError):
    """The statement was cancelled by its caller."""


class SqlDeadlineError(SqlError):
    """The statement did not finish within its time and was ended."""


class SqlMemoryError(SqlError):
    """The statement needed more memory than it may use and was ended."""


class SqlQuotaError(SqlError):
    """The caller's plan has no SQL queries left, or none at all."""


class SqlRefusedError(SqlError):
    """The statement does what a stranger's SQL may not; the message says what."""


class SqlWorkerError(SqlError):
    """The process that ran the statement ended by itself, or could not be started."""


class UnknownColumnError(SqlError):
    """A statement names a column that its tables do not have; the message suggests the nearest one."""


class LakehouseError(HfthotError):
    """Base of what can go wrong between a caller and a table on storage."""


class LakeMissingError(LakehouseError):
    """There is no lake at this place; the message has the absolute path or URL that was looked at."""


class SchemaMismatchError(LakehouseError):
    """Rows do not have the contract's columns; the message names column, expected and found."""


class VersionUnavailableError(LakehouseError):
    """A version or time that cannot be read; the message names the readable range."""


class CommitConflictError(LakehouseError):
    """Other writers won every attempt within the retry bound; nothing was written."""


class LockTimeoutError(LakehouseError):
    """The writers' lock was not to be had in time."""


class DamagedTableError(LakehouseError):
    """A file that the table's log names is missing or unreadable; the message names it and the way back."""


class UnsupportedTableError(LakehouseError):
    """The table uses a Delta feature that some of our read routes would misread silently."""


class StorageFullError(LakehouseError):
    """No room on the device; the previous version still stands."""


class StorageReadOnlyError(LakehouseError):
    """The table's place cannot be written; the previous version still stands."""


class StorageUnavailableError(LakehouseError):
    """The object store did not answer or refused the request; what was published before still stands."""


class AuditFailedError(LakehouseError):
    """A blocking rule failed, so nothing was published."""


class AccountError(HfthotError):
    """Base of what can go wrong with an account; messages never hold names, addresses, tokens or keys."""


class DuplicateAccountError(AccountError):
    """The username or the e-mail address is taken; `field` says which."""

    def __init__(self, what: str, *, field: str, where: str = "", hint: str = "") -> None:
        self.field = field
        super().__init__(what, where=where, hint=hint)


class UnknownUserError(AccountError, KeyError):
    """No account has this id."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class AuthenticationError(AccountError):
    """Who is asking could not be established."""


class InvalidCredentialsError(AuthenticationError):
    """Username or password is wrong; which of the two is not said."""


class InvalidTokenError(AuthenticationError):
    """The session token or API key was never issued, or was altered."""


class ExpiredTokenError(AuthenticationError):
    """The session is over; sign in again."""


class RevokedTokenError(AuthenticationError):
    """The session or API key was ended before its time."""


class InactiveAccountError(AuthenticationError):
    """The account waits for approval, was rejected, deactivated, or deleted (restorable for a while)."""


class TooManyAttemptsError(AuthenticationError):
    """Too many failed sign-ins; `retry_after` is the number of seconds to wait."""

    def __init__(self, what: str, *, retry_after: float, where: str = "", hint: str = "") -> None:
        self.retry_after = retry_after
        super().__init__(what, where=where, hint=hint)


class PermissionDeniedError(AccountError):
    """The caller is known but may not do this."""


class TierForbiddenError(PermissionDeniedError):
    """The caller's tier does not include this."""


class QuotaExceededError(AccountError):
    """A quota is used up; `resets_at` is when its window ends, None if it does not renew.

    `retry_after` is the number of seconds until then, as HTTP's header of that name has it.
    """

    def __init__(
        self,
        what: str,
        *,
        resets_at: datetime | None = None,
        retry_after: float | None = None,
        where: str = "",
        hint: str = "",
    ) -> None:
        self.resets_at = resets_at
        self.retry_after = retry_after
        super().__init__(what, where=where, hint=hint)


class StoreError(AccountError):
    """The operational store cannot be opened, read or written; what was acknowledged before still stands."""


class StoreMissingError(StoreError):
    """There are no accounts at this place; only a command that says so makes them."""


class RowRefusedError(AccountError):
    """An operation would write a row that its table's contract does not take; nothing of it was entered."""


class ClockError(HfthotError):
    """The clock cannot be trusted with removing anything: it leapt ahead of everything that happened before."""


class PrivacyError(HfthotError):
    """Base of what can go wrong with keys, export, erasure and proof."""


class KeySourceError(PrivacyError):
    """The key-encryption keys cannot be had, or are not safe where they are."""


class DecryptionError(PrivacyError):
    """A ciphertext was altered, or belongs to another table, column or subject."""


class ErasedSubjectError(PrivacyError):
    """The account was erased; nothing of it can be read, restored or changed."""


class LegalHoldError(PrivacyError):
    """A legal hold keeps this data from being erased."""


class ErasureUnverifiedError(PrivacyError):
    """An erasure could not be proven, so no certificate is issued; the message says what is left where."""


class CertificateError(PrivacyError):
    """A certificate was altered, is not one, or was signed by another installation."""


class SourceError(HfthotError):
    """Base of what can go wrong while reading a market-data source."""


class SourceUnavailableError(SourceError):
    """A remote source did not answer usefully within its retry bound; trying later may help.

    `resume_from` is the time from which to fetch again: every row before it was delivered.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "", resume_from: datetime | None = None) -> None:
        self.resume_from = resume_from
        super().__init__(what, where=where, hint=hint)


class SourceRefusedError(SourceError):
    """A remote source refuses for good (unknown symbol, credentials, region); the same request never succeeds."""


class HistoryUnavailableError(SourceError):
    """A source no longer keeps, or never kept, part of the span; `available_from` is the first time it has."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", available_from: datetime | None = None) -> None:
        self.available_from = available_from
        super().__init__(what, where=where, hint=hint)


class ChecksumMismatchError(SourceError):
    """A downloaded or copied file differs from its published checksum."""


class RejectedFileError(SourceError):
    """A whole file cannot be ingested; `reason` is machine-readable and ends up in `ops.ingest_files`."""

    def __init__(self, reason: str, what: str, *, where: str = "", hint: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, hint=hint)


class ModelError(HfthotError):
    """Base of what can go wrong inside a model."""


class DataError(ModelError, ValueError):
    """The data cannot carry the model: too few observations, NaN or infinity, a constant series."""


class InfeasibleError(ModelError):
    """An optimisation has no solution: its constraints contradict each other, or its optimum is unbounded."""


class LookAheadError(ModelError):
    """A strategy's decisions change with data from after them, or do not depend on the bars that it is given."""


class StrategyError(ModelError):
    """A strategy raised an error of its own, which is the cause of this one."""


class NotConvergedError(ModelError):
    """An iteration ended without reaching its tolerance, and no usable result exists."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest candidate that is another name, or an empty string."""
    close = difflib.get_close_matches(name, [each for each in candidates if each != name], n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else ""


def nearest_symbol(symbol: str, candidates: Iterable[str]) -> str:
    """Return `"Did you mean 'BTC-USDT'?"` for the same instrument in another spelling, else what there is.

    Letters' case and separators are all that may differ: a similar name (SPY, SPX) is another instrument.
    """
    known = sorted(candidates)
    if (meant := same_symbol(symbol, known)) is not None:
        return f"Did you mean {meant!r}?"
    if not known:
        return "It is empty."
    return f"There are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."


def same_symbol(symbol: str, known: Iterable[str]) -> str | None:
    """Return the known symbol with the same letters and digits in any case, or None."""
    return next((each for each in sorted(known) if _letters(each) == _letters(symbol)), None)


def _letters(symbol: str) -> str:
    return "".join(sign for sign in symbol.casefold() if sign.isalnum())
