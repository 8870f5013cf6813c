"""The planted bugs: each changes what it says, in a process of its own, and nothing is changed without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.seeded import BUGS

ROOT = Path(__file__).parents[2]
SHOW = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
print(eval(sys.argv[2], {"m": module}))
"""
#: For each bug: what to look at, what it is in the product, what it is with the bug.
LOOK = {
    "ack-before-sink": ("m.Persister.settle.__module__", "agents.persist", "chaos.seeded"),
    "stock-take": ("m.attach.__module__", "agents.persist", "chaos.seeded"),
    "do-update": ("'DO NOTHING' in m.STORE", "True", "False"),
    "spool-without-fsync": ("m.Spool.append.__module__", "connectors.spool", "chaos.seeded"),
    "mark-before-produce": ("m.Lane._pass.__module__", "agents.dedupe", "chaos.seeded"),
    "commit-across-a-gap": (
        "m.PartitionLedger.committable.__module__",
        "connectors.transport.ledger",
        "chaos.seeded",
    ),
    "count-again": (
        "m._ordered.__module__, m._all_new.__module__",
        "('tables.usage_apply', 'tables.usage_apply')",
        "('chaos.seeded', 'chaos.seeded')",
    ),
}


def look(name: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-c", SHOW, BUGS[name].module, LOOK[name][0]]
    given = {**os.environ, "PYTHONPATH": f"{ROOT / 'chaos' / 'inside'}{os.pathsep}{ROOT}", **env}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_planted_when_it_is_named_and_only_then(name: str) -> None:
    """The module is the product's own without CHAOS_BUG, and the changed one with it."""
    assert look(name, {}) == LOOK[name][1]
    assert look(name, {"CHAOS_BUG": name}) == LOOK[name][2]


def test_the_clock_is_turned_by_a_file(tmp_path: Path) -> None:
    """What the file says is added to the wall clock of the process; the monotonic clock stays."""
    offset = tmp_path / "offset"
    offset.write_text("3600")
    show = "import time; real = time.clock_gettime(time.CLOCK_REALTIME); print(round(time.time() - real))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "chaos" / "inside"), "CHAOS_CLOCK": str(offset)}
    done = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3600"
