"""One place, one load, some faults, one verdict. A drill is one campaign or several."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.evidence import gather
from chaos.evidence_values import Evidence
from chaos.faults import small_disk
from chaos.host import get_json
from chaos.invariants import Context, Examination, examine
from chaos.ledger import read
from chaos.ledger_sum import Summary
from chaos.measure import Costs, Window, costs
from chaos.model import Fault
from chaos.place import RealPlace
from chaos.report import BugRow, FaultRow
from chaos.run import Rounds, Say, all_rounds
from chaos.seeded import BUGS
from chaos.selftest import SCENARIOS
from chaos.watching import Load, Watch

INSIDE = Path(__file__).parent / "inside"
#: Seconds of load before the first fault and after the last.
WARM_S = 5.0
#: Seconds until everything must have come to rest.
QUIET_S = 90.0
#: The same with a planted bug, which may keep it from ever being so.
PLANTED_QUIET_S = 30.0
#: Seconds of load that may lie between the ends of the topics and the commits while all is well: two groups commit once
#: a second each.
CALM_S = 3.0


@dataclass(frozen=True)
class Terms:
    """What a campaign is run on: seed and rate of the load (events a second), how often each fault is done (None: as
    often as it says), the least that makes it no vacuous one.

    `soak`: a load of many small events in bulks; at the end memory must be flat, and the public stream is not read
    again record by record.
    """

    seed: int
    rate: float = 250.0
    hits: int | None = None
    least_acked: int = 10_000
    least_hits: int = 3
    soak: bool = False


#: Does faults to a place under load: the place, and the records of lag that the load alone makes.
Doing = Callable[[RealPlace, int], Awaitable[Rounds]]


@dataclass
class Outcome:
    """What came of it. `rows` have everything but the planted bugs."""

    rows: list[FaultRow]
    examination: Examination
    spent: Costs
    notes: list[str] = field(default_factory=list)


async def campaign(
    folder: Path,
    faults: Sequence[type[Fault]],
    terms: Terms,
    say: Say,
    *,
    bugs: Sequence[BugRow] = (),
    doing: Doing | None = None,
) -> Outcome:
    """Run it in `folder`, which is emptied first. `doing` instead of each fault so often, one kind after the other.

    Raises when the place cannot be had or the evidence not be gathered; everything else is in the outcome.
    """
    fresh(folder)
    async with RealPlace(folder, pythonpath=INSIDE, settings=clock_of(folder)) as place:
        load = Load(place.url, folder / "ledger", seed=terms.seed, rate=terms.rate, bulky=terms.soak)
        async with Watch(place, load.ledger, seed=terms.seed) as watch:
            async with load:
                await asyncio.sleep(WARM_S)
                lag = int(terms.rate * CALM_S)
                if doing is None:
                    done = await all_rounds(place, faults, terms.seed, say, calm_lag=lag, hits=terms.hits)
                else:
                    done = await doing(place, lag)
                await asyncio.sleep(WARM_S)
            say("the load has ended; waiting for rest")
            quiet = await rest(place)
        evidence = await evidence_of(place, watch, passed=not terms.soak)
    say("counting")
    context = Context(
        windows=done.windows,
        limits=done.limits,
        log_whole=all(kind.keeps_log for kind in faults),
        counts_whole=all(kind.keeps_counts for kind in faults),
        reading=watch.reading if all(kind.keeps_readable for kind in faults) else None,
        logs={path.name: path for path in folder.glob("*.log")},
        restored=restored(done, faults),
        mid_batch_hits=sum(window.hit for window in done.windows),
        self_test={bug.name: bug.caught for bug in bugs} or None,
        least_acked=terms.least_acked,
        least_hits=terms.least_hits,
        flat=terms.soak,
    )
    examination = await asyncio.to_thread(judged, load.ledger, evidence, context)
    spent = costs(read(load.ledger), done.windows)
    notes = [] if quiet else [f"not at rest within {QUIET_S:g} s after the last fault"]
    notes += open_counts(examination, faults)
    return Outcome(_rows(done, examination, spent, watch), examination, spent, notes)


def restored(done: Rounds, faults: Sequence[type[Fault]]) -> dict[str, list[str]]:
    """What the faults that destroyed state found wrong afterwards; those that were skipped looked at nothing."""
    names = (kind.name for kind in faults if kind.loses_state)
    return {name: row.broken for name in names if (row := done.rows.get(name)) is not None and row.rounds}


def open_counts(examination: Examination, faults: Sequence[type[Fault]]) -> list[str]:
    """A note where I17 could not be judged: on the page of several campaigns another one's verdict would hide it."""
    names = ", ".join(kind.name for kind in faults)
    return [f"{names}: I17 {one.why}" for one in examination.verdicts if one.id == "I17" and one.ok is None]


def judged(ledger: Path, evidence: Evidence, context: Context) -> Examination:
    """The verdicts on a ledger's folder."""
    return examine(Summary(read(ledger)), evidence, context)


def clock_of(folder: Path) -> dict[str, str]:
    """The file that turns the clock of Chronicle's processes."""
    clock = folder / "clock"
    clock.write_text("0")
    return {"CHAOS_CLOCK": str(clock)}


def fresh(folder: Path) -> Path:
    """An empty one. A drill that was killed may have left its small disk mounted there."""
    for left in folder.glob("*/small-disk"):
        small_disk.unmount(left)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


async def rest(place: RealPlace, seconds: float = QUIET_S) -> bool:
    """Whether within `seconds` nothing is pending any more, SQLite is empty and no group has anything left to do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stats = await get_json(f"{place.url}/stats") or {}
        waiting = stats.get("ledger", {}).get("pending"), stats.get("parts", {}).get("stored", {}).get("sqlite")
        if waiting == (0, 0) and await place.lag_of_all() == 0:
            return True
        await asyncio.sleep(0.5)
    return False


async def evidence_of(
    place: RealPlace, watch: Watch | None = None, *, passed: bool = True, recount: bool = True
) -> Evidence:
    """Everything that is stored now; `passed`: with every record of the public stream; `recount`: counted again."""
    return await gather(
        url=place.url,
        dsn=place.dsn,
        broker=place.broker,
        sqlite=place.sqlite,
        topics=place.topics,
        samples=watch.samples if watch else (),
        passed=passed,
        recount=recount,
    )


async def planted(folder: Path, name: str, terms: Terms, say: Say) -> BugRow:
    """A run with one bug in it: caught when an invariant that must tell of it is broken. The folder is emptied."""
    say(f"planted bug {name}: {BUGS[name].what}")
    fresh(folder)
    async with RealPlace(folder, pythonpath=INSIDE, settings={"CHAOS_BUG": name}) as place:
        load = Load(place.url, folder / "ledger", seed=terms.seed, rate=terms.rate)
        async with load:
            await asyncio.sleep(WARM_S)
            await SCENARIOS[name](place)
        await rest(place, PLANTED_QUIET_S)
        counted = "I17" in BUGS[name].caught_by  # the others lose or double what is stored
        evidence = await evidence_of(place, recount=counted)
    found = await asyncio.to_thread(judged, load.ledger, evidence, Context())
    told = [one.id for one in found.verdicts if one.ok is False and one.id in BUGS[name].caught_by]
    say(f"planted bug {name}: {'caught by ' + ', '.join(told) if told else 'NOT CAUGHT'}")
    return BugRow(name, bool(told), told)


def _rows(done: Rounds, examination: Examination, spent: Costs, watch: Watch) -> list[FaultRow]:
    counts = examination.counts
    for name, row in done.rows.items():
        row.lost, row.duplicated = counts.lost_by_fault.get(name, 0), counts.duplicated_by_fault.get(name, 0)
        row.cost = spent.by_fault.get(name)
        row.rss_peak_mb = _peak(watch, [window for window in done.windows if window.fault == name])
    return list(done.rows.values())


def _peak(watch: Watch, windows: list[Window]) -> float | None:
    peaks = [watch.peak_mb(window.start, window.end) for window in windows]
    return max((peak for peak in peaks if peak is not None), default=None)
