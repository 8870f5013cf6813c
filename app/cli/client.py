"""How commands talk to a running Chronicle: plain HTTP, and one clear sentence when that does not work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import rich_click as click

from app.settings import ServerSettings, Settings, is_loopback
from schemas.errors import Misconfigured

TIMEOUT_S = 15.0
#: A live stream tells its place every 15 s: after so many seconds of silence the connection counts as lost.
SILENT_S = 45.0
F = TypeVar("F", bound=Callable[..., Any])


class Where(NamedTuple):
    """The address of a server, and who said so ("" when it was the user, just now)."""

    url: str
    said_by: str = ""


def where(given: str | None) -> Where:
    """`given` (--url, CHRONICLE_URL), else `server.url`, else the `chronicle up` of this state directory, else 8000.

    Raises `click.ClickException` when the settings are needed and wrong.
    """
    if given:
        return Where(given)
    try:
        settings = Settings.load()
    except Misconfigured as error:
        raise click.ClickException(f"{error} Or give --url.") from error
    return of_settings(settings)


def of_settings(settings: Settings) -> Where:
    """As `where`, without what was given."""
    usual: str = ServerSettings.model_fields["url"].default
    if settings.server.url != usual:
        return Where(settings.server.url, "the setting server.url")
    ready_file = settings.state_dir.expanduser() / "ready.json"
    running = _url_in(ready_file)
    return Where(running, str(ready_file)) if running else Where(usual)


def _url_in(ready_file: Path) -> str | None:
    """None unless there is a ready file that we may read; one that says nonsense counts as none."""
    try:
        ready = json.loads(ready_file.read_bytes())
    except (OSError, ValueError):
        return None
    url = ready.get("url") if isinstance(ready, dict) else None
    return url if isinstance(url, str) else None


class Api:
    """Calls to one server, as `where` finds it.

    Raises `click.ClickException` with the server's own words, or says that it is away.
    """

    def __init__(self, given: str | None) -> None:
        url, self._said_by = where(given)
        host = urlsplit(url).hostname
        if not url.startswith(("http://", "https://")) or not host:
            raise click.ClickException(f"{url} is no address of a server; it looks like http://127.0.0.1:8000.")
        self._url = url.rstrip("/")
        # a proxy in the environment is for other machines
        self._opener = build_opener(*([ProxyHandler({})] if is_loopback(host) else []))

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON of a GET; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call(Request(self._url + path + (f"?{urlencode(given)}" if given else "")))

    def lines(self, path: str, **query: str | None) -> Iterator[str]:
        """The lines of an answer without end, as they come. Raises `OSError` when the connection is lost on the way."""
        given = {name: value for name, value in query.items() if value is not None}
        with self._open(Request(self._url + path + (f"?{urlencode(given)}" if given else "")), SILENT_S) as answer:
            try:
                for line in answer:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except HTTPException as error:  # cut in the middle of a piece
                raise OSError(str(error)) from error

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a JSON body."""
        headers = {"Content-Type": "application/json"}
        return self._call(Request(self._url + path, data=json.dumps(body).encode(), headers=headers, method="POST"))

    def _call(self, request: Request) -> Any:
        with self._open(request, TIMEOUT_S) as answer:
            try:
                return json.load(answer)
            except ValueError as error:
                raise click.ClickException(f"What answers at {self._url} is no Chronicle.") from error
            except OSError as error:
                raise self._away(error) from error

    def _open(self, request: Request, timeout: float) -> Any:
        try:
            return self._opener.open(request, timeout=timeout)
        except HTTPError as error:
            raise click.ClickException(_words(error)) from error
        except (URLError, OSError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> click.ClickException:
        reason = getattr(error, "reason", error)
        said = f", the address from {self._said_by}" if self._said_by else ""
        return click.ClickException(
            f"No Chronicle answers at {self._url}{said} ({reason}). Start it with `chronicle up`, or give --url."
        )


def _words(error: HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{problem.get('detail') or problem.get('title') or error.reason} (HTTP {error.code})"
    except (ValueError, AttributeError):
        return f"The server said {error.code} {error.reason}."


def url_option(command: F) -> F:
    """--url, also from $CHRONICLE_URL; what is left out `where` knows."""
    return click.option(
        "--url",
        envvar="CHRONICLE_URL",
        show_envvar=True,
        help="The server (default: `server.url`, else the running `chronicle up`, else port 8000).",
    )(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")(command)


def dump(value: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(value, indent=2))
