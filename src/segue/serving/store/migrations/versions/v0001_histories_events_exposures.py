"""Histories, events, exposures, erased users."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "segue_store",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "segue_snapshots",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("imported_at", sa.BigInteger, nullable=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "segue_histories",
        sa.Column("user_id", sa.String(512), primary_key=True),
        sa.Column("item_ids", sa.Text, nullable=False),
        sa.Column("timestamps", sa.Text, nullable=False),
    )
    op.create_table(
        "segue_events",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("event_id", sa.String(200), nullable=False, unique=True),
        sa.Column("user_id", sa.String(512), nullable=False),
        sa.Column("user_hash", sa.String(64), nullable=False),
        sa.Column("item_id", sa.String(512), nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(200)),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_segue_events_user_id", "segue_events", ["user_id"])
    op.create_table(
        "segue_exposures",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("user_hash", sa.String(64)),
        sa.Column("arm", sa.String(100)),
        sa.Column("path", sa.String(32), nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("deployment", sa.BigInteger),
        sa.Column("item_ids", sa.Text, nullable=False),
        sa.Column("fallback", sa.Text),
        sa.Column("shown_at", sa.Float, nullable=False),
    )
    op.create_index("ix_segue_exposures_user_hash", "segue_exposures", ["user_hash"])
    op.create_table("segue_erased", sa.Column("user_hash", sa.String(64), primary_key=True))
    op.execute("INSERT INTO segue_store (key, value) VALUES ('schema_version', '1')")
