"""The invariants I1 to I17: pure judgement of a ledger, of what was found, and of what is told about the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chaos import invariants_counted as counted
from chaos import invariants_running as running
from chaos import invariants_stored as stored
from chaos.evidence_values import Evidence
from chaos.invariants_compare import Comparison, Context
from chaos.invariants_verdict import Verdict, unjudged, verdict
from chaos.ledger_sum import Summary
from chaos.model import Outcome

__all__ = ["Comparison", "Context", "Counts", "Examination", "Verdict", "check", "examine"]

OUTSIDE = "outside"


@dataclass(frozen=True)
class Counts:
    """Events by fate. `unknown_resolved`: told nothing at first, and either told ok later or found in Postgres.

    The last two attribute by the window in which the first ok came; what was in none is under "outside".
    """

    acked: int
    lost: int
    duplicated: int
    phantom: int
    unknown: int
    unknown_resolved: int
    lost_by_fault: Mapping[str, int] = field(default_factory=dict)
    duplicated_by_fault: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """All verdicts, I1 first, and the counts behind them."""

    verdicts: list[Verdict]
    counts: Counts


def check(ledger: Summary, evidence: Evidence, context: Context) -> list[Verdict]:
    """One verdict for each invariant, in order."""
    return examine(ledger, evidence, context).verdicts


def examine(ledger: Summary, evidence: Evidence, context: Context) -> Examination:
    """The same with the counts."""
    comparison = Comparison(ledger, evidence, context)
    counts = _counts(ledger, comparison, context)
    on_stored: tuple[Callable[[Summary, Evidence, Context, Comparison], Verdict], ...] = (
        stored.no_loss,
        stored.no_duplicate,
        stored.no_phantom,
        stored.integrity,
        stored.one_home,
        stored.order,
        stored.sessions,
        stored.progress,
        stored.counters,
    )
    verdicts = [judge(ledger, evidence, context, comparison) for judge in on_stored]
    verdicts += [
        running.availability(ledger, context),
        running.resources(evidence, context),
        running.logs(context),
        stored.ranges(ledger, evidence, context, comparison),
        _state(context),
        _vacuity(counts, context),
        _self_test(context),
        counted.recount(evidence, context),
    ]
    return Examination(verdicts, counts)


def _counts(ledger: Summary, comparison: Comparison, context: Context) -> Counts:
    acked = unknown = resolved = 0
    for slot in range(len(ledger)):
        entry = ledger.entry(slot)
        if entry.bad:
            continue
        acked += entry.outcome is Outcome.OK
        unknown += entry.was_unknown
        resolved += entry.was_unknown and (entry.outcome is Outcome.OK or comparison.stored(slot))
    doubled = [slot for _, slot in comparison.duplicated if slot is not None]
    return Counts(
        acked=acked,
        lost=len(comparison.lost),
        duplicated=len(comparison.duplicated),
        phantom=len(comparison.phantoms),
        unknown=unknown,
        unknown_resolved=resolved,
        lost_by_fault=_by_fault(ledger, comparison.lost, context),
        duplicated_by_fault=_by_fault(ledger, doubled, context),
    )


def _by_fault(ledger: Summary, slots: list[int], context: Context) -> dict[str, int]:
    found: Counter[str] = Counter()
    for slot in slots:
        at = ledger.entry(slot).ok_at
        windows = context.during(at, at)
        found[windows[0].fault if windows else OUTSIDE] += 1
    return dict(found)


def _state(context: Context) -> Verdict:
    """I14: what is restored is what lived."""
    if not context.restored:
        return unjudged("I14", "not judged here: no fault destroyed state")
    said = [sentence for found in context.restored.values() for sentence in found]
    names = ", ".join(context.restored)
    return verdict("I14", f"what {names} destroyed was restored", "state was not restored as it was", said)


def _vacuity(counts: Counts, context: Context) -> Verdict:
    """I15: a run that did nothing proves nothing."""
    said = []
    if counts.acked < context.least_acked:
        said.append(f"{counts.acked} events acked, fewer than {context.least_acked}")
    if context.mid_batch_hits is None:
        said.append("nobody told how many faults hit a batch under way")
    elif context.mid_batch_hits < context.least_hits:
        said.append(f"{context.mid_batch_hits} faults hit a batch under way, fewer than {context.least_hits}")
    return verdict("I15", f"{counts.acked} acked, {context.mid_batch_hits} hits", "the run proves too little", said)


def _self_test(context: Context) -> Verdict:
    """I16: every planted bug was caught."""
    if context.self_test is None:
        return unjudged("I16", "not judged here: no bugs were planted in this run")
    missed = sorted(name for name, caught in context.self_test.items() if not caught)
    return verdict("I16", f"{len(context.self_test)} planted bugs caught", "planted bugs were not caught", missed)
