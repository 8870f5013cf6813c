"""The page's files: complete, served under a strict policy, and with nothing in them that it forbids."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient

from app.views import dashboard
from reading import serving

SCRIPTS = sorted(file for file in dashboard.FILES.iterdir() if file.suffix == ".js")
EXPORT = re.compile(r"export (?:async )?(?:function|const|class) ([\w$]+)")
AS_HTML = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
HTML = (dashboard.FILES / "index.html").read_text()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    async with serving(dashboard.routes(dashboard.DashboardViews())) as made:
        yield made


async def test_the_page_comes_with_everything_it_loads(client: TestClient[Any, Any]) -> None:
    """And a policy that lets nothing else run."""
    answer = await client.get("/dashboard/")
    assert (answer.status, answer.content_type) == (200, "text/html")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in re.findall(r'(?:href|src)="([^"#/][^"]*)"', await answer.text()):
        assert (await client.get(f"/dashboard/{name}")).status == 200, name


async def test_what_a_browser_has_is_not_sent_again(client: TestClient[Any, Any]) -> None:
    """It asks each time, so an upgrade is seen at once."""
    first = await client.get("/dashboard/page.css")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/dashboard/page.css", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fdashboard.py", "index.py"])
async def test_nothing_else_is_served(client: TestClient[Any, Any], name: str) -> None:
    """Only what is in the folder, by its name."""
    assert (await client.get(f"/dashboard/{name}")).status == 404


def test_the_page_has_what_its_scripts_look_for() -> None:
    """Each `$("id")` is in the page, and each id once."""
    ids = re.findall(r'\bid="([^"]+)"', HTML)
    assert len(ids) == len(set(ids))
    for script in SCRIPTS:
        wanted = set(re.findall(r'\$\("([^"]+)"\)', script.read_text()))
        assert wanted <= set(ids), f"{script.name}: {wanted - set(ids)}"


def test_scripts_import_only_each_other() -> None:
    """What they import is there and is exported."""
    for script in SCRIPTS:
        for names, file in re.findall(r'import \{([^}]*)\} from "\./([^"]+)"', script.read_text()):
            exported = set(EXPORT.findall((dashboard.FILES / file).read_text()))
            missing = {name.strip() for name in names.split(",")} - exported
            assert not missing, f"{script.name} takes {missing} from {file}"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    """What the policy forbids would only fail in the browser, and what an event holds must never become HTML."""
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", HTML)
    for file in dashboard.FILES.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, f"{file.name} names another place"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file.name
        )
