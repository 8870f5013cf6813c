"""The real parts that tests run on: a Kafka, a Postgres, a whole stack. Started once a session, when first asked for.

CHRONICLE_TEST_BROKER (host:port) and CHRONICLE_TEST_POSTGRES (an administrator's DSN) name running ones to use instead;
CHRONICLE_TEST_CONTAINERS=1 starts them in containers (needs a Docker engine).
HYPOTHESIS_PROFILE=thorough looks at twenty times as many examples: for a night, or after a change of a rule.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest

import containers
from app.stack.kafka import Kafka
from app.stack.ports import free_port
from app.stack.postgres import Postgres

ROOT = Path(__file__).resolve().parent.parent

# Costly tests take a part of max_examples. No deadline: what a busy machine makes slow is not wrong.
hypothesis.settings.register_profile("quick", max_examples=100, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def workplace() -> Iterator[Path]:
    """A directory that Postgres' own user can reach when we are root (pytest's own is closed to it)."""
    folder = Path(tempfile.mkdtemp(prefix="chronicle-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Postgres' own user could not reach below pytest's directory lies beside it, behind a link: 60 MB each."""
    yield
    for path in tmp_path_factory.getbasetemp().rglob("*"):
        if path.is_symlink() and path.resolve().name.startswith("chronicle-postgres-"):
            shutil.rmtree(path.resolve(), ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(workplace: Path) -> Iterator[str]:
    """host:port of a broker for the whole session; use topics under `topic_prefix`."""
    if given := os.environ.get("CHRONICLE_TEST_BROKER"):
        yield given
        return
    if containers.wanted():
        with containers.kafka() as address:
            yield address
        return
    broker = Kafka(workplace / "kafka", free_port())
    broker.start()
    yield broker.address
    broker.stop()


@pytest.fixture(scope="session")
def postgres_server(workplace: Path) -> Iterator[str]:
    """DSN of an administrator, for the whole session."""
    if given := os.environ.get("CHRONICLE_TEST_POSTGRES"):
        yield given
        return
    if containers.wanted():
        with containers.postgres() as dsn:
            yield dsn
        return
    server = Postgres(workplace / "postgres", free_port())
    server.start()
    yield server.dsn
    server.stop()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """DSN of an empty database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    _run(_execute(postgres_server, f"CREATE DATABASE {name}"))
    yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    _run(_execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def topic_prefix() -> str:
    """First part of topic names that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def stack(workplace: Path) -> Iterator[dict[str, Any]]:
    """A real `chronicle up --ephemeral` with two stream workers: what its ready file says.

    Shared by the whole session: a test must leave every part of it running. Its own port is free, never 8000.
    """
    ready_file, log = workplace / "ready.json", workplace / "up.log"
    command = [sys.executable, "-m", "chronicle", "up", "--ephemeral", "--ready-file", str(ready_file)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--stream-workers", "2"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield _await_ready(process, ready_file, log)
    finally:
        _stop(process)


def _await_ready(process: subprocess.Popen[bytes], ready_file: Path, log: Path, timeout: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if ready_file.exists():
            ready: dict[str, Any] = json.loads(ready_file.read_text())
            return ready
        time.sleep(0.1)
    pytest.fail(f"chronicle up did not get ready:\n{log.read_text(errors='replace')[-6000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """In a thread: the test's own event loop may be running."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In parallel the slow files come first: one that begins last would be waited for by all."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
