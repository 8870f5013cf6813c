"""How a process ends: asked to, broken, or because an operator must mend something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
import pytest

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

    async def run(self, **parts: Any) -> int:
        web = web_app("t-web", host="127.0.0.1", port=free_port(), datadir=str(self._folder), options={})
        self.process = Process(resources=[self.resource], web=web, **{"streams": [], **parts})
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
