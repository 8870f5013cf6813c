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


def machine() -> str:
    """The processor as the system names it, its cores, the system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.platform()}"


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
