"""One event a request: how many a second, how quickly answered. The stream works beside it, on the same cores."""

from __future__ import annotations

import contextlib
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence

from app.stack.ports import free_port
from benchmarks import peers
from benchmarks.cases import Round
from benchmarks.postgres import own_postgres
from benchmarks.running import ROOT, ended, program, told, until, up

#: A context with the URL of a side that takes POST /events.
Serving = Callable[[], contextlib.AbstractContextManager[str]]


def single(serving: Serving, connections: Sequence[int], seconds: float) -> Round:
    """A round: rate_N (requests/s), p50_N and p99_N (ms) for each number of connections."""

    def once() -> Mapping[str, float]:
        figures = {}
        with serving() as url:
            for number in connections:
                found = told("benchmarks.single_load", url, "--connections", number, "--seconds", seconds)
                figures[f"rate_{number}"] = found["requests"] / found["seconds"]
                figures[f"p50_{number}"], figures[f"p99_{number}"] = found["p50_ms"], found["p99_ms"]
        return figures

    return once


@contextlib.contextmanager
def chronicle() -> Iterator[str]:
    """Ours, as `chronicle up` runs it."""
    with up() as stack:
        yield stack["url"]


@contextlib.contextmanager
def bare() -> Iterator[str]:
    """A handler of the same HTTP server that parses and answers."""
    port = free_port()
    with ended(program([sys.executable, "-m", "benchmarks.bare", "--port", str(port)], cwd=ROOT), 3.0):
        yield answering(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def fastapi() -> Iterator[str]:
    """FastAPI and asyncpg, alone with a Postgres like ours; it answers when the rows are committed."""
    with own_postgres() as postgres, fastapi_on(postgres.dsn, durable=True) as url:
        yield url


@contextlib.contextmanager
def fastapi_on(dsn: str, *, durable: bool) -> Iterator[str]:
    """FastAPI on this database; `durable`: it answers when the rows are committed."""
    port = free_port()
    env = {"DSN": dsn, "DURABLE": "1" if durable else "0"}
    options = ("--no-access-log", "--loop", "uvloop", "--http", "httptools", "--port", str(port))
    command = [str(peers.python("fastapi")), "-m", "uvicorn", "fastapi_app:app", *options]
    with ended(program(command, cwd=peers.RIVALS, env=env), 3.0):
        yield answering(f"http://127.0.0.1:{port}")


def answering(url: str) -> str:
    """The same URL, once it answers."""
    until(lambda: _answers(url), 30.0, url)
    return url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
