"""Bad requests over raw sockets: what is compressed, nested or spelled to hurt; slow and smuggled ones.

Each has the answer that docs/api-ingest.md gives; none may be a 5xx, none may cost the others, and the memory of the
ingest process may not grow by more than twice the limit of a body.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import brotli  # type: ignore[import-untyped, unused-ignore]

from chaos.faults.own import PREFIX, Own, until
from chaos.model import Expected, Fault, Place

#: Bytes of a body after unpacking that ingest takes (`ingest.max_body_bytes`).
BODY_BYTES = 8 << 20
#: Seconds until a request that is not finished must be answered or hung up on.
SLOW_S = 10.0
JSON = "application/json"
Headers = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A request as bytes and the statuses that are right; 0 is a connection closed without an answer."""

    what: str
    request: bytes
    right: frozenset[int]


def request(body: bytes, headers: Headers | None = None, *, path: str = "/events") -> bytes:
    """A POST as it goes over the wire."""
    lines = {"Host": "127.0.0.1", "Content-Type": JSON, "Content-Length": str(len(body)), "Connection": "close"}
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Bodies:
    """Builds events around a payload given as text, so that it may be anything; all under one `fault-` session."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.session = f"{PREFIX}bad-{chance.getrandbits(48):012x}"

    def event(self, payload: str) -> str:
        event_id = uuid.UUID(int=self._chance.getrandbits(128), version=4)
        head = f'"event_id":"{event_id}","session_id":"{self.session}","event_type":"fault_probe"'
        return f'{{{head},"payload":{payload}}}'

    def good(self) -> str:
        return self.event('{"good":true}')


def squeeze(data: bytes) -> bytes:
    return gzip.compress(data, 9)


def unpacking(make: Bodies) -> Iterator[Case]:
    """F35: what is in the wrapping."""
    bomb = squeeze(bytes(200 << 20))
    packed = gzip.compress(make.good().encode())
    yield Case("gzip bomb, 200 MB", request(bomb, {"Content-Encoding": "gzip"}), frozenset({413}))
    twice = squeeze(squeeze(bytes(100 << 20)))
    yield Case("gzip in gzip", request(twice, {"Content-Encoding": "gzip, gzip"}), frozenset({415}))
    yield Case("gzip in gzip, told once", request(twice, {"Content-Encoding": "gzip"}), frozenset({400}))
    yield Case(
        "brotli bomb",
        request(brotli.compress(bytes(200 << 20), quality=5), {"Content-Encoding": "br"}),
        frozenset({413}),
    )
    for name in ("deflate", "zstd", "compress", "x-gzip", "gzip, br", "chaos"):
        yield Case(f"encoding {name}", request(packed, {"Content-Encoding": name}), frozenset({415}))
    yield Case("gzip cut off", request(packed[:-9], {"Content-Encoding": "gzip"}), frozenset({400}))
    yield Case("no gzip at all", request(make.good().encode(), {"Content-Encoding": "gzip"}), frozenset({400}))
    yield Case("many members", request(packed + gzip.compress(b"\n"), {"Content-Encoding": "gzip"}), frozenset({202}))
    yield Case("small and good", request(packed, {"Content-Encoding": "gzip"}), frozenset({202}))
    yield Case("media type", request(b"<a/>", {"Content-Type": "text/xml"}), frozenset({415}))
    too_much = make.event('{"text":"' + "x" * (BODY_BYTES + 1) + '"}').encode()
    yield Case("body of over 8 MiB", request(too_much), frozenset({413}))


def spelling(make: Bodies) -> Iterator[Case]:
    """F36: what is in the text."""

    def case(what: str, body: str | bytes, *right: int) -> Case:
        data = body if isinstance(body, bytes) else body.encode()
        return Case(what, request(data), frozenset(right))

    depth = 100_000
    yield case("depth 100,000, arrays", make.event('{"a":' + "[" * depth + "]" * depth + "}"), 422)
    yield case("depth 100,000, objects", make.event('{"a":' * depth + "1" + "}" * depth), 422)
    yield case("depth 100,000, never closed", "[" * depth, 400)
    yield case("5,000 digits", make.event('{"n":' + "9" * 5000 + "}"), 422)
    yield case("2^70", make.event('{"n":1180591620717411303424}'), 202)
    yield case("1e999", make.event('{"n":1e999}'), 422)
    for name in ("NaN", "Infinity", "-Infinity"):
        yield case(name, make.event(f'{{"n":{name}}}'), 400)
    yield case("lone surrogate", make.event('{"t":"\\udc90"}'), 202)
    yield case("NUL in a string", make.event('{"t":"a\\u0000b"}'), 202)
    yield case("NUL in a key", make.event('{"a\\u0000b":1}'), 202)
    yield case("raw NUL", make.event('{"t":"a\0b"}'), 400)
    yield case("the same key twice", make.event('{"a":1,"a":2}'), 202)
    yield case("bad UTF-8", make.good().encode() + b"\xff", 400)
    yield case("bad UTF-8 in a string", make.event('{"t":"?"}').encode().replace(b"?", b"\xc3\x28"), 400)
    yield case("byte order mark", b"\xef\xbb\xbf" + make.good().encode(), 202)
    yield case("UTF-16", make.good().encode("utf-16"), 400)
    for scalar in ("1", '"text"', "null", "true"):
        yield case(f"scalar {scalar}", scalar, 422)
    yield case("nothing", "", 400)
    yield case("10 MB string", make.event('{"t":"' + "x" * 10_000_000 + '"}'), 413)
    yield case("a string over the limit of an event", make.event('{"t":"' + "x" * 1_000_000 + '"}'), 413)
    yield case("a good one among bad ones", f"[{make.event('[]')},{make.good()},1]", 202)
    hook = json.dumps({"session_id": make.session, "hook_event_name": "x" * 5000}).encode()
    yield Case("hook with an absurd name", request(hook, path="/hooks/claude-code"), frozenset({204, 422}))


def framing(make: Bodies) -> Iterator[Case]:
    """F37: requests that two servers would read differently, and chunks that lie. 0: hung up on, which is right too."""
    body = make.good().encode()
    closed = frozenset({400, 0})
    head = b"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n"
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    length = b"Content-Length: %d\r\n" % len(body)
    yield Case("length and chunks", chunked + length + b"\r\n" + whole, closed)
    yield Case("two lengths", head + length + b"Content-Length: 3\r\n\r\n" + body, closed)
    yield Case("negative length", head + b"Content-Length: -1\r\n\r\n" + body, closed)
    yield Case("length +5", head + b"Content-Length: +5\r\n\r\n" + body, closed)
    yield Case("unknown transfer encoding", head + b"Transfer-Encoding: chaos\r\n\r\n" + body, closed | {501})
    yield Case("chunked twice", head + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + whole, closed)
    yield Case("bad chunk size", chunked + b"\r\nzz\r\n" + body + b"\r\n0\r\n\r\n", closed)
    yield Case("line feed in a chunk extension", chunked + b"\r\n5;\nx\r\n" + whole, closed)
    yield Case("huge chunk size", chunked + b"\r\nffffffffffffffffff\r\n" + body, closed | {413, 408})
    yield Case("header without a colon", head + b"nonsense\r\n\r\n" + body, closed)
    yield Case("header folded", head + length + b"X-A: b\r\n c\r\n\r\n" + body, closed | {202})
    yield Case("huge header", head + b"X-A: " + b"x" * 100_000 + b"\r\n" + length + b"\r\n" + body, closed | {413, 431})
    yield Case("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", closed)
    tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    yield Case("one byte a chunk", chunked + b"\r\n" + tiny + b"0\r\n\r\n", frozenset({202}))


async def status_of(url: str, data: bytes, *, seconds: float = SLOW_S) -> int:
    """The status of the answer to these bytes; 0 when hung up on without one, -1 when nothing came in time."""
    at = urlsplit(url)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            try:
                return await _answer(reader, writer, data)
            finally:
                writer.close()
    except TimeoutError:
        return -1
    except OSError:
        return 0


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """A server may answer, and hang up, before it has read all: what it said counts."""
    sending = asyncio.ensure_future(_send(writer, data))
    try:
        line = (await reader.readline()).split()
    except (ConnectionError, ValueError):
        line = []
    sending.cancel()
    return int(line[1]) if len(line) > 1 and line[0].startswith(b"HTTP/1") and line[1].isdigit() else 0


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        for at in range(0, len(data), 1 << 16):
            writer.write(data[at : at + (1 << 16)])
            await writer.drain()
    except ConnectionError:
        return


class Memory:
    """The peak of a process's resident memory since it was last asked for (Linux)."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

        self._before = 0

    def next(self) -> None:
        """Let the peak begin anew, at what is resident now."""
        (self._folder / "clear_refs").write_text("5")
        self._before = self._peak()

    def grown(self) -> int:
        """Bytes from `next` to the peak since."""
        return self._peak() - self._before

    def _peak(self) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class _Bad(Fault):
    """All cases of a kind, one after the other; the load beside it must not notice."""

    short = True
    hold_s = 0.0
    hits = 3
    expected = Expected(refused_s=2.0)

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)

    def cases(self, make: Bodies) -> Iterator[Case]:
        raise NotImplementedError

    async def inject(self, place: Place) -> bool:
        pid = place.pids()["ingest"][0]
        cases = await asyncio.to_thread(lambda: list(self.cases(Bodies(self.chance))))
        memory = Memory(pid)
        for case in cases:
            memory.next()
            self.judge(case.what, case.right, await status_of(place.url, case.request))
            self.weigh(case.what, memory.grown())
        memory.next()
        await self.more(place)
        self.weigh("idle and slow clients", memory.grown())
        if place.pids()["ingest"] != [pid]:
            self.found.broken.append("the ingest process did not live through it")
        return True

    def weigh(self, what: str, grown: int) -> None:
        """Look at how many bytes the ingest process grew at its peak, over what it had before."""
        self.found.times["rss_grown_mib"] = max(self.found.times.get("rss_grown_mib", 0.0), grown / (1 << 20))
        if grown > 2 * BODY_BYTES:
            self.found.broken.append(
                f"{what}: ingest grew by {grown >> 20} MiB, twice a body is {2 * BODY_BYTES >> 20}"
            )

    def judge(self, what: str, right: frozenset[int], status: int) -> None:
        if status not in right:
            said = {0: "no answer", -1: f"nothing within {SLOW_S:.0f} s"}.get(status, str(status))
            self.found.broken.append(f"{what}: {said}, right is {sorted(right)}")

    async def more(self, place: Place) -> None:
        """What is no single request; and one that is good, to see that the door is open."""
        await self.own.send(place.url, self.own.events(1))

    async def heal(self, place: Place) -> None:
        """A bad request leaves nothing behind."""

    async def verify(self, place: Place) -> None:
        if not self.own.acked:
            self.found.broken.append(f"a good request was answered with {dict(self.own.statuses)}")
        self.found.broken += await self.own.broken(place.dsn)


class BadWrapping(_Bad):
    name = "bad-wrapping"
    rows = ("F35",)
    what = "Compressed bodies that explode, are cut off, nested, or said to be what they are not."

    def cases(self, make: Bodies) -> Iterator[Case]:
        return unpacking(make)


class BadText(_Bad):
    name = "bad-text"
    rows = ("F36",)
    what = "JSON that is very deep, very long, not JSON, or full of what databases do not like."

    def cases(self, make: Bodies) -> Iterator[Case]:
        return spelling(make)


class BadFraming(_Bad):
    """Beside the cases: clients that send a byte a second, and many that send nothing."""

    name = "bad-framing"
    rows = ("F37",)
    what = "Smuggled and malformed requests, slow headers and bodies, many idle connections."
    idle: ClassVar[int] = 200
    slow: ClassVar[int] = 20

    def cases(self, make: Bodies) -> Iterator[Case]:
        return framing(make)

    async def more(self, place: Place) -> None:
        at = urlsplit(place.url)
        held = [await asyncio.open_connection(at.hostname, at.port) for _ in range(self.idle)]
        try:
            await self._slow(place.url)
        finally:
            for _, writer in held:
                writer.close()

    async def _slow(self, url: str) -> None:
        heads = b"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        body, heads = heads + b"Content-Length: 500\r\n\r\n{", heads + b"X-A: "
        slow = [asyncio.ensure_future(drip(url, start)) for start in [body] * self.slow + [heads] * self.slow]
        began = time.monotonic()
        await until(lambda: all(one.done() for one in slow[: self.slow]), SLOW_S + 2.0)
        await self.own.send(url, self.own.events(1), timeout=SLOW_S)
        if self.own.slowest_s > 2.0:
            self.found.broken.append(f"a good request took {self.own.slowest_s:.1f} s beside slow ones")
        await until(lambda: all(one.done() for one in slow), began + SLOW_S + 2.0 - time.monotonic())
        self._judge_slow("slow body", slow[: self.slow])
        self._judge_slow("slow headers", slow[self.slow :])

    def _judge_slow(self, what: str, tasks: list[asyncio.Task[int]]) -> None:
        for task in tasks:
            task.cancel()
        answers = [task.result() if task.done() and not task.cancelled() else -1 for task in tasks]
        if wrong := [status for status in answers if status not in {408, 400, 0}]:
            self.found.broken.append(
                f"{what}: {len(wrong)} of {len(answers)} not ended within {SLOW_S:.0f} s: {wrong[:3]}"
            )


async def drip(url: str, start: bytes) -> int:
    """Begin a request and go on with a byte every half second; the status, or 0 when hung up on."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)

    async def on() -> None:
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.5)

    writer.write(start)
    dripping = asyncio.ensure_future(on())
    try:
        line = (await reader.readline()).split()
        return int(line[1]) if len(line) > 1 else 0
    except (ConnectionError, ValueError):
        return 0
    finally:
        dripping.cancel()
        writer.close()
