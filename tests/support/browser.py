"""A real Chromium on the page of a real stack: started once for a module, with everything it complains of collected."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import PATIENCE_MS, browser, chromium

__all__ = ["Looking", "browser", "looking", "require"]


def require() -> None:
    """Skip, saying so, where there is no browser or nothing to drive it with."""
    pytest.importorskip("playwright.async_api", reason="playwright is not installed: no browser looks at the page")
    if chromium() is None:
        pytest.skip("no Chromium (CHRONICLE_CHROMIUM, or chromium on the path): no browser looks at the page")


class Looking:
    """One who looks at the page. `complaints`: errors of scripts and of the policy, dialogs.

    That a question was answered with an error is none: the page says so itself, and asks again.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url, self.complaints = page, url, list[str]()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._said)
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _said(self, message: Any) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    async def open(self, query: str = "") -> None:
        await self.page.goto(f"{self.url}/dashboard/{query}")

    async def rows(self) -> list[str]:
        """What the feed shows, newest first, whether it is scrolled into view or not."""
        found: list[str] = await self.page.locator("#events li").all_text_contents()
        return found

    async def picture(self, name: str) -> None:
        """A screenshot for the documentation, where CHRONICLE_PICTURES names a folder for them."""
        if folder := os.environ.get("CHRONICLE_PICTURES"):
            # The caret as it is: hiding it would take a style of its own, which the page's policy forbids aloud.
            await self.page.screenshot(path=str(Path(folder) / f"{name}.png"), caret="initial")


@asynccontextmanager
async def looking(browser: Any, url: str, **context: Any) -> AsyncIterator[Looking]:
    """A page in a window of its own; when it ends nothing may have been complained of."""
    window = await browser.new_context(**({"viewport": {"width": 1360, "height": 900}} | context))
    try:
        window.set_default_timeout(PATIENCE_MS)
        seen = Looking(await window.new_page(), url)
        yield seen
        assert not seen.complaints, seen.complaints
    finally:
        await window.close()
