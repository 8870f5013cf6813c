"""The example consumers: as modules, and as the statements of their SQL."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

from repository import ROOT

CONSUMERS = ROOT / "examples" / "consumers"


def example(name: str) -> ModuleType:
    """One of the Python files, which are no package."""
    spec = importlib.util.spec_from_file_location(name, CONSUMERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def columns(file: str, table: str) -> dict[str, str]:
    """Column -> type of a `CREATE TABLE`, in order; computed columns and watermarks are left out."""
    found = re.search(rf"CREATE TABLE (?:IF NOT EXISTS )?{re.escape(table)}\s*\(\n(.*?)\n\)", text(file), re.DOTALL)
    assert found, f"{file} makes no table {table}"
    lines = [line.strip().rstrip(",") for line in found[1].splitlines()]
    parts = [line.partition(" ") for line in lines if not line.startswith("WATERMARK") and " AS " not in line]
    return {name.strip("`"): kind for name, _, kind in parts}


def settings(file: str) -> dict[str, str]:
    """Name -> value of every `name = 'value'`, in WITH as in SETTINGS."""
    return dict(re.findall(r"'?([\w.-]+)'? = '([^']*)'", text(file)))


def text(file: str) -> str:
    """The statements, without what is said beside them."""
    return re.sub(r"^\s*--.*$", "", (CONSUMERS / file).read_text(), flags=re.MULTILINE)
