"""The named fault points: where they are, that they cost nothing unless asked for, and what they do then."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.dedupe import POINTS as DEDUPE_POINTS
from schemas import points
from schemas.points import POINTS

ROOT = Path(__file__).parents[2]
PASS = "import sys; from pathlib import Path; from schemas import points; points.arm(Path(sys.argv[1])); "


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    """This process is armed with an empty folder while the test runs."""
    points.arm(tmp_path)
    yield tmp_path
    points.arm(None)


def called() -> Iterator[tuple[Path, str]]:
    """Every `points.at("name")` of the product."""
    for folder in ("schemas", "connectors", "tables", "agents", "app"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "points.at":
                    argument = node.args[0]
                    if isinstance(argument, ast.Constant):
                        yield path, str(argument.value)


def child(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """A process that arms itself and runs `code`."""
    return subprocess.Popen([sys.executable, "-c", PASS + code, str(folder)], cwd=ROOT)


def test_points_listed_are_the_points_passed_somewhere() -> None:
    """No name is listed that nobody passes, none is passed that is not listed."""
    names = [name for _, name in called()]
    assert {*names, *DEDUPE_POINTS} == set(POINTS)
    assert len(names) == len(set(names)), "two places with one name cannot be told apart"


def test_points_of_dedupe_are_passed_by_its_step_hook(armed: Path) -> None:
    """Step n of a chunk passes the n-th of its names."""
    from agents.dedupe import Deps

    step = Deps._field_defaults["step"]
    for number, name in enumerate(DEDUPE_POINTS, 1):
        (armed / f"{name}.arm").write_text("sleep:0")
        step(number)
        assert not (armed / f"{name}.arm").exists()


def test_point_unarmed_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder a point makes no call to the system at all."""

    def touched(*_: object) -> bool:
        raise AssertionError("the file system was asked")

    monkeypatch.setattr(os.path, "exists", touched)
    points.arm(None)
    for name in POINTS:
        points.at(name)


def test_point_that_is_not_armed_passes(armed: Path) -> None:
    """Another point's file means nothing here, and nothing is written."""
    (armed / "persist.copied.arm").write_text("kill")
    points.at("persist.before_commit")
    assert [path.name for path in armed.iterdir()] == ["persist.copied.arm"]


def test_point_notes_the_hit_and_fires_once(armed: Path) -> None:
    """A line of time, process, name and action; the second pass finds nothing."""
    (armed / "sync.read.arm").write_text("sleep:0\n")
    points.at("sync.read")
    points.at("sync.read")
    lines = (armed / "hits.log").read_text().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(rf"\d+\.\d+ {os.getpid()} sync\.read sleep:0", lines[0])


def test_point_refuses_an_action_it_does_not_know(armed: Path) -> None:
    """A typing error in a drill is told, not passed over."""
    (armed / "sync.read.arm").write_text("explode")
    with pytest.raises(ValueError, match="explode"):
        points.at("sync.read")


def test_point_kills_its_process_and_the_hit_is_on_disk(tmp_path: Path) -> None:
    """SIGKILL, after the line."""
    (tmp_path / "persist.copied.arm").write_text("kill")
    process = child(tmp_path, "points.at('persist.copied')")
    assert process.wait(30) == -signal.SIGKILL
    assert f" {process.pid} persist.copied kill" in (tmp_path / "hits.log").read_text()


def test_point_stops_its_process_until_it_is_continued(tmp_path: Path) -> None:
    """SIGSTOP: the process neither goes on nor ends until SIGCONT."""
    (tmp_path / "persist.copied.arm").write_text("stop")
    process = child(tmp_path, "points.at('persist.copied')")
    end = time.monotonic() + 30
    while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        assert time.monotonic() < end, "the process did not stop"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 0


def test_point_is_taken_by_one_process_of_several(tmp_path: Path) -> None:
    """Ten processes come by, one file: one dies."""
    (tmp_path / "persist.copied.arm").write_text("kill")
    processes = [child(tmp_path, "points.at('persist.copied')") for _ in range(10)]
    assert sorted(process.wait(60) for process in processes) == [-signal.SIGKILL, *[0] * 9]
