"""`chronicle config`: check, show and document the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich_click as click
import yaml
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from app.settings import PROFILES, Section, Settings
from schemas.errors import Misconfigured

_FILE = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML or JSON file (default: $CHRONICLE_CONFIG).",
)


@click.group()
def config() -> None:
    """Check and show the settings."""


@config.command()
@_FILE
def check(file: Path | None) -> None:
    """Say whether the settings are right; one sentence a fault."""
    try:
        settings = Settings.load(file=file)
    except Misconfigured as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The settings are right (profile {settings.profile}).")


@config.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="JSON instead of YAML.")
def show(file: Path | None, as_json: bool) -> None:
    """Show every setting in force, secrets hidden."""
    try:
        shown = Settings.load(file=file).shown()
    except Misconfigured as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(shown, indent=2) if as_json else yaml.safe_dump(shown, sort_keys=False).rstrip())


@config.command()
def docs() -> None:
    """Print docs/configuration.md."""
    click.echo(configuration_page(), nl=False)


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(name, environment variable, default, description) of every setting, in order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from rows(kind, f"{prefix}{name}.")
            continue
        path = f"{prefix}{name}"
        variable = "CHRONICLE_" + path.replace(".", "__").upper()
        yield path, variable, _default(path, field.get_default()), field.description or ""


def _default(path: str, value: Any) -> str:
    if path == "state_dir":
        return "`$XDG_STATE_HOME/chronicle`"
    if value is None or value is PydanticUndefined or value in ("", ()):
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = (
        ",".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return f"`{text}`"


def configuration_page() -> str:
    """The page, whole."""
    lines = [
        "# Configuration",
        "",
        "Made by `chronicle config docs`; change `app/settings.py`, not this page.",
        "",
        "A flag beats the environment, the environment beats the file, the file beats the profile, and the profile",
        "beats the default. The file is YAML or JSON, named by `--config` or `CHRONICLE_CONFIG`; `${VAR}` and",
        '`${VAR:-default}` in it are filled in. Lists are JSON (`["a", "b"]`).',
        "`chronicle config check` says what is wrong, `chronicle config show` what is in force.",
        "",
        "| setting | environment | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{name}` | `{env}` | {default} | {text} |" for name, env, default, text in rows()]
    lines += [
        "",
        "## Profiles",
        "",
        "What `profile` changes in the defaults:",
        "",
        "| profile | setting | value |",
        "| --- | --- | --- |",
    ]
    for profile, sections in PROFILES.items():
        changes = [
            f"| {profile} | `{section}.{key}` | `{value}` |"
            for section, keys in sections.items()
            for key, value in keys.items()
        ]
        lines += changes or [f"| {profile} | – | – |"]
    return "\n".join(lines) + "\n"
