"""The aggregate tables as a reader sees them: partitions added up, gaps filled, ended keys gone."""

from __future__ import annotations

import pytest

from tables.usage import Key, Names, SessionUse, ToolUse, Usage
from tables.usage_view import MAX_POINTS, Figures, Point, ToolRow, buckets

NOON = 1_763_726_400
HOUR = 3600


@pytest.fixture
def figures() -> Figures:
    made = Figures()
    made.put(0, ("usage", "hour", NOON, "all", ""), Usage(events={"user_prompt": 1, "a": 1}, sessions={1, 2}))
    made.put(1, ("usage", "hour", NOON, "all", ""), Usage(events={"user_prompt": 2}, sessions={2, 3}))
    made.put(1, ("usage", "hour", NOON + 2 * HOUR, "all", ""), Usage(events={"a": 5}, sessions={3}, more=True))
    made.put(0, ("tools", "hour", NOON, "all", "", "Bash"), ToolUse(calls=2, failures=1, durations={80: 2}))
    made.put(1, ("tools", "hour", NOON, "all", "", "Bash"), ToolUse(calls=1, durations={0: 1}))
    made.put(1, ("tools", "hour", NOON, "all", "", "Edit"), ToolUse(calls=9))
    return made


def test_a_series_adds_partitions_up_and_fills_gaps(figures: Figures) -> None:
    """Every bucket has its point, whether anything happened or not."""
    assert figures.series("hour", NOON, NOON + 3 * HOUR) == [
        Point(NOON, {"user_prompt": 3, "a": 1}, 3),
        Point(NOON + HOUR, {}, 0),
        Point(NOON + 2 * HOUR, {"a": 5}, 1, at_least=True),
    ]


def test_a_session_of_several_buckets_counts_once_in_the_total(figures: Figures) -> None:
    """Marks are united, not added."""
    assert figures.totals("hour", NOON, NOON + 3 * HOUR) == Point(NOON, {"user_prompt": 3, "a": 6}, 3, at_least=True)


def test_tools_come_with_their_percentiles_the_most_used_first(figures: Figures) -> None:
    """A tool without a known duration has none."""
    edit, bash = figures.tools("hour", NOON, NOON + HOUR)
    assert edit == ToolRow("Edit", 9, 0, None, None, None)
    assert (bash.tool, bash.calls, bash.failures) == ("Bash", 3, 1)
    assert bash.p50 is not None
    assert bash.p50 == bash.p99 == pytest.approx(2 ** (80.5 / 8))


def test_a_tool_has_a_series_too(figures: Figures) -> None:
    """With zeros where it was not called."""
    rows = figures.tool_series("Edit", "hour", NOON, NOON + 2 * HOUR)
    assert [(bucket, row.calls) for bucket, row in rows] == [(NOON, 9), (NOON + HOUR, 0)]


def test_values_of_a_dimension_come_with_the_busiest_first(figures: Figures) -> None:
    """And those without events in the time asked for not at all."""
    for name, count in (("quiet", 1), ("busy", 9), ("gone", 4)):
        bucket = NOON - 9 * HOUR if name == "gone" else NOON
        figures.put(0, ("usage", "hour", bucket, "project", name), Usage(events={"a": count}, sessions={1}))
    assert list(figures.values("hour", NOON, NOON + HOUR, "project")) == ["busy", "quiet"]


def test_a_later_record_replaces_and_an_ended_key_is_gone(figures: Figures) -> None:
    """Nothing empty stays behind: years of buckets go by."""
    figures.put(0, ("session", "s"), SessionUse(prompts=1))
    figures.put(0, ("session", "s"), SessionUse(prompts=2))
    assert (figures.session("s") or SessionUse()).prompts == 2
    before = figures.size()
    figures.put(0, ("session", "s"), None)
    for partition in (0, 1):
        figures.put(partition, ("usage", "hour", NOON, "all", ""), None)
    assert figures.size() == before - 3
    assert figures.series("hour", NOON, NOON + HOUR) == [Point(NOON, {}, 0)]
    figures.put(0, ("usage", "hour", NOON, "never", "was"), None)


def test_buckets_begin_where_their_grain_does() -> None:
    """From the first that begins in the time asked for."""
    assert list(buckets("hour", NOON + 1, NOON + 2 * HOUR + 1)) == [NOON + HOUR, NOON + 2 * HOUR]
    assert list(buckets("day", NOON, NOON)) == []


@pytest.mark.parametrize(
    ("grain", "until", "says"), [("week", NOON, "minute, hour, day"), ("minute", NOON * 2, "points")]
)
def test_what_cannot_be_answered_is_said(grain: str, until: int, says: str) -> None:
    """Which intervals there are, or that it would be too many points."""
    with pytest.raises(ValueError, match=says):
        buckets(grain, NOON, until)
    assert len(buckets("minute", NOON, NOON + MAX_POINTS * 60)) == MAX_POINTS


def test_the_names_that_are_told_apart_are_no_figure(figures: Figures) -> None:
    """They are for whoever counts; a reader passes them over."""
    before = figures.size()
    figures.put(0, ("names", "project"), Names(names={"shop": 20_000}))
    figures.put(0, ("names", "project"), None)
    assert figures.size() == before


def test_a_value_that_counts_less_does_not_overtake() -> None:
    """A worker that did not know that it had lost the partition wrote it; a rebuild, which counts anew, does."""
    figures = Figures()
    key: Key = ("usage", "hour", 0, "all", "")
    for value in (Usage(at=5, events={"a": 5}), Usage(at=2, events={"a": 2})):
        figures.put(0, key, value)
    assert figures.series("hour", 0, 3600)[0].events == {"a": 5}
    figures.put(0, key, Usage(at=1, generation=9, events={"a": 1}))
    assert figures.series("hour", 0, 3600)[0].events == {"a": 1}
    figures.put(0, ("session", "s"), SessionUse(at=5, prompts=5))
    figures.put(0, ("session", "s"), SessionUse(at=4, prompts=4))
    assert (figures.session("s") or SessionUse()).prompts == 5
