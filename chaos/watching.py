"""What runs beside the faults: the load as a process of its own, the reader, a look at the processes each second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from app.stack.process import die_with_parent
from chaos.evidence_process import sample
from chaos.evidence_values import Sample
from chaos.host import ROOT
from chaos.place import RealPlace
from chaos.reader import Reader, Reading

#: Seconds the load gets to finish its open requests.
STOP_S = 20.0


class Load:
    """`python -m chaos.load` against a place; an async context manager."""

    def __init__(
        self, url: str, ledger: Path, *, seed: int, rate: float, producers: int = 4, bulky: bool = False
    ) -> None:
        self.ledger = ledger
        self._log = ledger.with_suffix(".log")
        self._command = (
            *(sys.executable, "-m", "chaos.load", "--url", url, "--ledger", str(ledger)),
            *("--seed", str(seed), "--rate", str(rate), "--producers", str(producers)),
            *(("--bulky",) if bulky else ()),
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Load:
        self.ledger.mkdir(parents=True, exist_ok=True)
        self._process = self._start()
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # its library is loaded before the fork
            )

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
        if code and kind is None:
            raise RuntimeError(f"the load ended with {code}: {self._log.read_text()[-2000:]}")


class Watch:
    """The reader and the looks at processes; an async context manager."""

    def __init__(self, place: RealPlace, ledger: Path, *, seed: int, every_s: float = 1.0) -> None:
        self.samples: list[Sample] = []
        self._place, self._every_s = place, every_s
        self._reader = Reader(place.url, ledger, seed=seed)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def reading(self) -> Reading:
        """What the reader saw so far."""
        return self._reader.reading

    async def __aenter__(self) -> Watch:
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._reader.run(self._stop))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def peak_mb(self, start: float, end: float) -> float | None:
        """Most memory that one of our processes had between two times (epoch seconds)."""
        sizes = [look.rss for look in self.samples if start <= look.at <= end]
        return max(sizes) / 2**20 if sizes else None

    async def _look(self) -> None:
        while not self._stop.is_set():
            self.samples += sample(self._place.pids())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._every_s)
