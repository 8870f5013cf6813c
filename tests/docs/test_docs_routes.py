"""Every route of the house as it is really built is told, and the pages tell no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from all_routes import all_routes
from app.house import build
from app.settings import ROLES, Settings
from repository import DOCS

PAGES = {page: (DOCS / page).read_text() for page in ("api.md", "api-ingest.md", "topics.md")}
_TOLD = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?\s]*)")


@pytest.fixture
def built(tmp_path: Path) -> set[tuple[str, str]]:
    """(method, path) of a process with every role. Building opens nothing."""
    house = build(Settings.load(state_dir=tmp_path, worker={"roles": ROLES, "name": "docs"}))
    return {(route.method, route.path) for route in house.routes}


def test_every_route_of_a_built_house_is_told(built: set[tuple[str, str]]) -> None:
    """As `METHOD /path`, in code, in one of the three pages."""
    missing = [
        f"`{method} {path}`" for method, path in sorted(built) if f"`{method} {path}`" not in "".join(PAGES.values())
    ]
    assert not missing, f"tell them in docs/api.md, docs/api-ingest.md or docs/topics.md: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_tell_no_route_that_is_not_there(page: str, built: set[tuple[str, str]]) -> None:
    """What was renamed or dropped leaves the pages."""
    wrong = [f"{method} {path}" for method, path in _TOLD.findall(PAGES[page]) if (method, path) not in built]
    assert not wrong, f"docs/{page} tells routes nobody serves: {wrong}"


def test_the_table_of_the_other_tests_is_the_table_of_the_house(built: set[tuple[str, str]]) -> None:
    """Tests over memory parts (`all_routes`) walk the same routes."""
    assert {(route.method, route.path) for route in all_routes()} == built
