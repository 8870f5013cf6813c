"""History: what the aggregate tables counted by hour and day, and views that add the partitions up."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
PLACE = ("grain", "dimension", "value", "bucket", "partition", "log_id")
TOOL_PLACE = ("grain", "dimension", "value", "tool", "bucket", "partition", "log_id")
GRAIN = "grain IN ('hour', 'day')"

#: One row for each bucket, dimension and value. Sums come out as bigint, not as numeric.
USAGE_VIEW = """
CREATE VIEW usage_by_{grain} AS
SELECT bucket, dimension, value, CAST(sum(event_count) AS bigint) AS event_count,
       CAST(sum(sessions) AS bigint) AS sessions, {any_}(sessions_at_least) AS sessions_at_least,
       (SELECT {object_}(type, number) FROM (
            SELECT pair.key AS type, CAST(sum(CAST(pair.value AS bigint)) AS bigint) AS number
            FROM usage_history AS part, {pairs}(part.events) AS pair
            WHERE part.grain = '{grain}' AND part.dimension = whole.dimension AND part.value = whole.value
                  AND part.bucket = whole.bucket
            GROUP BY pair.key) AS types) AS events
FROM usage_history AS whole WHERE grain = '{grain}' GROUP BY bucket, dimension, value
"""
TOOLS_VIEW = """
CREATE VIEW tools_by_day AS
SELECT bucket, dimension, value, tool, CAST(sum(calls) AS bigint) AS calls,
       CAST(sum(failures) AS bigint) AS failures,
       (SELECT {object_}(place, number) FROM (
            SELECT pair.key AS place, CAST(sum(CAST(pair.value AS bigint)) AS bigint) AS number
            FROM tool_history AS part, {pairs}(part.durations) AS pair
            WHERE part.grain = 'day' AND part.dimension = whole.dimension AND part.value = whole.value
                  AND part.tool = whole.tool AND part.bucket = whole.bucket
            GROUP BY pair.key) AS places) AS durations
FROM tool_history AS whole WHERE grain = 'day' GROUP BY bucket, dimension, value, tool
"""
WORDS = {
    "postgresql": {"any_": "bool_or", "object_": "jsonb_object_agg", "pairs": "jsonb_each_text"},
    "sqlite": {"any_": "max", "object_": "json_group_object", "pairs": "json_each"},
}


def _mark() -> list[sa.Column[Any]]:
    names = ("generation", "at", "foreign_at")
    return [*(sa.Column(name, BIG, nullable=False) for name in names), sa.Column("updated_at", TIME, nullable=False)]


def _place(*names: str) -> list[sa.Column[Any]]:
    kinds: dict[str, Any] = {"bucket": TIME, "partition": sa.Integer}
    return [sa.Column(name, kinds.get(name, sa.Text), nullable=False, autoincrement=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "usage_history",
        *_place(*PLACE),
        sa.Column("events", JSON, nullable=False),
        sa.Column("event_count", BIG, nullable=False),
        sa.Column("sessions", BIG, nullable=False),
        sa.Column("sessions_at_least", sa.Boolean, nullable=False),
        *_mark(),
        sa.PrimaryKeyConstraint(*PLACE, name="pk_usage_history"),
        sa.CheckConstraint(GRAIN, name=op.f("ck_usage_history_grain")),
        sa.CheckConstraint(
            "dimension IN ('all', 'project', 'machine', 'agent')", name=op.f("ck_usage_history_dimension")
        ),
        sa.CheckConstraint("event_count >= 0 AND sessions >= 0", name=op.f("ck_usage_history_counts")),
    )
    op.create_table(
        "tool_history",
        *_place(*TOOL_PLACE),
        sa.Column("calls", BIG, nullable=False),
        sa.Column("failures", BIG, nullable=False),
        sa.Column("durations", JSON, nullable=False),
        *_mark(),
        sa.PrimaryKeyConstraint(*TOOL_PLACE, name="pk_tool_history"),
        sa.CheckConstraint(GRAIN, name=op.f("ck_tool_history_grain")),
        sa.CheckConstraint("dimension IN ('all', 'project')", name=op.f("ck_tool_history_dimension")),
        sa.CheckConstraint("failures >= 0 AND failures <= calls", name=op.f("ck_tool_history_counts")),
    )
    for table in ("usage_history", "tool_history"):
        op.create_index(f"ix_{table}_bucket", table, ["grain", "dimension", "bucket"])
    words = WORDS[op.get_context().dialect.name]
    for grain in ("hour", "day"):
        op.execute(USAGE_VIEW.format(grain=grain, **words))
    op.execute(TOOLS_VIEW.format(**words))


def downgrade() -> None:
    for view in ("tools_by_day", "usage_by_day", "usage_by_hour"):
        op.execute(f"DROP VIEW {view}")
    op.drop_table("tool_history")
    op.drop_table("usage_history")
