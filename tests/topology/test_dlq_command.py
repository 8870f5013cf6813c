"""`chronicle dlq` and `chronicle trace` against a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from click import ClickException, Command
from click.testing import CliRunner, Result

from app.cli.dlq import dlq, hexdump, path
from app.cli.trace import trace
from app.views import deadletters
from connectors.memory import MemoryIntake, MemoryLog
from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from reading import TOPICS, ManualClock, event_row, letter_row, query_routes, serving, uid
from schemas.codec import AvroCodec

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def store() -> MemoryReader:
    """Two open letters, one conflict and one that was dealt with."""
    reader = MemoryReader("postgres")
    reader.event_rows += [event_row(1), event_row(2, suspected_duplicate_of=uid(1))]
    reader.duplicate_rows.append({"ingest_partition": 0, "ingest_offset": 9, "event_id": uid(1), "recorded_at": 0})
    reader.letter_rows += [
        letter_row(1),
        letter_row(2, detail="[bold]not markup[/]"),
        letter_row(3, cause="conflict"),
        letter_row(4, resolved_at=1),
    ]
    return reader


@pytest.fixture
async def run(store: MemoryReader) -> AsyncIterator[Run]:
    """Runs a command in a thread, as it blocks, against a server over the store."""
    reader = FailoverReader(store, MemoryReader("sqlite"))
    views = deadletters.DeadLetterViews(
        reader=reader, intake=MemoryIntake(), log=MemoryLog(), codec=AvroCodec(), topics=TOPICS, clock=ManualClock()
    )
    async with serving([*deadletters.routes(views), *query_routes(reader)]) as client:

        async def call(command: Command, *args: str) -> Result:
            environment = {"CHRONICLE_URL": str(client.make_url("/")), "COLUMNS": "200"}
            return await asyncio.to_thread(CliRunner().invoke, command, list(args), env=environment)

        yield call


async def test_ls_shows_the_open_ones(run: Run) -> None:
    """Dealt-with letters only with --all; a detail is text, whatever is in it."""
    shown = await run(dlq, "ls")
    assert shown.exit_code == 0, shown.output
    assert "t.events/0/3" in shown.output
    assert "t.events/0/4" not in shown.output
    assert "[bold]not markup[/]" in shown.output
    assert "t.events/0/4" in (await run(dlq, "ls", "--all")).output


async def test_ls_as_json_is_narrowed_and_limited(run: Run) -> None:
    """For programs."""
    found: list[dict[str, Any]] = json.loads((await run(dlq, "ls", "--json", "--cause", "conflict")).output)
    assert [letter["id"] for letter in found] == ["t.events/0/3"]
    assert len(json.loads((await run(dlq, "ls", "--json", "--limit", "2")).output)) == 2


async def test_show_has_the_bytes(run: Run) -> None:
    """As a hex dump for people."""
    shown = await run(dlq, "show", "t.events/0/1")
    assert shown.exit_code == 0, shown.output
    assert "00 00 00 00 01 62 79 74 65 73" in shown.output
    assert "refused_by_database" in shown.output


async def test_a_dry_run_changes_nothing_and_a_replay_does(run: Run, store: MemoryReader) -> None:
    """By id; afterwards the letter is dealt with."""
    foreseen = await run(dlq, "replay", "--dry-run", "t.events/0/1")
    assert "would go to t.events" in foreseen.output
    assert store.letter_rows[0]["resolved_at"] is None
    done = await run(dlq, "replay", "t.events/0/1")
    assert (done.exit_code, "1 sent, 0 refused." in done.output) == (0, True)
    assert store.letter_rows[0]["resolved_at"] is not None


async def test_one_refusal_does_not_stop_the_others(run: Run, store: MemoryReader) -> None:
    """--all sends what can go, says what cannot and why, and ends with 1."""
    result = await run(dlq, "replay", "--all")
    assert result.exit_code == 1
    assert "t.events/0/3: Another event is stored under this id" in result.output
    assert "2 sent, 1 refused." in result.output
    assert [row["resolved_at"] is not None for row in store.letter_rows] == [True, True, False, True]


async def test_replay_asks_which(run: Run) -> None:
    """Neither everything by accident nor two meanings at once."""
    for args in ((), ("t.events/0/1", "--all")):
        result = await run(dlq, "replay", *args)
        assert result.exit_code == 2
        assert "Say which" in result.output


async def test_trace_shows_every_hop(run: Run) -> None:
    """Time and place of each, and what points at the event."""
    shown = await run(trace, str(uid(1)))
    assert shown.exit_code == 0, shown.output
    for part in ("received", "t.ingest 1/1", "t.events 1/101", "stored", f"Suspected duplicate of it: {uid(2)}"):
        assert part in shown.output, part
    assert "A copy came at ingest 0/9" in shown.output
    assert json.loads((await run(trace, "--json", str(uid(1)))).output)["outcome"] == "stored"


async def test_the_servers_words_are_shown(run: Run) -> None:
    """An unknown id and a wrong one, without a traceback."""
    for id, words in ((str(uid(404)), "There is no event with this id"), ("x/y", "event_id must be a UUID")):
        result = await run(trace, id)
        assert (result.exit_code, words in result.output) == (1, True), result.output


@pytest.mark.parametrize("command", [("ls",), ("show", "t/0/1"), ("replay", "--all")])
def test_a_server_that_is_away_is_one_sentence(command: tuple[str, ...]) -> None:
    """It says where nobody answered and what to do."""
    result = CliRunner().invoke(dlq, [*command, "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    said = " ".join(result.output.replace("│", " ").split())
    assert "No Chronicle answers at http://127.0.0.1:9" in said
    assert "chronicle up" in said


def test_a_wrong_id_is_told_before_anything_is_asked() -> None:
    """An id has three parts; a topic may hold anything but a slash."""
    assert path("a.b/0/1") == "/dead-letters/a.b/0/1"
    with pytest.raises(ClickException):
        path("17")


def test_a_long_value_is_cut_in_the_dump() -> None:
    """A terminal is no place for a megabyte."""
    shown = hexdump(b"A" * 5000)
    assert shown.startswith("00000000  41 41")
    assert "904 more bytes" in shown
