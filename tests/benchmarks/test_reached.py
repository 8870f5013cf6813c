"""Waiting for rows without taking much from who writes them."""

from __future__ import annotations

import pytest

from benchmarks.running import SELDOM_S, SOON_S, reached


class Filling:
    """A table that gets `rate` rows a second, and the clock by which it does."""

    def __init__(self, rate: float, before: int = 0) -> None:
        self.now, self.looks, self.naps = 100.0, 0, list[float]()
        self._rate, self._before = rate, before

    def count(self) -> int:
        self.looks += 1
        return self._before + int((self.now - 100.0) * self._rate)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds

    def wait(self, wanted: int, seconds: float = 60.0) -> None:
        reached(self.count, wanted, seconds, "rows", monotonic=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize(("rate", "before"), [(25_000.0, 0), (25_000.0, 2_000), (4_000.0, 0)])
def test_it_looks_seldom_and_ends_in_time(rate: float, before: int) -> None:
    """A dozen looks instead of one each tenth of a second; the end is known as exactly."""
    filling = Filling(rate, before)
    filling.wait(before + 150_000)
    assert filling.now - 100.0 - 150_000 / rate <= SOON_S
    assert filling.looks < 12 + 150_000 / rate / SELDOM_S
    assert max(filling.naps) <= SELDOM_S


def test_what_is_there_is_not_waited_for() -> None:
    filling = Filling(0.0, before=7)
    filling.wait(7)
    assert not filling.naps


def test_what_never_comes_is_told() -> None:
    with pytest.raises(TimeoutError, match="rows was not there within 3 s"):
        Filling(0.0).wait(7, 3.0)
