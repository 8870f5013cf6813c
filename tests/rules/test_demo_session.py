"""The made-up session is complete and repeatable."""

from __future__ import annotations

import json

from app.demo.session import HOOK_EVENTS, PROJECTS, Session, demo_sessions, interleaved


def test_every_hook_event_is_in_it() -> None:
    """Someone who adds an event to the list sees it in the demo."""
    assert {body["hook_event_name"] for body in Session(1).events()} == set(HOOK_EVENTS)


def test_the_same_seed_gives_the_same_bodies() -> None:
    """A run can be repeated."""
    assert list(Session(7).events()) == list(Session(7).events())
    assert Session(7).session_id != Session(8).session_id


def test_a_tool_call_has_one_id_before_and_after() -> None:
    """PreToolUse pairs with PostToolUse or PostToolUseFailure."""
    bodies = list(Session(1).events())
    before = [b["tool_use_id"] for b in bodies if b["hook_event_name"] == "PreToolUse"]
    after = [b["tool_use_id"] for b in bodies if b["hook_event_name"] in ("PostToolUse", "PostToolUseFailure")]
    assert sorted(before) == sorted(after)
    assert len(set(before)) == len(before)


def test_two_projects_and_sub_agents_are_mixed_in_order() -> None:
    """Each session keeps its own order among the others."""
    sessions = demo_sessions(3)
    mixed = list(interleaved(sessions, 3))
    assert {body["cwd"] for body in mixed} == set(PROJECTS)
    for session in demo_sessions(3):
        assert [b for b in mixed if b["session_id"] == session.session_id] == list(session.events())
    assert any("agent_id" in body for body in mixed)
    json.dumps(mixed)
