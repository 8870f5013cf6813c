"""What a fault cost, read from the ledger: pure arithmetic on lines and windows of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import NamedTuple, TypeVar

from chaos.model import Outcome, Sent


@dataclass(frozen=True)
class Window:
    """One round of one fault in epoch seconds: hurt from `start` to `healed`, over at `end` (ready, lag 0)."""

    fault: str
    start: float
    healed: float
    end: float
    hit: bool
    ready_s: float | None
    lag_zero_s: float | None


@dataclass(frozen=True)
class Cost:
    """Of all rounds of a fault. Seconds; None where nothing was measured."""

    acked: int
    unknown: int
    unknown_resolved: int
    longest_refusal_s: float
    slowest_s: float
    ack_p99_s: float | None


class Refusal(NamedTuple):
    """When the first refusing answer came (epoch seconds), and for how many seconds nobody was served."""

    at: float
    seconds: float


T = TypeVar("T", Sent, Refusal)


@dataclass
class Costs:
    """By fault, and outside of all of them."""

    by_fault: dict[str, Cost] = field(default_factory=dict)
    outside: Cost | None = None


def p99(values: Sequence[float]) -> float | None:
    """None without values."""
    if not values:
        return None
    return quantiles(values, n=100)[98] if len(values) > 1 else values[0]


def refusals(lines: Iterable[Sent]) -> list[Refusal]:
    """Each time in which producers were told nothing but 5xx and errors: from the first such answer (from when its
    request was sent) to the next ok of anybody. `lines` in order of `at`."""
    found: list[Refusal] = []
    first: Sent | None = None
    last = 0.0
    for line in lines:
        last = line.at
        if line.outcome is Outcome.UNKNOWN:
            first = first or line
        elif line.outcome is Outcome.OK and first is not None:
            found.append(Refusal(first.at, line.at - first.at + first.took))
            first = None
    return found if first is None else [*found, Refusal(first.at, last - first.at + first.took)]


def cost(lines: Sequence[Sent], resolved: frozenset[str], refused: Iterable[Refusal]) -> Cost:
    """`resolved`: ids that were unknown once and ok later on. `refused`: those that began in this time."""
    unknown = {line.event_id for line in lines if line.outcome is Outcome.UNKNOWN}
    took = [line.took for line in lines if line.outcome is Outcome.OK]
    return Cost(
        acked=len(took),
        unknown=len(unknown),
        unknown_resolved=len(unknown & resolved),
        longest_refusal_s=max((one.seconds for one in refused), default=0.0),
        slowest_s=max((line.took for line in lines), default=0.0),
        ack_p99_s=p99(took),
    )


def costs(lines: Iterable[Sent], windows: Sequence[Window]) -> Costs:
    """Sort the ledger's lines into the windows they were answered in."""
    ordered = sorted(lines, key=lambda line: line.at)
    unknown = {line.event_id for line in ordered if line.outcome is Outcome.UNKNOWN}
    resolved = frozenset(line.event_id for line in ordered if line.outcome is Outcome.OK and line.event_id in unknown)
    lines_of, refused_of = _sorted(ordered, windows), _sorted(refusals(ordered), windows)
    found = {fault: cost(lines_of[fault], resolved, refused_of[fault]) for fault in {one.fault for one in windows}}
    return Costs(found, cost(lines_of[None], resolved, refused_of[None]))


def _sorted(things: Iterable[T], windows: Sequence[Window]) -> defaultdict[str | None, list[T]]:
    """By the fault in whose window they came; None for what came in none."""
    found: defaultdict[str | None, list[T]] = defaultdict(list)
    for one in things:
        window = next((window for window in windows if window.start <= one.at <= window.end), None)
        found[None if window is None else window.fault].append(one)
    return found


def overruns(fault: str, limits: dict[str, float], found: dict[str, float | None]) -> list[str]:
    """One sentence for each measured second beyond its limit; `limits` and `found` by the same names."""
    return [
        f"{fault}: {name} took {value:.1f} s, at most {limits[name]:g} s were allowed"
        for name, value in found.items()
        if value is not None and name in limits and value > limits[name]
    ]
