"""The mix of the load: lawful where it must be, odd where it may, and the same again from its seed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.mix import EVENTS, HOOKS, Mix, Request
from chaos.mix_bad import BAD, bad_body
from chaos.mix_payloads import LARGEST, MARKER, canonical, sha256
from schemas.clock import SystemClock
from schemas.envelope import Defaults, event_of, split
from schemas.errors import Refused
from schemas.native import Arrival, from_native
from schemas.redact import Redactor

NOW = 1_800_000_000.0


def requests(count: int, seed: int = 7) -> list[Request]:
    mix = Mix(seed, "p0")
    made = []
    for _ in range(count):
        made.append(mix.next(NOW))
        mix.landed(made[-1])
    return made


def arrival(request: Request) -> Arrival:
    return Arrival(received_at=int(NOW * 1e6), new_id=SystemClock().new_id, source="test", redact=Redactor())


def stored(request: Request) -> list[Any]:
    """What the door makes of a request: an event or a refusal for each of its items."""
    told = arrival(request)
    if request.path == HOOKS:
        return [from_native(request.body, told)]
    lines = "ndjson" in request.headers["Content-Type"]
    made: list[Any] = []
    for item in split(request.body, lines=lines, max_events=1000):
        try:
            made.append(event_of(item, told, Defaults()))
        except Refused as refused:
            made.append(refused)
    return made


def test_the_same_seed_sends_the_same_and_another_one_does_not() -> None:
    """A run can be repeated."""
    first, second, other = requests(200), requests(200), requests(200, seed=8)
    assert [request.items for request in first] == [request.items for request in second]
    assert [request.items for request in first] != [request.items for request in other]


def test_good_events_are_taken_as_they_are_with_the_ids_and_hashes_of_the_ledger() -> None:
    """Nothing is redacted, cut or refused, natural ids are those of the server, and bad ones in a bulk are refused."""
    for request in requests(1500):
        if request.items[0].kind == "bad":
            continue
        for item, event in zip(request.items, stored(request), strict=True):
            if item.kind == "bad":
                assert isinstance(event, Refused)
                continue
            assert sha256(json.loads(event.payload)) == item.sha256
            assert event.session_id == item.session
            if request.safe and "Chronicle-Event-Id" not in request.headers:
                assert str(event.event_id) == item.event_id
            assert not event.flags & 3  # neither redacted nor cut


@pytest.mark.parametrize("what", BAD)
def test_each_bad_request_is_bad(what: str) -> None:
    """The door refuses it for what it says."""
    envelope = {"event_id": "0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11", "session_id": "s", "event_type": "x"}
    body, path = bad_body(what, {**envelope, "timestamp": 1_700_000_000_000, "payload": {"a": 1}, "metadata": {}})
    assert path == EVENTS
    try:
        results = stored(Request(path, body, ()))
    except Refused:
        return
    assert results
    assert all(isinstance(result, Refused) for result in results)


def test_a_bulky_mix_makes_many_small_events_of_few_requests() -> None:
    """Every kind is in it still."""
    mix = Mix(7, "p0", bulky=True)
    made = [mix.next(NOW) for _ in range(400)]
    items = [item for request in made for item in request.items]
    assert {item.kind for item in items} == {"envelope", "native", "bulk", "bad"}
    assert 30 < len(items) / len(made) < 100
    assert sum(len(request.body) for request in made) / len(items) < 1500


def test_the_mix_holds_every_kind() -> None:
    """Sizes from small to large, hooks and envelopes, single and bulk, repeats, priority events, late and future."""
    made = requests(3000)
    items = [item for request in made for item in request.items]
    assert {item.kind for item in items} == {"envelope", "native", "bulk", "bad"}
    assert 0.02 < sum(request.items[0].repeat for request in made) / len(made) < 0.09
    assert any(not request.safe for request in made)
    sizes = sorted(len(request.body) for request in made if len(request.items) == 1)
    assert sizes[len(sizes) // 2] < 4096 < 50_000 < sizes[-1]
    assert max(len(request.items) for request in made) > 50
    singles = [json.loads(r.body) for r in made if r.path == EVENTS and r.items[0].kind == "envelope"]
    stamps = [one["timestamp"] / 1000 for one in singles if isinstance(one["timestamp"], int)]
    assert min(stamps) < NOW - 86_400
    assert {"session_start", "error"} <= {one["event_type"] for one in singles}


def test_no_payload_is_larger_than_200_kib() -> None:
    """However large it was wished and however it is spelled."""
    mix = Mix(3, "p0")
    payloads = mix._payloads
    for _ in range(200):
        assert len(payloads.spell(payloads.tool_input(LARGEST)).encode()) <= 200 * 1024


def test_seq_counts_events_from_0_and_repeats_keep_theirs() -> None:
    """So order within a session can be told from the ledger."""
    fresh = [item for request in requests(500) for item in request.items if not item.repeat]
    assert [item.seq for item in fresh] == list(range(len(fresh)))


def test_every_payload_has_its_own_hash_and_marker() -> None:
    """The hash names the event."""
    fresh = [item for request in requests(500) for item in request.items if not item.repeat]
    assert len({item.sha256 for item in fresh}) == len(fresh)
    assert all(MARKER.encode() in request.body for request in requests(200) if request.items[0].kind != "bad")


def test_the_canonical_form_does_not_depend_on_the_spelling() -> None:
    """Order of keys, blanks and escapes are gone; values stay."""
    assert canonical(json.loads('{"b": 1, "a": "\\u00e9"}')) == canonical(json.loads('{"a":"é","b":1}'))
    assert canonical({"a": 1}) != canonical({"a": 1.0})
    assert canonical({"a": "\ud800"}) == b'{"a":"\xed\xa0\x80"}'
