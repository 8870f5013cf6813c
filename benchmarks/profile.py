"""Where the CPU goes: `python -m benchmarks.profile [--events N]`.

First each stage of ours alone, beside the bare cost of the library calls it cannot do without: the distance to the
limit. Those that need a broker or a database have one made for them (`benchmarks.profile_io`; `--alone` leaves them
out). Then the whole way, in the cases that the CPU limits, and what each process spent an event and had of the cores:
what no stage explains is transport, waiting, and the servers. Prints tables and keeps the figures in
`benchmarks/out/profile.json`. About four minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import fastavro
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import aggregate, profile_io
from benchmarks.bulk_load import bodies
from benchmarks.codec import sample
from benchmarks.guard import BULK, Work, stages
from benchmarks.result import keep, told
from benchmarks.ways import IDLE, PROCESSES, ways
from connectors.rows import event_row
from schemas.codec import AvroCodec, _parsed, to_fields
from schemas.event import LoggedEvent, Position
from schemas.registry import packaged

ROUNDS: Final = 5
TIMES: Final = 20
#: The stages in the order an event walks.
ORDER: Final = (
    *("ingest decode", "encode", "produce", "fetch", "dedup", "changelog", "decode", "rows", "COPY and commit"),
    "aggregate",
)
console = Console(highlight=False)


def cost(work: Work) -> float:
    """Median CPU µs an event."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        events = work()
        found.append((time.process_time() - began) / events * 1e6)
    return statistics.median(found)


def floors() -> dict[str, Callable[[], int]]:
    """The library calls that a stage cannot do without, and nothing else."""
    body, event = next(bodies(BULK, BULK)), sample()
    schema, fields = _parsed(packaged()[-1]), to_fields(event)
    value = AvroCodec().encode(event)[5:]
    decode = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode

    def ingest() -> int:
        for _ in range(TIMES):
            for item in decode(body):
                hashlib.sha256(item["payload"]).digest()
        return TIMES * BULK

    def encode() -> int:
        for _ in range(TIMES * BULK):
            fastavro.schemaless_writer(BytesIO(), schema, fields)
        return TIMES * BULK

    def read() -> int:
        for _ in range(TIMES * BULK):
            fastavro.schemaless_reader(BytesIO(value), schema, None)
        return TIMES * BULK

    return {"ingest decode": ingest, "encode": encode, "decode": read}


def by_stage(*, alone: bool = False) -> dict[str, dict[str, float | None]]:
    """Stage -> ours and the floor, µs an event, in walking order. `alone`: only what needs no server.

    What is decoded once a chunk stands there once; `rows` is what the sink does with an event before it is copied.
    """
    least = {name: cost(work) for name, work in floors().items()}
    with stages() as made:
        ours = {name: cost(work) for name, work in made.items()}
    decode = cost(_decode())
    found: profile_io.Costs = {
        "ingest decode": (ours["ingest"], least["ingest decode"]),
        "encode": (ours["encode"], least["encode"]),
        "dedup": (ours["dedupe"], profile_io.dedupe_floor()),
        "decode": (decode, least["decode"]),
        "rows": (cost(_rows()), None),
        "aggregate": (aggregate.run(aggregate.events(), alone=False)[1], None),
    }
    found |= {} if alone else profile_io.costs(decode)
    return dict(profile_io.told({name: found[name] for name in ORDER if name in found}))


def _decode() -> Work:
    codec = AvroCodec()
    values = [codec.encode(sample())] * BULK

    def decode() -> int:
        for _ in range(TIMES):
            codec.decode_many(values)
        return TIMES * BULK

    return decode


def _rows() -> Work:
    place = Position(0, 1)
    logged = [LoggedEvent(event=sample(), ingest=place, events=place, value=b"")] * BULK

    def rows() -> int:
        for _ in range(TIMES):
            for one in logged:
                event_row(one)
        return TIMES * BULK

    return rows


def shown(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table of figures."""
    table = Table(title=title)
    for name in head:
        table.add_column(name, justify="left" if name in ("stage", "way") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _table(title: str, names: Sequence[str], found: Mapping[str, Any], kind: str) -> Table:
    rows = [(way, *(_text(spent[kind][name]) for name in names)) for way, spent in found.items()]
    return shown(title, ("way", *names), rows)


def _sum(found: Mapping[str, Mapping[str, float | None]], kind: str) -> float:
    return round(sum(one[kind] or 0.0 for one in found.values()), 2)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Where the CPU goes, stage by stage and process by process.")
    parser.add_argument("--events", type=int, default=200_000, help="events of the whole way; 0 leaves it out")
    parser.add_argument("--alone", action="store_true", help="only the stages that need no server, and no whole way")
    given = parser.parse_args()
    events = 0 if given.alone else given.events
    stages_: Mapping[str, Mapping[str, float | None]] = by_stage(alone=given.alone)
    rows = [(name, _text(one["ours"]), _text(one["floor"])) for name, one in stages_.items()]
    rows.append(("all", _text(_sum(stages_, "ours")), _text(_sum(stages_, "floor"))))
    console.print(shown("CPU µs an event, alone", ("stage", "ours", "library calls alone"), rows))
    found: dict[str, Any] = {"bytes": len(AvroCodec().encode(sample())), "stages": stages_}
    if events:
        found["ways"] = {}
        for name, way in ways(events).items():
            spent = way()
            found["ways"][name] = spent._asdict()
            console.print(f"{name}: {spent.events_per_s:,.0f} events/s")
        console.print(_table("CPU µs an event, over the whole way", PROCESSES, found["ways"], "us"))
        console.print(_table("Cores", (*PROCESSES, IDLE), found["ways"], "cores"))
    keep(told("profile", found, packages=("msgspec", "fastavro", "rocksdict")))


if __name__ == "__main__":
    main()
