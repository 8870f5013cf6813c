"""The Faust transport that delivers chunks: one poll of one partition is one event, acked by its agent alone.

    app = faust.App("chronicle-dedupe", broker=..., **FAUST_SETTINGS)
    use(app, chunked={"chronicle.ingest"}, role="dedupe")

    @app.agent(chunk_topic(app, "chronicle.ingest"), name="dedupe")
    async def dedupe(stream):
        async for event in stream.noack().events():
            chunk: Chunk = event.value
            ...
            chunk.ack()

Topics that are not named in `chunked` (table changelogs, replies) are delivered message by message as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, cast

import faust
from faust.transport.base import Fetcher
from faust.transport.drivers.aiokafka import Transport
from faust.types import TP

from connectors.transport.assignment import LedgerConsumer
from connectors.transport.chunk import Chunk, ChunkSchema, Record
from connectors.transport.consumer import ChunkConsumer
from connectors.transport.producer import ChunkProducer
from connectors.transport.settings import FAUST_SETTINGS, MIB, CommitFailure, Options, Resume
from schemas.metrics import Metrics, NullMetrics

__all__ = [
    "FAUST_SETTINGS",
    "TP",
    "Chunk",
    "ChunkTransport",
    "CommitFailure",
    "Record",
    "Resume",
    "assigned",
    "chunk_topic",
    "lag",
    "last_progress",
    "positions",
    "reading",
    "use",
]


class ChunkFetcher(Fetcher):
    """Faust's fetcher; when the app stops, the agents finish what they hold while the tables are still open."""

    _drained = False

    async def on_stop(self) -> None:
        """See faust.transport.consumer.Fetcher.on_stop. A stopping app stops it twice; one wait is enough."""
        await super().on_stop()
        if self.app.should_stop and not self._drained:
            self._drained = True
            await cast(LedgerConsumer, self.app.consumer).drain()


class ChunkTransport(Transport):
    """See the module. Made by `use`; Faust asks for it inside the running loop."""

    Consumer: ClassVar[Any] = ChunkConsumer
    Producer: ClassVar[Any] = ChunkProducer
    Fetcher: ClassVar[Any] = ChunkFetcher

    def __init__(self, url: Any, app: Any, options: Options) -> None:
        self.options = options
        super().__init__(url, app)


def use(
    app: faust.App,
    *,
    chunked: Collection[str],
    role: str | None = None,
    resume: Resume | None = None,
    on_commit_failure: CommitFailure | None = None,
    metrics: Metrics | None = None,
    max_records: int = 2000,
    pace_s: float = 0.0,
    max_unacked_records: int = 8000,
    max_unacked_bytes: int = 6 * MIB,
    drain_timeout: float = 5.0,
    commit_timeout: float = 5.0,
) -> None:
    """Make this app's transport ours. Call it before agents, topics or tables are declared on the app.

    `chunked` names the topics delivered as chunks of at most `max_records`; each needs exactly one agent in the app.
    After a poll that found all there is, the next one waits `pace_s` seconds: what comes meanwhile makes one chunk
    instead of many, and a lone record waits for nothing.
    `resume` is asked on each assignment, see `Resume`. A partition is fetched no further while more than
    `max_unacked_records` or `max_unacked_bytes` of it are handed out and not acked (one fetch may overshoot).
    On rebalance and stop the agents get `drain_timeout` seconds for what they hold; a commit gets `commit_timeout`.
    `role` labels `chronicle_commit_failures_total` in `metrics`.
    Raises RuntimeError when the app has a transport already.
    """
    if app._transport is not None:
        raise RuntimeError("use() comes too late: something has touched the app's topics or consumer already")
    options = Options(
        chunked=frozenset(chunked),
        role=role or "",
        resume=resume,
        on_commit_failure=on_commit_failure,
        metrics=metrics or NullMetrics(),
        max_records=max_records,
        pace_s=pace_s,
        max_unacked_records=max_unacked_records,
        max_unacked_bytes=max_unacked_bytes,
        drain_timeout=drain_timeout,
        commit_timeout=commit_timeout,
    )
    app._new_transport = lambda: ChunkTransport(app.conf.broker_consumer, app, options)  # type: ignore[method-assign]


def chunk_topic(app: faust.App, name: str, **kwargs: Any) -> Any:
    """A Faust topic for a name given to `use(chunked=...)`. Keyword arguments go to `app.topic`."""
    return app.topic(name, schema=ChunkSchema(), **kwargs)


def _consumer(app: faust.App) -> LedgerConsumer | None:
    consumer = app._consumer
    return consumer if isinstance(consumer, LedgerConsumer) else None


def assigned(app: faust.App) -> frozenset[TP]:
    """The stream partitions this app reads now: assigned, recovered and sought. Empty during a rebalance."""
    consumer = _consumer(app)
    return frozenset(consumer.ledgers) if consumer is not None else frozenset()


def positions(app: faust.App) -> Mapping[TP, tuple[int, int]]:
    """For each partition of `assigned`: the offset below which all is acked, and the log's end as last heard."""
    consumer = _consumer(app)
    if consumer is None:
        return {}
    return {tp: (one.position, max(consumer.ends.get(tp, 0), one.delivered)) for tp, one in consumer.ledgers.items()}


def reading(app: faust.App | None, topic: str) -> Mapping[int, tuple[int, int]]:
    """For each partition of `topic` in `assigned`: where reading began in this assignment, and how far all is acked."""
    consumer = None if app is None else _consumer(app)
    ledgers = {} if consumer is None else consumer.ledgers
    return {tp.partition: (one.start, one.position) for tp, one in ledgers.items() if tp.topic == topic}


def lag(app: faust.App) -> Mapping[TP, int]:
    """For each partition of `assigned`: how many offsets are not acked yet."""
    return {tp: end - position for tp, (position, end) in positions(app).items()}


def last_progress(app: faust.App) -> Mapping[TP, float]:
    """For each partition of `assigned`: monotonic time of the last ack, or since when it has had work or been ours.

    A watchdog exits the process when `lag` is above 0 and this is long ago: aiokafka's consumer can stay out of its
    group for good after a broker restart, and nothing else shows it.
    """
    consumer = _consumer(app)
    return dict(consumer.progress_at) if consumer is not None else {}
