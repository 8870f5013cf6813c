"""The load against a server that misbehaves on purpose: what it writes down is what it was told."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from chaos.ledger import Ledger, read
from chaos.load import Pace, run
from chaos.load_send import Answer, lines_of
from chaos.mix import HOOKS, Item, Request
from chaos.mix_payloads import sha256
from chaos.model import Outcome, Sent
from chaos.reader import Reader

GOOD = Item(str(uuid.UUID(int=1)), "s", 0, "aa" * 32, "bulk")
BAD = Item(str(uuid.UUID(int=2)), "s", 1, "bb" * 32, "bad")
LAST = Item(str(uuid.UUID(int=3)), "s", 2, "cc" * 32, "bulk")


def told(request: Request, answer: Answer) -> list[tuple[Outcome, str]]:
    return [(line.outcome, line.event_id) for line in lines_of("p0", request, answer)]


def test_each_event_of_a_bulk_has_the_outcome_of_the_receipt() -> None:
    """A rejected one among accepted ones is a fail of its own."""
    body = json.dumps(
        {
            "accepted": 2,
            "event_ids": [GOOD.event_id, LAST.event_id],
            "rejected": [{"index": 1, "code": "wrong_type"}],
            "durability": "spool",
        }
    ).encode()
    lines = lines_of("p0", Request("/events", b"", (GOOD, BAD, LAST)), Answer(1.0, 0.1, 202, {}, body))
    assert [line.outcome for line in lines] == [Outcome.OK, Outcome.FAIL, Outcome.OK]
    assert [line.durability for line in lines] == ["spool", None, "spool"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (None, "unknown"),
        (500, "unknown"),
        (503, "unknown"),
        (408, "unknown"),
        (429, "unknown"),
        (422, "fail"),
        (202, "unknown"),
    ],
)
def test_only_a_refusal_is_a_fail_and_only_a_receipt_is_ok(status: int | None, outcome: str) -> None:
    """What says nothing about the event is unknown; so is a 2xx without a receipt."""
    assert told(Request("/events", b"", (GOOD,)), Answer(1.0, 0.1, status, {}, b"")) == [
        (Outcome(outcome), GOOD.event_id)
    ]


def test_a_hook_has_the_id_that_the_answer_names() -> None:
    """Without one the promise is about nothing."""
    fresh, named = Item("fresh:p0:1", "s", 1, "aa" * 32, "native"), str(uuid.UUID(int=9))
    request = Request(HOOKS, b"", (fresh,), safe=False)
    assert told(request, Answer(1.0, 0.1, 204, {"chronicle-event-id": named})) == [(Outcome.OK, named)]
    assert told(request, Answer(1.0, 0.1, 204, {})) == [(Outcome.UNKNOWN, "fresh:p0:1")]


def test_the_pace_makes_up_for_little_and_forgets_the_rest() -> None:
    """An outage of an hour is not followed by an hour's load at once."""
    pace = Pace(10.0)
    assert pace.wait_s(10) == 0.0
    assert 0.5 < pace.wait_s(1) <= 1.0
    pace._due -= 3600
    for _ in range(5):
        assert pace.wait_s(10) == 0.0
    assert pace.wait_s(10) > -1e-9
    assert pace.wait_s(10) > 0.5


# --- against a server ------------------------------------------------------------------------------------------------


class Server:
    """Takes events in; `fate` may answer in its place."""

    def __init__(self, fate: Callable[[int], int | None] = lambda _: None) -> None:
        self.fate, self.count = fate, 0
        self.bodies: dict[bytes, int] = {}

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.count += 1
        self.bodies[body] = self.bodies.get(body, 0) + 1
        if (status := self.fate(self.count)) is not None:
            return web.Response(status=status)
        if request.path == HOOKS:
            return web.Response(status=204, headers={"Chronicle-Event-Id": str(uuid.uuid4())})
        return self._receipt(request, body)

    def _receipt(self, request: web.Request, body: bytes) -> web.Response:
        try:
            text = body.decode()
            found = (
                [json.loads(line) for line in text.splitlines()] if "nd" in request.content_type else json.loads(text)
            )
            events = found if isinstance(found, list) else [found]
            good = [isinstance(event.get("payload"), dict) and "session_id" in event for event in events]
        except ValueError:
            return web.Response(status=400)
        if not any(good):
            return web.Response(status=422)
        return web.json_response(
            {
                "event_ids": [event.get("event_id", "") for event, well in zip(events, good, strict=True) if well],
                "rejected": [{"index": index} for index, well in enumerate(good) if not well],
                "durability": "log",
            },
            status=202,
        )


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sockets = site._server.sockets  # type: ignore[union-attr]
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    await runner.cleanup()


async def loaded(url: str, folder: Path, until: Callable[[], bool], give_up_s: float = 60.0) -> list[Sent]:
    """What the ledger holds after a load that ran until the condition held."""
    stop = asyncio.Event()
    load = asyncio.create_task(run(url, folder, seed=1, producers=2, rate=400, stop=stop, give_up_s=give_up_s))
    async with asyncio.timeout(30):
        while not until():
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(load, 20)
    return list(read(folder))


async def test_what_is_unknown_is_sent_again_with_its_id_until_it_is_known(tmp_path: Path) -> None:
    """Every third request is answered with 503: each event is ok in the end, in order of seq."""
    server = Server(lambda count: 503 if count % 3 == 0 else None)
    async with serving(server) as url:
        lines = await loaded(url, tmp_path, lambda: server.count > 60)
    for producer in {line.producer for line in lines}:
        own = [line for line in lines if line.producer == producer]
        under_way = {line.event_id for line in own if line.at == own[-1].at}  # when it was stopped
        safe = [line for line in own if not line.event_id.startswith("fresh:") and line.kind != "native"]
        unknown = {line.event_id for line in safe if line.outcome is Outcome.UNKNOWN}
        known = {line.event_id for line in safe if line.outcome is not Outcome.UNKNOWN}
        assert unknown & known
        assert unknown - known <= under_way
        firsts = list(dict.fromkeys(line.seq for line in own if not line.repeat))
        assert firsts == sorted(firsts)


async def test_a_hook_without_an_id_is_never_sent_twice(tmp_path: Path) -> None:
    """It would be another event: the ledger keeps it as unknown, by content."""
    server = Server(lambda _: 503)
    async with serving(server) as url:
        lines = await loaded(url, tmp_path, lambda: server.count > 40, give_up_s=0.0)
    fresh = [line.event_id for line in lines if line.event_id.startswith("fresh:")]
    assert fresh
    assert len(fresh) == len(set(fresh))
    assert {line.outcome for line in lines} == {Outcome.UNKNOWN}


async def test_nobody_listening_is_unknown(tmp_path: Path) -> None:
    """Connection refused: no status, not ok."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        lines = await loaded(url, tmp_path, lambda: len(list(read(tmp_path))) > 4)
    assert {(line.outcome, line.status) for line in lines} == {(Outcome.UNKNOWN, None)}


async def test_the_same_seed_is_not_sent_twice_into_one_ledger(tmp_path: Path) -> None:
    """Its ids would come again and be taken for repeats nobody meant."""
    async with serving(server := Server()) as url:
        await loaded(url, tmp_path, lambda: server.count > 4)
        with pytest.raises(FileExistsError):
            await run(url, tmp_path, seed=1, stop=asyncio.Event())


async def test_sigterm_ends_the_program_with_its_counts(tmp_path: Path) -> None:
    """After the open requests."""
    server = Server()
    async with serving(server) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.load", "--url", url, "--ledger", str(tmp_path), "--seed", "2",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            while server.count < 20:
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert sum(json.loads(out).values()) == len(list(read(tmp_path)))


# --- the reader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "violations"), [(200, 0), (503, 0), (404, 1), (500, 1)], ids=["there", "honest", "gone", "broken"]
)
async def test_the_reader_tells_what_was_readable_and_is_not(tmp_path: Path, then: int, violations: int) -> None:
    """A 503 is honest; a 404 after a 200 is not, nor is a 500."""
    payload = {"a": [1, 2.5, "é"]}
    line = Sent("p0", 0, GOOD.event_id, "s", sha256(payload), 1.0, 0.1, Outcome.OK, 202)
    ledger = Ledger(tmp_path / "p0.jsonl")
    ledger.append([line])
    ledger.close()
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        status = 404 if asked == 1 else 200 if asked == 2 else then
        return web.json_response({"payload": payload}, status=status)

    app = web.Application()
    app.router.add_get("/events/{id}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    reader, stop = Reader(url, tmp_path, seed=1, rate=100), asyncio.Event()
    task = asyncio.create_task(reader.run(stop))
    async with asyncio.timeout(20):
        while asked < 3:
            await asyncio.sleep(0.01)
    stop.set()
    reading = await task
    await runner.cleanup()
    assert reading.not_yet == 1
    assert bool(reading.broken) == bool(violations)
