"""Arithmetic of half-open intervals of offsets, [start, end) as pairs of int. Pure; results are sorted and disjoint."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[int, int]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """What is in at least one of them; neighbours become one, empty ones go."""
    merged: list[Interval] = []
    for start, end in sorted(one for one in intervals if one[0] < one[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def subtract(whole: Iterable[Interval], parts: Iterable[Interval]) -> list[Interval]:
    """What is in `whole` and in none of `parts`."""
    left, gone = [], union(parts)
    for start, end in union(whole):
        at = start
        for first, last in gone:
            if first < end and last > at:
                left.append((at, first))
                at = last
        left.append((at, end))
    return union(left)


def reach(at: int, intervals: Iterable[Interval]) -> int:
    """How far one comes from `at` without a gap: `at` itself when no interval takes over there."""
    for start, end in union(intervals):
        if start <= at:
            at = max(at, end)
    return at
