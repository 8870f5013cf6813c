"""The spine: events, sessions, progress, duplicates, dead letters, sync bookkeeping; in SQLite the outbox."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
ID = postgresql.UUID().with_variant(sa.Text(), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
STATUS = "status IN ('active', 'completed', 'terminated', 'error')"


def _sqlite() -> bool:
    return bool(op.get_context().dialect.name == "sqlite")


def _stored_at() -> sa.Column[Any]:
    now = "(CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))" if _sqlite() else "now()"
    return sa.Column("stored_at", TIME, nullable=False, server_default=sa.text(now))


def upgrade() -> None:
    _events()
    _sessions()
    _bookkeeping()
    _dead_letters()
    if _sqlite():
        _outbox()


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("hook_event_name", sa.Text),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("tool_name", sa.Text),
        sa.Column("tool_use_id", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("agent_type", sa.Text),
        sa.Column("prompt_id", sa.Text),
        sa.Column("cwd", sa.Text),
        sa.Column("suspected_duplicate_of", ID),
        sa.Column("id_origin", sa.SmallInteger, nullable=False),
        sa.Column("flags", sa.Integer, nullable=False, server_default="0"),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("payload_raw", sa.Text),
        sa.Column("metadata", JSON, nullable=False, server_default="{}"),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("ingest_partition", sa.Integer, nullable=False),
        sa.Column("ingest_offset", BIG, nullable=False),
        sa.Column("events_offset", BIG, nullable=False),
        _stored_at(),
        sa.PrimaryKeyConstraint("event_id", name="pk_events"),
    )
    op.create_index("ix_events_session", "events", ["session_id", "occurred_at", "event_id"])
    op.create_index("ix_events_occurred", "events", ["occurred_at", "event_id"])
    op.create_index("ix_events_type", "events", ["event_type", "occurred_at"])
    has_tool = sa.text("tool_name IS NOT NULL")
    op.create_index(
        "ix_events_tool", "events", ["tool_name", "occurred_at"], postgresql_where=has_tool, sqlite_where=has_tool
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("project", sa.Text),
        sa.Column("cwd", sa.Text),
        sa.Column("cwd_at", TIME),
        sa.Column("git_branch", sa.Text),
        sa.Column("git_commit", sa.Text),
        sa.Column("git_at", TIME),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("first_event_at", TIME, nullable=False),
        sa.Column("last_event_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("last_active_at", TIME),
        sa.Column("last_end_at", TIME),
        sa.Column("last_end_status", sa.Text),
        sa.Column("event_count", BIG, nullable=False),
        sa.Column("last_partition", sa.Integer, nullable=False),
        sa.Column("last_offset", BIG, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions"),
        sa.CheckConstraint(STATUS, name="ck_sessions_status"),
    )
    op.create_index("ix_sessions_last_event", "sessions", ["last_event_at", "session_id"])


def _bookkeeping() -> None:
    op.create_table(
        "sink_progress",
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("next_offset", BIG, nullable=False),
        sa.Column("stored", BIG, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("partition", name="pk_sink_progress"),
    )
    op.create_table(
        "duplicates",
        sa.Column("ingest_partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("ingest_offset", BIG, nullable=False, autoincrement=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("ingest_partition", "ingest_offset", name="pk_duplicates"),
    )
    op.create_table(
        "sync_runs",
        sa.Column("id", BIG, nullable=False, autoincrement=True),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=False),
        sa.Column("first_seq", BIG, nullable=False),
        sa.Column("last_seq", BIG, nullable=False),
        sa.Column("rows", BIG, nullable=False),
        sa.Column("stored", BIG, nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("expected_count", BIG, nullable=False),
        sa.Column("expected_hash", BIG, nullable=False),
        sa.Column("found_count", BIG, nullable=False),
        sa.Column("found_hash", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sync_runs"),
    )
    op.create_table(
        "sink_probes",
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("worker", name="pk_sink_probes"),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("offset", BIG, nullable=False, autoincrement=False),
        sa.Column("ingest_partition", sa.Integer),
        sa.Column("ingest_offset", BIG),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("event_id", ID),
        sa.Column("session_id", sa.Text),
        sa.Column("failed_at", TIME, nullable=False),
        sa.Column("resolved_at", TIME),
        sa.Column("replayed_as", ID),
        _stored_at(),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", name="pk_dead_letters"),
    )
    op.create_index("ix_dead_letters_failed", "dead_letters", ["failed_at"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer, nullable=False, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("ingest_partition", sa.Integer, nullable=False),
        sa.Column("ingest_offset", sa.Integer, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
        sa.Column("synced_at", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("ux_outbox_ingest", "outbox", ["ingest_partition", "ingest_offset"], unique=True)
    op.create_index("ix_outbox_pending", "outbox", ["seq"], sqlite_where=sa.text("state = 'pending'"))
    op.create_index("ix_outbox_synced", "outbox", ["synced_at"], sqlite_where=sa.text("state = 'synced'"))
    op.create_table(
        "failover_range",
        sa.Column("id", sa.Integer, nullable=False, primary_key=True),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.Column("at", sa.Integer, nullable=False),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    )
    op.create_table(
        "dead_letter_outbox",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("offset", sa.Integer, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", name="pk_dead_letter_outbox"),
    )


def downgrade() -> None:
    tables = ["dead_letters", "sink_probes", "sync_runs", "duplicates", "sink_progress", "sessions", "events"]
    for name in (["dead_letter_outbox", "failover_range", "outbox"] if _sqlite() else []) + tables:
        op.drop_table(name)
