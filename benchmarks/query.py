"""How quickly the API answers over many stored events: each question another one, so that nothing kept answers it."""

from __future__ import annotations

import json
import random
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode

from benchmarks.cases import Figure, Round
from benchmarks.postgres import own_postgres
from benchmarks.running import told, until, up
from benchmarks.stored import EVENTS_OF_A_SESSION, PROJECTS, prompt, store

#: Questions of each kind: the first ones warm up.
ASKED, WARM = 120, 20
MINUTE: Final = 60_000
#: Events that come by HTTP besides, so that the aggregate tables hold something: those are asked for usage.
COUNTED: Final = 20_000
#: Of the answers to one kind of question, how many must hold something: an empty page is quick.
FULL: Final = 0.5

Ask = Callable[[random.Random, int], str]


def _times(chance: random.Random, stored: int, minutes: int) -> dict[str, int]:
    """A span of time somewhere in what is stored."""
    back = chance.randrange(max(1, stored // 600 - minutes)) * MINUTE
    until_ = round(time.time() * 1000) - back
    return {"since": until_ - minutes * MINUTE, "until": until_}


def _events(chance: random.Random, stored: int) -> str:
    tool = chance.choice(("Bash", "Read", "Edit", "Grep"))
    return f"/events?{urlencode({'tool_name': tool, 'limit': 50, **_times(chance, stored, 60)})}"


def _session(chance: random.Random, stored: int) -> str:
    return f"session-{chance.randrange(stored // EVENTS_OF_A_SESSION)}"


def _search(chance: random.Random, stored: int) -> str:
    """For words of one prompt; what else they find is the database's business."""
    word, step = prompt(chance.randrange(stored // 20))
    return f"/search?q={word}+{step}&limit=20"


def _usage(chance: random.Random, _: int) -> str:
    """Days of the last week, up to a minute that is always another one."""
    until_ = round(time.time() * 1000) + chance.randrange(1, 600) * MINUTE
    span = {"since": until_ - 7 * 1440 * MINUTE, "until": until_}
    return f"/analytics/usage?{urlencode({'interval': 'hour', 'group_by': 'type', **span})}"


#: Name of the figure -> how a question is made.
QUESTIONS: Final[Mapping[str, Ask]] = {
    "events": _events,
    "session_events": lambda chance, stored: (
        f"/sessions/{_session(chance, stored)}/events?limit={chance.randrange(90, 110)}&order=asc"
    ),
    "session_tools": lambda chance, stored: f"/sessions/{_session(chance, stored)}/tools?limit=100",
    "sessions": lambda chance, _: (
        f"/sessions?project=project-{chance.randrange(PROJECTS)}&limit={chance.randrange(20, 60)}"
    ),
    "search": _search,
    "usage": _usage,
}
FIGURES: Final = [Figure(f"p95_{name}", "ms", "lower", target=50.0) for name in QUESTIONS]


def query(stored: int) -> Round:
    """A round: p95_NAME (ms) of each kind of question over `stored` events."""

    def once() -> Mapping[str, float]:
        with serving(stored) as url:
            return {f"p95_{name}": _p95(url, ask, stored) for name, ask in QUESTIONS.items()}

    return once


@contextmanager
def serving(stored: int) -> Iterator[str]:
    """Chronicle over a Postgres that holds so many events, and COUNTED that came by HTTP and are in the figures."""
    with own_postgres() as postgres:
        store(postgres.dsn, stored)
        with up("--database", postgres.dsn) as stack:
            url = stack["url"]
            until(lambda: _get(f"{url}/analytics/usage")[0] == 200, 30.0, "the figures")
            found = told("benchmarks.bulk_load", url, "--events", COUNTED, "--first", stored)
            if found["accepted"] != COUNTED:
                raise RuntimeError(f"{found['accepted']} of {COUNTED} events were accepted")
            until(lambda: _counted(url) >= COUNTED, 60.0, "the figures of what was sent", every=0.5)
            yield url


def _p95(url: str, ask: Ask, stored: int) -> float:
    chance, took, full = random.Random(7), [], 0
    for _ in range(ASKED):
        path = ask(chance, stored)
        began = time.perf_counter()
        status, body = _get(url + path)
        took.append((time.perf_counter() - began) * 1000)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {body}")
        full += bool(body.get("items") or body.get("series"))
    if full < ASKED * FULL:
        raise RuntimeError(f"{full} of {ASKED} answers held anything, the last to {path}")
    return statistics.quantiles(took[WARM:], n=20)[18]


def _counted(url: str) -> int:
    """Events of the last day, by the aggregate tables."""
    _, body = _get(f"{url}/analytics/usage?interval=day")
    return sum(int(sum(one["values"])) for one in body.get("series", ()))


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=30.0) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
