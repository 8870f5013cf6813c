"""Time: a side that does not come to an end is cut off, and a whole run keeps to its minutes."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any


class Late(Exception):
    """A side was not done in its time."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises `Late` inside the context after so many seconds; in the main thread only. What is open closes as ever."""

    def late(_number: int, _frame: Any) -> None:
        raise Late(f"not done within {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, old)


class Budget:
    """The minutes of a whole run. `usual_s` are seconds that work takes as a rule, on two cores."""

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began, self._seconds = clock, clock(), seconds
        #: Usual seconds of the cases that are still to come, one round of each.
        self.later_s = 0.0

    @property
    def passed_s(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Of the limit; infinite without one."""
        return self._seconds - self.passed_s

    def another(self, usual_s: float) -> bool:
        """Whether one more round fits in, with a round of every later case behind it."""
        return self.left_s >= usual_s + self.later_s

    def at_most(self, seconds: float) -> float:
        """These seconds, or what is left of the limit when that is less."""
        return max(1.0, min(seconds, self.left_s))
