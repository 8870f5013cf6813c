"""The tables of docs/reliability.md, made of the reports of drills: runs, promises, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from chaos.faults.postgres_away import GONE_S
from chaos.faults.processes import WorkerKill
from chaos.invariants_running import RSS_LIMIT
from chaos.model import Expected

#: What `report.json` holds (`chaos.report.Report.as_json`), and one of its faults.
Report = Mapping[str, Any]
Row = Mapping[str, Any]
#: From the moment Postgres takes connections; the limit of the fault adds the longest wait for a probe.
SYNC_S: Final = 10.0
#: Postgres is away and says so; Postgres is there and does not answer.
REFUSES: Final = (
    "postgres-stop",
    "postgres-cut",
    "postgres-read-only",
    "postgres-no-connections",
    "postgres-wrong-password",
    "postgres-no-database",
    "postgres-missing-column",
)
SILENT: Final = ("postgres-pause", "postgres-blackhole", "postgres-locked", "postgres-disk-full")
UNMEASURED: Final = "not measured"


def markdown(reports: Sequence[Report]) -> str:
    """The three tables, a blank line between them. Where several reports measured the same, the worst of them.

    Raises KeyError or TypeError for what is no report.
    """
    return "\n\n".join("\n".join(table) for table in (runs(reports), promises(reports), faults(reports))) + "\n"


def runs(reports: Iterable[Report]) -> list[str]:
    """A line for each report."""
    names = (
        "run, commit",
        "acked",
        "lost",
        "duplicated",
        "phantom",
        "faults, hits",
        "invariants",
        "planted bugs caught",
        "min",
    )
    return _table(names, [_run(report) for report in reports])


def _run(report: Report) -> list[str]:
    done = _done([report])
    return [
        ", ".join(filter(None, (report["date"][:10], f"seed {report['seed']}", report.get("commit")))),
        f"{report['acked']:,}",
        *(str(report[name]) for name in ("lost", "duplicated", "phantom")),
        f"{len({fault['name'] for fault in done})}, {sum(fault['hits'] for fault in done)}",
        _invariants(report),
        f"{report['seeded_bugs_caught']} of {len(report['seeded_bugs'])}",
        f"{report['seconds'] / 60:.0f}",
    ]


def _invariants(report: Report) -> str:
    """Those that were not judged hold nothing, and are named; a report of before that was told counts them in."""
    open_, found = report.get("not_judged", {}), report["invariants"]
    holding = sum(bool(ok) for name, ok in found.items() if name not in open_)
    said = f"{holding} of {len(found)} hold"
    return f"{said}; not judged: {', '.join(open_)}" if open_ else said


def promises(reports: Sequence[Report]) -> list[str]:
    """What was promised for a time, and the worst that was measured."""
    kill, expected = (WorkerKill.name,), WorkerKill.expected
    took = "first_sqlite_commit"
    refuses, silent = (_worst(reports, lambda fault: fault["times"].get(took), names) for names in (REFUSES, SILENT))
    sync = _worst(reports, lambda fault: fault["times"].get("sync_start"))
    away = [fault["name"] for fault in _done(reports) if fault["name"].startswith("kafka-")]
    slowest = _worst(reports, lambda fault: _cost(fault, "slowest_s"), away)
    lines = [
        (
            "a worker killed: ready again; nothing waiting",
            f"{expected.ready_s:g} s; {expected.lag_zero_s:g} s",
            "; ".join(_seconds(_worst(reports, _of(name), kill)) for name in ("ready_s", "lag_zero_s")),
        ),
        (
            "Postgres gone: first commit into SQLite",
            f"{GONE_S:g} s",
            f"{_seconds(refuses)} when it refuses, {_seconds(silent)} when it is silent, locked or full",
        ),
        ("Postgres back: sync-back begins", f"{SYNC_S:g} s", _seconds(sync)),
        ("a request while Kafka is away", f"{Expected().answered_s:g} s", _seconds(slowest)),
        ("memory of a process", f"{RSS_LIMIT >> 20} MB", _or_unmeasured(_worst(reports, _of("rss_peak_mb")), 0, " MB")),
    ]
    return _table(("what", "limit", "worst"), lines)


def faults(reports: Sequence[Report]) -> list[str]:
    """A line for each fault that was done, in the order of the reports."""
    names = ("fault", "hits", "refused s", "ack p99 ms", "slowest s", "ready s", "lag 0 s", "MB")
    done = dict.fromkeys(fault["name"] for fault in _done(reports))
    return _table(names, [_fault(reports, name) for name in done])


def _fault(reports: Sequence[Report], name: str) -> list[str]:
    def worst(get: Callable[[Row], float | None]) -> float | None:
        return _worst(reports, get, (name,))

    p99 = worst(lambda fault: _cost(fault, "ack_p99_s"))
    return [
        name,
        str(sum(fault["hits"] for fault in _done(reports) if fault["name"] == name)),
        _number(worst(lambda fault: _cost(fault, "longest_refusal_s"))),
        _number(None if p99 is None else p99 * 1000, 0),
        _number(worst(lambda fault: _cost(fault, "slowest_s"))),
        _number(worst(_of("ready_s"))),
        _number(worst(_of("lag_zero_s"))),
        _number(worst(_of("rss_peak_mb")), 0),
    ]


def _done(reports: Iterable[Report]) -> list[Row]:
    """The faults that were not skipped."""
    return [fault for report in reports for fault in report["faults"] if not fault["skipped"]]


def _of(name: str) -> Callable[[Row], float | None]:
    return lambda fault: fault[name]


def _cost(fault: Row, name: str) -> float | None:
    cost = fault["cost"]
    found: float | None = None if cost is None else cost[name]
    return found


def _worst(
    reports: Iterable[Report], get: Callable[[Row], float | None], names: Iterable[str] | None = None
) -> float | None:
    """The largest of what was measured at these faults (None: at any); None when nothing was."""
    wanted = None if names is None else set(names)
    values = [get(fault) for fault in _done(reports) if wanted is None or fault["name"] in wanted]
    return max((value for value in values if value is not None), default=None)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str:
    return _or_unmeasured(value, 1, " s")


def _or_unmeasured(value: float | None, digits: int, unit: str) -> str:
    return UNMEASURED if value is None else f"{value:.{digits}f}{unit}"


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rows = [names, ["---"] * len(names), *lines]
    return [f"| {' | '.join(row)} |" for row in rows]
