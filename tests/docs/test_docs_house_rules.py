"""Rules of the house that reading the files can check: what is never named, docstrings, sizes, settings in use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from app.cli.config import rows
from repository import HOUSE, modules, name, texts

#: Put together here, so that this file does not name them.
HOSTS = (
    *(".".join(("pypi", "org")), ".".join(("pythonhosted", "org")), ".".join(("files", "pythonhosted"))),
    *(f"{first}.maven" for first in ("repo", "repo1")),
    *(".".join((*first, "docker", "io")) for first in ((), ("index",), ("registry-1",))),
    *(".".join((first, "io")) for first in ("ghcr", "quay", "gcr", "crates")),
    *(".".join(parts) for parts in (("registry", "npmjs"), ("proxy", "golang"))),
)
PATHS = tuple("/".join(("", *parts)) for parts in (("work", "main"), ("work", "shared"), ("tmp", "dev"), ("root", "")))
#: Notes that the code was made from are not in the repository: who reads it cannot look there.
NOTES = re.compile(
    r"\b[1-9]-(?:architecture|delivery|checklist|claude-code|libraries|style|performance)\b"
    r"|(?:checklist|delivery|style) §|\bshared/(?:design|seeds)\b"
)
LONGEST = 400


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """file:line of what must not be there."""
    return [
        f"{name(path)}:{number}: {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_registry() -> None:
    """Everything comes from whatever index and registry a machine is set up for."""
    hosts = "|".join(map(re.escape, HOSTS))
    found = lines_with(re.compile(rf"(?<![\w.-])(?:{hosts})(?![\w-])"))
    assert not found, f"say it without the host: {found}"


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    """A path that exists on one machine only is of no use to others."""
    paths = "|".join(map(re.escape, PATHS))
    found = lines_with(re.compile(rf"(?<![\w.-])(?:{paths})"))
    assert not found, f"say it without the path: {found}"


def test_no_file_points_at_notes_outside() -> None:
    """A reference must lead somewhere: say the rule itself, or link a page below docs/."""
    found = lines_with(NOTES)
    assert not found, f"say what is meant instead: {found}"


def test_every_module_says_what_it_is() -> None:
    """Its docstring is the first thing in the file; only an empty `__init__.py` needs none."""
    written = [path for path in modules() if path.stat().st_size]
    silent = [name(path) for path in written if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, f"begin them with a docstring: {silent}"


def test_every_module_is_short_enough_to_read() -> None:
    """Beyond 400 lines a module does two things."""
    lengths = {name(path): len(path.read_text().splitlines()) for path in modules()}
    long = {path: lines for path, lines in lengths.items() if lines > LONGEST}
    assert not long, f"part them: {long}"


def read_attributes() -> Iterator[tuple[str, str]]:
    """(owner, attribute) of every `owner.attribute` and `x.owner.attribute` in the house."""
    for path in modules(*HOUSE):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                if isinstance(owner, ast.Attribute):
                    yield owner.attr, node.attr
                elif isinstance(owner, ast.Name):
                    yield owner.id, node.attr


def test_every_setting_does_something() -> None:
    """A setting that nobody reads is a promise that nobody keeps: wire it or take it out."""
    aliases = {"batching": {"batching", "wanted"}, "logging": {"logging", "settings"}}  # house.py, telemetry.py
    read = set(read_attributes())
    idle = []
    for setting, *_ in rows():
        section, _, key = setting.rpartition(".")
        owners = aliases.get(section, {section}) if section else {"settings", "self"}
        if not any((owner, key) in read for owner in owners):
            idle.append(setting)
    assert not idle, f"nothing reads these settings: {idle}"
