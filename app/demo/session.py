"""A realistic Claude Code session, made by rule: every hook event, two projects, sub-agents, a tool that fails.

Pure: the same seed gives the same bodies. Used by `chronicle demo`, the tests and the load generators.
Real payloads are never shipped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

Body = dict[str, Any]

#: The hook events of Claude Code 2.1.251 and later (docs/events.md tells their fields).
HOOK_EVENTS = (
    "SessionStart", "Setup", "UserPromptSubmit", "UserPromptExpansion", "PreToolUse", "PermissionRequest",
    "PermissionDenied", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification", "MessageDisplay",
    "SubagentStart", "SubagentStop", "TaskCreated", "TaskCompleted", "Stop", "StopFailure", "TeammateIdle",
    "InstructionsLoaded", "ConfigChange", "CwdChanged", "DirectoryAdded", "FileChanged", "WorktreeCreate",
    "WorktreeRemove", "PreCompact", "PostCompact", "Elicitation", "ElicitationResult", "SessionEnd",
    "PreModelSwitch", "PostModelSwitch",
)  # fmt: skip

PROJECTS = ("/home/dev/shop-api", "/home/dev/shop-web")
PROMPTS = (
    "The checkout test fails since yesterday. Find out why and mend it.",
    "Add a discount code field to the cart page 🛒 and test it.",
    "continue",
    "Write the changelog entry, then run the whole test suite.",
)


class Session:
    """Makes the bodies of one session in one project, in the order Claude Code would send them."""

    def __init__(self, seed: int, cwd: str = PROJECTS[0]) -> None:
        self._random = random.Random(seed)
        self._cwd = cwd
        self.session_id = self._uuid()
        self._prompt_id: str | None = None

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _token(self, prefix: str) -> str:
        letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
        return prefix + "".join(self._random.choices(letters, k=22))

    def body(self, event: str, /, **fields: Any) -> Body:
        """One hook body with the fields that all events share."""
        shared: Body = {
            "session_id": self.session_id,
            "transcript_path": f"/home/dev/.claude/projects{self._cwd.replace('/', '-')}/{self.session_id}.jsonl",
            "cwd": self._cwd,
            "hook_event_name": event,
        }
        if self._prompt_id:
            shared |= {"prompt_id": self._prompt_id, "permission_mode": "default"}
        return shared | fields

    def events(self) -> Iterator[Body]:
        """The whole session."""
        yield self.body("Setup", trigger="init")
        yield self.body("SessionStart", source="startup", model="claude-sonnet-5")
        yield self.body(
            "InstructionsLoaded", file_path=f"{self._cwd}/CLAUDE.md", memory_type="Project", load_reason="session_start"
        )
        for number, prompt in enumerate(PROMPTS):
            self._prompt_id = self._uuid()
            yield self.body("UserPromptSubmit", prompt=prompt)
            yield from self._turn(number)
            yield self._stop("Stop", f"Done: {prompt}")
        yield from self._rare()
        yield self.body("SessionEnd", reason="prompt_input_exit")

    def _turn(self, number: int) -> Iterator[Body]:
        yield self._message("Let me look.")
        yield from self._tool(
            "Read", {"file_path": f"{self._cwd}/src/cart.py"}, {"type": "text", "content": "x = 1\n" * 40}
        )
        if number == 0:
            yield from self._failing_tool()
            yield from self._subagent("Explore", "code-explorer")
        if number == 1:
            yield from self._permission()
            yield from self._edit()
            yield from self._subagent("general-purpose", "tester")
        yield from self._tool(
            "Bash", {"command": "pytest -q", "description": "Run the tests"}, self._shell("41 passed in 2.3s")
        )
        if number == 3:
            yield from self._compaction()

    def _shell(self, stdout: str) -> Body:
        return {"stdout": stdout, "stderr": "", "interrupted": False, "isImage": False}

    def _tool(self, name: str, tool_input: Body, response: Any, **agent: str) -> Iterator[Body]:
        use = self._token("toolu_")
        call: Body = {"tool_name": name, "tool_input": tool_input, "tool_use_id": use}
        yield self.body("PreToolUse", **call, **agent)
        duration = self._random.randint(3, 900)
        yield self.body("PostToolUse", **call, tool_response=response, duration_ms=duration, **agent)
        yield self.body("PostToolBatch", tool_calls=[call | {"tool_response": str(response)[:200]}], **agent)

    def _failing_tool(self) -> Iterator[Body]:
        call: Body = {
            "tool_name": "Bash",
            "tool_input": {"command": "pytest tests/test_checkout.py", "description": "Run the failing test"},
            "tool_use_id": self._token("toolu_"),
        }
        yield self.body("PreToolUse", **call)
        error = "Exit code 1\nFAILED tests/test_checkout.py::test_total - assert 99 == 100"
        yield self.body("PostToolUseFailure", **call, error=error, is_interrupt=False, duration_ms=1840)

    def _edit(self) -> Iterator[Body]:
        path = f"{self._cwd}/src/cart.py"
        edit = {"file_path": path, "old_string": "total = 99", "new_string": "total = 100"}
        yield from self._tool("Edit", edit, {"filePath": path, "originalFile": "# cart\n" * 300, "userModified": False})
        yield self.body("FileChanged", file_path=path, event="change")

    def _permission(self) -> Iterator[Body]:
        asked: Body = {"tool_name": "Bash", "tool_input": {"command": "rm -rf build"}}
        yield self.body("PermissionRequest", **asked, permission_suggestions=[])
        yield self.body("PermissionDenied", **asked, tool_use_id=self._token("toolu_"), reason="The user said no.")
        yield self.body("Notification", message="Claude needs your permission", notification_type="permission_prompt")

    def _subagent(self, kind: str, name: str) -> Iterator[Body]:
        agent = {"agent_id": f"{self._random.getrandbits(64):016x}", "agent_type": kind}
        yield self.body("SubagentStart", **agent)
        yield from self._tool(
            "Grep", {"pattern": name, "path": self._cwd}, [{"type": "text", "text": "3 files"}], **agent
        )
        yield self._stop("SubagentStop", f"{name}: nothing suspicious found.", **agent)

    def _stop(self, event: str, last: str, **agent: str) -> Body:
        return self.body(
            event, stop_hook_active=False, last_assistant_message=last, background_tasks=[], session_crons=[], **agent
        )

    def _message(self, text: str) -> Body:
        return self.body(
            "MessageDisplay", turn_id=self._uuid(), message_id=self._uuid(), index=0, final=True, delta=text
        )

    def _compaction(self) -> Iterator[Body]:
        yield self.body("PreCompact", trigger="auto", custom_instructions=None)
        yield self.body("PostCompact", trigger="auto", compact_summary="<summary>The cart total was mended.</summary>")
        yield self.body("SessionStart", source="compact", model="claude-sonnet-5", context_tokens=21000)

    def _rare(self) -> Iterator[Body]:
        """One of each event that a usual session does not have."""
        task: Body = {"task_id": "1", "task_subject": "Mend the total", "task_description": "See the failing test"}
        yield self.body("TaskCreated", **task)
        yield self.body("TaskCompleted", **task)
        yield self.body("TeammateIdle", teammate_name="reviewer", team_name="shop")
        yield self.body(
            "UserPromptExpansion", expansion_type="slash_command", command_name="review", command_args="",
            command_source="projectSettings", prompt="/review",
        )  # fmt: skip
        yield self.body("ConfigChange", source="project_settings", file_path=f"{self._cwd}/.claude/settings.json")
        yield self.body("CwdChanged", old_cwd=self._cwd, new_cwd=f"{self._cwd}/src")
        yield self.body("DirectoryAdded", directory=f"{self._cwd}/../docs", source="cli")
        yield self.body("WorktreeCreate", name="try-it")
        yield self.body("WorktreeRemove", worktree_path=f"{self._cwd}/.worktrees/try-it")
        yield self.body(
            "Elicitation", mcp_server_name="jira", message="Which ticket?", mode="form", elicitation_id="e1"
        )
        yield self.body(
            "ElicitationResult",
            mcp_server_name="jira",
            action="accept",
            content={"ticket": "SHOP-12"},
            elicitation_id="e1",
        )
        yield self.body("PreModelSwitch", from_model="claude-sonnet-5", to_model="claude-opus-5", source="command")
        yield self.body("PostModelSwitch", from_model="claude-sonnet-5", to_model="claude-opus-5", source="command")
        yield self.body("StopFailure", error="rate_limit", last_assistant_message="Try again in a minute.")


def demo_sessions(seed: int) -> tuple[Session, ...]:
    """Two sessions side by side, one in each project."""
    return tuple(Session(seed * 100 + number, cwd) for number, cwd in enumerate(PROJECTS))


def interleaved(sessions: tuple[Session, ...], seed: int) -> Iterator[Body]:
    """The events of all sessions as they would arrive: each in its own order, mixed with the others."""
    chooser = random.Random(seed)
    streams = [session.events() for session in sessions]
    while streams:
        stream = chooser.choice(streams)
        body = next(stream, None)
        if body is None:
            streams.remove(stream)
        else:
            yield body
