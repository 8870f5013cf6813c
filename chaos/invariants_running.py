"""I10 to I12: how the house behaved while it was hurt: answers, resources, logs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

from chaos.evidence_values import Evidence, Sample
from chaos.invariants_compare import Context
from chaos.invariants_verdict import Verdict, unjudged, verdict
from chaos.ledger_sum import Summary
from chaos.model import Expected, Outcome

#: Bytes of memory that no process of ours may take; servers of others are not judged.
RSS_LIMIT = 500 * 1024 * 1024
NOT_OURS = frozenset(("kafka", "postgres"))
#: What a process may gain between the first and the last third of its life: pools fill, files are opened.
MORE_FDS, MORE_THREADS = 100, 20
#: Looks and seconds below which a process has not lived long enough to say that something grows.
LOOKS, LIFE_S = 12, 60.0
#: What all processes of a role may gain in memory during a soak: a factor, and megabytes beside it.
MORE_MEMORY, MORE_MB = 1.2, 30.0


def availability(ledger: Summary, context: Context) -> Verdict:
    """I10: answers come in time, refusals only while something is broken, and what was readable stays so."""
    said = [*_answers(ledger, context), *_refusals(ledger, context)]
    said += [
        f"{entry.event_id} was valid and refused"
        for entry in (ledger.entry(slot) for slot in range(len(ledger)) if ledger.rank(slot) is Outcome.FAIL)
        if not entry.bad
    ]
    if context.reading is not None:
        said += context.reading.violations
    return verdict("I10", "answers came in time", "answers were late, wrong or missing", said)


def _answers(ledger: Summary, context: Context) -> Iterator[str]:
    usual = Expected()
    for request in ledger.requests:
        limits = [
            context.expected(window).answered_s for window in context.during(request.at - request.took, request.at)
        ]
        limit = max(limits, default=usual.answered_s)
        if request.took > limit:
            yield f"a request at {request.at:.3f} took {request.took:.1f} s, more than {limit:g} s"
        if request.status >= 500 and request.status != 503:
            yield f"a request at {request.at:.3f} was answered with {request.status}"
        if request.bad and request.ok:
            yield f"a bad request at {request.at:.3f} was answered with {request.status}"


def _refusals(ledger: Summary, context: Context) -> Iterator[str]:
    for start, end in refused_spans(ledger):
        windows = context.during(start, end)
        if not windows:
            yield f"nobody was served from {start:.3f} for {end - start:.1f} s, outside of any fault"
            continue
        limit = max(context.expected(window).refused_s for window in windows)
        if end - start > limit:
            yield f"{windows[0].fault}: nobody was served for {end - start:.1f} s, more than {limit:g} s"


def refused_spans(ledger: Summary) -> list[tuple[float, float]]:
    """Spans of time (epoch seconds) from a first answer that is none to the next ok of anybody."""
    spans, since, last = [], None, 0.0
    for request in sorted(ledger.requests):
        last = request.at
        served = request.ok or 400 <= request.status < 500
        if not served and since is None:
            since = request.at - request.took
        elif request.ok and since is not None:
            spans.append((since, request.at))
            since = None
    return spans if since is None else [*spans, (since, last)]


def resources(evidence: Evidence, context: Context) -> Verdict:
    """I11: memory is bounded, nothing grows, nobody restarted by himself."""
    if not evidence.samples:
        return unjudged("I11", "no process was looked at")
    lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for look in evidence.samples:
        if look.role not in NOT_OURS:
            lives[look.role, look.pid].append(look)
    said = [sentence for (role, pid), looks in lives.items() for sentence in _of_process(f"{role} {pid}", looks)]
    if context.flat:
        said += _grown(evidence.samples)
    if context.restarts is not None and context.kills is not None and context.restarts > context.kills:
        said.append(f"{context.restarts} restarts, only {context.kills} were meant")
    return verdict("I11", "memory, files and threads are bounded", "resources grow or run out", said)


def _of_process(name: str, looks: list[Sample]) -> Iterator[str]:
    peak = max(look.rss for look in looks)
    if peak > RSS_LIMIT:
        yield f"{name} took {peak / 2**20:.0f} MB"
    looks = sorted(looks, key=lambda look: look.at)
    if len(looks) < LOOKS or looks[-1].at - looks[0].at < LIFE_S:
        return
    third = len(looks) // 3
    for what, more in (("fds", MORE_FDS), ("threads", MORE_THREADS)):
        before = median(getattr(look, what) for look in looks[:third])
        after = median(getattr(look, what) for look in looks[-third:])
        if after > before + more:
            yield f"{name}: {what} grew from {before:g} to {after:g}"


def _grown(samples: Iterable[Sample]) -> Iterator[str]:
    """Memory of all processes of a role together: the last sixth of a soak beside the second one, when it was warm."""
    sums: dict[str, dict[float, int]] = defaultdict(lambda: defaultdict(int))
    for look in samples:
        if look.role not in NOT_OURS:
            sums[look.role][look.at] += look.rss
    for role, looks in sums.items():
        sizes = [looks[at] / 2**20 for at in sorted(looks)]
        sixth = len(sizes) // 6
        if sixth:
            before, after = median(sizes[sixth : 2 * sixth]), median(sizes[-sixth:])
            if after > before * MORE_MEMORY + MORE_MB:
                yield f"{role}: memory grew from {before:.0f} to {after:.0f} MB"


def logs(context: Context) -> Verdict:
    """I12: no log shows a payload."""
    if not context.logs:
        return unjudged("I12", "no log was given")
    said = [
        f"{name}, line {number}: {marker}"
        for name, log in context.logs.items()
        for number, line in _lines(log)
        for marker in context.markers
        if marker in line
    ]
    return verdict("I12", "no log shows a payload", "log lines show a payload", said)


def _lines(log: str | Path) -> Iterator[tuple[int, str]]:
    if isinstance(log, str):
        yield from enumerate(log.splitlines(), 1)
        return
    with log.open(errors="replace") as file:
        yield from enumerate(file, 1)
