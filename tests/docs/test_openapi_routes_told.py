"""Every route is told in docs/api.md or docs/api-ingest.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from all_routes import all_routes
from app.views.route import Route

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = "".join(page.read_text() for page in sorted(DOCS.glob("api*.md")))


@pytest.mark.parametrize("route", all_routes(), ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_told(route: Route) -> None:
    """As `METHOD /path`, in code."""
    assert f"`{route.method} {route.path}`" in PAGES
