"""The exponential histogram: how near its quantiles are, and that neither order nor cut matters."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.histogram import add, bucket_of, merge, quantile

DURATIONS = st.lists(st.floats(0.01, 1e7), min_size=1, max_size=200)


def of(values: list[float]) -> dict[int, int]:
    made: dict[int, int] = {}
    for value in values:
        add(made, value)
    return made


@given(DURATIONS, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_within_four_and_a_half_percent(values: list[float], q: float) -> None:
    """Nearest rank; the middle of a bucket is at most half its width away."""
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = quantile(of(values), q)
    assert found is not None
    assert abs(found - exact) <= exact * 0.045


@given(DURATIONS, DURATIONS)
def test_merging_is_counting_all_of_them(some: list[float], others: list[float]) -> None:
    """So partitions and grains can be added up by whoever reads."""
    merged = of(some)
    merge(merged, of(others))
    assert merged == of(others + some)


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_a_clock_that_went_back_counts_as_no_time(value: float) -> None:
    """Two hooks of one call may be stamped by two clocks."""
    assert quantile(of([value]), 0.5) == 0.0


def test_nothing_has_no_quantile_and_an_absurd_value_its_bucket() -> None:
    """A bound on the number of buckets, whatever comes."""
    assert quantile({}, 0.5) is None
    assert bucket_of(1e300) == bucket_of(1e11)
    assert bucket_of(1e-300) == bucket_of(0.0)
