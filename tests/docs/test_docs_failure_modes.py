"""docs/failure-modes.md has a row for every fault of the drill and for F1 to F49, and names no other fault."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import chaos.faults
from chaos.model import Fault
from failure_modes import PAGE, ROWS


def faults() -> Iterator[type[Fault]]:
    """Every fault that can be done, in whatever module it is."""
    for module in pkgutil.walk_packages(chaos.faults.__path__, "chaos.faults."):
        importlib.import_module(module.name)
    waiting = Fault.__subclasses__()
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if not inspect.isabstract(found) and hasattr(found, "name") and found.__module__.startswith("chaos.faults"):
            yield found


CATALOGUE = {fault.name.strip(): fault for fault in faults()}


@pytest.mark.parametrize("number", range(1, 50))
def test_every_row_is_there_with_all_its_cells(number: int) -> None:
    """F1 to F49, once each; what is not there yet says so."""
    assert len(re.findall(rf"^\| F{number} \|", PAGE, re.MULTILINE)) == 1
    cells = ROWS[f"F{number}"]
    assert len(cells) == 5
    assert all(cells)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_fault_of_the_drill_is_in_its_rows(name: str) -> None:
    """Under the name the drill calls it by, in each row it proves."""
    for row in CATALOGUE[name].rows:
        assert f"`{name}`" in ROWS[row][4], f"name `{name}` in the last column of {row} in docs/failure-modes.md"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_faults_that_are_there(row: str) -> None:
    """What was renamed or dropped leaves the page; a row without a fault says that it has none."""
    named = {word for word in re.findall(r"`([^`]+)`", ROWS[row][4]) if not word.startswith("tests/")}
    assert named <= set(CATALOGUE), f"no such fault: {sorted(named - set(CATALOGUE))}"
    wrong = [name for name in named if row not in CATALOGUE[name].rows]
    assert not wrong, f"these do not prove {row}: {wrong}"
    assert named or ROWS[row][4].startswith("–")
