"""`python -m benchmarks`: the whole comparison, or a part of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import rich_click as click
from rich.console import Console

from benchmarks import catalogue, peers, report
from benchmarks.cases import OURS, Case, Row, run
from benchmarks.deadline import Budget

console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and smaller: under six minutes.")
@click.option("--read", is_flag=True, help="The API over ten million events, the page over one: ten minutes.")
@click.option("--large", is_flag=True, help="What else needs ten million events: half an hour, and 40 GB of disk.")
@click.option("--only", help="Only the cases whose names begin so, comma separated.")
@click.option(
    "--peers", "beside", default="all", show_default=True, help="Beside whom: all, none, or names with commas."
)
@click.option("--rounds", type=click.IntRange(1, 20), help="Rounds of each side (default: 3; 1 with --quick).")
@click.option("--write", is_flag=True, help="Write benchmarks/results.md as well.")
def main(quick: bool, read: bool, large: bool, only: str | None, beside: str, rounds: int | None, write: bool) -> None:
    """Measure Chronicle beside what else would be used for the same work. Ends with 1 when a side failed."""
    kind = "quick" if quick else "read" if read else "large" if large else "full"
    chosen = _beside(_chosen(getattr(catalogue, kind)(), only), beside)
    _prepare(chosen)
    budget = Budget(catalogue.LIMITS[kind]) if kind in catalogue.LIMITS else Budget()
    rows = _all(chosen, rounds or (1 if quick else 0), budget)
    found = report.result(rows, " ".join(["python -m benchmarks", *sys.argv[1:]]), budget.passed_s)
    console.print(report.table(rows))
    whole = not only and beside == "all" and not rounds
    where = report.keep(found, kind if whole else "part")
    console.print(f"{report.told_of(found)}; {budget.passed_s / 60:.1f} minutes; all of it: {where}")
    if write:
        report.RESULTS.write_text(report.markdown())
    if failed := [row.name for row in rows if row.failed]:
        console.print(f"FAILED, in part or as a whole: {', '.join(failed)}")
        sys.exit(1)


def _chosen(cases: Sequence[Case], only: str | None) -> list[Case]:
    wanted = tuple(only.split(",")) if only else ("",)
    chosen = [case for case in cases if case.name.startswith(wanted)]
    if not chosen:
        raise click.UsageError(f"No case is named so; there are {', '.join(case.name for case in cases)}.")
    return chosen


def _beside(cases: Sequence[Case], wanted: str) -> list[Case]:
    """The cases without the peers that are not wanted."""
    known = {side for case in cases for side in case.sides if side != OURS}
    named = known if wanted == "all" else set() if wanted == "none" else set(wanted.split(","))
    if unknown := named - known:
        raise click.UsageError(f"No peer is named {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}.")
    return [case.without(frozenset(known - named)) for case in cases]


def _prepare(cases: Sequence[Case]) -> None:
    """The environments of the peers that are needed: before the clock runs, since the first time takes minutes."""
    sides = {side.partition(",")[0].lower() for case in cases for side in case.sides}
    peers.prepare([name for name in peers.names() if name in sides], console.print)


def _all(cases: Sequence[Case], rounds: int, budget: Budget) -> list[Row]:
    """The rows of all cases; `rounds` 0: as each case has it."""
    rows: list[Row] = []
    for number, case in enumerate(cases):
        times = rounds or case.rounds
        budget.later_s = sum(one.usual_s for one in cases[number + 1 :])
        rest = case.usual_s * times + sum(one.usual_s * (rounds or one.rounds) for one in cases[number + 1 :])
        passed = f"{budget.passed_s / 60:.1f} min, about {rest / 60:.0f} to go"
        console.print(f"[{passed}] {case.name}, {number + 1} of {len(cases)}")
        rows += run(case, times, _say, budget)
    return rows


def _say(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')}   {text}")


if __name__ == "__main__":
    main()
