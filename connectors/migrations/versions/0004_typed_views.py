"""Typed views over `events` (tool, prompt, notification, lifecycle, project context), and what searching needs.

Views, not tables: an event is written once, whatever is asked of it later; they hold from the first event on, and a
payload that `chronicle sync resolve` replaces shows in them at once (docs/decisions/0012-typed-views.md).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATE: Final = """CASE e.event_type WHEN 'session_end' THEN 'completed' WHEN 'session_stop' THEN 'idle'
    WHEN 'subagent_stop' THEN 'completed' WHEN 'compact_pre' THEN 'compacting' ELSE 'active' END"""
LIFECYCLE: Final = "'session_start', 'session_end', 'session_stop', 'subagent_start', 'subagent_stop', 'compact_pre'"
#: What can be searched, as `connectors.readers.search` asks for it. The cut keeps a vector below its limit of 1 MiB.
SEARCHED: Final = "event_type IN ('notification', 'post_tool_use_failure', 'user_prompt')"
TEXT: Final = "left(coalesce(payload ->> 'prompt', payload ->> 'error', payload ->> 'message', ''), 32768)"
#: What the parser of Postgres would make paths, hosts, tags and signed numbers of, instead of words.
MARKS: Final = "/._-@~+?&=<>#"
VIEWS: Final = (
    "tool_events",
    "tool_calls",
    "prompt_events",
    "notification_events",
    "lifecycle_events",
    "project_context",
)


def upgrade() -> None:
    op.create_index("ix_sessions_project", "sessions", ["project", "last_event_at"])
    of_calls = sa.text("tool_use_id IS NOT NULL")
    op.create_index(
        "ix_events_call", "events", ["session_id", "tool_use_id"], postgresql_where=of_calls, sqlite_where=of_calls
    )
    if not _sqlite():
        words = sa.text(f"to_tsvector('simple', translate({TEXT}, '{MARKS}', '{' ' * len(MARKS)}'))")
        op.create_index(
            "ix_events_words", "events", [words], postgresql_using="gin", postgresql_where=sa.text(SEARCHED)
        )
    for view in (_tool_events(), _tool_calls(), _prompts(), _notifications(), _lifecycle(), _files()):
        op.execute(view)


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
    if not _sqlite():
        op.drop_index("ix_events_words", "events")
    op.drop_index("ix_events_call", "events")
    op.drop_index("ix_sessions_project", "sessions")


def _sqlite() -> bool:
    return bool(op.get_context().dialect.name == "sqlite")


# --- what a payload tells, in both dialects: null where it is absent or of another type ------------------------------


def _kind(name: str) -> str:
    return f"json_type(e.payload, '$.{name}')" if _sqlite() else f"jsonb_typeof(e.payload -> '{name}')"


def _text(name: str) -> str:
    kind = "text" if _sqlite() else "string"
    return f"CASE WHEN {_kind(name)} = '{kind}' THEN e.payload ->> '{name}' END"


def _whole(name: str) -> str:
    """A number of milliseconds, as a bigint: rounded, and none from 10^15 on."""
    if _sqlite():  # not abs(), which fails for the smallest integer
        told = f"(e.payload ->> '{name}')"
        known = f"{_kind(name)} IN ('integer', 'real') AND {told} > -1e15 AND {told} < 1e15"
        return f"CASE WHEN {known} THEN CAST(round({told}) AS INTEGER) END"
    number = f"(e.payload ->> '{name}')::numeric"
    return f"CASE WHEN {_kind(name)} = 'number' AND abs({number}) < 1e15 THEN round({number})::bigint END"


def _milliseconds(last: str, first: str) -> str:
    if _sqlite():
        return f"({last} - {first}) / 1000.0"
    return f"extract(epoch FROM {last} - {first})::double precision * 1000"


# --- the views -------------------------------------------------------------------------------------------------------


def _tool_events() -> str:
    return f"""
CREATE VIEW tool_events AS
SELECT e.event_id, e.session_id, e.agent_id, e.agent_type, coalesce(e.tool_name, '') AS tool_name, e.tool_use_id,
       CASE substr(e.tool_name, 1, 5) WHEN 'mcp__' THEN 'mcp' ELSE 'builtin' END AS tool_type,
       CASE e.event_type WHEN 'tool_pre_use' THEN 'pre' ELSE 'post' END AS phase,
       e.payload -> 'tool_input' AS parameters, e.payload -> 'tool_response' AS result,
       {_whole("duration_ms")} AS execution_time_ms,
       CASE e.event_type WHEN 'tool_post_use' THEN true WHEN 'post_tool_use_failure' THEN false END AS success,
       CASE e.event_type WHEN 'post_tool_use_failure' THEN {_text("error")} END AS error_message,
       e.occurred_at AS created_at
FROM events e WHERE e.event_type IN ('tool_pre_use', 'tool_post_use', 'post_tool_use_failure')
"""


def _tool_calls() -> str:
    """Both ends in one row, in whatever order they came. A call without an id is that one end."""
    call = f"coalesce(t.tool_use_id, {'t.event_id' if _sqlite() else 't.event_id::text'})"
    began = "min(t.created_at) FILTER (WHERE t.phase = 'pre')"
    ended = "max(t.created_at) FILTER (WHERE t.phase = 'post')"
    failed = "max(CASE WHEN t.success THEN 0 WHEN NOT t.success THEN 1 END)"
    return f"""
CREATE VIEW tool_calls AS
SELECT t.session_id, coalesce(t.agent_id, '') AS agent_id, {call} AS call_id,
       max(t.agent_type) AS agent_type, max(t.tool_name) AS tool_name, max(t.tool_use_id) AS tool_use_id,
       {began} AS started_at, {ended} AS ended_at, {_milliseconds(ended, began)} AS duration_ms,
       max(t.execution_time_ms) AS execution_time_ms,
       CASE {failed} WHEN 0 THEN true WHEN 1 THEN false END AS success, max(t.error_message) AS error_message
FROM tool_events t GROUP BY t.session_id, coalesce(t.agent_id, ''), {call}
"""


def _prompts() -> str:
    return f"""
CREATE VIEW prompt_events AS
SELECT e.event_id, e.session_id, e.prompt_id, {_text("prompt")} AS prompt_text,
       length({_text("prompt")}) AS prompt_length, e.occurred_at AS created_at
FROM events e WHERE e.event_type = 'user_prompt'
"""


def _notifications() -> str:
    warns = "('permission_prompt', 'elicitation_dialog')"
    return f"""
CREATE VIEW notification_events AS
SELECT e.event_id, e.session_id, {_text("notification_type")} AS notification_type,
       coalesce({_text("message")}, {_text("title")}, '') AS message,
       CASE WHEN {_text("notification_type")} IN {warns} THEN 'warning' ELSE 'info' END AS severity,
       e.occurred_at AS created_at
FROM events e WHERE e.event_type = 'notification'
"""


def _lifecycle() -> str:
    """The state before is that of the same session or sub-agent, in order of time; null for its first."""
    order = "e.occurred_at, e.ingest_partition, e.ingest_offset"
    before = f"lag({STATE}) OVER (PARTITION BY e.session_id, coalesce(e.agent_id, '') ORDER BY {order})"
    reason = f"coalesce({_text('reason')}, {_text('source')}, {_text('trigger')})"
    return f"""
CREATE VIEW lifecycle_events AS
SELECT e.event_id, e.session_id, e.agent_id, e.event_type AS lifecycle_type,
       {before} AS previous_state, {STATE} AS new_state,
       {reason} AS trigger_reason, e.payload AS context_snapshot, e.occurred_at AS created_at
FROM events e WHERE e.event_type IN ({LIFECYCLE})
"""


def _files() -> str:
    """Each file that a session's tools wrote."""
    path = "coalesce(e.payload -> 'tool_input' ->> 'file_path', e.payload -> 'tool_input' ->> 'notebook_path')"
    return f"""
CREATE VIEW project_context AS
SELECT e.session_id, {path} AS file_path, max(e.cwd) AS working_directory, count(*) AS changes,
       min(e.occurred_at) AS created_at, max(e.occurred_at) AS last_modified
FROM events e
WHERE e.event_type = 'tool_post_use' AND e.tool_name IN ('Edit', 'MultiEdit', 'NotebookEdit', 'Write')
  AND {path} IS NOT NULL
GROUP BY e.session_id, {path}
"""
