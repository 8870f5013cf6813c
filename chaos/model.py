"""The words of a drill: what was sent, what a fault is, what it may cost, and where it is done.

The load writes a ledger, the faults hurt the place, the checker compares the ledger with everything that is stored. The
load and the checker share no code with Chronicle: they know its HTTP face, its tables and its topics as any user does.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol


class Outcome(StrEnum):
    """What a producer was told of an event: a 2xx, a 4xx, or nothing it can rely on (5xx, timeout, cut)."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sent:
    """One line of the ledger: one try to send one event. A retry is a line of its own with the same `event_id`.

    `seq` counts the events of a producer from 0; `sha256` is of the canonical payload (sorted keys, no blanks, UTF-8);
    `at` is the wall clock when the answer was known (epoch seconds), `took` how long that was; `repeat` marks a line
    that sends, on purpose, an id that was sent before; `kind` is `envelope`, `native`, `bulk` or `bad`.
    """

    producer: str
    seq: int
    event_id: str
    session: str
    sha256: str
    at: float
    took: float
    outcome: Outcome
    status: int | None = None
    durability: str | None = None
    repeat: bool = False
    kind: str = "envelope"


@dataclass(frozen=True)
class Expected:
    """What a fault may cost at most, in seconds. `answered_s`: no request of the load hangs longer than this.

    `available`: the ingest route answers 2xx all the while (so no 5xx span beyond `refused_s`).
    """

    ready_s: float = 15.0
    lag_zero_s: float = 30.0
    answered_s: float = 3.0
    refused_s: float = 5.0
    degraded: bool = False
    restarts: bool = False


class Proxy(Protocol):
    """A TCP proxy of the drill's own between Chronicle and one server; every setting takes effect at once."""

    port: int

    def slow(self, *, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None: ...

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        ...

    def half_open(self) -> None:
        """Swallow everything both ways, on old and new connections: nobody is told."""
        ...

    def reset_once(self) -> None:
        """Reset the connections that are open now; new ones work."""
        ...

    def cut_after(self, marker: bytes) -> None:
        """Pass the next client bytes that hold `marker` on to the server, then reset that connection unanswered."""
        ...

    def heal(self) -> None: ...


class Unit(Protocol):
    """A server of the drill's own (Kafka, Postgres), stopped and started at will. All calls block."""

    @property
    def pid(self) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None:
        """In order."""
        ...

    def kill(self) -> None:
        """As a crash would: SIGKILL to all of it."""
        ...

    def pause(self) -> None:
        """SIGSTOP to all of it."""
        ...

    def resume(self) -> None: ...

    def running(self) -> bool: ...


class Points(Protocol):
    """Named points in Chronicle's code where a process can be made to stop (`CHRONICLE_FAULT_POINTS`)."""

    def arm(self, name: str, action: str = "kill") -> None:
        """The next process that passes `name` does `action`: kill (SIGKILL), stop (SIGSTOP), or sleep:SECONDS."""
        ...

    def disarm(self) -> None: ...

    def hits(self, name: str) -> int:
        """How often an armed point was passed."""
        ...


class Place(Protocol):
    """The real stack of `chronicle up` under a drill, with its own broker and database behind proxies."""

    kafka: Unit
    postgres: Unit
    kafka_proxy: Proxy
    postgres_proxy: Proxy
    points: Points
    state_dir: Path

    @property
    def url(self) -> str:
        """Of the ingest and API process."""
        ...

    @property
    def dsn(self) -> str:
        """Of Postgres itself, not through the proxy, as its owner."""
        ...

    @property
    def broker(self) -> str:
        """host:port of the broker as Chronicle sees it (through the proxy: that is what it advertises)."""
        ...

    @property
    def sqlite(self) -> Path: ...

    @property
    def topics(self) -> Mapping[str, str]:
        """Names by role: ingest, events, dead_letters, seen, aggregates, control."""
        ...

    def pids(self) -> Mapping[str, list[int]]:
        """Process ids of now, by role: `ingest` (one), `stream` (each)."""
        ...

    async def add_worker(self, name: str) -> int:
        """Start one more stream worker beside those of `up`; returns its pid."""
        ...

    async def remove_worker(self, name: str, *, kill: bool = False) -> None: ...

    async def stop_chronicle(self) -> None:
        """All of Chronicle's processes, in order; broker and database go on."""
        ...

    async def kill_chronicle(self) -> None:
        """SIGKILL to `up` and everything of Chronicle at once; broker and database go on."""
        ...

    async def start_chronicle(self) -> None:
        """Start it again on the same state and wait until it is ready."""
        ...

    async def ready(self) -> Mapping[str, object] | None:
        """The body of GET /ready; None when nothing answers."""
        ...

    async def lag(self) -> int:
        """Records on their way into a database (dedupe, persist), asked of the broker; -1 when it does not answer.

        What is not counted yet is no part of it: the history waits while Postgres is away, though nothing is lost.
        """
        ...

    async def worked_off(self) -> None:
        """Return when the spool is empty and all that is in the log now is stored, counted, and in the history.

        Polls for ever, so only while Postgres is there.
        """
        ...


@dataclass
class Findings:
    """What a fault found out by itself: `broken` holds sentences, `times` seconds by name."""

    broken: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)


class Fault(ABC):
    """One kind of fault. A class of the catalogue: `chaos.faults.catalogue()` lists them all.

    The runner calls `inject`, waits `hold_s`, calls `heal` (also when anything went wrong), waits until the place is
    ready and lag is 0, measures, and repeats that `hits` times. One instance is one round: it may keep what it did.
    """

    name: ClassVar[str]
    #: Rows of the fault table in docs/failure-modes.md that it proves, e.g. ("F14",).
    rows: ClassVar[tuple[str, ...]]
    #: One sentence: what is done.
    what: ClassVar[str]
    #: In the set of ten minutes, too.
    short: ClassVar[bool] = False
    hold_s: ClassVar[float] = 5.0
    hits: ClassVar[int] = 3
    #: False when acked records are taken out of the log: nothing can be said of other faults on the same place then.
    keeps_log: ClassVar[bool] = True
    #: False when the counters of the dedup table are lost: the loss ledger cannot add up on the same place then.
    keeps_counts: ClassVar[bool] = True
    #: False when what was readable is away for a while, as after a restore.
    keeps_readable: ClassVar[bool] = True
    #: True when state is destroyed that Chronicle must restore by itself, and `verify` looks whether it did (I14).
    loses_state: ClassVar[bool] = False
    expected: ClassVar[Expected] = Expected()

    @classmethod
    def alone(cls) -> bool:
        """Whether it needs a place of its own: it would hide what other faults do."""
        return not (cls.keeps_log and cls.keeps_counts and cls.keeps_readable)

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.found = Findings()

    def cannot(self, place: Place) -> str | None:
        """Why it cannot be done on this machine; None when it can. Said aloud in the report."""
        return None

    @abstractmethod
    async def inject(self, place: Place) -> bool:
        """Do it while the load runs. Returns whether it hit events under way (a marker, a lag, an open request)."""

    async def during(self, place: Place) -> None:  # noqa: B027  # most have nothing to look at
        """Look at what must hold while it lasts; called when `hold_s` is over and before `heal`. Adds to `found`."""

    @abstractmethod
    async def heal(self, place: Place) -> None:
        """Undo it, as an operator would."""

    async def verify(self, place: Place) -> None:  # noqa: B027
        """Look once more, when all is ready and lag is 0. Adds to `found`."""
