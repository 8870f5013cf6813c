"""What `chronicle aggregates verify` says of a place: the command is run as anybody would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from chaos.evidence_values import Recounted

#: Seconds for one run: after a soak it has millions of events to count.
LONGEST_S: Final = 1_800.0
#: Live values of events that are stored a moment later are left out, so it is asked again.
TRIES: Final = 4
PAUSE_S: Final = 3.0
#: Characters of standard error that are kept.
SAID: Final = 1_000
_ROOT: Final = Path(__file__).resolve().parent.parent


def read_recount(broker: str, dsn: str, prefix: str) -> Recounted:
    """The verdict of the command, asked again while it leaves keys out. Blocks; what goes wrong is in the answer."""
    return asked_again(lambda: run(broker, dsn, prefix))


def asked_again(ask: Callable[[], Recounted], *, pause_s: float = PAUSE_S) -> Recounted:
    """The first answer that leaves nothing out; the last one when none does."""
    for _ in range(TRIES - 1):
        found = ask()
        if not left_out(found):
            return found
        time.sleep(pause_s)
    return ask()


def left_out(found: Recounted) -> bool:
    """Whether live values could not be compared yet."""
    partitions: list[dict[str, Any]] = found.report.get("partitions") or []
    return any(part.get("ahead") for part in partitions)


def run(broker: str, dsn: str, prefix: str) -> Recounted:
    """One run."""
    command = (sys.executable, "-m", "chronicle", "aggregates", "verify", "--json")
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=environment(os.environ, broker, dsn, prefix),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Recounted(-1, said=f"no answer within {LONGEST_S:g} s")
    return Recounted(done.returncode, report_of(done.stdout), done.stderr[-SAID:].strip())


def environment(inherited: Mapping[str, str], broker: str, dsn: str, prefix: str) -> dict[str, str]:
    """Nothing of Chronicle but where the place is: settings of whoever runs the drill are of another installation."""
    others = {name: value for name, value in inherited.items() if not name.startswith("CHRONICLE_")}
    where = {"KAFKA__BROKERS": broker, "KAFKA__PREFIX": prefix, "DATABASE__URL": dsn}
    return {**others, **{f"CHRONICLE_{name}": value for name, value in where.items()}}


def report_of(text: str) -> dict[str, Any]:
    """{} for what is no JSON object: a verdict without one counts as none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
