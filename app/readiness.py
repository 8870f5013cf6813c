"""When is this process ready? Rules over values; `app/views/ops.py` brings the values and remembers.

Red until broker, topics, dedup tables and a sink have proved themselves once. From then on the question a load balancer
asks is "may I send events here?", and the answer is yes while an accepted event is safe: on the log, or in the spool.
So a failover, an absent stream worker or a broker that is away with a working spool are 200 `degraded`, named in
`checks`. 503 `down` is a spool that can take no more, and an installation in which no worker has a database left to
write to: events would still be safe in the log, but only pile up there, and somebody must be told.
`strict` asks the other question: is everything in order?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

State = Literal["ready", "degraded", "starting", "down"]

#: A status makes its way through the broker every second; this many seconds without one is no proof any more.
PROOF_AGE_S = 10.0

#: A spool with less room than this counts as full: the next large event would be refused.
SPOOL_RESERVE = 1 << 20

#: What `up` starts, too: with fewer roles the figures would stand still.
START_WORKER = "Start `chronicle worker --roles dedupe,persist,aggregate,history`."

#: What must have been proved once before the first "ready".
REQUIRED = ("broker", "topics", "dedupe", "sink")


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. `remedy` is empty when nothing is to be done."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `partitions`: how many the ingest topic must have; `found`: how many answered, None for no answer.

    `intake` is `Intake.state()`, `statuses` is `StatusBoard.statuses()`. `spool_limit`: the spool's size in bytes.
    `log` is one sentence when the log is not the one it was; `log_missing`: the broker answers without our topics.
    """

    now: float
    round_trip_at: float | None
    partitions: int
    found: int | None
    intake: Mapping[str, Any]
    statuses: Mapping[str, Mapping[str, Any]]
    spool_limit: int | None = None
    log: str = ""
    log_missing: bool = False


class Readiness(msgspec.Struct, frozen=True):
    """The answer of /ready. `checks` has all of them, in walking order."""

    status: State
    checks: tuple[Check, ...]

    def http_status(self, *, strict: bool = False) -> int:
        """200 when events may be sent here; with `strict` only when nothing is wrong."""
        good = ("ready",) if strict else ("ready", "degraded")
        return 200 if self.status in good else 503


def judge(seen: Observed, proven: frozenset[str]) -> Readiness:
    """`proven` are the names of the checks that have passed at least once since this process started."""
    checks = look(seen)
    passed = {check.name for check in checks if check.ok}
    if not passed.union(proven).issuperset(REQUIRED):
        return Readiness("starting", checks)
    if "intake" not in passed or _sinkless(seen):
        return Readiness("down", checks)
    return Readiness("ready" if len(passed) == len(checks) else "degraded", checks)


def look(seen: Observed) -> tuple[Check, ...]:
    """All checks in walking order; of the aggregates only where a worker keeps them."""
    kept = [status["aggregate"] for status in seen.statuses.values() if status.get("aggregate")]
    found = (_broker(seen), _topics(seen), _intake(seen), _dedupe(seen), _sink(seen), _database(seen))
    return (*found, _aggregates(kept, seen.partitions)) if kept else found


def _broker(seen: Observed) -> Check:
    remedy = "Start the broker or check its address; accepted events wait in the spool meanwhile."
    if seen.round_trip_at is None:
        return Check("broker", False, "Nothing has come back through the broker yet.", remedy)
    age = max(0.0, seen.now - seen.round_trip_at)
    detail = f"Our own status came back through the broker {age:.1f} s ago."
    return Check("broker", True, detail) if age <= PROOF_AGE_S else Check("broker", False, detail, remedy)


def _topics(seen: Observed) -> Check:
    if seen.log_missing:
        return Check("topics", False, "The broker has lost our topics.", "Wait; they are made again.")
    if seen.found is None:
        return Check("topics", False, "The broker did not tell its topics.", "See the check `broker`.")
    detail = f"The ingest topic has {seen.found} of {seen.partitions} partitions."
    if seen.log:
        detail = f"{detail} {seen.log}"
    ok = seen.found >= seen.partitions
    return Check("topics", ok, detail, "" if ok else "Create the topics: a stream worker does it when it starts.")


def _intake(seen: Observed) -> Check:
    state = seen.intake
    mode, pending = state.get("mode", "log"), int(state.get("pending", 0))
    if state.get("full") or _full(seen):
        detail = f"The spool is full with {pending} records; new events are refused."
        return Check("intake", False, detail, "Bring the broker back or give the spool more room.")
    if mode == "spool":
        return Check("intake", True, f"Accepted events go to the local spool; {pending} wait for the broker.")
    return Check("intake", True, "Accepted events go to the log.")


def _full(seen: Observed) -> bool:
    room = None if seen.spool_limit is None else seen.spool_limit - int(seen.intake.get("bytes") or 0)
    return room is not None and room < SPOOL_RESERVE


def _dedupe(seen: Observed) -> Check:
    parts = [status["dedupe"] for status in seen.statuses.values() if status.get("dedupe")]
    missing = _missing(parts, seen.partitions)
    if not parts:
        return Check("dedupe", False, "No dedupe worker reports.", START_WORKER)
    if not all(part.get("recovered") for part in parts):
        return Check("dedupe", False, "A dedup table is being restored.", "Wait; it is read back from its changelog.")
    if missing:
        return Check("dedupe", False, f"Nobody holds partition {_list(missing)} yet.", "Wait for the rebalance.")
    return Check("dedupe", True, f"The dedup tables of all {seen.partitions} partitions are restored.")


def _sink(seen: Observed) -> Check:
    parts = [status["persist"] for status in seen.statuses.values() if status.get("persist")]
    missing = _missing(parts, seen.partitions)
    if not parts:
        return Check("sink", False, "No persist worker reports.", START_WORKER)
    if held := _held(parts):
        why = next((str(part["last_error"]) for part in held if part.get("last_error")), "no write has succeeded yet")
        return Check("sink", False, f"A worker has no sink: {why}", "Bring Postgres back; events wait in the log.")
    if missing:
        return Check("sink", False, f"Nobody holds partition {_list(missing)} yet.", "Wait for the rebalance.")
    return Check("sink", True, "Every persist worker has written to a sink.")


def _held(parts: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [part for part in parts if not part.get("proven") or part.get("sink") in (None, "none")]


def _sinkless(seen: Observed) -> bool:
    parts = [status["persist"] for status in seen.statuses.values() if status.get("persist")]
    return bool(parts) and len(_held(parts)) == len(parts)


def _database(seen: Observed) -> Check:
    parts = [status["persist"] for status in seen.statuses.values() if status.get("persist")]
    away = [part for part in parts if part.get("sink") != "postgres" or part.get("breaker", "closed") != "closed"]
    waiting = max((int(part.get("sqlite_pending") or 0) for part in parts), default=0)
    if not parts:
        return Check("database", False, "No persist worker reports, so nobody writes to Postgres.", "See `sink`.")
    if away:
        detail = f"Postgres is away; events go to SQLite and {waiting} wait there."
        return Check("database", False, detail, "Start Postgres: the events are brought back by themselves.")
    if gone := _ranges(parts, "gone"):
        detail = f"Events were only in a SQLite file that is lost, and the log no longer has them: {gone}."
        return Check("database", False, detail, "Read docs/operate.md, SQLite.")
    if lost := _ranges(parts, "lost"):
        return Check("database", False, f"A SQLite file is lost; read again from the log: {lost}.", "Wait.")
    if waiting:
        return Check("database", False, f"Postgres is back; {waiting} events are being brought back.", "Wait.")
    return Check("database", True, "Events go to Postgres.")


def _aggregates(parts: list[Mapping[str, Any]], partitions: int) -> Check:
    if not all(part.get("recovered") for part in parts):
        return Check("aggregates", False, "An aggregate table is being restored.", "Wait; figures lag meanwhile.")
    if missing := _missing(parts, partitions):
        return Check("aggregates", False, f"Nobody counts partition {_list(missing)} yet.", "Wait for the rebalance.")
    return Check("aggregates", True, f"The aggregate tables of all {partitions} partitions are counted.")


def _ranges(parts: list[Mapping[str, Any]], kind: str) -> str:
    """The ranges of `chronicle.events` that the workers call `lost` or `gone`, each once."""
    found = {
        f"partition {one['partition']}, offsets {one['start']} to {one['end'] - 1}"
        for part in parts
        for one in (part.get("ranges") or {}).get(kind) or ()
    }
    return "; ".join(sorted(found))


def _missing(parts: list[Mapping[str, Any]], partitions: int) -> list[int]:
    held = {int(partition) for part in parts for partition in part.get("partitions") or {}}
    return [partition for partition in range(partitions) if partition not in held]


def _list(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
