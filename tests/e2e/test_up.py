"""`chronicle up`: real Kafka and Postgres, supervised; first with stand-in workers, then the whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.stack.kafka import broker_answers
from app.stack.postgres import server_answers

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
FAKE_UP = ROOT / "tests" / "support" / "fake_up.py"


class Up:
    """A running fake_up.py and its state directory."""

    def __init__(self, state: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.state = state
        self.log = state.with_suffix(f".{time.monotonic_ns()}.log")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(FAKE_UP), str(state), *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def ready(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.state / "ready.json").read_text())
        return value

    def said(self) -> str:
        return self.log.read_text()

    def wait_ready(self) -> dict[str, Any]:
        until(lambda: (self.state / "ready.json").exists() or self.process.poll() is not None, 90)
        assert self.process.poll() is None, self.said()
        return self.ready

    def stop(self) -> float:
        """Seconds that it took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.said()
        return time.monotonic() - begin


def until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def pids_of(ready: dict[str, Any]) -> list[int]:
    pids = ready["pids"]
    return [pid for pid in (pids["kafka"], pids["postgres"], pids["ingest"], *pids["stream"]) if pid]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def told(ready: dict[str, Any]) -> dict[str, Any]:
    """What the ingest worker was given."""
    with urllib.request.urlopen(f"{ready['url']}/env", timeout=5) as answer:
        value: dict[str, Any] = json.load(answer)
    return value


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that Postgres' own user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="chronicle-up-"))
    folder.chmod(0o711)
    yield folder / "state"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(state: Path) -> Iterator[Callable[..., Up]]:
    """Starts `up` on the test's state directory; whatever still runs at the end is killed."""
    started: list[Up] = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> Up:
        started.append(Up(state, *arguments, env=env))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()


@pytest.fixture(scope="module")
def shared() -> Iterator[Up]:
    """One that runs for several tests; they leave it running."""
    folder = Path(tempfile.mkdtemp(prefix="chronicle-up-"))
    folder.chmod(0o711)
    up = Up(folder / "state")
    try:
        up.wait_ready()
        yield up
    finally:
        up.process.send_signal(signal.SIGTERM)
        up.process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


async def execute(dsn: str, statement: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_data_and_ports_survive_a_restart(start: Callable[..., Up]) -> None:
    """The second start finds what the first one stored, where it was; stopping leaves no ready file and no process."""
    up = start()
    first = up.wait_ready()
    broker_host, broker_port = first["broker"].split(":")
    assert broker_answers(broker_host, int(broker_port))
    assert first["topics"] == {
        "ingest": "chronicle.ingest",
        "events": "chronicle.events",
        "dead_letters": "chronicle.dead-letters",
    }
    await execute(first["database"], "CREATE TABLE kept AS SELECT 1 AS one")
    assert up.stop() < 10
    assert not (up.state / "ready.json").exists()
    until(lambda: all(gone(pid) for pid in pids_of(first)), 2)

    second = start().wait_ready()
    assert {key: second[key] for key in ("url", "broker", "database")} == {
        key: first[key] for key in ("url", "broker", "database")
    }
    assert [tuple(row) for row in await execute(second["database"], "SELECT one FROM kept")] == [(1,)]


def test_workers_are_told_everything_by_the_environment(shared: Up) -> None:
    """Addresses, places, name and roles; the database's password never stands in a process list."""
    up, ready = shared, shared.ready
    given = told(ready)
    assert given["argv"] == ["--roles", "ingest,api", "--name", "ingest"]
    assert given["CHRONICLE_KAFKA__BROKERS"] == ready["broker"]
    assert given["CHRONICLE_DATABASE__URL"] == ready["database"]
    assert given["CHRONICLE_DATABASE__FALLBACK_PATH"] == ready["sqlite"] == str(up.state / "failover.db")
    assert given["CHRONICLE_STATE_DIR"] == ready["state_dir"] == str(up.state)
    assert f"http://{given['CHRONICLE_SERVER__HOST']}:{given['CHRONICLE_SERVER__PORT']}" == ready["url"]
    password = ready["database"].split(":")[2].split("@")[0]
    for pid in pids_of(ready):
        assert password not in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_second_up_on_the_same_state_says_so_and_ends(shared: Up) -> None:
    """One sentence with pid and URL, exit code 1, and the first one goes on."""
    ready = shared.ready
    second = Up(shared.state)
    assert second.process.wait(60) == 1
    sentence = f"Chronicle is already up on {shared.state} (pid {shared.process.pid}, {ready['url']})."
    assert sentence in second.said()
    assert shared.ready == ready


def test_whatever_dies_is_started_again_and_the_ready_file_follows(shared: Up) -> None:
    """Each part is killed in turn; the others keep their processes."""
    up, before = shared, shared.ready
    for part in ("kafka", "postgres", "ingest"):
        old = up.ready["pids"][part]
        os.kill(old, signal.SIGKILL)
        until(lambda part=part, old=old: up.ready["pids"][part] not in (None, old))
    until(lambda: server_answers("127.0.0.1", int(before["database"].rsplit(":", 1)[1].split("/")[0])))
    until(lambda: broker_answers("127.0.0.1", int(before["broker"].split(":")[1])))
    assert up.ready["pids"]["stream"] == before["pids"]["stream"]


def test_stopping_ends_in_time_with_workers_deaf_to_sigterm(start: Callable[..., Up]) -> None:
    """Ten seconds altogether, whatever the workers do; Kafka and Postgres still stop in order."""
    up = start(env={"FAKE_STUBBORN": "1"})
    ready = up.wait_ready()
    assert up.stop() < 10
    assert all(gone(pid) for pid in pids_of(ready))
    assert "kafka    | did not stop" not in up.said()
    assert "postgres | did not stop" not in up.said()


def test_a_second_signal_stops_by_force(start: Callable[..., Up]) -> None:
    """Who presses Ctrl-C twice does not want to wait."""
    up = start(env={"FAKE_STUBBORN": "1"})
    ready = up.wait_ready()
    up.process.send_signal(signal.SIGINT)
    until(lambda: "| stopping" in up.said())
    begin = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(5) != 1
    assert time.monotonic() - begin < 2
    assert all(gone(pid) for pid in pids_of(ready))


def test_nothing_outlives_an_up_that_is_killed_and_the_next_one_starts(start: Callable[..., Up]) -> None:
    """After kill -9 the children are gone by themselves, and the state directory is as good as before."""
    up = start()
    ready = up.wait_ready()
    up.process.kill()
    up.process.wait()
    until(lambda: all(gone(pid) for pid in pids_of(ready)), 5)
    (up.state / "ready.json").unlink()
    again = start().wait_ready()
    assert again["state_dir"] == ready["state_dir"]


def test_a_signal_while_starting_stops_what_has_been_started(start: Callable[..., Up]) -> None:
    """Ctrl-C is heard at any time."""
    up = start(env={"FAKE_NOT_READY": "1"})
    until(lambda: "fake worker ingest is up" in up.said())
    assert up.stop() < 10
    assert not (up.state / "ready.json").exists()


def test_workers_that_cannot_start_end_it_with_their_words(start: Callable[..., Up]) -> None:
    """A stack that will never work does not pretend to be starting."""
    up = start(env={"FAKE_DIES": "1"})
    assert up.process.wait(90) == 1
    assert "could not start" in up.said()
    assert "fake worker: no wish to live" in up.said()
    assert not (up.state / "ready.json").exists()


def test_a_broker_and_a_database_of_ones_own_are_not_started_here(
    start: Callable[..., Up], kafka: str, postgres: str
) -> None:
    """Then up has only workers, and says so by null pids."""
    up = start(kafka, postgres)
    ready = up.wait_ready()
    assert (ready["broker"], ready["database"]) == (kafka, postgres)
    assert ready["pids"]["kafka"] is None
    assert ready["pids"]["postgres"] is None
    assert not (up.state / "kafka").exists()
    assert not (up.state / "postgres").exists()


def test_the_whole_stack_gets_ready(stack: dict[str, Any]) -> None:
    """The real `chronicle up --ephemeral`: when the ready file is there, /ready says ready and every part has a pid."""
    with urllib.request.urlopen(f"{stack['url']}/ready", timeout=5) as answer:
        assert json.load(answer)["status"] == "ready"
    assert len(stack["pids"]["stream"]) == 2
    assert all(not gone(pid) for pid in pids_of(stack))
