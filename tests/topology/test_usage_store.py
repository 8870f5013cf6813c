"""One partition of the aggregate tables on a real RocksDB: what is written is what is restored, and old keys go."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tables.rocks import Closed
from tables.usage import SECOND, SESSION_KEPT, Key, SessionUse, ToolUse, Usage, Value
from tables.usage_codec import CLOCK, NewestTime, pack, pack_key, unpack
from tables.usage_store import UsageStore

NOON = 1_763_726_400
HOUR: Key = ("usage", "hour", NOON, "project", "shop \N{SNOWMAN}")
TOOL: Key = ("tools", "minute", NOON, "all", "", "Bash")
SESSION: Key = ("session", 'one "with" quotes')

Change = tuple[int, bytes, bytes | None]


def values() -> dict[Key, Value]:
    return {
        HOUR: Usage(at=7, events={"user_prompt": 2}, sessions={1, 1 << 47}),
        TOOL: ToolUse(at=7, calls=3, failures=1, durations={-80: 1, 90: 2}),
        SESSION: SessionUse(at=7, first=1, last=NOON * SECOND, tools={"Bash": [3, 1]}, open={"t": 5}, files={"a"}),
    }


class Writer:
    """Writes as the agent does and keeps the changelog."""

    def __init__(self, path: Path) -> None:
        self.store = UsageStore.open(path)
        self.changelog: list[Change] = []
        self._offsets = count()

    def write(self, changed: dict[Key, Value], newest: int = NOON * SECOND) -> None:
        records: list[Change] = [(next(self._offsets), pack_key(key), pack(value)) for key, value in changed.items()]
        records.append((next(self._offsets), pack_key(CLOCK), pack(NewestTime(newest))))
        self._apply(records)

    def drop(self, keys: list[bytes]) -> None:
        self._apply([(next(self._offsets), key, None) for key in keys])

    def _apply(self, records: list[Change]) -> None:
        self.changelog += records
        self.store.apply(records)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "usage" / "0")
    yield made
    made.store.close()


def test_values_outlive_a_restart(writer: Writer, tmp_path: Path) -> None:
    """With the offset they stand for and the newest time."""
    writer.write(values())
    writer.store.close()
    again = UsageStore.open(tmp_path / "usage" / "0")
    assert dict(again.items()) == values()
    assert again.lookup([TOOL, ("session", "nobody"), SESSION]) == [values()[TOOL], None, values()[SESSION]]
    assert (again.persisted, again.newest) == (3, NOON * SECOND)
    again.close()


def test_a_store_restored_from_the_changelog_equals_the_lost_one(writer: Writer, tmp_path: Path) -> None:
    """Also when records come twice, as after a crash in the middle of restoring."""
    writer.write(values())
    writer.write({TOOL: ToolUse(at=9, calls=4)})
    restored = UsageStore.open(tmp_path / "restored")
    restored.apply(writer.changelog[:3])
    restored.apply(writer.changelog)
    assert dict(restored.items()) == dict(writer.store.items())
    assert (restored.persisted, restored.newest) == (writer.store.persisted, writer.store.newest)
    restored.close()


def test_old_buckets_and_sessions_want_a_tombstone_and_are_gone_after_it(writer: Writer) -> None:
    """Each grain has its own time; a session that went on stays."""
    went_on: Key = ("session", "went on")
    writer.write({**values(), went_on: SessionUse(last=NOON * SECOND)})
    assert writer.store.expired(writer.store.newest, 10) == []
    later = NOON * SECOND + (SESSION_KEPT + 2 * 86_400) * SECOND
    writer.write({went_on: SessionUse(last=later)}, newest=later)
    found = writer.store.expired(writer.store.newest, 10)
    assert [unpack(key, b"{}")[0] if key.startswith(b'["s') else key for key in found[:2]] == [
        pack_key(HOUR),
        pack_key(TOOL),
    ]
    assert found[2:] == [pack_key(SESSION)]
    writer.drop(found)
    assert set(dict(writer.store.items())) == {went_on}
    assert writer.store.expired(writer.store.newest, 10) == []


def test_expired_keys_come_in_portions(writer: Writer) -> None:
    """A worker that was away for long does not send a million tombstones at once."""
    writer.write({("usage", "minute", NOON + 60 * n, "all", ""): Usage() for n in range(50)})
    writer.write({}, newest=(NOON + 7 * 86_400) * SECOND)
    assert len(writer.store.expired(writer.store.newest, 20)) == 20


def test_what_is_no_record_of_ours_is_stepped_over(writer: Writer) -> None:
    """Anybody may produce into a topic; restoring must come to its end."""
    writer.write(values())
    for key, value in ((b"junk", b"{}"), (b'["other"]', b"{}"), (pack_key(TOOL), b"junk"), (b"[]", b"{}")):
        writer.store.apply([(99, key, value)])
    assert dict(writer.store.items()) == values()
    assert writer.store.persisted == 99


def test_a_closed_store_says_so(writer: Writer) -> None:
    """The partition belongs to somebody else now."""
    writer.store.close()
    with pytest.raises(Closed):
        writer.store.lookup([TOOL])
    with pytest.raises(Closed):
        writer.store.apply([])
