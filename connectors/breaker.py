"""The breaker between Postgres and SQLite, as a pure state machine: a state, what happened and the time give a state.

    closed ──3 failures, or one that retrying cannot cure──► open ──probe succeeded──► half_open ──► closed
       ▲                                                      ▲  └─probe failed: wait longer      │
       │                                                      └────────────any failure────────────┤
       └──a write or probe succeeded once the hold-down has passed────────────────────────────────┘

- **closed**: live batches go to Postgres.
- **open**: they go to SQLite; Postgres is probed after a delay that doubles up to `probe_cap` seconds.
- **half_open**: Postgres answered. What is in SQLite may be synced back, but live batches stay on SQLite until
  `hold_down` seconds after the breaker opened. So a flapping database costs one switch in each hold-down, never more,
  and its rows arrive all the same. The first batch after that (or a probe, when there is none) closes the breaker.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["closed", "open", "half_open"]
Route = Literal["primary", "local"]

_NEVER = float("-inf")


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. `failures` is how many in a row open a closed breaker."""

    failures: int = 3
    probe_first: float = 0.5
    probe_cap: float = 10.0  # an ended outage is noticed this soon at the latest
    hold_down: float = 30.0


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """One state. `opened_at` is when it last left closed, `probe_at` when Postgres is to be tried next."""

    mode: Mode = "closed"
    failures: int = 0
    opened_at: float = _NEVER
    probe_at: float = _NEVER
    delay: float = 0.0


def failed(state: Breaker, policy: BreakerPolicy, now: float, *, at_once: bool = False, jitter: float = 0.0) -> Breaker:
    """A write or probe of Postgres failed. `at_once`: trying again cannot help (refused password, missing table).

    `jitter` in [0, 1) takes off up to half of the next delay, so that many workers do not probe in step.
    """
    if state.mode == "closed":
        failures = state.failures + 1
        if failures < policy.failures and not at_once:
            return msgspec.structs.replace(state, failures=failures)
        return _open(policy.probe_first, policy, now, opened_at=now, jitter=jitter)
    delay = policy.probe_first if state.mode == "half_open" else state.delay * 2.0
    return _open(delay, policy, now, opened_at=state.opened_at, jitter=jitter)


def worked(state: Breaker, policy: BreakerPolicy, now: float) -> Breaker:
    """A write or a probe of Postgres succeeded."""
    if state.mode == "closed":
        return state if not state.failures else msgspec.structs.replace(state, failures=0)
    if now >= held_until(state, policy):
        return Breaker(opened_at=state.opened_at)
    return Breaker(mode="half_open", opened_at=state.opened_at, probe_at=now + policy.probe_first)


def route(state: Breaker, policy: BreakerPolicy, now: float) -> Route:
    """Where a live batch goes now."""
    if state.mode == "closed" or (state.mode == "half_open" and now >= held_until(state, policy)):
        return "primary"
    return "local"


def probe_due(state: Breaker, now: float) -> bool:
    """Postgres is to be probed now (it never is while closed: there every write is a probe)."""
    return state.mode != "closed" and now >= state.probe_at


def reachable(state: Breaker) -> bool:
    """Postgres answered when last asked: what waits in SQLite may be synced back."""
    return state.mode != "open"


def held_until(state: Breaker, policy: BreakerPolicy) -> float:
    """The earliest moment at which the breaker may close again."""
    return state.opened_at + policy.hold_down


def _open(delay: float, policy: BreakerPolicy, now: float, *, opened_at: float, jitter: float) -> Breaker:
    delay = min(delay, policy.probe_cap)
    return Breaker(mode="open", opened_at=opened_at, delay=delay, probe_at=now + delay * (1.0 - jitter / 2.0))
