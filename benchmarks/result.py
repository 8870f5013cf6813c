"""What every benchmark tells with its figures: where, when and on what; and where the JSON goes."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "out"


def machine() -> dict[str, Any]:
    """processor (as the system names it), cores, memory_gb, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": round(memory, 1)}
    return {**found, "system": platform.platform()}


def in_words(machine: dict[str, Any]) -> str:
    """One line of `machine`."""
    return "{processor}, {cores} cores, {memory_gb} GB, {system}".format_map(machine)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def told(name: str, figures: dict[str, Any], *, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """The figures with benchmark, date, machine and the versions of Python and of `packages`; keys keep their order."""
    return {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        **figures,
    }


def keep(result: dict[str, Any]) -> None:
    """Print it as JSON and keep it as `benchmarks/out/<benchmark>.json`, the one place a benchmark writes to."""
    text = json.dumps(result, indent=2)
    OUT.mkdir(exist_ok=True)
    (OUT / f"{result['benchmark']}.json").write_text(text + "\n")
    print(text)
