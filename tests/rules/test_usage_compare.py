"""Counting again: equal tables are told as equal, and every kind of damage is found and mended."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import usage_events
from schemas.event import LoggedEvent, Position
from tables.usage import SECOND, Key, SessionUse, Usage, Value, advance
from tables.usage_apply import apply
from tables.usage_compare import SWEEP, Recount, compare, is_kept, mended
from usage_events import NOON

LATE = NOON * 2 * SECOND
ALL: Key = ("usage", "hour", NOON, "all", "")
logged = functools.partial(usage_events.logged, cwd="/p/shop")


class Live:
    """Tables as the stream keeps them."""

    def __init__(self) -> None:
        self.values: dict[Key, Value] = {}
        self.newest = 0

    def take(self, events: Sequence[LoggedEvent]) -> None:
        self.newest = advance(self.newest, events, LATE)
        self.values.update(apply(events, lambda keys: [copy.deepcopy(self.values.get(k)) for k in keys], self.newest))


def recounted(newest: int, events: Sequence[LoggedEvent], size: int = 3) -> Recount:
    recount = Recount(newest)
    for at in range(0, len(events), size):
        recount.take(events[at : at + size])
    return recount


CALL: dict[str, Any] = {"tool_name": "Bash", "tool_use_id": "t1"}
EVENTS = [logged(1), logged(2, "tool_pre_use", **CALL), logged(3, "tool_post_use", NOON + 2, **CALL), logged(4)]


@pytest.fixture
def live() -> Live:
    made = Live()
    made.take(EVENTS)
    return made


def test_tables_that_are_right_are_equal(live: Live) -> None:
    """Every key is compared, sessions and names among them."""
    found = compare(0, live.values, recounted(live.newest, EVENTS), whole=True)
    assert (found.keys, found.ahead, found.differences) == (len(live.values), 0, [])


@pytest.mark.parametrize("damage", ["count", "missing", "too many", "names", "position"])
def test_damage_is_found_and_mended(live: Live, damage: str) -> None:
    """A wrong count, a key that is gone, one that should not be there, a lost name, a wrong position."""
    extra: Key = ("usage", "hour", NOON, "project", "nobody")
    value = live.values[ALL]
    assert isinstance(value, Usage)
    if damage == "count":
        value.events["user_prompt"] += 1
    elif damage == "missing":
        del live.values[ALL]
    elif damage == "too many":
        live.values[extra] = Usage(at=3, events={"x": 1})
    elif damage == "names":
        del live.values["names", "project"]
    else:
        value.at += 100
    recount = recounted(live.newest, EVENTS)
    found = compare(0, live.values, recount, whole=True)
    assert len(found.differences) == 1
    gone, values = mended(found.differences, 77)
    assert gone == ([extra] if damage == "too many" else [])
    assert all(one.generation == 77 for one in values.values())
    after = {key: one for key, one in {**live.values, **values}.items() if key not in gone}
    assert not compare(0, after, recount, whole=True).differences


def test_what_goes_on_after_a_rebuild_keeps_its_generation(live: Live) -> None:
    """So that the history takes it, too."""
    for key, value in live.values.items():
        live.values[key] = msgspec.structs.replace(value, generation=77)
    live.take([logged(5)])
    assert live.values[ALL].generation == 77
    assert not compare(0, live.values, recounted(live.newest, [*EVENTS, logged(5)]), whole=True).differences


def test_a_value_that_counts_later_events_says_nothing_yet(live: Live) -> None:
    """It is told as ahead; where the stream stands still it is compared."""
    live.take([logged(5)])
    recount = recounted(live.newest, EVENTS)
    found = compare(0, live.values, recount, whole=False)
    assert found.differences == []
    assert found.ahead > 0
    assert compare(0, live.values, recount, whole=True).differences


def test_what_is_no_longer_kept_is_not_compared(live: Live) -> None:
    """Whether its tombstone has come or not."""
    later = [logged(9, at=NOON + 30 * 3600)]
    live.take(later)
    minutes = [key for key in live.values if key[1] == "minute" and int(key[2]) < NOON + 3600]
    assert minutes
    recount = recounted(live.newest, [*EVENTS, *later])
    assert not compare(0, live.values, recount, whole=True).differences
    for key in minutes:
        del live.values[key]
    assert not compare(0, live.values, recount, whole=True).differences
    assert not is_kept(("session", "s"), SessionUse(last=NOON * SECOND), (NOON + 37 * 86_400) * SECOND)
    assert is_kept(("session", "s"), SessionUse(last=NOON * SECOND), (NOON + 34 * 86_400) * SECOND)


def test_records_of_others_are_counted_by_their_own_offset(live: Live) -> None:
    """They come last when counted again, and make no difference by that."""
    foreign = msgspec.structs.replace(logged(900), ingest=Position(-1, 900))
    live.take([foreign, logged(5)])
    found = compare(0, live.values, recounted(live.newest, [*EVENTS, logged(5), foreign]), whole=False)
    assert (found.differences, found.ahead) == ([], 0)


def test_sessions_that_are_long_over_are_not_held(live: Live) -> None:
    """Memory is bounded by what the live tables hold."""
    recount = Recount((NOON + 100 * 86_400) * SECOND)
    recount.take([logged(0, session_id="old")])
    recount._swept = recount.events - SWEEP  # as if so many had been counted since
    recount.take([logged(1, at=NOON + 99 * 86_400)])
    assert ("session", "old") not in recount.values
    assert ("session", "s") in recount.values


_MADE = st.lists(
    st.tuples(
        st.sampled_from(["tool_pre_use", "tool_post_use", "user_prompt"]),
        st.integers(0, 40 * 3600),
        st.sampled_from(["s", "other"]),
        st.sampled_from(["t1", "t2"]),
        st.sampled_from([None, "/p/shop", "/p/blog"]),
    ),
    min_size=1,
    max_size=30,
)


@given(_MADE, st.integers(1, 7), st.integers(1, 7))
def test_counting_again_gives_what_is_kept_live(made: list[tuple[Any, ...]], one: int, other: int) -> None:
    """Late events, buckets that go, chunks of any size: what both keep is equal."""
    events = [
        logged(n, kind, NOON + at, session_id=who, tool_use_id=call, tool_name="Bash", cwd=cwd)
        for n, (kind, at, who, call, cwd) in enumerate(made)
    ]
    live = Live()
    for at in range(0, len(events), one):
        live.take(events[at : at + one])
    assert not compare(0, live.values, recounted(live.newest, events, other), whole=True).differences
