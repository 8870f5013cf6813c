"""The budget by stage: what needs no server is measured in every suite, so that it cannot rot."""

from __future__ import annotations

from benchmarks.profile import ORDER, by_stage


def test_every_stage_that_needs_no_server_costs_something() -> None:
    """In the order an event walks; where there is a limit it is a cost, too."""
    found = by_stage(alone=True)
    assert list(found) == [name for name in ORDER if name in found]
    assert {"ingest decode", "encode", "dedup", "decode", "aggregate"} <= set(found)
    for name, one in found.items():
        assert name == "rows" or (one["ours"] or 0) > 0, name
        assert one["floor"] is None or one["floor"] > 0, name
