"""Programs of a benchmark: Chronicle's whole stack, a load, a peer; each started for one round and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).resolve().parent.parent
START_S, STOP_S = 90.0, 15.0
#: Seconds that a program of ours may take, unless told otherwise.
TOLD_S = 300.0
#: Seconds between two looks at what is being filled: when it is nearly there, and at most.
SOON_S, SELDOM_S = 0.1, 2.0
connect: Any = asyncpg.connect  # asyncpg tells no types


@contextlib.contextmanager
def up(*options: str, env: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """`chronicle up --ephemeral` with a directory of its own; what its ready file tells, and its own pid as `pids.up`.
    `env`: settings besides."""
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "chronicle", "up", "--ephemeral", "--ready-file", str(ready), *options]
        told_ = {**os.environ, **(env or {})}
        with (
            (Path(folder) / "log").open("w+") as log,
            ended(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=told_)) as it,
        ):
            until(lambda: ready.exists() or it.poll() is not None, START_S, "the stack")
            if it.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"the stack ended: {log.read()[-2000:]}")
            where = json.loads(ready.read_text())
            where["pids"]["up"] = it.pid
            yield where


def program(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Started; what it says goes nowhere."""
    return subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any], patience: float = STOP_S) -> Iterator[subprocess.Popen[Any]]:
    """The process; SIGTERM at the end, SIGKILL if that does not do within `patience` seconds."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when the wait itself is cut off
            process.kill()
            process.wait()


def told(module: str, *arguments: object, seconds: float = TOLD_S) -> dict[str, Any]:
    """The last line that a program of ours prints, as JSON. Raises RuntimeError with what it said when it fails, and
    subprocess.TimeoutExpired when it takes more than `seconds`."""
    command: Sequence[str] = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def until(condition: Any, seconds: float, what: str, every: float = 0.05) -> None:
    """Wait for it. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not there within {seconds:g} s")
        time.sleep(every)


def reached(
    count: Callable[[], int],
    wanted: int,
    seconds: float,
    what: str,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until `count` tells at least `wanted`; look again when half of what is missing should be there.

    A look at a large table every tenth of a second takes a seventh of a core from what is measured, and more from who
    is quick than from who leaves a core idle. Raises TimeoutError.
    """
    began = monotonic()
    first = found = count()
    while found < wanted:
        past = monotonic() - began
        if past > seconds:
            raise TimeoutError(f"{what} was not there within {seconds:g} s")
        left = past * (wanted - found) / (found - first) if found > first else 0.0
        sleep(min(max(left / 2, SOON_S), SELDOM_S))
        found = count()


def rows(dsn: str, table: str) -> int:
    """How many rows a table has; 0 while there is none."""
    try:
        return int(asked(dsn, f"SELECT count(*) FROM {table}"))
    except asyncpg.UndefinedTableError:
        return 0


def asked(dsn: str, query: str, *values: object) -> Any:
    """The one value that a query gives."""

    async def ask() -> Any:
        connection = await connect(dsn)
        try:
            return await connection.fetchval(query, *values)
        finally:
            await connection.close()

    return asyncio.run(ask())
