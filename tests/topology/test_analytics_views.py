"""What the stream counts, over HTTP: series with zeros, groups, tools, and clear refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient

from app.views import analytics, tables
from app.views import shapes_analytics as shapes
from reading import ManualClock, serving
from tables.usage import GRAINS, Key, SessionUse, ToolUse, Usage
from tables.usage_view import Figures

NOON = 1_763_726_400  # 2025-11-21T12:00:00Z
HOUR = 3600


class Plant:
    """The views over figures that are put in by hand; it is half past three."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.at = NOON + 3.5 * HOUR
        self.figures = Figures()
        self.ready = True
        self.client: TestClient[Any, Any]

    def usage(self, bucket: int, events: dict[str, int], *dimension: str, sessions: set[int] | None = None) -> None:
        """Put events into the minute, hour and day of an instant."""
        for grain, (size, _) in GRAINS.items():
            key: Key = ("usage", grain, bucket - bucket % size, *(dimension or ("all", "")))
            self.figures.put(0, key, Usage(events=events, sessions=sessions or set()))

    async def get(self, path: str, shape: Any, **params: str) -> dict[str, Any]:
        """The answer, held against its shape; no field is missing and none is extra."""
        answer = await self.client.get(path, params=params)
        body: dict[str, Any] = await answer.json()
        assert answer.status == 200, body
        assert answer.headers["Chronicle-Source"] == "stream"
        read = msgspec.convert(body, shape)
        assert set(body) == set(msgspec.to_builtins(read))
        return body

    async def refused(self, path: str, **params: str) -> dict[str, Any]:
        answer = await self.client.get(path, params=params)
        body: dict[str, Any] = await answer.json()
        return {"status": answer.status, **body}


@pytest_asyncio.fixture
async def plant() -> AsyncIterator[Plant]:
    made = Plant()
    made.usage(NOON, {"user_prompt": 2, "tool_pre_use": 5}, sessions={1, 2})
    made.usage(NOON + 2 * HOUR, {"user_prompt": 1}, sessions={2})
    views = analytics.AnalyticsViews(made.figures, lambda: made.ready, made.clock)
    rows = tables.TableViews(made.figures, lambda: made.ready, made.clock)
    async with serving([*analytics.routes(views), *tables.routes(rows)]) as client:
        made.client = client
        yield made


async def test_usage_is_a_point_for_each_bucket_zeros_included(plant: Plant) -> None:
    """From and until are cut to whole buckets, and the answer says to which."""
    body = await plant.get("/analytics/usage", shapes.UsageSeries, interval="hour", since=str((NOON + 5) * 1000))
    assert body["since"] == "2025-11-21T12:00:00.000000Z"
    assert body["until"] == "2025-11-21T16:00:00.000000Z"
    assert body["buckets"][1] == "2025-11-21T13:00:00.000000Z"
    assert body["series"] == [{"name": "", "values": [7, 0, 1, 0], "total": 8}]


@pytest.mark.parametrize(("metric", "values"), [("sessions", [2, 0, 1, 0]), ("prompts", [2, 0, 1, 0])])
async def test_sessions_and_prompts_are_metrics_as_well(plant: Plant, metric: str, values: list[int]) -> None:
    """Sessions with events in the bucket."""
    body = await plant.get(
        "/analytics/usage", shapes.UsageSeries, metric=metric, interval="hour", since=str(NOON * 1000)
    )
    assert body["series"][0]["values"] == values


async def test_without_an_interval_the_shortest_that_is_kept_answers(plant: Plant) -> None:
    """A day of minutes, a week of hours, else days."""
    for back, interval in ((HOUR, "minute"), (25 * HOUR, "minute"), (3 * 24 * HOUR, "hour"), (90 * 24 * HOUR, "day")):
        since = int(plant.clock.at) - back
        body = await plant.get("/analytics/usage", shapes.UsageSeries, since=str(since * 1000))
        assert body["interval"] == interval
    assert sum((await plant.get("/analytics/usage", shapes.UsageSeries))["series"][0]["values"]) == 8


async def test_events_group_by_type_the_most_first(plant: Plant) -> None:
    """Each a line of the chart."""
    body = await plant.get(
        "/analytics/usage", shapes.UsageSeries, group_by="type", interval="hour", since=str(NOON * 1000)
    )
    assert [(one["name"], one["values"]) for one in body["series"]] == [
        ("tool_pre_use", [5, 0, 0, 0]),
        ("user_prompt", [2, 0, 1, 0]),
    ]


async def test_beyond_twenty_groups_the_rest_is_one_number(plant: Plant) -> None:
    """Nobody reads a chart of a thousand projects."""
    for number in range(25):
        plant.usage(NOON, {"a": 100 - number}, "project", f"p{number:02}")
    body = await plant.get("/analytics/usage", shapes.UsageSeries, group_by="project", interval="day")
    assert [one["name"] for one in body["series"]] == [f"p{number:02}" for number in range(20)]
    assert body["others"] == sum(100 - number for number in range(20, 25))


async def test_one_project_alone(plant: Plant) -> None:
    """Also by type; by another dimension it cannot be split."""
    plant.usage(NOON, {"a": 3}, "project", "shop")
    body = await plant.get("/analytics/usage", shapes.UsageSeries, project="shop", interval="day")
    assert [one["total"] for one in body["series"]] == [3]
    found = await plant.refused("/analytics/usage", project="shop", group_by="machine")
    assert (found["status"], found["pointer"]) == (422, "/group_by")


async def test_tools_and_one_tool_over_time(plant: Plant) -> None:
    """Percentiles are rounded; a bucket without calls has none."""
    for grain, (size, _) in GRAINS.items():
        key: Key = ("tools", grain, NOON - NOON % size, "all", "", "Bash")
        plant.figures.put(0, key, ToolUse(calls=4, failures=1, durations={80: 4}))
    body = await plant.get("/tools", shapes.ToolPage, interval="hour", since=str(NOON * 1000))
    assert body["items"] == [
        {"name": "Bash", "calls": 4, "failures": 1, "p50_ms": 1069.3, "p95_ms": 1069.3, "p99_ms": 1069.3}
    ]
    body = await plant.get("/tools/Bash", shapes.ToolSeries, interval="hour", since=str(NOON * 1000))
    assert [point["calls"] for point in body["points"]] == [4, 0, 0, 0]
    assert body["points"][1]["p50_ms"] is None
    assert (await plant.refused("/tools/Nothing"))["status"] == 404


@pytest.mark.parametrize("dimension", ["project", "machine", "agent"])
async def test_values_of_a_dimension(plant: Plant, dimension: str) -> None:
    """The busiest first."""
    plant.usage(NOON, {"a": 1, "user_prompt": 1}, dimension, "quiet", sessions={7})
    plant.usage(NOON, {"a": 9}, dimension, "busy")
    body = await plant.get(f"/analytics/values/{dimension}", shapes.Values)
    assert [item["name"] for item in body["items"]] == ["busy", "quiet"]
    quiet = {"name": "quiet", "events": 2, "prompts": 1, "sessions": 1, "sessions_at_least": False}
    assert body["items"][1] == quiet
    if dimension == "project":
        assert (await plant.get("/projects", shapes.Values))["items"] == body["items"]


@pytest.mark.parametrize(
    ("path", "params", "status", "pointer"),
    [
        ("/analytics/usage", {"metric": "money"}, 422, "/metric"),
        ("/analytics/usage", {"interval": "week"}, 422, "/interval"),
        ("/analytics/usage", {"group_by": "type", "metric": "prompts"}, 422, "/group_by"),
        ("/analytics/usage", {"interval": "minute", "since": "0"}, 422, "/since"),
        ("/analytics/usage", {"interval": "hour", "since": str((NOON - 10 * 86_400) * 1000)}, 422, "/since"),
        ("/analytics/usage", {"since": str((NOON - 500 * 86_400) * 1000)}, 422, "/since"),
        ("/analytics/usage", {"since": "99999999999999"}, 422, "/since"),
        ("/tools", {"tool": "Bash"}, 422, "/tool"),
        ("/analytics/values/mood", {}, 404, ""),
    ],
)
async def test_what_is_wrong_is_named(
    plant: Plant, path: str, params: dict[str, str], status: int, pointer: str | None
) -> None:
    """Never guessed at."""
    found = await plant.refused(path, **params)
    assert (found["status"], found.get("pointer")) == (status, pointer)


async def test_until_everything_is_read_there_is_no_answer(plant: Plant) -> None:
    """Half of a sum is worse than none."""
    plant.ready = False
    found = await plant.refused("/analytics/usage")
    assert (found["status"], found["code"]) == (503, "unavailable")


async def test_the_tables_tell_how_much_they_hold(plant: Plant) -> None:
    """Keys of each, as this process has them."""
    plant.figures.put(0, ("session", "s-1"), SessionUse(first=1, last=2))
    body = await plant.get("/tables", shapes.Tables)
    assert {one["name"]: one["keys"] for one in body["items"]} == {"usage": 5, "tools": 0, "sessions": 1}


async def test_rows_of_a_table_come_latest_first_and_page(plant: Plant) -> None:
    """Every row once, by bucket and then by key; what had no events is not there."""
    for name in ("shop", "site", "tools"):
        plant.usage(NOON, {"user_prompt": 3}, "project", name)
    since = {"since": str(NOON * 1000), "limit": "2"}
    found: list[tuple[str, str]] = []
    cursor: dict[str, str] = {}
    while True:
        body = await plant.get("/tables/usage", shapes.TableRows, **since, **cursor)
        found += [(row["bucket"][11:13], row["value"]) for row in body["items"]]
        if body["next"] is None:
            break
        cursor = {"cursor": body["next"]}
    assert found == [("14", ""), ("12", "tools"), ("12", "site"), ("12", "shop"), ("12", "")]
    body = await plant.get("/tables/usage", shapes.TableRows, dimension="project", **since)
    assert body["items"][0] | {"events": 3, "prompts": 3, "types": {"user_prompt": 3}} == body["items"][0]


async def test_tools_and_sessions_are_tables_too(plant: Plant) -> None:
    """A tool with its percentiles; a session with all that is known of it."""
    plant.figures.put(0, ("tools", "hour", NOON, "all", "", "Bash"), ToolUse(calls=2, failures=1, durations={80: 2}))
    last = (NOON + 60) * 1_000_000
    use = SessionUse(first=NOON * 1_000_000, last=last, events={"user_prompt": 2}, tools={"Edit": [3, 1]}, files={"a"})
    plant.figures.put(0, ("session", "s-1"), use)
    plant.figures.put(0, ("session", "old"), SessionUse(first=1, last=2))
    (tool,) = (await plant.get("/tables/tools", shapes.TableRows))["items"]
    assert (tool["name"], tool["calls"], tool["failures"], tool["p50_ms"] is not None) == ("Bash", 2, 1, True)
    (session,) = (await plant.get("/tables/sessions", shapes.TableRows))["items"]
    assert (session["session_id"], session["events"], session["files"]) == ("s-1", 2, ["a"])
    assert session["tools"] == [{"name": "Edit", "calls": 3, "failures": 1}]
    assert (await plant.refused("/tables/nothing"))["status"] == 404
