"""Hold: try until it works, for ever, and say so. What an agent does while something it needs is away.

No give-up time and no dead letter for an outage: the records stay unacked in Kafka, the agent stops reading, and memory
stays bounded by what it has already taken.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from schemas.clock import Clock
from schemas.errors import Unavailable
from schemas.metrics import Metrics

FIRST_DELAY = 0.2  # seconds: most outages of a local database are a restart of a second or two
MAX_DELAY = 10.0  # seconds: the longest an ended outage goes unnoticed
SAY_EVERY = 60.0  # seconds between two log lines of one hold

T = TypeVar("T")
_logger = structlog.get_logger("chronicle.hold")


def delay(attempt: int, jitter: float) -> float:
    """Seconds to wait after the failed attempt number `attempt` (0, 1 …); `jitter` in [0, 1) takes off up to half."""
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16)) * (1.0 - jitter / 2.0)


class Stale(Exception):
    """What was tried is no longer ours to do: the assignment ended, and whoever has the partition does it again."""


async def retried(
    what: str,
    attempt: Callable[[], Awaitable[T]],
    *,
    live: Callable[[], bool],
    held: Callable[[bool], None] = lambda _now: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
    **told: object,
) -> T:
    """Await `attempt()` until it works, for ever, while it is ours. `held` hears when waiting begins and ends.

    Only `Unavailable` is waited out; what else it raises comes through. Raises `Stale` when `live()` says no. `told`
    goes into the log.
    """
    failed = 0
    try:
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                if not live():
                    raise Stale from error
                held(True)
                log = _logger.error if failed == 0 else _logger.debug
                log("held", what=what, error=str(error), **told)
                await sleep(delay(failed, jitter()))
                failed += 1
    finally:
        if failed:
            held(False)


class Hold:
    """Retries one step. `since` is the wall-clock second the present hold began, None while nothing is held.

    `gauge` is the metric that shows how long; an agent beside the main way has none.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        gauge: str | None = "chronicle_sink_held_seconds",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._gauge = gauge
        self._sleep = sleep
        self._jitter = jitter
        self.since: float | None = None
        self.reason: str | None = None

    async def until(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await `attempt()` until it returns. Raises only CancelledError.

        An error that is not `Unavailable` breaks the contract of a sink; it is held all the same (what is unknown is
        an outage until somebody has looked), with its traceback in the log.
        """
        failed = 0
        began = said = self._clock.monotonic()
        while True:
            try:
                result = await attempt()
            except Exception as error:  # the agent's loop: see above
                now = self._clock.monotonic()
                if failed == 0:
                    began = said = now
                    self._start(what, error)
                elif now - said >= SAY_EVERY:
                    said = now
                    _logger.warning("still held", what=what, seconds=round(now - began), error=str(error))
                self.reason = str(error)
                self._show(now - began)
                await self._sleep(delay(failed, self._jitter()))
                failed += 1
            else:
                if failed:
                    self._end(what, self._clock.monotonic() - began, failed)
                return result

    def _start(self, what: str, error: Exception) -> None:
        self.since = self._clock.now()
        trace = None if isinstance(error, Unavailable) else error
        _logger.error("held", what=what, error=str(error) or repr(error), exc_info=trace)

    def _end(self, what: str, seconds: float, tries: int) -> None:
        self.since = self.reason = None
        self._show(0)
        _logger.warning("held no longer", what=what, seconds=round(seconds, 1), tries=tries)

    def _show(self, seconds: float) -> None:
        if self._gauge is not None:
            self._metrics.set(self._gauge, seconds)
