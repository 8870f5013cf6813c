"""The dashboard as people see it: a real browser on a real stack. Skipped, saying so, where there is no Chromium."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from app.demo.session import PROJECTS, Session
from app.stack.ports import free_port
from app.stack.postgres import Postgres
from browser import Looking, browser, looking, require
from recorded import RECORDED, bodies
from running import rows, settled, until, up

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

#: Sessions that are opened one after the other.
SHOWN = 8
HOSTILE = {
    "html": "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "ansi": "\x1b[31mred\x1b[0m \x07",
    "rtl": "\u202eevil\u202c مرحبا",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "long": "x" * 850_000,
}


class Stack:
    """A running Chronicle with a Postgres that can be stopped, and a browser."""

    def __init__(self, url: str, postgres: Postgres, http: aiohttp.ClientSession, browser: Any) -> None:
        self.url, self.postgres, self.http, self.browser = url, postgres, http, browser
        self.taken = 0  # events that were answered with a 2xx

    async def hooks(self, bodies: Iterable[dict[str, Any]]) -> None:
        """As Claude Code sends them."""
        for body in bodies:
            async with self.http.post(f"{self.url}/hooks/claude-code", json=body) as answer:
                assert answer.status < 300, await answer.text()
                self.taken += 1

    async def events(self, events: list[dict[str, Any]]) -> None:
        async with self.http.post(f"{self.url}/events", json=events) as answer:
            assert answer.status < 300, await answer.text()
            self.taken += len(events)

    async def settled(self) -> None:
        """Wait until Postgres has all that was sent: the ledger of a moment ago may know of less."""
        await settled(self.http, self.url, accepted=self.taken)

    async def stored(self, session: str, events: int) -> None:
        """Wait until a database has so many events of it: the feed is quicker."""

        async def there() -> bool:
            async with self.http.get(f"{self.url}/sessions/{quote(session, safe='')}") as answer:
                return answer.status == 200 and (await answer.json())["event_count"] >= events

        await until(there, what=f"{events} events of {session}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    require()
    folder = tmp_path_factory.mktemp("browser")
    postgres = Postgres(folder / "pg", free_port())
    postgres.start()
    try:
        async with (
            up(folder, "--database", postgres.dsn) as ready,
            aiohttp.ClientSession() as http,
            browser() as made,
        ):
            yield Stack(ready["url"], postgres, http, made)
    finally:
        postgres.stop()


async def count(seen: Looking, selector: str, least: int, seconds: float = 45) -> None:
    """Wait until there are that many."""

    async def there() -> bool:
        return bool(await seen.page.locator(selector).count() >= least)

    await until(there, seconds=seconds, what=f"{least} of {selector}")


async def test_an_empty_page_tells_how_to_begin(stack: Stack) -> None:
    """What to put into the settings of Claude Code, with the address of this server."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await seen.page.locator("#empty").wait_for(state="visible")
        told = json.loads(await seen.page.locator("#how").inner_text())["hooks"]
        assert told["PostToolUse"][0]["hooks"][0]["url"] == f"{stack.url}/hooks/claude-code"
        assert told["SessionStart"][0]["hooks"][0]["type"] == "command"
        await seen.picture("empty")


async def test_a_session_is_seen_arriving(stack: Stack) -> None:
    """Live, without a reload: its events in the feed, itself in the list, its tools in the charts."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await seen.page.get_by_text("live", exact=True).wait_for()
        bodies = list(Session(7, PROJECTS[0]).events())
        await stack.hooks(bodies)
        await stack.hooks(Session(8, PROJECTS[1]).events())
        await count(seen, "#events li", len(bodies))
        await count(seen, "#session-rows tr", 2)
        assert any("Find out why" in row for row in await seen.rows())
        await count(seen, "#chart-tools .bars li", 3)
        assert await seen.page.locator("#empty").is_hidden()
        await seen.page.locator("#checks", has_text="nothing lost").wait_for()
        await seen.picture("dashboard")


async def test_the_page_says_what_is_stored(stack: Stack) -> None:
    """The number of events of a session is that of the database."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await count(seen, "#session-rows tr", 2)

        async def equal() -> bool:
            async with stack.http.get(f"{stack.url}/sessions") as answer:
                wanted = {one["session_id"]: str(one["event_count"]) for one in (await answer.json())["items"]}
            shown = {}
            for session in wanted:
                cell = seen.page.locator(f'#session-rows tr[data-session="{session}"] td.number')
                shown[session] = re.sub(r"\D", "", await cell.text_content() or "")
            return shown == wanted

        await until(equal, what="the numbers of the database")


async def test_a_filter_narrows_the_feed_and_stays_in_the_address(stack: Stack) -> None:
    """So the view can be sent to somebody."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await count(seen, "#events li", 20)
        await seen.page.locator("input[name=tool]").fill("Bash")

        async def narrowed() -> bool:
            rows = await seen.rows()
            return bool(rows) and all("Bash" in row for row in rows)

        await until(narrowed, what="only Bash")
        assert "tool=Bash" in seen.page.url
        await seen.page.reload()
        await until(narrowed, what="only Bash, after a reload")
        assert await seen.page.locator("input[name=tool]").input_value() == "Bash"
        await seen.picture("filter")


async def test_a_session_opens_as_a_timeline(stack: Stack) -> None:
    """Lanes for sub-agents, calls with duration and outcome, the payload pretty and raw."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await seen.page.locator("#session-rows tr").first.click()
        await count(seen, "#detail .steps li", 20)
        assert await seen.page.locator("#detail .timeline text").count() >= 3  # main, a sub-agent, the ends
        outcomes = await seen.page.locator("#detail .outcome").all_inner_texts()
        assert any("failed" in one for one in outcomes)
        assert any(re.search(r"ok · \d", one) for one in outcomes)
        await seen.page.locator("#detail .steps li.call button").first.click()
        text = seen.page.locator("#detail .payload pre").first
        assert "\n  " in await text.inner_text()
        await seen.page.get_by_role("button", name="Raw").first.click()
        assert "\n" not in await text.inner_text()
        assert "open=" in seen.page.url
        await seen.picture("session")
        await seen.page.keyboard.press("Escape")
        await seen.page.locator("#detail").wait_for(state="hidden")


async def test_a_search_leads_to_the_place(stack: Stack) -> None:
    """A word of a prompt, a hit, the session it is from."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await seen.page.locator("#find").fill("discount cart")
        hit = seen.page.locator("#hits li button").first
        await hit.wait_for()
        assert "discount code" in await hit.inner_text()
        await hit.click()
        await count(seen, "#detail .steps li", 20)
        await seen.page.locator("#detail .payload pre", has_text="discount code").wait_for()


async def test_everything_goes_by_keyboard(stack: Stack) -> None:
    """Search, pause, move, open, close."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await count(seen, "#events li", 5)
        await seen.page.keyboard.press("/")
        assert await seen.page.evaluate("document.activeElement.name") == "text"
        await seen.page.locator("#feed-title").click()
        await seen.page.keyboard.press("p")
        assert await seen.page.locator("#pause").get_attribute("aria-pressed") == "true"
        await seen.page.keyboard.press("j")
        await seen.page.keyboard.press("Enter")
        await seen.page.locator("#detail[open]").wait_for()
        await seen.page.keyboard.press("Escape")
        await seen.page.locator("#detail").wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_light_and_dark_follow_the_system_and_the_button(stack: Stack, scheme: str) -> None:
    """The text is readable on its ground in both; the choice outlives a reload."""
    async with looking(stack.browser, stack.url, color_scheme=scheme) as seen:
        await seen.open()
        await count(seen, "#events li", 5)
        ground = "getComputedStyle(document.body.parentElement).backgroundColor"
        before = await seen.page.evaluate(ground)
        light = sum(map(int, re.findall(r"\d+", before)[:3])) > 380
        assert light == (scheme == "light")
        await count(seen, "#chart-tools .bars li", 3)
        await seen.picture(f"page-{scheme}")
        await seen.page.locator("#theme").click()
        after = await seen.page.evaluate(ground)
        await seen.page.reload()
        assert before != after == await seen.page.evaluate(ground)


async def test_a_narrow_screen_needs_no_sideways_scrolling(stack: Stack) -> None:
    """As on a telephone."""
    async with looking(stack.browser, stack.url, viewport={"width": 390, "height": 844}) as seen:
        await seen.open()
        await count(seen, "#events li", 5)
        await count(seen, "#session-rows tr", 2)
        width = await seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        await seen.picture("narrow")


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280, 1500])
async def test_the_list_of_sessions_fits_its_card(stack: Stack, width: int) -> None:
    """Columns that matter less give way; what is left is not cut at the edge."""
    async with looking(stack.browser, stack.url, viewport={"width": width, "height": 844}) as seen:
        await seen.open()
        await count(seen, "#session-rows tr", 2)
        card = await seen.page.evaluate("(({scrollWidth, clientWidth}) => [scrollWidth, clientWidth])(sessions)")
        assert card[0] <= card[1]


async def test_hostile_payloads_do_no_harm(stack: Stack) -> None:
    """HTML, control characters, text from right to left, emoji, 850 KB: shown as text, and nothing runs."""
    session = {"session_id": "<b>hostile</b>", "cwd": "/p/<i>x</i>"}
    events = [{"event_type": "user_prompt", "payload": {"prompt": text}, **session} for text in HOSTILE.values()]
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await count(seen, "#events li", 5)
        await stack.events([{key: value for key, value in event.items() if key != "cwd"} for event in events])
        row = seen.page.locator('#events li[data-session="<b>hostile</b>"]')
        await row.first.wait_for()
        assert await seen.page.locator("#events img, #events script, #events b").count() == 0
        await stack.stored("<b>hostile</b>", len(events))
        await row.filter(has_text="onerror").first.click()
        await seen.page.locator("#detail .payload pre", has_text="onerror=alert(1)").first.wait_for()
        assert await seen.page.locator("#detail img, #detail b").count() == 0


async def test_the_feed_keeps_up_with_a_burst(stack: Stack) -> None:
    """Thousands of events at once: the page goes on answering, and holds no more rows than a person looks through."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await seen.page.get_by_text("live", exact=True).wait_for()
        for number in range(10):
            burst = [{"session_id": "burst", "event_type": "tool_pre_use", "payload": {"n": n}} for n in range(500)]
            burst[-1]["payload"] = {"prompt": f"last of {number}"}
            await stack.events(burst)
        await seen.page.locator("#events li", has_text="last of 9").first.wait_for()
        assert await seen.page.locator("#events li").count() <= 300
        await seen.page.locator("#pause").click()
        assert await seen.page.locator("#pause").get_attribute("aria-pressed") == "true"


async def test_an_outage_of_postgres_is_told_and_told_to_be_over(stack: Stack) -> None:
    """Writing to SQLite, nothing lost; then how many were brought back. The page goes on meanwhile."""
    async with looking(stack.browser, stack.url) as seen:
        await seen.open()
        await count(seen, "#events li", 5)
        await stack.settled()
        await seen.page.locator("#checks", has_text="nothing lost").wait_for()
        stack.postgres.stop()
        session = list(Session(int(time.time()), PROJECTS[0]).events())
        await stack.hooks(session)
        banner = seen.page.locator("#banner")
        await seen.page.get_by_text(re.compile("writing to SQLite, [1-9].* there, 0 lost")).wait_for()
        assert "warn" in (await banner.get_attribute("class") or "")
        await seen.picture("failover")
        stack.postgres.start()
        await seen.page.get_by_text(re.compile("synced .*0 lost")).wait_for(timeout=90_000)
        await seen.picture("synced")
    await stack.settled()


async def test_recorded_sessions_are_shown_as_they_are_stored(stack: Stack) -> None:
    """Events and tool calls of each, by SQL; the recorded ones where they lie beside the checkout, else played ones."""
    payloads = list(bodies()) if RECORDED.is_dir() else list(Session(9, PROJECTS[0]).events())
    await stack.hooks(payloads)
    await stack.settled()
    calls = "count(*) FILTER (WHERE event_type = 'tool_pre_use' AND tool_use_id IS NOT NULL)"
    stored = await rows(
        stack.postgres.dsn, f"SELECT session_id, count(*) AS events, {calls} AS calls FROM events GROUP BY 1"
    )
    sent = {body["session_id"] for body in payloads}
    async with looking(stack.browser, stack.url) as seen:
        for row in [row for row in stored if row["session_id"] in sent][:SHOWN]:
            await seen.open(f"?open={quote(row['session_id'])}")
            name = seen.page.locator("#detail dt", has_text=re.compile("^Events$"))
            told = name.locator("xpath=following-sibling::dd[1]")
            assert re.sub(r"\D", "", await told.inner_text()) == str(row["events"])
            assert await seen.page.locator("#detail .steps li.call").count() == row["calls"]
