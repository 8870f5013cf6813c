"""Both sides of the same thing: two events under one id, and a session that SQLite and Postgres both rolled up."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from agents.sync_back import SyncBack
from connectors import migrate
from connectors.postgres import PostgresSink
from connectors.rollup import SESSION_TYPES, fold, session_row
from connectors.rows import expected
from connectors.sqlite import SqliteSink
from fakes_persist import TOPICS, CountingMetrics, FakeLog
from running import rows, settled, until
from schemas.clock import SystemClock
from schemas.event import LoggedEvent
from sink_events import InPostgres, batch, decode, logged

pytestmark = pytest.mark.e2e
Ready = dict[str, Any]


class Open:
    """A gate that lets everything through."""

    def reachable(self) -> bool:
        return True

    def report(self, error: Exception) -> None:
        raise AssertionError(f"Postgres failed: {error}")

    async def tend(self) -> None:
        """Nothing."""


#: What happens to a session: (type, payload); the times come from the permutation.
STORY = (
    ("session_start", '{"git_branch": "main"}'),
    ("session_start", '{"git_branch": "fix", "git_commit": "1"}'),
    ("user_prompt", "{}"),
    ("session_end", '{"reason": "error"}'),
)


def interleavings() -> Iterator[tuple[str, list[tuple[str, LoggedEvent]]]]:
    """Sessions in which each event goes to Postgres before, to SQLite, or to Postgres during sync-back."""
    numbers = itertools.count()
    for sides in itertools.product(("before", "outage", "during"), repeat=len(STORY)):
        for times in itertools.permutations(range(len(STORY))):
            name = "-".join((*sides, *map(str, times)))
            yield (
                name,
                [
                    (
                        side,
                        logged(
                            next(numbers),
                            session_id=name,
                            event_type=kind,
                            payload=payload,
                            occurred_at=1_760_000_000_000_000 + at,
                            cwd=f"/home/{at}",
                            source=f"source-{at}",
                        ),
                    )
                    for side, at, (kind, payload) in zip(sides, times, STORY, strict=True)
                ],
            )


async def test_a_session_of_both_sides_is_what_its_events_say(postgres: str, tmp_path: Path) -> None:
    """In every interleaving of before, outage and sync-back, and every order of event times."""
    await migrate.upgrade(postgres)
    sink, sqlite = PostgresSink(postgres), SqliteSink(tmp_path / "failover.db", decode=decode)
    stories = dict(interleavings())
    events = {side: [e for story in stories.values() for on, e in story if on == side] for side in ("before", "outage")}
    during = [e for story in stories.values() for on, e in story if on == "during"]
    await sink.write(batch(events["before"]))
    await sqlite.write(batch(events["outage"]))
    sync = SyncBack(
        backlog=sqlite, primary=PostgresSink(postgres, worker="sync"), gate=Open(), log=FakeLog(), topics=TOPICS,
        clock=SystemClock(), metrics=CountingMetrics(), digest=expected, batch=500,
    )  # fmt: skip
    halves = (during[::2], during[1::2])
    await sink.write(batch(halves[0]))  # some live events come home before the backlog, some after it
    done = await sync.sync_once()
    await sink.write(batch(halves[1]))
    await sink.write(batch(events["outage"][:100]))  # and some of the backlog is read again from the log
    assert done.events == len(events["outage"])
    found = await InPostgres(postgres).sessions()
    wanted = {
        name: dict(zip(SESSION_TYPES, session_row(fold([one for _, one in story])[0]), strict=True))
        for name, story in stories.items()
    }
    assert len(wanted) == 3**4 * 24
    assert {name: found[name] for name in wanted} == wanted
    for closing in (sink, sqlite):
        await closing.close()


async def conflict(http: aiohttp.ClientSession, ready: Ready, *payloads: dict[str, Any], kind: str) -> str:
    """Post these payloads under one id and wait until all but the first are conflicts."""
    event_id, session = str(uuid.uuid4()), f"conflict-{uuid.uuid4()}"
    for payload in payloads:
        body = {"event_id": event_id, "session_id": session, "event_type": kind, "payload": payload}
        async with http.post(f"{ready['url']}/events", json=body) as answer:
            assert answer.status == 202

    async def both() -> bool:
        async with http.get(f"{ready['url']}/conflicts/{event_id}") as answer:
            found = await answer.json() if answer.status == 200 else {"first": None}
            return found["first"] is not None and len(found["others"]) == len(payloads) - 1

    await until(both, what="the first event and all the others")
    return event_id


async def resolve(http: aiohttp.ClientSession, ready: Ready, event_id: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(f"{ready['url']}/conflicts/{event_id}/resolve", json=body) as answer:
        return answer.status, await answer.json()


FIRST, OTHER = {"a": 1, "deep": {"x": 1}}, {"a": 2, "b": 2, "deep": {"x": 2, "y": 2}}


@pytest.mark.parametrize(
    ("strategy", "more", "payload"),
    [
        ("remote", {}, FIRST),
        ("local", {}, OTHER),
        ("merge", {}, {"a": 1, "b": 2, "deep": {"x": 1, "y": 2}}),
        ("manual", {"payload": {"mine": "\x00"}}, {"mine": "\x00"}),
    ],
)
async def test_a_conflict_is_decided_once_and_the_old_payload_is_kept(
    stack: Ready, strategy: str, more: dict[str, Any], payload: dict[str, Any]
) -> None:
    """By each strategy; both sides stay readable, the view `conflicts` tells the decision, nothing else changes."""
    async with aiohttp.ClientSession() as http:
        event_id = await conflict(http, stack, FIRST, OTHER, kind="tool_pre_use")
        async with http.get(f"{stack['url']}/conflicts/{event_id}") as answer:
            sides = await answer.json()
        assert sides["first"]["payload"] == FIRST
        assert sides["others"][0]["event"]["payload"] == OTHER
        status, told = await resolve(http, stack, event_id, strategy=strategy, dry_run=True, **more)
        assert (status, told["payload"], told["resolved"]) == (200, payload, False)
        status, told = await resolve(http, stack, event_id, strategy=strategy, **more)
        assert (status, told["payload"], told["resolved"]) == (200, payload, True)
        async with http.get(f"{stack['url']}/events/{event_id}") as answer:
            after = await answer.json()
        assert after["payload"] == payload
        assert after | {"payload": 0, "flags": 0} == sides["first"] | {"payload": 0, "flags": 0}
        assert (await resolve(http, stack, event_id, strategy="remote"))[0] == 409
        assert (await settled(http, stack["url"]))["difference"] == 0
    view = await rows(stack["database"], "SELECT * FROM conflicts WHERE event_id = $1", uuid.UUID(event_id))
    assert [row["strategy"] for row in view] == [strategy]
    before = view[0]["payload_before"]
    assert (None if before is None else json.loads(before)) == (None if strategy == "remote" else FIRST)


async def test_several_claims_on_one_id_must_be_named(stack: Ready) -> None:
    """`local` without a letter is refused when two others came; with one it closes that one only."""
    async with aiohttp.ClientSession() as http:
        event_id = await conflict(http, stack, FIRST, OTHER, {"third": 3}, kind="tool_pre_use")
        status, problem = await resolve(http, stack, event_id, strategy="local")
        assert (status, problem["code"]) == (409, "which_letter")
        async with http.get(f"{stack['url']}/conflicts/{event_id}") as answer:
            others = (await answer.json())["others"]
        letter = next(one["letter"] for one in others if one["event"]["payload"] == OTHER)
        assert (await resolve(http, stack, event_id, strategy="local", letter=letter))[1]["letters"] == [letter]
        status, told = await resolve(http, stack, event_id, strategy="remote")
        assert (status, told["payload"], len(told["letters"])) == (200, OTHER, 1)


async def test_the_session_follows_a_decision_about_its_end(stack: Ready) -> None:
    """A session_end that is replaced changes the session as if it had come like that."""
    async with aiohttp.ClientSession() as http:
        event_id = await conflict(http, stack, {"reason": "other"}, {"reason": "error"}, kind="session_end")
        async with http.get(f"{stack['url']}/events/{event_id}") as answer:
            session = (await answer.json())["session_id"]
        statuses = []
        for strategy in (None, "local"):
            if strategy:
                assert (await resolve(http, stack, event_id, strategy=strategy))[0] == 200
            async with http.get(f"{stack['url']}/sessions/{session}") as answer:
                statuses.append((await answer.json())["status"])
    assert statuses == ["completed", "error"]


async def test_a_decision_and_its_history_are_one_transaction(stack: Ready) -> None:
    """Where the history cannot be written the payload stays and the conflict stays open."""
    async with aiohttp.ClientSession() as http:
        event_id = await conflict(http, stack, FIRST, OTHER, kind="tool_pre_use")
        connection = await asyncpg.connect(stack["database"])
        await connection.execute("ALTER TABLE conflict_resolutions RENAME COLUMN strategy TO strategy_away")
        try:
            assert (await resolve(http, stack, event_id, strategy="local"))[0] == 503
        finally:
            await connection.execute("ALTER TABLE conflict_resolutions RENAME COLUMN strategy_away TO strategy")
            await connection.close()

        async def unchanged() -> bool:  # the reader takes the 503 for an outage, for a moment
            async with http.get(f"{stack['url']}/conflicts/{event_id}") as answer:
                found = await answer.json()
                return answer.status == 200 and found["first"] is not None and found["first"]["payload"] == FIRST

        await until(unchanged)
        assert (await resolve(http, stack, event_id, strategy="remote"))[0] == 200, "it was open still"
