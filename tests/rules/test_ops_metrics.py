"""PrometheusMetrics: what is declared exists, nothing else does."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.metrics import PrometheusMetrics
from schemas.metrics import METRICS


def test_every_declared_metric_is_in_the_registry() -> None:
    """Each row of the table is exposed under its own name and kind."""
    metrics = PrometheusMetrics(CollectorRegistry())
    text = generate_latest(metrics.registry).decode()
    for spec in METRICS:
        assert f"# TYPE {spec.name} {spec.kind}\n" in text, spec.name


def test_the_three_kinds_of_change() -> None:
    """A counter counts, a gauge is set, a histogram observes."""
    metrics = PrometheusMetrics(CollectorRegistry())
    metrics.inc("chronicle_ingest_accepted_total", 3, durability="log")
    metrics.set("chronicle_spool_pending", 5)
    metrics.inc("chronicle_spool_pending", -1)
    metrics.observe("chronicle_batch_events", 700, reason="size")
    value = metrics.registry.get_sample_value
    assert value("chronicle_ingest_accepted_total", {"durability": "log"}) == 3
    assert value("chronicle_spool_pending") == 4
    assert value("chronicle_batch_events_bucket", {"reason": "size", "le": "1000.0"}) == 1
    assert value("chronicle_batch_events_bucket", {"reason": "size", "le": "500.0"}) == 0


def test_equal_labels_count_together_whatever_their_order() -> None:
    """A child is kept once it has been asked for; others of the same metric, and other metrics, count apart."""
    metrics = PrometheusMetrics(CollectorRegistry())
    for _ in range(2):
        metrics.inc("chronicle_dead_letters_total", stage="persist", cause="refused")
        metrics.inc("chronicle_dead_letters_total", cause="refused", stage="persist")
    metrics.inc("chronicle_dead_letters_total", stage="dedupe", cause="refused")
    value = metrics.registry.get_sample_value
    assert value("chronicle_dead_letters_total", {"stage": "persist", "cause": "refused"}) == 4
    assert value("chronicle_dead_letters_total", {"stage": "dedupe", "cause": "refused"}) == 1


def test_an_undeclared_name_is_an_error() -> None:
    """A typing mistake is found at the first use."""
    metrics = PrometheusMetrics(CollectorRegistry())
    with pytest.raises(KeyError):
        metrics.inc("chronicle_no_such_total")


def test_a_wrong_kind_or_label_is_an_error() -> None:
    """A counter is not set; labels are the declared ones."""
    metrics = PrometheusMetrics(CollectorRegistry())
    with pytest.raises(ValueError):
        metrics.set("chronicle_dedupe_passed_total", 3)
    with pytest.raises(ValueError):
        metrics.inc("chronicle_ingest_accepted_total", session="s-1")
