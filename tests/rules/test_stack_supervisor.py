"""Children are kept running, stopped in order and never left behind. Real processes, small ones."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.stack.console import Console
from app.stack.process import Program
from app.stack.supervisor import Backoff, Supervisor
from schemas.errors import Unavailable

WAITS = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"


class World:
    """A supervisor over Python one-liners, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.out = io.StringIO()
        self.folder = folder
        self.changes = 0
        self.supervisor = Supervisor(folder, Console(self.out), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def program(self, name: str, code: str, *, answers: Callable[[], bool] = lambda: True) -> Program:
        return Program(name=name, argv=(sys.executable, "-c", code), answers=answers)

    def has_said(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.out.getvalue()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_backoff_doubles_up_to_a_limit_and_forgets_after_some_work() -> None:
    """A loop of failing starts is slowed down; one that was killed, or asked to end, is exchanged at once."""
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert backoff.after(6.0) == 0.5
    assert [backoff.after(0.1) for _ in range(2)] == [1, 2]


async def test_a_child_that_dies_is_started_again_under_a_new_pid(world: World) -> None:
    """Killing a child is an incident, not the end."""
    child = world.supervisor.start(world.program("a", WAITS))
    await until(world.has_said("up"))
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (None, first))
    assert child.deaths == 1
    assert world.changes == 2
    assert "ended with SIGKILL; starting it again in 0.5 s" in world.out.getvalue()
    await world.supervisor.stop([["a"]], timeout=5)


async def test_lines_come_with_the_name_in_front_and_go_to_the_childs_file(world: World) -> None:
    """The terminal tells who speaks; the file has the words alone."""
    world.supervisor.start(world.program("talker", "print('one\\ntwo', flush=True); import time; time.sleep(60)"))
    await until(world.has_said("two"))
    await world.supervisor.stop([["talker"]], timeout=5)
    assert "talker   | one\ntalker   | two\n" in world.out.getvalue()
    assert (world.folder / "talker.log").read_text() == "one\ntwo\n"


async def test_a_line_without_end_does_not_stop_the_reading(world: World) -> None:
    """A megabyte without a newline comes in pieces."""
    world.supervisor.start(world.program("long", "print('x' * 1_000_000); print('after'); " + WAITS))
    await until(world.has_said("after"))
    await world.supervisor.stop([["long"]], timeout=5)


async def test_waves_stop_one_after_the_other(world: World) -> None:
    """What feeds others is gone before they are asked to stop."""
    says = "import signal, sys, time\nsignal.signal(15, lambda *_: (print('bye', flush=True), sys.exit()))\n"
    for name in ("late", "early"):
        world.supervisor.start(world.program(name, f"{says}print('up', flush=True)\ntime.sleep(60)"))
    await until(lambda: world.out.getvalue().count("up") == 2)
    await world.supervisor.stop([["early"], ["late"]], timeout=5)
    goodbyes = [line.split()[0] for line in world.out.getvalue().splitlines() if line.endswith("bye")]
    assert goodbyes == ["early", "late"]


async def test_a_child_deaf_to_sigterm_is_killed_within_the_time(world: World) -> None:
    """Stopping has an end, whatever the children think of it."""
    children = [world.supervisor.start(world.program(name, DEAF)) for name in ("a", "b", "c")]
    await until(lambda: world.out.getvalue().count("up") == 3)
    pids = [child.pid for child in children]
    begin = time.monotonic()
    await world.supervisor.stop([["a"], ["b", "c"]], timeout=3)
    assert time.monotonic() - begin < 3.5
    assert not any(pid and alive(pid) for pid in pids)


async def test_a_child_that_never_answers_is_said_with_its_last_lines(world: World) -> None:
    """The failure names the child and shows what it said."""
    child = world.supervisor.start(
        world.program("mute", "print('no such disk', flush=True); " + WAITS, answers=lambda: False)
    )
    await until(world.has_said("no such disk"))
    with pytest.raises(Unavailable, match=r"(?s)mute.*did not answer.*no such disk"):
        await child.wait_ready(0.3)
    await world.supervisor.stop([["mute"]], timeout=5)


async def test_a_misconfigured_child_is_not_tried_again_at_the_start(world: World) -> None:
    """Exit code 78 means that an operator must do something."""
    child = world.supervisor.start(world.program("wrong", "import sys; print('port is a word'); sys.exit(78)"))
    await until(lambda: child.deaths == 1)
    with pytest.raises(Unavailable, match=r"(?s)wrong.*port is a word"):
        await child.wait_ready(30)
    await until(lambda: "again in 15.0 s" in world.out.getvalue())
    await world.supervisor.stop([["wrong"]], timeout=5)


async def test_stopping_does_not_wait_for_a_child_that_is_between_two_lives(world: World) -> None:
    """A crash loop does not delay the end."""
    child = world.supervisor.start(world.program("dies", "raise SystemExit(1)"))
    await until(lambda: child.deaths == 2)  # the next start is a second away
    begin = time.monotonic()
    await world.supervisor.stop([["dies"]], timeout=5)
    assert time.monotonic() - begin < 0.9


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """After kill -9 of the supervisor nothing of it is left running."""
    code = f"""
import asyncio, sys
from pathlib import Path
from app.stack.console import Console
from app.stack.process import Program
from app.stack.supervisor import Supervisor
async def main():
    supervisor = Supervisor(Path({str(tmp_path)!r}), Console())
    for name in ("a", "b"):
        child = supervisor.start(Program(name=name, argv=(sys.executable, "-c", {DEAF!r}), answers=lambda: True))
        await child.wait_ready(10)
        print("pid", child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pids: list[int] = []
    while len(pids) < 2:
        line = supervisor.stdout.readline()
        assert line, "the supervisor ended"
        if line.startswith("pid"):
            pids.append(int(line.split()[1]))
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    supervisor.communicate()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a child outlived its supervisor"
