"""The page over many stored events: how soon the first view stands, and whether a busy feed stops it.

Times are the browser's own: from the start of the navigation to the frame in which all of the view is there, and the
longest time between two frames while events come in.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.browser import PATIENCE_MS, browser, chromium
from benchmarks.cases import Round
from benchmarks.query import COUNTED, serving
from benchmarks.running import told

#: How often the page is opened, each time as by somebody new; the first time warms up.
LOOKS: Final = 6
#: Events a second that the feed gets, and for how many seconds.
FEED_RATE, FEED_S = 500, 12
#: Health, sessions and charts: the milliseconds since the navigation began, once all of it is there.
_STANDS: Final = """() => document.querySelectorAll("#checks li").length > 3
    && document.querySelectorAll("#session-rows tr").length > 0
    && document.querySelectorAll("#chart-events polygon.area").length > 0
    && document.querySelectorAll("#chart-week svg, #chart-week table").length > 0
    && performance.now()"""
_WATCH: Final = """() => {
    window.longest = 0;
    let last = performance.now();
    const look = (now) => {
        window.longest = Math.max(window.longest, now - last);
        last = now;
        requestAnimationFrame(look);
    };
    requestAnimationFrame((now) => { last = now; look(now); });
}"""


def page(stored: int) -> Round:
    """A round: `first_view` (ms, median over those who open it) and `longest_stop` (ms, under the feed)."""

    def once() -> Mapping[str, float]:
        if chromium() is None:
            raise RuntimeError("there is no Chromium: `make browser` tells how to get one")
        with serving(stored) as url:
            return asyncio.run(_looked_at(url, stored + COUNTED))

    return once


async def _looked_at(url: str, first: int) -> dict[str, float]:
    async with browser() as chrome:
        took = [await _first_view(chrome, url) for _ in range(LOOKS)]
        return {"first_view": statistics.median(took[1:]), "longest_stop": await _longest_stop(chrome, url, first)}


async def _first_view(chrome: Any, url: str) -> float:
    context = await chrome.new_context()
    try:
        seen = await context.new_page()
        await seen.goto(f"{url}/dashboard/")
        there = await seen.wait_for_function(_STANDS, timeout=PATIENCE_MS)
        return float(await there.json_value())
    finally:
        await context.close()


async def _longest_stop(chrome: Any, url: str, first: int) -> float:
    """While the feed shows what comes. Raises RuntimeError when it shows nothing of it."""
    seen = await chrome.new_page()
    await seen.goto(f"{url}/dashboard/")
    await seen.wait_for_function(_STANDS, timeout=PATIENCE_MS)
    await seen.evaluate(_WATCH)
    events = FEED_RATE * FEED_S
    options = ("--events", events, "--rate", FEED_RATE, "--size", 10, "--first", first)
    await asyncio.to_thread(told, "benchmarks.bulk_load", url, *options)
    if not await seen.locator("#events li").count():
        raise RuntimeError("nothing came into the feed")
    return float(await seen.evaluate("window.longest"))
