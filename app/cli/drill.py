"""`chronicle drill`: one fault, on the stack of this machine, in plain words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import rich_click as click

from app.cli.client import dump, json_option
from app.settings import Settings
from app.stack.process import die_with_parent
from schemas.errors import ChronicleError

#: Seconds: for a stack to start, for SQLite to take over, for all of it to be back in Postgres.
START_S, OVER_S, HOME_S = 120.0, 20.0, 90.0
#: Seconds between two events: a drill is no benchmark.
PACE_S = 0.02


@click.group()
def drill() -> None:
    """Break something on purpose and see that nothing is lost."""


@drill.command()
@click.option("--hold", type=click.FloatRange(1, 600), default=5.0, show_default=True, help="Seconds on SQLite.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Of the `chronicle up` to use.")
@json_option
def postgres(hold: float, ready_file: Path | None, as_json: bool) -> None:
    """Freeze the embedded Postgres, post events, let it go on: SQLite takes over, all comes back, nothing is lost.

    It uses the `chronicle up` that runs here, or starts one in a temporary directory. Postgres is frozen (SIGSTOP) and
    not killed, since `up` would start a killed one again at once; to Chronicle it is the same: nobody answers.
    """
    try:
        found = asyncio.run(_postgres(hold, ready_file or _usual(), quiet=as_json))
    except (ChronicleError, aiohttp.ClientError, OSError, TimeoutError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
    if as_json:
        dump(found)
    sys.exit(0 if found["ok"] else 1)


def _usual() -> Path:
    return Settings.load().state_dir.expanduser() / "ready.json"


async def _postgres(hold: float, ready_file: Path, *, quiet: bool) -> dict[str, Any]:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _end, asyncio.current_task())
    async with _stack(ready_file, quiet) as ready, aiohttp.ClientSession() as http:
        if ready["pids"]["postgres"] is None:
            raise click.ClickException("This stack uses a Postgres that is not its own; stop that one by hand.")
        return await Drill(http, ready, quiet=quiet).run(hold)


def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()


class Drill:
    """One round; `run` says what happens as it happens."""

    def __init__(self, http: aiohttp.ClientSession, ready: dict[str, Any], *, quiet: bool) -> None:
        self._http, self._url, self._postgres = http, ready["url"], ready["pids"]["postgres"]
        self._quiet, self._began = quiet, time.monotonic()
        self._session = f"drill-{uuid.uuid4()}"
        self._acked: list[str] = []
        self._refused = 0
        self._over = asyncio.Event()

    async def run(self, hold: float) -> dict[str, Any]:
        """Everything in order; the result as data."""
        before = await self._synced()
        load = asyncio.create_task(self._load())
        try:
            await self._until(lambda: self._count(20), OVER_S, "events are accepted")
            self._say(f"{len(self._acked)} events accepted; Postgres takes them.")
            waited = await self._outage(hold)
        finally:
            self._over.set()
            await load
        await self._until(self._home, HOME_S, "all is back in Postgres")
        lost = sorted(set(self._acked) - await self._stored())
        synced = await self._synced() - before
        ok = not lost and synced > 0
        self._say(f"synced {synced}, lost {len(lost)}; {len(self._acked)} accepted, {self._refused} refused.")
        told = {"accepted": len(self._acked), "refused": self._refused, "synced": synced, "lost": lost}
        return {"ok": ok, "session_id": self._session, "failover_s": waited, **told}

    async def _outage(self, hold: float) -> float:
        """Postgres stands still; returns the seconds until SQLite had the first events."""
        with frozen(self._postgres):
            stopped = time.monotonic()
            self._say("Postgres is frozen: it answers nobody. Events go on being posted.")
            waiting = await self._until(self._in_sqlite, OVER_S, "SQLite takes over")
            waited = round(time.monotonic() - stopped, 1)
            self._say(f"after {waited} s SQLite has taken over: {waiting} events in it.")
            await asyncio.sleep(hold)
            self._say(f"{len(self._acked)} events accepted by now, {await self._in_sqlite()} of them in SQLite alone.")
        self._say("Postgres goes on. A real write must succeed before it is trusted; then SQLite is brought back.")
        return waited

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            await self._send(number)
            await asyncio.sleep(PACE_S)

    async def _send(self, number: int) -> None:
        event_id = str(uuid.uuid4())
        now = datetime.now(UTC).isoformat()
        body = {
            "event_id": event_id,
            "session_id": self._session,
            "event_type": "tool_pre_use",
            "timestamp": now,
            "payload": {"drill": number},
        }
        try:
            async with self._http.post(f"{self._url}/events", json=body) as answer:
                accepted = 200 <= answer.status < 300
        except aiohttp.ClientError:
            accepted = False
        if accepted:
            self._acked.append(event_id)
        else:
            self._refused += 1

    async def _count(self, enough: int) -> int:
        """How many were accepted, once they are enough."""
        if self._refused > enough and not self._acked:
            raise click.ClickException("Events are refused before anything was broken; see /ready.")
        return len(self._acked) if len(self._acked) >= enough else 0

    async def _stats(self) -> dict[str, Any]:
        return await self._get("/stats")

    async def _in_sqlite(self) -> int:
        return int((await self._stats())["parts"]["stored"]["sqlite"])

    async def _synced(self) -> int:
        workers = (await self._stats())["workers"].values()
        told = [(worker.get("persist") or {}).get("sync") or {} for worker in workers]
        return sum(int(sync.get("synced") or 0) for sync in told)

    async def _home(self) -> bool:
        found = await self._stats()
        ledger = found["ledger"]
        return not found["degraded"] and ledger["pending"] == 0 and not found["parts"]["stored"]["sqlite"]

    async def _stored(self) -> set[str]:
        """Ids of our session in Postgres."""
        ids: set[str] = set()
        path: str | None = f"/sessions/{self._session}/events?limit=1000"
        while path is not None:
            page = await self._get(path)
            if page["source"] != "postgres":
                raise click.ClickException("Postgres went away again; run `chronicle audit` when it is back.")
            ids |= {event["event_id"] for event in page["items"]}
            path = page["next"] and f"/sessions/{self._session}/events?limit=1000&cursor={page['next']}"
        return ids

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._http.get(self._url + path) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    async def _until(self, condition: Any, seconds: float, what: str) -> Any:
        """The first true answer; a server that does not answer for a moment is asked again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(aiohttp.ClientError):
                if found := await condition():
                    return found
            await asyncio.sleep(0.2)
        raise click.ClickException(f"Not within {seconds:.0f} s: {what}. Look at /ready and `chronicle audit`.")

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(f"{time.monotonic() - self._began:5.1f} s  {text}")


# --- the fault -------------------------------------------------------------------------------------------------------


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A server and its children stand still inside; they go on at the end, whatever happened."""
    pids = [pid]
    try:
        os.kill(pid, signal.SIGSTOP)  # first: it makes no more children then
        pids += children(pid)
        for child in pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)
        yield
    finally:
        for one in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, as `ps` tells it on every Unix."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in table.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


# --- the stack -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _stack(ready_file: Path, quiet: bool) -> AsyncIterator[dict[str, Any]]:
    """The one that runs, else one of our own for as long as it takes."""
    if ready_file.exists():
        yield json.loads(ready_file.read_text())
        return
    with tempfile.TemporaryDirectory(prefix="chronicle-drill-") as folder:
        own, log = Path(folder) / "ready.json", Path(folder) / "up.log"
        if not quiet:
            click.echo("No `chronicle up` runs here; starting one for the drill.")
        with log.open("wb") as out:
            up = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chronicle", "up", "--ephemeral", "--ready-file", str(own)),
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        try:
            yield await _ready(up, own, log)
        finally:
            if up.returncode is None:
                up.send_signal(signal.SIGTERM)
            await up.wait()


async def _ready(up: asyncio.subprocess.Process, ready_file: Path, log: Path) -> dict[str, Any]:
    end = time.monotonic() + START_S
    while not ready_file.exists():
        if up.returncode is not None or time.monotonic() > end:
            raise click.ClickException(f"It does not start:\n{log.read_text(errors='replace')[-2000:]}")
        await asyncio.sleep(0.1)
    found: dict[str, Any] = json.loads(ready_file.read_text())
    return found
