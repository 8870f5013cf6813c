"""The compacted control topic: worker status (each worker a key, the newest value its status) and failover ranges.

Everybody reads the topic from its beginning without a consumer group and keeps the last value of each key, which is
what compaction keeps as well: it does not matter how much of the past has been compacted away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from connectors.follow import TopicFollower
from connectors.memory import fresh
from connectors.ports import EventLog, Record
from schemas.clock import Clock
from schemas.errors import ChronicleError

log = structlog.get_logger(__name__)

#: A post is for now: the next one comes in a second.
POST_SECONDS: Final = 1.0

#: Keys that begin like this are failover ranges, no statuses (`connectors.ranges`).
RANGES: Final = "range/"

#: Told each key of a range and its value; None when it was removed.
Follower = Callable[[str, bytes | None], None]


class KafkaStatusBoard:
    """Implements `connectors.ports.StatusBoard`; `follow` tells the failover ranges that are in the same topic.

    `open` does not need the broker: the reader goes on trying until `close`. The log is the caller's.
    """

    def __init__(self, brokers: str, topic: str, log: EventLog, clock: Clock) -> None:
        self._topic = topic
        self._log = log
        self._clock = clock
        self._all: dict[str, Mapping[str, Any]] = {}
        self._unposted: dict[str, bytes] = {}
        self._own: set[str] = set()
        self._returned: float | None = None
        self._follower: Follower | None = None
        self._reader = TopicFollower(brokers, topic, 1, self._apply)

    def follow(self, follower: Follower) -> None:
        """Tell `follower` what is under the keys of `RANGES`. Call it before `open`."""
        self._follower = follower

    async def caught_up(self, timeout: float) -> None:
        """Return when everything that is in the topic now has been applied. Raises `Unavailable` after `timeout` s."""
        await self._reader.reach_end(timeout)

    async def open(self) -> None:
        """Start reading."""
        await self._reader.open()

    async def post(self, worker: str, status: Mapping[str, Any]) -> None:
        """As `StatusBoard.post`; what could not be posted before goes along, newest first for each worker."""
        self._own.add(worker)
        self._unposted[worker] = msgspec.json.encode(status)
        posting = dict(self._unposted)
        records = [Record(key.encode(), value, partition=0) for key, value in posting.items()]
        try:
            await self._log.send(self._topic, records, timeout=POST_SECONDS)
        except ChronicleError as error:
            log.debug("status.not_posted", worker=worker, error=str(error))
            return
        for key, value in posting.items():
            if self._unposted.get(key) is value:
                del self._unposted[key]

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """As `StatusBoard.statuses`: those of the last 15 seconds."""
        return fresh(self._all, self._clock.now())

    def forget(self) -> None:
        """The log is another one: what was told through the old one counts no longer."""
        self._all.clear()
        self._returned = None

    def last_known(self) -> Mapping[str, Mapping[str, Any]]:
        """The last status of every worker, however old: counters outlive the worker that posted them."""
        return dict(self._all)

    def round_trip_at(self) -> float | None:
        """As `StatusBoard.round_trip_at`."""
        return self._returned

    async def close(self) -> None:
        """Stop reading."""
        await self._reader.close()

    def _apply(self, _: int, record: Any) -> None:
        """The newest value of a key counts; what is not ours is passed over."""
        key, value = record.key, record.value
        name = (key or b"").decode("utf-8", "replace")
        if name.startswith(RANGES):
            if self._follower is not None:
                self._follower(name, value)
            return
        try:
            worker = (key or b"").decode()
            status = msgspec.json.decode(value, type=dict[str, Any]) if value else None
        except (UnicodeDecodeError, msgspec.MsgspecError):
            return
        if status is None:
            self._all.pop(worker, None)
            return
        self._all[worker] = status
        if worker in self._own:
            self._returned = self._clock.now()
