"""Worker processes of the chunk transport on a real broker: killed, moved about, cut off from their broker."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from app.stack.kafka import Kafka
from app.stack.ports import free_port
from chunk_runs import PARTITIONS, committed, fill, filled_topic, read, total, worker
from running import until

pytestmark = pytest.mark.e2e

COUNT = 8000


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
    """Signal and wait."""
    process.send_signal(how)
    return process.wait(30)


async def written(*outs: Path, at_least: int, seconds: float = 60) -> None:
    """Wait until so many different records have been written."""

    async def enough() -> bool:
        return total(*outs) >= at_least

    await until(enough, seconds=seconds, what=f"{at_least} records written")


async def all_committed(broker: str, topic: str, count: int) -> None:
    """Wait until the group has all of `count` records behind it."""

    async def done() -> bool:
        return await committed(broker, topic) == dict.fromkeys(range(PARTITIONS), count // PARTITIONS)

    await until(done, seconds=60, what="everything committed")


async def test_transport_kill_9_loses_and_skips_nothing(kafka: str, tmp_path: Path) -> None:
    """A worker is killed three times half way: every record is written, none was committed before it was written."""
    out = tmp_path / "out"
    async with filled_topic(kafka, COUNT) as topic:
        options = {"max_records": 50, "delay": 0.02, "instance": "one"}
        for share in (0.2, 0.4, 0.6):
            with worker(kafka, topic, out, **options) as process:
                await written(out, at_least=int(COUNT * share))
                assert end(process, signal.SIGKILL) == -signal.SIGKILL
            durable = {p: max(offsets) + 1 for p, offsets in read(out).items()}
            done = await committed(kafka, topic)
            assert all(offset <= durable[p] for p, offset in done.items())
        assert total(out) < COUNT, "killed too late to prove anything"
        with worker(kafka, topic, out, **options) as process:
            await written(out, at_least=COUNT)
            await all_committed(kafka, topic, COUNT)
            assert end(process) == 0
        for p in range(PARTITIONS):
            assert set(read(out)[p]) == set(range(COUNT // PARTITIONS))


async def test_transport_rebalance_between_two_workers_loses_nothing_and_repeats_nothing(
    kafka: str, tmp_path: Path
) -> None:
    """A second worker joins, the first leaves in order: each record is written once, since acks are committed first."""
    one, two = tmp_path / "one", tmp_path / "two"
    count = 400
    async with filled_topic(kafka, count) as topic:
        options = {"max_records": 20, "delay": 0.01}
        with worker(kafka, topic, one, **options) as first, worker(kafka, topic, two, **options) as second:
            while not (total(one) and total(two)):  # load goes on until both have had a part of it
                await written(one, two, at_least=count - 400)  # but no faster than it is written
                await fill(kafka, topic, 40, start=count)
                count += 40
            for _ in range(5):
                await fill(kafka, topic, 400, start=count)
                count += 400
            assert end(first) == 0
            await written(one, two, at_least=count, seconds=100)
            assert end(second) == 0
        everything = [(p, at) for out in (one, two) for p, offsets in read(out).items() for at in offsets]
        assert len(set(everything)) == count
        assert len(everything) == count


async def test_transport_table_beside_chunks_is_recovered_from_its_changelog(kafka: str, tmp_path: Path) -> None:
    """A Faust table written once a chunk counts on after its directory was lost."""
    out = tmp_path / "out"
    async with filled_topic(kafka, 2000) as topic:
        with worker(kafka, topic, out, table=str(tmp_path / "before"), max_records=100) as process:
            await written(out, at_least=2000)
            assert end(process) == 0
        await fill(kafka, topic, 400, start=2000)
        with worker(kafka, topic, out, table=str(tmp_path / "after"), max_records=100) as process:
            await written(out, at_least=2400)
            assert end(process) == 0
        assert await committed(kafka, topic) == dict.fromkeys(range(PARTITIONS), 600)
    counts = [line.split(" ") for line in out.read_text().splitlines() if line.startswith("count")]
    assert {p: int(count) for _, p, count in counts} == {str(p): 600 for p in range(PARTITIONS)}


async def test_transport_broker_restart_costs_nothing(tmp_path: Path) -> None:
    """The broker is killed under load and started again: the worker goes on by itself, acks kept meanwhile are
    committed."""
    broker = Kafka(tmp_path / "kafka", free_port())
    broker.start()
    out = tmp_path / "out"
    try:
        async with filled_topic(broker.address, COUNT) as topic:
            with worker(broker.address, topic, out, max_records=50, delay=0.02) as process:
                await written(out, at_least=500)
                broker.kill()
                broker.start()
                await written(out, at_least=COUNT, seconds=90)
                assert process.poll() is None, "it must not need a restart"
                await all_committed(broker.address, topic, COUNT)
                assert end(process) == 0
                for p in range(PARTITIONS):
                    assert set(read(out)[p]) == set(range(COUNT // PARTITIONS))
    finally:
        broker.stop()
