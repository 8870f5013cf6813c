"""/health, /ready, /metrics, /stats and /: they answer whatever is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import PrometheusMetrics
from app.stats import LedgerReader
from app.views import ops
from connectors.memory import MemoryIntake, MemoryStatusBoard
from connectors.readers.failover import HOLD_DOWN_S, FailoverReader
from connectors.readers.memory import MemoryReader
from reading import TOPICS, FixedOffsets, ManualClock, event_row, serving

WORKER: dict[str, Any] = {
    "worker": "w-1",
    "roles": ["dedupe", "persist"],
    "dedupe": {
        "recovered": True,
        "partitions": {
            "0": {"next": 6, "passed": 5, "duplicates": 1, "dead": 0, "conflicts": 0},
            "1": {"next": 4, "passed": 3, "duplicates": 0, "dead": 1, "conflicts": 0},
        },
    },
    "persist": {
        "partitions": {"0": {"next": 5}, "1": {"next": 2}},
        "sink": "postgres",
        "breaker": "closed",
        "proven": True,
        "sqlite_pending": 0,
        "last_error": None,
        "secret": "must not be shown",
    },
}


class Plant:
    """Everything the operating views look at, by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.offsets = FixedOffsets(ingest={0: 6, 1: 4}, events={0: 5, 1: 3})
        self.intake = MemoryIntake()
        self.status = MemoryStatusBoard(self.clock)
        self.primary, self.local = MemoryReader("postgres"), MemoryReader("sqlite")
        self.primary.event_rows += [event_row(n) for n in range(7)]
        self.primary.next_offsets = {0: 5, 1: 2}
        self.registry = CollectorRegistry()
        self.slept: list[float] = []
        self.client: TestClient[Any, Any]

    async def post(self, **changes: Any) -> None:
        """The worker says that it lives."""
        await self.status.post("w-1", WORKER | {"at": self.clock.at} | changes)

    def later(self, seconds: float) -> None:
        self.clock.at += seconds

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json()

    def views(self) -> ops.OpsViews:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        reader = FailoverReader(self.primary, self.local, monotonic=self.clock.monotonic)
        parts: dict[str, Any] = {"offsets": self.offsets, "intake": self.intake, "status": self.status}
        common = parts | {"topics": TOPICS, "clock": self.clock}
        ledger = LedgerReader(**common, reader=reader, local=self.local, sleep=sleep)
        return ops.OpsViews(
            version="1.2.3",
            clock=self.clock,
            probe=ops.ReadyProbe(**common),
            ledger=ledger,
            status=self.status,
            intake=self.intake,
            registry=self.registry,
            metrics=PrometheusMetrics(self.registry),
        )


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    """A plant in order, nothing posted yet."""
    made = Plant()
    views = made.views()
    async with serving([*ops.routes(views), *ops.stats_routes(views)]) as client:
        made.client = client
        yield made


async def test_health_is_about_the_process_alone(plant: Plant) -> None:
    """It answers with everything away."""
    plant.primary.away = plant.local.away = "gone"
    plant.offsets.away = True
    plant.later(5)
    status, body = await plant.get("/health")
    assert (status, body["status"], body["version"], body["uptime_s"]) == (200, "ok", "1.2.3", 5)
    assert body["pid"] > 0


async def test_the_index_leads_to_everything(plant: Plant) -> None:
    """Name, version, links."""
    _, body = await plant.get("/")
    assert (body["name"], body["version"]) == ("chronicle", "1.2.3")
    assert {"events", "sessions", "stats", "docs", "openapi", "asyncapi"} <= set(body["links"])


async def test_ready_is_red_until_all_is_proven_then_green(plant: Plant) -> None:
    """Nothing told: 503 that says why. A worker's status through the broker: 200."""
    status, body = await plant.get("/ready")
    assert (status, body["status"]) == (503, "starting")
    assert {check["name"] for check in body["checks"] if not check["ok"]} >= {"broker", "dedupe", "sink"}
    await plant.post()
    status, body = await plant.get("/ready")
    assert (status, body["status"]) == (200, "ready")
    assert all(check["ok"] for check in body["checks"])


async def test_ready_stays_green_but_degraded_when_the_broker_goes(plant: Plant) -> None:
    """Once proven, the spool is good enough to take events; with `strict` it is not."""
    await plant.post()
    await plant.get("/ready")
    plant.later(20)
    plant.offsets.away = True
    status, body = await plant.get("/ready")
    assert (status, body["status"]) == (200, "degraded")
    assert (await plant.get("/ready?strict=true"))[0] == 503
    assert (await plant.get("/ready?strict=maybe"))[0] == 422


async def test_the_ledger_adds_up_with_every_part(plant: Plant) -> None:
    """10 accepted: 7 stored, 1 duplicate, 1 dead, 1 on its way to the sink."""
    await plant.post()
    status, body = await plant.get("/stats")
    assert status == 200
    assert body["ledger"] == {
        "accepted": 10,
        "stored": 7,
        "duplicates": 1,
        "rejected": 0,
        "dead": 1,
        "pending": 1,
        "difference": 0,
        "balanced": True,
    }
    assert body["parts"]["pending"] == {"spool": 0, "ingest": 0, "events": 1}
    assert (body["source"], body["stale"], body["degraded"]) == ("postgres", [], False)
    assert body["workers"]["w-1"]["persist"]["sink"] == "postgres"
    assert "must not be shown" not in str(body)
    assert plant.slept == []


async def test_a_reading_that_does_not_balance_is_taken_again(plant: Plant) -> None:
    """Three times at most; then the difference is told."""
    await plant.post()
    plant.primary.stored = 6
    _, body = await plant.get("/stats")
    assert (body["ledger"]["difference"], body["ledger"]["balanced"]) == (1, False)
    assert len(plant.slept) == 2


async def test_the_ledger_goes_on_from_sqlite_and_last_known_values(plant: Plant) -> None:
    """While Postgres is away its last counts stand, marked as stale, and nothing is claimed."""
    await plant.post()
    await plant.get("/stats")
    plant.primary.away = "refused"
    plant.local.event_rows.append(event_row(50))
    plant.local.next_offsets = {1: 3}
    plant.later(HOLD_DOWN_S)
    _, body = await plant.get("/stats")
    assert (body["source"], body["degraded"], body["stale"]) == ("sqlite", True, ["postgres"])
    assert body["parts"]["stored"] == {"postgres": 7, "sqlite": 1}
    assert (body["ledger"]["difference"], body["ledger"]["balanced"]) == (0, None)


async def test_parts_that_are_away_are_named(plant: Plant) -> None:
    """The broker away: its last ends stand; the stream workers gone: their last counters stand."""
    await plant.post()
    await plant.get("/stats")
    plant.offsets.away = True
    plant.later(60)
    _, body = await plant.get("/stats")
    assert body["stale"] == ["ingest", "dedupe", "events"]
    assert (body["ledger"]["accepted"], body["ledger"]["duplicates"]) == (10, 1)
    assert body["ledger"]["balanced"] is None


async def test_a_table_that_began_anew_claims_no_balance(plant: Plant) -> None:
    """Its older counts are gone for good, so a difference is no proof of loss."""
    rows = {key: row | {"skipped": 4} for key, row in WORKER["dedupe"]["partitions"].items()}
    await plant.post(dedupe={**WORKER["dedupe"], "partitions": rows})
    _, body = await plant.get("/stats")
    assert (body["stale"], body["ledger"]["balanced"]) == (["dedupe.skipped"], None)


async def test_a_process_without_an_intake_does_not_know_the_spool(plant: Plant) -> None:
    """It says so instead of counting nothing."""
    reader = FailoverReader(plant.primary, plant.local)
    ledger = LedgerReader(
        offsets=plant.offsets,
        intake=None,
        status=plant.status,
        reader=reader,
        local=None,
        topics=TOPICS,
        clock=plant.clock,
    )
    await plant.post()
    reading = await ledger.read()
    assert reading.inputs.stale == ("spool",)
    assert (reading.ledger.accepted, reading.ledger.balanced) == (10, None)


async def test_metrics_in_both_formats(plant: Plant) -> None:
    """Prometheus text by default, OpenMetrics when asked for; the ledger and the spool are in them."""
    await plant.post()
    async with plant.client.get("/metrics") as answer:
        text = await answer.text()
        assert answer.headers["Content-Type"].startswith("text/plain")
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["chronicle_ledger", (("part", "stored"),)] == 7
    assert values["chronicle_lag", (("partition", "1"), ("role", "persist"))] == 1
    assert values["chronicle_build_info", (("version", "1.2.3"),)] == 1
    assert values["chronicle_spool_mode", ()] == 0
    assert values["chronicle_ready_check", (("check", "broker"),)] == 1
    async with plant.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as answer:
        assert (await answer.text()).endswith("# EOF\n")


async def test_metrics_answer_with_everything_away(plant: Plant) -> None:
    """A scrape is needed most when something is broken."""
    plant.primary.away = plant.local.away = "gone"
    plant.offsets.away = True
    async with plant.client.get("/metrics") as answer:
        assert answer.status == 200
