"""Clients whose clocks are wrong: every event counts somewhere, the same way each time, where it ends one day."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position
from tables.histogram import quantile
from tables.usage import SECOND, Key, SessionUse, ToolUse, Usage, Value, advance, keys
from tables.usage_apply import apply
from tables.usage_compare import Recount, compare

NOON = 1_763_726_400  # 2025-11-21T12:00:00Z, epoch seconds
DAY = 86_400
CALL: dict[str, Any] = {"tool_name": "Bash", "tool_use_id": "t1"}


def logged(
    offset: int, told: float, received: float = NOON, event_type: str = "user_prompt", **more: Any
) -> LoggedEvent:
    """An event that tells one time (epoch seconds) and was received at another."""
    event = HookEvent(
        event_id=UUID(int=offset),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.FRESH,
        session_id="s",
        event_type=event_type,
        occurred_at=int(told * SECOND),
        received_at=int(received * SECOND),
        source="test",
        payload="{}",
        **more,
    )
    return LoggedEvent(event=event, ingest=Position(0, offset), events=Position(0, offset), value=b"")


class Live:
    """Tables as the stream keeps them."""

    def __init__(self) -> None:
        self.values: dict[Key, Value] = {}
        self.newest = 0

    def take(self, *events: LoggedEvent) -> None:
        self.newest = advance(self.newest, events, NOON * 2 * SECOND)
        self.values.update(apply(events, self._lookup, self.newest))

    def _lookup(self, wanted: Sequence[Key]) -> list[Value | None]:
        return [copy.deepcopy(self.values.get(key)) for key in wanted]


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        (NOON - 400 * DAY, NOON - 400 * DAY),
        (NOON - 400 * DAY - 1, NOON),
        (NOON + DAY, NOON + DAY),
        (NOON + DAY + 1, NOON),
        (0, NOON),
        (-1e9, NOON),
        (253_402_300_799, NOON),
    ],
)
def test_a_clock_that_is_wrong_counts_at_the_time_of_receipt(told: float, counted: int) -> None:
    """An event may be late by as long as days are kept, and ahead by a day; it is never left out for its clock."""
    live = Live()
    live.take(logged(1, told))
    day, session = live.values["usage", "day", counted - counted % DAY, "all", ""], live.values["session", "s"]
    assert isinstance(day, Usage)
    assert isinstance(session, SessionUse)
    assert day.events == {"user_prompt": 1}
    assert (session.first, session.last, live.newest) == (counted * SECOND,) * 3


def test_a_call_whose_beginning_tells_an_absurd_time_has_a_duration_all_the_same() -> None:
    """Between the receipts: not fifty years."""
    live = Live()
    live.take(logged(1, 0, NOON, "tool_pre_use", **CALL))
    live.take(logged(2, NOON + 2, NOON + 2, "tool_post_use", **CALL))
    found = live.values["tools", "hour", NOON, "all", "", "Bash"]
    assert isinstance(found, ToolUse)
    assert quantile(found.durations, 0.5) == pytest.approx(2000, rel=0.045)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_every_bucket_has_ten_digits(told: int, received: int) -> None:
    """Also those of a producer that says any time of receipt: keys sort as text."""
    event = msgspec.structs.replace(logged(1, 0).event, occurred_at=told, received_at=received)
    assert all(len(str(key[2])) == 10 for key in keys(event, 0) if key[0] == "usage")


_CLOCKS = st.lists(
    st.tuples(st.sampled_from([0, 1, 400, 401, 20_000, -3_000_000]), st.integers(-2, 2)), min_size=1, max_size=12
)


@given(_CLOCKS, st.integers(1, 5))
def test_wrong_clocks_count_the_same_again(made: list[tuple[int, int]], size: int) -> None:
    """A recount in other pieces finds what is live, and every event is in one day."""
    events = [logged(n, NOON + DAY * days + seconds, NOON + n) for n, (days, seconds) in enumerate(made)]
    live = Live()
    for at in range(0, len(events), size):
        live.take(*events[at : at + size])
        live.take(*events[at : at + 1])
    recount = Recount(live.newest)
    recount.take(events)
    compared = compare(0, live.values, recount, whole=True)
    assert (compared.differences, compared.ahead) == ([], 0)
    days = [value for key, value in live.values.items() if isinstance(value, Usage) and key[1] == "day"]
    assert sum(sum(value.events.values()) for value in days) == len(events)
