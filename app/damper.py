"""Libraries repeat themselves many times a second while a server is away: heard once in a while, and counted."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: Loggers that are damped, with all below them. Ours are not: each of our lines is said once for a reason.
DAMPED: Final = ("aiokafka", "asyncio", "chronicle.librdkafka", "connectors.transport", "faust", "mode")
#: Seconds in which a message like an earlier one is left out.
QUIET_S: Final = 30.0
#: Different messages that are remembered; the one unheard for longest is forgotten first.
MOST: Final = 256
#: Characters that tell messages apart, numbers and addresses aside.
TOLD: Final = 120
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")


class Damper(logging.Filter):
    """A filter for a handler; `monotonic` gives seconds. No lock: a count off by one in a race costs nothing."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._heard: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is let through; the next one of its kind tells how many were left out before it."""
        if not _is_damped(record.name):
            return True
        message = record.getMessage()
        key, now = (record.name, _NUMBERS.sub("#", message[:TOLD])), self._monotonic()
        since, left_out = self._heard.get(key, (now - QUIET_S, 0))
        if now - since < QUIET_S:
            self._heard[key] = (since, left_out + 1)
            return False
        self._remember(key, now)
        if left_out:
            record.msg, record.args = f"{message} (and {left_out} like it before)", ()
        return True

    def _remember(self, key: tuple[str, str], now: float) -> None:
        self._heard[key] = (now, 0)
        self._heard.move_to_end(key)
        while len(self._heard) > MOST:
            self._heard.popitem(last=False)


def _is_damped(name: str) -> bool:
    return any(name == damped or name.startswith(f"{damped}.") for damped in DAMPED)
