"""What counting costs without a broker: apply and pack, for chunks of new events. `python -m benchmarks.aggregate`.

Prints JSON: microseconds of CPU an event at once, and one event after the other, which is what a chunk that comes again
in part costs. Fails when the two ways differ.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import msgspec

from benchmarks.codec import sample
from benchmarks.result import keep, told
from schemas.event import LoggedEvent, Position
from tables.usage import Key, Value
from tables.usage_apply import apply
from tables.usage_codec import pack, pack_key

EVENTS, CHUNK, SESSIONS = 40_000, 5_000, 500
TOOLS = ("Bash", "Read", "Edit", "Grep")


def events() -> list[LoggedEvent]:
    """Calls with both their ends, a millisecond apart."""
    event = sample()
    made = []
    for number in range(EVENTS):
        one = msgspec.structs.replace(
            event,
            event_type="tool_post_use" if number % 2 else "tool_pre_use",
            session_id=f"session-{number % SESSIONS}",
            tool_name=TOOLS[number // 2 % 4],
            tool_use_id=f"toolu-{number // 2}",
            occurred_at=event.occurred_at + number * 1000,
        )
        made.append(LoggedEvent(event=one, ingest=Position(0, number), events=Position(0, number), value=b""))
    return made


def run(made: Sequence[LoggedEvent], *, alone: bool) -> tuple[dict[Key, Value], float]:
    """The tables, and µs of CPU an event; `alone`: a chunk that ends with a repeat goes one event after the other."""
    values: dict[Key, Value] = {}
    newest = made[-1].event.occurred_at
    spent = 0.0
    for at in range(0, len(made), CHUNK):
        chunk = [*made[at : at + CHUNK], *([made[at + CHUNK - 1]] if alone else [])]
        began = time.process_time()
        changed = apply(chunk, lambda keys: [values.get(key) for key in keys], newest)
        for key, value in changed.items():
            pack_key(key), pack(value)
        spent += time.process_time() - began
        values.update(copy.deepcopy(changed))
    return values, spent / len(made) * 1e6


def main() -> None:
    """The command."""
    made = events()
    (at_once, quick), (stepwise, slow) = run(made, alone=False), run(made, alone=True)
    if at_once != stepwise or not at_once:
        raise SystemExit("The two ways differ, or nothing was counted.")
    found = {"events": EVENTS, "us_per_event": round(quick, 2), "us_per_event_one_by_one": round(slow, 2)}
    keep(told("aggregate", found, packages=("msgspec",)))


if __name__ == "__main__":
    main()
