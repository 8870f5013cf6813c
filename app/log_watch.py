"""Is it still the same log? Makes its topics, knows them by the broker's ids, and sees to it when it is another one.

A broker that lost its data comes back without topics. They are made again, but not before every process had the time to
notice and to let go of what it knows of the old ones: the offsets of the new ones begin at 0 and mean other records. A
topic made anew has another id, and that alone is taken for another log: a broker that is away, or not yet in step with
its cluster, names no id at all. Then, in each process:

1. it is said, once, in one sentence, in the log and in /ready
2. what was told through the old log (worker statuses) is forgotten
3. a process with stream roles ends in order (exit code 70) and is started again, already when the topics are gone
4. at its start it drops its tables and notes the new log in the databases (`note`), before anything is read

The id of the log is kept in the worker's directory, so that a loss while nothing of ours ran is noticed as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from schemas.errors import Misconfigured, Unavailable

#: Seconds between two looks.
EVERY_S: Final = 2.0
#: Seconds from noticing that the topics are gone until they are made: every other process has looked twice in them,
#: and its streams have stopped.
LETS_GO_S: Final = 6.0
#: Seconds until what is away is asked again at the start.
AGAIN_S: Final = 1.0

_logger = structlog.get_logger("chronicle.log")

#: Directories of the tables that know positions of the log.
TABLES: Final = ("seen", "usage")
_GONE: Final = "Kafka answers, and our topics are gone."

#: Topic -> the broker's id of it; None for a topic that is not there.
Ids = Mapping[str, str | None]


def log_id(ids: Ids) -> str | None:
    """One name for the log, from the ids of its topics: 32 hex digits. None while one of them is missing."""
    known = [one for _, one in sorted(ids.items()) if one]
    return hashlib.sha256(".".join(known).encode()).hexdigest()[:32] if len(known) == len(ids) else None


class LogWatch:
    """For one process. All callables may raise `Unavailable`; `make` and `note` also `Misconfigured`.

    `make` creates the topics that are missing; `look` tells their ids; `note` writes the id of the log into the
    databases, None where this process writes to none; `other` is told the sentence when the log changed while the
    process ran; `restarts` is whether the process ends by that. `directory` is the worker's own.
    """

    def __init__(
        self,
        *,
        directory: Path,
        make: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[Ids]],
        note: Callable[[str], Awaitable[None]] | None,
        other: Callable[[str], None],
        restarts: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._file = directory / "log.id"
        self._tables = [directory / name for name in TABLES]
        self._make, self._look, self._note = make, look, note
        self._other, self._restarts, self._sleep = other, restarts, sleep
        self._id: str | None = None
        self._noted = note is None
        self._missing = False
        self._sentence = ""

    def sentence(self) -> str:
        """What people should know of the log, for /ready; empty when there is nothing."""
        return self._sentence

    @property
    def log_id(self) -> str:
        """The broker's id of this log; empty until `begin` knows it."""
        return self._id or ""

    @property
    def missing(self) -> bool:
        """The broker answers and has not all of our topics."""
        return self._missing

    async def begin(self) -> None:
        """Before anything is read: wait for the broker, make what is missing, note which log it is.

        When it is not the one this worker knew, the databases must have been told before anything of it is stored:
        this waits for them. Else it does not: a worker starts also while Postgres is away.
        """
        before = self._kept()
        self._id = await self._found(before)
        if before not in (None, self._id):
            self._say()
            for table in self._tables:
                shutil.rmtree(table, ignore_errors=True)
        while not self._noted and not await self._told() and before not in (None, self._id):
            await self._sleep(AGAIN_S)
        self._keep()

    async def run(self) -> None:
        """Look for ever. In a process without stream roles it begins, too."""
        while True:
            if self._id is not None:
                try:
                    await self.check()
                except Unavailable as away:
                    _logger.debug("cannot look at the log", error=str(away))
            await self._sleep(EVERY_S)

    async def check(self) -> None:
        """One look. Raises `Unavailable`."""
        found = log_id(await self._look()) or await self._gone()
        self._missing = found is None
        if found not in (None, self._id):
            self._id = found
            self._say()
            self._other(self._sentence)
            if not self._restarts:
                self._keep()
        elif not self._noted:
            await self._told()

    async def _gone(self) -> str | None:
        """Look once more: a broker that is just starting may not be in step. Then let go, or wait and make them."""
        await self._sleep(EVERY_S)
        if (found := log_id(await self._look())) is not None:
            return found
        self._missing = True
        if self._restarts:
            self._other(f"{_GONE} This worker lets go of what it knows of the old ones and starts again.")
            return None
        await self._others_let_go()
        return await self._again()

    async def _others_let_go(self) -> None:
        _logger.warning(f"{_GONE} They are made again in {LETS_GO_S:g} s.")
        await self._sleep(LETS_GO_S)

    async def _again(self) -> str | None:
        """Make what is missing. A broker that was only not yet in step has it, and nothing is made."""
        try:
            await self._make()
        except Misconfigured as mistake:  # a broker that is just starting; at its next start a process ends with it
            _logger.error("the topics are gone and cannot be made again", error=str(mistake))
            raise Unavailable("kafka", str(mistake)) from mistake
        _logger.warning("topics were missing and have been made")
        return log_id(await self._look())

    async def _found(self, before: str | None) -> str:
        while True:
            try:
                if before is not None and log_id(await self._look()) is None:
                    await self._others_let_go()
                await self._make()
                if (found := log_id(await self._look())) is not None:
                    return found
            except Unavailable as away:
                _logger.warning("waiting for the broker", error=str(away))
            await self._sleep(AGAIN_S)

    async def _told(self) -> bool:
        assert self._note is not None
        assert self._id is not None
        try:
            await self._note(self._id)
        except Unavailable as away:
            _logger.warning("the databases do not know yet which log it is", error=str(away))
        else:
            self._noted = True
        return self._noted

    def _say(self) -> None:
        self._sentence = (
            "Kafka has another log than before: it lost its data, or the topics were deleted. What was accepted and "
            "not yet in a database is lost with it; new events flow, their offsets begin at 0."
        )
        _logger.critical(self._sentence, log=self._id)

    def _kept(self) -> str | None:
        try:
            return self._file.read_text().strip() or None
        except OSError:
            return None

    def _keep(self) -> None:
        """Also for the next start of this process; written last, so that a crash before it does all of it again."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(f"{self._id}\n")
            fresh.replace(self._file)
        except OSError as error:  # a full disk must not keep a worker from starting
            _logger.warning("cannot keep the id of the log", error=str(error))
