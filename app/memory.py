"""What a worker takes of the machine and does not need: arenas of the C library, rounds of Python's collector."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

#: `M_ARENA_MAX` of malloc.h of the GNU C library.
_M_ARENA_MAX: Final = -8
#: One for the event loop, one for all other threads: they hold the GIL in turn, and drivers allocate little.
ARENAS: Final = 2
#: New containers between two rounds of the collector: a batch has thousands of them, and they die by reference count.
NEW_CONTAINERS: Final = 20_000


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
    """Let Python's collector look for cycles less often, and not at what was there before. Call it once all is there.

    A worker makes tens of thousands of containers a second and hardly a cycle; with Python's own 700
    (`gc.get_threshold`) the collector walks through a batch many times before it is written.
    """
    gc.freeze()
    gc.set_threshold(NEW_CONTAINERS, 10, 10)
