"""Settings: who beats whom, and one clear sentence a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from app.settings_file import hide_password
from schemas.errors import Misconfigured


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting leaks in from the machine."""
    import os

    for name in [name for name in os.environ if name.startswith("CHRONICLE_")]:
        monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    file = path / "chronicle.yaml"
    file.write_text(text)
    return file


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four in their order."""
    file = write(tmp_path, "server: {port: 1}\nkafka: {partitions: 1, prefix: file}\nbatching: {max_size: 1}")
    monkeypatch.setenv("CHRONICLE_SERVER__PORT", "2")
    monkeypatch.setenv("CHRONICLE_KAFKA__PARTITIONS", "2")
    settings = Settings.load(file=file, server={"port": 3})
    assert (settings.server.port, settings.kafka.partitions, settings.batching.max_size) == (3, 2, 1)
    assert settings.kafka.prefix == "file"
    assert settings.dedupe.window_hours == 48


def test_variables_in_the_file_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${VAR}` and `${VAR:-default}`."""
    monkeypatch.setenv("DB_HOST", "db.example")
    file = write(tmp_path, "database: {url: 'postgresql://u:p@${DB_HOST}:${DB_PORT:-5432}/c'}")
    assert Settings.load(file=file).database.url.get_secret_value() == "postgresql://u:p@db.example:5432/c"


def test_a_missing_variable_is_told_with_its_name(tmp_path: Path) -> None:
    """Never a silent empty string."""
    with pytest.raises(Misconfigured, match="NOT_THERE"):
        Settings.load(file=write(tmp_path, "database: {url: 'postgresql://${NOT_THERE}/c'}"))


def test_a_profile_changes_defaults_only(tmp_path: Path) -> None:
    """What the file says beats the profile."""
    settings = Settings.load(file=write(tmp_path, "profile: production\ndatabase: {pool_size: 7}"))
    assert (settings.logging.format, settings.database.pool_size, settings.kafka.replication) == ("json", 7, 3)


def test_old_configuration_files_still_work(tmp_path: Path) -> None:
    """The form of the first product document: database.primary/fallback, max_wait_time_ms."""
    text = """
    database:
      primary: {type: supabase, url: postgresql://a@b/c, key: x}
      fallback: {type: sqlite, path: ./data/chronicle.db}
    batching: {enabled: true, max_batch_size: 50, max_wait_time_ms: 250}
    """
    settings = Settings.load(file=write(tmp_path, text))
    assert settings.sqlite_path == Path("data/chronicle.db")
    assert (settings.batching.max_size, settings.batching.max_wait_ms) == (50, 250)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"server": {"prot": 1}}, "server.prot"),
        ({"server": {"port": 99999}}, "server.port"),
        ({"server": {"port": 0}}, "server.port"),
        ({"server": {"host": "0.0.0.0"}}, "server.host"),
        ({"kafka": {"brokers": "nowhere"}}, "kafka.brokers"),
        ({"database": {"url": "mysql://u:sekret@h/d"}}, "database.url"),
        ({"worker": {"roles": "ingest,cook"}}, "worker.roles"),
        ({"profile": "prod"}, "profile"),
    ],
)
def test_a_fault_is_named_and_no_secret_told(flags: dict[str, object], words: str) -> None:
    """Which setting, what is wrong; the value (maybe a password) is not repeated."""
    with pytest.raises(Misconfigured) as caught:
        Settings.load(**flags)
    assert words in str(caught.value)
    assert "sekret" not in str(caught.value)


def test_an_open_address_needs_the_flag() -> None:
    """Without keys the server stays on loopback."""
    settings = Settings.load(server={"host": "0.0.0.0", "allow_remote": True})
    assert settings.server.host == "0.0.0.0"


def test_shown_settings_hide_the_password() -> None:
    """`chronicle config show` can be pasted into an issue."""
    settings = Settings.load(database={"url": "postgresql://u:sekret@h:1/d"})
    assert settings.shown()["database"]["url"] == "postgresql://u:***@h:1/d"
    assert "sekret" not in repr(settings)


def test_hide_password_leaves_the_rest() -> None:
    """A DSN without one is shown as it is."""
    assert hide_password("postgresql://u@h/d") == "postgresql://u@h/d"


def test_the_public_settings_tell_no_address_path_or_secret() -> None:
    """What GET /config shows is chosen, not masked."""
    settings = Settings.load(database={"url": "postgresql://u:sekret@db.internal/d"}, state_dir="/srv/secret-place")
    told = str(settings.public())
    assert not [word for word in ("sekret", "db.internal", "secret-place", "127.0.0.1") if word in told]
    assert settings.public()["batching"]["max_size"] == 5000


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql:///d?host=/run&user=u&password=sekret", "postgresql:///d?host=/run&user=u&password=***"),
        ("postgresql://h/d?password=sek%40ret&sslmode=require", "postgresql://h/d?password=***&sslmode=require"),
        ("postgresql://u:sekret@h/d?sslpassword=sekret", "postgresql://u:***@h/d?sslpassword=***"),
        ("postgresql://u:sek@ret@h/d?PASSWORD=sekret#x", "postgresql://u:***@h/d?PASSWORD=***#x"),
        ("postgresql://h/d?options=-c%20password=x", "postgresql://h/d?options=-c%20password=x"),
    ],
)
def test_hide_password_in_the_query(dsn: str, shown: str) -> None:
    """libpq takes it there as well, and the key's pass phrase too."""
    assert hide_password(dsn) == shown
    assert "sek" not in str(Settings.load(database={"url": dsn}).shown()["database"]["url"])
