"""I1 to I9 and I13: what is stored, where it stands in the log, and whether the counts agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chaos.evidence_values import READS, Evidence
from chaos.invariants_compare import Comparison, Context
from chaos.invariants_verdict import Verdict, unjudged, verdict
from chaos.ledger_sum import Summary, key_of, text_of
from chaos.model import Outcome

#: Counters that stand for something that must never happen.
MUST_BE_ZERO = ("chronicle_sync_mismatches_total",)


def no_loss(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I1: what was acked is in Postgres."""
    lost = [f"{ledger.entry(slot).event_id} is nowhere" for slot in found.lost]
    dead = [f"{ledger.entry(slot).event_id} is only a dead letter, though valid" for slot in found.dead]
    return verdict("I1", "every acked event is stored", "acked events are not stored", lost + dead)


def no_duplicate(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I2: every event has one row, and the key that keeps it so is whole."""
    said = [text for text, _ in found.duplicated]
    keys = [index for index in evidence.postgres.indexes.values() if index.table == "events" and index.unique]
    if not keys:
        said.append("events has no unique index")
    said += [f"index {name} is not valid" for name, index in evidence.postgres.indexes.items() if not index.valid]
    return verdict("I2", "every event has one row", "duplicates, or nothing that prevents them", said)


def no_phantom(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I3: nothing is stored that was not sent, and nothing that was refused or bad."""
    accepted = (ledger.entry(slot) for slot in range(len(ledger)) if ledger.bad(slot))
    bad = [f"{entry.event_id} was bad and accepted" for entry in accepted if entry.outcome is Outcome.OK]
    return verdict("I3", "nothing is stored that was not sent", "phantoms", found.phantoms + bad)


def integrity(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I4: what is stored is what was sent."""
    return verdict("I4", "every payload is the one sent", "rows differ from what was sent", found.changed)


def one_home(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I5: an event is stored or set aside, not both; every letter in the topic is in the table.

    A conflict's letter holds another payload than the row: it is well only where the ledger sent two.
    """
    said = list(_homes(ledger, evidence, found))
    table = {letter.place for letter in evidence.postgres.letters}
    missing = [letter.place for letter in evidence.log.letters if letter.place not in table]
    said += [f"dead letter {'/'.join(map(str, place))} is in the topic, not in the table" for place in missing]
    return verdict("I5", "every event has one home", "events with two homes, or letters with half a one", said)


def _homes(ledger: Summary, evidence: Evidence, found: Comparison) -> Iterator[str]:
    for letter in evidence.postgres.letters:
        slot = ledger.slots.get(key_of(letter.event_id)) if letter.event_id else None
        if slot is None or letter.resolved:
            continue
        if letter.cause == "conflict":
            if not ledger.entry(slot).conflicting:
                yield f"{letter.event_id} is a conflict, but was always sent with the same payload"
        elif found.stored(slot):
            yield f"{letter.event_id} is stored and an open dead letter ({letter.cause})"


def order(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I6: the events of a session stand in the log in the order in which they were sent."""
    if not context.log_whole:
        return unjudged("I6", "there was more than one log")
    said = []
    slots = [slot for slot in range(len(ledger)) if found.stored(slot) and ledger.rank(slot) is Outcome.OK]
    last = -1
    for slot in sorted(slots, key=ledger.lane):
        if last >= 0 and ledger.lane(last)[:2] == ledger.lane(slot)[:2]:
            before, here = _place(found, last), _place(found, slot)
            if before[0] != here[0] or before[1] >= here[1]:
                first, second = ledger.entry(last), ledger.entry(slot)
                said.append(f"{second.event_id} at {here} was sent after {first.event_id} at {before}")
        last = slot
    return verdict("I6", "sessions are in order", "events stand in the log out of order", said)


def _place(found: Comparison, slot: int) -> tuple[int, int]:
    return found.partition[slot], found.offset[slot]


def sessions(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I7: the roll-up is what the events give."""
    return verdict("I7", "every session adds up", "sessions do not add up", evidence.postgres.wrong_sessions)


def progress(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I8: everything is worked off, the durable progress is not behind the commits, and the sum is right."""
    said = list(_sum(ledger, evidence, context))
    if context.log_whole:
        said += _behind(evidence)
    return verdict("I8", "all is worked off and adds up", "progress or sum is wrong", said)


def _behind(evidence: Evidence) -> Iterator[str]:
    log, durable = evidence.log, evidence.postgres.progress
    for role, topic in READS.items():
        for partition, end in log.ends.get(topic, {}).items():
            at = log.committed.get(role, {}).get(partition, 0)
            if at != end:
                yield f"{role} committed {at} of {end} in partition {partition} of {topic}"
    for partition, at in log.committed.get("persist", {}).items():
        if durable.get(partition, (0, 0))[0] < at:
            yield f"partition {partition}: {at} committed, only {durable.get(partition, (0, 0))[0]} durable in Postgres"


def _sum(ledger: Summary, evidence: Evidence, context: Context) -> Iterator[str]:
    told = numbers(evidence.stats.get("ledger"))
    if not told:
        yield "/stats tells no ledger"
        return
    parts = sum(told.get(name, 0) for name in ("stored", "duplicates", "rejected", "dead", "pending"))
    if context.counts_whole and (told.get("accepted") != parts or told.get("difference")):
        yield f"accepted {told.get('accepted')} is not the sum of the parts {parts}: {evidence.stats}"
    if told.get("pending"):
        yield f"{told['pending']} are still pending"
    if told.get("stored") != len(evidence.postgres.rows):
        yield f"/stats counts {told.get('stored')} stored, Postgres has {len(evidence.postgres.rows)} rows"
    acked = ledger.tries[Outcome.OK]
    if context.log_whole and told.get("accepted", 0) < acked:
        yield f"{acked} were acked, the log and the spool took only {told.get('accepted')}"


def numbers(value: Any) -> dict[str, int]:
    """The whole numbers of a JSON object; {} for anything else."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): number for name, number in value.items() if isinstance(number, int)}


def counters(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I9: what must not happen was counted 0 times, and every repeat was counted."""
    said = [
        f"{name} is {value:g}"
        for name, value in evidence.metrics.items()
        if value and name.partition("{")[0] in MUST_BE_ZERO
    ]
    if evidence.postgres.unverified_syncs:
        said.append(f"{evidence.postgres.unverified_syncs} sync runs were not verified")
    parts = evidence.stats.get("parts")
    dead = numbers(parts.get("dead")) if isinstance(parts, Mapping) else {}
    if dead.get("spool"):
        said.append(f"the spool set {dead['spool']} records aside")
    duplicates = numbers(evidence.stats.get("ledger")).get("duplicates", 0)
    if context.log_whole and context.counts_whole and duplicates < ledger.ok_repeats:
        said.append(f"{ledger.ok_repeats} repeats were acked, only {duplicates} duplicates counted")
    return verdict("I9", "nothing was dropped unseen", "counters are wrong", said)


def ranges(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Verdict:
    """I13: SQLite owes nothing, and what the public stream holds is in Postgres without a hole."""
    local, said = evidence.sqlite, []
    if local.trouble:
        said.append(f"SQLite cannot be read: {local.trouble}")
    if context.resting:
        said += [f"{local.count} events wait in SQLite"] if local.count else []
        said += [
            f"offsets {start} to {end} of partition {number} wait in SQLite" for number, start, end in local.ranges
        ]
        said += [f"{local.letters} dead letters wait in SQLite"] if local.letters else []
        said += list(_holes(ledger, evidence, context, found))
    return verdict("I13", "nothing waits and nothing is left out", "ranges are open", said)


def _holes(ledger: Summary, evidence: Evidence, context: Context, found: Comparison) -> Iterator[str]:
    if context.log_whole:
        for partition, end in evidence.log.ends.get("events", {}).items():
            at = evidence.postgres.progress.get(partition, (0, 0))[0]
            if at < end:
                yield f"partition {partition} is durable up to {at} of {end}"
    aside = {key_of(letter.event_id) for letter in evidence.postgres.letters if letter.event_id}
    # Records that are no event of their own, a second payload under a known id for one, are known by their place.
    places = {(one.partition, one.offset) for one in evidence.postgres.letters if one.topic.endswith(".events")}
    for row in evidence.log.passed:
        if (row.ingest_partition, row.events_offset) in places:
            continue
        slot = ledger.slots.get(row.key)
        there = row.key in found.others if slot is None else found.stored(slot)
        if not there and row.key not in aside:
            yield f"{text_of(row.key)} at {row.ingest_partition}/{row.events_offset} of the stream is not stored"
