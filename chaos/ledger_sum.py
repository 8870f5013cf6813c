"""The ledger summed up by event, in columns: about 200 bytes an event, a million events fit into a small process."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from chaos.model import Outcome, Sent

#: Bytes of a digest that are kept: no two payloads of a run share them.
DIGEST = 16
#: Stands for an id that only the server knows, because its answer was lost.
FRESH = "fresh:"
_RANK = {Outcome.FAIL: 0, Outcome.UNKNOWN: 1, Outcome.OK: 2}
_OUTCOMES = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.OK)
_BAD, _WAS_UNKNOWN, _CONFLICT = 1, 2, 4


class Entry(NamedTuple):
    """One event of the ledger. `ok_at` is when its first 2xx came (epoch seconds; 0 where none came)."""

    event_id: str
    outcome: Outcome
    producer: str
    session: str
    seq: int
    ok_at: float
    bad: bool
    was_unknown: bool
    conflicting: bool


class Request(NamedTuple):
    """One request, however many events were in it. `status` is 0 where there was no answer."""

    at: float
    took: float
    status: int
    ok: bool
    bad: bool


@dataclass
class Requests:
    """All requests, in columns. `outcome` is the best of the request's events."""

    at: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("f"))
    status: array[int] = field(default_factory=lambda: array("H"))
    ok: bytearray = field(default_factory=bytearray)
    bad: bytearray = field(default_factory=bytearray)

    def __iter__(self) -> Iterator[Request]:
        columns = zip(self.at, self.took, self.status, self.ok, self.bad, strict=True)
        return (Request(at, took, status, bool(ok), bool(bad)) for at, took, status, ok, bad in columns)


class Summary:
    """The ledger by event: `add` every line, file after file, then ask. Events are numbered from 0 (slots)."""

    def __init__(self, lines: Iterable[Sent] = ()) -> None:
        self.slots: dict[bytes, int] = {}
        self.requests = Requests()
        #: Lines of events that were not meant to be refused, by what was answered; repeats and retries included.
        self.tries: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.ok_repeats = 0
        self._keys: list[bytes] = []
        self._digests = bytearray()
        self._outcome, self._flags = bytearray(), bytearray()
        self._names: dict[str, int] = {}
        self._name_list: list[str] = []
        self._producer, self._session, self._seq = array("L"), array("L"), array("L")
        self._ok_at = array("d")
        self._last: dict[str, float] = {}
        for line in lines:
            self.add(line)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, line: Sent) -> None:
        """Count one try."""
        key = key_of(line.event_id)
        digest = digest_of(line.sha256)
        slot = self.slots.get(key)
        if slot is None:
            slot = self._make(key, digest, line)
        rank = _RANK[line.outcome]
        self._outcome[slot] = max(self._outcome[slot], rank)
        flags = (line.kind == "bad") * _BAD | (line.outcome is Outcome.UNKNOWN) * _WAS_UNKNOWN
        self._flags[slot] |= flags | (self.digest(slot) != digest) * _CONFLICT
        if line.outcome is Outcome.OK and not self._ok_at[slot]:
            self._ok_at[slot] = line.at
        if line.kind != "bad":
            self.tries[line.outcome] += 1
            self.ok_repeats += line.repeat and line.outcome is Outcome.OK
        self._count_request(line)

    def digest(self, slot: int) -> bytes:
        """The first `DIGEST` bytes of SHA-256 of the payload that was sent first."""
        return bytes(self._digests[slot * DIGEST : (slot + 1) * DIGEST])

    def rank(self, slot: int) -> Outcome:
        """The final outcome: ok if any try was, else unknown if any was, else fail."""
        return _OUTCOMES[self._outcome[slot]]

    def bad(self, slot: int) -> bool:
        """Whether it was meant to be refused."""
        return bool(self._flags[slot] & _BAD)

    def entry(self, slot: int) -> Entry:
        """Everything known of one event."""
        flags = self._flags[slot]
        return Entry(
            event_id=text_of(self._keys[slot]),
            outcome=self.rank(slot),
            producer=self._name_list[self._producer[slot]],
            session=self._name_list[self._session[slot]],
            seq=self._seq[slot],
            ok_at=self._ok_at[slot],
            bad=bool(flags & _BAD),
            was_unknown=bool(flags & _WAS_UNKNOWN),
            conflicting=bool(flags & _CONFLICT),
        )

    def lane(self, slot: int) -> tuple[int, int, int]:
        """(producer, session, seq) as numbers: sorts events into the order in which each session was sent."""
        return self._producer[slot], self._session[slot], self._seq[slot]

    def session(self, slot: int) -> str:
        """Its session's id."""
        return self._name_list[self._session[slot]]

    def nameless(self, slot: int) -> bool:
        """Whether its id is one that only the server knows."""
        return self._keys[slot].startswith(FRESH.encode())

    def _make(self, key: bytes, digest: bytes, line: Sent) -> int:
        slot = self.slots[key] = len(self._keys)
        self._keys.append(key)
        self._digests += digest
        self._outcome.append(0)
        self._flags.append(0)
        self._producer.append(self._number(line.producer))
        self._session.append(self._number(line.session))
        self._seq.append(line.seq)
        self._ok_at.append(0.0)
        return slot

    def _number(self, name: str) -> int:
        if name not in self._names:
            self._names[name] = len(self._name_list)
            self._name_list.append(name)
        return self._names[name]

    def _count_request(self, line: Sent) -> None:
        """A bulk's lines share producer and time: they are one request."""
        requests, ok, bad = self.requests, line.outcome is Outcome.OK, line.kind == "bad"
        if self._last.get(line.producer) == line.at:
            requests.ok[-1] |= ok
            requests.bad[-1] &= bad
            return
        self._last[line.producer] = line.at
        requests.at.append(line.at)
        requests.took.append(line.took)
        requests.status.append(line.status or 0)
        requests.ok.append(ok)
        requests.bad.append(bad)


def key_of(event_id: str) -> bytes:
    """16 bytes of a UUID; anything else as its text."""
    try:
        return UUID(event_id).bytes
    except ValueError:
        return event_id.encode()


def text_of(key: bytes) -> str:
    """The other way round."""
    if key.startswith(FRESH.encode()):
        return key.decode()
    return str(UUID(bytes=key)) if len(key) == DIGEST else key.decode()


def digest_of(sha256: str) -> bytes:
    """The part of a hex digest that is kept."""
    return bytes.fromhex(sha256)[:DIGEST]
