"""The tables, once, for both dialects: Postgres holds the truth, SQLite stands in for it while it is away.

Python values are the same on both sides: times are integer microseconds since the epoch (timestamptz in Postgres,
INTEGER in SQLite), ids are `UUID` (uuid / TEXT), JSON is text on the way in and decoded on the way out (jsonb / TEXT).
Alembic's scripts in `migrations/` make exactly these tables (tested on both); the sinks write them by hand-made SQL
from `connectors.rows`, the readers ask them through SQLAlchemy Core.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from schemas.times import EPOCH, MICROSECOND


class Micros(sa.types.TypeDecorator[int]):
    """Integer microseconds since the epoch, UTC."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.Integer())

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "postgresql":
            return value
        return EPOCH + timedelta(microseconds=value)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        if isinstance(value, datetime):
            return (value - EPOCH) // MICROSECOND
        return None if value is None else int(value)


class Id(sa.types.TypeDecorator[UUID]):
    """A UUID; in SQLite its 36 characters, so that a person can read and paste it."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        return UUID(str(value)) if value is not None and not isinstance(value, UUID) else value


class Json(sa.types.TypeDecorator[Any]):
    """A JSON value: jsonb or TEXT; comes out decoded."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.JSONB(none_as_null=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else msgspec.json.encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return msgspec.json.decode(value) if isinstance(value, str) and dialect.name != "postgresql" else value


#: 64 bits in Postgres; in SQLite every INTEGER is 64 bits and only that word makes a rowid alias.
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Tables of one dialect only carry this mark.
SQLITE_ONLY = {"only": "sqlite"}

metadata = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"})

events = sa.Table(
    "events",
    metadata,
    sa.Column("event_id", Id, primary_key=True),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("hook_event_name", sa.Text),
    sa.Column("occurred_at", Micros, nullable=False),
    sa.Column("received_at", Micros, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("tool_name", sa.Text),
    sa.Column("tool_use_id", sa.Text),
    sa.Column("agent_id", sa.Text),
    sa.Column("agent_type", sa.Text),
    sa.Column("prompt_id", sa.Text),
    sa.Column("cwd", sa.Text),
    sa.Column("suspected_duplicate_of", Id),
    sa.Column("id_origin", sa.SmallInteger, nullable=False, comment="schemas.event.IdOrigin"),
    sa.Column("flags", sa.Integer, nullable=False, server_default="0", comment="schemas.event.Flag"),
    sa.Column("payload", Json, nullable=False),
    sa.Column("payload_raw", sa.Text, comment="as sent; only where payload cannot give it back (see connectors.rows)"),
    sa.Column("metadata", Json, nullable=False, server_default="{}"),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("ingest_partition", sa.Integer, nullable=False),
    sa.Column("ingest_offset", Big, nullable=False),
    sa.Column("events_offset", Big, nullable=False),
    sa.Column("stored_at", Micros, nullable=False),
)
sa.Index("ix_events_session", events.c.session_id, events.c.occurred_at, events.c.event_id)
sa.Index("ix_events_occurred", events.c.occurred_at, events.c.event_id)
sa.Index("ix_events_type", events.c.event_type, events.c.occurred_at)
_TOOL = sa.text("tool_name IS NOT NULL")
_CALL = sa.text("tool_use_id IS NOT NULL")
sa.Index(
    "ix_events_call", events.c.session_id, events.c.tool_use_id, postgresql_where=_CALL, sqlite_where=_CALL
)  # both ends of a call (connectors.readers.calls_sql)
sa.Index("ix_events_tool", events.c.tool_name, events.c.occurred_at, postgresql_where=_TOOL, sqlite_where=_TOOL)

#: The roll-up of `connectors.rollup`; the columns named last_… and …_at beside a value are what makes it order-free.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False, comment="of the first event"),
    sa.Column("project", sa.Text, comment="last part of cwd"),
    sa.Column("cwd", sa.Text, comment="of the first event that has one"),
    sa.Column("cwd_at", Micros),
    sa.Column("machine", sa.Text, comment="of the first event whose metadata names one"),
    sa.Column("machine_at", Micros),
    sa.Column("git_branch", sa.Text, comment="of the latest session_start that tells one"),
    sa.Column("git_commit", sa.Text),
    sa.Column("git_at", Micros),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("first_event_at", Micros, nullable=False),
    sa.Column("last_event_at", Micros, nullable=False),
    sa.Column("started_at", Micros, comment="first session_start"),
    sa.Column("ended_at", Micros, comment="latest session_end; null while active"),
    sa.Column("last_active_at", Micros, comment="latest event that shows life (connectors.rollup)"),
    sa.Column("last_end_at", Micros),
    sa.Column("last_end_status", sa.Text),
    sa.Column("event_count", Big, nullable=False),
    sa.Column("last_partition", sa.Integer, nullable=False),
    sa.Column("last_offset", Big, nullable=False),
    sa.Column("updated_at", Micros, nullable=False),
    sa.CheckConstraint("status IN ('active', 'completed', 'terminated', 'error')", name="status"),
)
sa.Index("ix_sessions_last_event", sessions.c.last_event_at, sessions.c.session_id)
sa.Index("ix_sessions_machine", sessions.c.machine, sessions.c.last_event_at)
sa.Index("ix_sessions_project", sessions.c.project, sessions.c.last_event_at)

sink_progress = sa.Table(
    "sink_progress",
    metadata,
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False, comment="of chronicle.events"),
    sa.Column("next_offset", Big, nullable=False, comment="everything before it is durable; 0 when not yet known"),
    sa.Column("stored", Big, nullable=False, comment="rows of this partition stored here, ever"),
    sa.Column("updated_at", Micros, nullable=False),
)

duplicates = sa.Table(
    "duplicates",
    metadata,
    sa.Column("ingest_partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ingest_offset", Big, primary_key=True, autoincrement=False),
    sa.Column("event_id", Id, primary_key=True),
    sa.Column("recorded_at", Micros, nullable=False),
)

#: The logs that rows came from, by the broker's id of their topics. `earlier`: rows the ledger counts that were here
#: before this log began (of logs that are gone); 0 for the first.
logs = sa.Table(
    "logs",
    metadata,
    sa.Column("log_id", sa.Text, primary_key=True),
    sa.Column("began_at", Micros, nullable=False),
    sa.Column("earlier", Big, nullable=False),
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", Big, primary_key=True, autoincrement=False),
    sa.Column("ingest_partition", sa.Integer),
    sa.Column("ingest_offset", Big),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False, comment="schemas.topics.CAUSES"),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary),
    sa.Column("value", sa.LargeBinary),
    sa.Column("event_id", Id),
    sa.Column("session_id", sa.Text),
    sa.Column("failed_at", Micros, nullable=False),
    sa.Column("resolved_at", Micros),
    sa.Column("replayed_as", Id),
    sa.Column("stored_at", Micros, nullable=False),
)
sa.Index("ix_dead_letters_failed", dead_letters.c.failed_at)
sa.Index("ix_dead_letters_event", dead_letters.c.event_id)
sa.Index("ix_dead_letters_ingest", dead_letters.c.ingest_partition, dead_letters.c.ingest_offset)

#: What was decided about a conflict, by the dead letter that holds the other side. The view `conflicts` (made by
#: migration 0002) shows both sides of each; readers ask the tables.
conflict_resolutions = sa.Table(
    "conflict_resolutions",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", Big, primary_key=True, autoincrement=False),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("strategy", sa.Text, nullable=False, comment="remote | local | merge | manual"),
    sa.Column("resolved_at", Micros, nullable=False),
    sa.Column("payload_before", Json, comment="of the stored event; null where it was left as it is"),
    sa.Column("payload_after", Json),
    sa.CheckConstraint("strategy IN ('remote', 'local', 'merge', 'manual')", name="strategy"),
)
sa.Index("ix_conflict_resolutions_event", conflict_resolutions.c.event_id)

#: One row for each chunk that sync-back brought home, with the check that was made.
sync_runs = sa.Table(
    "sync_runs",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at", Micros, nullable=False),
    sa.Column("finished_at", Micros, nullable=False),
    sa.Column("first_seq", Big, nullable=False),
    sa.Column("last_seq", Big, nullable=False),
    sa.Column("rows", Big, nullable=False),
    sa.Column("stored", Big, nullable=False),
    sa.Column("verified", sa.Boolean, nullable=False),
    sa.Column("expected_count", Big, nullable=False),
    sa.Column("expected_hash", Big, nullable=False),
    sa.Column("found_count", Big, nullable=False),
    sa.Column("found_hash", Big, nullable=False),
)

#: What `Sink.probe` commits to prove that a batch would be taken.
sink_probes = sa.Table(
    "sink_probes",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("at", Micros, nullable=False),
)

_HISTORY_GRAIN = "grain IN ('hour', 'day')"
_HISTORY_MARK = [
    ("generation", "the rebuild that wrote it, epoch seconds; 0 for none"),
    ("at", "highest offset of chronicle.ingest it counts"),
    ("foreign_at", "the same in chronicle.events, for records of others"),
]


def _history(name: str, *columns: Any) -> sa.Table:
    """A table of what one partition counted in an hour or a day; whoever reads adds up over partition and log_id."""
    return sa.Table(
        name,
        metadata,
        *columns,
        *(sa.Column(mark, Big, nullable=False, comment=comment) for mark, comment in _HISTORY_MARK),
        sa.Column("updated_at", Micros, nullable=False),
        sa.CheckConstraint(_HISTORY_GRAIN, name="grain"),
    )


#: Upserted by `agents.history` from `chronicle.aggregates`. The views `usage_by_hour` and `usage_by_day` (migration
#: 0005) add the partitions up. In SQLite these tables stay empty.
usage_history = _history(
    "usage_history",
    sa.Column("grain", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True, comment="empty for the dimension all"),
    sa.Column("bucket", Micros, primary_key=True, autoincrement=False, comment="when it begins"),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("log_id", sa.Text, primary_key=True, comment="the broker's id of chronicle.aggregates"),
    sa.Column("events", Json, nullable=False, comment="type -> count"),
    sa.Column("event_count", Big, nullable=False),
    sa.Column("sessions", Big, nullable=False, comment="a session is in one partition"),
    sa.Column("sessions_at_least", sa.Boolean, nullable=False, comment="there were more"),
    sa.CheckConstraint("dimension IN ('all', 'project', 'machine', 'agent')", name="dimension"),
    sa.CheckConstraint("event_count >= 0 AND sessions >= 0", name="counts"),
)
sa.Index("ix_usage_history_bucket", usage_history.c.grain, usage_history.c.dimension, usage_history.c.bucket)

#: The same for finished tool calls; the view `tools_by_day` adds the partitions up.
tool_history = _history(
    "tool_history",
    sa.Column("grain", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True, comment="empty for the dimension all"),
    sa.Column("tool", sa.Text, primary_key=True),
    sa.Column("bucket", Micros, primary_key=True, autoincrement=False, comment="when it begins"),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("log_id", sa.Text, primary_key=True, comment="the broker's id of chronicle.aggregates"),
    sa.Column("calls", Big, nullable=False),
    sa.Column("failures", Big, nullable=False),
    sa.Column("durations", Json, nullable=False, comment="histogram: bucket -> count (docs/topics.md)"),
    sa.CheckConstraint("dimension IN ('all', 'project')", name="dimension"),
    sa.CheckConstraint("failures >= 0 AND failures <= calls", name="counts"),
)
sa.Index("ix_tool_history_bucket", tool_history.c.grain, tool_history.c.dimension, tool_history.c.bucket)

#: What SQLite holds for Postgres: everything it took, repeats included; Postgres judges them when they come home.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False, comment="in chronicle.events"),
    sa.Column("offset", sa.Integer, nullable=False),
    sa.Column("ingest_partition", sa.Integer, nullable=False),
    sa.Column("ingest_offset", sa.Integer, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False, comment="the framed Avro record"),
    sa.Column("state", sa.Text, nullable=False, server_default="pending", comment="pending | synced"),
    sa.Column("synced_at", Micros),
    info=SQLITE_ONLY,
    sqlite_autoincrement=True,  # a seq is never given out twice, also after a clean-up
)
_PENDING = sa.text("state = 'pending'")
sa.Index("ux_outbox_ingest", outbox.c.ingest_partition, outbox.c.ingest_offset, outbox.c.event_id, unique=True)
sa.Index("ix_outbox_pending", outbox.c.seq, sqlite_where=_PENDING)
sa.Index("ix_outbox_synced", outbox.c.synced_at, sqlite_where=sa.text("state = 'synced'"))

#: Which offsets of chronicle.events [start, end) went to SQLite: what must be read again if this file is lost.
failover_range = sa.Table(
    "failover_range",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("at", Micros, nullable=False),
    sa.Column("last_seq", sa.Integer, nullable=False, comment="synced once the outbox is synced up to here"),
    sa.Column("state", sa.Text, nullable=False, server_default="pending", comment="pending | synced"),
    info=SQLITE_ONLY,
)

#: Dead letters in SQLite that Postgres does not have yet.
dead_letter_outbox = sa.Table(
    "dead_letter_outbox",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", sa.Integer, primary_key=True, autoincrement=False),
    info=SQLITE_ONLY,
)


def tables_for(dialect: str) -> list[sa.Table]:
    """The tables that exist in `postgresql` or `sqlite`, in order of creation."""
    return [table for table in metadata.sorted_tables if table.info.get("only", dialect) == dialect]
