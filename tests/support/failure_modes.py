"""docs/failure-modes.md as the tests read it."""

from __future__ import annotations

import re

from repository import DOCS

PAGE = (DOCS / "failure-modes.md").read_text()
#: row id -> its cells: what fails, what Chronicle does, what to do, where it shows, in the drill.
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if re.match(r"\| F\d+ \|", line)
    for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}
