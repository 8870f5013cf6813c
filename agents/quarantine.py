"""Dead letters: how one is written to `chronicle.dead-letters`, read back, and mirrored into the table `dead_letters`.

The topic holds them for good (its retention is four times that of the log); the table is what people look at. A dead
letter is known by the place it was read at, so neither a replay nor a second mirror makes another one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from agents.hold import Hold
from connectors.ports import EventLog, Receipt, Record, Sink
from schemas.clock import Clock
from schemas.errors import Poison
from schemas.event import DeadLetter, LoggedEvent, Position
from schemas.topics import POSITION_HEADER, Cause

CAUSE_HEADER = "error.class"
DETAIL_HEADER = "error.message"
TOPIC_HEADER = "source.topic"
PARTITION_HEADER = "source.partition"
OFFSET_HEADER = "source.offset"

#: A detail is for people: a driver's text can be a page and may quote the row.
MAX_DETAIL = 500
#: One produce or one INSERT of letters holds at most this much: a letter can be as large as an event, in base64.
GROUP_LETTERS = 100
GROUP_BYTES = 1 << 20

LETTER_TIMEOUT = 10.0  # seconds for one group of them to be acked

_logger = structlog.get_logger("chronicle.quarantine")
_decoder = msgspec.json.Decoder(DeadLetter)
_position = struct.Struct(">iq")


# --- rules -----------------------------------------------------------------------------------------------------------


def letter_id(letter: DeadLetter) -> str:
    """`topic/partition/offset`: the key of the record and the id the API shows."""
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def encode(letter: DeadLetter) -> Record:
    """The letter as a record: JSON value (bytes as base64), its id as key, cause and source as headers too."""
    session = letter.session_id
    letter = msgspec.structs.replace(letter, detail=_text(letter.detail), session_id=session and _text(session))
    headers = (
        (CAUSE_HEADER, letter.cause.encode()),
        (DETAIL_HEADER, letter.detail.encode()),
        (TOPIC_HEADER, letter.topic.encode()),
        (PARTITION_HEADER, str(letter.partition).encode()),
        (OFFSET_HEADER, str(letter.offset).encode()),
    )
    return Record(key=letter_id(letter).encode(), value=msgspec.json.encode(letter), headers=headers)


def _text(text: str) -> str:
    """Text that can be sent: an error may quote a lone surrogate."""
    return text.encode("utf-8", "replace").decode()


def decode(value: bytes) -> DeadLetter:
    """The letter again. Raises `msgspec.MsgspecError` (or `UnicodeDecodeError`) when the value is not one of ours."""
    return _decoder.decode(value)


def read(topic: str, partition: int, record: Any, failed_at: int) -> DeadLetter:
    """The letter in a record of the dead-letter topic; a record that is none is a dead letter itself.

    Somebody else's bytes in that topic are kept in the table with the stage `quarantine`; they are not produced again.
    """
    try:
        return decode(record.value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return DeadLetter(
            topic=topic,
            partition=partition,
            offset=record.offset,
            ingest=None,
            stage="quarantine",
            cause="undecodable",
            detail=f"Not a dead letter: {error}"[:MAX_DETAIL],
            key=record.key,
            value=record.value,
            failed_at=failed_at,
        )


def position_of(headers: Iterable[tuple[str, bytes]] | None) -> Position | None:
    """The place in `chronicle.ingest` from the header `chronicle-position`; None when it is absent or not ours."""
    for name, value in headers or ():
        if name == POSITION_HEADER and len(value) == _position.size:
            return Position(*_position.unpack(value))
    return None


def of_event(event: LoggedEvent, *, topic: str, cause: Cause, detail: str, failed_at: int) -> DeadLetter:
    """A decoded event the database does not take. `topic` is `chronicle.events`, where it was read."""
    return DeadLetter(
        topic=topic,
        partition=event.events.partition,
        offset=event.events.offset,
        ingest=event.ingest if event.ingest.partition >= 0 else None,
        stage="persist",
        cause=cause,
        detail=detail[:MAX_DETAIL],
        key=event.event.session_id.encode("utf-8", "replace"),
        value=event.value,
        failed_at=failed_at,
        event_id=event.event.event_id,
        session_id=event.event.session_id,
    )


def set_aside(receipt: Receipt, *, topic: str, failed_at: int) -> list[DeadLetter]:
    """The dead letters of a receipt: conflicts and refused rows, with their bytes and the place they were read at."""
    conflicts = [
        of_event(
            event,
            topic=topic,
            cause="conflict",
            detail=f"Another payload is stored under event_id {event.event.event_id}; the first one stays.",
            failed_at=failed_at,
        )
        for event in receipt.conflicts
    ]
    refused = [
        of_event(event, topic=topic, cause="refused_by_database", detail=detail, failed_at=failed_at)
        for event, detail in receipt.refused
    ]
    return conflicts + refused


def without_bytes(letter: DeadLetter) -> DeadLetter:
    """What the topic can say of a letter whose bytes it cannot take."""
    detail = f"{letter.detail[: MAX_DETAIL - 80]} ({weight(letter)} bytes, kept in the table dead_letters only)"
    return msgspec.structs.replace(letter, key=None, value=None, detail=detail)


def weight(letter: DeadLetter) -> int:
    """Bytes of the record it holds."""
    return len(letter.value or b"") + len(letter.key or b"")


def grouped(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    """The letters in order, in groups of at most `GROUP_LETTERS` and about `GROUP_BYTES` (one at least)."""
    start = size = 0
    for index, letter in enumerate(letters):
        if index > start and (index - start >= GROUP_LETTERS or size + weight(letter) > GROUP_BYTES):
            yield letters[start:index]
            start, size = index, 0
        size += weight(letter)
    if start < len(letters):
        yield letters[start:]


# --- shell -----------------------------------------------------------------------------------------------------------


async def bury(letters: Sequence[DeadLetter], *, log: EventLog, sink: Sink, topic: str) -> None:
    """Make one group of letters durable in the dead-letter topic; returns when the broker has acked them all.

    A letter too large for the topic (its bytes grow by a third in base64) goes to the table first, whole, and then to
    the topic without its bytes. Raises `Unavailable`; the caller holds and does it again.
    """
    try:
        await log.send(topic, [encode(letter) for letter in letters], timeout=LETTER_TIMEOUT)
    except Poison:
        if len(letters) > 1:
            for letter in letters:
                await bury([letter], log=log, sink=sink, topic=topic)
            return
        await sink.write_dead_letters(letters)
        await log.send(topic, [encode(without_bytes(letters[0]))], timeout=LETTER_TIMEOUT)


async def mirror(chunk: Any, *, sink: Sink, hold: Hold, clock: Clock) -> int:
    """1. read the chunk · 2. write its letters to the sink, held while none takes them · 3. ack last."""
    now = int(clock.now() * 1_000_000)
    letters = [read(chunk.topic, chunk.partition, record, now) for record in chunk.records]
    new = 0
    for group in grouped(letters):
        new += await hold.until("mirror dead letters", partial(sink.write_dead_letters, group))
    chunk.ack()
    return new


def attach(app: Any, *, topic: Any, sink: Sink, hold: Hold, clock: Clock, abort: Callable[[str], None]) -> Any:
    """The agent `quarantine` on `topic` (`chronicle.dead-letters`, raw bytes, chunks). It never raises.

    `abort(reason)` ends the process when the agent meets a bug: a restart reads on at the last ack.
    """

    async def quarantine(stream: Any) -> None:
        async for chunk in stream.noack():
            try:
                new = await mirror(chunk, sink=sink, hold=hold, clock=clock)
                if new:  # a replay is no news
                    _logger.warning("dead letters", new=new, next=chunk.next)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the agent loop: a bug must not step over a record
                _logger.exception("quarantine stopped")
                abort(f"quarantine: {error!r}")
                return

    return app.agent(topic, name="quarantine", concurrency=1)(quarantine)
