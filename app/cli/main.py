"""The group `chronicle`. A command is imported when it is called, so that one does not wait for the others.

To add one: write `app/cli/<name>.py` and enter it in `COMMANDS`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

import rich_click as click

from app.version import version

#: name -> ("module:object", one line for the list of commands), in the order of the list.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("app.cli.demo:demo", "Start everything and play a session through it."),
    "up": ("app.cli.up:up", "Start Kafka, Postgres and Chronicle on this machine."),
    "worker": ("app.cli.worker:worker", "Run one worker process."),
    "config": ("app.cli.config:config", "Check and show the settings."),
    "db": ("app.cli.db:db", "Migrate the database."),
    "topics": ("app.cli.topics:topics", "Make the topics."),
    "dlq": ("app.cli.dlq:dlq", "List, show and replay dead letters."),
    "audit": ("app.cli.audit:audit", "Does everything that was accepted add up?"),
    "aggregates": ("app.cli.aggregates:aggregates", "Are the aggregate tables right? If not, make them anew."),
    "sync": ("app.cli.sync:sync", "Sync-back, and events that claim one id."),
    "drill": ("app.cli.drill:drill", "Break something on purpose, lose nothing."),
    "tail": ("app.cli.watch:tail", "Show events as they flow."),
    "sessions": ("app.cli.watch:sessions", "List sessions, latest activity first."),
    "search": ("app.cli.watch:search", "Find words in prompts, errors and notifications."),
    "tools": ("app.cli.watch:tools", "How often tools are called, fail, and how long they take."),
    "trace": ("app.cli.trace:trace", "Show every hop of one event."),
}


class LazyGroup(click.RichGroup):
    """A group whose commands are modules; the list of commands needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of `COMMANDS`; those not written yet are left out."""
        return [name for name, (target, _) in COMMANDS.items() if _exists(target)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A stand-in with the command's line in the list; `resolve_command` has the real one."""
        if cmd_name not in COMMANDS:
            return None
        return click.RichCommand(name=cmd_name, short_help=COMMANDS[cmd_name][1])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """What is called is imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name, load(COMMANDS[name][0]), rest) if name in COMMANDS else (name, command, rest)


def load(target: str) -> click.Command:
    """The command behind "module:object"."""
    module, _, name = target.partition(":")
    command: click.Command = getattr(importlib.import_module(module), name)
    return command


def _exists(target: str) -> bool:
    return importlib.util.find_spec(target.partition(":")[0]) is not None


@click.group(cls=LazyGroup)
@click.version_option(version(), prog_name="chronicle", message="%(prog)s %(version)s")
def cli() -> None:
    """Collects the hook events of Claude Code, carries them through Kafka, lands each exactly once in Postgres."""
