"""Ask Postgres; while it is away ask SQLite, and say which of them answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from connectors.ports import Reader
from connectors.readers.errors import QueryFailed, TooSlow
from schemas.errors import Unavailable
from schemas.query import Held

T = TypeVar("T")

#: Seconds for which "Postgres is away" is remembered, so that an outage does not cost each request a connection.
HOLD_DOWN_S = 1.5
#: Seconds until a silent Postgres is asked whether it is there, and how long that answer may take: 2 s in all.
PATIENCE_S = 1.5
PROBE_S = 0.5


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """What was found and where. `degraded`: the local store knows only what was written since Postgres went away.

    `held`: what the local store had before it was asked and afterwards; None where the primary has answered.
    """

    value: T
    source: str
    degraded: bool
    held: tuple[Held, Held] | None = None


class LocalReader(Reader, Protocol):
    """One whose rows go to the primary one day, and are dropped then."""

    async def held(self) -> Held: ...


class FailoverReader:
    """`ask(question)` puts a question to `primary`, and to `local` when primary raises `Unavailable`.

    A question that fails by itself (`QueryFailed`) is put to `local` too, but primary is not away for the others.
    A primary that is silent is given up after two seconds, unless a probe on another connection says it is well: then
    the question is a heavy one and is waited for. Raises `Unavailable` when neither answers, `TooSlow` when the one
    that is asked is well and the question too large. The rest (`Refused`) goes through.
    """

    def __init__(
        self,
        primary: Reader,
        local: LocalReader | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE_S,
    ) -> None:
        self.primary = primary
        self.local = local
        self._monotonic = monotonic
        self._patience = patience
        self._away: Unavailable | None = None
        self._away_until = 0.0

    async def open(self) -> None:
        """Open both; neither connects yet."""
        for reader in (self.primary, self.local):
            if reader is not None:
                await reader.open()

    async def close(self) -> None:
        """Close both."""
        for reader in (self.primary, self.local):
            if reader is not None:
                await reader.close()

    async def ask(self, question: Callable[[Reader], Awaitable[T]], *, of: Answer[Any] | None = None) -> Answer[T]:
        """The answer of the first that gives one. `of`: what `find` found and this is a part of; what waits in the
        local store to be synced back has its parts there too."""
        if of is not None and self.local is not None and of.source == self.local.name:
            return await self._locally(self.local, question, of.degraded, of)
        away = self._away_now()
        if away is None:
            try:
                return Answer(await self._patiently(question), self.primary.name, False)
            except TooSlow:
                raise
            except QueryFailed as error:
                away = error
            except Unavailable as error:
                away = self._went_away(error)
        if self.local is None:
            raise away
        try:
            return await self._locally(self.local, question, True)
        except TooSlow:
            raise
        except Unavailable as error:
            raise Unavailable(away.what, f"{away.detail}; and {error}", retry_after=HOLD_DOWN_S) from error

    async def find(self, question: Callable[[Reader], Awaitable[T | None]]) -> Answer[T | None]:
        """As `ask`, for one thing: what Postgres does not have may still wait in the local store to be synced back.

        So an event that was readable during an outage stays readable while it is on its way.
        """
        answer = await self.ask(question)
        if answer.value is not None or answer.degraded or self.local is None:
            return answer
        try:
            waiting = await self._locally(self.local, question, False)
        except Unavailable:  # Postgres has answered, and that is the answer
            return answer
        return answer if waiting.value is None else waiting

    async def ask_primary(self, question: Callable[[Reader], Awaitable[T]]) -> T:
        """For what only Postgres may answer. Raises `Unavailable` at once while it is known to be away."""
        away = self._away_now()
        if away is not None:
            raise away
        try:
            return await self._patiently(question)
        except (TooSlow, QueryFailed):
            raise
        except Unavailable as error:
            raise self._went_away(error) from error

    async def _locally(
        self,
        local: LocalReader,
        question: Callable[[Reader], Awaitable[T]],
        degraded: bool,
        of: Answer[Any] | None = None,
    ) -> Answer[T]:
        before = of.held[0] if of is not None and of.held is not None else await local.held()
        value = await question(local)
        return Answer(value, local.name, degraded, (before, await local.held()))

    def _away_now(self) -> Unavailable | None:
        return self._away if self._monotonic() < self._away_until else None

    def _went_away(self, error: Unavailable) -> Unavailable:
        self._away, self._away_until = error, self._monotonic() + HOLD_DOWN_S
        return error

    async def _patiently(self, question: Callable[[Reader], Awaitable[T]]) -> T:
        asking = asyncio.ensure_future(question(self.primary))
        try:
            done, _ = await asyncio.wait({asking}, timeout=self._patience)
            if not done:
                await self._probe()
            return await asking
        finally:
            if asking.cancel():
                asking.add_done_callback(_ended)

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self.primary.probe()
        except TimeoutError as error:
            raise Unavailable(self.primary.name, f"no answer within {self._patience + PROBE_S:.0f} s") from error


def _ended(asked: asyncio.Future[T]) -> None:
    """A question that was given up may still fail later; nobody waits for that, and it is no lost exception."""
    if not asked.cancelled():
        asked.exception()
