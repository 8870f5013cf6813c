"""Conflicts: what was decided about two events that claim one id, and a view with both sides of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
ID = postgresql.UUID().with_variant(sa.Text(), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
STRATEGY = "strategy IN ('remote', 'local', 'merge', 'manual')"

#: `first_…` is the event that is stored, `other_…` the one that came later with its id: the bytes are a dead letter.
VIEW = """
CREATE VIEW conflicts AS
SELECT d.event_id, d.topic, d."partition", d."offset", d.stage,
       e.ingest_partition AS first_partition, e.ingest_offset AS first_offset,
       e.fingerprint AS first_fingerprint, e.payload AS first_payload,
       d.ingest_partition AS other_partition, d.ingest_offset AS other_offset, d.value AS other_value,
       d.failed_at AS found_at, d.resolved_at,
       coalesce(r.strategy, CASE WHEN d.replayed_as IS NOT NULL THEN 'new_id' END) AS strategy,
       r.payload_before, r.payload_after
FROM dead_letters d
LEFT JOIN events e ON e.event_id = d.event_id
LEFT JOIN conflict_resolutions r ON r.topic = d.topic AND r."partition" = d."partition" AND r."offset" = d."offset"
WHERE d.cause = 'conflict'
"""


def upgrade() -> None:
    op.create_table(
        "conflict_resolutions",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("offset", BIG, nullable=False, autoincrement=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("resolved_at", TIME, nullable=False),
        sa.Column("payload_before", JSON),
        sa.Column("payload_after", JSON),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", name="pk_conflict_resolutions"),
        sa.CheckConstraint(STRATEGY, name=op.f("ck_conflict_resolutions_strategy")),
    )
    op.create_index("ix_conflict_resolutions_event", "conflict_resolutions", ["event_id"])
    op.create_index("ix_dead_letters_event", "dead_letters", ["event_id"])
    op.create_index("ix_dead_letters_ingest", "dead_letters", ["ingest_partition", "ingest_offset"])
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW conflicts")
    op.drop_index("ix_dead_letters_ingest", "dead_letters")
    op.drop_index("ix_dead_letters_event", "dead_letters")
    op.drop_table("conflict_resolutions")
