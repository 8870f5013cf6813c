"""Every metric name once, as data: name, kind, help, labels. `docs/operate.md` must tell each one (tested)."""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

Kind = Literal["counter", "gauge", "histogram"]


class MetricSpec(msgspec.Struct, frozen=True):
    """`labels` are bounded sets: never an id, never free text. Histograms are in seconds or in items."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ITEMS: Final = (1.0, 10.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)

METRICS: Final[tuple[MetricSpec, ...]] = (
    # the way in
    MetricSpec("chronicle_http_requests_total", "counter", "Requests answered.", ("route", "method", "status")),
    MetricSpec("chronicle_http_request_seconds", "histogram", "Time to answer.", ("route",), SECONDS),
    MetricSpec("chronicle_ingest_accepted_total", "counter", "Events acked with 2xx.", ("durability",)),
    MetricSpec("chronicle_ingest_rejected_total", "counter", "Events refused at the door.", ("code",)),
    MetricSpec("chronicle_ingest_redacted_total", "counter", "Events in which a secret was blanked.", ()),
    MetricSpec("chronicle_spool_pending", "gauge", "Accepted records waiting on local disk for the broker."),
    MetricSpec("chronicle_spool_bytes", "gauge", "Size of the spool file in bytes."),
    MetricSpec("chronicle_spool_mode", "gauge", "1 while accepted events go through the spool."),
    # dedupe
    MetricSpec("chronicle_dedupe_passed_total", "counter", "Records passed on to the public stream."),
    MetricSpec("chronicle_dedupe_duplicates_total", "counter", "Records dropped as duplicates."),
    MetricSpec("chronicle_dedupe_replays_total", "counter", "Records seen again at their own position, passed on."),
    MetricSpec("chronicle_dedupe_marked_total", "counter", "Events marked as suspected duplicates."),
    MetricSpec("chronicle_aggregate_events_total", "counter", "Events read into the aggregate tables, repeats too."),
    MetricSpec("chronicle_history_rows_total", "counter", "Rows sent to the history tables.", ("result",)),
    MetricSpec("chronicle_history_passed_over_total", "counter", "Values that the history does not have.", ("cause",)),
    MetricSpec("chronicle_dead_letters_total", "counter", "Records set aside.", ("stage", "cause")),
    # persist
    MetricSpec("chronicle_batch_events", "histogram", "Events in a batch.", ("reason",), ITEMS),
    MetricSpec("chronicle_sink_write_seconds", "histogram", "One sink transaction.", ("sink",), SECONDS),
    MetricSpec("chronicle_sink_stored_total", "counter", "Events newly stored.", ("sink",)),
    MetricSpec("chronicle_sink_duplicates_total", "counter", "Duplicates the primary key found.", ("sink",)),
    MetricSpec("chronicle_sink_errors_total", "counter", "Failed sink transactions.", ("sink", "kind")),
    MetricSpec("chronicle_sink_held_seconds", "gauge", "How long a batch has been held because no sink takes it."),
    MetricSpec("chronicle_breaker_open", "gauge", "1 while the Postgres breaker is open or probing."),
    MetricSpec("chronicle_failovers_total", "counter", "Switches from Postgres to SQLite."),
    MetricSpec("chronicle_sync_pending", "gauge", "Events in SQLite that Postgres does not have yet."),
    MetricSpec("chronicle_sync_synced_total", "counter", "Events brought back from SQLite to Postgres."),
    MetricSpec("chronicle_sync_mismatches_total", "counter", "Sync-back checks that failed; must stay 0."),
    # conflicts
    MetricSpec("chronicle_conflicts_open", "gauge", "Events that claim the id of another and wait for a decision."),
    MetricSpec("chronicle_conflicts_resolved_total", "counter", "Conflicts that were decided.", ("strategy",)),
    # reading back
    MetricSpec("chronicle_reader_queries", "gauge", "Questions to Postgres that run, or wait for a connection."),
    MetricSpec("chronicle_live_clients", "gauge", "Connections that watch the live stream.", ("transport",)),
    MetricSpec("chronicle_live_missed_total", "counter", "Events that a client was too slow for, and was told of."),
    # the log, and whether it all works
    MetricSpec("chronicle_ready_check", "gauge", "1 while a check of /ready holds, 0 while not.", ("check",)),
    MetricSpec("chronicle_lag", "gauge", "Records a role has not yet worked off.", ("role", "partition")),
    MetricSpec("chronicle_commit_failures_total", "counter", "Offset commits that failed and were kept.", ("role",)),
    MetricSpec("chronicle_ledger", "gauge", "The loss ledger.", ("part",)),
    MetricSpec("chronicle_build_info", "gauge", "Always 1; the version is a label.", ("version",)),
)


class Metrics(Protocol):
    """Counts things. Unknown names raise KeyError at the first use: a metric is declared above or does not exist."""

    def inc(self, name: str, value: float = 1, **labels: str) -> None: ...

    def set(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


class NullMetrics:
    """Counts nothing."""

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Nothing."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""
