"""Quix Streams: each id once by its state (RocksDB with a changelog topic), then its own Postgres sink.

Its documentation's advice for throughput: the sink writes at each checkpoint, so few and large ones; no schema changes
while running; keys stay bytes.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from common import DSN, QUIX, TABLE, TOPIC, database, decode
from quixstreams import Application, State
from quixstreams.models.serializers.base import Deserializer
from quixstreams.sinks.community.postgresql import PostgreSQLSink


class Framed(Deserializer):
    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:
        return decode(value)


def first(value: dict[str, Any], state: State) -> bool:
    event_id = value["event_id"]
    if state.exists(event_id):
        return False
    state.set(event_id, 1)
    return True


def main() -> None:
    with psycopg2.connect(DSN) as connection:
        connection.cursor().execute(TABLE)
    sink = PostgreSQLSink(
        **database(),
        table_name="peer_events",
        schema_auto_update=False,
        include_metadata=False,
        on_conflict_do_nothing=True,
    )
    app = Application(**QUIX)
    topic = app.topic(TOPIC, value_deserializer=Framed(), key_deserializer="bytes")
    app.dataframe(topic).filter(first, stateful=True).sink(sink)
    app.run()


if __name__ == "__main__":
    main()
