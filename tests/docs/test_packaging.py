"""The wheel owns one import name, so it lives beside PyTables (`tables`) and the OpenAI Agents SDK (`agents`)."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("app", "agents", "tables", "schemas", "connectors")


def script(name: str) -> ModuleType:
    """One of scripts/, which are no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Its output; fails with its words."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree, without fetching anything."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_owns_only_chronicle(wheel: Path) -> None:
    """Nothing else on top level: pip would overwrite other people's files without a word."""
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"chronicle"}


def test_the_wheel_has_every_file_of_the_house(wheel: Path) -> None:
    """Modules and data (.avsc, migrations, jar list) travel without being listed; tests and scripts do not."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    house = {
        f"chronicle/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == house | {"chronicle/__init__.py", "chronicle/__main__.py"}
    assert "chronicle/schemas/avro/hook_event.v1.avsc" in packed


def test_the_lock_names_no_host_and_matches_the_project() -> None:
    """What `make check` says as well: everything comes from whatever index the machine is set up for."""
    assert script_faults() == []


def script_faults() -> list[str]:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        faults: list[str] = script("lock").faults()
        return faults
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_hosts_are_taken_out_of_a_lock() -> None:
    """Addresses go, names and hashes stay; a second time changes nothing."""
    sys.path.insert(0, str(ROOT / "scripts"))
    hostless = script("lock").hostless
    sys.path.remove(str(ROOT / "scripts"))
    lock = """
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/a/b/thing-1.0.tar.gz", hash = "sha256:00" }
"""
    bare = hostless(lock)
    assert tomllib.loads(bare) == {
        "source": {"registry": "simple"},
        "sdist": {"path": "thing-1.0.tar.gz", "hash": "sha256:00"},
    }
    assert hostless(bare) == bare


def fingerprints(site: Path) -> dict[str, str]:
    """Every file of the two neighbours, by hash."""
    return {
        str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("tables", "agents")
        for path in (site / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_it_lives_beside_pytables_and_the_agents_sdk(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment with both, ours runs from anywhere and theirs stay as they were, also after ours left."""
    setup = script("setup")
    uv, env = setup.find_uv(), setup.uv_environment()
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    run(uv, "venv", "--quiet", "--python", sys.executable, venv)
    pins = tmp_path / "pins.txt"
    run(uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-default-groups", "--no-hashes", "-o", pins)
    install = (uv, "pip", "install", "--quiet", "--python", python)
    for network in (["--offline"], []):
        command = [*install, *network, "-r", pins, "tables", "openai-agents"]
        if subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("tables and openai-agents are not in the cache and no index answers")
    (site,) = (venv / "lib").glob("python*/site-packages")
    before = fingerprints(site)
    assert "tables/__init__.py" in before
    assert "agents/__init__.py" in before

    run(*install, "--offline", "--no-deps", wheel)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(venv / "bin" / "chronicle", "--version", cwd=Path("/")) == f"chronicle {version}\n"
    assert run(python, "-m", "chronicle", "--version", cwd=Path("/")) == f"chronicle {version}\n"
    assert "state_dir" in run(venv / "bin" / "chronicle", "config", "show", cwd=Path("/"))
    ours = (
        "import chronicle.__main__ as m, sys; sys.path.insert(0, str(m.base()));"
        "import agents.dedupe; print(agents.__file__)"
    )
    assert run(python, "-c", ours, cwd=Path("/")).strip() == str(site / "chronicle" / "agents" / "__init__.py")
    theirs = "import agents, tables; print(agents.__file__, tables.__file__)"
    assert run(python, "-c", theirs, cwd=Path("/")).split() == [
        f"{site}/agents/__init__.py",
        f"{site}/tables/__init__.py",
    ]
    assert fingerprints(site) == before

    run(uv, "pip", "uninstall", "--quiet", "--python", python, "chronicle-streams")
    assert fingerprints(site) == before
