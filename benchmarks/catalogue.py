"""The cases, full, quick and large, with their targets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks import single, streams, whole
from benchmarks.cases import OURS, Case, Figure
from benchmarks.failover import failover
from benchmarks.live import live
from benchmarks.page import page
from benchmarks.postgres import own_postgres
from benchmarks.query import FIGURES, query
from benchmarks.restart import peer, restart
from benchmarks.running import up
from benchmarks.visible import visible

#: The bare handler and FastAPI, as the tables name them.
BARE, FASTAPI, IN_MEMORY = "bare aiohttp", "FastAPI", "FastAPI, acks from memory"


#: Seconds that a whole run may take; what does not fit in has fewer rounds, or is told as not run.
LIMITS: Final = {"quick": 6 * 60.0, "full": 40 * 60.0}


def full() -> list[Case]:
    """All that fits into forty minutes; what has one round comes last, since it cannot have fewer."""
    return [
        _dedup(150_000),
        _windows(240_000),
        _whole(300_000, 48_000),
        _single((1, 32, 256), 4.0),
        _visible(),
        _failover(),
        _sustained(),
        _live(),
        _watched(),
        _query(500_000, usual_s=70.0),
        _restart(400_000, usual_s=110.0),
    ]


def quick() -> list[Case]:
    """Under six minutes, fewer rounds, smaller: to see whether a change is worth a full run."""
    return [_dedup(60_000), _whole(150_000, 20_000), _single((32,), 4.0)]


def read() -> list[Case]:
    """What people read, over as much as they will have: ten minutes, most of it for storing the events."""
    return [_query(10_000_000, usual_s=420.0), _page(1_000_000)]


def large() -> list[Case]:
    """What else takes ten million events, and half an hour."""
    return [
        _restart(10_000_000, usual_s=1800.0),
        _growth(300_000, 100_000, 10_000_000),
    ]


def _dedup(events: int) -> Case:
    sides = {name: streams.dedup(side, _share(name, events)) for name, side in streams.dedup_sides().items()}
    figures = [Figure("rate", "events/s", least={"quix": 2.0, "faust": 6.0, "bytewax": 1.0})]
    return Case("stream.dedup_postgres", sides, figures, usual_s=76.0 + events / 4_000, longest_s=180.0)


def _windows(events: int) -> Case:
    sides = {name: streams.windows(side, _share(name, events)) for name, side in streams.window_sides().items()}
    figures = [Figure("rate", "events/s", least=dict.fromkeys(("quix", "faust", "bytewax"), 2.0))]
    return Case("stream.window_counts", sides, figures, usual_s=76.0 + events / 6_000, longest_s=180.0)


def _share(side: str, events: int) -> int:
    """Faust gets a quarter: it takes as long for these as the others take for all of them."""
    return events // 4 if side == "faust" else events


def _whole(ours: int, theirs: int) -> Case:
    sides = {
        OURS: whole.chronicle(ours),
        FASTAPI: whole.fastapi(theirs, durable=True),
        IN_MEMORY: whole.fastapi(theirs, durable=False),
        "faust": whole.faust(theirs // 4),
    }
    figures = [
        Figure("rate", "events/s", target=30_000, least={FASTAPI: 4.0, IN_MEMORY: 1.0}),
        Figure("memory", "MB", "lower", target=500, row="memory"),
        Figure("cpu", "µs/event", "lower", row="cpu"),
    ]
    return Case("whole.bulk", sides, figures, usual_s=46.0 + ours / 30_000 + theirs / 2_400, longest_s=180.0)


#: Events a second that this is asked to take for five minutes: what two cores have taken, in whole thousands.
SUSTAINED: Final = 10_000


def _sustained() -> Case:
    """Five minutes at a rate that is held: what comes late has piled up. The target stays what it is."""
    figures = [
        Figure("rate", "events/s", target=30_000),
        Figure("late", "s", "lower", target=3.0),
        Figure("memory", "MB", "lower", target=500),
    ]
    ours = {OURS: whole.chronicle(300 * SUSTAINED, rate=SUSTAINED)}
    return Case("whole.sustained", ours, figures, rounds=1, usual_s=340.0, longest_s=600.0, disk_gb=12.0)


def _single(connections: tuple[int, ...], seconds: float) -> Case:
    sides = {
        OURS: single.single(single.chronicle, connections, seconds),
        BARE: single.single(single.bare, connections, seconds),
        FASTAPI: single.single(single.fastapi, connections, seconds),
    }
    figures = [figure for number in connections for figure in _of_connections(number)]
    usual_s = 30.0 + 3 * len(connections) * (seconds + 1.5)
    return Case("ingest.single", sides, figures, usual_s=usual_s, longest_s=150.0)


def _of_connections(number: int) -> list[Figure]:
    """The figures with so many connections; with one it is the idle system, with 32 the busy one."""
    idle, busy = number == 1, number == 32
    p99 = 3.0 if idle else 10.0 if busy else None
    return [
        Figure(f"rate_{number}", "req/s", target=10_000 if busy else None, least={BARE: 0.7} if busy else {}),
        Figure(f"p50_{number}", "ms", "lower", target=4.0 if busy else None),
        Figure(f"p99_{number}", "ms", "lower", target=p99, row="ingest.idle.p99" if idle else ""),
    ]


def _latencies(p99: float) -> list[Figure]:
    cuts = [(rate, cut) for rate in (100, 5_000) for cut in ("p50", "p99")]
    return [Figure(f"{cut}_{rate}", "ms", "lower", target=p99 if cut == "p99" else None) for rate, cut in cuts]


def _visible() -> Case:
    """The peer answers from memory: one that answers when the rows are there would have nothing to wait for."""
    sides = {OURS: visible(_ours, (100, 5_000), 6.0), IN_MEMORY: visible(_fastapi, (100, 5_000), 6.0)}
    return Case("latency.visible", sides, _latencies(500.0), usual_s=66.0, longest_s=150.0)


def _live() -> Case:
    ours = {OURS: visible(_ours, (100, 5_000), 10.0, live=True)}
    return Case("latency.live", ours, _latencies(150.0), usual_s=40.0, longest_s=150.0)


def _watched() -> Case:
    figures = [
        Figure("kept", "×", target=0.8),
        Figure("rate_1000", "req/s"),
        Figure("p99_0", "ms", "lower"),
        Figure("p99_1000", "ms", "lower", target=10.0),
        Figure("sent", "events/s"),
    ]
    return Case("live.clients", {OURS: live(6.0)}, figures, rounds=2, usual_s=48.0, longest_s=180.0)


def _failover() -> Case:
    figures = [Figure("switch", "s", "lower", target=2.0), Figure("home", "rows/s", target=20_000)]
    return Case("failover.rate", {OURS: failover(5_000, 10.0)}, figures, usual_s=75.0, longest_s=240.0)


def _query(stored: int, usual_s: float) -> Case:
    figures = [replace(figure, row=f"query.{figure.name}_{_short(stored)}") for figure in FIGURES]
    sides = {OURS: query(stored)}
    return Case("query", sides, figures, 1, usual_s=usual_s, longest_s=usual_s * 5, disk_gb=_gigabytes(stored))


def _page(stored: int) -> Case:
    figures = [Figure("first_view", "ms", "lower", target=1_000), Figure("longest_stop", "ms", "lower", target=250)]
    return Case("page", {OURS: page(stored)}, figures, 1, usual_s=200.0, longest_s=600.0, disk_gb=_gigabytes(stored))


def _restart(ids: int, usual_s: float) -> Case:
    figures = [
        Figure("restore", "s", "lower", target=60.0),
        Figure("disk", "s", "lower", target=15.0),
        Figure("memory", "MB", "lower", target=700.0),
    ]
    named = [replace(figure, row=f"state.restart.{figure.name}_{_short(ids)}") for figure in figures]
    sides = {OURS: restart(ids), "quix": peer(streams.dedup_sides()["quix"], ids)}
    return Case("state.restart", sides, named, 1, usual_s=usual_s, longest_s=usual_s * 2, disk_gb=_gigabytes(ids))


def _growth(events: int, small: int, large: int) -> Case:
    names = {"stored": 0.8, "workers": 1.0, "partitions_1": 0.8, "partitions_16": 0.8}
    figures = [Figure(name, "×", target=target) for name, target in names.items()]
    ours = {OURS: whole.growth(events, small, large)}
    return Case("growth", ours, figures, 1, usual_s=1800.0, longest_s=5400.0, disk_gb=_gigabytes(large))


def _gigabytes(events: int) -> float:
    """Disk for so many stored events, with their indexes and what is besides."""
    return 5 + events / 300_000


def _short(number: int) -> str:
    """500k, 10m."""
    return f"{number // 1_000_000}m" if number >= 1_000_000 else f"{number // 1_000}k"


@contextlib.contextmanager
def _ours() -> Iterator[tuple[str, str, str]]:
    with up() as stack:
        yield stack["url"], stack["database"], "events"


@contextlib.contextmanager
def _fastapi() -> Iterator[tuple[str, str, str]]:
    with own_postgres() as postgres, single.fastapi_on(postgres.dsn, durable=False) as url:
        yield url, postgres.dsn, "peer_events"
