"""Units: a server's whole family is stopped, frozen and killed. Cheap programs stand in for Kafka and Postgres."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.stack.kafka import properties
from app.stack.process import Daemon, Program
from chaos.units import ServerUnit, alive, family

LIMIT_S = 20.0
#: A parent that says when its child, in a session of its own as Postgres' are, runs.
PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


class Parent:
    """A server with one child."""

    def __init__(self, folder: Path) -> None:
        self.note = folder / "child"
        argv = (sys.executable, "-c", PARENT, str(self.note))
        self._daemon = Daemon(Program(name="parent", argv=argv, answers=self._answers), folder / "log")

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def child(self) -> int:
        return int(self.note.read_text())

    def start(self) -> None:
        self.note.unlink(missing_ok=True)
        self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()

    def kill(self) -> None:
        self._daemon.kill()

    def _answers(self) -> bool:
        return self.note.exists() and bool(self.note.read_text())


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return Parent(tmp_path)


@pytest.fixture
def unit(parent: Parent) -> Iterator[ServerUnit]:
    made = ServerUnit(parent)
    made.start()
    yield made
    if made.running():
        made.kill()
    made.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pause_and_resume_reach_children_in_sessions_of_their_own(unit: ServerUnit, parent: Parent) -> None:
    """Postgres' backends are not in the postmaster's process group, and must hang with it."""
    pids = [unit.pid, parent.child]
    unit.pause()
    until(lambda: all(state(pid) == "T" for pid in pids))
    assert unit.running()
    unit.resume()
    until(lambda: all(state(pid) != "T" for pid in pids))


def test_kill_leaves_no_child(unit: ServerUnit, parent: Parent) -> None:
    """SIGKILL to all of it; afterwards it is not running, also when it was paused."""
    child = parent.child
    unit.pause()
    unit.kill()
    until(lambda: not alive(child))
    assert not unit.running()
    with pytest.raises(RuntimeError):
        _ = unit.pid


def test_a_paused_unit_can_be_stopped_in_order_and_started_again(unit: ServerUnit, parent: Parent) -> None:
    """Nobody waits for a process that cannot hear; the second start is a new process."""
    first, child = unit.pid, parent.child
    unit.pause()
    unit.stop()
    assert not unit.running()
    unit.start()
    assert unit.pid != first
    subprocess.run(["kill", "-9", str(child)], check=False)  # the first one's: stopping in order is the server's matter


def test_start_while_it_runs_changes_nothing(unit: ServerUnit) -> None:
    """`heal` may be called on what was never hurt."""
    pid = unit.pid
    unit.start()
    assert unit.pid == pid


def test_family_is_the_process_and_all_its_descendants(unit: ServerUnit, parent: Parent) -> None:
    """Parents first."""
    assert family(unit.pid) == [unit.pid, parent.child]


def test_a_broker_advertises_its_own_port_unless_told_otherwise(tmp_path: Path) -> None:
    """`advertised_port` changes where clients are sent, not where it listens."""
    plain = properties(port=1234, controller_port=1, log_dir=tmp_path)
    behind = properties(port=1234, controller_port=1, log_dir=tmp_path, advertised_port=5678)
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:1234\n" in plain
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:5678\n" in behind
    assert "\nlisteners=PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:1\n" in behind
