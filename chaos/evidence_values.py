"""What was found after a run, as values. Rows are kept in columns of about 60 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaos.ledger_sum import DIGEST


class Row(NamedTuple):
    """One row of `events`. `key` is the id's 16 bytes, `digest` as in the ledger; places are (partition, offset)."""

    key: bytes
    digest: bytes
    session: str
    ingest_partition: int
    ingest_offset: int
    events_offset: int


class Rows:
    """Rows of `events`, in columns."""

    def __init__(self) -> None:
        self._keys, self._digests = bytearray(), bytearray()
        self._sessions: dict[str, int] = {}
        self._session, self._partition = array("L"), array("l")
        self._ingest, self._events = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._partition)

    def add(self, row: Row) -> None:
        """Append one."""
        self._keys += row.key
        self._digests += row.digest
        self._session.append(self._sessions.setdefault(row.session, len(self._sessions)))
        self._partition.append(row.ingest_partition)
        self._ingest.append(row.ingest_offset)
        self._events.append(row.events_offset)

    def __iter__(self) -> Iterator[Row]:
        names = list(self._sessions)
        for at in range(len(self)):
            start, end = at * DIGEST, (at + 1) * DIGEST
            yield Row(
                bytes(self._keys[start:end]),
                bytes(self._digests[start:end]),
                names[self._session[at]],
                self._partition[at],
                self._ingest[at],
                self._events[at],
            )


class Letter(NamedTuple):
    """A dead letter, from the table or the topic. `event_id` is "" where none could be read."""

    topic: str
    partition: int
    offset: int
    cause: str
    event_id: str
    session: str
    resolved: bool = False
    has_bytes: bool = True

    @property
    def place(self) -> tuple[str, int, int]:
        """Where it was read: what makes it itself."""
        return self.topic, self.partition, self.offset


@dataclass
class Index:
    """An index of Postgres."""

    table: str
    unique: bool
    valid: bool


@dataclass
class Store:
    """What Postgres holds. `progress`: partition -> (next offset, rows stored ever); `wrong_sessions` name sessions
    whose roll-up is not what their events give, with both counts; `repeats` are those that only the primary key found,
    as (partition, session)."""

    rows: Rows = field(default_factory=Rows)
    letters: list[Letter] = field(default_factory=list)
    duplicates: int = 0
    repeats: list[tuple[int, str]] = field(default_factory=list)
    progress: dict[int, tuple[int, int]] = field(default_factory=dict)
    wrong_sessions: list[str] = field(default_factory=list)
    sync_runs: int = 0
    unverified_syncs: int = 0
    indexes: dict[str, Index] = field(default_factory=dict)


@dataclass
class Local:
    """What SQLite still owes to Postgres. `pending` are ids (the first ones), `ranges` (partition, start, end)."""

    count: int = 0
    pending: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int, int]] = field(default_factory=list)
    letters: int = 0
    trouble: str = ""


@dataclass
class Recounted:
    """What `chronicle aggregates verify --json` ended with: its exit code (0 equal, 1 different, 2 not comparable; -1
    when it gave no answer), its report ({} when it made none), the end of what it said beside it."""

    code: int
    report: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""


Offsets = Mapping[int, int]
#: Role of a consumer group -> role of the topic that it works off.
READS: Mapping[str, str] = {"dedupe": "ingest", "persist": "events", "aggregate": "events", "history": "aggregates"}


@dataclass
class Log:
    """The topics: ends by role of topic, commits by role of group (`READS`).

    `letters` are those in the topic of dead letters; `passed` are the ids in `chronicle.events`, one for each record,
    with the offset in place of `events_offset` (empty where the topic was not read).
    """

    ends: dict[str, Offsets] = field(default_factory=dict)
    committed: dict[str, Offsets] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    passed: Rows = field(default_factory=Rows)
    passed_read: bool = False


@dataclass(frozen=True)
class Sample:
    """One look at a process, from /proc. `at` is epoch seconds, `rss` bytes."""

    role: str
    pid: int
    at: float
    rss: int
    fds: int
    threads: int


@dataclass
class Evidence:
    """Everything that was found. `stats` and `ready` are the bodies of these routes; `metrics` line -> value.
    `recounted` is None when nobody asked."""

    postgres: Store = field(default_factory=Store)
    sqlite: Local = field(default_factory=Local)
    log: Log = field(default_factory=Log)
    stats: Mapping[str, object] = field(default_factory=dict)
    ready: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    recounted: Recounted | None = None
