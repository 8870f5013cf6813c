"""What the transport needs to know, and the Faust settings that must be so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from faust.types import TP

from schemas.metrics import Metrics, NullMetrics

#: Asked on assignment with the committed group offsets (partitions without one are absent); answers the durable
#: progress per partition. Reading begins at the smaller of both. May raise: then the group offset counts.
Resume = Callable[[Mapping[TP, int]], Awaitable[Mapping[TP, int]]]

#: Told the offsets a commit failed for and why. They are kept and tried again at the next interval.
CommitFailure = Callable[[Mapping[TP, int], BaseException], None]

MIB: Final = 1024 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one app consumes; see `use` for the meaning of each."""

    chunked: frozenset[str]
    role: str
    resume: Resume | None = None
    on_commit_failure: CommitFailure | None = None
    metrics: Metrics = msgspec.field(default_factory=NullMetrics)
    max_records: int = 2000
    pace_s: float = 0.0
    max_unacked_records: int = 8000
    max_unacked_bytes: int = 6 * MIB
    drain_timeout: float = 5.0
    commit_timeout: float = 5.0
    resume_timeout: float = 10.0


#: Pass these to `faust.App`; each was tried or read in Faust's source (0.15.3).
FAUST_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        # The transport itself drains, bounded in time; Faust's own wait has no end while a sink is away.
        "stream_wait_empty": False,
        # Acks are the ledger's business; exactly_once leaks (decision 0002) and the sink is idempotent.
        "processing_guarantee": "at_least_once",
        # A killed worker's partitions move after this time, not after 60 s. Heartbeats have a thread of their own.
        "broker_session_timeout": 10.0,
        "broker_heartbeat_interval": 3.0,
        # How long the broker lets a group wait for a member that does not join again: after an outage of the broker one
        # of them may not have heard that it must, and Faust's 60 s keeps all the others out of work. Draining and the
        # last commit take 10 s at most.
        "broker_rebalance_timeout": 12.0,
        # A hung main loop polls no more and loses its partitions after this time; a held sink keeps polling.
        "broker_max_poll_interval": 60.0,
        # How much is read twice after a crash.
        "broker_commit_interval": 1.0,
        # Bytes fetched per partition: a chunk under load. Two of them are in memory at most.
        "consumer_max_fetch_size": MIB,
        # A group without offsets starts at the oldest record: nothing accepted is skipped.
        "consumer_auto_offset_reset": "earliest",
        # Faust's 1200 s is also the life of a batch in the producer.
        "producer_request_timeout": 12.0,
        "producer_linger": 0.002,
        # acks=0 or 1 would make an ack mean nothing; the producer is idempotent as well.
        "producer_acks": -1,
        # Broken in Faust 0.15: one touches RocksDB from a second thread, the other has views on a loop of their own.
        "producer_threaded": False,
        "web_in_thread": False,
        # Counted in chunks here; the real bound is the unacked records and bytes a partition.
        "stream_buffer_maxsize": 64,
        # Traffic for nothing with one worker; several workers may raise it.
        "table_standby_replicas": 0,
        # Faust's own pages would show tables and settings to anyone who reaches the port.
        "web_tables_enabled": False,
        "web_router_enabled": False,
        "web_stats_enabled": False,
        "web_graph_enabled": False,
    }
)
