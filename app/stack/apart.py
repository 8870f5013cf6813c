"""Work of a second in a process of its own: what it imports does not stay with one that runs for weeks.

The other process gets "module:function" and a JSON value on its standard input, and answers on its standard output
with the `ChronicleError` that ended it, as JSON, or with nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from app.stack.process import die_with_parent, kill_group
from schemas.errors import ChronicleError, Misconfigured, Unavailable

#: In a checkout the folder `chronicle` is here, in an installed wheel this is it.
BASE: Final = Path(__file__).resolve().parents[2]
_CODE: Final = "import sys; sys.path.insert(0, sys.argv[1]); from app.stack.apart import main; main()"
#: Signs of its standard error that are told when it ended without an answer.
TOLD: Final = 1000


class _Work(msgspec.Struct):
    """What is asked for."""

    name: str
    given: msgspec.Raw


class _Failed(msgspec.Struct):
    """What ended it: the class of the error and its two texts."""

    kind: str
    first: str
    second: str


async def apart(name: str, given: Any) -> None:
    """Run the coroutine function `name` ("module:function") on `given`, which msgspec can write as JSON.

    Raises the `Misconfigured` or `Unavailable` that it raised, `ChronicleError` with its last words when it ended
    otherwise. Cancelled, it takes the other process with it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _CODE, str(BASE)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,  # Ctrl-C in the terminal is for us
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        asked = msgspec.json.encode({"name": name, "given": given})
        said, aside = await process.communicate(asked)
    finally:
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()
    if said:
        raise _error(msgspec.json.decode(said, type=_Failed))
    if process.returncode:
        raise ChronicleError(f"{name} ended with {process.returncode}: {aside.decode(errors='replace')[-TOLD:]}")


def main() -> None:
    """The other process."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=_Work)
    module, _, function = work.name.partition(":")
    try:
        asyncio.run(getattr(importlib.import_module(module), function)(bytes(work.given)))
    except (Misconfigured, Unavailable) as error:
        sys.stdout.buffer.write(msgspec.json.encode(_told(error)))


def _told(error: Misconfigured | Unavailable) -> _Failed:
    if isinstance(error, Misconfigured):
        return _Failed("misconfigured", error.detail, error.remedy)
    return _Failed("unavailable", error.what, error.detail)


def _error(failed: _Failed) -> ChronicleError:
    kind = Misconfigured if failed.kind == "misconfigured" else Unavailable
    return kind(failed.first, failed.second)
