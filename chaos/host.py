"""What the place of a drill asks of the machine: ports, processes, their figures, an answer over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from app.stack.ports import claim, free_port
from app.stack.process import die_with_parent
from chaos.units import family

ROOT: Final = Path(__file__).resolve().parent.parent
STOP_S: Final = 15.0  # `up` promises 10


@dataclass(frozen=True)
class Usage:
    """Of one process now."""

    rss_bytes: int
    fds: int
    threads: int


async def get_json(url: str, timeout: float = 2.0) -> dict[str, Any] | None:
    """The JSON object that answers GET, whatever the status; None when none does in time."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as http,
            http.get(url) as answer,
        ):
            body: dict[str, Any] = await answer.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return None
    return body if isinstance(body, dict) else None


def spawn(command: tuple[str, ...], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            (sys.executable, "-m", "chronicle", *command),
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  # its library is loaded before the fork
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after STOP_S SIGKILL to it and its children."""
    if process.poll() is not None:
        return
    for pid in family(process.pid):  # one that a fault left stopped would not hear
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def ports(count: int) -> list[int]:
    """Free ones that no other stack of this machine is about to take."""
    found: list[int] = []
    while len(found) < count:
        port = free_port(avoid=frozenset(found))
        if claim(port):
            found.append(port)
    return found


def usage(pid: int) -> Usage | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        rss_kib = int(fields["VmRSS"].split()[0])
        return Usage(rss_kib << 10, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]))
    except (OSError, KeyError, ValueError):
        return None
