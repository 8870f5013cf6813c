"""How a process ends: asked to, broken, or because an operator must mend something."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
import pytest
from click.testing import CliRunner

from app.cli.worker import MISCONFIGURED, worker
from app.lifecycle import BROKEN, Process, web_app
from app.stack.ports import free_port
from schemas.errors import Misconfigured

MISTAKE = Misconfigured("The topic t has 2 partitions instead of 4.", "Set the number of partitions to 2.")
Work = Callable[[], Awaitable[None]]


class Resource:
    """Tells whether it was opened and closed."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    async def open(self) -> None:
        self.happened.append("open")

    async def close(self) -> None:
        self.happened.append("close")


async def for_ever() -> None:
    await asyncio.Event().wait()


async def mistaken() -> None:
    raise MISTAKE


async def broken() -> None:
    raise RuntimeError("a bug")


def no_stream() -> faust.App:
    raise AssertionError("no stream may start on wrong topics")


def mistaken_stream() -> faust.App:
    raise MISTAKE


class World:
    """A process over one resource, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.resource, self._folder = Resource(), folder
        self.more: list[Any] = []

    async def run(self, **parts: Any) -> int:
        web = web_app("t-web", host="127.0.0.1", port=free_port(), datadir=str(self._folder), options={})
        self.process = Process(resources=[self.resource, *self.more], web=web, **{"streams": [], **parts})
        async with asyncio.timeout(20):
            return await self.process.run()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        {"background": [for_ever, mistaken]},
        {"before_streams": mistaken, "streams": [no_stream], "background": [for_ever]},
        {"streams": [mistaken_stream]},
        {"background": [mistaken, broken]},
    ],
    ids=["in the background", "before the streams", "in a stream", "with what broke because of it"],
)
async def test_an_operators_mistake_comes_out_after_all_is_closed(world: World, parts: dict[str, Any]) -> None:
    """Wherever it is found, so that the command can say it and end with the code that means: do not restart."""
    with pytest.raises(Misconfigured) as caught:
        await world.run(**parts)
    assert caught.value is MISTAKE
    assert world.resource.happened == ["open", "close"]


@pytest.mark.parametrize(
    "parts", [{"background": [broken]}, {"before_streams": broken, "streams": [no_stream], "background": [for_ever]}]
)
async def test_what_breaks_ends_with_the_code_for_a_restart(world: World, parts: dict[str, Any]) -> None:
    """A bug or an outage: its supervisor starts it again."""
    assert await world.run(**parts) == BROKEN
    assert world.resource.happened == ["open", "close"]


def test_a_port_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    """Exit code 78 means to a supervisor: do not restart. Port 0 would be one that nobody knows."""
    options = ["--roles", "dedupe", "--port", "0"]
    result = CliRunner().invoke(worker, options, env={"CHRONICLE_STATE_DIR": str(tmp_path)})
    assert result.exit_code == MISCONFIGURED
    assert result.output.startswith("chronicle: server.port: ")
    assert result.output.count("\n") == 1


async def test_asked_to_stop_it_ends_well(world: World) -> None:
    """Also while it still waits for the broker."""
    waiting = asyncio.Event()

    async def wait_for_the_broker() -> None:
        waiting.set()
        await for_ever()

    running = asyncio.create_task(world.run(before_streams=wait_for_the_broker, streams=[no_stream]))
    async with asyncio.timeout(10):
        await waiting.wait()
    world.process.stop()
    assert await running == 0


class Deaf:
    """Goes on when it is cancelled, as Faust's services do while they stop, until the test lets it go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def open(self) -> None:
        return

    async def close(self) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


async def test_what_does_not_hear_its_cancellation_keeps_nothing_else_open(world: World) -> None:
    """A hung background part and a hung resource: the process ends well all the same, and the rest is closed."""
    deaf, begun = Deaf(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await deaf.close()

    world.more = [deaf]
    running = asyncio.create_task(world.run(background=[hang]))
    async with asyncio.timeout(10):
        await begun.wait()
    world.process.stop()
    try:
        assert await running == 0
        assert world.resource.happened == ["open", "close"]
    finally:
        deaf.let_go.set()


async def test_asked_to_stop_while_a_resource_opens_it_ends_well(world: World) -> None:
    """A database that does not answer must not keep a process that only wants to end."""

    class Hung(Deaf):
        opening = asyncio.Event()

        async def open(self) -> None:
            self.opening.set()
            await for_ever()

        async def close(self) -> None:
            return

    hung = Hung()
    world.more = [hung]
    running = asyncio.create_task(world.run())
    async with asyncio.timeout(10):
        await hung.opening.wait()
    world.process.stop()
    assert await running == 0
    assert world.resource.happened == ["open", "close"]


def test_a_thread_that_still_waits_does_not_keep_the_command() -> None:
    """A driver's thread on a dead connection waits for minutes; the worker's exit code comes at once."""
    code = (
        "import threading; threading.Thread(target=threading.Event().wait).start()\n"
        "from app.cli.worker import _end; _end(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
