"""Work in a process of its own: its errors come back, its imports do not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.stack.apart import BASE, apart
from schemas.errors import ChronicleError, Misconfigured, Unavailable

WORK = """
import asyncio, json, os, pathlib, sys
from schemas.errors import Misconfigured, Unavailable

async def note(given):
    pathlib.Path(json.loads(given)).write_text(str(os.getpid()))

async def wrong(given):
    raise Misconfigured("The port is 0.", json.loads(given))

async def away(given):
    raise Unavailable("kafka", "no answer")

async def broken(given):
    print("the disk is gone", file=sys.stderr)
    os._exit(3)

async def never(given):
    await note(given)
    await asyncio.sleep(3600)
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apart_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


async def test_it_runs_in_another_process(tmp_path: Path) -> None:
    await apart("apart_work:note", str(tmp_path / "pid"))
    assert int((tmp_path / "pid").read_text()) > 0
    assert "apart_work" not in sys.modules


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("wrong", Misconfigured, "The port is 0. Give another."),
        ("away", Unavailable, "kafka: no answer"),
        ("broken", ChronicleError, "ended with 3: the disk is gone"),
    ],
)
async def test_what_went_wrong_is_told(name: str, kind: type[Exception], said: str) -> None:
    """By the same error, with the same words; else by what it said last."""
    with pytest.raises(kind, match=said):
        await apart(f"apart_work:{name}", "Give another.")


async def test_it_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    """Ctrl-C while a database is being migrated."""
    asked = asyncio.create_task(apart("apart_work:never", str(tmp_path / "pid")))
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


LOADED = """
import json, sys
from app.house import build
from app.settings import Settings
build(Settings.load(state_dir=sys.argv[1], worker={"roles": sys.argv[2]}))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(tmp_path: Path, roles: str) -> Any:
    command = [sys.executable, "-c", LOADED, str(tmp_path), roles]
    return json.loads(subprocess.run(command, cwd=BASE, capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize(
    ("roles", "needed", "spared"),
    [
        ("dedupe,persist,aggregate,history", "rocksdict", {"sqlalchemy", "alembic"}),
        ("ingest,api", "sqlalchemy", {"rocksdict", "alembic"}),
    ],
)
def test_a_worker_loads_what_its_roles_need(tmp_path: Path, roles: str, needed: str, spared: set[str]) -> None:
    """Libraries are most of what a worker takes while little happens."""
    found = set(loaded(tmp_path, roles))
    assert needed in found
    assert not spared & found
