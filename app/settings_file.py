"""The configuration file, read and brought to today's names; and a DSN without its password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import expandvars
import yaml

from schemas.errors import Misconfigured

_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)
_IN_USER = re.compile(r"(://[^:/?#@]*:)[^/?#]*@")


def read_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file with `${VAR}` expanded in its values; raises `Misconfigured`."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Misconfigured(
            f"The configuration file {path} cannot be read: {error.strerror}.", "Give another --config."
        ) from error
    except yaml.YAMLError as error:
        raise Misconfigured(
            f"The configuration file {path} is not YAML: {str(error).splitlines()[0]}.", "Mend it."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise Misconfigured(f"The configuration file {path} holds no mapping.", "Write `section: {key: value}`.")
    expanded: dict[str, Any] = _expand(data, path)
    return modern(expanded)


def modern(data: dict[str, Any]) -> dict[str, Any]:
    """The names of old configuration files turned into ours.

    database.primary.url, database.fallback.path, batching.max_batch_size, batching.max_wait_time_ms; `server.workers`
    has no meaning here (`chronicle up --stream-workers` has) and is passed over.
    """
    database, batching, server = (dict(data.get(key) or {}) for key in ("database", "batching", "server"))
    primary, fallback = database.pop("primary", None) or {}, database.pop("fallback", None) or {}
    database |= {
        key: value for key, value in (("url", primary.get("url")), ("fallback_path", fallback.get("path"))) if value
    }
    old = {"max_batch_size": "max_size", "max_wait_time_ms": "max_wait_ms"}
    batching = {old.get(key, key): value for key, value in batching.items()}
    server.pop("workers", None)
    sections = {"database": database, "batching": batching, "server": server}
    return data | {key: section for key, section in sections.items() if section}


def _expand(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, path) for inner in value]
    if isinstance(value, str) and "$" in value:
        try:
            return str(expandvars.expand(value, nounset=True))  # type: ignore[no-untyped-call]
        except expandvars.ExpandvarsException as error:
            raise Misconfigured(
                f"{path}: {value!r} cannot be filled in: {error}.", "Set the variable or write ${VAR:-default}."
            ) from error
    return value


def hide_password(dsn: str) -> str:
    """The DSN with `***` for its password, whether it stands before the host or in the query."""
    return _IN_QUERY.sub(r"\1***", _IN_USER.sub(r"\1***@", dsn))
