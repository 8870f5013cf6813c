"""I17: the aggregate tables are what the stored events make of them, counted again by `chronicle aggregates verify`.

Live, every event in `chronicle.events` counts. Those that Postgres then refuses, conflicts, and what only the primary
key finds to be a repeat are counted and not stored, so the live tables may be ahead of a recount by exactly these: in
their partition, under their session, and by no more than there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chaos.evidence_values import Evidence, Recounted, Store
from chaos.invariants_compare import Context
from chaos.invariants_verdict import Verdict, unjudged, verdict

#: Exit codes of the command: equal, different.
COMPARED = (0, 1)
#: Dead letters of the public stream that were counted: what cannot be decoded is not.
COUNTED_CAUSES = frozenset(("conflict", "refused_by_database"))


def recount(evidence: Evidence, context: Context) -> Verdict:
    """I17: the aggregate tables equal a recount of the stored events."""
    found = evidence.recounted
    if found is None:
        return unjudged("I17", "not judged here: nobody counted again")
    if not context.log_whole:
        why = "not judged, because Kafka lost its log: the tables began anew, Postgres has both logs"
        return unjudged("I17", f"{why} ({found.said or 'no word of the command'})")
    if not context.counts_whole:
        return unjudged("I17", "not judged, because the dedup table was lost: what came again was counted again")
    if found.code not in COMPARED or not found.report:
        said = [f"`chronicle aggregates verify` ended with {found.code}: {found.said or 'without a word'}"]
        return verdict("I17", "", "the tables could not be compared", said)
    extra = Extra(evidence.postgres)
    said = [*_coverage(found, len(evidence.postgres.rows)), *_differences(found, extra)]
    return verdict("I17", _holds(found), "the aggregate tables are not what the stored events make of them", said)


class Extra:
    """Events that were counted and are not stored, by partition of `chronicle.events` and by session."""

    def __init__(self, store: Store) -> None:
        letters = [
            (letter.partition, letter.session)
            for letter in store.letters
            if letter.topic.endswith(".events") and letter.cause in COUNTED_CAUSES
        ]
        self._sessions = Counter([*letters, *store.repeats])
        self._partitions = Counter(partition for partition, _ in self._sessions.elements())

    def of(self, partition: int, session: str | None = None) -> int:
        """In a partition, or in one session of it."""
        return self._partitions[partition] if session is None else self._sessions[partition, session]


def _holds(found: Recounted) -> str:
    keys, events = (_sum(found, name) for name in ("keys", "events"))
    apart = _sum(found, "differences")
    rest = f"; {apart} of them count dead letters and repeats as well" if apart else ""
    return f"{keys} keys are what {events} stored events make of them{rest}"


def _sum(found: Recounted, name: str) -> int:
    return sum(int(part.get(name) or 0) for part in found.report.get("partitions") or ())


def _coverage(found: Recounted, rows: int) -> Iterator[str]:
    """What was left out makes no verdict."""
    for part in found.report.get("partitions") or ():
        if part.get("ahead"):
            number, counted, stored = (part.get(name) for name in ("partition", "counted", "stored"))
            yield f"partition {number}: {part['ahead']} keys count up to {counted}, stored is up to {stored}"
    events = _sum(found, "events")
    if events != rows:
        yield f"{events} events were counted again, Postgres has {rows}"
    if found.report.get("more"):
        yield f"{found.report['more']} more differences were not told one by one"


def _differences(found: Recounted, extra: Extra) -> Iterator[str]:
    days: Counter[int] = Counter()
    for one in found.report.get("differences") or ():
        partition, key = one["partition"], one["key"]
        live, counted = one.get("live") or {}, one.get("recounted") or {}
        if not explained(key, live, counted, extra.of(partition, key[1] if key[0] == "session" else None)):
            yield f"partition {partition}: {key} is {_short(one.get('live'))}, counted again {_short(one['recounted'])}"
        elif key[:2] == ["usage", "day"] and key[3] == "all":  # an event is in one of these
            days[partition] += _total(live) - _total(counted)
    for partition, more in days.items():
        if more > extra.of(partition):
            yield f"partition {partition}: {more} events too many, {extra.of(partition)} were counted and not stored"


def explained(key: Sequence[Any], live: Mapping[str, Any], counted: Mapping[str, Any], most: int) -> bool:
    """Whether at most so many events more make `live` of `counted`."""
    if not live or not most:
        return False
    if key[0] == "names":
        return _within(dict.fromkeys(live["names"], 1), dict.fromkeys(counted.get("names", ()), 1), most)
    if key[0] == "tools":
        return all(0 <= live[name] - counted.get(name, 0) <= most for name in ("calls", "failures"))
    seen = [dict.fromkeys(value.get("sessions", ()), 1) for value in (live, counted)]
    whole = bool(live.get("more")) or _within(seen[0], seen[1], most)
    return whole and _within(live["events"], counted.get("events", {}), most)


def _within(live: Mapping[Any, int], counted: Mapping[Any, int], most: int) -> bool:
    """Nothing is lacking, and in all there are at most so many more."""
    more = [live.get(name, 0) - counted.get(name, 0) for name in {*live, *counted}]
    return min(more, default=0) >= 0 and sum(more) <= most


def _total(value: Mapping[str, Any]) -> int:
    return sum(value.get("events", {}).values())


def _short(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "not there"
    named = {name: value[name] for name in ("calls", "failures", "at") if name in value}
    events = {"events": _total(value)} if "events" in value else {}
    return " ".join(f"{name} {number}" for name, number in {**events, **named}.items()) or "there"
