"""Feedback, and an id by which it names the exposure that it answers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("segue_exposures", sa.Column("exposure_id", sa.String(64)))
    op.add_column("segue_exposures", sa.Column("warnings", sa.Text))
    op.add_column("segue_exposures", sa.Column("latency_ms", sa.Float))
    # No client was ever told an id of these: any unique one will do, and this one says where it is from.
    op.execute("UPDATE segue_exposures SET exposure_id = 'v1-' || CAST(sequence AS VARCHAR(20))")
    with op.batch_alter_table("segue_exposures") as table:
        table.alter_column("exposure_id", existing_type=sa.String(64), nullable=False)
        table.create_unique_constraint("one_row_an_exposure", ["exposure_id"])
    op.create_index("ix_segue_exposures_shown_at", "segue_exposures", ["shown_at"])
    op.create_index("ix_segue_events_received_at", "segue_events", ["received_at"])
    op.create_table(
        "segue_feedback",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("feedback_id", sa.String(200), nullable=False),
        sa.Column("exposure_id", sa.String(64)),
        sa.Column("user_hash", sa.String(64)),
        sa.Column("item_id", sa.String(512), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("happened_at", sa.Float, nullable=False),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.UniqueConstraint("feedback_id", name="one_row_a_feedback"),
    )
    for column in ("exposure_id", "user_hash", "received_at"):
        op.create_index(f"ix_segue_feedback_{column}", "segue_feedback", [column])
    # Code of version 1 refuses what it does not understand by this row, instead of writing half a row.
    op.execute("UPDATE segue_store SET value = '2' WHERE key = 'schema_version'")
