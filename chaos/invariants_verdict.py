"""What the checker says of one invariant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: How many ids or sentences a verdict names.
EXAMPLES = 10


@dataclass(frozen=True)
class Verdict:
    """`ok` is None where nothing could be judged; `why` is one sentence, `examples` at most ten."""

    id: str
    ok: bool | None
    why: str
    examples: tuple[str, ...] = ()


def verdict(id: str, holds: str, broken: str, found: Sequence[str]) -> Verdict:
    """Ok when nothing was found."""
    if not found:
        return Verdict(id, True, holds)
    return Verdict(id, False, f"{len(found)}: {broken}", tuple(found[:EXAMPLES]))


def unjudged(id: str, why: str) -> Verdict:
    """Neither good nor bad."""
    return Verdict(id, None, why)
