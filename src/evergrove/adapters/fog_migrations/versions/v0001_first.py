"""The first form of a fog's database."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables, and the one row that every writer locks."""
    head = op.create_table(
        "head", sa.Column("id", sa.Integer, primary_key=True), sa.Column("state", sa.Text, nullable=False)
    )
    op.bulk_insert(head, [{"id": 1, "state": "{}"}])
    op.create_table(
        "devices",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("member", sa.Text, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.create_table(
        "bodies",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("file", sa.String(128), nullable=False),
    )
    op.create_index("bodies_of_cohort", "bodies", ["generation", "number"])
    op.create_table(
        "sums",
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("epsilon", sa.Double),
        sa.Column("at_s", sa.Double, nullable=False),
    )
    op.create_table(
        "generations",
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("layout", sa.Text, nullable=False),
        sa.Column("clip", sa.Double, nullable=False),
        sa.Column("noise", sa.LargeBinary),
    )
    op.create_table(
        "ledger",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
    )
