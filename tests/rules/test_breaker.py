"""The breaker: every state with everything that can happen to it."""

from __future__ import annotations

import pytest

from connectors.breaker import Breaker, BreakerPolicy, failed, held_until, probe_due, reachable, route, worked

POLICY = BreakerPolicy(failures=3, probe_first=0.5, probe_cap=10.0, hold_down=30.0)
CLOSED = Breaker()
SHAKY = Breaker(failures=2)
OPEN = Breaker(mode="open", opened_at=100.0, probe_at=104.0, delay=4.0)
HALF = Breaker(mode="half_open", opened_at=100.0, probe_at=110.5)


@pytest.mark.parametrize(
    ("state", "event", "now", "mode", "failures"),
    [
        (CLOSED, "failed", 100.0, "closed", 1),
        (CLOSED, "hopeless", 100.0, "open", 0),
        (CLOSED, "worked", 100.0, "closed", 0),
        (SHAKY, "failed", 100.0, "open", 0),
        (SHAKY, "hopeless", 100.0, "open", 0),
        (SHAKY, "worked", 100.0, "closed", 0),
        (OPEN, "failed", 104.0, "open", 0),
        (OPEN, "hopeless", 104.0, "open", 0),
        (OPEN, "worked", 104.0, "half_open", 0),
        (OPEN, "worked", 129.9, "half_open", 0),
        (OPEN, "worked", 130.0, "closed", 0),
        (HALF, "failed", 111.0, "open", 0),
        (HALF, "hopeless", 111.0, "open", 0),
        (HALF, "worked", 111.0, "half_open", 0),
        (HALF, "worked", 130.0, "closed", 0),
    ],
)
def test_every_state_and_event(state: Breaker, event: str, now: float, mode: str, failures: int) -> None:
    """Each state answers each event with the state the table says."""
    after = worked(state, POLICY, now) if event == "worked" else failed(state, POLICY, now, at_once=event == "hopeless")
    assert (after.mode, after.failures) == (mode, failures)


@pytest.mark.parametrize(
    ("state", "now", "where", "probe", "sync"),
    [
        (CLOSED, 100.0, "primary", False, True),
        (SHAKY, 100.0, "primary", False, True),
        (OPEN, 103.9, "local", False, False),
        (OPEN, 104.0, "local", True, False),
        (OPEN, 500.0, "local", True, False),
        (HALF, 110.0, "local", False, True),
        (HALF, 111.0, "local", True, True),
        (HALF, 130.0, "primary", True, True),
    ],
)
def test_every_state_decides(state: Breaker, now: float, where: str, probe: bool, sync: bool) -> None:
    """Where a batch goes, whether to probe and whether to sync follow from state and time alone."""
    assert (route(state, POLICY, now), probe_due(state, now), reachable(state)) == (where, probe, sync)


def test_probe_delay_doubles_up_to_its_cap() -> None:
    """A long outage is probed less and less often, but never less than once in ten seconds."""
    state, now, delays = failed(CLOSED, POLICY, 0.0, at_once=True), 0.0, []
    for _ in range(8):
        delays.append(state.probe_at - now)
        now = state.probe_at
        state = failed(state, POLICY, now)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_jitter_shortens_a_delay_by_half_at_most() -> None:
    """Workers that failed together do not probe together, and none later than the cap."""
    state = failed(OPEN, POLICY, 104.0, jitter=0.999)
    assert 4.0 <= state.probe_at - 104.0 < 8.0


def test_failures_count_in_a_row_only() -> None:
    """A success between failures starts the count again."""
    state = CLOSED
    for now in range(10):
        state = worked(failed(failed(state, POLICY, now), POLICY, now), POLICY, now)
    assert state.mode == "closed"


def test_hold_down_counts_from_the_opening() -> None:
    """A failed probe does not prolong the hold-down: it ends 30 s after live writes left Postgres."""
    state = failed(failed(OPEN, POLICY, 104.0), POLICY, 112.0)
    assert held_until(state, POLICY) == 130.0
