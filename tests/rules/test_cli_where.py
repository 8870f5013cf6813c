"""How commands find the server, and what they say when nobody is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.client import Where, of_settings, where
from app.cli.dlq import dlq
from app.cli.trace import trace
from app.settings import Settings
from app.stack.ready import Pids, Ready, ReadyFiles, TopicNames


def settings(state: Path, **server: object) -> Settings:
    return Settings.load(state_dir=state, server=server)


@pytest.fixture
def ready_file(tmp_path: Path) -> Iterator[Path]:
    """As a running `chronicle up` writes it."""
    path = tmp_path / "ready.json"
    files = ReadyFiles(path)
    files.write(
        Ready(
            url="http://127.0.0.1:8123",
            broker="127.0.0.1:9092",
            database="postgresql://u:hidden@127.0.0.1/c",
            sqlite="failover.db",
            state_dir=str(tmp_path),
            topics=TopicNames("t.ingest", "t.events", "t.dead-letters"),
            pids=Pids(1, 2, 3, (4,)),
        )
    )
    yield path
    files.remove()


def test_what_was_given_is_taken_as_it_is() -> None:
    """No setting is even read."""
    assert where("http://here:1") == Where("http://here:1")


def test_a_setting_beats_the_running_stack(tmp_path: Path, ready_file: Path) -> None:
    """Whoever sets `server.url` means another server."""
    found = of_settings(settings(tmp_path, url="http://there:2"))
    assert found == Where("http://there:2", "the setting server.url")


def test_the_running_stack_is_found_by_its_ready_file(tmp_path: Path, ready_file: Path) -> None:
    """It may have had to take another port than 8000."""
    assert of_settings(settings(tmp_path)) == Where("http://127.0.0.1:8123", str(ready_file))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", json.dumps({"url": 5})])
def test_without_a_ready_file_the_usual_port_is_asked(tmp_path: Path, text: str | None) -> None:
    """One that says nonsense counts as none."""
    if text is not None:
        (tmp_path / "ready.json").write_text(text)
    assert of_settings(settings(tmp_path)) == Where("http://127.0.0.1:8000")


@pytest.mark.parametrize("args", [("ls",), ("show", "t/0/1")])
def test_a_stack_that_was_killed_is_told_with_its_ready_file(tmp_path: Path, args: tuple[str, ...]) -> None:
    """Its file is still there: the sentence says where the address is from."""
    (tmp_path / "ready.json").write_text(json.dumps({"url": "http://127.0.0.1:9"}))
    result = CliRunner().invoke(dlq, args, env={"CHRONICLE_STATE_DIR": str(tmp_path), "CHRONICLE_URL": None})
    said = "".join(result.output.replace("│", " ").split())
    assert result.exit_code == 1
    assert "NoChronicleanswersathttp://127.0.0.1:9,theaddressfrom" in said
    assert f"{tmp_path}/ready.json" in said
    assert "chronicleup" in said


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    """Before anything is asked."""
    result = CliRunner().invoke(trace, ["1", "--url", url])
    assert result.exit_code == 1
    assert "is no address of a server" in " ".join(result.output.split())


def test_wrong_settings_are_one_sentence(tmp_path: Path) -> None:
    """With --url they would not matter, so it says so."""
    result = CliRunner().invoke(trace, ["1"], env={"CHRONICLE_SERVER__PORT": "x", "CHRONICLE_URL": None})
    assert result.exit_code == 1
    said = " ".join(result.output.replace("│", " ").split())
    assert "server.port" in said
    assert "Or give --url." in said
