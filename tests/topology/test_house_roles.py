"""What a worker answers, by its roles."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.house import build
from app.settings import Settings


@pytest.mark.parametrize(
    ("roles", "served"),
    [
        ("api", {"/events/{event_id}", "/dead-letters", "/stats", "/ready"}),
        ("ingest", {"/events", "/ready"}),
        ("dedupe,persist", {"/ready"}),
        ("aggregate,history", {"/ready"}),
    ],
)
async def test_each_role_brings_its_routes(tmp_path: Path, roles: str, served: set[str]) -> None:
    """Dead letters are part of the API, with or without the role ingest."""
    house = build(Settings.load(state_dir=tmp_path, worker={"roles": roles}))
    paths = {route.path for route in house.routes}
    assert served <= paths
    assert ("/dead-letters" in paths) == ("api" in roles)
