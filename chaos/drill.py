"""A whole drill from an empty folder to a report: planted bugs, then one campaign after the other."""

from __future__ import annotations

import datetime
import os
import platform
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from chaos.campaign import Outcome, Terms, campaign, planted
from chaos.faults import chosen
from chaos.model import Fault
from chaos.report import BugRow, InvariantRow, Report
from chaos.run import Say
from chaos.seeded import BUGS

VERSIONED = ("faust-streaming", "aiokafka", "asyncpg", "confluent-kafka", "rocksdict", "fastavro")


@dataclass(frozen=True)
class Plan:
    """What is to be done. `bugs` are planted ones, a run each; `keep` keeps the data of a green run, too."""

    command: str
    folder: Path
    faults: Sequence[type[Fault]]
    terms: Terms
    bugs: Sequence[str] = ()
    keep: bool = False


def short_plan(command: str, folder: Path, seed: int) -> Plan:
    """About ten minutes: the faults marked short, once each, and two of the planted bugs, chosen by the seed."""
    bugs = random.Random(f"{seed}/bugs").sample(sorted(BUGS), 2)
    return Plan(command, folder, chosen(short=True), Terms(seed, hits=1), bugs)


def full_plan(command: str, folder: Path, seed: int) -> Plan:
    """Everything, as often as each fault says, and all planted bugs."""
    return Plan(command, folder, chosen(), Terms(seed), list(BUGS))


async def drill(plan: Plan, say: Say) -> Report:
    """Run it. Faults that would hide what others do have a campaign each."""
    began = time.monotonic()
    place = plan.folder / "place"
    bugs = [await planted(place, name, plan.terms, say) for name in plan.bugs]
    outcomes: list[Outcome] = []
    if usual := [kind for kind in plan.faults if not kind.alone()]:
        outcomes.append(await campaign(place, usual, plan.terms, say, bugs=bugs))
    for kind in (kind for kind in plan.faults if kind.alone()):
        terms = replace(plan.terms, least_acked=100, least_hits=1)
        outcomes.append(await campaign(place, [kind], terms, say))
    report = reported(plan, outcomes, bugs, time.monotonic() - began)
    if report.ok and not plan.keep:
        shutil.rmtree(place, ignore_errors=True)
    return report


def reported(plan: Plan, outcomes: Sequence[Outcome], bugs: list[BugRow], seconds: float) -> Report:
    """Everything on one page."""
    counts = [outcome.examination.counts for outcome in outcomes]
    verdicts = merged(outcomes)
    notes = [note for outcome in outcomes for note in outcome.notes]
    if not outcomes:
        notes.append("the checker was tried on planted bugs; no fault was done")
    return Report(
        command=plan.command,
        seed=plan.terms.seed,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        commit=commit(),
        versions={name: version(name) for name in VERSIONED},
        seconds=seconds,
        acked=sum(one.acked for one in counts),
        lost=sum(one.lost for one in counts),
        duplicated=sum(one.duplicated for one in counts),
        phantom=sum(one.phantom for one in counts),
        vacuous=any(one.id == "I15" and not one.ok for one in verdicts) or not (outcomes or bugs),
        faults=[row for outcome in outcomes for row in outcome.rows],
        invariants=verdicts,
        bugs=bugs,
        outside=outcomes[0].spent.outside if outcomes else None,
        notes=notes,
    )


def merged(outcomes: Sequence[Outcome]) -> list[InvariantRow]:
    """One row for each invariant: the first campaign that broke it speaks, else the first that judged it."""
    rows: dict[str, InvariantRow] = {}
    for outcome in outcomes:
        for one in outcome.examination.verdicts:
            there = rows.get(one.id)
            if there is None or (one.ok is False and there.ok) or (one.ok is not None and not there.judged):
                rows[one.id] = InvariantRow(
                    one.id, one.ok is not False, one.why, list(one.examples), judged=one.ok is not None
                )
    return list(rows.values())


def commit() -> str:
    """What was drilled: the short id of the checkout, with a `+` when files were changed; empty without git."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        id_ = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=True)
        changed = subprocess.run((*git, "status", "--porcelain"), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return id_.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> str:
    """What it ran on, in words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"
