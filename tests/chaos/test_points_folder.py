"""The drill's side of fault points speaks to the product's side by nothing but files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.faults import at_points
from chaos.points import PointsFolder
from schemas import points


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[PointsFolder]:
    """A folder that this very process looks into."""
    points.arm(tmp_path / "points")
    yield PointsFolder(tmp_path / "points")
    points.arm(None)


def test_points_folder_arms_a_point_for_one_pass(folder: PointsFolder) -> None:
    """The product takes it once; another point is another one."""
    folder.arm("sync.read", "sleep:0")
    points.at("sync.written")
    assert folder.hits("sync.read") == 0
    points.at("sync.read")
    points.at("sync.read")
    assert (folder.hits("sync.read"), folder.hits("sync.written")) == (1, 0)
    assert len(folder.pids("sync.read")) == 1


def test_points_folder_counts_over_all_rounds(folder: PointsFolder) -> None:
    """Armed again it is hit again."""
    for _ in range(3):
        folder.arm("sync.read", "sleep:0")
        points.at("sync.read")
    assert folder.hits("sync.read") == 3


def test_points_folder_disarmed_holds_nothing(folder: PointsFolder) -> None:
    """What nobody passed does nothing later."""
    folder.arm("sync.read", "kill")
    folder.disarm()
    points.at("sync.read")
    assert folder.hits("sync.read") == 0


@pytest.mark.parametrize("action", ["", "explode", "sleep", "sleep:x", "kill -9"])
def test_points_folder_refuses_what_no_process_understands(folder: PointsFolder, action: str) -> None:
    """A typing error is told where it is made, not in the product."""
    with pytest.raises(ValueError, match="kill, stop, sleep"):
        folder.arm("sync.read", action)


def test_points_of_the_faults_are_points_of_the_product() -> None:
    """And every point of the product is one at which some fault kills."""
    rounds = (
        at_points.KilledAtAPoint,
        at_points.CountingKilledAtAPoint,
        at_points.IngestKilledAtAPoint,
        at_points.SpoolKilledAtAPoint,
        at_points.SyncKilledAtAPoint,
        at_points.SqliteKilledAtAPoint,
    )
    assert sorted(name for kind in rounds for name in kind.names) == sorted(points.POINTS)
    assert all(kind.hits >= len(kind.names) for kind in rounds)
