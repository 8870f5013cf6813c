"""One request of the load: sent, timed, and its answer told for each event in it. An answer is ok, fail or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from chaos.mix import Item, Request
from chaos.model import Outcome, Sent

#: Longer than any promise, so that a hang is seen as one.
TIMEOUT_S = 10.0
#: 4xx that say nothing about the events: too slow, too many.
_NOT_REFUSED = frozenset((408, 425, 429))


@dataclass(frozen=True)
class Answer:
    """What came back; `status` None: nothing. `at` is epoch seconds, `took` seconds."""

    at: float
    took: float
    status: int | None = None
    headers: Mapping[str, str] | None = None
    body: bytes = b""


async def post(http: aiohttp.ClientSession, url: str, request: Request) -> Answer:
    """Never raises for what a network does: refused, reset, cut and silent are all no answer."""
    begin = time.monotonic()
    try:
        async with http.post(url + request.path, data=request.body, headers=request.headers) as answer:
            body = await answer.read()
            took = time.monotonic() - begin
            return Answer(time.time(), took, answer.status, {k.lower(): v for k, v in answer.headers.items()}, body)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Answer(time.time(), time.monotonic() - begin)


def lines_of(producer: str, request: Request, answer: Answer) -> list[Sent]:
    """One line of the ledger for each event of the request."""
    told = _told(request, answer)
    lines = []
    for index, item in enumerate(request.items):
        outcome, event_id, durability = told[index]
        lines.append(_line(producer, item, answer, outcome, event_id, durability))
    return lines


_Told = tuple[Outcome, str, str | None]


def _told(request: Request, answer: Answer) -> list[_Told]:
    status = answer.status or 0
    if status == 204 and answer.headers is not None:
        named = answer.headers.get("chronicle-event-id", "")
        if not named:  # a promise about no event is none
            return [(Outcome.UNKNOWN, item.event_id, None) for item in request.items]
        return [(Outcome.OK, named, None) for item in request.items]
    if status == 202:
        return _receipt(request, answer.body)
    refused = 400 <= status < 500 and status not in _NOT_REFUSED
    outcome = Outcome.FAIL if refused else Outcome.UNKNOWN
    return [(outcome, item.event_id, None) for item in request.items]


def _receipt(request: Request, body: bytes) -> list[_Told]:
    """The accepted ids stand in the order sent, the rejected ones are named by index."""
    try:
        receipt = json.loads(body)
        rejected = {int(row["index"]) for row in receipt["rejected"]}
        ids, durability = iter(receipt["event_ids"]), str(receipt["durability"])
        return [
            (Outcome.FAIL, item.event_id, None) if index in rejected else (Outcome.OK, str(next(ids)), durability)
            for index, item in enumerate(request.items)
        ]
    except (ValueError, KeyError, TypeError, RuntimeError, StopIteration):
        return [(Outcome.UNKNOWN, item.event_id, None) for item in request.items]


def _line(producer: str, item: Item, answer: Answer, outcome: Outcome, event_id: str, durability: str | None) -> Sent:
    return Sent(
        producer=producer,
        seq=item.seq,
        event_id=event_id,
        session=item.session,
        sha256=item.sha256,
        at=answer.at,
        took=round(answer.took, 6),
        outcome=outcome,
        status=answer.status,
        durability=durability,
        repeat=item.repeat,
        kind=item.kind,
    )
