"""Clocks that jump: Chronicle's own (in a drill its processes read an offset from a file), and those of clients."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from chaos.faults.own import Own
from chaos.model import Expected, Fault, Place

HOUR_S = 3600.0


def clock_file(place: Place) -> Path:
    """What CHAOS_CLOCK names in Chronicle's processes (`chaos/inside`): seconds to add to the wall clock."""
    told: Path | None = getattr(place, "clock", None)
    return told if told is not None else place.state_dir / "clock"


class ClockJump(Fault):
    """An hour on, then an hour back in one step, while batches, timers and the dedup window are at work."""

    name = "clock-jump"
    rows = ("F34",)
    what = "The wall clock of all of Chronicle jumps an hour ahead or back; clients' clocks are hours and days off."
    hold_s = 6.0
    expected = Expected(ready_s=20.0)
    offsets: ClassVar[tuple[float, ...]] = (HOUR_S, -HOUR_S)

    def cannot(self, place: Place) -> str | None:
        return None if clock_file(place).exists() else "Chronicle was started without a clock that can be turned"

    async def inject(self, place: Place) -> bool:
        self.own = Own(self.name, self.chance)
        clock_file(place).write_text(str(self.chance.choice(self.offsets)))
        events = self.own.events(9)
        for event, hours in zip(events, (-168, -24, -1, 0, 1, 24, 0, -1, -168), strict=True):
            event["timestamp"] = datetime.fromtimestamp(time.time() + hours * HOUR_S, UTC).isoformat()
        for event in events:
            await self.own.send(place.url, [event])
        return True

    async def heal(self, place: Place) -> None:
        clock_file(place).write_text("0")

    async def verify(self, place: Place) -> None:
        if set(self.own.statuses) != {202}:
            self.found.broken.append(f"events of strange times were answered with {dict(self.own.statuses)}")
        for event in list(self.own.acked.values()):  # the clock is back: a repeat is still a repeat
            await self.own.send(place.url, [event])
        self.found.broken += await self.own.broken(place.dsn)
