"""Pages lead where they say: links between them, anchors, and files that they name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from repository import FOLDERS, ROOT, name, pages, prose

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")
_FILE = re.compile(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]+)`")


def slug(heading: str) -> str:
    """The anchor that a heading gets: lower case, blanks become dashes, other signs go."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of every heading of the page."""
    return frozenset(slug(line.lstrip("#")) for _, line in prose(page) if re.match(r"#{1,6} ", line))


def broken(page: Path) -> list[str]:
    """Links of the page that lead nowhere."""
    found = []
    for number, line in prose(page):
        for target in _LINK.findall(_CODE.sub("", line)):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists():
                found.append(f"{name(page)}:{number}: there is no {target}")
            elif anchor and anchor not in anchors(there):
                found.append(f"{name(page)}:{number}: {name(there)} has no heading for #{anchor}")
    return found


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading that it has."""
    assert broken(page) == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """`app/views/query` may be said for `app/views/query.py`; a renamed file is renamed in the pages too.

    What a run writes into an `out` folder is not in the repository.
    """
    wrong = [
        f"{name(page)}:{number}: {path}"
        for number, line in prose(page)
        for path in _FILE.findall(line)
        if "/out/" not in path and not any((ROOT / f"{path}{suffix}").exists() for suffix in ("", ".py"))
    ]
    assert wrong == []


def test_the_index_names_every_page() -> None:
    """docs/README.md leads to each page below docs/."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text())}
    missing = [name(page) for page in (ROOT / "docs").rglob("*.md") if page != index and page.resolve() not in linked]
    assert not missing, f"link them in docs/README.md: {missing}"
