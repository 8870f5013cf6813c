"""What the stream counts: usage over time, tools, projects, and the aggregate tables themselves. No database is asked.

The figures are those of `chronicle.aggregates`, which every API process holds; they answer while both databases are
away. Which grain answers follows from the time asked for, unless it is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp.web import Request, Response

from app.views import respond
from app.views import shapes_analytics as shapes
from app.views.params import SINCE, UNTIL, Query, path_text, refuse
from app.views.route import Param, Route
from connectors.readers.shape import iso
from schemas.clock import Clock
from schemas.errors import Refused, Unavailable
from schemas.facts import PROMPT
from tables.usage import GRAINS, SECOND
from tables.usage_view import MAX_POINTS, Figures, Point, ToolRow, buckets

METRICS: Final = ("events", "sessions", "prompts")
GROUPS: Final = ("none", "type", "project", "machine", "agent")
DIMENSIONS: Final = ("project", "machine", "agent")
#: Projects, machines or sub-agents that have a series; the others are one number. Types are few and have one each.
MAX_SERIES: Final = 20
#: Seconds asked for when nothing is said.
DAY_S: Final = 86_400

_METRIC = Param(name="metric", schema={"type": "string", "enum": list(METRICS), "default": "events"}, doc="What.")
_GROUP = Param(name="group_by", schema={"type": "string", "enum": list(GROUPS), "default": "none"}, doc="By what.")
INTERVAL = Param(
    name="interval",
    schema={"type": "string", "enum": list(GRAINS)},
    doc=f"Length of a bucket; without it the shortest that is kept and gives at most {MAX_POINTS} points.",
)
_PROJECT = Param(name="project", doc="Only of this project.")
_TOOL = Param(name="name", where="path", required=True, schema={"type": "string", "maxLength": 255})
_USAGE = (_METRIC, _GROUP, INTERVAL, _PROJECT, SINCE, UNTIL)
_TOOLS = (INTERVAL, _PROJECT, SINCE, UNTIL)
_DIMENSION = Param(name="dimension", where="path", required=True, schema={"type": "string", "enum": list(DIMENSIONS)})


class Span:
    """The buckets that a request asks for: `grain`, and epoch seconds [since, until) cut to whole buckets.

    `grain` is the one to take where none is named; None: the shortest that is kept and gives no more points than fit.
    """

    def __init__(self, query: Query, now: float, grain: str | None = None) -> None:
        since, until = query.between()
        self.until = int(now) + 1 if until is None else until // SECOND
        self.since = self.until - DAY_S if since is None else since // SECOND
        if self.since > self.until:
            refuse("since", "since lies in the future.")
        self.grain = query.choice("interval", tuple(GRAINS)) or grain or self._grain(now)
        size, kept = GRAINS[self.grain]
        if self.since < now - kept - size:
            refuse("since", f"A {self.grain} is kept for {_days(kept)}: ask for a later time or a longer interval.")
        self.since -= self.since % size
        self.until += -self.until % size
        if (self.until - self.since) // size > MAX_POINTS:
            refuse("since", f"More than {MAX_POINTS} points: ask for a shorter time or a longer interval.")

    def _grain(self, now: float) -> str:
        for grain, (size, kept) in GRAINS.items():
            if self.since >= now - kept and (self.until - self.since) / size < MAX_POINTS - 1:
                return grain
        return "day"

    @property
    def asked(self) -> tuple[str, int, int]:
        """As the methods of `Figures` take it."""
        return self.grain, self.since, self.until

    def told(self) -> dict[str, Any]:
        """The part of an answer that says what it is about."""
        return {"interval": self.grain, "since": _instant(self.since), "until": _instant(self.until)}


class AnalyticsViews:
    """The handlers. `ready` says whether all that was in the topic has been read."""

    def __init__(self, figures: Figures, ready: Callable[[], bool], clock: Clock) -> None:
        self._figures, self._ready, self._clock = figures, ready, clock

    async def usage(self, request: Request) -> Response:
        query = Query(request, _USAGE)
        span, figures = self._span(query), self._current()
        metric = query.choice("metric", METRICS) or "events"
        group = query.choice("group_by", GROUPS) or "none"
        project = query.text("project")
        if project is not None and group in DIMENSIONS:
            refuse("group_by", f"With project, group_by is one of none, type; not {group}.")
        if group in DIMENSIONS:  # hundreds of names with a thousand buckets each
            series, others = await asyncio.to_thread(_by_value, figures, span, group, metric)
        else:
            subject = ("all", "") if project is None else ("project", project)
            points = figures.series(*span.asked, *subject)
            series, others = _by_type(points, metric) if group == "type" else [_all_of(points, metric)], 0
        times = [_instant(bucket) for bucket in buckets(*span.asked)]
        body = {"metric": metric, "group_by": group, **span.told(), "buckets": times}
        return self._answer({**body, "series": series, "others": others})

    async def tools(self, request: Request) -> Response:
        query = Query(request, _TOOLS)
        span, subject = self._span(query), _subject(query)
        rows = self._current().tools(*span.asked, *subject)
        return self._answer({**span.told(), "items": [tool_told(row) for row in rows]})

    async def tool(self, request: Request) -> Response:
        name = path_text(request, "name")
        query = Query(request, _TOOLS)
        span, subject = self._span(query), _subject(query)
        figures = self._current()
        total = next((row for row in figures.tools(*span.asked, *subject) if row.tool == name), None)
        if total is None:
            raise Refused(404, "not_found", "No call of a tool with this name ended in the time asked for.")
        points = [
            {"bucket": _instant(bucket), **tool_told(row)}
            for bucket, row in figures.tool_series(name, *span.asked, *subject)
        ]
        return self._answer({**span.told(), **tool_told(total), "points": points})

    async def values(self, request: Request) -> Response:
        dimension = path_text(request, "dimension")
        if dimension not in DIMENSIONS:
            raise Refused(404, "not_found", f"There is no dimension of this name; there are {', '.join(DIMENSIONS)}.")
        return await self._values(request, dimension)

    async def projects(self, request: Request) -> Response:
        return await self._values(request, "project")

    async def _values(self, request: Request, dimension: str) -> Response:
        query = Query(request, (INTERVAL, SINCE, UNTIL))
        span = self._span(query)
        found = await asyncio.to_thread(self._current().values, *span.asked, dimension)
        items = [{"name": name, **totals_told(point)} for name, point in found.items()]
        return self._answer({"dimension": dimension, **span.told(), "items": items})

    def _span(self, query: Query) -> Span:
        return Span(query, self._clock.now())

    def _current(self) -> Figures:
        if not self._ready():
            raise Unavailable("aggregates", "The aggregate tables are still being read from the log.", retry_after=1)
        return self._figures

    def _answer(self, body: dict[str, Any]) -> Response:
        return respond.json(body, headers={respond.SOURCE_HEADER: "stream"})


def pulse(figures: Figures, now: float) -> dict[str, Any]:
    """What is pushed to those who watch: the last minute that is whole, the one that is not, the last hour."""
    minute = int(now) - int(now) % 60
    last, current = figures.series("minute", minute - 60, minute + 60)
    hour = figures.totals("minute", minute - 59 * 60, minute + 60)
    return {
        "at": _instant(int(now)),
        "last_minute": totals_told(last),
        "this_minute": totals_told(current),
        "last_hour": totals_told(hour),
    }


def _subject(query: Query) -> tuple[str, str]:
    project = query.text("project")
    return ("all", "") if project is None else ("project", project)


def _value(point: Point, metric: str) -> int:
    if metric == "sessions":
        return point.sessions
    return point.events.get(PROMPT, 0) if metric == "prompts" else sum(point.events.values())


def _by_type(points: list[Point], metric: str) -> list[dict[str, Any]]:
    if metric != "events":
        refuse("group_by", f"{metric} has no types; group_by type goes with metric events.")
    names = sorted({name for point in points for name in point.events})
    series = [_series(name, [point.events.get(name, 0) for point in points]) for name in names]
    return sorted(series, key=lambda one: (-one["total"], one["name"]))


def _by_value(figures: Figures, span: Span, group: str, metric: str) -> tuple[list[dict[str, Any]], int]:
    """The series of the names with the most, and what the others have together."""
    totals = {name: _value(point, metric) for name, point in figures.values(*span.asked, group).items()}
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    shown, rest = ranked[:MAX_SERIES], ranked[MAX_SERIES:]
    series = [
        _series(name, [_value(point, metric) for point in figures.series(*span.asked, group, name)]) for name in shown
    ]
    return sorted(series, key=lambda one: (-one["total"], one["name"])), sum(totals[name] for name in rest)


def _all_of(points: list[Point], metric: str) -> dict[str, Any]:
    return _series("", [_value(point, metric) for point in points])


def _series(name: str, values: list[int]) -> dict[str, Any]:
    return {"name": name, "values": values, "total": sum(values)}


def totals_told(point: Point) -> dict[str, Any]:
    """What a point counts."""
    return {
        "events": sum(point.events.values()),
        "prompts": point.events.get(PROMPT, 0),
        "sessions": point.sessions,
        "sessions_at_least": point.at_least,
    }


def tool_told(row: ToolRow) -> dict[str, Any]:
    """A tool's row."""
    times = {"p50_ms": row.p50, "p95_ms": row.p95, "p99_ms": row.p99}
    rounded = {name: None if value is None else round(value, 1) for name, value in times.items()}
    return {"name": row.tool, "calls": row.calls, "failures": row.failures, **rounded}


def _days(seconds: int) -> str:
    return f"{seconds // 3600} hours" if seconds < 2 * DAY_S else f"{seconds // DAY_S} days"


def _instant(seconds: int) -> str:
    return str(iso(seconds * SECOND))


def routes(views: AnalyticsViews) -> list[Route]:
    """Everything that the stream counts."""
    starting = ("The aggregate tables are still being read.", None)
    bad = ("A parameter is wrong or unknown; `pointer` names it.", None)

    def get(path: str, handler: Any, summary: str, params: tuple[Param, ...], shape: Any) -> Route:
        answers: dict[int, tuple[str, Any]] = {200: ("Found.", shape), 422: bad, 503: starting}
        if any(param.where == "path" for param in params):
            answers[404] = ("There is none of this name.", None)
        return Route(
            method="GET",
            path=path,
            handler=respond.guarded(handler),
            summary=summary,
            tag="analytics",
            params=params,
            responses=answers,
        )

    values = (INTERVAL, SINCE, UNTIL)
    return [
        get("/analytics/usage", views.usage, "Usage over time", _USAGE, shapes.UsageSeries),
        get("/analytics/values/{dimension}", views.values, "Who was busy", (_DIMENSION, *values), shapes.Values),
        get("/projects", views.projects, "List projects", values, shapes.Values),
        get("/tools", views.tools, "List tools", _TOOLS, shapes.ToolPage),
        get("/tools/{name}", views.tool, "A tool over time", (_TOOL, *_TOOLS), shapes.ToolSeries),
    ]
