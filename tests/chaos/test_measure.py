"""What a fault cost is read from the ledger: windows, refusals, percentiles."""

from __future__ import annotations

from chaos.measure import Refusal, Window, costs, overruns, p99, refusals
from chaos.model import Outcome, Sent


def line(at: float, outcome: Outcome = Outcome.OK, *, took: float = 0.01, event_id: str = "") -> Sent:
    return Sent("p", 0, event_id or f"id-{at}", "s", "", at, took, outcome)


def window(fault: str, start: float, end: float) -> Window:
    return Window(fault, start, start + 1, end, hit=True, ready_s=0.5, lag_zero_s=0.5)


def test_a_refusal_lasts_from_the_first_no_to_the_next_yes() -> None:
    """From when the refused request was sent; several in a row are one."""
    unknown = Outcome.UNKNOWN
    lines = [line(1), line(3, unknown, took=1), line(4, unknown), line(5), line(6, unknown), line(6.5)]
    assert refusals(lines) == [Refusal(3, 3), Refusal(6, 0.51)]
    assert refusals([line(1), line(2, unknown, took=0), line(9, unknown)]) == [Refusal(2, 7)]
    assert refusals([line(1), line(2)]) == []


def test_a_refusal_belongs_to_the_window_it_began_in() -> None:
    """It ends with the next yes, be it after the window; it does not last until the next window of that fault."""
    lines = [
        line(11),
        line(12, Outcome.UNKNOWN, took=0),
        line(21),
        line(30),
        line(91, Outcome.UNKNOWN, took=0),
        line(92),
    ]
    found = costs(lines, [window("kill", 10, 20), window("kill", 90, 99)])
    assert found.by_fault["kill"].longest_refusal_s == 9
    assert found.outside is not None
    assert found.outside.longest_refusal_s == 0


def test_lines_belong_to_the_window_they_were_answered_in() -> None:
    """What lies in no window is outside; an unknown id that was ok later is resolved, whenever that was."""
    lines = [
        line(1),
        line(11, Outcome.UNKNOWN, event_id="a"),
        line(12, Outcome.UNKNOWN, event_id="b"),
        line(13, took=2.5),
        line(31, event_id="a"),
    ]
    found = costs(lines, [window("kill", 10, 20), window("pause", 30, 40)])
    kill = found.by_fault["kill"]
    assert (kill.acked, kill.unknown, kill.unknown_resolved, kill.slowest_s) == (1, 2, 1, 2.5)
    assert found.by_fault["pause"].acked == 1
    assert found.outside is not None
    assert found.outside.acked == 1


def test_a_percentile_of_nothing_is_nothing() -> None:
    """And of one value that value."""
    assert p99([]) is None
    assert p99([2.0]) == 2.0
    assert p99([0.0] * 99 + [1.0] * 100) == 1.0


def test_what_took_too_long_is_said_in_a_sentence() -> None:
    """Only what has a limit, was measured, and is beyond it."""
    said = overruns("kill", {"ready": 15, "lag zero": 30}, {"ready": 15.5, "lag zero": 1.0, "other": 99, "x": None})
    assert said == ["kill: ready took 15.5 s, at most 15 s were allowed"]
