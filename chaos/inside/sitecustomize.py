"""Runs first in every Chronicle process of a drill (its folder is on PYTHONPATH): turns its clock, plants a bug.

CHAOS_CLOCK names a file that holds seconds to add to the wall clock, read again ten times a second; CHAOS_BUG names one
of `chaos.seeded.BUGS`. Without them nothing happens. It is no part of the package: Chronicle has no such switch.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def _turn(path: Path) -> None:
    real, monotonic = time.time, time.monotonic
    state = {"offset": 0.0, "until": 0.0}

    def read() -> float:
        try:
            return float(path.read_text() or 0)
        except (OSError, ValueError):
            return 0.0

    def now() -> float:
        if monotonic() > state["until"]:
            state.update(offset=read(), until=monotonic() + 0.1)
        return real() + state["offset"]

    time.time = now


if os.environ.get("CHAOS_CLOCK"):
    _turn(Path(os.environ["CHAOS_CLOCK"]))
if os.environ.get("CHAOS_BUG"):
    from chaos.seeded import plant

    plant(os.environ["CHAOS_BUG"])
