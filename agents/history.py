"""History: `chronicle.aggregates` -> the history tables, so that what the live tables let go of can still be asked.

The steps of a batch (what came within a second or two, at most BATCH records of one partition):
  1. last     of each key only the last value counts; values are absolute
  2. decode   hours and days; minutes, sessions and names have no history; what cannot be read is passed over
  3. write    all of it in one transaction, held while Postgres is away
  4. ack      only now may the group's offset move
A repeat changes nothing: a row keeps the value with the higher mark. A tombstone that ends a bucket which is too old
for the live tables takes nothing out; only the tombstone of a rebuild does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableSet, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from agents import lanes
from agents.hold import retried
from agents.lanes import Lingering
from connectors.ports_history import HistoryStore
from schemas import points
from schemas.history import GRAINS, REBUILD_HEADER, Changes, Mark, Place, Removed, Row, ToolRow, UsageRow, Written
from schemas.metrics import Metrics
from tables.usage import Key, ToolUse, Usage
from tables.usage_codec import unpack_key, unpack_value

#: Records and seconds that are written at once. Half of what may be handed out and not acked, and less than a stopping
#: app waits for its agents (2 s).
BATCH, LINGER_S = 4_000, 1.5
#: Records decoded in one go: about 5 ms, so that the event loop stays free.
STEP = 500

_logger = structlog.get_logger("chronicle.history")


# --- rules -----------------------------------------------------------------------------------------------------------


class Last(NamedTuple):
    """The last value of a key in a batch (None: no value came), and the rebuild that took out what was before it."""

    value: bytes | None = None
    removed_by: int | None = None


def last_of(records: Iterable[Any]) -> dict[bytes, Last]:
    """Key -> what counts of it. The tombstone of an ended bucket counts for nothing."""
    found: dict[bytes, Last] = {}
    for record in records:
        key = record.key or b""
        before = found.get(key, Last())
        if record.value is not None:
            found[key] = before._replace(value=record.value)
        elif (generation := rebuild_of(record.headers)) is not None:
            found[key] = Last(None, generation)
    return found


def rebuild_of(headers: Iterable[tuple[str, bytes]] | None) -> int | None:
    """The generation of the rebuild that wrote a tombstone; None for any other."""
    for name, value in headers or ():
        if name == REBUILD_HEADER and value and value.isdigit():
            return int(value)
    return None


def change_of(partition: int, key: bytes, last: Last) -> tuple[Removed | None, Row | None]:
    """What a key means for the history; nothing for one that has none. Raises `ValueError` for what is not ours."""
    named = unpack_key(key)
    if named[0] not in ("usage", "tools") or (len(named) > 1 and named[1] not in GRAINS):
        return None, None
    place = place_of(partition, named)
    removed = None if last.removed_by is None else Removed(place, last.removed_by)
    return removed, None if last.value is None else _row(place, unpack_value(named, last.value))


def place_of(partition: int, key: Key) -> Place:
    """Where the key of a bucket has its row. Raises `ValueError` when it is cut short."""
    try:
        _, grain, bucket, dimension, value, *tool = key
        return Place(str(grain), str(dimension), str(value), int(bucket), partition, str(tool[0]) if tool else None)
    except ValueError as error:
        raise ValueError(f"no bucket has the key {key!r}") from error


def _row(place: Place, value: object) -> Row:
    if isinstance(value, Usage):
        return UsageRow(
            place=place,
            mark=Mark(value.generation, value.at, value.foreign_at),
            events=value.events,
            sessions=len(value.sessions),
            sessions_at_least=value.more,
        )
    assert isinstance(value, ToolUse)
    return ToolRow(
        place=place,
        mark=Mark(value.generation, value.at, value.foreign_at),
        calls=value.calls,
        failures=value.failures,
        durations=value.durations,
    )


# --- shell -----------------------------------------------------------------------------------------------------------


class Deps(NamedTuple):
    """What the lanes work with. `held` is the set of partitions that wait for the database just now.

    `log_id` asks for the id of the topic that is read (`HistoryStore.write`); it raises `Unavailable`.
    """

    store: HistoryStore
    log_id: Callable[[], Awaitable[str]]
    metrics: Metrics
    held: MutableSet[int]
    abort: Callable[[str], None]
    linger_s: float = LINGER_S
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Lane(Lingering):
    """The chunks of one partition. A bug aborts."""

    def __init__(self, partition: int, deps: Deps) -> None:
        super().__init__(partition, most=BATCH, linger_s=deps.linger_s)
        self._deps = deps

    def failed(self, error: Exception) -> None:
        """See `Lingering`."""
        _logger.error("history stopped", partition=self._partition, exc_info=error)
        self._deps.abort(f"history: {error!r}")

    async def work(self, chunks: Sequence[Any]) -> None:
        """See `Lingering`."""
        last = last_of(record for chunk in chunks for record in chunk.records)  # 1
        changes = await self._changes(last)  # 2
        if changes.removed or changes.rows:
            self._count(await self._write(changes, chunks[-1]))  # 3
            points.at("history.written")
        for chunk in chunks:  # 4
            chunk.ack()

    async def _changes(self, last: dict[bytes, Last]) -> Changes:
        # by place: what others write may name one place in two ways, and one statement takes each place once
        removed: dict[Place, Removed] = {}
        rows: dict[Place, Row] = {}
        for number, (key, found) in enumerate(last.items(), 1):
            try:
                gone, row = change_of(self._partition, key, found)
            except (ValueError, msgspec.MsgspecError) as error:
                self._deps.metrics.inc("chronicle_history_passed_over_total", cause="undecodable")
                _logger.warning("passed over", partition=self._partition, key=key[:200], error=str(error))
                continue
            if gone is not None:
                removed[gone.place] = gone
            if row is not None:
                rows[row.place] = row
            if number % STEP == 0:
                await asyncio.sleep(0)
        return Changes([*removed.values()], [*rows.values()])

    async def _write(self, changes: Changes, last: Any) -> Written:
        deps = self._deps

        async def attempt() -> Written:
            return await deps.store.write(await deps.log_id(), changes)

        def held(now: bool) -> None:
            (deps.held.add if now else deps.held.discard)(self._partition)

        return await retried(
            "history",
            attempt,
            live=lambda: bool(last.live),
            held=held,
            sleep=deps.sleep,
            partition=self._partition,
            first=last.first,
        )

    def _count(self, written: Written) -> None:
        metrics = self._deps.metrics
        for result in ("written", "older", "removed"):
            metrics.inc("chronicle_history_rows_total", getattr(written, result), result=result)
        if written.refused:
            metrics.inc("chronicle_history_passed_over_total", written.refused, cause="refused")
            _logger.error("the database refuses rows of the history", partition=self._partition, rows=written.refused)


def attach(app: Any, *, chunks: Any, deps: Deps) -> Any:
    """The agent `history` on `chunks` (`chronicle.aggregates`). It never raises."""
    return lanes.attach(app, "history", chunks=chunks, lane=lambda partition: Lane(partition, deps))
