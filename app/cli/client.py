"""How commands talk to a running Chronicle: plain HTTP, and one clear sentence when that does not work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import rich_click as click

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 15.0
F = TypeVar("F", bound=Callable[..., Any])


class Api:
    """Calls to one server. Raises `click.ClickException` with the server's own words, or says that it is away."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise click.ClickException(f"{url} is no address of a server; it starts with http:// or https://.")
        self._url = url.rstrip("/")

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON of a GET; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call(Request(self._url + path + (f"?{urlencode(given)}" if given else "")))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a JSON body."""
        headers = {"Content-Type": "application/json"}
        return self._call(Request(self._url + path, data=json.dumps(body).encode(), headers=headers, method="POST"))

    def _call(self, request: Request) -> Any:
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise click.ClickException(_words(error)) from error
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise click.ClickException(
                f"No Chronicle answers at {self._url} ({reason}). Start it with `chronicle up`, or give --url."
            ) from error
        except ValueError as error:
            raise click.ClickException(f"What answers at {self._url} is no Chronicle.") from error


def _words(error: HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{problem.get('detail') or problem.get('title') or error.reason} (HTTP {error.code})"
    except (ValueError, AttributeError):
        return f"The server said {error.code} {error.reason}."


def url_option(command: F) -> F:
    """--url, also from $CHRONICLE_URL."""
    return click.option(
        "--url", default=DEFAULT_URL, envvar="CHRONICLE_URL", show_default=True, show_envvar=True, help="The server."
    )(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")(command)


def dump(value: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
