"""docs/operate.md tells every metric and every command, and no page tells a command that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from app.cli.main import COMMANDS, load
from repository import DOCS, HOUSE, ROOT, modules, name, pages
from schemas.metrics import METRICS, MetricSpec

OPERATE = (DOCS / "operate.md").read_text()
TOLD = OPERATE + (ROOT / "README.md").read_text()
#: The README promises these and says that they are not there yet; take a word out when its command comes.
PROMISED = {"hooks"}
_CALL = re.compile(r"`chronicle ([a-z]+)(?: ([a-z]+))?")


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command and sub-command."""
    for word, (target, _) in COMMANDS.items():
        found = load(target)
        if isinstance(found, click.Group):
            yield from ((word, inner) for inner in found.commands)
        else:
            yield (word,)


def exists(word: str, inner: str | None) -> bool:
    """Whether `chronicle word inner` is a command; what follows a command without sub-commands is its own affair."""
    if word not in COMMANDS:
        return word in PROMISED
    found = load(COMMANDS[word][0])
    return not isinstance(found, click.Group) or inner is None or inner in found.commands


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_docs_tell_every_metric_with_its_labels(metric: MetricSpec) -> None:
    """One row in the table of docs/operate.md: name, labels, meaning, what to do when it rises."""
    row = re.search(rf"^\| `{metric.name}` \| (.*?) \| (.+?) \| (.+?) \|$", OPERATE, re.MULTILINE)
    assert row, f"add a row for {metric.name} to the table of metrics in docs/operate.md"
    assert row[1] == (", ".join(metric.labels) or "–"), f"the labels of {metric.name} are {metric.labels}"


def test_docs_tell_no_metric_that_is_not_there() -> None:
    """A metric that was renamed or dropped leaves every page."""
    named = {word for page in pages() for word in re.findall(r"\bchronicle_[a-z_]+\b", page.read_text())}
    unknown = named - {metric.name for metric in METRICS}
    assert not unknown, f"not in schemas/metrics.py: {sorted(unknown)}"


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_docs_tell_every_command(words: tuple[str, ...]) -> None:
    """As `chronicle word`, in code, in docs/operate.md or the README."""
    call = f"`chronicle {' '.join(words)}"
    assert re.search(re.escape(call) + r"\b", TOLD), f"write {call}` into the table of commands in docs/operate.md"


def test_every_command_that_is_told_exists() -> None:
    """Pages and error messages name no command that nobody can call: a remedy must work."""
    wrong = [
        f"{name(path)}: {call[0]}`"
        for path in (*pages(), *modules(*HOUSE))
        for call in _CALL.finditer(path.read_text())
        if not exists(call[1], call[2])
    ]
    assert not wrong, f"no such command: {wrong}"
