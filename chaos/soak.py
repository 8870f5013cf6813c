"""A soak: a steady load of thousands of events a second for a long time, and each minute a fault."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import Final

from chaos.campaign import Terms, campaign
from chaos.drill import Plan, reported
from chaos.faults import chosen
from chaos.place import RealPlace
from chaos.report import Report
from chaos.run import Rounds, Say, noted

#: Faults that are over within a minute, with all that follows from them: one of each kind of outage.
FAULTS: Final = (
    "worker-kill",
    "worker-term",
    "ingest-kill",
    "kafka-kill",
    "kafka-cut",
    "kafka-reset",
    "postgres-stop",
    "postgres-pause",
    "postgres-cut-after-commit",
    "postgres-read-only",
)
MINUTE_S: Final = 60.0


async def soak(command: str, folder: Path, terms: Terms, minutes: int, say: Say) -> Report:
    """Run it; the data of a green one is removed."""
    began, place = time.monotonic(), folder / "place"
    faults = chosen(only=FAULTS)

    async def doing(stack: RealPlace, lag: int) -> Rounds:
        return await each_minute(stack, terms.seed, minutes, say, lag)

    outcome = await campaign(place, faults, terms, say, doing=doing)
    report = reported(Plan(command, folder, faults, terms), [outcome], [], time.monotonic() - began)
    if report.ok:
        shutil.rmtree(place, ignore_errors=True)
    return report


async def each_minute(stack: RealPlace, seed: int, minutes: int, say: Say, lag: int) -> Rounds:
    """A fault at the beginning of each minute, or as soon as the one before is over."""
    done, begin = Rounds(), time.monotonic()
    order = random.Random(f"{seed}/soak")
    for minute in range(minutes):
        await asyncio.sleep(max(0.0, begin + minute * MINUTE_S - time.monotonic()))
        (kind,) = chosen(only=(order.choice(FAULTS),))
        fault = kind(random.Random(f"{seed}/soak/{minute}"))
        await noted(done, stack, fault, say, calm_lag=lag, which=f"in minute {minute + 1} of {minutes}")
    await asyncio.sleep(max(0.0, begin + minutes * MINUTE_S - time.monotonic()))
    return done
