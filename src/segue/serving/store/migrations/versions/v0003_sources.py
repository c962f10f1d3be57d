"""Who proposed each item of an exposure, so that interleaved lists can be counted by team."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Null for what earlier versions logged, and for what a server of version 2 logs until it is stopped.
    op.add_column("segue_exposures", sa.Column("sources", sa.Text))
    op.execute("UPDATE segue_store SET value = '3' WHERE key = 'schema_version'")
