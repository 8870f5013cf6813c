"""Durations as an exponential histogram: a mapping of bucket to count, merged by adding.

The buckets are those of OpenTelemetry's data model (metrics, ExponentialHistogram) at scale 3: bucket `i` holds values
above 2^(i/8) and up to 2^((i+1)/8), so that a quantile is within 4.5 % of the true one. Equal inputs in any order give
equal histograms, which a randomised sketch would not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping

SCALE = 8  # buckets for each doubling: 2 to the scale of 3
#: Durations below a microsecond and above 10^7 s (clocks that jumped) count in the outermost buckets.
_LEAST, _MOST = math.ceil(math.log2(1e-3) * SCALE) - 1, math.ceil(math.log2(1e10) * SCALE) - 1


def bucket_of(milliseconds: float) -> int:
    """The bucket of a duration; what is zero or negative is in the first."""
    if milliseconds <= 0:
        return _LEAST
    return min(max(math.ceil(math.log2(milliseconds) * SCALE) - 1, _LEAST), _MOST)


def add(histogram: MutableMapping[int, int], milliseconds: float) -> None:
    """Count one duration."""
    bucket = bucket_of(milliseconds)
    histogram[bucket] = histogram.get(bucket, 0) + 1


def merge(into: MutableMapping[int, int], other: Mapping[int, int]) -> None:
    """Add another histogram."""
    for bucket, count in other.items():
        into[bucket] = into.get(bucket, 0) + count


def quantile(histogram: Mapping[int, int], q: float) -> float | None:
    """Milliseconds below which the share `q` (0 to 1) lies, nearest rank; None for an empty histogram."""
    total = sum(histogram.values())
    if not total:
        return None
    rank, seen = max(1, math.ceil(q * total)), 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= rank:
            break
    return 0.0 if bucket == _LEAST else float(2 ** ((bucket + 0.5) / SCALE))
