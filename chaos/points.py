"""The other side of Chronicle's fault points: a folder that its processes look into (`CHRONICLE_FAULT_POINTS`)."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: kill (SIGKILL), stop (SIGSTOP) or sleep:SECONDS.
_ACTION = re.compile(r"kill|stop|sleep:\d+(\.\d+)?")


class PointsFolder:
    """Implements `chaos.model.Points`: `NAME.arm` holds an action, `hits.log` a line for each process that took one.

    The folder is made if it is missing. Raises ValueError for an action that no process understands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, name: str, action: str = "kill") -> None:
        """One process, the next that passes `name`, does `action`; arming again before that changes the action."""
        if not _ACTION.fullmatch(action):
            raise ValueError(f"{action!r} is none of kill, stop, sleep:SECONDS")
        fresh = self.folder / f".{name}.new"
        fresh.write_text(action)
        os.replace(fresh, self.folder / f"{name}.arm")  # whole or not there: a process may look at any moment

    def disarm(self) -> None:
        """Nothing is armed any more; what was hit stays counted."""
        for armed in self.folder.glob("*.arm"):
            armed.unlink(missing_ok=True)

    def hits(self, name: str) -> int:
        """How often an armed point was passed, over all rounds."""
        return sum(1 for line in self._lines() if line.split()[2:3] == [name])

    def pids(self, name: str) -> list[int]:
        """The processes that passed it armed, the first one first."""
        return [int(fields[1]) for line in self._lines() if (fields := line.split())[2:3] == [name]]

    def _lines(self) -> list[str]:
        try:
            return (self.folder / "hits.log").read_text().splitlines()
        except FileNotFoundError:
            return []
