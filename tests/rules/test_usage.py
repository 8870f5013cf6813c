"""The aggregate tables: what an event counts under, and that no replay, cut or crash counts anything twice."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import LoggedEvent, Position
from tables.histogram import quantile
from tables.usage import (
    GRAINS,
    MAX_OPEN,
    MAX_SESSIONS,
    MAX_TYPES,
    OTHER,
    Key,
    Names,
    SessionUse,
    ToolUse,
    Usage,
    Value,
    advance,
    floors,
    keys,
    mark,
)
from tables.usage_apply import apply
from tables.usage_compare import is_kept
from tables.usage_names import LIMITS, MAX_PROJECTS, MAX_TOOL_NAMES, NAMES_KEPT
from usage_events import NOON, SECOND, logged


class Store:
    """Values as a store gives them: every lookup a copy of its own."""

    def __init__(self, limits: Mapping[str, int] = LIMITS) -> None:
        self.values: dict[Key, Value] = {}
        self.newest = 0
        self.limits = limits

    def lookup(self, wanted: Sequence[Key]) -> list[Value | None]:
        return [copy.deepcopy(self.values.get(key)) for key in wanted]

    def take(self, events: Sequence[LoggedEvent], crash_after: int | None = None) -> None:
        """Apply a chunk; `crash_after` writes get down, in order."""
        self.newest = advance(self.newest, events, NOON * SECOND * 2)
        changed = list(apply(events, self.lookup, self.newest, self.limits).items())
        self.values.update(changed[:crash_after])


def kept(store: Store) -> dict[Key, Value]:
    """Without the buckets that are too old by now: which of them were ever counted depends on the chunks."""
    return {key: value for key, value in store.values.items() if is_kept(key, value, store.newest)}


@pytest.fixture
def store() -> Store:
    return Store()


def usage(store: Store, grain: str = "minute", bucket: int = NOON, dimension: str = "all", value: str = "") -> Usage:
    found = store.values["usage", grain, bucket, dimension, value]
    assert isinstance(found, Usage)
    return found


def tool(store: Store, name: str, grain: str = "hour") -> ToolUse:
    found = store.values["tools", grain, NOON, "all", "", name]
    assert isinstance(found, ToolUse)
    return found


def session(store: Store, name: str = "s") -> SessionUse:
    found = store.values["session", name]
    assert isinstance(found, SessionUse)
    return found


def test_an_event_counts_in_its_minute_hour_and_day(store: Store) -> None:
    """By type, whenever it arrives: the time of the event decides."""
    store.take([logged(1, at=NOON + 61), logged(2, "notification", at=NOON + 62), logged(3, at=NOON - 1)])
    assert usage(store, "minute", NOON + 60).events == {"user_prompt": 1, "notification": 1}
    assert usage(store, "hour", NOON).events == {"user_prompt": 1, "notification": 1}
    assert usage(store, "minute", NOON - 60).events == {"user_prompt": 1}
    assert usage(store, "day", NOON - 12 * 3600).events == {"user_prompt": 2, "notification": 1}


def test_each_dimension_that_is_known_has_its_own_count(store: Store) -> None:
    """Project by the working directory, machine by the metadata, sub-agent by its type."""
    store.take([logged(1, cwd="/home/ann/shop", agent_type="Explore", metadata='{"machine":"ada"}'), logged(2)])
    for dimension, value in (("project", "shop"), ("agent", "Explore"), ("machine", "ada")):
        assert usage(store, dimension=dimension, value=value).events == {"user_prompt": 1}
    assert usage(store).events == {"user_prompt": 2}


@pytest.mark.parametrize(
    "metadata", ['{"machine":5}', '{"machine":""}', "[]", '{"machine":null,"other":1}', "not json"]
)
def test_metadata_that_names_no_machine_counts_for_none(metadata: str) -> None:
    """Whatever clients put there."""
    assert not [key for key in keys(logged(1, metadata=metadata).event, NOON * SECOND) if "machine" in key]


def test_sessions_of_a_bucket_are_counted_once_each(store: Store) -> None:
    """However many events they have; a reader adds buckets up by uniting them."""
    store.take([logged(n, session_id=f"s{n % 3}") for n in range(12)])
    assert usage(store).sessions == {mark("s0"), mark("s1"), mark("s2")}


def test_a_call_lasts_from_its_pre_to_its_post(store: Store) -> None:
    """Also over chunks; what began is open until then."""
    call = {"tool_name": "Bash", "tool_use_id": "t1"}
    store.take([logged(1, "tool_pre_use", NOON, **call)])
    assert session(store).open == {"t1": NOON * SECOND}
    store.take([logged(2, "tool_post_use", NOON + 2, **call)])
    assert session(store).open == {}
    assert session(store).tools == {"Bash": [1, 0]}
    found = tool(store, "Bash")
    assert (found.calls, found.failures) == (1, 0)
    assert quantile(found.durations, 0.5) == pytest.approx(2000, rel=0.045)


def test_a_failure_is_a_call_too_and_an_unknown_begin_has_no_duration(store: Store) -> None:
    """Counted, and left out of the times."""
    store.take([logged(1, "post_tool_use_failure", tool_name="Edit", tool_use_id="t9"), logged(2, "tool_post_use")])
    assert (tool(store, "Edit").calls, tool(store, "Edit").failures, tool(store, "Edit").durations) == (1, 1, {})
    assert tool(store, OTHER).calls == 1


def test_a_session_tells_its_prompts_agents_and_files(store: Store) -> None:
    """A file counts when the call that wrote it has ended."""
    payload = '{"tool_input":{"file_path":"/home/ann/shop/a.py"}}'
    store.take(
        [
            logged(1, at=NOON),
            logged(2, "tool_post_use", NOON + 5, tool_name="Edit", payload=payload, agent_id="a1"),
            logged(3, "tool_post_use", NOON + 3, tool_name="Read", payload=payload),
            logged(4, "tool_post_use", NOON + 4, tool_name="Write", payload='{"tool_input":"?"}'),
        ]
    )
    found = session(store)
    assert (found.prompts, found.agents, found.files) == (1, {"a1"}, {"/home/ann/shop/a.py"})
    assert (found.first, found.last) == (NOON * SECOND, (NOON + 5) * SECOND)


def test_a_suspected_duplicate_counts_nowhere(store: Store) -> None:
    """It is probably the same event, reported by a second installation."""
    store.take([logged(1), logged(2, suspected_duplicate_of=UUID(int=1))])
    assert usage(store).events == {"user_prompt": 1}


def test_what_is_older_than_a_grain_is_kept_counts_in_the_others(store: Store) -> None:
    """A client that was offline for a week changes its day, not a minute that nobody has any more."""
    store.take([logged(1), logged(2, at=NOON - 7 * 86400)])
    grains = {key[1] for key in store.values if key[0] == "usage" and int(key[2]) < NOON - 86400}
    assert grains == {"hour", "day"}


def test_one_event_from_next_year_ends_no_bucket() -> None:
    """The newest time never runs ahead of the clock."""
    assert advance(5, [logged(1, at=NOON * 2)], NOON * SECOND) == NOON * SECOND
    assert advance(NOON * SECOND, [logged(1, at=NOON - 1)], NOON * SECOND * 2) == NOON * SECOND
    assert advance(7, [], NOON) == 7


def test_a_bucket_is_kept_until_the_whole_of_it_is_too_old() -> None:
    """The floor is where `keys` begins to pass buckets over."""
    _, kept = GRAINS["minute"]
    for seconds, there in ((kept + 59, True), (kept + 60, False)):
        newest = (NOON + seconds) * SECOND
        assert (floors(newest)["usage", "minute"] <= NOON) is there
        assert (("usage", "minute", NOON, "all", "") in keys(logged(1).event, newest)) is there


def test_a_record_of_somebody_else_is_counted_by_its_own_offset(store: Store) -> None:
    """It has no place in the ingest topic, and its offsets are of another topic."""
    foreign = [msgspec.structs.replace(logged(n), ingest=Position(-1, n)) for n in (3, 900)]
    store.take([logged(500), foreign[0], foreign[1], logged(501)])
    store.take([foreign[0], logged(501), logged(502)])
    assert usage(store).events == {"user_prompt": 5}


def test_what_clients_can_make_many_of_is_bounded(store: Store) -> None:
    """Types, open calls, sessions of a bucket."""
    store.take([logged(n, f"type_{n}") for n in range(MAX_TYPES + 5)])
    assert len(usage(store).events) == MAX_TYPES + 1
    assert usage(store).events[OTHER] == 5
    calls = [logged(1000 + n, "tool_pre_use", tool_use_id=f"t{n}") for n in range(MAX_OPEN + 5)]
    store.take(calls)
    assert len(session(store).open) == MAX_OPEN
    assert "t0" not in session(store).open
    store.take([logged(5000 + n, session_id=f"s{n}", at=NOON + 600) for n in range(MAX_SESSIONS + 1)])
    full = usage(store, bucket=NOON + 600)
    assert (len(full.sessions), full.more) == (MAX_SESSIONS, True)


def names(store: Store, dimension: str) -> Mapping[str, int]:
    found = store.values["names", dimension]
    assert isinstance(found, Names)
    return found.names


def test_names_beyond_the_bound_count_as_other(store: Store) -> None:
    """Projects and tools of a partition; the sum is right all the same."""
    store.take([logged(n, cwd=f"/p/project-{n}") for n in range(MAX_PROJECTS + 7)])
    assert len(names(store, "project")) == MAX_PROJECTS
    assert usage(store, dimension="project", value=OTHER).events == {"user_prompt": 7}
    assert ("usage", "minute", NOON, "project", f"project-{MAX_PROJECTS}") not in store.values
    store.take([logged(1000 + n, "tool_post_use", tool_name=f"tool-{n}") for n in range(MAX_TOOL_NAMES + 3)])
    assert tool(store, OTHER).calls == 3
    assert usage(store).events == {"user_prompt": MAX_PROJECTS + 7, "tool_post_use": MAX_TOOL_NAMES + 3}


def test_a_name_nobody_has_used_for_long_makes_room(store: Store) -> None:
    """By the day the server took events in; one that is still used stays."""
    store.take([logged(n, cwd=f"/p/project-{n}") for n in range(MAX_PROJECTS)])
    later = (NOON + (NAMES_KEPT + 1) * 86_400) * SECOND
    store.take([logged(1000, cwd="/p/project-3", received_at=later - 86_400 * SECOND)])
    store.take([logged(1001, cwd="/p/new", received_at=later)])
    assert set(names(store, "project")) == {"project-3", "new"}


def test_an_event_from_next_year_makes_no_room(store: Store) -> None:
    """Clients may say any time; the server's clock counts."""
    store.take([logged(n, cwd=f"/p/project-{n}") for n in range(MAX_PROJECTS)])
    store.take([logged(1000, cwd="/p/new", at=NOON + 10_000 * 86_400, received_at=NOON * SECOND)])
    assert len(names(store, "project")) == MAX_PROJECTS
    assert "new" not in names(store, "project")


def test_names_are_written_after_all_else_and_only_when_they_change(store: Store) -> None:
    """A replay finds them as they were, or finds everything counted."""
    changed = list(apply([logged(1, cwd="/p/shop")], store.lookup, NOON * SECOND))
    assert [key[0] for key in changed[-2:]] == ["session", "names"]
    store.take([logged(1, cwd="/p/shop")])
    assert ("names", "project") not in apply([logged(2, cwd="/p/shop")], store.lookup, NOON * SECOND)


def test_values_survive_being_written_down() -> None:
    """As JSON, which is what consumers of the topic read."""
    value = ToolUse(at=5, calls=2, failures=1, durations={-3: 1, 80: 1})
    assert msgspec.json.decode(msgspec.json.encode(value), type=ToolUse) == value


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["tool_pre_use", "tool_post_use", "post_tool_use_failure", "user_prompt"]),
        st.integers(0, 200),
        st.sampled_from(["s", "other"]),
        st.sampled_from(["t1", "t2", "t3"]),
        st.sampled_from([None, "/p/shop"]),
    ),
    min_size=1,
    max_size=40,
)


@given(_EVENTS, st.data())
def test_no_cut_replay_or_crash_changes_the_values(made: list[tuple[Any, ...]], data: st.DataObject) -> None:
    """Chunks of any size, some written only in part and then delivered again from an earlier offset on."""
    events = [
        logged(n, kind, NOON + at, session_id=who, tool_use_id=call, tool_name="Bash", cwd=cwd)
        for n, (kind, at, who, call, cwd) in enumerate(made)
    ]
    at_once, stepwise = Store(), Store()
    at_once.take(events)
    at = 0
    while at < len(events):
        chunk = events[at : at + data.draw(st.integers(1, 10))]
        if data.draw(st.booleans()):
            stepwise.take(chunk, crash_after=data.draw(st.integers(0, 30)))
        else:
            stepwise.take(chunk)
            at += len(chunk)
            if data.draw(st.booleans()):
                at = max(0, at - data.draw(st.integers(0, 5)))
        if data.draw(st.integers(0, 50)) == 0:
            break
    stepwise.take(events[at:])
    assert stepwise.values == at_once.values


@pytest.mark.parametrize(
    "events",
    [
        [logged(9_000 + n, f"type_{n % 230}", at=NOON + 40 * (n % 7)) for n in range(400)],
        [logged(9_000 + n, session_id=f"s{n % 2600}", at=NOON + 40 * (n % 5)) for n in range(2_900)],
        [
            logged(9_000 + n, cwd=f"/p/{n % 520}", at=NOON + n, received_at=(NOON + n * 90_000 % 40_000_000) * SECOND)
            for n in range(900)
        ],
    ],
    ids=["more types", "more sessions", "more projects, over days"],
)
def test_a_chunk_counts_as_its_events_one_by_one_do(events: list[LoggedEvent]) -> None:
    """Also where there are more names than are told apart, and it matters which come first."""
    whole, alone = Store(), Store()
    for store in (whole, alone):
        store.take([logged(n, session_id=f"before-{n}") for n in range(2_600)])
    whole.take(events)
    for event in events:
        alone.take([event])
    assert kept(whole) == kept(alone)


FEW = dict.fromkeys(LIMITS, 2)
ONE = dict.fromkeys(LIMITS, 1)

_NAMED = st.lists(
    st.tuples(
        st.sampled_from(["user_prompt", "tool_pre_use", "tool_post_use"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([None, "ada", "bob", "eve"]),
        st.sampled_from(["Bash", "Edit", "Read"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
)


@given(_NAMED, st.data())
def test_no_replay_changes_the_values_where_names_are_full(made: list[tuple[Any, ...]], data: st.DataObject) -> None:
    """Names fill up, get old and make room between a write that got down in part and its repetition."""
    day, events = 0, list[LoggedEvent]()
    for n, (kind, project, machine, name, step) in enumerate(made):
        day += step * 150
        more: dict[str, Any] = {"metadata": f'{{"machine":"{machine}"}}'} if machine else {}
        received = (NOON + day * 86_400) * SECOND
        events.append(logged(n, kind, cwd=f"/p/{project}", tool_name=name, received_at=received, **more))
    at_once, stepwise = Store(FEW), Store(FEW)
    at_once.take(events)
    at = 0
    while at < len(events):
        chunk = events[at : at + data.draw(st.integers(1, 8))]
        if data.draw(st.integers(0, 2)) == 0:
            stepwise.take(chunk, crash_after=data.draw(st.integers(0, 40)))
        else:
            stepwise.take(chunk)
            at += len(chunk)
        if data.draw(st.integers(0, 3)) == 0:
            at = max(0, at - data.draw(st.integers(0, 6)))
        if data.draw(st.integers(0, 50)) == 0:
            break
    stepwise.take(events[at:])
    assert kept(stepwise) == kept(at_once)


@given(_NAMED)
def test_any_prefix_that_comes_again_leaves_equal_tables(made: list[tuple[Any, ...]]) -> None:
    """Also when more names came than are told apart."""
    events = [
        logged(n, kind, cwd=f"/p/{project}", tool_name=name, received_at=(NOON + step * 300 * 86_400) * SECOND)
        for n, (kind, project, _, name, step) in enumerate(made)
    ]
    store = Store(ONE)
    store.take(events)
    before = copy.deepcopy(store.values)
    for end in range(1, len(events) + 1):
        store.take(events[:end])
    assert store.values == before
