"""Time that never goes back, names that look alike, entries that are set aside, addresses that are known.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: As in the first revision: PostgreSQL's planner keeps no samples of these.
_UNSAMPLED = {
    "users": "username_skeleton",
    "login_attempts": "account",
    "known_addresses": "address",
    "set_aside": "payload reason",
}


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("change_head", sa.Column("ts", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("change_head", sa.Column("seen_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("change_head", sa.Column("leapt_from", sa.BigInteger(), nullable=True))
    # What is known of the time so far: the newest entry that waits, or the newest change of an account.
    op.execute(
        "UPDATE change_head SET ts = (SELECT COALESCE(MAX(t), 0) FROM ("
        "SELECT MAX(ts) AS t FROM change_log UNION ALL SELECT MAX(updated_at) FROM users) AS known)"
    )
    op.execute("UPDATE change_head SET seen_at = ts")
    op.add_column("users", sa.Column("username_skeleton", sa.LargeBinary(), nullable=True))
    op.create_index(op.f("ix_users_username_skeleton"), "users", ["username_skeleton"], unique=False)
    op.add_column("login_attempts", sa.Column("account", sa.LargeBinary(), nullable=True))
    op.create_index(op.f("ix_login_attempts_account"), "login_attempts", ["account"], unique=False)
    op.create_table(
        "known_addresses",
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("address", sa.LargeBinary(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.subject_id"], name=op.f("fk_known_addresses_subject_id")),
        sa.PrimaryKeyConstraint("subject_id", "address", name=op.f("pk_known_addresses")),
    )
    op.create_index(op.f("ix_known_addresses_seen_at"), "known_addresses", ["seen_at"], unique=False)
    op.create_table(
        "set_aside",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("set_aside_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_set_aside")),
    )
    op.create_index(op.f("ix_set_aside_subject_id"), "set_aside", ["subject_id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in _UNSAMPLED.items():
            for column in columns.split():
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")
