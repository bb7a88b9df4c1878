"""The ε ledger over generations with its chained history, sums by their names, devices' words on releases.

What the first form held of sums and of the ledger came before there was noise, and before there was a door by which a
sum could leave: it goes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds columns and a table."""
    op.execute("DELETE FROM sums")
    op.execute("DELETE FROM ledger")
    op.add_column("head", sa.Column("ledger", sa.Text, nullable=False, server_default=""))
    op.add_column("sums", sa.Column("name", sa.String(64), nullable=False, server_default=""))
    op.add_column("sums", sa.Column("head", sa.Text, nullable=False, server_default=""))
    op.create_index("sums_by_name", "sums", ["name"])
    op.add_column("ledger", sa.Column("chain", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "reports",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("rollout", sa.String(128), nullable=False),
        sa.Column("mark", sa.String(32), nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False),
    )
    op.create_index("reports_once", "reports", ["device", "rollout", "mark", "shadow"], unique=True)
