"""The figures in the pages come from the JSON of a run, by a command, and from nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.cases import Figure, Row, Spread
from benchmarks.pages import BLOCKS, PAGES, filled
from benchmarks.result import told

PAGE = "before\n<!-- figures: {} -->\nNot measured yet.\n<!-- end of figures -->\nbehind\n"
PROFILE = {
    "bytes": 1000,
    "stages": {"decode": {"ours": 3.0, "floor": 2.0}, "rows": {"ours": 1.0, "floor": None}},
    "ways": {
        "bulks": {
            "events_per_s": 30_000,
            "us": {"ingest": 12.0, "stream": 18.0, "kafka": 6.0, "postgres": 3.0},
            "cores": {
                "ingest": 0.36,
                "stream": 0.54,
                "kafka": 0.2,
                "postgres": 0.1,
                "idle": 0.3,
            },
        }
    },
}


def test_a_block_without_a_run_stays_as_it_is(tmp_path: Path) -> None:
    """No figure is better than one that nobody measured."""
    assert filled(PAGE.format("full"), tmp_path) == PAGE.format("full")


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    """A second time gives the same page."""
    row = Row("work", Figure("rate", "events/s"), {"chronicle": Spread((300.0,))})
    (tmp_path / "full.json").write_text(json.dumps(report.result([row], "make bench", 60.0)))
    page = filled(PAGE.format("full"), tmp_path)
    assert page.startswith("before\n<!-- figures: full -->\n`make bench`")
    assert "| work.rate | 300 events/s |" in page
    assert "Not measured" not in page
    assert page.endswith("<!-- end of figures -->\nbehind\n")
    assert filled(page, tmp_path) == page


def test_stages_stand_beside_their_limit(tmp_path: Path) -> None:
    """A stage without one has an empty cell."""
    (tmp_path / "profile.json").write_text(json.dumps(told("profile", PROFILE)))
    page = filled(PAGE.format("stages"), tmp_path)
    assert "| decode | 3 | 2 | 1.5 × |" in page
    assert "| rows | 1 |  |  |" in page
    assert "| bulks | 30,000 | 12 | 18 | 6 | 3 |" in page
    assert "| bulks | 30,000 | 0.36 | 0.54 | 0.2 | 0.1 | 0.3 |" in page


def test_sizes_follow_from_what_an_event_costs(tmp_path: Path) -> None:
    """100,000 events/s at 18 µs are 1.8 cores of work; 60 % busy they are three."""
    (tmp_path / "profile.json").write_text(json.dumps(told("profile", PROFILE)))
    page = filled(PAGE.format("sizes"), tmp_path)
    assert "| 100,000 | 2.0 | 3.0 | 1.0 | 0.5 | 3 | 8 | 200 | 121.0 |" in page
    assert "| 10,000 | 0.2 | 0.3 | 0.1 | 0.1 | 1 | 4 | 20 | 12.1 |" in page


def test_an_unknown_block_is_a_mistake(tmp_path: Path) -> None:
    """It would stay empty for ever."""
    with pytest.raises(ValueError, match="no figures 'nothing'"):
        filled(PAGE.format("nothing"), tmp_path)


def test_the_pages_have_a_place_for_every_set_of_figures() -> None:
    """Each once, over all pages."""
    named = [name for page in PAGES for name in re.findall(r"<!-- figures: (\w+) -->", page.read_text())]
    assert sorted(named) == sorted(BLOCKS)
