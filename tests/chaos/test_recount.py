"""I17: what may differ between the live tables and a recount, what may not, and when nothing can be said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.campaign import open_counts
from chaos.evidence_recount import TRIES, asked_again, environment, left_out, report_of
from chaos.evidence_values import Recounted
from chaos.faults import chosen
from chaos.invariants import Examination, examine
from chaos.invariants_counted import explained
from chaos.ledger_sum import Summary
from drill_world import COUNT, World, letter, recounted

DAY = ["usage", "day", 86_400, "all", ""]


def use(events: int, *sessions: int, more: bool = False) -> dict[str, Any]:
    return {"at": events, "events": {"user_prompt": events}, "sessions": [1, *sessions], "more": more}


def tool(calls: int, failures: int = 0) -> dict[str, Any]:
    return {"at": calls, "calls": calls, "failures": failures, "durations": {}}


def difference(key: list[Any], live: Any, counted: Any, partition: int = 0) -> dict[str, Any]:
    return {"partition": partition, "key": key, "live": live, "recounted": counted}


def refused(world: World, cause: str = "refused_by_database") -> None:
    """An event of a fault in partition 0 was counted, and Postgres would not have it."""
    world.letters = [letter(77, cause)._replace(session="fault-refused")]


def uncounted(world: World) -> None:
    world.committed["aggregate"] = {0: COUNT - 1}


def history_behind(world: World) -> None:
    world.committed["history"] = {}


def counted_twice(world: World) -> None:
    world.recounted = recounted(difference(DAY, use(7), use(6)))


def skipped(world: World) -> None:
    world.recounted = recounted(difference(DAY, use(5), use(6)))


def key_missing(world: World) -> None:
    world.recounted = recounted(difference(["session", "s"], None, use(1)))


def left_out_still(world: World) -> None:
    world.recounted = recounted(ahead=3)


def counted_in_part(world: World) -> None:
    world.recounted = recounted(events=COUNT - 1)


def untold(world: World) -> None:
    world.recounted = recounted()
    world.recounted.report = {**world.recounted.report, "more": 5}


def not_compared(world: World) -> None:
    world.recounted = Recounted(2, said="Cannot compare: the broker is away")


def no_report(world: World) -> None:
    world.recounted = Recounted(0)


@pytest.mark.parametrize(
    ("hurt", "named"),
    [
        (uncounted, {"I8"}),
        (history_behind, {"I8"}),
        (counted_twice, {"I17"}),
        (skipped, {"I17"}),
        (key_missing, {"I17"}),
        (left_out_still, {"I17"}),
        (counted_in_part, {"I17"}),
        (untold, {"I17"}),
        (not_compared, {"I17"}),
        (no_report, {"I17"}),
    ],
)
def test_each_break_of_the_tables_is_named(hurt: Callable[[World], None], named: set[str]) -> None:
    """A group that is not at its end, too: what it has not read is not compared."""
    world = World()
    assert world.broken() == set()
    hurt(world)
    assert world.broken() == named


@pytest.mark.parametrize("cause", ["refused_by_database", "conflict"])
def test_what_was_counted_and_is_a_dead_letter_may_be_too_much(cause: str) -> None:
    """In its partition, under its session; the verdict says how many keys that are."""
    world = World()
    refused(world, cause)
    world.recounted = recounted(
        difference(DAY, use(7, 2), use(6)), difference(["session", "fault-refused"], {"events": {"x": 1}}, None)
    )
    found = world.verdicts()["I17"]
    assert found.ok is True
    assert "2 of them count dead letters" in found.why


def test_a_repeat_that_only_the_primary_key_found_may_be_too_much() -> None:
    """It was counted under another place than the row has."""
    world = World()
    world.recounted = recounted(difference(DAY, use(7), use(6)))
    assert "I17" in world.broken()
    world.store["repeats"] = [(0, "s")]
    assert "I17" not in world.broken()


@pytest.mark.parametrize(
    "wrong",
    [
        difference(DAY, use(8), use(6)),
        difference(DAY, use(5), use(6)),
        difference(DAY, use(7), use(6), partition=1),
        difference(["session", "s"], {"events": {"x": 2}}, {"events": {"x": 1}}),
        difference(DAY, None, use(6)),
    ],
    ids=["two too many", "one lacking", "another partition", "another session", "a key lacking"],
)
def test_a_dead_letter_excuses_nothing_else(wrong: dict[str, Any]) -> None:
    """One event more, there, and no more than that."""
    world = World()
    refused(world)
    world.recounted = recounted(wrong)
    assert world.broken() == {"I17"}


def test_days_add_up_to_what_was_counted_and_not_stored() -> None:
    """Each day alone is within bounds, both together are one event too many."""
    world = World()
    refused(world)
    days = [["usage", "day", day, "all", ""] for day in (0, 86_400)]
    world.recounted = recounted(*(difference(key, use(7), use(6)) for key in days))
    assert world.broken() == {"I17"}
    assert "2 events too many" in world.verdicts()["I17"].examples[0]


def test_a_letter_that_could_not_be_decoded_excuses_nothing() -> None:
    """It was never counted."""
    world = World()
    refused(world, "undecodable")
    world.recounted = recounted(difference(DAY, use(7), use(6)))
    assert "I17" in world.broken()


@pytest.mark.parametrize(
    ("key", "live", "counted", "well"),
    [
        (["tools", "day", 0, "all", "", "Bash"], tool(3, 1), tool(2), True),
        (["tools", "day", 0, "all", "", "Bash"], tool(4), tool(2), False),
        (["tools", "day", 0, "all", "", "Bash"], tool(2), tool(3), False),
        (["names", "project"], {"names": {"a": 1, "b": 1}}, {"names": {"a": 1}}, True),
        (["names", "project"], {"names": {"b": 1}}, {"names": {"a": 1}}, False),
        (DAY, use(7, 2, 3), use(6), False),
        (DAY, use(7, 2, more=True), use(6, 3), True),
    ],
)
def test_one_event_more_in_every_kind_of_value(key: list[Any], live: Any, counted: Any, well: bool) -> None:
    """Nothing that was counted again may be lacking; where sessions are too many to name, they do not tell."""
    assert explained(key, live, counted, 1) is well
    assert not explained(key, live, counted, 0)


def test_a_fault_that_makes_comparing_impossible_is_said_and_never_green() -> None:
    """A lost log, a lost dedup table, nobody who counted: not judged, each with its reason."""
    world = World(recounted=Recounted(2, said="Cannot compare: Postgres holds events of a log that is gone"))
    assert "I17" in world.broken()
    world.told(log_whole=False)
    found = world.verdicts()["I17"]
    assert found.ok is None
    assert "not judged, because Kafka lost its log" in found.why
    assert "a log that is gone" in found.why
    world = World(recounted=recounted(difference(DAY, use(9), use(6))))
    world.told(counts_whole=False)
    found = world.verdicts()["I17"]
    assert (found.ok, "the dedup table was lost" in found.why) == (None, True)
    assert World(recounted=None).verdicts()["I17"].ok is None


def test_what_was_not_judged_stays_on_the_page_of_several_campaigns() -> None:
    """As a note with the fault's name; a verdict needs none."""
    world = World()
    examination = examine(Summary(world.lines), world.evidence(), world.context)
    faults = chosen(only=("kafka-wiped",))
    assert open_counts(examination, faults) == []
    examination = examine(Summary(world.lines), world.evidence(), replace(world.context, log_whole=False))
    (note,) = open_counts(Examination(examination.verdicts, examination.counts), faults)
    assert note.startswith("kafka-wiped: I17 not judged, because")


def test_it_is_asked_again_while_keys_are_left_out() -> None:
    """What was counted is stored a moment later; in the end the last answer stands."""
    answers = [recounted(ahead=2), recounted(ahead=1), recounted()]
    assert not left_out(asked_again(lambda: answers.pop(0), pause_s=0))
    asked: list[Recounted] = []

    def never() -> Recounted:
        asked.append(recounted(ahead=1))
        return asked[-1]

    assert left_out(asked_again(never, pause_s=0))
    assert len(asked) == TRIES


def test_an_answer_that_compares_nothing_is_not_asked_for_again() -> None:
    """A lost log does not come back."""
    answers = [Recounted(2, said="Cannot compare")]
    assert asked_again(lambda: answers.pop(0), pause_s=0).code == 2


def test_the_command_is_told_where_the_place_is_and_nothing_else() -> None:
    """A setting of the shell the drill was started in would lead it to another installation."""
    told = environment(
        {"PATH": "/bin", "CHRONICLE_KAFKA__BROKERS": "b", "CHRONICLE_CONFIG": "c"}, "broker:1", "dsn", "p"
    )
    assert told == {
        "PATH": "/bin",
        "CHRONICLE_KAFKA__BROKERS": "broker:1",
        "CHRONICLE_KAFKA__PREFIX": "p",
        "CHRONICLE_DATABASE__URL": "dsn",
    }


def test_an_answer_that_is_no_report_is_none() -> None:
    """What the command says instead of one must not pass for equal tables."""
    assert report_of('{"partitions": []}') == {"partitions": []}
    assert report_of("Cannot compare") == report_of("") == report_of("[]") == {}
