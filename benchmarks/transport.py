"""Events a second through Faust, stock and with the chunk transport, side by side. `python -m benchmarks.transport`.

Both read the same topic (4 partitions, framed Avro, 676 bytes of payload) from the same broker with the same decoder on
one core, in turns, each in a fresh process; the clock runs from the first record an agent gets to the last. Medians.
The broker is CHRONICLE_TEST_BROKER, or one is started. Prints a table and one JSON object, which `benchmarks/out/`
keeps. Fails when a round did not decode every event or nothing was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faust
import msgspec
import uvloop
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.codec import sample
from benchmarks.result import in_words, keep, told
from connectors.transport import FAUST_SETTINGS, chunk_topic, use
from schemas.codec import AvroCodec
from schemas.event import HookEvent

PARTITIONS = 4
TARGET = 80_000
CONTENDERS = ("stock", "ours")


class Round:
    """Counts decoded events of one run; `done` is set at the last one."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self.started = 0.0
        self.elapsed = 0.0
        self.cpu = 0.0
        self.payload_bytes = 0
        self.done = asyncio.Event()

    def take(self, events: list[HookEvent]) -> None:
        """Count decoded events; a byte of each is looked at, so that decoding cannot be left out."""
        self.count += len(events)
        self.payload_bytes += sum(len(event.payload) for event in events)
        if self.count >= self.expected:
            self.elapsed, self.cpu = time.perf_counter() - self.started, time.process_time() - self.cpu
            self.done.set()

    def begin(self) -> None:
        """Start the clocks at the first record."""
        if not self.started:
            self.started, self.cpu = time.perf_counter(), time.process_time()


def stock_app(broker: str, topic: str, folder: str, run: Round) -> faust.App:
    """Faust as its documentation shows it: `async for` over raw bytes, Faust's own settings."""
    app = faust.App(f"bench-stock-{uuid.uuid4().hex[:8]}", broker=f"kafka://{broker}", store="memory://",
                    datadir=folder, web_enabled=False, topic_disable_leader=True,
                    consumer_auto_offset_reset="earliest")  # fmt: skip
    decode = AvroCodec().decode

    @app.agent(app.topic(topic, value_type=bytes, value_serializer="raw"), name="stock")
    async def read(stream: Any) -> None:
        async for value in stream:
            run.begin()
            run.take([decode(value)])

    return app


def our_app(broker: str, topic: str, folder: str, run: Round) -> faust.App:
    """The chunk transport, decoding a chunk at a time."""
    app = faust.App(f"bench-ours-{uuid.uuid4().hex[:8]}", broker=f"kafka://{broker}", store="memory://",
                    datadir=folder, web_enabled=False, topic_disable_leader=True, **FAUST_SETTINGS)  # fmt: skip
    use(app, chunked={topic}, role="bench")
    decode = AvroCodec().decode

    @app.agent(chunk_topic(app, topic), name="ours")
    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            run.begin()
            chunk = event.value
            run.take([decode(record.value) for record in chunk.records])
            chunk.ack()

    return app


async def measure(contender: str, broker: str, topic: str, count: int, folder: str) -> dict[str, float]:
    """One round in this process."""
    run = Round(count)
    app = (stock_app if contender == "stock" else our_app)(broker, topic, folder, run)
    app.finalize()
    await app.start()
    try:
        async with asyncio.timeout(120):
            await run.done.wait()
    finally:
        await app.stop()
    if run.count != count or run.payload_bytes != count * len(sample().payload):
        raise RuntimeError(f"{contender} decoded {run.count} events and {run.payload_bytes} bytes, wanted {count}")
    return {
        "events_per_second": count / run.elapsed,
        "events_per_cpu_second": count / run.cpu,  # what neighbours on the machine do not change
        "cpu_us_per_event": run.cpu / count * 1e6,
    }


def in_fresh_process(contender: str, broker: str, topic: str, count: int) -> dict[str, float]:
    """One round in a process of its own, on one core."""
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:  # ours to remove, however the round ends
        arguments = ["--round", contender, broker, topic, str(count), folder]
        command = [sys.executable, "-m", "benchmarks.transport", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    if done.returncode:
        raise RuntimeError(f"round of {contender} failed: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def one_round(contender: str, broker: str, topic: str, count: str, folder: str) -> None:
    """What `--round` does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(contender, broker, topic, int(count), folder))), flush=True)
    os._exit(0)  # Faust's threads take their time


@contextlib.contextmanager
def a_broker() -> Iterator[str]:
    """host:port of the broker in CHRONICLE_TEST_BROKER, else of one started for the while."""
    given = os.environ.get("CHRONICLE_TEST_BROKER")
    if given:
        yield given
        return
    from app.stack.kafka import Kafka  # only needed without a broker
    from app.stack.ports import free_port

    with tempfile.TemporaryDirectory() as folder:
        kafka = Kafka(Path(folder), free_port())
        kafka.start()
        try:
            yield kafka.address
        finally:
            kafka.stop()


@contextlib.contextmanager
def a_topic(broker: str, count: int) -> Iterator[str]:
    """A topic with `count` events of many sessions; deleted afterwards."""
    name = f"bench-transport-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    try:
        codec, event = AvroCodec(), sample()
        producer = Producer({"bootstrap.servers": broker, "linger.ms": 20, "queue.buffering.max.messages": count + 1})
        for i in range(count):
            session = f"session-{i % 997}"
            value = codec.encode(msgspec.structs.replace(event, event_id=uuid.UUID(int=i), session_id=session))
            producer.produce(name, value, key=session, partition=i % PARTITIONS)
        if producer.flush(60):
            raise RuntimeError("the broker did not take all events")
        yield name
    finally:
        admin.delete_topics([name])[name].result(30)


def report(rounds: dict[str, list[dict[str, float]]], count: int) -> dict[str, Any]:
    """Medians, their ratio, and where and when it was."""
    medians = {
        who: {key: round(statistics.median(one[key] for one in results), 1) for key in results[0]}
        for who, results in rounds.items()
    }
    ours, stock = medians["ours"]["events_per_second"], medians["stock"]["events_per_second"]
    if not (count and ours and stock):
        raise RuntimeError("measured nothing")
    figures = {
        "events": count,
        "partitions": PARTITIONS,
        "payload_bytes": len(sample().payload),
        "median": medians,
        "rounds": rounds,
        "ratio": round(ours / stock, 2),
        "target_events_per_second": TARGET,
        "target_met": ours >= TARGET,
    }
    return told("transport", figures, packages=("faust-streaming", "aiokafka", "mode-streaming", "uvloop"))


def show(result: dict[str, Any]) -> None:
    """The table, then the JSON."""
    print(f"{'':8}{'events/s':>12}{'a CPU second':>14}{'µs CPU/event':>14}   rounds")
    for who, median in result["median"].items():
        each = ", ".join(f"{one['events_per_second']:,.0f}" for one in result["rounds"][who])
        print(
            f"{who:8}{median['events_per_second']:>12,.0f}{median['events_per_cpu_second']:>14,.0f}"
            f"{median['cpu_us_per_event']:>14.1f}   {each}"
        )
    print(f"ours is {result['ratio']} x stock; {in_words(result['machine'])}; {result['date']}")
    keep(result)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60,000 events instead of 300,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.round:
        one_round(*arguments.round)
    count = 60_000 if arguments.quick else 300_000
    rounds: dict[str, list[dict[str, float]]] = {who: [] for who in CONTENDERS}
    with a_broker() as broker, a_topic(broker, count) as topic:
        for number in range(arguments.rounds):
            for who in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
                rounds[who].append(in_fresh_process(who, broker, topic, count))
    show(report(rounds, count))


if __name__ == "__main__":
    main()
