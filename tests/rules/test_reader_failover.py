"""FailoverReader: Postgres first, SQLite while it is away, and never a lie about which."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from connectors.ports import Reader
from connectors.readers import postgres
from connectors.readers.errors import QueryFailed, TooSlow
from connectors.readers.failover import HOLD_DOWN_S, FailoverReader
from connectors.readers.memory import MemoryReader
from reading import HeavyReader, ManualClock, event_row, uid
from schemas.errors import Refused, Unavailable


def pair() -> tuple[MemoryReader, MemoryReader, ManualClock, FailoverReader]:
    """A primary with event 1, a local store with event 2."""
    clock = ManualClock()
    primary, local = MemoryReader("postgres"), MemoryReader("sqlite")
    primary.event_rows.append(event_row(1))
    local.event_rows.append(event_row(2))
    return primary, local, clock, FailoverReader(primary, local, monotonic=clock.monotonic)


async def first(reader: Reader) -> Any:
    return await reader.event(uid(1))


async def second(reader: Reader) -> Any:
    return await reader.event(uid(2))


async def test_postgres_answers_while_it_is_there() -> None:
    """The local store is not asked."""
    _, local, _, reader = pair()
    local.away = "must not matter"
    answer = await reader.ask(first)
    assert (answer.source, answer.degraded) == ("postgres", False)
    assert answer.value["event_id"] == str(uid(1))


async def test_sqlite_answers_while_postgres_is_away() -> None:
    """And the answer says so."""
    primary, _, _, reader = pair()
    primary.away = "refused"
    answer = await reader.ask(second)
    assert (answer.source, answer.degraded, answer.value["event_id"]) == ("sqlite", True, str(uid(2)))


async def test_what_waits_to_be_synced_back_stays_readable() -> None:
    """Postgres answers again and has not got it yet: the local store is asked too, and its silence changes nothing."""
    _, local, _, reader = pair()
    found = await reader.find(second)
    assert (found.source, found.degraded, found.value["event_id"]) == ("sqlite", False, str(uid(2)))
    assert (await reader.find(first)).source == "postgres"
    local.away = "no such table"
    assert (await reader.find(second)).value is None


async def test_an_outage_is_remembered_for_a_moment_only() -> None:
    """No request waits for Postgres again within the hold-down; after it Postgres is asked again."""
    primary, _, clock, reader = pair()
    primary.away = "refused"
    await reader.ask(second)
    primary.away = None
    assert (await reader.ask(second)).source == "sqlite"
    clock.at += HOLD_DOWN_S
    assert (await reader.ask(first)).source == "postgres"


async def test_both_away_is_unavailable_and_names_both() -> None:
    """Nobody is asked to guess which one to start."""
    primary, local, _, reader = pair()
    primary.away, local.away = "refused", "no such table"
    with pytest.raises(Unavailable) as error:
        await reader.ask(first)
    assert "refused" in str(error.value)
    assert "no such table" in str(error.value)


async def test_without_a_local_store_the_outage_goes_up() -> None:
    """A process that has no SQLite beside it."""
    primary, _, clock, _ = pair()
    primary.away = "refused"
    with pytest.raises(Unavailable):
        await FailoverReader(primary, None, monotonic=clock.monotonic).ask(first)


async def test_what_only_postgres_may_answer_is_not_put_to_sqlite() -> None:
    """`ask_primary` raises, at once while the outage is remembered."""
    primary, _, _, reader = pair()
    primary.away = "refused"
    for _ in range(2):
        with pytest.raises(Unavailable):
            await reader.ask_primary(first)
        primary.away = None


@pytest.mark.parametrize("error", [TooSlow("postgres", "ask for less"), Refused(422, "bad_cursor", "no", "/cursor")])
async def test_a_bad_or_heavy_question_is_not_an_outage(error: Exception) -> None:
    """It goes up to the caller and Postgres is still asked next time."""
    _, _, _, reader = pair()

    async def bad(_: Reader) -> None:
        raise error

    with pytest.raises(type(error)):
        await reader.ask(bad)
    assert (await reader.ask(first)).source == "postgres"


async def no_such_column(reader: Reader) -> str:
    """A question that Postgres cannot answer until an operator acts."""
    if reader.name == "postgres":
        raise QueryFailed("postgres", 'column "cause" does not exist. Run `chronicle db migrate`.')
    await reader.probe()
    return reader.name


async def test_one_question_that_fails_is_no_outage_for_the_others() -> None:
    """It is answered from the local store; the next question goes to Postgres at once."""
    _, _, _, reader = pair()
    answer = await reader.ask(no_such_column)
    assert (answer.value, answer.source, answer.degraded) == ("sqlite", "sqlite", True)
    assert (await reader.ask(first)).source == "postgres"
    with pytest.raises(QueryFailed):
        await reader.ask_primary(no_such_column)
    assert (await reader.ask_primary(first))["event_id"] == str(uid(1))


async def test_one_question_that_nobody_answers_tells_what_to_mend() -> None:
    """503 with the words of Postgres, with a local store that does not answer and without one."""
    primary, local, clock, reader = pair()
    local.away = "no such table"
    alone = FailoverReader(primary, None, monotonic=clock.monotonic)
    for asked in (reader, alone):
        with pytest.raises(Unavailable, match="chronicle db migrate"):
            await asked.ask(no_such_column)
        assert (await asked.ask(first)).source == "postgres"


#: Twenty milliseconds instead of the second and a half.
SHORT = 0.02


async def test_a_silent_postgres_is_given_up() -> None:
    """It does not answer the probe either: the local store answers, the hanging question is cancelled."""
    gone = asyncio.Event()

    async def hang(reader: Reader) -> str:
        if reader.name == "sqlite":
            return "local"
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return ""

    reader = FailoverReader(HeavyReader(well=False), MemoryReader("sqlite"), patience=SHORT)
    answer = await reader.ask(hang)
    assert (answer.value, answer.degraded) == ("local", True)
    await asyncio.wait_for(gone.wait(), 1)


async def test_a_heavy_question_to_a_well_postgres_is_waited_for() -> None:
    """Slow is not away: an answer from SQLite would be a wrong one."""
    probed = asyncio.Event()

    class Telling(HeavyReader):
        async def probe(self) -> None:
            probed.set()

    async def slow(reader: Reader) -> str:
        await probed.wait()
        return reader.name

    answer = await FailoverReader(Telling(well=True), MemoryReader("sqlite"), patience=SHORT).ask(slow)
    assert (answer.value, answer.degraded) == ("postgres", False)


async def test_a_question_too_large_for_sqlite_is_told_so() -> None:
    """Neither as an outage of both, nor by waiting."""
    primary, _, _, reader = pair()
    primary.away = "refused"

    async def heavy(one: Reader) -> str:
        await one.probe()
        raise TooSlow(one.name, "ask for less")

    with pytest.raises(TooSlow, match="ask for less") as error:
        await reader.ask(heavy)
    assert error.value.what == "sqlite"


def test_a_pool_without_a_free_connection_is_no_outage() -> None:
    """Postgres is busy with our own questions: SQLite would know less, and nobody else must be sent there."""
    found = postgres._unavailable(PoolTimeout("QueuePool limit of size 5 overflow 0 reached"), 5.0)
    assert isinstance(found, TooSlow)
    assert not isinstance(postgres._unavailable(TimeoutError(), 5.0), TooSlow)
