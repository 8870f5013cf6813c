"""What a worker takes of the machine and does not need: arenas of the C library, rounds of Python's collector."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

#: `M_ARENA_MAX` of malloc.h of the GNU C library.
_M_ARENA_MAX: Final = -8
#: One for the event loop, one for all other threads: they hold the GIL in turn, and drivers allocate little.
ARENAS: Final = 2
#: New containers between two rounds of the collector, rounds of the young between two of the middle ones, and of those
#: between two of all: a batch has thousands of containers, and they die by reference count.
THRESHOLDS: Final = (250_000, 20, 50)


def few_arenas(library: Any = None) -> bool:
    """Let all threads share two arenas of malloc. Call it before there are threads; False where that cannot be said.

    glibc gives threads arenas of their own, up to eight a core (mallopt(3)), and what is freed in one is of no use to
    the others: the thirty threads of a stream worker (librdkafka, RocksDB, drivers) keep more and more that way in an
    hour of `make soak`.
    """
    try:
        mallopt = (library or ctypes.CDLL(None)).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))


def collect_rarely() -> None:
    """Let Python's collector look for cycles less often, and not at what is there by now.

    Call it whenever what was made so far lives as long as the process: before the parts open, and once they are there.
    A worker makes tens of thousands of containers a second and hardly a cycle; with Python's own 700
    (`gc.get_threshold`) the collector walks through a batch many times before it is written
    (`python -m benchmarks.transport` shows it in CPU an event).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
