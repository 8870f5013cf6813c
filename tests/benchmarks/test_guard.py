"""The guard against slow decay: what it lets pass and what it does not."""

from __future__ import annotations

import json

from benchmarks.guard import BASELINE, CHUNKS, LOOKS, ROUNDS, look, ratios, slower, stages


def test_half_as_much_again_passes_and_more_does_not() -> None:
    """Wide enough for noise, narrow enough for a third."""
    before = {"ingest": 2.0}
    assert slower({"ingest": 3.0}, before) == []
    assert slower({"ingest": 1.0}, before) == []
    assert "ingest costs 3.1" in slower({"ingest": 3.1}, before)[0]


def test_a_stage_without_a_figure_is_told() -> None:
    """A new stage must not pass unseen."""
    assert slower({"new": 1.0}, {}) == ["new has no figure in guard.json"]


def test_what_is_slow_once_by_chance_is_looked_at_again() -> None:
    """A busy neighbour must not turn a build red."""
    looks = iter([{"ingest": 9.0, "encode": 1.0}, {"ingest": 2.5, "encode": 9.0}])
    before = {"ingest": 2.0, "encode": 1.0}
    found = look(lambda: next(looks), before)
    assert found == {"ingest": 2.5, "encode": 1.0}
    assert slower(found, before) == []


def test_what_is_slow_each_time_is_slow() -> None:
    """A change does not go away by looking again."""
    times: list[int] = []

    def measure() -> dict[str, float]:
        times.append(1)
        return {"ingest": 4.0}

    assert slower(look(measure, {"ingest": 2.0}), {"ingest": 2.0})
    assert len(times) == LOOKS


def test_what_is_quick_enough_is_looked_at_once() -> None:
    """The guard takes seconds."""
    looks = iter([{"ingest": 2.0}])
    assert look(lambda: next(looks), {"ingest": 2.0}) == {"ingest": 2.0}


def test_there_are_chunks_for_all_looks() -> None:
    """`dedupe` uses up one a round: ids that come again would be another work."""
    assert CHUNKS >= (ROUNDS + 1) * LOOKS


def test_every_stage_does_its_work_and_has_its_figure() -> None:
    """The file in the repository is of these stages."""
    with stages() as made:
        assert all(work() > 0 for work in made.values())
        assert set(json.loads(BASELINE.read_text())) == set(made)


def test_ratios_are_in_units_of_the_reference() -> None:
    """A stage that is the reference costs one."""

    def loop() -> int:
        return sum(range(200_000)) and 1

    assert 0.3 < ratios({"same": loop}, loop)["same"] < 3
