"""`make lock`: resolve, then take the addresses out of uv.lock. `--check` only says whether the lock is right.

With an address per file the lock would bind every user to one package index. The hashes stay, so what is installed is
the same from any index. uv reads such a lock for `lock`, `lock --check` and `export`, not for `sync`: see setup.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from setup import ROOT, UV_PIN, find_uv, run, say, uv_environment

LOCK = ROOT / "uv.lock"


def hostless(text: str) -> str:
    """The lock with `simple` for the index and bare file names for the files; idempotent."""
    text = re.sub(r'registry = "[a-z]+://[^"]*"', 'registry = "simple"', text)
    return re.sub(r'url = "[a-z]+://[^"]*?/([^"/]+)"', r'path = "\1"', text)


def faults() -> list[str]:
    """What is wrong with the committed lock, one sentence each."""
    found = []
    for path in (LOCK, UV_PIN):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "://" in line:
                found.append(f"{path.name}:{number} names a host.")
                break
    command = [str(find_uv()), "lock", "--check", "--offline", "--quiet"]
    if subprocess.run(command, cwd=ROOT, env=uv_environment(), capture_output=True, check=False).returncode:
        found.append("uv.lock does not match pyproject.toml.")
    return found


def lock() -> None:
    """Resolve anew, keeping the versions that still fit (`make lock UPGRADE=1` lets them rise)."""
    uv, env = find_uv(), uv_environment()
    run(uv, "lock", *(["--upgrade"] if "--upgrade" in sys.argv else []), env=env)
    LOCK.write_text(hostless(LOCK.read_text()))
    pin_uv(uv, env)


def pin_uv(uv: Path, env: dict[str, str]) -> None:
    """scripts/uv.txt: the uv that set-up bootstraps, of every platform, by hash."""
    version = re.search(r"^uv==(\S+)", UV_PIN.read_text(), re.MULTILINE)
    wanted = f"uv=={version[1]}\n" if version else "uv\n"
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "-"]
    done = subprocess.run(command, input=wanted, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    UV_PIN.write_text(
        f"# The uv that `make setup` bootstraps; change the version here, then `make lock`.\n{done.stdout}"
    )


def main() -> None:
    """Lock, or check the lock."""
    if "--check" not in sys.argv:
        lock()
    problems = faults()
    for problem in problems:
        say(problem)
    if problems:
        sys.exit("Run `make lock` and commit what it changes.")


if __name__ == "__main__":
    main()
