"""The records of a chunk are those of aiokafka's C parser: its real fetcher's, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecord, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord

from connectors.transport.thread import keep_as_read
from offline import TOPIC, TP0


@pytest.mark.parametrize(("chunked", "kind"), [(True, DefaultRecord), (False, ConsumerRecord)])
async def test_transport_chunks_hold_records_as_they_were_parsed(chunked: bool, kind: type) -> None:
    """With the real fetcher's records; other topics go Faust's way and need aiokafka's."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number in range(3):
        builder.append(number, 1_700_000_000_000, b"key", b"value-%d" % number, [("name", b"x")])
    fetcher = SimpleNamespace(_records={})

    async def fetch(*_: Any) -> bool:
        found = MemoryRecords(bytes(builder.build()))
        read = PartitionRecords(TP0, found, [], 0, None, None, True, 0)
        fetcher._records[TP0] = FetchResult(TP0, assignment=None, partition_records=read, backoff=0)
        return True

    fetcher._proc_fetch_request = fetch
    keep_as_read(fetcher, lambda topic: chunked and topic == TOPIC)
    assert await fetcher._proc_fetch_request(None, 0, None)
    records = list(fetcher._records[TP0]._partition_records)
    assert {type(one) for one in records} == {kind}
    assert [(one.offset, one.key, one.value, *one.headers) for one in records] == [
        (number, b"key", b"value-%d" % number, ("name", b"x")) for number in range(3)
    ]
