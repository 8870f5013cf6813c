"""docs/checklist.md: every id once, and whatever it names is there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from typing import NamedTuple

import click
import pytest

from all_routes import all_routes
from app.cli.config import rows as settings
from app.cli.main import COMMANDS, load
from repository import DOCS, ROOT
from schemas.metrics import METRICS
from schemas.topics import topics

PAGE = (DOCS / "checklist.md").read_text()
#: How many items each source has.
SOURCES = {"S0": 135, "S1": 65, "S2": 35, "S3": 25, "S4": 15}
_ITEM = re.compile(r"^\| (S\d-\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_RANGE = re.compile(r"(S\d)-(\d+)(?:–(\d+))?")


class Item(NamedTuple):
    """One line of the page."""

    id: str
    duty: str
    where: str
    test: str
    state: str


ITEMS = [Item(*found) for found in _ITEM.findall(PAGE)]


@cache
def functions_of(path: str) -> frozenset[str]:
    """The names of the test functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_there(words: str) -> bool:
    """Whether what stands in code is a file, route, command, setting, metric, topic, table, option or name of ours."""
    if words.startswith(("GET ", "POST ")):
        return words in {f"{route.method} {route.path}" for route in all_routes()}
    if words.startswith("chronicle "):
        return is_command(words.split()[1:])
    if "/" in words:
        return (ROOT / words).exists()
    if words in {row[0] for row in settings()} | {metric.name for metric in METRICS}:
        return True
    names = {topic.name for topic in topics(prefix="chronicle", partitions=1).all()}
    return words in names or words.isidentifier() or (ROOT / words).exists()


def is_command(words: list[str]) -> bool:
    """Whether `chronicle words …` exists, with its options."""
    if words[0] not in COMMANDS:
        return False
    found = load(COMMANDS[words[0]][0])
    if isinstance(found, click.Group) and len(words) > 1:
        found = found.commands.get(words[1])  # type: ignore[assignment]
    options = {option for parameter in getattr(found, "params", []) for option in parameter.opts}
    return found is not None and all(word in options for word in words if word.startswith("--"))


def test_every_id_is_there_once() -> None:
    """As a line of the table or in the closing list of what is open."""
    closing = PAGE.rpartition("Open, every other item:")[2]
    listed = [
        f"{source}-{number:02d}"
        for source, first, last in _RANGE.findall(closing)
        for number in range(int(first), int(last or first) + 1)
    ]
    wanted = {f"{source}-{number:02d}" for source, count in SOURCES.items() for number in range(1, count + 1)}
    found = Counter(item.id for item in ITEMS) + Counter(listed)
    assert set(found) == wanted, f"missing or unknown: {sorted(set(found) ^ wanted)}"
    assert found.most_common(1)[0][1] == 1, f"twice: {found.most_common(3)}"


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_what_an_item_names_is_there(item: Item) -> None:
    """Files, routes, commands, settings; a test by file and function."""
    named = re.findall(r"`([^`]+)`", item.where)
    assert named, f"{item.id}: say where it is"
    routes = re.findall(r"`((?:GET|POST) [^`]+)`", item.duty)
    missing = [words for words in (*named, *routes) if not is_there(words)]
    assert not missing, f"{item.id}: not in the repository: {missing}"
    if item.test != "–":
        path, _, function = item.test.strip("`").partition("::")
        assert (ROOT / path).is_file(), f"{item.id}: there is no {path}"
        assert function in functions_of(path), f"{item.id}: {path} has no {function}"


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_an_item_that_is_done_has_a_test(item: Item) -> None:
    """Without one it is in part, or open, and says what is missing."""
    assert item.state == "done" or re.match(r"(in part|open): .{5,}", item.state), f"{item.id}: {item.state}"
    assert item.state != "done" or item.test != "–", f"{item.id}: name the test that shows it, or say what is missing"
