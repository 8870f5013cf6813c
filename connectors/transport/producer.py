"""Faust's producer, made safe to commit after: idempotent, and a flush that tells the truth.

Faust's flush gives up after 100 ms without a send and says nothing; the offset commit that follows would then
cover records whose table changelog is still in memory. Here every buffered message is followed until the broker has
acked it, and whoever wants to commit is told whether all of them are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from faust.exceptions import ProducerSendError
from faust.transport.drivers.aiokafka import Producer
from faust.transport.producer import ProducerBuffer


class TrackingBuffer(ProducerBuffer):
    """Knows which of the messages put into it the broker has not acked yet, wherever in between they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.unsettled: set[asyncio.Future[Any]] = set()
        self.refused: BaseException | None = None

    def put(self, fut: Any) -> None:
        """See ProducerBuffer.put."""
        self.unsettled.add(fut)
        fut.add_done_callback(self._settled)
        super().put(fut)

    def _settled(self, fut: asyncio.Future[Any]) -> None:
        self.unsettled.discard(fut)
        if not fut.cancelled() and fut.exception() is not None and self.refused is None:
            self.refused = fut.exception()

    async def on_stop(self) -> None:
        """Nothing: the producer has been flushed before, and Faust's own flush here fails on what is left."""

    async def settle(self) -> None:
        """Wait for what was put so far. Raises ProducerSendError when the broker has ever refused a message."""
        if self.unsettled:
            await asyncio.wait(set(self.unsettled))
        if self.refused is not None:
            raise ProducerSendError(f"a table changelog record was refused: {self.refused!r}") from self.refused


class ChunkProducer(Producer):
    """Idempotent, acks=all, and `settle` beside `flush`."""

    buffer: TrackingBuffer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = TrackingBuffer(loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app

    def _settings_extra(self) -> Mapping[str, Any]:
        # Faust does this in exactly-once mode only; without it a retried batch is a duplicate.
        return {"acks": "all", "enable_idempotence": True}

    async def settle(self, *, timeout: float) -> None:
        """Return once all that was sent so far is acked by the broker.

        Raises TimeoutError when it is not within `timeout` seconds, ProducerSendError when a buffered message was
        refused for good: the table and its changelog differ then, and only a restart with restore mends it.
        """
        async with asyncio.timeout(timeout):
            await self.buffer.settle()
            if self._producer is not None:
                await cast(Any, self._producer).flush()

    async def flush(self) -> None:
        """Faust calls this at rebalance and stop: do what can be done in bounded time, and never fail."""
        try:
            await self.settle(timeout=5.0)
        except (TimeoutError, ProducerSendError) as exc:
            self.log.warning("%d messages not acked by the broker: %r", len(self.buffer.unsettled), exc)
