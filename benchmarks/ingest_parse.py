"""What the way in costs before the broker: read, judge, redact, identify one event. Prints JSON.

python -m benchmarks.ingest_parse [--seconds 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from benchmarks.result import keep, told
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.envelope import Defaults, event_of, split
from schemas.native import Arrival, from_native
from schemas.redact import Redactor

PAYLOAD = {
    "session_id": "5b2f4b2c-7a51-4c52-93a0-0f6b1f3b1c11",
    "hook_event_name": "PostToolUse",
    "cwd": "/home/user/project",
    "tool_name": "Bash",
    "tool_use_id": "toolu_01CCW3ko7MDrJ4CGv4nf3NSd",
    "tool_input": {"command": "ls -la src && git status --short", "description": "Look at the working tree"},
    "tool_response": {"stdout": "total 48\n" + "drwxr-xr-x 2 user user 4096 main.py\n" * 7, "stderr": ""},
}


def measure(work: Callable[[], object], events: int, seconds: float) -> float:
    """Median microseconds of CPU an event over rounds of at least a tenth of `seconds`."""
    rounds: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rounds) < 3:
        count, started = 0, time.process_time()
        while time.process_time() - started < seconds / 10:
            work()
            count += events
        rounds.append((time.process_time() - started) / count * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    seconds = parser.parse_args().seconds
    redact, clock, codec, defaults = Redactor(), SystemClock(), AvroCodec(), Defaults()
    arrival = Arrival(received_at=1, new_id=clock.new_id, source="bench", redact=redact)
    payload = json.dumps(PAYLOAD).encode()
    envelope = {"event_id": str(clock.new_id()), "session_id": "s", "event_type": "tool_post_use", "payload": PAYLOAD}
    one = json.dumps({**envelope, "timestamp": "2026-01-31T12:34:56.789Z", "metadata": {"retry_count": 0}}).encode()
    many = b"[" + b",".join([one] * 100) + b"]"
    large = json.dumps({**PAYLOAD, "tool_response": {"stdout": PAYLOAD["tool_response"]["stdout"] * 75}}).encode()  # type: ignore[index]
    event = from_native(payload, arrival)
    results = {
        "native": measure(lambda: from_native(payload, arrival), 1, seconds),
        "envelope": measure(lambda: [event_of(item, arrival, defaults) for item in split(one)], 1, seconds),
        "envelope, 100 a body": measure(lambda: [event_of(i, arrival, defaults) for i in split(many)], 100, seconds),
        "redaction alone": measure(lambda: redact(payload), 1, seconds),
        "redaction alone, large": measure(lambda: redact(large), 1, seconds),
        "encode": measure(lambda: codec.encode(event), 1, seconds),
    }
    sizes = {"native": len(payload), "envelope": len(one), "large": len(large)}
    figures = {"bytes": sizes, "microseconds_an_event": {name: round(spent, 2) for name, spent in results.items()}}
    keep(told("ingest_parse", figures, packages=("msgspec", "fastavro")))


if __name__ == "__main__":
    main()
