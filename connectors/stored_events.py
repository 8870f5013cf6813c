"""The events in Postgres in the order they were taken in, for counting them again: a cursor, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from connectors.pgerrors import unavailable
from connectors.pglink import PostgresLink
from connectors.ports_history import Standing
from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position
from schemas.facts import CALL_ENDS, WRITING_TOOLS

#: Rows of one fetch.
ROWS: Final = 2_000
#: Seconds one statement may take: the first row comes when Postgres has sorted them all.
LONGEST_S: Final = 3_600.0

_COUNT: Final = "SELECT ingest_partition, count(*) AS events, max(events_offset) + 1 AS next FROM events GROUP BY 1"
_PROGRESS: Final = "SELECT partition, next_offset FROM sink_progress WHERE next_offset > 0"
_LOGS: Final = "SELECT count(*) FROM logs"
#: Only what counting needs. Payloads are large, and looked into only for the files that tools write.
_EVENTS: Final = """
SELECT event_id, session_id, event_type, occurred_at, received_at, tool_name, tool_use_id, agent_id, agent_type, cwd,
       suspected_duplicate_of, metadata, ingest_partition, ingest_offset, events_offset,
       CASE WHEN tool_name = ANY($3::text[]) AND event_type = ANY($4::text[])
            THEN coalesce(payload_raw, payload::text) ELSE '{}' END AS payload
FROM events WHERE ingest_partition = ANY($1::integer[]) AND events_offset < $2
ORDER BY ingest_partition DESC, ingest_offset
"""


class PostgresEvents:
    """Implements `connectors.ports_history.StoredEvents`; each call has a connection of its own."""

    def __init__(self, dsn: str) -> None:
        self._link = PostgresLink(dsn, name="chronicle aggregates", timeout_s=LONGEST_S, connect_timeout_s=5.0)

    async def standing(self) -> Standing:
        """See the contract."""
        async with self._connected() as connection:
            progress = {row["partition"]: row["next_offset"] for row in await connection.fetch(_PROGRESS)}
            counted = await connection.fetch(_COUNT)
            logs = int(await connection.fetchval(_LOGS))
        return standing_of(progress, [(row["ingest_partition"], row["events"], row["next"]) for row in counted], logs)

    async def events(self, partition: int, before: int) -> AsyncIterator[list[LoggedEvent]]:
        """See the contract."""
        async with self._connected() as connection, connection.transaction(readonly=True):
            arguments = ([partition, -1 - partition], before, sorted(WRITING_TOOLS), list(CALL_ENDS))
            cursor = await connection.cursor(_EVENTS, *arguments)
            while rows := await cursor.fetch(ROWS):
                yield [_event_of(partition, row) for row in rows]

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        try:
            connection = await self._link.connect()
        except Exception as error:
            raise unavailable(error) from error
        try:
            yield connection
        except Exception as error:
            raise unavailable(error) from error
        finally:
            connection.terminate()


def standing_of(progress: Mapping[int, int], counted: Sequence[tuple[int, int, int]], logs: int) -> Standing:
    """Out of `sink_progress` and (ingest partition, rows, offset behind the last) of `events`.

    Sync-back moves no progress: what it brought home is seen by the rows alone, until the next live batch.
    """
    next_, events = dict(progress), dict[int, int]()
    for ingest, rows, behind in counted:
        partition = max(ingest, -1 - ingest)  # of a record of somebody else
        events[partition] = events.get(partition, 0) + rows
        next_[partition] = max(next_.get(partition, 0), behind)
    return Standing(next=next_, events=events, logs=logs)


def _event_of(partition: int, row: Any) -> LoggedEvent:
    """The event as far as counting looks at it."""
    event = HookEvent(
        event_id=row["event_id"],
        fingerprint=b"",
        id_origin=IdOrigin.CLIENT,
        session_id=row["session_id"],
        event_type=row["event_type"],
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        source="",
        payload=row["payload"],
        tool_name=row["tool_name"],
        tool_use_id=row["tool_use_id"],
        agent_id=row["agent_id"],
        agent_type=row["agent_type"],
        cwd=row["cwd"],
        suspected_duplicate_of=row["suspected_duplicate_of"],
        metadata=row["metadata"],
    )
    ingest = Position(row["ingest_partition"], row["ingest_offset"])
    return LoggedEvent(event=event, ingest=ingest, events=Position(partition, row["events_offset"]), value=b"")
