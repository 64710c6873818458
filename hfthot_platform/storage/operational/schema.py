"""Tables of the operational store.

They hold what must be true at once and what must be forgotten: identities, keys, look-ups, counters, and the
ordered change log.  Alembic's migrations (`migrations/`) make exactly these tables; a test compares the two.
Times are UTC, stored as microseconds since 1970 so that both databases order and compare them alike.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

__all__ = [
    "api_keys",
    "change_head",
    "change_log",
    "erased_users",
    "erasure_requests",
    "exports",
    "keys",
    "known_addresses",
    "legal_holds",
    "login_attempts",
    "metadata",
    "places",
    "provider_keys",
    "retention_anchors",
    "sessions",
    "set_aside",
    "subject_keys",
    "subjects",
    "usage",
    "user_events",
    "users",
]

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID: Final = String(32)  # 128 random bits as lower-case hexadecimal
_TIME: Final = BigInteger  # microseconds since 1970-01-01 UTC


#: Keys of the installation (lookup HMAC, certificate signing), each wrapped by a key-encryption key.
keys: Final = Table(
    "keys",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("kek_id", String(40), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

#: Everybody who ever had an account, by pseudonym; of an erased one only the pseudonym and the time remain.
subjects: Final = Table(
    "subjects",
    metadata,
    Column("subject_id", _ID, primary_key=True),
    Column("created_at", _TIME, nullable=False),
    Column("erased_at", _TIME),
)

#: Data keys per subject and category, wrapped.  Deleting a row makes its ciphertext unreadable everywhere.
subject_keys: Final = Table(
    "subject_keys",
    metadata,
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), primary_key=True),
    Column("category", String(20), primary_key=True),
    Column("kek_id", String(40), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Index(None, "kek_id"),
)

#: The one place that knows who a subject is.
users: Final = Table(
    "users",
    metadata,
    Column("user_id", _ID, primary_key=True),
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), nullable=False, unique=True),
    Column("username_lookup", LargeBinary, nullable=False, unique=True),
    Column("email_lookup", LargeBinary, nullable=False, unique=True),
    # The same envelopes as in the lake's `users`: encrypted for (users, <column>, subject).
    Column("username", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("preferences", Text),
    Column("password_hash", Text, nullable=False),
    Column("role", String(20), nullable=False),
    Column("tier", String(20), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("data_sharing_consent", Boolean, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    Column("deleted_at", _TIME),
    #: When a soft deletion becomes an erasure by itself.
    Column("erase_after", _TIME),
    #: What two names that look the same share (UTS 39); None where an older version made the account and nobody
    #: registered since.
    Column("username_skeleton", LargeBinary),
    Index(None, "erase_after"),
    Index(None, "username_skeleton"),
)

#: Keyed hashes of the user ids of erased accounts, so that a call with one is told so.  Nothing here leads to the
#: subject: no time, no pseudonym, and (without a row id) no order of insertion.
erased_users: Final = Table(
    "erased_users",
    metadata,
    Column("user_lookup", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("session_id", _ID, nullable=False, unique=True),
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("ended_at", _TIME),
    Column("end_reason", String(20)),
    # Envelopes for (sessions, <column>, subject): every change writes the whole row of the lake's `sessions`.
    Column("ip", Text),
    Column("user_agent", Text),
    Index(None, "subject_id"),
    Index(None, "expires_at"),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("key_hash", LargeBinary, primary_key=True),
    Column("key_id", _ID, nullable=False, unique=True),
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), nullable=False),
    Column("tier", String(20), nullable=False),
    Column("prefix", String(20), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
    Column("replaced_by", _ID),
    Index(None, "subject_id"),
)

provider_keys: Final = Table(
    "provider_keys",
    metadata,
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), primary_key=True),
    Column("provider", String(40), primary_key=True),
    Column("key_id", _ID, nullable=False, unique=True),
    Column("secret", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

#: Counters of the current window per subject and resource.
usage: Final = Table(
    "usage",
    metadata,
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), primary_key=True),
    Column("resource", String(60), primary_key=True),
    Column("window_start", _TIME, nullable=False),
    Column("window_seconds", Integer, nullable=False),
    Column("used", BigInteger, nullable=False),
    #: The UTC day (days since 1970) that `used_today` counts.
    Column("day", Integer, nullable=False),
    Column("used_today", BigInteger, nullable=False),
    #: None is unlimited.
    Column("quota", BigInteger),
    Column("updated_at", _TIME, nullable=False),
)

#: Failed sign-ins per keyed hash of what was tried (a name, an address, the two together); swept once they are a day
#: past mattering.
login_attempts: Final = Table(
    "login_attempts",
    metadata,
    Column("lookup", LargeBinary, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("window_start", _TIME, nullable=False),
    Column("blocked_until", _TIME),
    #: The name that an attempt was for, as a keyed hash, so that an erasure finds its counters.
    Column("account", LargeBinary),
    Index(None, "window_start"),
    Index(None, "account"),
)

#: Keyed hashes of the addresses that an account signed in from: whoever guesses from elsewhere does not lock it out.
known_addresses: Final = Table(
    "known_addresses",
    metadata,
    Column("subject_id", _ID, ForeignKey("subjects.subject_id"), primary_key=True),
    Column("address", LargeBinary, primary_key=True),
    Column("seen_at", _TIME, nullable=False),
    Index(None, "seen_at"),
)

#: One row: the newest entry of the change log and its hash.  Taken and advanced at the end of each transaction,
#: which makes the log gapless and its order the order of commits, on both databases.
change_head: Final = Table(
    "change_head",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    #: The newest entry's time: no later entry has an earlier one, whatever the clock does.
    Column("ts", _TIME, nullable=False, server_default="0"),
    #: When the clock was last seen, by an entry or by a check that found it right.
    Column("seen_at", _TIME, nullable=False, server_default="0"),
    #: Where the clock leapt ahead further than an installation rests: nothing expires until somebody says it is right.
    Column("leapt_from", _TIME),
)

#: The ordered change log: per operation its row changes and its audit event, personal data already encrypted.
#: Entries leave once every user table has them.
change_log: Final = Table(
    "change_log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("ts", _TIME, nullable=False),
    Column("subject_id", _ID),
    Column("payload", LargeBinary, nullable=False),
    Index(None, "subject_id"),
)

#: Entries that a table's contract refused when they were published.  The others went on; these wait to be retried.
set_aside: Final = Table(
    "set_aside",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("ts", _TIME, nullable=False),
    Column("subject_id", _ID),
    Column("payload", LargeBinary, nullable=False),
    #: Table and rule, no value.
    Column("reason", Text, nullable=False),
    #: Whether `audit_log` has the entry; where it has not, the chain is proven from here.
    Column("audited", Boolean, nullable=False),
    Column("set_aside_at", _TIME, nullable=False),
    Index(None, "subject_id"),
)

#: Ids of ingested user events, so that a file that comes twice changes nothing.
user_events: Final = Table(
    "user_events",
    metadata,
    Column("event_hash", LargeBinary, primary_key=True),
    Column("ts", _TIME, nullable=False),
    Column("subject_id", _ID),
    Index(None, "ts"),
    Index(None, "subject_id"),
)

erasure_requests: Final = Table(
    "erasure_requests",
    metadata,
    Column("request_id", _ID, primary_key=True),
    Column("subject_id", _ID, nullable=False),
    Column("keep_history", Boolean, nullable=False),
    #: requested, destroyed, purged, verified, signed, done, held, failed or unproven; `signed` and `done` have a
    #: certificate, which is filed in `done`.
    Column("state", String(20), nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("finished_at", _TIME),
    #: What to look for when proving absence: encrypted under a key of this request alone, destroyed with the state.
    Column("sealed", LargeBinary),
    #: Counts and times of the finished steps, as JSON without personal data.
    Column("report", Text),
    Column("certificate", Text),
    Index(None, "state"),
    Index(None, "subject_id"),
)

exports: Final = Table(
    "exports",
    metadata,
    Column("request_id", _ID, primary_key=True),
    Column("subject_id", _ID, nullable=False),
    Column("format", String(10), nullable=False),
    #: requested, ready, deleted or failed.
    Column("state", String(20), nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("expires_at", _TIME),
    #: The folder of its files: a path, or a URL without credentials; none where an older version made it.
    Column("location", Text),
    Index(None, "subject_id"),
    Index(None, "state"),
)

#: Where the platform's processes keep or look for files: what an erasure's proof searches, whoever runs it.
places: Final = Table(
    "places",
    metadata,
    #: lake, landing, scratch, reports, exports, certificates, store, keys, dagster or temporary.
    Column("kind", String(20), primary_key=True),
    #: An absolute path, or the URL of an object store without credentials.
    Column("location", Text, primary_key=True),
    Column("first_used", _TIME, nullable=False),
    Column("last_used", _TIME, nullable=False),
)

legal_holds: Final = Table(
    "legal_holds",
    metadata,
    Column("hold_id", _ID, primary_key=True),
    Column("subject_id", _ID, nullable=False),
    #: Categories kept, comma-separated.
    Column("categories", String(100), nullable=False),
    #: An envelope under the key of the first category kept; None once it was erased.
    Column("reason", Text),
    Column("placed_at", _TIME, nullable=False),
    Column("released_at", _TIME),
    Index(None, "subject_id"),
)

#: Entries of the audit log that were lost when the lake was restored from before them: the last one that is there, the
#: last one that is not, and their hashes, so that what follows still proves itself and the loss is not forgotten.
chain_gaps: Final = Table(
    "chain_gaps",
    metadata,
    Column("after_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("after_hash", String(64), nullable=False),
    Column("to_seq", BigInteger, nullable=False),
    Column("to_hash", String(64), nullable=False),
    Column("noted_at", _TIME, nullable=False),
)

#: Where the audit chain was cut by retention: the last entry removed, so that the rest still proves itself.
retention_anchors: Final = Table(
    "retention_anchors",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("cut_at", _TIME, nullable=False),
)
