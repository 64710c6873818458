"""The first schema of the operational store.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: Columns of which PostgreSQL's planner must not keep samples: they would outlive an erasure in `pg_statistic`.  All
#: look-ups by them go through unique indexes, for which the planner needs none.
_UNSAMPLED = {
    "users": "user_id username_lookup email_lookup username email first_name last_name preferences password_hash",
    "sessions": "token_hash ip user_agent",
    "api_keys": "key_hash prefix",
    "provider_keys": "secret",
    "subject_keys": "wrapped",
    "keys": "wrapped",
    "login_attempts": "lookup",
    "user_events": "event_hash",
    "erased_users": "user_lookup",
    "erasure_requests": "sealed report certificate",
    "legal_holds": "reason",
    "change_log": "payload",
}


def upgrade() -> None:
    """Make all tables, and the head of an empty change log."""
    op.create_table(
        "change_head",
        sa.Column("id", sa.SmallInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change_head")),
    )
    op.create_table(
        "change_log",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_change_log")),
    )
    op.create_index(op.f("ix_change_log_subject_id"), "change_log", ["subject_id"], unique=False)
    op.create_table(
        "erased_users",
        sa.Column("user_lookup", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("user_lookup", name=op.f("pk_erased_users")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "erasure_requests",
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("keep_history", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_erasure_requests")),
    )
    op.create_index(op.f("ix_erasure_requests_state"), "erasure_requests", ["state"], unique=False)
    op.create_index(op.f("ix_erasure_requests_subject_id"), "erasure_requests", ["subject_id"], unique=False)
    op.create_table(
        "exports",
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("format", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_exports")),
    )
    op.create_index(op.f("ix_exports_state"), "exports", ["state"], unique=False)
    op.create_index(op.f("ix_exports_subject_id"), "exports", ["subject_id"], unique=False)
    op.create_table(
        "keys",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("kek_id", sa.String(length=40), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keys")),
    )
    op.create_table(
        "legal_holds",
        sa.Column("hold_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("categories", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_legal_holds")),
    )
    op.create_index(op.f("ix_legal_holds_subject_id"), "legal_holds", ["subject_id"], unique=False)
    op.create_table(
        "login_attempts",
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("window_start", sa.BigInteger(), nullable=False),
        sa.Column("blocked_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("lookup", name=op.f("pk_login_attempts")),
    )
    op.create_index(op.f("ix_login_attempts_window_start"), "login_attempts", ["window_start"], unique=False)
    op.create_table(
        "retention_anchors",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("cut_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_retention_anchors")),
    )
    op.create_table(
        "subjects",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("subject_id", name=op.f("pk_subjects")),
    )
    op.create_table(
        "user_events",
        sa.Column("event_hash", sa.LargeBinary(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("event_hash", name=op.f("pk_user_events")),
    )
    op.create_index(op.f("ix_user_events_subject_id"), "user_events", ["subject_id"], unique=False)
    op.create_index(op.f("ix_user_events_ts"), "user_events", ["ts"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("tier", sa.String(length=20), nullable=False),
        sa.Column("prefix", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("replaced_by", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_api_keys_subject_id")),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_api_keys_key_id")),
    )
    op.create_index(op.f("ix_api_keys_subject_id"), "api_keys", ["subject_id"], unique=False)
    op.create_table(
        "provider_keys",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_provider_keys_subject_id")),
        sa.PrimaryKeyConstraint("subject_id", "provider", name=op.f("pk_provider_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_provider_keys_key_id")),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=20), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_sessions_subject_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
        sa.UniqueConstraint("session_id", name=op.f("uq_sessions_session_id")),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_sessions_subject_id"), "sessions", ["subject_id"], unique=False)
    op.create_table(
        "subject_keys",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("category", sa.String(length=20), nullable=False),
        sa.Column("kek_id", sa.String(length=40), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_subject_keys_subject_id")),
        sa.PrimaryKeyConstraint("subject_id", "category", name=op.f("pk_subject_keys")),
    )
    op.create_index(op.f("ix_subject_keys_kek_id"), "subject_keys", ["kek_id"], unique=False)
    op.create_table(
        "usage",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("resource", sa.String(length=60), nullable=False),
        sa.Column("window_start", sa.BigInteger(), nullable=False),
        sa.Column("window_seconds", sa.Integer(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("used_today", sa.BigInteger(), nullable=False),
        sa.Column("quota", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_usage_subject_id")),
        sa.PrimaryKeyConstraint("subject_id", "resource", name=op.f("pk_usage")),
    )
    op.create_table(
        "users",
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("username_lookup", sa.LargeBinary(), nullable=False),
        sa.Column("email_lookup", sa.LargeBinary(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("first_name", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("preferences", sa.Text(), nullable=True),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("tier", sa.String(length=20), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("data_sharing_consent", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("erase_after", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_users_subject_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
        sa.UniqueConstraint("email_lookup", name=op.f("uq_users_email_lookup")),
        sa.UniqueConstraint("subject_id", name=op.f("uq_users_subject_id")),
        sa.UniqueConstraint("username_lookup", name=op.f("uq_users_username_lookup")),
    )
    op.create_index(op.f("ix_users_erase_after"), "users", ["erase_after"], unique=False)
    head = sa.table("change_head", sa.column("id"), sa.column("seq"), sa.column("hash"))
    op.execute(sa.insert(head).values(id=1, seq=0, hash="0" * 64))
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in _UNSAMPLED.items():
            for column in columns.split():
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")
