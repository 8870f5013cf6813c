"""Codec: microseconds an event to encode, decode and peek, beside fastavro alone. `python -m benchmarks.codec`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro

from benchmarks.result import keep, told
from schemas.codec import AvroCodec, _parsed, from_fields, to_fields
from schemas.event import HookEvent, IdOrigin
from schemas.registry import packaged

ROUNDS = 5
EVENTS = 10_000


def sample() -> HookEvent:
    """An event whose payload has 676 bytes, the size all figures of this project are given for."""
    return HookEvent(
        event_id=UUID("0198f1a2-7b3c-7def-8123-456789abcdef"),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.NATURAL,
        session_id="5c1f3a52-0f3e-4c0a-9d0e-2d2f4b1c7a90",
        event_type="tool_pre_use",
        hook_event_name="PreToolUse",
        occurred_at=1_763_690_000_000_000,
        received_at=1_763_690_000_000_250,
        source="claude-code",
        tool_name="Bash",
        tool_use_id="toolu_01A09q90qw90lq917835lq9",
        cwd="/home/dev/project",
        payload='{"command":"' + "x" * 662 + '"}',
        metadata='{"hook_version":"1.0.0"}',
    )


def microseconds(work: Callable[[], Any]) -> float:
    """Median over the rounds of the time one call takes."""

    def once() -> float:
        start = time.perf_counter()
        for _ in range(EVENTS):
            work()
        return (time.perf_counter() - start) / EVENTS * 1e6

    return round(statistics.median(once() for _ in range(ROUNDS)), 2)


def main() -> None:
    """Print one JSON object and keep it."""
    codec, event, schema = AvroCodec(), sample(), _parsed(packaged()[-1])
    value = codec.encode(event)

    def avro_encode() -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, to_fields(event))
        return out.getvalue()

    def avro_decode() -> HookEvent:
        return from_fields(fastavro.schemaless_reader(BytesIO(value[5:]), schema, schema))  # type: ignore[arg-type]

    figures = {
        "encode": microseconds(lambda: codec.encode(event)),
        "decode": microseconds(lambda: codec.decode(value)),
        "peek": microseconds(lambda: codec.peek(value)),
        "fastavro_encode": microseconds(avro_encode),
        "fastavro_decode": microseconds(avro_decode),
    }
    result = {"unit": "microseconds an event", "bytes": len(value), **figures}
    keep(told("codec", result, packages=("fastavro", "msgspec")))


if __name__ == "__main__":
    main()
