"""What people and programs read of a run: the JSON, and the pages that are made from it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks import report
from benchmarks.cases import Figure, Row, Spread

RATE = Figure("rate", "events/s", target=100.0, least={"other": 2.0})
GOOD = Row("work", RATE, {"chronicle": Spread((300.0, 310.0)), "other": Spread((100.0,))})
BAD = Row("more", RATE, {}, {"chronicle": "TimeoutError: a | b", "other": "Missing: no wheel"})


def test_the_result_has_the_machine_as_an_object_and_the_rows() -> None:
    """The form that readers are promised: machine, cases; settings and versions besides."""
    found = report.result([GOOD, BAD], "make bench", 60.0)
    assert set(found["machine"]) == {"processor", "cores", "memory_gb", "system"}
    assert [one["name"] for one in found["cases"]] == ["work.rate", "more.rate"]
    assert set(found["settings"]) == {"all", "chronicle"}
    assert json.loads(json.dumps(found)) == found


def test_the_page_shows_what_failed_and_why(tmp_path: Path) -> None:
    """A row without a figure says so; its reason cannot break the table."""
    found = report.result([GOOD, BAD], "make bench", 60.0)
    (tmp_path / "latest.json").write_text(json.dumps(found))
    page = report.markdown(tmp_path)
    good = "| work.rate | 305 events/s | 300 – 310 (2) | other 100 (3.05 ×) | ≥ 100 events/s, ≥ 2 × other | yes |"
    assert good in page
    row = next(line for line in page.splitlines() if line.startswith("| more.rate"))
    assert "FAILED: TimeoutError: a / b" in row
    assert "other FAILED: Missing: no wheel" in row
    assert row.endswith("| no |")
    assert found["date"] in page


def test_a_full_and_a_large_run_stand_on_one_page(tmp_path: Path) -> None:
    """A quick run in between replaces neither."""
    for kind in ("full", "large", "latest"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(report.result([GOOD], f"run {kind}", 60.0)))
    page = report.markdown(tmp_path)
    assert "## `run full`" in page
    assert "## `run large`" in page
    assert "## `run latest`" not in page


def test_a_run_after_a_run_is_of_a_clean_commit(tmp_path: Path) -> None:
    """The page of results that the first one wrote is no change of what the second one measures."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(("git", *who, *words), cwd=tmp_path, check=True, capture_output=True)

    page, code = tmp_path / "results.md", tmp_path / "code.py"
    page.write_text("old")
    code.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = report.commit_of(tmp_path, page.name)
    page.write_text("new")
    assert report.commit_of(tmp_path, page.name) == clean
    code.write_text("2")
    assert report.commit_of(tmp_path, page.name) == f"{clean}-dirty"
