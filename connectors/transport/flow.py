"""Rules: where reading begins, and how soon is polled again."""

from __future__ import annotations

from typing import Final, NamedTuple

from connectors.transport.settings import Options

EARLIEST: Final = "earliest"


class Start(NamedTuple):
    """`clamped_from` is the offset wanted when the log does not have it, else None."""

    offset: int
    clamped_from: int | None = None


def start_offset(*, committed: int | None, durable: int | None, begin: int, end: int, reset: str = EARLIEST) -> Start:
    """Begin at the smaller of the group's offset and the durable progress; at `reset` where there is neither.

    An offset the log no longer has, or does not have yet (the log was lost or made anew), begins at the oldest record:
    reading twice is harmless, skipping is not.
    """
    known = [offset for offset in (committed, durable) if offset is not None]
    if not known:
        return Start(begin if reset == EARLIEST else end)
    wanted = min(known)
    return Start(wanted) if begin <= wanted <= end else Start(begin, clamped_from=wanted)


def pause(found: int, more: bool, options: Options) -> float:
    """Seconds to wait before the next poll, after one that found so many records; `more`: there are more in the log.

    None after nothing was found: the poll itself has waited. None behind a backlog: a fetch is bounded in bytes, so
    that few records may be all that one brings.
    """
    return options.pace_s if found and not more else 0.0
