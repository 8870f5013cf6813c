"""The files of the repository, for the tests that read them; without git, so that they work in an unpacked archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: The packages, in walking order.
HOUSE = ("chronicle", "app", "agents", "tables", "connectors", "schemas")
FOLDERS = (*HOUSE, "tests", "benchmarks", "chaos", "examples", "scripts", "docs", "deploy", ".ci")
_TEXT = {
    *(".py", ".md", ".toml", ".yml", ".yaml", ".json", ".avsc", ".txt", ".lock", ".mako"),
    *(".html", ".css", ".js", ".sql", ""),
}


def texts() -> list[Path]:
    """Every text file that is part of the project."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    on_top = (path for path in ROOT.iterdir() if path.name != ".git")
    return sorted(
        path
        for path in (*inside, *on_top)
        if path.is_file() and path.suffix in _TEXT and "__pycache__" not in path.parts
    )


def pages() -> list[Path]:
    """Every Markdown page."""
    return [path for path in texts() if path.suffix == ".md"]


def modules(*folders: str) -> list[Path]:
    """Every Python file; only those below `folders` when some are named."""
    found = [path for path in texts() if path.suffix == ".py"]
    return [path for path in found if not folders or path.relative_to(ROOT).parts[0] in folders]


def name(path: Path) -> str:
    """As one says it: from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page outside its code blocks."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line
