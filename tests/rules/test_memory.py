"""Threads share the arenas of malloc, where the C library has any; Python's collector runs rarely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.memory import ARENAS, THRESHOLDS, few_arenas

ROOT = Path(__file__).parents[2]
#: Thirty threads allocate at once; then the C library tells its arenas, as XML on standard output.
COUNT = """
import ctypes, sys, threading
from app.memory import few_arenas
library = ctypes.CDLL(None)
if not hasattr(library, "malloc_info"):
    sys.exit("no glibc")
if sys.argv[1] == "few":
    assert few_arenas()
library.malloc.restype = ctypes.c_void_p
together = threading.Barrier(30)

def allocate():
    together.wait()
    kept = [library.malloc(ctypes.c_size_t(20_000)) for _ in range(200)]
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(30)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
library.fdopen.restype = ctypes.c_void_p
out = library.fdopen(1, b"w")
library.malloc_info(0, ctypes.c_void_p(out))
library.fflush(ctypes.c_void_p(out))
"""


def arenas(how: str) -> int:
    command = [sys.executable, "-c", COUNT, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("this C library has no arenas to count")
    assert done.returncode == 0, done.stderr
    return done.stdout.count("<heap nr=")


def test_threads_share_two_arenas() -> None:
    """Thirty threads that allocate at once have two, and more without us."""
    assert arenas("few") <= ARENAS < arenas("as it is")


def test_another_c_library_is_left_alone() -> None:
    """It has no such call."""
    assert few_arenas(object()) is False


def test_the_collector_waits_and_leaves_alone_what_was_there_before() -> None:
    """In a process of its own: it is one of the whole process."""
    code = (
        "import gc; from app.memory import collect_rarely; collect_rarely(); "
        "print(*gc.get_threshold(), gc.get_freeze_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    *thresholds, frozen = map(int, done.stdout.split())
    assert tuple(thresholds) == THRESHOLDS
    assert frozen > 1000
