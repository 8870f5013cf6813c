"""A thousand people watch one process: what that costs those who send."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import Round
from benchmarks.running import ROOT, ended, told, until, up

CLIENTS, CONNECTIONS = 1_000, 32
#: Requests/s of a team that works: what its hooks wait for, beside what the process can do at most.
STEADY = 200
#: Events for all of them, a second; each client gets each.
WATCHED_RATE = 5
START_S = 60.0


def live(seconds: float) -> Round:
    """A round: `rate_0` and `rate_1000` (requests/s at most, one event each), `kept` (their quotient), `p99_0` and
    `p99_1000` (ms, at STEADY requests/s), `sent` (events/s that reached the clients)."""

    def once() -> Mapping[str, float]:
        with up() as stack, tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:
            url, file = stack["url"], Path(folder) / "told.json"
            quiet, alone = single(url, seconds, STEADY), single(url, seconds)
            with watchers(url, file):
                calm = watched(url, lambda: single(url, seconds, STEADY))
                seen = _told(file)["events"]
                busy = watched(url, lambda: single(url, seconds))
                reached = _told(file)["events"] - seen
        if not reached:
            raise RuntimeError("nothing reached the clients")
        rate = busy["requests"] / busy["seconds"]
        before = alone["requests"] / alone["seconds"]
        return {
            "rate_0": before,
            "rate_1000": rate,
            "kept": rate / before,
            "p99_0": quiet["p99_ms"],
            "p99_1000": calm["p99_ms"],
            "sent": reached / busy["seconds"],
        }

    return once


@contextlib.contextmanager
def watchers(url: str, file: Path) -> Iterator[None]:
    """CLIENTS of them, all connected; what they got is told in `file`. Raises RuntimeError when they ended."""
    command = [sys.executable, "-m", "benchmarks.watchers", url, str(file), "--clients", str(CLIENTS)]
    with ended(subprocess.Popen(command, cwd=ROOT)) as running:
        until(lambda: _told(file)["clients"] == CLIENTS, START_S, f"{CLIENTS} clients", every=0.5)
        yield
        if running.poll() is not None:
            raise RuntimeError("the watchers ended")


def single(url: str, seconds: float, rate: int = 0) -> dict[str, Any]:
    """Posts of one event; with a rate of 0 as many as are answered."""
    options = ("--connections", CONNECTIONS, "--seconds", seconds, "--rate", rate)
    return told("benchmarks.single_load", url, *options)


def watched(url: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives, while events for all clients come beside it."""
    command = [sys.executable, "-m", "benchmarks.live", url, str(WATCHED_RATE)]
    with ended(subprocess.Popen(command, cwd=ROOT)) as sender:
        found = work()
        if sender.poll() is not None:
            raise RuntimeError(f"the sender of what is watched ended with {sender.returncode}")
    return found


def _told(file: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(file.read_text()) if file.exists() else {"clients": 0, "events": 0}
    return found


def main() -> None:
    """Send what the clients watch, until ended."""
    url, rate = sys.argv[1], float(sys.argv[2])
    body = json.dumps(
        {"session_id": "watched", "event_type": "notification", "payload": {"cwd": "/p/watched", "message": "x" * 500}}
    ).encode()
    while True:
        request = urllib.request.Request(f"{url}/events", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
        time.sleep(1 / rate)


if __name__ == "__main__":
    main()
