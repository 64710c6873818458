"""Gaps of the audit chain that a restore of the lake left are on record.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "chain_gaps",
        sa.Column("after_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("after_hash", sa.String(length=64), nullable=False),
        sa.Column("to_seq", sa.BigInteger(), nullable=False),
        sa.Column("to_hash", sa.String(length=64), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("after_seq", name=op.f("pk_chain_gaps")),
    )
