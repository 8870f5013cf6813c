"""The only door to the wall clock and to random ids inside the rules."""

from __future__ import annotations

import time
from typing import Protocol
from uuid import UUID

import uuid_utils.compat


class Clock(Protocol):
    """Time and ids come in from outside, so that a test decides both."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch (for what is stored and shown)."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back (for timers, breakers and ages)."""
        ...

    def new_id(self) -> UUID:
        """A fresh, time-ordered UUID (version 7)."""
        ...


class SystemClock:
    """The real clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> UUID:
        return uuid_utils.compat.uuid7()
