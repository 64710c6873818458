"""The one error hierarchy.

Every error says what was wrong (with the offending value), where, and what to do next.  Library code
raises these and nothing else on purpose; callers catch `HfthotError` or the narrowest class that they
can act on.  Messages never hold secrets or personal data.

Each class has a `code` of its own, which programs may rely on: it never changes and is never used again for something
else.  What belongs here: errors that leave the library.  What does not: signals between functions of one module, and
exit and HTTP statuses, which are in `status`.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

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
    "HistoryUnavailableError",
    "InactiveAccountError",
    "InfeasibleError",
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
    "NotSharedError",
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
    "SqlRefusedError",
    "SqlWorkerError",
    "StorageFullError",
    "StorageReadOnlyError",
    "StorageUnavailableError",
    "StorageUnsafeError",
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
    "WorkerLostError",
    "nearest",
    "nearest_symbol",
    "same_symbol",
]


class HfthotError(Exception):
    """Base of all errors raised on purpose.

    `what` holds the offending value, `where` the place (a table, a file, a setting), `hint` the next step.  `code`
    names the kind of error for programs, and `remedy` is what helps against it in general.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    remedy: ClassVar[str] = "Try again. If the error persists, report it with the command or call and the time."

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        message = f"{where}: {what}" if where else what
        stop = "" if message.endswith("?") else "."
        super().__init__(f"{message}{stop} {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as it is; by default an error would be made again from its message alone."""
        return _as_it_was, (type(self), self.args, vars(self))

    def to_dict(self) -> dict[str, str]:
        """Return code, message, where and hint, for an answer or a record; nothing else of the error or its cause."""
        return {"code": self.code, "message": self.what, "where": self.where, "hint": self.hint}


def _as_it_was(kind: type[HfthotError], args: tuple[object, ...], facts: dict[str, object]) -> HfthotError:
    """Return an error without making it anew."""
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


class ConfigError(HfthotError):
    """A setting is missing, malformed or contradicts another."""

    code = "CONFIG_INVALID"
    remedy = "Correct the setting that the message names; `docs/settings.md` says what each setting means."


class NotSharedError(ConfigError):
    """More than one host is declared, and what they must share is on a disk of one of them."""

    code = "HOSTS_NOT_SHARED"
    remedy = (
        "Move what the message names to the object store, PostgreSQL or the environment, or set HFTHOT_HOSTS=1; "
        "`docs/scale.md` lists what is shared."
    )


class BadRequestError(HfthotError, ValueError):
    """An argument is invalid (a naive timestamp, an unknown interval, ...)."""

    code = "INVALID_PARAMS"
    remedy = "Correct the argument that the message names."


class AmbiguousVenueError(BadRequestError):
    """Several venues have this symbol, and their prices must not be mixed; `venues` names them."""

    code = "AMBIGUOUS_VENUE"
    remedy = "Choose one of the venues in the message, as in `market(symbol, venue='kraken')`."

    def __init__(self, what: str, *, venues: tuple[str, ...], where: str = "", hint: str = "") -> None:
        self.venues = venues
        super().__init__(what, where=where, hint=hint)


class UnknownSymbolError(BadRequestError):
    """No table has this symbol; the message suggests another spelling, or lists the known symbols."""

    code = "UNKNOWN_SYMBOL"
    remedy = "Use the spelling that the message suggests, or ingest the symbol first."


class ContractError(HfthotError):
    """A table contract is inconsistent in itself."""

    code = "CONTRACT_INVALID"
    remedy = "Correct the table's declaration."


class DocumentError(HfthotError):
    """A YAML text cannot be read, or is refused before it is expanded; `line` counts from 1."""

    code = "DOCUMENT_INVALID"
    remedy = "Correct the YAML at the line in the message."

    def __init__(self, what: str, *, line: int, where: str = "", hint: str = "") -> None:
        self.line = line
        super().__init__(what, where=f"{where}:{line}" if where else f"line {line}", hint=hint)


class UnknownTableError(HfthotError, KeyError):
    """No contract has this name; the message suggests the nearest one."""

    code = "UNKNOWN_TABLE"
    remedy = "Use the name that the message suggests; `hfthot tables` lists all of them."

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class SqlError(HfthotError):
    """A statement cannot run: its syntax, types or parameters are wrong, or it exceeds a limit."""

    code = "SQL_INVALID"
    remedy = "Correct the statement where the message points."


class SqlModelsError(SqlError):
    """Files of SQL models have mistakes; the message lists each with its file, line and a suggestion."""

    code = "SQL_MODELS_INVALID"
    remedy = "Correct the files that the message names, then run `hfthot sql compile`."


class SqlBusyError(SqlError):
    """The queue is full, or no worker became free in time; the same statement may succeed later."""

    code = "SQL_BUSY"
    remedy = "Send the same statement again later."


class SqlCancelledError(SqlError):
    """The statement was cancelled by its caller."""

    code = "SQL_CANCELLED"
    remedy = "No action is needed. Send the statement again if you still want the result."


class SqlDeadlineError(SqlError):
    """The statement exceeded its time limit and was stopped."""

    code = "SQL_DEADLINE_EXCEEDED"
    remedy = "Read fewer days or columns, or aggregate earlier."


class SqlMemoryError(SqlError):
    """The statement exceeded its memory limit and was stopped."""

    code = "SQL_MEMORY_EXCEEDED"
    remedy = "Read fewer days or columns, or aggregate earlier."


class SqlRefusedError(SqlError):
    """The statement does something that untrusted SQL must not do; the message says what."""

    code = "SQL_REFUSED"
    remedy = "Write one SELECT over the tables that your plan includes, using only the allowed functions."


class SqlWorkerError(SqlError):
    """The process that ran the statement died, or could not be started."""

    code = "SQL_WORKER_FAILED"
    remedy = "Send the statement again. If it fails every time, simplify it and report the failure."


class UnknownColumnError(SqlError):
    """A statement names a column that its tables do not have; the message suggests the nearest one."""

    code = "UNKNOWN_COLUMN"
    remedy = "Use the name that the message suggests; `hfthot describe TABLE` lists the columns."


class LakehouseError(HfthotError):
    """Base of the errors of reading and writing tables."""

    code = "LAKEHOUSE_ERROR"
    remedy = "Run `hfthot doctor`, which says what is wrong and how to fix it."


class LakeMissingError(LakehouseError):
    """There is no lake at this location; the message has the absolute path or URL."""

    code = "LAKE_MISSING"
    remedy = "Change to the folder that contains the lake, correct HFTHOT_LAKE_ROOT, or run `hfthot init`."


class SchemaMismatchError(LakehouseError):
    """Rows do not have the contract's columns; the message names the column, the expected type and the actual one."""

    code = "SCHEMA_MISMATCH"
    remedy = "Give the rows the columns and types that the message names."


class VersionUnavailableError(LakehouseError):
    """A version or time cannot be read; the message gives the readable range."""

    code = "VERSION_UNAVAILABLE"
    remedy = "Choose a version or time in the range that the message gives; `hfthot history TABLE` lists them."


class CommitConflictError(LakehouseError):
    """Other writers committed first in every attempt; nothing was written."""

    code = "COMMIT_CONFLICT"
    remedy = "Run the same step again; nothing was written."


class LockTimeoutError(LakehouseError):
    """Another process held a lock for longer than the caller waits."""

    code = "LOCK_TIMEOUT"
    remedy = "Wait for the process that holds the lock to end, then run the same step again."


class DamagedTableError(LakehouseError):
    """A file that the table's log names is missing or unreadable; the message names it and says how to recover."""

    code = "TABLE_DAMAGED"
    remedy = "Follow the message: restore the file, or go back to a version without it (`hfthot restore`)."


class UnsupportedTableError(LakehouseError):
    """The table uses a Delta feature that some readers of the platform would silently misread."""

    code = "TABLE_UNSUPPORTED"
    remedy = "Rewrite the table without the feature that the message names."


class StorageFullError(LakehouseError):
    """The device is full; the previous version is unchanged."""

    code = "STORAGE_FULL"
    remedy = "Free space on the device, then run the same step again."


class StorageReadOnlyError(LakehouseError):
    """The table's folder is not writable; the previous version is unchanged."""

    code = "STORAGE_READ_ONLY"
    remedy = "Correct the permissions, or mount the device read-write, then run the same step again."


class StorageUnsafeError(LakehouseError):
    """The object store overwrites what it was asked only to create, so that two commits that meet become one."""

    code = "STORAGE_UNSAFE"
    remedy = "Use an object store with conditional put (If-None-Match), and switch it on where it is a setting."


class StorageUnavailableError(LakehouseError):
    """The object store did not answer or refused the request; published versions are unchanged."""

    code = "STORAGE_UNAVAILABLE"
    remedy = "Check that the object store is up, and check its address and credentials; then try again."


class AuditFailedError(LakehouseError):
    """A blocking rule failed, so nothing was published."""

    code = "AUDIT_FAILED"
    remedy = "Look at the rejected rows and their rules in `quarantine.*`, and correct the source."


class AccountError(HfthotError):
    """Base of the errors of accounts; messages never contain names, addresses, tokens or keys."""

    code = "ACCOUNT_ERROR"
    remedy = "Do what the message says."


class DuplicateAccountError(AccountError):
    """The username or the e-mail address is taken; `field` says which."""

    code = "DUPLICATE_ACCOUNT"
    remedy = "Choose another username or e-mail address, or sign in to the account that has it."

    def __init__(self, what: str, *, field: str, where: str = "", hint: str = "") -> None:
        self.field = field
        super().__init__(what, where=where, hint=hint)


class UnknownUserError(AccountError, KeyError):
    """No account has this id."""

    code = "UNKNOWN_USER"
    remedy = "Check the id. It may belong to another installation or to an erased account."

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class AuthenticationError(AccountError):
    """The caller could not be authenticated."""

    code = "UNAUTHORIZED"
    remedy = "Sign in, or send a valid API key."


class InvalidCredentialsError(AuthenticationError):
    """The username or the password is wrong; the message does not say which."""

    code = "INVALID_CREDENTIALS"
    remedy = "Check the username and the password."


class InvalidTokenError(AuthenticationError):
    """The session token or API key was never issued, or was altered."""

    code = "INVALID_TOKEN"
    remedy = "Send the token or key exactly as it was issued, or sign in again."


class ExpiredTokenError(AuthenticationError):
    """The session has expired."""

    code = "EXPIRED_TOKEN"
    remedy = "Sign in again."


class RevokedTokenError(AuthenticationError):
    """The session or API key was revoked before it expired."""

    code = "REVOKED_TOKEN"
    remedy = "Sign in again, or generate a new API key."


class InactiveAccountError(AuthenticationError):
    """The account is waiting for approval, or was rejected, deactivated or deleted (restorable for a while)."""

    code = "INACTIVE_ACCOUNT"
    remedy = "Ask an administrator to approve or restore the account."


class TooManyAttemptsError(AuthenticationError):
    """Too many failed sign-ins; `retry_after` is the number of seconds to wait."""

    code = "TOO_MANY_ATTEMPTS"
    remedy = "Wait for `retry_after` seconds."

    def __init__(self, what: str, *, retry_after: float, where: str = "", hint: str = "") -> None:
        self.retry_after = retry_after
        super().__init__(what, where=where, hint=hint)


class PermissionDeniedError(AccountError):
    """The caller is authenticated but may not do this."""

    code = "PERMISSION_DENIED"
    remedy = "Ask someone whose role allows it."


class TierForbiddenError(PermissionDeniedError):
    """The caller's plan does not include this: a table, an operation, SQL."""

    code = "TIER_REQUIRED"
    remedy = "Choose a plan that includes it."


class QuotaExceededError(AccountError):
    """A quota is used up; `resets_at` is when its window ends, None if it is not renewed.

    `retry_after` is the number of seconds until then, as HTTP's header of that name has it.
    """

    code = "RATE_LIMITED"
    remedy = "Wait for `retry_after` seconds (until `resets_at`), or choose a larger plan."

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
    """The operational store cannot be opened, read or written; acknowledged changes are unaffected."""

    code = "STORE_UNAVAILABLE"
    remedy = "Check the disk or the database server, then repeat the call."


class StoreMissingError(StoreError):
    """There are no accounts at this location; only an explicit command creates them."""

    code = "STORE_MISSING"
    remedy = "Change to the folder that contains `data`, correct HFTHOT_ACCOUNTS, or run `hfthot init`."


class RowRefusedError(AccountError):
    """An operation would write a row that breaks its table's contract; nothing was written."""

    code = "ROW_REFUSED"
    remedy = "Correct the value of the column that the message names."


class ClockError(HfthotError):
    """The clock is far ahead of the last recorded event, so nothing is removed by age."""

    code = "CLOCK_DOUBTED"
    remedy = "Correct the machine's clock, or confirm it as the message says."


class PrivacyError(HfthotError):
    """Base of the errors of keys, exports, erasures and proofs."""

    code = "PRIVACY_ERROR"
    remedy = "Do what the message says."


class KeySourceError(PrivacyError):
    """The key-encryption keys are not available, or others can read them."""

    code = "KEYS_UNAVAILABLE"
    remedy = (
        "Make the key-encryption keys available, with read access for this user only, or restore them from a backup."
    )


class DecryptionError(PrivacyError):
    """A ciphertext was altered, or belongs to another table, column or subject."""

    code = "DECRYPTION_FAILED"
    remedy = "Restore the value from a backup, and find out who altered it."


class ErasedSubjectError(PrivacyError):
    """The account was erased; its data cannot be read, restored or changed."""

    code = "SUBJECT_ERASED"
    remedy = "None: an erasure cannot be undone."


class LegalHoldError(PrivacyError):
    """A legal hold keeps this data from being erased."""

    code = "LEGAL_HOLD"
    remedy = "Release the hold if it no longer applies, then repeat the request."


class ErasureUnverifiedError(PrivacyError):
    """An erasure could not be proven, so no certificate is issued; the message says what is left and where."""

    code = "ERASURE_UNVERIFIED"
    remedy = "Remove what the message names, then resume the erasure."


class CertificateError(PrivacyError):
    """The text is not a certificate, was altered, or was signed by another installation."""

    code = "CERTIFICATE_INVALID"
    remedy = "Ask the installation that issued it for the original, or check it with that installation's key."


class SourceError(HfthotError):
    """Base of the errors of reading a market-data source."""

    code = "SOURCE_FAILED"
    remedy = "Do what the message says."


class SourceUnavailableError(SourceError):
    """A remote source gave no usable answer within the retry limit; a later attempt may succeed.

    `resume_from` is the time from which to fetch again: every row before it was delivered.
    """

    code = "SOURCE_UNAVAILABLE"
    remedy = "Fetch again later, starting at `resume_from`."

    def __init__(self, what: str, *, where: str = "", hint: str = "", resume_from: datetime | None = None) -> None:
        self.resume_from = resume_from
        super().__init__(what, where=where, hint=hint)


class SourceRefusedError(SourceError):
    """A remote source permanently refuses a request (unknown symbol, credentials, region)."""

    code = "SOURCE_REFUSED"
    remedy = "Check the symbol, the credentials and the region. Repeating the same request does not help."


class HistoryUnavailableError(SourceError):
    """A source does not have part of the span; `available_from` is the earliest time that it has."""

    code = "HISTORY_UNAVAILABLE"
    remedy = "Start at `available_from`, or use an archive for earlier data."

    def __init__(self, what: str, *, where: str = "", hint: str = "", available_from: datetime | None = None) -> None:
        self.available_from = available_from
        super().__init__(what, where=where, hint=hint)


class ChecksumMismatchError(SourceError):
    """A downloaded or copied file differs from its published checksum."""

    code = "CHECKSUM_MISMATCH"
    remedy = "Delete the file and fetch it again."


class RejectedFileError(SourceError):
    """A whole file cannot be ingested; `reason` is machine-readable and recorded in `ops.ingest_files`."""

    code = "FILE_REJECTED"
    remedy = "Read the reason next to the file in `rejected/`, correct the file or its mapping, and ingest it again."

    def __init__(self, reason: str, what: str, *, where: str = "", hint: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, hint=hint)


class WorkerLostError(HfthotError):
    """Workers died over the same work again and again."""

    code = "WORKER_LOST"
    remedy = "Look at the memory of the host that the worker ran on, and at what the system says of its end."


class ModelError(HfthotError):
    """Base of the errors of models."""

    code = "MODEL_FAILED"
    remedy = "Do what the message says."


class DataError(ModelError, ValueError):
    """The data does not support the model: too few observations, NaN or infinity, a constant series."""

    code = "DATA_UNFIT"
    remedy = "Give the model longer series without missing or constant values."


class InfeasibleError(ModelError):
    """An optimisation has no solution: its constraints contradict each other, or its optimum is unbounded."""

    code = "INFEASIBLE"
    remedy = "Loosen the constraints that the message names."


class LookAheadError(ModelError):
    """A strategy's decisions depend on later data, or do not depend on the bars that it is given."""

    code = "LOOK_AHEAD"
    remedy = "Let each decision use only the bars up to its own."


class StrategyError(ModelError):
    """A strategy raised an error of its own, which is the cause of this one."""

    code = "STRATEGY_FAILED"
    remedy = "Correct the strategy; its own error is the cause of this one."


class NotConvergedError(ModelError):
    """An iteration ended without reaching its tolerance, and no usable result exists."""

    code = "NOT_CONVERGED"
    remedy = "Allow more iterations, loosen the tolerance, or give more data."


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest candidate that is another name, or an empty string."""
    close = difflib.get_close_matches(name, (other for other in candidates if other != name), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else ""


def nearest_symbol(symbol: str, candidates: Iterable[str]) -> str:
    """Return `"Did you mean 'BTC-USDT'?"` for the same instrument in another spelling, else what there is.

    Letters' case and separators are all that may differ: a similar name (SPY, SPX) is another instrument.
    """
    known = sorted(candidates)
    if (meant := same_symbol(symbol, known)) is not None:
        return f"Did you mean {meant!r}?"
    if not known:
        return "Nothing has been written yet."
    return f"Known: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."


def same_symbol(symbol: str, known: Iterable[str]) -> str | None:
    """Return the known symbol with the same letters and digits in any case, or None."""
    return next((name for name in sorted(known) if _letters(name) == _letters(symbol)), None)


def _letters(symbol: str) -> str:
    return "".join(sign for sign in symbol.casefold() if sign.isalnum())
