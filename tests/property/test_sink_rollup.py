"""The session roll-up: any order, any cut, the same row."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from connectors.rollup import Delta, fold, merge
from schemas.event import LoggedEvent
from schemas.facts import project_of
from sink_events import logged

KINDS = ["session_start", "session_end", "user_prompt", "tool_pre_use", "tool_post_use", "session_stop"]
PAYLOADS = [
    "{}",
    "not json",
    '{"git_branch": "main"}',
    '{"git_commit": "1\\u0000"}',
    '{"reason": "error"}',
    '{"status": 7}',
]


def event(n: int, kind: str, at: int, payload: str, cwd: str | None, source: str, metadata: str) -> LoggedEvent:
    told = {"payload": payload, "cwd": cwd, "source": source, "metadata": metadata}
    return logged(n, session_id="s", event_type=kind, occurred_at=at, **told)


EVENTS = st.lists(
    st.builds(
        event,
        st.integers(0, 1 << 40),
        st.sampled_from(KINDS),
        st.integers(-3, 3),
        st.sampled_from(PAYLOADS),
        st.sampled_from([None, "/a", "/b/c"]),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["{}", '{"machine": "ada"}', '{"hostname": "bob"}', '{"machine": 7}']),
    ),
    min_size=1,
    max_size=12,
)


@given(EVENTS, st.randoms(use_true_random=False))
def test_merging_single_events_in_any_order_is_folding_them_all(events: list[LoggedEvent], chance: object) -> None:
    """Commutative and associative, so replays in other batches give the same session."""
    whole = fold(events)[0]
    shuffled = list(events)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert reduce(merge, [fold([one])[0] for one in shuffled]) == whole


@given(EVENTS, EVENTS, EVENTS)
def test_merge_is_associative(a: list[LoggedEvent], b: list[LoggedEvent], c: list[LoggedEvent]) -> None:
    """However the batches were cut."""
    x, y, z = (fold(events)[0] for events in (a, b, c))
    assert merge(merge(x, y), z) == merge(x, merge(y, z))


@given(EVENTS)
def test_an_ended_session_has_an_end_and_an_active_one_has_none(events: list[LoggedEvent]) -> None:
    """status and ended_at never contradict each other."""
    delta: Delta = fold(events)[0]
    assert (delta.status == "active") == (delta.ended_at is None)
    assert delta.first_event_at <= delta.last_event_at


def test_the_project_is_the_last_part_of_the_directory() -> None:
    """On every system."""
    assert [project_of(cwd) for cwd in ("/home/ann/shop/", "C:\\work\\shop", "/", "", None)] == [
        "shop",
        "shop",
        None,
        None,
        None,
    ]


def test_the_machine_is_that_of_the_first_event_that_names_one() -> None:
    """By the time of the events, whichever arrives first."""
    told = [(3, '{"host": "late"}'), (2, '{"machine": "early", "hostname": "other"}'), (1, "{}")]
    events = [event(n, "user_prompt", at, "{}", None, "x", metadata) for n, (at, metadata) in enumerate(told)]
    delta = fold(events)[0]
    assert (delta.machine, delta.machine_at) == ("early", 2)
    assert fold(events[2:])[0].machine is None
