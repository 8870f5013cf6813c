"""KafkaRangeBook: which offsets went to a SQLite file, kept in the compacted control topic.

The key says which range of which file, the value is its JSON; a tombstone means that Postgres has it all. The worker
board reads that topic anyway, so this only listens to the keys that begin with `range/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from connectors.control import KafkaStatusBoard
from connectors.ports import EventLog, FailoverRange, Record

log = structlog.get_logger(__name__)

#: Seconds for the broker's ack: a batch waits for it.
WRITE_SECONDS: Final = 2.0
#: Seconds for reading to the end: within what the transport allows for finding where to begin.
READ_SECONDS: Final = 5.0


class KafkaRangeBook:
    """Implements `connectors.ports.RangeBook`. Board and log are the caller's; make it before the board is opened."""

    def __init__(self, board: KafkaStatusBoard, topic: str, log: EventLog) -> None:
        self._board, self._topic, self._log = board, topic, log
        self._all: dict[str, FailoverRange] = {}
        board.follow(self._apply)

    async def record(self, ranges: Sequence[FailoverRange]) -> None:
        """See the contract."""
        await self._send([Record(one.key.encode(), msgspec.json.encode(one), partition=0) for one in ranges])

    async def release(self, ranges: Sequence[FailoverRange]) -> None:
        """See the contract."""
        await self._send([Record(one.key.encode(), None, partition=0) for one in ranges])

    async def read(self) -> Sequence[FailoverRange]:
        """See the contract."""
        await self._board.caught_up(READ_SECONDS)
        return list(self._all.values())

    async def _send(self, records: Sequence[Record]) -> None:
        if records:
            await self._log.send(self._topic, records, timeout=WRITE_SECONDS)

    def _apply(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._all.pop(key, None)
            return
        try:
            self._all[key] = msgspec.json.decode(value, type=FailoverRange)
        except msgspec.MsgspecError as error:  # somebody else wrote into our topic
            log.error("ranges.not_ours", key=key, error=str(error))
