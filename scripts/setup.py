"""`make setup`: from a bare Python 3.11 to a working .venv and the Kafka jars. Standard library only.

Steps: a pinned uv in the user's cache · .venv · the locked packages by hash · Chronicle, editable · Kafka's jars.
Each step is skipped when it was done for the same inputs, and one that was interrupted is done again: results are
moved into place whole, stamps are written last.

uv.lock names no package index (scripts/lock.py takes the addresses out), so everything comes from the index that your
pip and uv are set up for. The price: `uv sync` cannot read it; `uv export --frozen` can, and gives the list of pinned
hashes that is installed here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "chronicle-setup"
UV_PIN = ROOT / "scripts" / "uv.txt"  # made by `make lock`


def main() -> None:
    """Everything that is not done yet."""
    check_python()
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (ROOT / ".cache" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits and finds all done
        begin = time.monotonic()
        wanted = fingerprint()
        if not STAMP.exists() or STAMP.read_text() != wanted:
            install(find_uv())
            STAMP.write_text(wanted)
            say(f"packages installed ({time.monotonic() - begin:.0f} s)")
        fetch_jars()


def check_python() -> None:
    """Say what is missing in words, before anything else can fail."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells the user of an older one
        sys.exit(f"Chronicle needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. "
                 "Give another one: make setup PYTHON=python3.12")  # fmt: skip
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit("Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv")


def fingerprint() -> str:
    """Of everything that decides what is in .venv, its place included (an editable install knows its path)."""
    parts = [str(ROOT).encode(), sys.version.encode(), sys.executable.encode()]
    inputs = ("uv.lock", "pyproject.toml", "hatch_build.py", "scripts/setup.py")
    parts += [(ROOT / name).read_bytes() for name in inputs]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


# --- uv ---------------------------------------------------------------------------------------------------------------


def find_uv() -> Path:
    """The pinned uv, installed by pip into the user's cache once for all checkouts."""
    pin = UV_PIN.read_text()
    home = cache_home() / "chronicle" / f"uv-{hashlib.sha256(pin.encode()).hexdigest()[:12]}"
    uv = home / "bin" / "uv"
    if works(uv):
        return uv
    say("fetching uv, the package installer")
    home.parent.mkdir(parents=True, exist_ok=True)
    for stale in home.parent.glob(f"{home.name}.*"):  # of set-ups that were killed
        if not Path(f"/proc/{stale.suffix[1:]}").exists():
            shutil.rmtree(stale, ignore_errors=True)
    fresh = home.with_name(f"{home.name}.{os.getpid()}")
    try:
        run(sys.executable, "-m", "venv", fresh)
        run(fresh / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--require-hashes", "--only-binary=:all:", "-r", UV_PIN)  # fmt: skip
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)  # uv is one native program: it does not mind being moved
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return uv


def works(program: Path) -> bool:
    """Whether it runs at all (a cache can hold another machine's)."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def cache_home() -> Path:
    """$XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def uv_environment() -> dict[str, str]:
    """uv does not read pip's settings: hand on the index and the certificates that pip uses."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": str(VENV)}
    for ours, pips in (("UV_DEFAULT_INDEX", "index-url"), ("UV_INDEX", "extra-index-url"), ("SSL_CERT_FILE", "cert")):
        if ours not in env and (value := pip_setting(pips)):
            env[ours] = value
    return env


def pip_setting(name: str) -> str:
    """From pip's environment variable or its files; "" when unset."""
    if value := os.environ.get("PIP_" + name.upper().replace("-", "_")):
        return value
    for section in ("global", "install"):
        command = [sys.executable, "-m", "pip", "config", "get", f"{section}.{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return ""


# --- the environment --------------------------------------------------------------------------------------------------


def install(uv: Path) -> None:
    """.venv with exactly what the lock says, and Chronicle as an editable install."""
    env = uv_environment()
    if not works(PYTHON) or not same_python():
        say("making .venv")
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV, env=env)
    STAMP.unlink(missing_ok=True)
    pins = ROOT / ".cache" / "requirements.txt"
    run(uv, "export", "--quiet", "--frozen", "--no-emit-project", "--all-extras", "--all-groups", "--no-annotate",
        "--output-file", pins, env=env)  # fmt: skip
    say("installing the locked packages")
    sync = (uv, "pip", "sync", "--python", PYTHON, "--require-hashes", pins)
    if not succeeds(*sync, "--offline", "--quiet", env=env):  # all in the cache? then without asking the network
        run(*sync, env=env)
    run(uv, "pip", "install", "--quiet", "--offline", "--python", PYTHON, "--no-deps", "--no-build-isolation",
        "--editable", ROOT, env=env)  # fmt: skip


def same_python() -> bool:
    """Whether .venv was made from the Python that runs this."""
    code = "import sys; print(sys.version, sys.base_prefix)"
    made = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    return made == f"{sys.version} {sys.base_prefix}"


def fetch_jars() -> None:
    """The Kafka jars, unless they are there or a Kafka of one's own is used."""
    if not os.environ.get("KAFKA_HOME"):
        env = dict(os.environ)
        for bundle in (env.get("SSL_CERT_FILE"), env.get("PIP_CERT"), "/etc/ssl/certs/ca-certificates.crt"):
            if bundle and Path(bundle).exists():  # the client trusts its own list only, unless it is told of another
                env.setdefault("REQUESTS_CA_BUNDLE", bundle)
        run(PYTHON, "-m", "app.stack.jars", env=env)


# --- small things -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def succeeds(*command: str | Path, env: dict[str, str]) -> bool:
    """Whether it ends well; its words are not wanted."""
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False).returncode == 0


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Ends the set-up with one sentence when the command fails; what it said is above."""
    if subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode:
        what = " ".join(str(part) for part in command[:4])
        sys.exit(f"setup: `{what} …` failed. Mend what it says above and run it again; it goes on from there.")


if __name__ == "__main__":
    main()
