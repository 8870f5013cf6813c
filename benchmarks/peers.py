"""The peers' own environments: one each, made once from `benchmarks/rivals/NAME.txt`, never a part of ours.

A peer that cannot be installed here (no wheel for this Python, no index), or whose programs do not load with what was
installed, is missing, and the rows say so. `python -m benchmarks.peers` makes all environments and tells which are
there.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

RIVALS = Path(__file__).parent / "rivals"
SCHEMA = RIVALS.resolve().parent.parent / "schemas" / "avro" / "hook_event.v1.avsc"
HOME = Path(__file__).resolve().parent.parent / ".cache" / "peers"
#: Seconds that an installation may take.
INSTALL_S = 300.0
#: Wheels where there are some: what is built from source on the way may fail for want of a compiler.
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary", "-r")

#: Why a peer is not there, so that it is not tried again in each round.
_missing: dict[str, str] = {}


class Missing(RuntimeError):
    """The peer cannot be installed here."""


def names() -> list[str]:
    """Of all peers that need an environment."""
    return sorted(path.stem for path in RIVALS.glob("*.txt"))


def python(name: str) -> Path:
    """Its interpreter; the environment is made anew when what it is made from has changed. Raises `Missing`."""
    if name in _missing:
        raise Missing(_missing[name])
    wanted, home = RIVALS / f"{name}.txt", HOME / name
    mark = home / "made"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        try:
            _run(sys.executable, "-m", "venv", "--clear", str(home))
            _run(str(home / "bin" / "python"), *PIP, str(wanted))
            _load(name, home / "bin" / "python")
        except Missing as error:
            _missing[name] = str(error)
            raise
        mark.write_text(digest)
    return home / "bin" / "python"


def prepare(wanted: Iterable[str], say: Callable[[str], None]) -> None:
    """Make the environments before any clock runs; says what is missing."""
    for name in wanted:
        began = time.monotonic()
        try:
            python(name)
        except Missing as error:
            say(f"{name} is MISSING: {error}")
        else:
            say(f"{name}: its environment is there ({time.monotonic() - began:.0f} s)")


_LOAD = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def _load(name: str, interpreter: Path) -> None:
    """Import its programs: what has been renamed in a library is found before a round is spent on it."""
    modules = sorted(path.stem for path in RIVALS.glob(f"{name}_*.py"))
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as state:
        places = {"BROKER": "127.0.0.1:1", "TOPIC": "none", "DSN": "postgresql://u:p@127.0.0.1:1/d", "STATE": state}
        env = {**os.environ, **places, "SCHEMA": str(SCHEMA)}
        _run(str(interpreter), "-c", _LOAD, *modules, env=env, cwd=RIVALS)


def _run(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S, env=env, cwd=cwd)
    except subprocess.TimeoutExpired:
        raise Missing(f"installing it took more than {INSTALL_S:g} s") from None
    if done.returncode:
        raise Missing(f"it cannot be installed or loaded here: {(done.stderr or done.stdout).strip()[-300:]}")


_VERSIONS = """
import importlib.metadata as m, json, platform, sys
print(json.dumps({"python": platform.python_version()} | {name: m.version(name) for name in sys.argv[1:]}))
"""


def versions(name: str) -> dict[str, str]:
    """Package -> version as installed, of what was asked for; empty for a peer that is missing."""
    lines = (RIVALS / f"{name}.txt").read_text().splitlines()
    asked = [line.partition("==")[0].partition("[")[0] for line in lines if line and not line.startswith("#")]
    try:
        command = [str(python(name)), "-c", _VERSIONS, *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (Missing, subprocess.SubprocessError):
        return {}
    found: dict[str, str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    prepare(names(), print)
