"""Contracts of the user tables: `users`, `sessions`, `api_keys`, `usage`, `audit_log`.

Their rows are made by the accounts' change log alone.  A row is keyed by a random `subject_id` that only the
operational store can map to a person, and every personal column holds an envelope (`ENVELOPE`): text that was
encrypted under a key of that subject before it came near the lake.  A contract's rules refuse anything else
there, so clear text cannot be published by mistake.
"""

from __future__ import annotations

from typing import Final, Literal

from hfthot_platform.domain.contracts.model import DATE, FLAG, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import AtLeast, Between, Matches, OneOf, Rule

__all__ = ["API_KEYS", "AUDIT_LOG", "CATEGORY", "ENVELOPE", "SESSIONS", "USAGE", "USERS", "USER_TABLES", "Category"]

#: What an encrypted value looks like: version, then base64url of 12 bytes nonce, ciphertext and 16 bytes tag.
ENVELOPE: Final = r"e1\.[A-Za-z0-9_-]{38,}"
_RANDOM_ID: Final = r"[0-9a-f]{32}"

#: What a subject's data keys are kept apart by, so that a legal hold can keep one part and not another.
Category = Literal["identity", "sessions", "credentials", "audit"]
#: The category whose key encrypts a table's personal columns; `usage` has none.
CATEGORY: Final[dict[str, Category]] = {
    "users": "identity",
    "sessions": "sessions",
    "api_keys": "credentials",
    "audit_log": "audit",
}

_SUBJECT = Column(
    "subject_id", TEXT, "Random pseudonym of the person; only the operational store can resolve it", role="subject"
)
#: The entry of the change log that made the row what it is.
_SEQ = Column("seq", INT, "Entry of the ordered change log that this row is from", role="sequence")
_VERSION = Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True)


def _personal(name: str, description: str) -> Column:
    return Column(name, TEXT, f"{description}; encrypted, null once erased", nullable=True, personal=True)


def _sealed(*names: str) -> tuple[Rule, ...]:
    return tuple(Matches(name, ENVELOPE) for name in names)


USERS: Final = TableContract(
    name="users",
    description="Every registered person who is not erased, one row each.",
    columns=(
        _SUBJECT,
        _personal("username", "Name to sign in with"),
        _personal("email", "E-mail address"),
        _personal("first_name", "First name"),
        _personal("last_name", "Last name"),
        _personal("preferences", "Preferences as JSON"),
        Column("role", TEXT, "guest, pending, registered, trader or admin", few=True),
        Column("tier", TEXT, "free, hobbyist, professional or enterprise", few=True),
        Column("active", FLAG, "Whether the person may sign in"),
        Column("data_sharing_consent", FLAG, "Whether the person agreed to share data"),
        Column("created_at", TIME, "When the person registered"),
        Column("updated_at", TIME, "When anything here last changed"),
        Column(
            "deleted_at", TIME, "When the account was deleted; it is permanently erased 30 days later", nullable=True
        ),
        _SEQ,
        _VERSION,
    ),
    primary_key=("subject_id",),
    sort_by=("subject_id",),
    rules=(
        Matches("subject_id", _RANDOM_ID),
        *_sealed("username", "email", "first_name", "last_name", "preferences"),
        OneOf("role", ("guest", "pending", "registered", "trader", "admin")),
        OneOf("tier", ("free", "hobbyist", "professional", "enterprise")),
        AtLeast("updated_at", ("created_at",)),
        Between("seq", 1, 1e15),
    ),
    stats_columns=("subject_id", "seq"),
)

SESSIONS: Final = TableContract(
    name="sessions",
    # Rows leave by `privacy.retention`, here and in the store alike.
    description="Sign-ins: start, end and origin (encrypted), kept for the days of the setting "
    "`session_retention_days`. The lake has no tokens.",
    columns=(
        Column("date", DATE, "UTC day of `created_at`; partition"),
        Column("session_id", TEXT, "Random id; not the token"),
        _SUBJECT,
        Column("created_at", TIME, "When it began"),
        Column("expires_at", TIME, "When it expires"),
        Column("ended_at", TIME, "When it was ended", nullable=True),
        Column("end_reason", TEXT, "logout, password_changed, deactivated, deleted or revoked", nullable=True),
        _personal("ip", "IP address that it was opened from"),
        _personal("user_agent", "Program (user agent) that it was opened with"),
        _SEQ,
        _VERSION,
    ),
    primary_key=("session_id",),
    sort_by=("subject_id", "created_at", "session_id"),
    partition_by="date",
    time_column="created_at",
    rules=(
        Matches("session_id", _RANDOM_ID),
        Matches("subject_id", _RANDOM_ID),
        *_sealed("ip", "user_agent"),
        OneOf("end_reason", ("logout", "password_changed", "deactivated", "deleted", "revoked")),
        AtLeast("expires_at", ("created_at",)),
        Between("seq", 1, 1e15),
    ),
    stats_columns=("date", "subject_id", "seq"),
)

API_KEYS: Final = TableContract(
    name="api_keys",
    description="Keys of the platform (never the key: a prefix for display) and keys of data providers (encrypted).",
    columns=(
        Column("key_id", TEXT, "Random id of the key"),
        _SUBJECT,
        Column("kind", TEXT, "hfthot (issued here) or provider (a key of another service)", few=True),
        Column(
            "provider",
            TEXT,
            "finnhub, kraken, ...; own_ and a keyed hash for a provider off the list; null for keys issued here",
            nullable=True,
        ),
        Column("tier", TEXT, "Plan that a key issued here was issued for", nullable=True, few=True),
        Column("prefix", TEXT, "First characters of a key issued here, for display", nullable=True),
        _personal("secret", "Key of another service; JSON with the service's name if it is not on the list"),
        Column("created_at", TIME, "When it was issued or stored"),
        Column("revoked_at", TIME, "When it stopped being valid", nullable=True),
        Column("replaced_by", TEXT, "Id of the key that replaced it", nullable=True),
        _SEQ,
        _VERSION,
    ),
    primary_key=("key_id",),
    sort_by=("subject_id", "created_at", "key_id"),
    rules=(
        Matches("key_id", _RANDOM_ID),
        Matches("subject_id", _RANDOM_ID),
        OneOf("kind", ("hfthot", "provider")),
        OneOf("tier", ("free", "hobbyist", "professional", "enterprise")),
        Matches("provider", "[a-z][a-z0-9_]{0,39}"),
        Matches("prefix", "hft_(?:free|hob|pro|ent)_[A-Za-z0-9_-]{4}"),
        *_sealed("secret"),
        Between("seq", 1, 1e15),
    ),
    stats_columns=("subject_id", "seq"),
)

USAGE: Final = TableContract(
    name="usage",
    description="What each person used on each day, per resource, and what was left of the quota.",
    columns=(
        Column("date", DATE, "UTC day; partition"),
        _SUBJECT,
        Column("resource", TEXT, "requests, sql_queries, optimisations or provider:<name>", few=True),
        Column("used", INT, "Uses since the quota's window began"),
        Column("used_today", INT, "Uses on this day"),
        Column("quota", INT, "Uses that the window allows; null is unlimited", nullable=True),
        Column("remaining", INT, "Uses left in the window; null is unlimited", nullable=True),
        Column("resets_at", TIME, "When the window ends", nullable=True),
        Column("updated_at", TIME, "When it was last used"),
        _SEQ,
        _VERSION,
    ),
    primary_key=("date", "subject_id", "resource"),
    sort_by=("subject_id", "resource"),
    partition_by="date",
    time_column="updated_at",
    rules=(
        Matches("subject_id", _RANDOM_ID),
        Matches("resource", "requests|sql_queries|optimisations|provider:[a-z][a-z0-9_]{0,39}"),
        Between("used", 0, 1e15),
        Between("used_today", 0, 1e15),
        Between("quota", 0, 1e15),
        Between("remaining", 0, 1e15),
        Between("seq", 1, 1e15),
    ),
    stats_columns=("date", "subject_id", "seq"),
    retention_days=400,
)

AUDIT_LOG: Final = TableContract(
    name="audit_log",
    description="Every change and every refused attempt, in order, each entry linked to the previous one by "
    "hash, kept for the days of the setting `audit_retention_days`.",
    columns=(
        Column("date", DATE, "UTC day of `ts`; partition"),
        Column("seq", INT, "Entry of the ordered change log, without gaps", role="sequence"),
        Column("ts", TIME, "When it happened"),
        Column(
            "subject_id",
            TEXT,
            "Subject that it concerns; null if no account was involved",
            nullable=True,
            role="subject",
        ),
        Column("actor_id", TEXT, "Who did it: a subject, or `system`"),
        Column("action", TEXT, "What was done: user.register, session.login, ...", few=True),
        Column("outcome", TEXT, "success, failure or refused", few=True),
        Column("resource", TEXT, "What it was done to: a random id, a provider, a table", nullable=True),
        Column("detail", TEXT, "Further facts as JSON; no personal data", nullable=True),
        _personal("ip", "IP address that the request came from"),
        _personal("user_agent", "Program that sent it"),
        _personal("personal_detail", "Further facts about the person as JSON"),
        Column(
            "personal_digest", TEXT, "SHA-256 of the encrypted columns, so that the chain can be verified without them"
        ),
        Column("redacted", FLAG, "Whether the encrypted columns were erased", role="redaction"),
        Column("previous_hash", TEXT, "`hash` of the previous entry"),
        Column("hash", TEXT, "SHA-256 of previous_hash and every column above except the encrypted ones and redacted"),
        _VERSION,
    ),
    primary_key=("seq",),
    sort_by=("seq",),
    partition_by="date",
    time_column="ts",
    rules=(
        Between("seq", 1, 1e15),
        Matches("subject_id", _RANDOM_ID),
        Matches("actor_id", f"system|{_RANDOM_ID}"),
        Matches("action", r"[a-z_]+(?:\.[a-z_]+)+"),
        OneOf("outcome", ("success", "failure", "refused")),
        *_sealed("ip", "user_agent", "personal_detail"),
        Matches("personal_digest", "[0-9a-f]{64}"),
        Matches("previous_hash", "[0-9a-f]{64}"),
        Matches("hash", "[0-9a-f]{64}"),
    ),
    # Entries leave by `privacy.retention` alone: the rest of the chain needs an anchor.
    stats_columns=("date", "seq", "subject_id"),
    # The log is evidence: an entry that breaks a rule stops the publisher instead of going missing from the chain.
    max_rejected_share=0.0,
)

#: The user tables in the order in which rows refer to each other.
USER_TABLES: Final[tuple[TableContract, ...]] = (USERS, SESSIONS, API_KEYS, USAGE, AUDIT_LOG)
