"""What an error means to whoever called from outside: exit status, HTTP status, gRPC status.  The only such table.

What belongs here: one line per code of `errors`; a test walks all classes.  What does not: messages, and what a server
puts around them.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hfthot_platform.core.errors import HfthotError

__all__ = ["STATUSES", "Status", "status_of"]

#: Names of `grpc.StatusCode`.
GrpcStatus = Literal[
    "ABORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
]


class Status(NamedTuple):
    """How an error is answered.

    `exit` is 2 where the command as it was typed cannot succeed here (as for a wrong option), and 1 otherwise.  `http`
    499 is the usual one for a request that its caller withdrew.
    """

    exit: Literal[1, 2]
    http: int
    grpc: GrpcStatus


STATUSES: Final[dict[str, Status]] = {
    "INTERNAL_ERROR": Status(1, 500, "INTERNAL"),
    "CONFIG_INVALID": Status(2, 500, "FAILED_PRECONDITION"),
    "HOSTS_NOT_SHARED": Status(2, 500, "FAILED_PRECONDITION"),
    "CONTRACT_INVALID": Status(1, 500, "INTERNAL"),
    "DOCUMENT_INVALID": Status(1, 400, "INVALID_ARGUMENT"),
    # -- requests
    "INVALID_PARAMS": Status(2, 400, "INVALID_ARGUMENT"),
    "AMBIGUOUS_VENUE": Status(2, 400, "INVALID_ARGUMENT"),
    "UNKNOWN_SYMBOL": Status(2, 404, "NOT_FOUND"),
    "UNKNOWN_TABLE": Status(2, 404, "NOT_FOUND"),
    # -- SQL
    "SQL_INVALID": Status(2, 400, "INVALID_ARGUMENT"),
    "UNKNOWN_COLUMN": Status(2, 400, "INVALID_ARGUMENT"),
    "SQL_REFUSED": Status(2, 403, "PERMISSION_DENIED"),
    "SQL_BUSY": Status(2, 503, "UNAVAILABLE"),
    "SQL_CANCELLED": Status(2, 499, "CANCELLED"),
    "SQL_DEADLINE_EXCEEDED": Status(2, 504, "DEADLINE_EXCEEDED"),
    "SQL_MEMORY_EXCEEDED": Status(2, 422, "RESOURCE_EXHAUSTED"),
    "SQL_WORKER_FAILED": Status(2, 500, "INTERNAL"),
    "SQL_MODELS_INVALID": Status(2, 500, "FAILED_PRECONDITION"),
    # -- tables and their storage
    "LAKEHOUSE_ERROR": Status(1, 500, "INTERNAL"),
    "LAKE_MISSING": Status(2, 503, "FAILED_PRECONDITION"),
    "SCHEMA_MISMATCH": Status(1, 400, "INVALID_ARGUMENT"),
    "VERSION_UNAVAILABLE": Status(1, 404, "OUT_OF_RANGE"),
    "COMMIT_CONFLICT": Status(1, 409, "ABORTED"),
    "LOCK_TIMEOUT": Status(1, 503, "UNAVAILABLE"),
    "TABLE_DAMAGED": Status(1, 500, "DATA_LOSS"),
    "TABLE_UNSUPPORTED": Status(1, 501, "UNIMPLEMENTED"),
    "STORAGE_FULL": Status(1, 507, "RESOURCE_EXHAUSTED"),
    "STORAGE_READ_ONLY": Status(1, 500, "FAILED_PRECONDITION"),
    "STORAGE_UNAVAILABLE": Status(1, 503, "UNAVAILABLE"),
    "STORAGE_UNSAFE": Status(1, 500, "FAILED_PRECONDITION"),
    "AUDIT_FAILED": Status(1, 422, "FAILED_PRECONDITION"),
    # -- accounts
    "ACCOUNT_ERROR": Status(1, 409, "FAILED_PRECONDITION"),
    "DUPLICATE_ACCOUNT": Status(1, 409, "ALREADY_EXISTS"),
    "UNKNOWN_USER": Status(1, 404, "NOT_FOUND"),
    "UNAUTHORIZED": Status(1, 401, "UNAUTHENTICATED"),
    "INVALID_CREDENTIALS": Status(1, 401, "UNAUTHENTICATED"),
    "INVALID_TOKEN": Status(1, 401, "UNAUTHENTICATED"),
    "EXPIRED_TOKEN": Status(1, 401, "UNAUTHENTICATED"),
    "REVOKED_TOKEN": Status(1, 401, "UNAUTHENTICATED"),
    "INACTIVE_ACCOUNT": Status(1, 403, "PERMISSION_DENIED"),
    "TOO_MANY_ATTEMPTS": Status(1, 429, "RESOURCE_EXHAUSTED"),
    "PERMISSION_DENIED": Status(1, 403, "PERMISSION_DENIED"),
    "TIER_REQUIRED": Status(1, 403, "PERMISSION_DENIED"),
    "RATE_LIMITED": Status(1, 429, "RESOURCE_EXHAUSTED"),
    "ROW_REFUSED": Status(1, 400, "INVALID_ARGUMENT"),
    "STORE_UNAVAILABLE": Status(1, 503, "UNAVAILABLE"),
    "STORE_MISSING": Status(2, 503, "FAILED_PRECONDITION"),
    "CLOCK_DOUBTED": Status(1, 503, "FAILED_PRECONDITION"),
    # -- personal data
    "PRIVACY_ERROR": Status(1, 500, "FAILED_PRECONDITION"),
    "KEYS_UNAVAILABLE": Status(1, 503, "FAILED_PRECONDITION"),
    "DECRYPTION_FAILED": Status(1, 500, "DATA_LOSS"),
    "SUBJECT_ERASED": Status(1, 410, "NOT_FOUND"),
    "LEGAL_HOLD": Status(1, 409, "FAILED_PRECONDITION"),
    "ERASURE_UNVERIFIED": Status(1, 500, "FAILED_PRECONDITION"),
    "CERTIFICATE_INVALID": Status(1, 400, "INVALID_ARGUMENT"),
    # -- sources
    "SOURCE_FAILED": Status(1, 502, "UNAVAILABLE"),
    "SOURCE_UNAVAILABLE": Status(1, 503, "UNAVAILABLE"),
    "SOURCE_REFUSED": Status(1, 502, "FAILED_PRECONDITION"),
    "HISTORY_UNAVAILABLE": Status(1, 404, "OUT_OF_RANGE"),
    "CHECKSUM_MISMATCH": Status(1, 502, "DATA_LOSS"),
    "FILE_REJECTED": Status(1, 422, "INVALID_ARGUMENT"),
    # -- work on other processes and hosts
    "WORKER_LOST": Status(1, 503, "UNAVAILABLE"),
    # -- models
    "MODEL_FAILED": Status(1, 422, "FAILED_PRECONDITION"),
    "DATA_UNFIT": Status(1, 422, "FAILED_PRECONDITION"),
    "INFEASIBLE": Status(1, 422, "FAILED_PRECONDITION"),
    "LOOK_AHEAD": Status(1, 422, "FAILED_PRECONDITION"),
    "STRATEGY_FAILED": Status(1, 422, "FAILED_PRECONDITION"),
    "NOT_CONVERGED": Status(1, 422, "FAILED_PRECONDITION"),
}


def status_of(error: BaseException) -> Status:
    """Return how an error is answered; an error of another library is an internal one."""
    return STATUSES[error.code if isinstance(error, HfthotError) else HfthotError.code]
