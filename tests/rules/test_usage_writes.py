"""What a batch writes is bounded as decision 0009 says: records by its events, values by the limits of the tables."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agents.aggregate import output
from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position
from tables import usage
from tables.usage import SECOND, Names, SessionUse, Usage
from tables.usage_apply import apply
from tables.usage_codec import pack
from tables.usage_names import LIMITS

NOON = 1_763_726_400 * SECOND
#: `max.message.bytes` of the topics, with room for key and headers.
FITS = (2 << 20) - (16 << 10)
#: What JSON makes of one control character.
WORST = 6
MACHINE = '{"machine":"m"}'


def logged(number: int, **fields: Any) -> LoggedEvent:
    event = HookEvent(
        event_id=UUID(int=number),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.FRESH,
        event_type="tool_post_use",
        occurred_at=NOON,
        received_at=NOON,
        source="test",
        payload="{}",
        **fields,
    )
    return LoggedEvent(event=event, ingest=Position(0, number), events=Position(0, number), value=b"")


def test_an_event_writes_its_counts_its_session_and_the_names_that_are_new() -> None:
    """However many sessions live: of keys that no event touched nothing is written."""
    one = {
        "session_id": "s",
        "cwd": "/p/a",
        "agent_type": "Explore",
        "tool_name": "Bash",
        "metadata": MACHINE,
    }
    values = apply([logged(1, **one)], lambda keys: [None] * len(keys), NOON)
    counts = {key: value for key, value in values.items() if key[0] != "names"}
    assert len(counts) == 3 * (1 + 3) + 3 * (1 + 1) + 1
    assert len(output(values, NOON, 0)) == len(counts) + 4 + 1


def test_a_batch_writes_each_key_once() -> None:
    """Two thousand events of one session, project and minute: as many records as one event has, but one tool more."""
    many = [logged(n, session_id="s", cwd="/p/a", tool_name=("Bash", "Edit")[n % 2]) for n in range(2_000)]
    values = apply(many, lambda keys: [None] * len(keys), NOON)
    assert len([key for key in values if key[0] != "names"]) == 3 * 2 + 3 * 2 * 2 + 1


def wide(count: int, length: int) -> list[str]:
    """Different texts of which every character is escaped."""
    return [f"{number:05}" + "\x01" * (length - 5) for number in range(count)]


def test_the_largest_values_fit_into_a_record() -> None:
    """A value that did not would stop its partition for ever."""
    session = SessionUse(
        first=NOON,
        last=NOON,
        events=dict.fromkeys(wide(usage.MAX_TYPES + 1, 100), 10**9),
        tools={name: [10**9, 10**9] for name in wide(usage.MAX_TOOLS + 1, 255)},
        agents=set(wide(usage.MAX_FILES, 255)),
        files=set(wide(usage.MAX_FILES, 512)),
        open=dict.fromkeys(wide(usage.MAX_OPEN, 255), NOON),
    )
    counts = Usage(
        events=dict.fromkeys(wide(usage.MAX_TYPES + 1, 100), 10**9), sessions=set(range(2**48 - 5_000, 2**48))
    )
    names = Names(names=dict.fromkeys(wide(max(LIMITS.values()), 255), 20_000))
    sizes = [len(pack(value)) for value in (session, counts, names)]
    assert max(sizes) < FITS, sizes
    assert sizes[0] > 200 * 512 * (WORST - 1)
