"""What a case of the benchmark is, how its rounds alternate between the sides, and what comes of them.

A side's round is a callable without arguments that does the work once, from nothing to nothing, checks that the output
is right, and returns its figures by name. It raises when it measured nothing: then the side has no figure, not a bad
one, and the row says why. The other sides and cases go on.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.deadline import Budget, within

OURS = "chronicle"
Round = Callable[[], Mapping[str, float]]
Say = Callable[[str], None]
#: Characters of a reason that a row keeps: the end of what a program said.
REASON = 400


@dataclass(frozen=True)
class Figure:
    """What is read off a round. `target` is for our own median, `least` the ratio asked for to each peer.

    `name` is the key of the round's mapping; the row is named `CASE.NAME` unless `row` says otherwise.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"] = "higher"
    target: float | None = None
    least: Mapping[str, float] = field(default_factory=dict)
    row: str = ""

    def told(self) -> str:
        """The target in words; empty when there is none."""
        sign = "≥" if self.better == "higher" else "≤"
        parts = [] if self.target is None else [f"{sign} {self.target:,g} {self.unit}"]
        return ", ".join([*parts, *(f"≥ {least:g} × {peer}" for peer, least in self.least.items())])


@dataclass(frozen=True)
class Case:
    """Work that all `sides` do (OURS and the peers), and the figures it gives; a peer may lack some of them."""

    name: str
    sides: Mapping[str, Round]
    figures: Sequence[Figure]
    #: Rounds when none are asked for; one is enough for what takes minutes and has no peer.
    rounds: int = 3
    #: Seconds that a round of all sides takes as a rule, start and end of everything included.
    usual_s: float = 60.0
    #: Seconds after which one side's round is cut off and counts as failed.
    longest_s: float = 240.0
    #: Free disk it needs, in 10⁹ bytes.
    disk_gb: float = 4.0

    def without(self, peers: frozenset[str]) -> Case:
        """The same without these peers."""
        return dataclasses.replace(self, sides={name: one for name, one in self.sides.items() if name not in peers})


@dataclass(frozen=True)
class Spread:
    """The figures of one side over all rounds."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def as_json(self) -> dict[str, object]:
        """{median, min, max, runs}."""
        runs = [round(run, 3) for run in self.runs]
        return {"median": round(self.median, 3), "min": min(runs), "max": max(runs), "runs": runs}


@dataclass(frozen=True)
class Row:
    """What came of one figure of a case. `failed`: side -> why it has no figure, or not all of its rounds."""

    case: str
    figure: Figure
    spreads: Mapping[str, Spread]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.figure.row or f"{self.case}.{self.figure.name}"

    @property
    def peers(self) -> list[str]:
        return [name for name in self.spreads if name != OURS]

    def ratio(self, peer: str) -> float:
        """How many times better we are than `peer`, in medians; 0 when we have no figure."""
        if OURS not in self.spreads:
            return 0.0
        ours, theirs = self.spreads[OURS].median, self.spreads[peer].median
        return ours / theirs if self.figure.better == "higher" else theirs / ours

    @property
    def met(self) -> bool:
        """Whether our figure and every ratio are what was asked for; a peer that was not measured is not met."""
        if OURS not in self.spreads or OURS in self.failed or not set(self.figure.least) <= set(self.spreads):
            return False
        return all(share >= 1 for share in self._reached().values())

    @property
    def short(self) -> str:
        """By how much the target is missed, in words; empty when it is met, or when there is nothing to compare."""
        reached = self._reached() if OURS in self.spreads else {}
        return ", ".join(f"{share:.0%} of {what}" for what, share in reached.items() if share < 1)

    def _reached(self) -> dict[str, float]:
        """What was asked for -> how much of it was reached, 1 being all of it."""
        target, ours = self.figure.target, self.spreads[OURS].median
        parts: dict[str, float] = {}
        if target is not None:
            parts["the target"] = ours / target if self.figure.better == "higher" else target / ours
        measured = {peer: asked for peer, asked in self.figure.least.items() if peer in self.spreads}
        return parts | {f"{asked:g} × {peer}": self.ratio(peer) / asked for peer, asked in measured.items()}

    def as_json(self) -> dict[str, object]:
        """The row of `benchmarks/out/latest.json`; `chronicle` is null when we have no figure."""
        return {
            "name": self.name,
            "unit": self.figure.unit,
            OURS: self.spreads[OURS].as_json() if OURS in self.spreads else None,
            "peers": {peer: self.spreads[peer].as_json() for peer in self.peers},
            "ratios": {peer: round(self.ratio(peer), 2) for peer in self.peers},
            "target": self.figure.told(),
            "met": self.met,
            "short": self.short,
            "failed": dict(self.failed),
        }


def run(case: Case, rounds: int, say: Say, budget: Budget | None = None) -> list[Row]:
    """`rounds` rounds of each side, fewer when time is short; who begins changes from round to round.

    A side that fails once is not tried again; without ours the case ends.
    """
    budget = budget or Budget()
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in case.sides}
    failed: dict[str, str] = {}
    if why := _cannot(case, budget):
        failed[OURS] = why
    for number in range(rounds):
        if OURS in failed:
            break
        if number and not budget.another(case.usual_s):
            say(f"{case.name}: {number} of {rounds} rounds, there is no time for more")
            break
        told = f"{case.name} {number + 1}/{rounds}"
        for side in rotated(list(case.sides), number):
            if side not in failed and OURS not in failed:
                _one(case, side, found, failed, budget)
                say(f"{told} {side} {_told(case, found[side], failed.get(side))}")
    if OURS in failed:
        say(f"{case.name} FAILED: {failed[OURS]}")
    return [_row(case, figure, found, failed) for figure in case.figures]


def _one(
    case: Case, side: str, found: dict[str, list[Mapping[str, float]]], failed: dict[str, str], budget: Budget
) -> None:
    """One round of one side; what comes of it goes to `found` or `failed`."""
    try:
        with within(budget.at_most(case.longest_s)):
            figures = case.sides[side]()
        if not figures or not all(math.isfinite(value) and value > 0 for value in figures.values()):
            raise RuntimeError(f"it measured {dict(figures)}")
    except Exception as error:  # one side's fault must not cost the others their figures
        failed[side] = f"{type(error).__name__}: {str(error).strip()[-REASON:]}"
    else:
        found[side].append(figures)


def _cannot(case: Case, budget: Budget) -> str:
    """Why it is not even begun; empty when it can be."""
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < case.disk_gb:
        return f"it needs {case.disk_gb:g} GB of disk, {free:.0f} are free"
    return "" if budget.left_s > case.usual_s / 2 else "there was no time left for it"


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The same names, another one first: what a machine does over time must not always meet the same side."""
    at = by % len(names)
    return [*names[at:], *names[:at]]


def _row(
    case: Case, figure: Figure, found: Mapping[str, Sequence[Mapping[str, float]]], failed: Mapping[str, str]
) -> Row:
    spreads = {
        side: Spread(tuple(one[figure.name] for one in figures))
        for side, figures in found.items()
        if figures and all(figure.name in one for one in figures)
    }
    if OURS not in spreads and OURS not in failed:
        failed = {**failed, OURS: f"nothing was measured for {figure.name}"}
    return Row(case.name, figure, spreads, failed)


def _told(case: Case, figures: Sequence[Mapping[str, float]], why: str | None) -> str:
    """The last round of a side in words."""
    if why is not None:
        return f"FAILED: {why}"
    last = figures[-1]
    return ", ".join(f"{one.name} {last[one.name]:,.1f} {one.unit}" for one in case.figures if one.name in last)
