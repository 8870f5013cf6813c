"""From the 2xx to the row in Postgres, and to somebody who watches, at a quiet and at a busy rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from benchmarks.cases import Round
from benchmarks.running import told

#: A context with URL, DSN and the table of a side.
Storing = Callable[[], AbstractContextManager[tuple[str, str, str]]]

#: Between the first ids of two rates: more than a rate sends.
APART = 10_000_000


def visible(storing: Storing, rates: Sequence[int], seconds: float, *, live: bool = False) -> Round:
    """A round: p50_R and p99_R (ms) at each rate R (events/s), one after the other. `live`: in the live feed."""

    def once() -> Mapping[str, float]:
        figures = {}
        with storing() as (url, dsn, table):
            for number, rate in enumerate(rates):
                options = ("--rate", rate, "--seconds", seconds, "--first", number * APART, *["--live"] * live)
                found = told("benchmarks.visible_load", url, dsn, table, *options)
                figures[f"p50_{rate}"], figures[f"p99_{rate}"] = found["p50_ms"], found["p99_ms"]
        return figures

    return once
