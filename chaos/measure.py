"""What a fault cost, read from the ledger: pure arithmetic on lines and windows of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

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


@dataclass
class _Span:
    since: float | None = None
    longest: float = 0.0


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


def longest_refusal(lines: Iterable[Sent]) -> float:
    """The longest time in which producers were told nothing but 5xx and errors; from the first such answer to the next
    ok of anybody. `lines` in order of `at`."""
    span = _Span()
    last = 0.0
    for line in lines:
        last = line.at
        if line.outcome is Outcome.UNKNOWN:
            span.since = line.at - line.took if span.since is None else span.since
        elif line.outcome is Outcome.OK and span.since is not None:
            span.longest, span.since = max(span.longest, line.at - span.since), None
    if span.since is not None:
        span.longest = max(span.longest, last - span.since)
    return span.longest


def cost(lines: Sequence[Sent], resolved: frozenset[str]) -> Cost:
    """`resolved`: ids that were unknown once and ok later on. `lines` in order of `at`."""
    unknown = {line.event_id for line in lines if line.outcome is Outcome.UNKNOWN}
    took = [line.took for line in lines if line.outcome is Outcome.OK]
    return Cost(
        acked=len(took),
        unknown=len(unknown),
        unknown_resolved=len(unknown & resolved),
        longest_refusal_s=longest_refusal(lines),
        slowest_s=max((line.took for line in lines), default=0.0),
        ack_p99_s=p99(took),
    )


def costs(lines: Iterable[Sent], windows: Sequence[Window]) -> Costs:
    """Sort the ledger's lines into the windows they were answered in."""
    ordered = sorted(lines, key=lambda line: line.at)
    unknown = {line.event_id for line in ordered if line.outcome is Outcome.UNKNOWN}
    resolved = frozenset(line.event_id for line in ordered if line.outcome is Outcome.OK and line.event_id in unknown)
    inside: dict[str, list[Sent]] = {window.fault: [] for window in windows}
    outside: list[Sent] = []
    for line in ordered:
        window = next((window for window in windows if window.start <= line.at <= window.end), None)
        (outside if window is None else inside[window.fault]).append(line)
    return Costs({name: cost(part, resolved) for name, part in inside.items()}, cost(outside, resolved))


def overruns(fault: str, limits: dict[str, float], found: dict[str, float | None]) -> list[str]:
    """One sentence for each measured second beyond its limit; `limits` and `found` by the same names."""
    return [
        f"{fault}: {name} took {value:.1f} s, at most {limits[name]:g} s were allowed"
        for name, value in found.items()
        if value is not None and name in limits and value > limits[name]
    ]
