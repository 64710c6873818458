"""Errors for programs: a code of its own for each class, one table of statuses, and a page that lists them all."""

import copy
import inspect
import pickle
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from hfthot_platform.core import errors
from hfthot_platform.core.errors import HfthotError, InfeasibleError, QuotaExceededError, UnknownTableError
from hfthot_platform.core.status import STATUSES, status_of
from hfthot_platform.interfaces.cli.errors_page import errors_page

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, HfthotError)}

# Programs rely on these: a line may be added, and goes with its class; none is ever changed.
CODES = {
    "AccountError": "ACCOUNT_ERROR",
    "AmbiguousVenueError": "AMBIGUOUS_VENUE",
    "AuditFailedError": "AUDIT_FAILED",
    "AuthenticationError": "UNAUTHORIZED",
    "BadRequestError": "INVALID_PARAMS",
    "CertificateError": "CERTIFICATE_INVALID",
    "ChecksumMismatchError": "CHECKSUM_MISMATCH",
    "ClockError": "CLOCK_DOUBTED",
    "CommitConflictError": "COMMIT_CONFLICT",
    "ConfigError": "CONFIG_INVALID",
    "ContractError": "CONTRACT_INVALID",
    "DamagedTableError": "TABLE_DAMAGED",
    "DataError": "DATA_UNFIT",
    "DecryptionError": "DECRYPTION_FAILED",
    "DocumentError": "DOCUMENT_INVALID",
    "DuplicateAccountError": "DUPLICATE_ACCOUNT",
    "ErasedSubjectError": "SUBJECT_ERASED",
    "ErasureUnverifiedError": "ERASURE_UNVERIFIED",
    "ExpiredTokenError": "EXPIRED_TOKEN",
    "HfthotError": "INTERNAL_ERROR",
    "HistoryUnavailableError": "HISTORY_UNAVAILABLE",
    "InactiveAccountError": "INACTIVE_ACCOUNT",
    "InfeasibleError": "INFEASIBLE",
    "InvalidCredentialsError": "INVALID_CREDENTIALS",
    "InvalidTokenError": "INVALID_TOKEN",
    "KeySourceError": "KEYS_UNAVAILABLE",
    "LakeMissingError": "LAKE_MISSING",
    "LakehouseError": "LAKEHOUSE_ERROR",
    "LegalHoldError": "LEGAL_HOLD",
    "LockTimeoutError": "LOCK_TIMEOUT",
    "LookAheadError": "LOOK_AHEAD",
    "ModelError": "MODEL_FAILED",
    "NotConvergedError": "NOT_CONVERGED",
    "NotSharedError": "HOSTS_NOT_SHARED",
    "PermissionDeniedError": "PERMISSION_DENIED",
    "PrivacyError": "PRIVACY_ERROR",
    "QuotaExceededError": "RATE_LIMITED",
    "RejectedFileError": "FILE_REJECTED",
    "RevokedTokenError": "REVOKED_TOKEN",
    "RowRefusedError": "ROW_REFUSED",
    "SchemaMismatchError": "SCHEMA_MISMATCH",
    "SourceError": "SOURCE_FAILED",
    "SourceRefusedError": "SOURCE_REFUSED",
    "SourceUnavailableError": "SOURCE_UNAVAILABLE",
    "SqlBusyError": "SQL_BUSY",
    "SqlCancelledError": "SQL_CANCELLED",
    "SqlDeadlineError": "SQL_DEADLINE_EXCEEDED",
    "SqlError": "SQL_INVALID",
    "SqlMemoryError": "SQL_MEMORY_EXCEEDED",
    "SqlModelsError": "SQL_MODELS_INVALID",
    "SqlRefusedError": "SQL_REFUSED",
    "SqlWorkerError": "SQL_WORKER_FAILED",
    "StorageFullError": "STORAGE_FULL",
    "StorageReadOnlyError": "STORAGE_READ_ONLY",
    "StorageUnavailableError": "STORAGE_UNAVAILABLE",
    "StorageUnsafeError": "STORAGE_UNSAFE",
    "StoreError": "STORE_UNAVAILABLE",
    "StoreMissingError": "STORE_MISSING",
    "StrategyError": "STRATEGY_FAILED",
    "TierForbiddenError": "TIER_REQUIRED",
    "TooManyAttemptsError": "TOO_MANY_ATTEMPTS",
    "UnknownColumnError": "UNKNOWN_COLUMN",
    "UnknownSymbolError": "UNKNOWN_SYMBOL",
    "UnknownTableError": "UNKNOWN_TABLE",
    "UnknownUserError": "UNKNOWN_USER",
    "UnsupportedTableError": "TABLE_UNSUPPORTED",
    "VersionUnavailableError": "VERSION_UNAVAILABLE",
    "WorkerLostError": "WORKER_LOST",
}


def test_the_code_of_each_error_is_the_one_that_programs_know():
    assert {name: kind.code for name, kind in CLASSES.items()} == CODES


def test_no_two_errors_share_a_code():
    assert len({kind.code for kind in CLASSES.values()}) == len(CLASSES)


def test_codes_are_words_in_capitals():
    assert all(re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", code) for code in CODES.values())


@pytest.mark.parametrize("code", ["INVALID_PARAMS", "UNAUTHORIZED", "TIER_REQUIRED", "RATE_LIMITED", "INTERNAL_ERROR"])
def test_the_codes_of_the_published_interface_are_among_them(code):
    assert code in CODES.values()


def test_every_error_can_be_imported_by_a_star():
    assert set(CLASSES) <= set(errors.__all__)


def test_the_table_of_statuses_has_every_error_and_nothing_else():
    assert set(STATUSES) == {kind.code for kind in CLASSES.values()}


def test_statuses_are_those_of_a_failure():
    for code, status in STATUSES.items():
        assert status.exit in {1, 2}, code
        assert status.http == 499 or HTTPStatus(status.http) >= 400, code


@pytest.mark.parametrize(
    ("code", "http"),
    [("INVALID_PARAMS", 400), ("UNAUTHORIZED", 401), ("TIER_REQUIRED", 403), ("RATE_LIMITED", 429)],
)
def test_the_published_codes_have_their_published_statuses(code, http):
    assert STATUSES[code].http == http


def test_an_error_of_somebody_elses_is_an_internal_one():
    assert status_of(ZeroDivisionError()) == STATUSES["INTERNAL_ERROR"]


def test_an_error_below_a_listed_one_is_answered_as_that():
    class UsersOwnError(InfeasibleError):
        pass

    assert status_of(UsersOwnError("no weights")) == STATUSES["INFEASIBLE"]


def test_an_error_is_told_to_programs_in_four_words():
    error = UnknownTableError("unknown table 'market.bar'", where="scan", hint="Did you mean 'market.bars'?")
    assert error.to_dict() == {
        "code": "UNKNOWN_TABLE",
        "message": "unknown table 'market.bar'",
        "where": "scan",
        "hint": "Did you mean 'market.bars'?",
    }


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", CLASSES.values())
def test_an_error_is_the_same_in_another_process(kind, again):
    required = [
        argument.name
        for argument in inspect.signature(kind).parameters.values()
        if argument.default is argument.empty and argument.name != "what"
    ]
    error = kind(what="it is wrong", where="here", hint="Correct it.", **dict.fromkeys(required, "a fact"))

    there = again(error)

    assert type(there) is kind
    assert (str(there), there.to_dict(), vars(there)) == (str(error), error.to_dict(), vars(error))
    assert all(getattr(there, name) == "a fact" for name in required)


def test_what_is_told_to_programs_has_nothing_of_the_cause():
    error = QuotaExceededError("used up", retry_after=3.0)
    error.__cause__ = ValueError("password=hunter2")
    assert "hunter2" not in str(error.to_dict())


def test_every_error_says_what_helps_against_it():
    assert all(kind.remedy.endswith(".") and "remedy" in vars(kind) for kind in CLASSES.values())


def test_the_page_in_the_repository_is_current():
    page = Path(__file__).parents[2] / "docs" / "errors.md"
    assert page.read_text(encoding="utf-8") == errors_page(), "run `make dictionary` and commit the result"


def test_every_error_is_on_the_page():
    page = errors_page()
    for name, kind in CLASSES.items():
        assert f"\n## {kind.code}\n\n`{name}`" in page
        assert kind.remedy in page
