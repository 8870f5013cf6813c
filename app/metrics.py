"""`schemas.metrics.Metrics` over prometheus-client: every declared name, nothing else."""

from __future__ import annotations

from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.metrics import METRICS, MetricSpec

T = TypeVar("T", Counter, Gauge, Histogram)


class PrometheusMetrics:
    """Holds one collector for each row of `schemas.metrics.METRICS` in `registry`.

    Raises KeyError for a name that is not declared, ValueError for labels other than the declared ones and for a kind
    of change the metric does not know (a counter is not set).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._collectors = {spec.name: _collector(spec, registry) for spec in METRICS}
        #: prometheus_client checks and locks each time it is asked for labels; they are a bounded set.
        self._labelled: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter or a gauge."""
        if name.endswith("_total"):
            self._child(name, Counter, labels).inc(value)
        else:
            self._child(name, Gauge, labels).inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, Gauge, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put one value into a histogram."""
        self._child(name, Histogram, labels).observe(value)

    def _child(self, name: str, kind: type[T], labels: dict[str, str]) -> T:
        collector = self._collectors[name]
        if not isinstance(collector, kind):
            raise ValueError(f"{name} is a {type(collector).__name__.lower()} and cannot be changed that way.")
        if not labels:
            return collector
        key = (name, *labels.items())
        child = self._labelled.get(key)
        if child is None:
            child = self._labelled[key] = collector.labels(**labels)
        return cast(T, child)


def _collector(spec: MetricSpec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if spec.kind == "counter":
        return Counter(spec.name, spec.help, spec.labels, registry=registry)
    if spec.kind == "gauge":
        return Gauge(spec.name, spec.help, spec.labels, registry=registry)
    return Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets or (1.0,))
