"""Rows, verdicts and checksums."""

from __future__ import annotations

from connectors.ports import Span
from connectors.rows import EVENT_COLUMNS, checksum, event_row, expected, judge, known, progress_rows, split_repeats
from schemas.event import Flag, Position
from sink_events import logged


def test_the_place_decides_before_the_fingerprint() -> None:
    """Same place: replay. Another place: duplicate or conflict, by fingerprint."""
    there = known(logged(1))
    assert judge(logged(1), there) == "replay"
    assert judge(logged(1, fingerprint=b"x" * 16), there) == "replay"
    assert judge(logged(1, ingest=Position(0, 9)), there) == "duplicate"
    assert judge(logged(1, ingest=Position(0, 9), fingerprint=b"x" * 16), there) == "conflict"


def test_the_first_of_each_id_in_log_order() -> None:
    """Also when the very same object comes twice."""
    one, two, again = logged(1), logged(2), logged(1, ingest=Position(0, 9))
    firsts, rest = split_repeats([one, two, again, one])
    assert list(firsts.values()) == [one, two]
    assert rest == [again, one]


def test_the_checksum_tells_count_and_content_whatever_the_order() -> None:
    """A missing, foreign or changed row shows; repeats of an id count once."""
    events = [logged(n) for n in range(10)]
    whole = expected(events)
    assert expected(events[::-1] + events[:3]) == whole
    assert whole[0] == 10
    assert 0 < whole[1] < 1 << 56
    assert expected(events[1:]) != whole
    assert expected([*events[1:], logged(0, fingerprint=b"y" * 16)]) != whole
    assert checksum([]) == (0, 0)


def test_payload_raw_is_kept_only_where_json_columns_cannot_give_it_back() -> None:
    """Plain events are stored once."""
    payload, raw = EVENT_COLUMNS.index("payload"), EVENT_COLUMNS.index("payload_raw")
    assert event_row(logged(1))[raw] is None
    doubled = event_row(logged(1, payload='{"a":1,"a":2}', flags=int(Flag.DUPLICATE_KEYS)))
    assert (doubled[payload], doubled[raw]) == ('{"a":2}', '{"a":1,"a":2}')
    clean = event_row(logged(1, payload='{"a":"\\u0000"}', flags=int(Flag.SANITIZED)))
    assert clean[raw] == '{"a":"\\u0000"}'
    assert "\\u0000" not in clean[payload]


def test_progress_covers_spans_and_stored_rows() -> None:
    """Spans without rows move the offset, rows without spans move the count."""
    rows = progress_rows([Span(1, 5, 9), Span(0, 0, 3)], [logged(0), logged(1), logged(7, partition=4)])
    assert rows == [(0, 3, 2), (1, 9, 0), (4, 0, 1)]
