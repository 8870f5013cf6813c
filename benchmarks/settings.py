"""What was set on every side, in words: part of the results, so that nobody must guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: What all sides share.
COMMON: Final = (
    "One broker (Kafka in KRaft mode, 256 MB heap, fsync as Kafka ships it) and one Postgres (fsync and "
    "synchronous_commit on, 128 MB shared_buffers), both made for the round, on the same cores as everything else, the "
    "load too. 4 partitions. Events of 676 bytes of payload. The peers' table has fewer columns and indexes than ours; "
    "all of them skip ids that are there."
)

#: Side -> its settings, what was tuned, and what it promises about a crash.
SIDES: Final[Mapping[str, str]] = {
    "chronicle": (
        "As shipped: `chronicle up`, for the stream cases `chronicle worker` with the roles of the case. acks=all, "
        "commits each second, batches of 5,000 or 100 ms, COPY. 202 after the broker's ack. A crash loses and repeats "
        "nothing in Postgres; the counts are exact."
    ),
    "quix": (
        "Quix Streams, at-least-once (its default), state in RocksDB with a changelog, its own PostgreSQLSink with "
        "on_conflict_do_nothing, no schema changes, no metadata columns. commit_interval=1 s instead of 5 s: the sink "
        "writes at each commit, and a round would otherwise wait for the last one. Loses nothing in a crash; counts "
        "may be told twice."
    ),
    "bytewax": (
        "Bytewax, one worker, KafkaSource with batch_size=1000 (its default), recovery on with a snapshot each second "
        "(`-s 1`; its default is 10 s, the others commit each second), psycopg2.execute_values of 1,000 rows. Loses "
        "nothing in a crash; rows come again and meet the primary key."
    ),
    "faust": (
        "Faust as its documentation shows it: `async for`, a RocksDB Table (rocksdict) with a changelog record a key, "
        "uvloop, producer_linger=20 ms and batches of 128 KiB, rows inserted by 1,000 or after 100 ms. An event "
        "counts as done before its row is written: a crash may lose up to 1,000 rows. In `whole.bulk` a web view sends "
        "each event to a topic and answers after the broker's ack, and an agent inserts by `take(1000, within=0.1)`."
    ),
    "FastAPI": (
        "FastAPI on one uvicorn worker (uvloop, httptools, no access log), pydantic, orjson, asyncpg executemany in "
        "batches of 100 or 100 ms on 10 connections, no log before the database. Answers when the rows are committed: "
        "the durability of an ack is that of ours."
    ),
    "FastAPI, acks from memory": "The same, but it answers at once: a crash loses what it had acked.",
    "bare aiohttp": "A handler of the same HTTP server that parses the event and answers 202: the limit.",
}
