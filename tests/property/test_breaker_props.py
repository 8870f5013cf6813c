"""The breaker under any history."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from connectors.breaker import Breaker, BreakerPolicy, failed, held_until, probe_due, route, worked

POLICY = BreakerPolicy(failures=3, probe_first=0.5, probe_cap=10.0, hold_down=30.0)
HISTORIES = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.sampled_from(["worked", "failed", "hopeless"]), st.floats(0.0, 0.999)),
    max_size=60,
)


@given(HISTORIES)
def test_it_never_leaves_postgres_twice_in_a_hold_down(history: list[tuple[float, str, float]]) -> None:
    """However Postgres flaps, two switches are at least 30 s apart, and no probe is more than 10 s away."""
    state, now, opened = Breaker(), 0.0, []
    for pause, event, jitter in history:
        now += pause
        before = state
        if event == "worked":
            state = worked(state, POLICY, now)
        else:
            state = failed(state, POLICY, now, at_once=event == "hopeless", jitter=jitter)
        if before.mode == "closed" and state.mode == "open":
            opened.append(now)
        if state.mode != "closed":
            assert state.probe_at <= now + POLICY.probe_cap
            assert probe_due(state, now + POLICY.probe_cap)
    assert all(later >= earlier + POLICY.hold_down for earlier, later in itertools.pairwise(opened))


@given(HISTORIES)
def test_it_closes_after_the_hold_down_once_postgres_works(history: list[tuple[float, str, float]]) -> None:
    """No history can keep a working Postgres out: one success after the hold-down is enough."""
    state, now = Breaker(), 0.0
    for pause, event, jitter in history:
        now += pause
        state = worked(state, POLICY, now) if event == "worked" else failed(state, POLICY, now, jitter=jitter)
    now = max(now, held_until(state, POLICY)) if state.mode != "closed" else now
    state = worked(state, POLICY, now)
    assert (state.mode, state.failures, route(state, POLICY, now)) == ("closed", 0, "primary")


@given(HISTORIES)
def test_fewer_than_three_failures_in_a_row_never_open_it(history: list[tuple[float, str, float]]) -> None:
    """Single failures are retried, not switched on."""
    state, now = Breaker(), 0.0
    for pause, _, jitter in history:
        now += pause
        state = worked(failed(failed(state, POLICY, now, jitter=jitter), POLICY, now, jitter=jitter), POLICY, now)
        assert state.mode == "closed"
