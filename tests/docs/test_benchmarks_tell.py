"""Every benchmark tells where, when and on what it was run, and leaves its JSON in one place."""

from __future__ import annotations

import ast
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.result import OUT, in_words, told
from repository import ROOT

#: Those that a person runs for their figures. The others are programs and parts of the comparison (`report.keep`), and
#: the guard, whose figures are its file.
BENCHMARKS = [
    ROOT / "benchmarks" / f"{name}.py"
    for name in ("aggregate", "codec", "dedupe", "ingest_parse", "profile", "sinks", "transport")
]


def test_a_result_has_machine_date_and_versions() -> None:
    """A figure without them cannot be compared."""
    result = told("name", {"figure": 1}, packages=("msgspec",))
    assert list(result) == ["benchmark", "date", "machine", "versions", "figure"]
    assert datetime.fromisoformat(result["date"]).tzinfo is not None
    assert set(result["machine"]) == {"processor", "cores", "memory_gb", "system"}
    assert in_words(result["machine"]).count(",") >= 3
    assert set(result["versions"]) == {"python", "msgspec"}
    assert OUT == ROOT / "benchmarks" / "out"


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_tells_its_result_in_this_form(path: Path) -> None:
    """By `keep(told(...))`, whether in one place or two."""
    nodes = ast.walk(ast.parse(path.read_text()))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert {"keep", "told"} <= called
