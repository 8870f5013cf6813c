"""Bytewax, with recovery: counts by minute for each session and tool, kept in the state of a keyed step.

Its window operators give a count when a window closes, by the events of the same key that follow; the state of a keyed
step gives each count as it is, which is what the other sides do.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from common import BROKER, TOPIC, Counted, decode, minute

counted = Counted()


class Counts(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        for key, (at, count) in items:
            counted.put((key, at), count)


class Told(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Counts:
        return Counts()


def add(minutes: dict[int, int] | None, at: int) -> tuple[dict[int, int], tuple[int, int]]:
    found = {} if minutes is None else minutes
    found[at] = found.get(at, 0) + 1
    return found, (at, found[at])


def now_and_then() -> None:
    while True:
        time.sleep(0.5)
        counted.tell()


threading.Thread(target=now_and_then, daemon=True).start()
flow = Dataflow("peer")
messages = op.input("in", flow, KafkaSource([BROKER], [TOPIC], tail=True, batch_size=1000))
records = op.map("decode", messages, lambda message: decode(message.value))
keyed = op.map("key", records, lambda record: (f"{record['session_id']}|{record['tool_name']}", minute(record)))
op.output("out", op.stateful_map("count", keyed, add), Told())
