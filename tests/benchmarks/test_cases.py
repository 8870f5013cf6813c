"""How rounds alternate, what is made of the figures, and what is no figure at all."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

import pytest

from benchmarks import catalogue
from benchmarks.cases import Case, Figure, Round, Row, Spread, rotated, run
from benchmarks.deadline import Budget
from benchmarks.settings import SIDES

RATE = Figure("rate", "events/s", target=100.0, least={"other": 2.0})


def side(*values: float, name: str = "rate") -> Round:
    """A side that measures these, one after the other."""
    left = iter(values)
    return lambda: {name: next(left)}


def case(ours: Round, **peers: Round) -> Case:
    return Case("work", {"chronicle": ours, **peers}, [RATE])


def row(ours: float, other: float, figure: Figure = RATE) -> Row:
    return Row("work", figure, {"chronicle": Spread((ours,)), "other": Spread((other,))})


def test_the_median_of_all_rounds_counts() -> None:
    """One slow round does not change the figure."""
    (found,) = run(case(side(300.0, 10.0, 310.0), other=side(100.0, 100.0, 100.0)), 3, print)
    assert found.spreads["chronicle"].median == 300.0
    assert found.ratio("other") == 3.0
    assert found.met


def test_who_begins_changes_from_round_to_round() -> None:
    """What the machine does over time must not always meet the same side."""
    order: list[str] = []

    def noted(name: str) -> Round:
        def once() -> Mapping[str, float]:
            order.append(name)
            return {"rate": 1.0}

        return once

    run(Case("work", {"chronicle": noted("a"), "b": noted("b"), "c": noted("c")}, [Figure("rate", "1")]), 3, print)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert rotated(["a", "b"], 3) == ["b", "a"]


@pytest.mark.parametrize("figures", [{}, {"rate": 0.0}, {"rate": float("nan")}, {"rate": float("inf")}])
def test_a_round_that_measured_nothing_fails_the_case(figures: Mapping[str, float]) -> None:
    """No figure is better than a wrong one."""
    (found,) = run(case(lambda: figures), 1, print)
    assert "measured" in found.failed["chronicle"]
    assert not found.met
    assert found.as_json()["chronicle"] is None


def test_a_figure_that_we_do_not_give_fails_the_case() -> None:
    """A renamed figure would vanish from the table."""
    (found,) = run(case(side(1.0, name="speed")), 1, print)
    assert found.failed == {"chronicle": "nothing was measured for rate"}
    assert not found.met


def test_a_peer_that_fails_costs_the_others_nothing() -> None:
    """It is told, and not tried again; its ratio is not met."""
    tries: list[int] = []

    def fails() -> Mapping[str, float]:
        tries.append(1)
        raise RuntimeError("no wheel")

    (found,) = run(case(side(300.0, 300.0, 300.0), other=fails), 3, print)
    assert found.spreads["chronicle"].runs == (300.0,) * 3
    assert found.failed == {"other": "RuntimeError: no wheel"}
    assert len(tries) == 1
    assert not found.met


def test_a_side_that_fails_after_a_round_keeps_what_it_measured_and_is_told() -> None:
    """One round is a figure; that there were not all of them stands beside it."""
    (found,) = run(case(side(300.0, 300.0, 300.0), other=side(100.0)), 3, print)
    assert found.spreads["other"].runs == (100.0,)
    assert "other" in found.failed


def test_without_ours_the_case_ends() -> None:
    """Minutes for peers alone would be minutes for nothing."""
    order: list[str] = []

    def told(name: str) -> Mapping[str, float]:
        order.append(name)
        if name == "ours":
            raise RuntimeError
        return {"rate": 1.0}

    run(case(lambda: told("ours"), other=lambda: told("other")), 3, print)
    assert order == ["ours"]


def test_a_side_that_does_not_end_is_cut_off_and_the_next_one_goes_on() -> None:
    """What hangs costs its own time, not the whole run."""

    def hangs() -> Mapping[str, float]:
        threading.Event().wait(60)
        return {"rate": 1.0}

    asked = Case("work", {"other": hangs, "chronicle": side(300.0)}, [RATE], longest_s=1.0)
    (found,) = run(asked, 1, print)
    assert "Late: not done within" in found.failed["other"]
    assert found.spreads["chronicle"].runs == (300.0,)


def test_there_are_fewer_rounds_when_time_is_short() -> None:
    """A round of every later case goes first."""
    now = iter([0.0, 0.0, 0.0, *[100.0] * 50])
    budget = Budget(160.0, clock=lambda: next(now))
    budget.later_s = 30.0
    asked = dataclasses.replace(case(side(1.0, 1.0, 1.0)), usual_s=40.0)
    (found,) = run(asked, 3, print, budget)
    assert len(found.spreads["chronicle"].runs) == 1


def test_a_case_without_time_or_disk_is_told_as_not_run() -> None:
    """It does not vanish from the table."""
    late = Budget(10.0, clock=iter([0.0, *[9.0] * 50]).__next__)
    (found,) = run(case(side(1.0)), 1, print, late)
    assert found.failed["chronicle"] == "there was no time left for it"
    (found,) = run(dataclasses.replace(case(side(1.0)), disk_gb=1e9), 1, print)
    assert "GB of disk" in found.failed["chronicle"]


def test_the_whole_runs_fit_into_their_minutes() -> None:
    """By what a round takes as a rule; what takes longer has fewer rounds (`Budget`)."""
    for kind, rounds in (("quick", 1), ("full", 0)):
        cases = getattr(catalogue, kind)()
        assert sum(one.usual_s * (rounds or one.rounds) for one in cases) <= catalogue.LIMITS[kind] * 0.97
    assert all(one.longest_s > one.usual_s / len(one.sides) for one in (*catalogue.full(), *catalogue.large()))


def test_every_case_compares_with_peers_whose_settings_are_told() -> None:
    """A ratio to a side that is not there could never be met."""
    for one in (*catalogue.quick(), *catalogue.full(), *catalogue.large()):
        assert set(one.sides) <= set(SIDES)
        assert all(set(figure.least) <= set(one.sides) for figure in one.figures)
        assert list(one.without(frozenset(set(one.sides) - {"chronicle"})).sides) == ["chronicle"]


def test_names_of_rows_are_told_apart() -> None:
    """Two rows of one name would be one to whoever reads the JSON."""
    for cases in (catalogue.full(), catalogue.large()):
        names = [Row(one.name, figure, {}).name for one in cases for figure in one.figures]
        assert len(set(names)) == len(names)


def test_lower_is_better_for_times() -> None:
    """Half the time is twice as good."""
    time = Figure("p99", "ms", "lower", target=10.0)
    assert row(5.0, 10.0, time).ratio("other") == 2.0
    assert row(5.0, 10.0, time).met
    assert not row(11.0, 10.0, time).met


def test_a_target_is_met_by_figure_and_ratio_both() -> None:
    """And not by a peer that was left out."""
    assert row(100.0, 50.0).met
    assert not row(99.0, 1.0).met
    assert not row(100.0, 51.0).met
    assert not Row("work", RATE, {"chronicle": Spread((1000.0,))}).met
    assert RATE.told() == "≥ 100 events/s, ≥ 2 × other"


def test_a_row_that_is_not_met_says_by_how_much() -> None:
    """Of the target and of each ratio, what is reached; what is reached whole is not named."""
    assert row(75.0, 10.0).short == "75% of the target"
    assert row(150.0, 100.0).short == "75% of 2 × other"
    assert row(20.0, 1.0, Figure("p99", "ms", "lower", target=10.0)).short == "50% of the target"
    assert row(300.0, 100.0).short == ""


def test_the_json_has_what_readers_are_promised() -> None:
    """The keys of `benchmarks/out/latest.json`."""
    assert row(300.0, 100.0).as_json() == {
        "name": "work.rate",
        "unit": "events/s",
        "chronicle": {"median": 300.0, "min": 300.0, "max": 300.0, "runs": [300.0]},
        "peers": {"other": {"median": 100.0, "min": 100.0, "max": 100.0, "runs": [100.0]}},
        "ratios": {"other": 3.0},
        "target": "≥ 100 events/s, ≥ 2 × other",
        "met": True,
        "short": "",
        "failed": {},
    }
