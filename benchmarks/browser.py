"""A real Chromium, for whoever wants to look at the page: the browser tests and the benchmark of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

#: Chromium looks up its maker's servers at each start unless it is told not to.
OFFLINE: Final = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
#: As `make browser` looks for it.
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
#: Milliseconds for the start of a browser, and for whatever a page is waited for: the machine may have other work.
PATIENCE_MS: Final = 60_000


def chromium() -> str | None:
    """The browser: CHRONICLE_CHROMIUM, or the one on the path."""
    named = os.environ.get("CHRONICLE_CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else NAMES))
    return next((path for path in found if path), None)


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """A browser of its own; root needs --no-sandbox. Needs playwright, a development dependency, and a Chromium."""
    from playwright.async_api import async_playwright

    options = [*OFFLINE, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as driver:
        made = await driver.chromium.launch(executable_path=chromium(), args=options, timeout=PATIENCE_MS)
        try:
            yield made
        finally:
            await made.close()
