"""`chronicle tail`, `sessions`, `tools`: what they print, and that no event steers the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner
from rich.console import Console

from app.cli import watch

EVENT: dict[str, Any] = {
    "event_id": "e-1",
    "session_id": "s-1",
    "event_type": "tool_pre_use",
    "occurred_at": 1_763_726_400_000,
    "tool_name": "Bash",
    "project": "shop",
    "agent_type": None,
    "payload": {"tool_input": {"command": "ls -la"}},
}


def shown(**fields: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=False).print(watch.line({**EVENT, **fields}))
    return out.getvalue()


def test_a_line_tells_when_what_and_where() -> None:
    """The first text of the payload that says what it is about."""
    said = shown()
    assert "tool_pre_use Bash ls -la" in said
    assert said.rstrip().endswith("shop")
    assert "Say hello" in shown(payload={"prompt": "Say hello", "tool_input": "no object"})
    assert "s-1" in shown(project=None)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;title\x07", "a\r\nb\x00", "\u202egnp.exe", "\x9b31m"])
def test_no_event_steers_the_terminal(text: str) -> None:
    """Neither escape sequences nor marks that turn the direction of writing come through."""
    said = shown(payload={"prompt": text}, tool_name=text, project=text, event_type=text)
    assert not [sign for sign in said.rstrip("\n") if not sign.isprintable()]


HOSTILE = "mend \x1b[31mit\nnow [/tmp] [link=http://x]y[/link]"


class FakeApi:
    """A server with two answers; the first connection is lost after two messages."""

    asked: list[dict[str, Any]]

    def __init__(self, url: str | None) -> None:
        FakeApi.asked = []

    def lines(self, path: str, **query: str | None) -> Iterator[str]:
        FakeApi.asked.append({"path": path, **{name: value for name, value in query.items() if value}})
        if len(FakeApi.asked) > 1:
            yield from ("id: 3.0", f"data: {json.dumps(EVENT | {'event_id': 'e-2'})}", "")
            raise OSError("gone")
        yield from ("retry: 2000", "id: 0.0", "event: hello", "data: {}", "")
        yield from ("id: 1.0", f"data: {json.dumps(EVENT)}", "")
        yield from ("event: missed", 'data: {"count": 7, "after": "1.0"}', "", "id: 2.0", "")
        raise OSError("gone")

    def get(self, path: str, **query: Any) -> Any:
        FakeApi.asked.append({"path": path, **query})
        times = {"p50_ms": 850.0, "p95_ms": 2500.0, "p99_ms": None}
        tools = [{"name": "Bash", "calls": 1234, "failures": 2, **times}]
        at = {"first_event_at": "2026-01-31T09:30:00.000000Z", "last_event_at": "2026-01-31T09:31:00.000000Z"}
        one = {"session_id": "s-1", "project": None, "machine": "ada", "status": "active", "event_count": 12, **at}
        hit = {
            "occurred_at": at["first_event_at"],
            "event_type": "user_prompt",
            "session_id": "s-1",
            "snippet": HOSTILE,
        }
        return {"items": {"/tools": tools, "/search": [hit]}.get(path, [one]), "note": None}


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "Api", FakeApi)
    monkeypatch.setattr(watch, "AGAIN_S", 0.0)


def test_tail_goes_on_where_it_was_after_a_lost_connection() -> None:
    """At the last place it heard of, also of one without an event."""
    done = CliRunner().invoke(watch.tail, ["--count", "2", "--json", "--type", "tool_pre_use"])
    assert done.exit_code == 0, done.output
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(events) == len(done.stdout.splitlines())
    assert [(event["id"], event["event_id"]) for event in events] == [("1.0", "e-1"), ("3.0", "e-2")]
    assert [asked.get("after") for asked in FakeApi.asked] == [None, "2.0"]
    assert all(asked["type"] == "tool_pre_use" for asked in FakeApi.asked)
    assert "7 events were missed" in done.output


def test_tail_says_at_once_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a connection that was there is waited for."""

    def away(*_: Any, **__: Any) -> Iterator[str]:
        raise click.ClickException("No Chronicle answers.")
        yield ""

    monkeypatch.setattr(FakeApi, "lines", away)
    done = CliRunner().invoke(watch.tail)
    assert done.exit_code == 1
    assert "No Chronicle answers." in done.output


def test_sessions_and_tools_are_tables() -> None:
    """And JSON for programs."""
    done = CliRunner().invoke(watch.tools, ["--hours", "2"])
    assert "Bash   1234       2  850 ms  2.5 s" in done.output
    assert json.loads(CliRunner().invoke(watch.tools, ["--json"]).output)["items"][0]["name"] == "Bash"
    done = CliRunner(env={"COLUMNS": "120"}).invoke(watch.sessions, ["--status", "active"])
    assert FakeApi.asked[-1]["status"] == "active"
    assert "s-1" in done.output
    assert "ada" in done.output
    assert "12" in done.output


def test_sessions_in_a_terminal_of_80_columns_take_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole id, which people copy; of a long project name the end is left out."""
    one = FakeApi(None).get("/sessions")["items"][0]
    long = one | {"session_id": "bf3635e4-e4c5-40ff-8e57-de1e8390df5c", "project": "thoughts-of-a-long-name-2026"}
    monkeypatch.setattr(FakeApi, "get", lambda *_, **__: {"items": [long, one]})
    said = CliRunner(env={"COLUMNS": "80"}).invoke(watch.sessions).output.splitlines()
    assert len(said) == 3
    assert said[1].split() == [long["session_id"], "thoughts-of…", "active", "12", "2026-01-31"]


def test_the_time_of_today_is_told_without_its_day() -> None:
    now = datetime.now().astimezone()
    assert watch._lately(now.isoformat(), now) == now.strftime("%H:%M:%S")
    assert watch._lately("2026-01-31T12:00:00+00:00", now) == "2026-01-31"


def test_search_shows_hits_as_plain_text() -> None:
    """All words in one question; what a client sent cannot colour or break the table."""
    done = CliRunner().invoke(watch.search, ["mend", "it", "--limit", "3"])
    assert (FakeApi.asked[-1]["q"], FakeApi.asked[-1]["limit"]) == ("mend it", 3)
    assert all(text in done.output for text in ("mend ·[31mit now [/tmp]", "[link=http://x]y[/link]"))
