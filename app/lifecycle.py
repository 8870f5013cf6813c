"""How a worker process lives: resources open, the web face answers, the stream apps run; then all of it in reverse.

A process holds one web-only Faust app (it must answer while Kafka is away) and one Faust app for each stream role (a
consumer group of its own, so that a held sink never stops dedup). What breaks ends the process with a code other than
0, and its supervisor starts it again; an operator's mistake ends it as `Misconfigured`, since a restart would not help.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from math import inf
from pathlib import Path
from typing import Any, Protocol

import faust
import structlog
from faust.app.base import BootStrategy

from app import problems
from app.memory import collect_rarely
from app.web_server import DEFAULT_LIMITS, Answer, Limits, Runner
from schemas.clock import SystemClock
from schemas.errors import Misconfigured
from schemas.metrics import NullMetrics

log = structlog.get_logger("chronicle.process")

#: Longest wait for the stream apps to stop, in seconds: finish what is held, commit, leave the group.
STOP_S = 4.5
#: Seconds from the wish to end until `run` returns, whatever hangs; `chronicle up` promises 10 for everything.
END_S = 7.0
#: Seconds that each part gets to close when the others have used up the time.
LEAST_S = 0.3
#: Exit code of a process that gave itself up; the supervisor restarts it.
BROKEN = 70


class WebOnly(BootStrategy):
    """Start the web server and nothing else."""

    enable_kafka = False
    enable_web = True


class Resource(Protocol):
    """Something with a beginning and an end."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


def web_app(
    app_id: str,
    *,
    host: str,
    port: int,
    datadir: str,
    options: dict[str, object],
    limits: Limits = DEFAULT_LIMITS,
    answer: Answer | None = None,
) -> faust.App:
    """The Faust app that serves HTTP; it has no consumer and no producer.

    `answer` makes the answer to what never becomes a request (`problems.outside`). Faust's own pages are off:
    `/table` reads any key and `/router` shows the topology to anybody.
    """
    Path(datadir).mkdir(parents=True, exist_ok=True)
    app = faust.App(
        app_id,
        broker="kafka://127.0.0.1:9",  # never connected to
        datadir=datadir,
        web_enabled=True,
        web_bind=host,
        web_port=port,
        web_host=host,
        web_in_thread=False,
        web_tables_enabled=False,
        web_router_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_application_options=options,
        debug=False,
        topic_allow_declare=False,
    )
    app.boot_strategy = WebOnly(app)
    app.producer_only = True
    # aiohttp's own default waits 60 s for idle keep-alive connections when the process stops.
    server: Any = app.web
    server._runner = Runner(
        server.web_app,
        limits=limits,
        answer=answer or problems.outside(SystemClock(), NullMetrics()),
        access_log=None,
        shutdown_timeout=1.0,
        handler_cancellation=False,
    )
    return app


class Process:
    """Runs until a signal comes or a part breaks."""

    def __init__(
        self,
        *,
        resources: Sequence[Resource],
        web: faust.App,
        streams: Sequence[Callable[[], faust.App]],
        before_streams: Callable[[], Awaitable[None]] | None = None,
        background: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._resources = resources
        self._web = web
        self._streams = streams
        self._before_streams = before_streams
        self._background = background
        self._stop = asyncio.Event()
        self._code = 0
        self._mistake: Misconfigured | None = None
        self._end_at = inf

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    async def stopping(self) -> None:
        """Until the end was asked for, by a signal or by a part that broke."""
        await self._stop.wait()

    def start_again(self, why: str) -> None:
        """End in order, with the code that makes the supervisor start us again."""
        self._broken(why)

    def abort(self, why: str) -> None:
        """End at once: an ack of something unwritten would be worse. The supervisor restarts us."""
        log.error("the process gives itself up", why=why)
        os._exit(BROKEN)

    async def run(self) -> int:
        """The exit code, once everything is closed. Raises `Misconfigured` when a part found an operator's mistake."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stop)
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await self._unless_stopped(resource.open())
                stack.push_async_callback(self._close, resource.close, type(resource).__name__)
            await self._unless_stopped(self._web.start())
            stack.push_async_callback(self._close, self._web.stop, "web")
            tasks = [asyncio.create_task(self._guard(work), name=work.__qualname__) for work in self._background]
            if self._streams and self._before_streams is not None:
                await self._unless_stopped(self._guard(self._before_streams))
            made = await asyncio.gather(*(self._start(make) for make in self._streams if not self._stop.is_set()))
            apps = [app for app in made if app is not None]
            tasks += [asyncio.create_task(self._watch(app), name=str(app.conf.id)) for app in apps]
            collect_rarely()
            await self._stop.wait()
            log.info("stopping")
            self._end_at = loop.time() + END_S
            await asyncio.gather(*(_bounded(app.stop, str(app.conf.id), STOP_S) for app in apps))
            await _cancelled(tasks)
        if self._mistake is not None:
            raise self._mistake
        return self._code

    async def _close(self, close: Callable[[], Awaitable[None]], name: str) -> None:
        left = self._end_at - asyncio.get_running_loop().time()
        await _bounded(close, name, max(LEAST_S, min(STOP_S, left)))

    async def _start(self, make: Callable[[], faust.App]) -> faust.App | None:
        app = None
        try:
            app = make()
            await self._unless_stopped(app.start())
        except Misconfigured as mistake:
            self._misconfigured(mistake)
        except Exception as error:  # the broker went away again, most likely; a restart waits for it
            name = make.__qualname__ if app is None else str(app.conf.id)
            log.exception("could not start", app=name)
            self._broken(f"{name} could not start: {error!r}")
        return app

    async def _unless_stopped(self, work: Awaitable[None]) -> None:
        """Wait for `work`, or for the signal to stop, whichever comes first. Raises what `work` raises."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            working.cancel()
            raise
        finally:
            stopping.cancel()
        if working.done():
            working.result()
        else:
            working.cancel()

    async def _watch(self, app: faust.App) -> None:
        """A stream app that crashed or stopped by itself takes the process with it."""
        while not self._stop.is_set():
            if app.crashed or app.should_stop:
                self._broken(f"{app.conf.id} crashed: {app.crash_reason!r}")
            await asyncio.sleep(0.2)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Misconfigured as mistake:
            self._misconfigured(mistake)
        except Exception as error:  # a background part that ends is a broken process: say so and let it be restarted
            log.exception("background work failed", work=work.__qualname__)
            self._broken(repr(error))

    def _misconfigured(self, mistake: Misconfigured) -> None:
        """The first mistake is told; what breaks because of it is only a consequence."""
        if not self._stop.is_set():
            log.error("misconfigured", error=str(mistake))
            self._mistake = mistake
            self._stop.set()

    def _broken(self, why: str) -> None:
        if not self._stop.is_set():
            log.error("a part broke", why=why)
            self._code = BROKEN
            self._stop.set()


async def _bounded(close: Callable[[], Awaitable[None]], name: str, seconds: float) -> None:
    """Close something, but wait no longer than that; an error while closing must not keep the rest open.

    A limit around an `await` is not enough: Faust's services go on with stopping when they are cancelled, and a driver
    may hang on its cancellation. What does not end in time is cancelled and left to itself.
    """
    closing = asyncio.ensure_future(close())
    await asyncio.wait({closing}, timeout=seconds)
    if not closing.done():
        log.warning("did not stop in time", part=name, seconds=round(seconds, 1))
        closing.add_done_callback(_looked_at)
        closing.cancel()
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.error("did not stop cleanly", part=name, exc_info=error)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them and wait for a moment; what does not hear it is named and left to itself."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_looked_at)
    if tasks:
        _, deaf = await asyncio.wait(tasks, timeout=LEAST_S)
        for task in deaf:
            log.warning("did not stop in time", part=task.get_name(), seconds=LEAST_S)


def _looked_at(done: asyncio.Future[None]) -> None:
    """So that asyncio does not report an error as lost that nobody waits for any more."""
    if not done.cancelled():
        done.exception()
