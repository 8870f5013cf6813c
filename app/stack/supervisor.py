"""Keeps children running: start, probe, restart with backoff, stop in order.

The rule (`Backoff`) is plain; `Child` is the edge around one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from app.stack.console import Console, Lines, LogFile
from app.stack.process import Program, kill_group, spawn_options
from schemas.errors import Unavailable

POLL_S = 0.1
#: Seconds after which a child has done more than to begin: if it ends then, it is no loop of failing starts.
STARTED_S = 5.0
KILL_RESERVE_S = 0.5  # of the time to stop, what is kept for burying the killed
TAIL_LINES = 15
MISCONFIGURED = 78  # sysexits.h EX_CONFIG: no use in hurrying, an operator has to mend something first


class Backoff:
    """How long to wait before the next start: 0.5 s, doubled up to 15 s with each child that ended as it began."""

    def __init__(self, first: float = 0.5, longest: float = 15.0) -> None:
        self._first = first
        self.longest = longest
        self._next = first

    def after(self, lived_s: float) -> float:
        """The wait after a child that lived `lived_s` seconds."""
        if lived_s >= STARTED_S:
            self._next = self._first
        wait = self._next
        self._next = min(self.longest, self._next * 2)
        return wait


class Child:
    """One program kept alive from `start` to `stop`. `changed` is called after each start."""

    def __init__(self, program: Program, log: Path, console: Console, changed: Callable[[], None]) -> None:
        self.program = program
        self.deaths = 0
        self.pid: int | None = None
        self.last_code = 0
        self._log = log
        self._console = console
        self._changed = changed
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._backoff = Backoff()

    def start(self) -> None:
        """Begin to keep it running."""
        self._task = asyncio.create_task(self._keep_alive(), name=f"child {self.program.name}")

    async def wait_ready(self, timeout: float, *, max_deaths: int = 5) -> None:
        """Returns when it answers. Raises `Unavailable` after `timeout` seconds or the `max_deaths`-th death."""
        deadline = time.monotonic() + timeout
        while not (self.pid and await asyncio.to_thread(self.program.answers)):
            if self.deaths >= max_deaths or self.last_code == MISCONFIGURED:
                raise Unavailable(self.program.name, f"ended {self.deaths} times at its start:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Unavailable(self.program.name, f"did not answer within {timeout:.0f} s:\n{self.tail()}")
            await asyncio.sleep(POLL_S)

    def tail(self) -> str:
        """Its last lines."""
        return "\n".join(f"    {line}" for line in self._tail)

    async def stop(self, timeout: float) -> None:
        """Ask it to end, wait `timeout` seconds, then end it. Returns when it is gone."""
        self._stopping.set()
        if self._task is None:
            return
        self.signal(self.program.stop_signal)
        if self.pid is None:
            self._task.cancel()  # waiting for its next start
        done, _ = await asyncio.wait({self._task}, timeout=timeout)
        if not done:
            self._console.line(self.program.name, f"did not stop within {timeout:.1f} s: killed")
            self.kill()
            await asyncio.wait({self._task})

    def kill(self) -> None:
        """At once, with whatever it started."""
        self._stopping.set()
        if self.pid is not None:
            kill_group(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep_alive(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self.last_code = await self._run_once()
            if self._stopping.is_set():
                return
            self.deaths += 1
            mistaken = self.last_code == MISCONFIGURED
            wait = self._backoff.longest if mistaken else self._backoff.after(time.monotonic() - began)
            self._console.line(
                self.program.name, f"ended with {_ending(self.last_code)}; starting it again in {wait:.1f} s"
            )
            await asyncio.sleep(wait)

    async def _run_once(self) -> int:
        pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        self._process = await asyncio.create_subprocess_exec(
            *self.program.argv, stdout=pipe, stderr=out, **spawn_options(self.program)
        )
        self.pid = self._process.pid
        self._changed()
        if self._stopping.is_set():  # asked to stop while it was being started
            self.signal(self.program.stop_signal)
        reader = asyncio.create_task(self._read(self._process.stdout))
        try:
            return await self._process.wait()
        finally:
            self.pid = self._process = None
            await asyncio.wait({reader}, timeout=1)  # a grandchild may hold the pipe open
            reader.cancel()

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        with contextlib.closing(LogFile(self._log)) as file:
            lines = Lines(lambda line: self._line(line, file))
            while data := await stream.read(64 << 10):
                lines.feed(data)
            lines.end()

    def _line(self, line: bytes, file: LogFile) -> None:
        file.write(line + b"\n")
        text = line.decode(errors="replace").rstrip()
        self._tail.append(text)
        if text and self.program.shows(text):
            self._console.line(self.program.name, text)


class Supervisor:
    """All children, in the order in which they stop."""

    def __init__(self, log_dir: Path, console: Console, changed: Callable[[], None] = lambda: None) -> None:
        self._log_dir = log_dir
        self._console = console
        self._changed = changed
        self._children: list[Child] = []

    def start(self, program: Program) -> Child:
        """Start keeping it running."""
        child = Child(program, self._log_dir / f"{program.name}.log", self._console, self._changed)
        self._children.append(child)
        child.start()
        return child

    async def stop(self, waves: Sequence[Sequence[str]], *, timeout: float) -> None:
        """Stop wave after wave of names, each wave at once, within `timeout` seconds altogether.

        A wave may use an equal share of what is left, so a quick one leaves its time to the later ones.
        """
        deadline = time.monotonic() + timeout - KILL_RESERVE_S
        for index, wave in enumerate(waves):
            share = max(0.1, (deadline - time.monotonic()) / (len(waves) - index))
            children = [child for child in self._children if child.program.name in wave]
            await asyncio.gather(*(child.stop(share) for child in children))

    def kill(self) -> None:
        """All at once."""
        for child in self._children:
            child.kill()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
