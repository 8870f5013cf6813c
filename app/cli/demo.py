"""`chronicle demo`: start the whole stack and play a session through it, for real."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from app.demo.session import demo_sessions, interleaved
from app.stack.process import die_with_parent

console = Console(highlight=False)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--seed", type=int, default=None, help="Play the session of this seed (default: another one each time).")
@click.option("--once", is_flag=True, help="Stop when the session is in the database, instead of running on.")
@click.option("--pace", type=float, default=0.0, help="Seconds between events.")
@click.argument("up_options", nargs=-1, type=click.UNPROCESSED)
def demo(seed: int | None, once: bool, pace: float, up_options: tuple[str, ...]) -> None:
    """Start Kafka, Postgres and Chronicle, and play a session of hook events.

    Every event goes the real way: HTTP, Kafka, dedup, Postgres. UP_OPTIONS are those of `chronicle up`, e.g.
    `--state-dir DIR` or `--port 8000`.
    """
    seed = int(time.time()) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="chronicle-demo-") as folder:
        code = asyncio.run(_run(seed, once, pace, up_options, Path(folder) / "ready.json"))
    sys.exit(code)


async def _run(seed: int, once: bool, pace: float, up_options: tuple[str, ...], ready_file: Path) -> int:
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chronicle", "up", "--ready-file", str(ready_file), *up_options),
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, _ask_to_stop, up)
    ready = await _ready(up, ready_file)
    if ready is None:
        return up.returncode or 1
    good = await _play(ready, seed, pace)
    if once:
        _ask_to_stop(up)
    else:
        console.print("Running on until Ctrl-C. Open the URL above, or send events of your own.")
    code = await up.wait()
    return code if good else 1


def _ask_to_stop(up: asyncio.subprocess.Process) -> None:
    if up.returncode is None:
        up.send_signal(signal.SIGTERM)


async def _ready(up: asyncio.subprocess.Process, ready_file: Path) -> dict[str, Any] | None:
    while up.returncode is None:
        if ready_file.exists():
            ready: dict[str, Any] = json.loads(ready_file.read_text())
            return ready
        await asyncio.sleep(0.05)
    return None


async def _play(ready: dict[str, Any], seed: int, pace: float) -> bool:
    """Post the session, wait for it in the database, show it; True when all of it arrived."""
    url = ready["url"]
    sessions = demo_sessions(seed)
    bodies = list(interleaved(sessions, seed))
    ids: set[str] = set()
    async with aiohttp.ClientSession() as http:
        with _progress() as bar:
            task = bar.add_task("playing a session of hook events", total=len(bodies))
            for body in bodies:
                async with http.post(f"{url}/hooks/claude-code", json=body) as answer:
                    answer.raise_for_status()
                    ids.add(answer.headers["Chronicle-Event-Id"])
                bar.advance(task)
                await asyncio.sleep(pace)
        with _progress() as bar:
            stored = await _stored(http, url, [s.session_id for s in sessions], ids, bar)
        await _show(http, url, sessions, accepted=len(bodies), stored=stored)
    return stored == len(ids)


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console)


async def _stored(
    http: aiohttp.ClientSession,
    url: str,
    session_ids: list[str],
    ids: set[str],
    bar: Progress,
    *,
    deadline_s: float = 60,
) -> int:
    """How many of `ids` can be read back, once all of them can or the deadline has passed."""
    task = bar.add_task("in the database", total=len(ids))
    end = time.monotonic() + deadline_s
    while True:
        found: set[str] = set()
        for session_id in session_ids:
            found |= await _ids_of(http, f"{url}/sessions/{session_id}/events?limit=1000")
        count = len(found & ids)
        bar.update(task, completed=count)
        if count == len(ids) or time.monotonic() > end:
            return count
        await asyncio.sleep(0.1)


async def _ids_of(http: aiohttp.ClientSession, url: str) -> set[str]:
    async with http.get(url) as answer:
        if answer.status != 200:
            return set()
        return {item["event_id"] for item in (await answer.json())["items"]}


async def _show(http: aiohttp.ClientSession, url: str, sessions: Any, *, accepted: int, stored: int) -> None:
    table = Table(title="What is in Postgres now")
    for column in ("session", "project", "events", "tool calls", "failed"):
        table.add_column(column, justify="right" if column in ("events", "tool calls", "failed") else "left")
    for session in sessions:
        async with http.get(f"{url}/sessions/{session.session_id}/events?limit=1000") as answer:
            items = (await answer.json())["items"]
        names = [item["hook_event_name"] for item in items]
        table.add_row(
            session.session_id,
            items[-1]["cwd"] if items else "",
            str(len(items)),
            str(names.count("PreToolUse")),
            str(names.count("PostToolUseFailure")),
        )
    console.print(table)
    console.print(f"[bold]accepted {accepted} · in the database {stored}[/bold]")
    for name, path in (
        ("page", "/dashboard/"),
        ("API", "/docs"),
        ("events", "/events"),
        ("ledger", "/stats"),
        ("ready", "/ready"),
    ):
        console.print(f"  {name:<8}{url}{path}")
