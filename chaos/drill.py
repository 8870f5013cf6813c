"""A whole drill from an empty folder to a report: rounds under load, quiet, evidence, verdicts, planted bugs."""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from chaos.evidence import gather
from chaos.evidence_values import Evidence
from chaos.faults import chosen
from chaos.host import get_json
from chaos.invariants import Context, Examination, examine
from chaos.ledger import read
from chaos.ledger_sum import Summary
from chaos.measure import Window, costs
from chaos.model import Fault
from chaos.place import RealPlace
from chaos.report import BugRow, FaultRow, InvariantRow, Report
from chaos.run import Rounds, Say, all_rounds
from chaos.seeded import BUGS
from chaos.selftest import SCENARIOS
from chaos.watching import Load, Watch

INSIDE = Path(__file__).parent / "inside"
#: Seconds of load before the first fault and after the last.
WARM_S = 5.0
#: Seconds until everything must have come to rest.
QUIET_S = 90.0
#: Seconds of load that may lie between the ends of the topics and the commits while all is well: two groups commit once
#: a second each.
CALM_S = 3.0
VERSIONED = ("faust-streaming", "aiokafka", "asyncpg", "confluent-kafka", "rocksdict", "fastavro")


@dataclass(frozen=True)
class Plan:
    """What is to be done. `hits` overrules how often each fault is done; `bugs` are planted ones, a run each."""

    command: str
    folder: Path
    seed: int
    faults: Sequence[type[Fault]]
    bugs: Sequence[str] = ()
    hits: int | None = None
    rate: float = 250.0
    least_acked: int = 10_000
    keep: bool = False


def short_plan(command: str, folder: Path, seed: int) -> Plan:
    """About ten minutes: the faults marked short, once each, and two of the planted bugs, chosen by the seed."""
    bugs = random.Random(f"{seed}/bugs").sample(sorted(BUGS), 2)
    return Plan(command, folder, seed, chosen(short=True), bugs, hits=1)


def full_plan(command: str, folder: Path, seed: int) -> Plan:
    """Everything, as often as each fault says, and all planted bugs."""
    return Plan(command, folder, seed, chosen(), list(BUGS))


async def drill(plan: Plan, say: Say) -> Report:
    """Run it. Raises when the place cannot be had or the evidence not be gathered; everything else is in the report."""
    began = time.monotonic()
    bugs = [await planted(plan, name, say) for name in plan.bugs]
    if not plan.faults:
        return only_bugs(plan, bugs, time.monotonic() - began)
    folder = fresh(plan.folder / "place")
    async with RealPlace(folder, pythonpath=INSIDE, settings=clock_of(folder)) as place:
        load = Load(place.url, folder / "ledger", seed=plan.seed, rate=plan.rate)
        async with Watch(place, load.ledger, seed=plan.seed) as watch:
            async with load:
                await asyncio.sleep(WARM_S)
                lag = int(plan.rate * CALM_S)
                done = await all_rounds(place, plan.faults, plan.seed, say, calm_lag=lag, hits=plan.hits)
                await asyncio.sleep(WARM_S)
            say("the load has ended; waiting for rest")
            quiet = await rest(place)
        evidence = await evidence_of(place, watch)
        logs = {path.name: path for path in folder.glob("*.log")}
    say("counting")
    context = Context(
        windows=done.windows,
        limits=done.limits,
        reading=watch.reading,
        logs=logs,
        mid_batch_hits=sum(window.hit for window in done.windows),
        self_test={bug.name: bug.caught for bug in bugs} or None,
        least_acked=plan.least_acked,
    )
    found = await asyncio.to_thread(judged, load.ledger, evidence, context)
    report = reported(plan, done, found, bugs, watch, time.monotonic() - began)
    if not quiet:
        report.notes.append(f"not at rest within {QUIET_S:g} s after the last fault")
    if report.ok and not plan.keep:
        shutil.rmtree(plan.folder / "place", ignore_errors=True)
    return report


def only_bugs(plan: Plan, bugs: list[BugRow], seconds: float) -> Report:
    """A run that tried the checker alone."""
    return Report(
        command=plan.command,
        seed=plan.seed,
        date=now(),
        machine=machine(),
        versions=versions(),
        seconds=seconds,
        acked=0,
        lost=0,
        duplicated=0,
        phantom=0,
        vacuous=not bugs,
        faults=[],
        invariants=[],
        bugs=bugs,
        notes=["the checker was tried on planted bugs; no fault was done"],
    )


def judged(ledger: Path, evidence: Evidence, context: Context) -> tuple[Examination, list[Window]]:
    """The verdicts."""
    return examine(Summary(read(ledger)), evidence, context), list(context.windows)


def clock_of(folder: Path) -> dict[str, str]:
    """The file that turns the clock of Chronicle's processes."""
    clock = folder / "clock"
    clock.write_text("0")
    return {"CHAOS_CLOCK": str(clock)}


def fresh(folder: Path) -> Path:
    """An empty one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


async def rest(place: RealPlace) -> bool:
    """Whether within QUIET_S nothing is pending any more, SQLite is empty and lag is 0."""
    end = time.monotonic() + QUIET_S
    while time.monotonic() < end:
        stats = await get_json(f"{place.url}/stats") or {}
        ledger = stats.get("ledger")
        pending = ledger.get("pending") if isinstance(ledger, dict) else None
        stored = ledger.get("parts", {}).get("stored", {}) if isinstance(ledger, dict) else {}
        if pending == 0 and not stored.get("sqlite") and await place.lag() == 0:
            return True
        await asyncio.sleep(0.5)
    return False


async def evidence_of(place: RealPlace, watch: Watch | None = None) -> Evidence:
    """Everything that is stored now."""
    return await gather(
        url=place.url,
        dsn=place.dsn,
        broker=place.broker,
        sqlite=place.sqlite,
        topics=place.topics,
        samples=watch.samples if watch else (),
    )


async def planted(plan: Plan, name: str, say: Say) -> BugRow:
    """A run of its own with one bug in it: caught when an invariant that must tell of it is broken."""
    say(f"planted bug {name}: {BUGS[name].what}")
    folder = fresh(plan.folder / f"bug-{name}")
    async with RealPlace(folder, pythonpath=INSIDE, settings={"CHAOS_BUG": name}) as place:
        load = Load(place.url, folder / "ledger", seed=plan.seed, rate=plan.rate)
        async with load:
            await asyncio.sleep(WARM_S)
            await SCENARIOS[name](place)
        await rest(place)
        evidence = await evidence_of(place)
    context = Context(log_whole=True)
    found, _ = await asyncio.to_thread(judged, load.ledger, evidence, context)
    told = [one.id for one in found.verdicts if one.ok is False and one.id in BUGS[name].caught_by]
    say(f"planted bug {name}: {'caught by ' + ', '.join(told) if told else 'NOT CAUGHT'}")
    if told and not plan.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return BugRow(name, bool(told), told)


def reported(
    plan: Plan,
    done: Rounds,
    found: tuple[Examination, list[Window]],
    bugs: list[BugRow],
    watch: Watch,
    seconds: float,
) -> Report:
    """Everything on one page."""
    examination, windows = found
    counts = examination.counts
    spent = costs(read(plan.folder / "place" / "ledger"), windows)
    for name, row in done.rows.items():
        row.lost, row.duplicated = counts.lost_by_fault.get(name, 0), counts.duplicated_by_fault.get(name, 0)
        row.cost = spent.by_fault.get(name)
        row.rss_peak_mb = _peak(watch, [window for window in windows if window.fault == name])
    verdicts = [InvariantRow(one.id, one.ok is not False, one.why, list(one.examples)) for one in examination.verdicts]
    return Report(
        command=plan.command,
        seed=plan.seed,
        date=now(),
        machine=machine(),
        versions=versions(),
        seconds=seconds,
        acked=counts.acked,
        lost=counts.lost,
        duplicated=counts.duplicated,
        phantom=counts.phantom,
        vacuous=any(one.id == "I15" and not one.ok for one in verdicts),
        faults=_rows(done),
        invariants=verdicts,
        bugs=bugs,
        outside=spent.outside,
    )


def _rows(done: Rounds) -> list[FaultRow]:
    return list(done.rows.values())


def _peak(watch: Watch, windows: list[Window]) -> float | None:
    peaks = [watch.peak_mb(window.start, window.end) for window in windows]
    return max((peak for peak in peaks if peak is not None), default=None)


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of the libraries that matter here."""
    return {name: version(name) for name in VERSIONED}


def machine() -> str:
    """What it ran on, in words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"
