"""The store's tables as this code uses them. ``migrations/versions`` make them; a test holds the two equal."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")

about = sa.Table(
    "segue_store",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
snapshots = sa.Table(
    "segue_snapshots",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("imported_at", sa.BigInteger, nullable=False),
    sa.Column("users", sa.BigInteger, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
)
histories = sa.Table(
    "segue_histories",  # one row a user: a history is read whole or not at all
    metadata,
    sa.Column("user_id", sa.String(512), primary_key=True),
    sa.Column("item_ids", sa.Text, nullable=False),  # JSON list, oldest first
    sa.Column("timestamps", sa.Text, nullable=False),  # JSON list of seconds
)
events = sa.Table(
    "segue_events",
    metadata,
    sa.Column("sequence", _Sequence, primary_key=True),
    sa.Column("event_id", sa.String(200), nullable=False, unique=True),
    sa.Column("user_id", sa.String(512), nullable=False, index=True),
    sa.Column("user_hash", sa.String(64), nullable=False),
    sa.Column("item_id", sa.String(512), nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("action", sa.String(200)),
    sa.Column("received_at", sa.BigInteger, nullable=False),
    sa.Index("ix_segue_events_received_at", "received_at"),
)
exposures = sa.Table(
    "segue_exposures",
    metadata,
    sa.Column("sequence", _Sequence, primary_key=True),
    sa.Column("user_hash", sa.String(64), index=True),  # null: the request named no user, or an erased one
    sa.Column("arm", sa.String(100)),
    sa.Column("path", sa.String(32), nullable=False),
    sa.Column("bundle", sa.String(64), nullable=False),
    sa.Column("deployment", sa.BigInteger),
    sa.Column("item_ids", sa.Text, nullable=False),  # JSON list: position 0 was shown first
    sa.Column("fallback", sa.Text),
    sa.Column("shown_at", sa.Float, nullable=False),  # seconds since 1970-01-01 UTC
    sa.Column("exposure_id", sa.String(64), nullable=False),
    sa.Column("warnings", sa.Text),  # JSON list; null: none
    sa.Column("latency_ms", sa.Float),  # null: logged by version 1 of this schema
    sa.Column("sources", sa.Text),  # JSON list: who proposed each item; null: logged before version 3
    sa.UniqueConstraint("exposure_id", name="one_row_an_exposure"),
    sa.Index("ix_segue_exposures_shown_at", "shown_at"),
)
feedback = sa.Table(
    "segue_feedback",
    metadata,
    sa.Column("sequence", _Sequence, primary_key=True),
    sa.Column("feedback_id", sa.String(200), nullable=False),
    sa.Column("exposure_id", sa.String(64)),  # as stated by who sent it; no foreign key: it may arrive first
    sa.Column("user_hash", sa.String(64)),
    sa.Column("item_id", sa.String(512), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("happened_at", sa.Float, nullable=False),  # seconds since 1970-01-01 UTC
    sa.Column("received_at", sa.Float, nullable=False),
    sa.UniqueConstraint("feedback_id", name="one_row_a_feedback"),
    sa.Index("ix_segue_feedback_exposure_id", "exposure_id"),
    sa.Index("ix_segue_feedback_user_hash", "user_hash"),
    sa.Index("ix_segue_feedback_received_at", "received_at"),
)
erased = sa.Table(
    "segue_erased",  # hashes only: a snapshot made before the erasure must not bring the user back
    metadata,
    sa.Column("user_hash", sa.String(64), primary_key=True),
)
