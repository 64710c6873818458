"""The row of an export says where its files are.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; where earlier exports are is in the table of places."""
    op.add_column("exports", sa.Column("location", sa.Text(), nullable=True))
