"""Lanes that linger: what is worked off together is bounded in number and in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.aggregate import BATCH
from agents.lanes import MOST_BYTES, UNACKED_BYTES, Lingering, end_of
from connectors.transport.settings import Options

FOREVER = 3600.0
#: Records of a partition that are handed out and not acked.
MOST_RECORDS = Options(chunked=frozenset(), role="").max_unacked_records


class Kept(Lingering):
    """Keeps the sizes of its batches."""

    def __init__(self, most: int) -> None:
        super().__init__(0, most=most, linger_s=FOREVER)
        self.batches: asyncio.Queue[int] = asyncio.Queue()

    async def work(self, chunks: Sequence[Any]) -> None:
        self.batches.put_nowait(len(chunks))

    def failed(self, error: Exception) -> None:
        raise error


def chunk(records: int, size: int) -> Any:
    value = b"x" * size
    return SimpleNamespace(records=[SimpleNamespace(value=value)] * records, live=True, first=0)


@pytest.mark.parametrize(
    ("most", "records", "size", "together"),
    [(10, 5, 1, 2), (10_000, 2, MOST_BYTES // 4, 2), (10_000, 1, MOST_BYTES, 1)],
)
async def test_a_batch_ends_when_it_is_large_enough(most: int, records: int, size: int, together: int) -> None:
    """Before the linger is over: by the number of its records, or by their bytes."""
    lane = Kept(most)
    for _ in range(together):
        await lane.put(chunk(records, size))
    async with asyncio.timeout(5):
        assert await lane.batches.get() == together
    await lane.close()


@pytest.mark.parametrize("size", [200, 900, 20_000, 900 * 1024])
async def test_a_batch_needs_no_more_than_a_partition_may_hand_out(size: int) -> None:
    """Else each waits for its whole linger behind a backlog: what is to fill it comes only once it is acked."""
    lane = Kept(BATCH)
    handed = 0
    while handed < min(UNACKED_BYTES, MOST_RECORDS * size):
        records = min(1000, max(1, (1 << 20) // size))
        await lane.put(chunk(records, size))
        handed += records * size
    async with asyncio.timeout(5):
        assert await lane.batches.get()
    await lane.close()


@given(partition=st.integers(0, 1_000), now=st.floats(0, 1e8), linger=st.sampled_from([0.05, 1.0, 1.5]))
def test_a_batch_lasts_more_than_half_of_the_linger_and_no_more_than_it(
    partition: int, now: float, linger: float
) -> None:
    """Long enough to be worth a write, and no later than was promised."""
    assert linger / 2 - 1e-6 < end_of(partition, now, linger) - now < linger + 1e-6


def test_without_a_linger_a_batch_ends_at_once() -> None:
    """What is there by then is still taken together."""
    assert end_of(3, 7.5, 0.0) == 7.5


@pytest.mark.parametrize("partitions", [2, 4, 16])
def test_the_batches_of_two_partitions_do_not_end_in_the_same_moment(partitions: int) -> None:
    """However they began: work that comes all at once keeps the loop from what should be quick."""
    ends = sorted(end_of(partition, 100.0 + 0.2 * partition, 1.0) % 0.5 for partition in range(partitions))
    apart = [other - one for one, other in pairwise([*ends, ends[0] + 0.5])]
    assert min(apart) > 0.5 / partitions / 3
