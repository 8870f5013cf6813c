"""Bytewax: each id once by keyed state with recovery on, rows inserted by the batch.

python -m bytewax.recovery STATE 1 && python -m bytewax.run bytewax_dedup:flow -r STATE -s 1
"""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
import psycopg2
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from common import BROKER, COLUMNS, DSN, TABLE, TOPIC, decode
from psycopg2.extras import execute_values

INSERT = f"INSERT INTO peer_events ({', '.join(COLUMNS)}) VALUES %s ON CONFLICT (event_id) DO NOTHING"


class Rows(StatelessSinkPartition[Any]):
    def __init__(self) -> None:
        self._connection = psycopg2.connect(DSN)
        self._connection.cursor().execute(TABLE)
        self._connection.commit()

    def write_batch(self, items: list[Any]) -> None:
        rows = [tuple(record[name] for name in COLUMNS) for record in items]
        execute_values(self._connection.cursor(), INSERT, rows, page_size=1000)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


class Postgres(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
        return Rows()


def once(known: bool | None, record: dict[str, Any]) -> tuple[bool, list[dict[str, Any]]]:
    return True, [] if known else [record]


flow = Dataflow("peer")
messages = op.input("in", flow, KafkaSource([BROKER], [TOPIC], tail=True, batch_size=1000))
records = op.map("decode", messages, lambda message: decode(message.value))
keyed = op.key_on("id", records, lambda record: record["event_id"])
fresh = op.stateful_flat_map("dedup", keyed, once)
op.output("out", op.map("record", fresh, lambda pair: pair[1]), Postgres())
