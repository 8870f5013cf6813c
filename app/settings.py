"""Every setting, once: flags beat the environment, the environment beats the file, the file beats the default.

`docs/configuration.md` is made from this module (`chronicle config docs`) and a test compares the two. This is the only
module that looks at `os.environ`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings_file import hide_password, read_file
from schemas.errors import Misconfigured
from schemas.topics import DAY_MS, Topics, topics

Role = Literal["ingest", "api", "dedupe", "persist", "aggregate", "history"]
ROLES: tuple[Role, ...] = ("ingest", "api", "dedupe", "persist", "aggregate", "history")
Profile = Literal["dev", "staging", "production"]

#: What a profile changes; anything said in the file, the environment or a flag beats it.
PROFILES: Mapping[Profile, Mapping[str, Mapping[str, Any]]] = {
    "dev": {},
    "staging": {"logging": {"format": "json"}, "database": {"pool_size": 10, "statement_timeout_s": 10.0}},
    "production": {
        "logging": {"format": "json"},
        "database": {"pool_size": 20, "statement_timeout_s": 10.0},
        "kafka": {"replication": 3},
    },
}


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "chronicle"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


class Section(BaseModel):
    """A group of settings; an unknown key is a mistake, not a wish."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ServerSettings(Section):
    """The HTTP face."""

    host: str = Field("127.0.0.1", description="Address to bind. Anything but loopback needs `server.allow_remote`.")
    port: int = Field(8000, ge=1, le=65535, description="Port to bind.")
    allow_remote: bool = Field(
        False,
        description="Bind an address that others reach, although there are no API keys yet.",
    )
    names: tuple[str, ...] = Field(
        (), description="More host names by which clients reach the server; addresses and localhost always may."
    )
    max_connections: int = Field(2000, ge=1, description="Connections a process holds at once; one more gets 503.")
    url: str = Field("http://127.0.0.1:8000", description="Where the commands (`trace`, `dlq`, …) find the API.")

    @model_validator(mode="after")
    def _loopback_only(self) -> ServerSettings:
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"server.host is {self.host}, which others can reach, and Chronicle has no API keys yet; "
                "bind 127.0.0.1, or set server.allow_remote if the network itself keeps strangers out"
            )
        return self


class KafkaSettings(Section):
    """The log."""

    brokers: str = Field("127.0.0.1:9092", description="Bootstrap brokers, host:port, comma separated.")
    prefix: str = Field(
        "chronicle", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="First part of every topic name and group id."
    )
    partitions: int = Field(
        4, ge=1, le=1024, description="Partitions of a topic when it is made; fixed afterwards (keys would move)."
    )
    replication: int = Field(
        1,
        ge=1,
        le=7,
        description="Copies of each partition when a topic is made. 1 survives kill -9, not the loss of a disk.",
    )
    retention_days: float = Field(
        7.0,
        gt=0,
        description="How long the topics keep events; the longest outage of both databases that loses nothing.",
    )

    @field_validator("brokers")
    @classmethod
    def _brokers(cls, value: str) -> str:
        for broker in value.split(","):
            host, _, port = broker.strip().removeprefix("kafka://").rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"'{broker}' is not host:port")
        return ",".join(broker.strip().removeprefix("kafka://") for broker in value.split(","))


class DatabaseSettings(Section):
    """Postgres, and SQLite while it is away."""

    url: SecretStr = Field(
        SecretStr("postgresql://postgres@127.0.0.1:5432/chronicle"),
        description="Postgres DSN. Holds the password, so it is never logged.",
    )
    fallback_path: Path | None = Field(
        None, description="SQLite file that takes over. Default: `failover.db` in the state directory."
    )
    fallback_max_bytes: int = Field(
        4 << 30, ge=1 << 20, description="Largest size of the SQLite file; beyond it batches are held in Kafka."
    )
    pool_size: int = Field(5, ge=1, le=100, description="Connections of the query API, and one more for its probe.")
    statement_timeout_s: float = Field(5.0, gt=0, description="Longest query of the API in seconds.")
    idle_hours: float = Field(
        24.0, ge=0, description="A session without events for this long shows as terminated; 0: it stays active."
    )
    write_timeout_s: float = Field(
        4.0, gt=0, description="Longest sink transaction in seconds; beyond it the sink counts as away."
    )

    @field_validator("url")
    @classmethod
    def _dsn(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError("is not of the form postgresql://user:password@host:port/database")
        return value


class IngestSettings(Section):
    """What the door takes."""

    max_body_bytes: int = Field(8 << 20, ge=1024, description="Largest request body after decompression, in bytes.")
    max_events: int = Field(1000, ge=1, description="Most events in one request.")
    max_event_bytes: int = Field(
        900 << 10,
        ge=1024,
        le=1 << 20,
        description="Largest event in bytes; on the native route an oversize field is cut with a mark instead.",
    )
    redact: bool = Field(
        True, description="Blank secrets (token patterns, key names) before an event is stored anywhere."
    )
    ack_timeout_s: float = Field(
        2.0, gt=0, le=2.5, description="Longest wait for the broker's ack before the spool takes over, in seconds."
    )
    spool: bool = Field(True, description="Keep accepting on local disk while the broker is away.")
    spool_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="Largest size of the spool file; beyond it requests get 503."
    )


class DedupeSettings(Section):
    """How long a repeat is recognised by the table; the primary key recognises it for ever."""

    window_hours: float = Field(48.0, ge=0.01, description="Ids are remembered this long.")
    bucket_hours: float = Field(
        16.0, ge=0.01, description="Ids expire in buckets of this length; each bucket costs one look-up more."
    )


class BatchingSettings(Section):
    """When a batch goes to the sink."""

    enabled: bool = Field(True, description="Off: each fetched chunk is its own batch.")
    max_size: int = Field(5000, ge=1, le=50_000, description="Events in a batch.")
    max_wait_ms: int = Field(
        100,
        ge=0,
        le=60_000,
        description="Oldest age of a waiting event, in milliseconds.",
    )
    max_bytes: int = Field(16 << 20, ge=1 << 20, description="Payload bytes in a batch.")
    compression: Literal["none", "gzip", "lz4", "zstd"] = Field(
        "none", description="Compression of records on their way to the broker."
    )
    priority_events: tuple[str, ...] = Field(("session_start", "error"), description="Event types that flush at once.")


class FailoverSettings(Section):
    """When SQLite takes over and when Postgres gets another chance."""

    failures: int = Field(3, ge=1, le=100, description="Failed tries in a row before SQLite takes over.")
    probe_max_s: float = Field(10.0, gt=0, description="Longest wait between probes of Postgres, in seconds.")
    hold_down_s: float = Field(
        30.0,
        ge=0,
        description="Against flapping: least time between two switches, in seconds.",
    )
    sync_batch: int = Field(
        4000, ge=1, le=10_000, description="Events brought back to Postgres in one transaction, at most."
    )


class LoggingSettings(Section):
    """What the log looks like."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is written."
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable on a terminal, JSON elsewhere."
    )

    @field_validator("level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class WorkerSettings(Section):
    """One worker process."""

    name: str = Field(
        "", description="Stable name of this worker, unique in the installation. Default: host name and roles."
    )
    roles: Annotated[tuple[Role, ...], NoDecode] = Field(
        ROLES, description="What this process does: any of ingest, api, dedupe, persist, aggregate, history."
    )
    exit_on_stall_s: float = Field(
        60.0,
        gt=0,
        description="Lag without progress for this long ends the process; its supervisor restarts it.",
    )

    @field_validator("roles", mode="before")
    @classmethod
    def _comma(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The whole of it. `Settings.load()` is the way to get one."""

    model_config = SettingsConfigDict(
        env_prefix="CHRONICLE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    profile: Profile = Field("dev", description="Which set of defaults: dev, staging or production.")
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Where spool, tables, SQLite and the embedded stack keep their files.",
    )
    fault_points: Path | None = Field(
        None,
        description="For fault drills only: a folder in which a process looks, at named points of its way, whether it "
        "shall die there.",
    )
    server: ServerSettings = ServerSettings()
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    ingest: IngestSettings = IngestSettings()
    dedupe: DedupeSettings = DedupeSettings()
    batching: BatchingSettings = BatchingSettings()
    failover: FailoverSettings = FailoverSettings()
    logging: LoggingSettings = LoggingSettings()
    worker: WorkerSettings = WorkerSettings()

    _file: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file, profile, in this order; the defaults come last by themselves."""
        return (init_settings, env_settings, _Values(settings_cls, cls._file), _ProfileDefaults(settings_cls))

    @classmethod
    def load(cls, *, file: Path | None = None, **flags: Any) -> Settings:
        """Settings from all sources; raises `Misconfigured` with one sentence a fault.

        `file` is YAML or JSON (default: the path in CHRONICLE_CONFIG, if set) with `${VAR}` and `${VAR:-default}`.
        `flags` are nested mappings, e.g. `server={"port": 9000}`.
        """
        path = file or (Path(os.environ["CHRONICLE_CONFIG"]) if os.environ.get("CHRONICLE_CONFIG") else None)
        bound = type("Settings", (cls,), {"_file": read_file(path) if path else {}, "__doc__": cls.__doc__})
        try:
            loaded: Settings = bound(**flags)
        except ValidationError as error:
            raise Misconfigured(_sentences(error), "Run `chronicle config check` after mending it.") from error
        return loaded

    # what others derive from it -------------------------------------------------------------------------------------

    @property
    def topics(self) -> Topics:
        """The topics of this installation."""
        return topics(
            prefix=self.kafka.prefix,
            partitions=self.kafka.partitions,
            retention_ms=int(self.kafka.retention_days * DAY_MS),
        )

    @property
    def worker_name(self) -> str:
        """Stable over restarts: static group membership and the state directory hang on it."""
        return self.worker.name or f"{socket.gethostname()}-{'-'.join(self.worker.roles)}"

    @property
    def worker_dir(self) -> Path:
        """Where this worker keeps its tables and its spool."""
        return self.state_dir / "workers" / self.worker_name

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file that takes over."""
        return self.database.fallback_path or self.state_dir / "failover.db"

    def public(self) -> dict[str, Any]:
        """What GET /config tells: an allowlist, so that a new setting is private until somebody decides otherwise."""
        told = {
            "kafka": {"prefix", "partitions", "replication", "retention_days"},
            "ingest": {"max_body_bytes", "max_events", "max_event_bytes", "redact", "spool", "spool_max_bytes"},
            "dedupe": {"window_hours", "bucket_hours"},
            "batching": {"enabled", "max_size", "max_wait_ms", "max_bytes", "compression", "priority_events"},
            "failover": {"failures", "probe_max_s", "hold_down_s", "sync_batch"},
            "logging": {"level", "format"},
            "worker": {"roles"},
        }
        return {"profile": self.profile, **self.model_dump(mode="json", include=told)}

    def shown(self) -> dict[str, Any]:
        """All values with the secrets hidden, for `chronicle config show`."""
        shown = self.model_dump(mode="json")
        shown["database"]["url"] = hide_password(self.database.url.get_secret_value())
        return shown


class _Values(PydanticBaseSettingsSource):
    """A mapping as a source."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = dict(values)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


class _ProfileDefaults(_Values):
    """What the profile named by the sources above changes."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, {})

    def __call__(self) -> dict[str, Any]:
        profile = self.current_state.get("profile", "dev")
        return {key: dict(value) for key, value in PROFILES.get(profile, {}).items()}


def _sentences(error: ValidationError) -> str:
    """One clear sentence a fault, without the values (they may be secrets)."""
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in fault["loc"]) or "settings"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "is not a setting; `chronicle config show` lists them all"
        lines.append(message + "." if message.startswith(name) else f"{name}: {message}.")
    return " ".join(lines)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `extra` on top, for a child process."""
    return {**os.environ, **extra}
