"""Recorded payloads of real Claude Code sessions, through the real stack and a kill -9, twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recorded import RECORDED, bodies
from running import rows, settled, up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded payloads are not beside this checkout"),
]


async def post_all(http: aiohttp.ClientSession, url: str, payloads: list[dict[str, Any]]) -> list[str]:
    """The ids, one for each payload; every one of them must be accepted."""
    ids = []
    for body in payloads:
        async with http.post(f"{url}/hooks/claude-code", json=body) as answer:
            assert answer.status == 204, await answer.text()
            assert await answer.read() == b""
            ids.append(answer.headers["Chronicle-Event-Id"])
    return ids


async def test_recorded_payloads_land_exactly_once_through_a_kill(tmp_path: Path) -> None:
    """Natural ids once each, all others as often as they were accepted, repeats within a second marked."""
    payloads = list(bodies())
    assert len(payloads) > 300
    half = len(payloads) // 2
    async with up(tmp_path) as ready, aiohttp.ClientSession() as http:
        url = ready["url"]
        first = await post_all(http, url, payloads[:half])
        os.kill(ready["pids"]["stream"][0], signal.SIGKILL)
        first += await post_all(http, url, payloads[half:])
        second = await post_all(http, url, payloads)
        ledger = await settled(http, url, accepted=2 * len(payloads))
        stored = await rows(
            ready["database"],
            "SELECT event_id::text AS id, id_origin, fingerprint, session_id, ingest_partition, ingest_offset,"
            " extract(epoch FROM received_at) AS at, suspected_duplicate_of::text AS suspected FROM events",
        )

    assert ledger["accepted"] == 2 * len(payloads)
    assert ledger["dead"] == 0
    counts = Counter(row["id"] for row in stored)
    assert set(counts.values()) == {1}
    sent_again = set(first) & set(second)
    assert sent_again, "some of the payloads have a natural id"
    assert set(counts) == set(first) | set(second), "nothing lost, nothing invented"
    fresh = [id_ for id_ in first + second if id_ not in sent_again]
    assert len(fresh) == len(set(fresh)), "an event without a natural id is never taken for another"
    assert ledger["duplicates"] + ledger["rejected"] == 2 * len(payloads) - len(counts)
    assert marked_rightly(stored) > 0


def marked_rightly(stored: list[Any]) -> int:
    """How many repeats were marked; every one within a second must be, every later one must not."""
    groups: dict[Any, list[Any]] = {}
    for row in sorted(stored, key=lambda row: (row["ingest_partition"], row["ingest_offset"])):
        if row["id_origin"] == 2:
            groups.setdefault((row["ingest_partition"], row["fingerprint"]), []).append(row)
    marked = 0
    for group in groups.values():
        assert group[0]["suspected"] is None
        for before, after in pairwise(group):
            gap = float(after["at"] - before["at"])
            if gap < 0.99:
                assert after["suspected"] is not None
                marked += 1
            elif gap > 1.01:
                assert after["suspected"] is None
    return marked
