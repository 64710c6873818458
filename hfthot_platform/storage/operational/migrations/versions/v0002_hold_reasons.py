"""Reasons of legal holds are envelopes; those that were written in clear go, the audit log has them encrypted.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Allow a hold without a reason, and take the clear ones away."""
    with op.batch_alter_table("legal_holds") as table:
        table.alter_column("reason", existing_type=sa.Text(), nullable=True)
    op.execute("UPDATE legal_holds SET reason = NULL")
