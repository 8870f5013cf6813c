"""The aggregate tables through a kill, damage by hand and a rebuild, on the real stack; and their history."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from running import Ready, rows, settled, until, up
from tables.usage import Usage
from tables.usage_codec import pack, unpack

# Three starts of the whole stack, and a command again and again until it says what is expected.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
EVENTS, TOPIC = 1_200, "chronicle.aggregates"


def events(first: int, count: int, now: float) -> list[dict[str, Any]]:
    """No two alike: equal ones within a second are suspected to be one, and count once."""
    return [
        {
            "session_id": f"session-{number % 11}",
            "event_type": "user_prompt",
            "timestamp": round((now - number % 5000) * 1000),
            "payload": {"cwd": f"/p/project-{number % 4}", "prompt": f"number {number}"},
        }
        for number in range(first, first + count)
    ]


async def command(ready: Ready, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and what was said of `chronicle aggregates`."""
    env = {"CHRONICLE_KAFKA__BROKERS": ready["broker"], "CHRONICLE_DATABASE__URL": ready["database"]}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chronicle", "aggregates", *words, "--json"),
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    return process.returncode or 0, json.loads(out) if out.strip() else {}, said.decode()


async def verified(ready: Ready, code: int) -> dict[str, Any]:
    """The report once `verify` ends with this code and leaves no key out; the group commits some seconds late."""

    last: Any = None

    async def said() -> dict[str, Any] | None:
        nonlocal last
        ended, found, _ = last = await command(ready, "verify")
        return found if ended == code and not any(part["ahead"] for part in found["partitions"]) else None

    try:
        result: dict[str, Any] = await until(said, seconds=90, what=f"verify ends with {code}")
    except AssertionError as late:
        raise AssertionError(f"{late}; it said {last}") from None
    return result


async def damaged(broker: str) -> bytes:
    """Write five events too many under the day of all projects; returns the key."""
    consumer: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
        bootstrap_servers=broker, group_id=None, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: dict[bytes, tuple[int, bytes]] = {}
    try:
        places = [TopicPartition(TOPIC, number) for number in sorted(consumer.partitions_for_topic(TOPIC) or range(4))]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found |= {one.key: (one.partition, one.value) for one in records if one.value is not None}
    finally:
        await consumer.stop()
    key = next(key for key in found if key.startswith(b'["usage","day",') and key.endswith(b',"all",""]'))
    partition, value = found[key]
    _, read = unpack(key, value)
    assert isinstance(read, Usage)
    read.events["user_prompt"] += 5
    read.at += 1  # newer than what is there: the history takes the damage, too
    producer: Any = AIOKafkaProducer(bootstrap_servers=broker, acks="all")  # type: ignore[no-untyped-call]
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC, pack(read), key, partition=partition)
    finally:
        await producer.stop()
    return key


async def history(ready: Ready) -> int:
    found = await rows(
        ready["database"], "SELECT coalesce(sum(event_count), 0)::bigint AS n FROM usage_by_day WHERE dimension = 'all'"
    )
    return int(found[0]["n"])


async def test_a_kill_while_counting_leaves_equal_tables_and_a_rebuild_mends_damage(tmp_path: Path) -> None:
    """verify says equal after kills; it finds a damaged value; a rebuild mends it, live and in the history."""
    now = time.time()
    async with up(tmp_path, "--stream-workers", "2") as ready, aiohttp.ClientSession() as http:
        for at in range(0, EVENTS, 50):
            async with http.post(f"{ready['url']}/events", json=events(at, 50, now)) as answer:
                assert answer.status == 202, await answer.text()
            if at in (EVENTS // 4, EVENTS // 2):
                os.kill(ready["pids"]["stream"][0 if at < EVENTS // 2 else 1], signal.SIGKILL)
            await asyncio.sleep(0.02)
        await settled(http, ready["url"], accepted=EVENTS, seconds=90)
        assert (await verified(ready, 0))["verdict"] == "equal"

        async def kept() -> bool:
            return await history(ready) == EVENTS

        await until(kept, seconds=60, what="all events in the history")
        code, _, said = await command(ready, "rebuild", "--yes")
        assert code == 2
        assert "stop those with the role aggregate" in said
        key = await damaged(ready["broker"])

        async def wrong() -> bool:
            return await history(ready) == EVENTS + 5

        await until(wrong, seconds=60, what="the damage in the history")
        found = await verified(ready, 1)
        assert [one["key"] for one in found["differences"]] == [json.loads(key)]

    (tmp_path / "ready.json").unlink(missing_ok=True)
    async with up(tmp_path, "--stream-workers", "0") as ready:

        async def rebuilt() -> bool:
            code, _, _ = await command(ready, "rebuild", "--yes")
            return code == 0

        await until(rebuilt, seconds=90, what="the broker lets go of the workers, and the rebuild is done")
        assert (await verified(ready, 0))["verdict"] == "equal"

    (tmp_path / "ready.json").unlink(missing_ok=True)
    async with up(tmp_path, "--stream-workers", "1") as ready, aiohttp.ClientSession() as http:
        async with http.post(f"{ready['url']}/events", json=events(EVENTS, 50, now)) as answer:
            assert answer.status == 202
        await settled(http, ready["url"], accepted=EVENTS + 50)
        assert (await verified(ready, 0))["verdict"] == "equal"

        async def mended() -> bool:
            return await history(ready) == EVENTS + 50

        await until(mended, seconds=60, what="the mended value in the history")
