"""Who may talk to a server that has no keys yet: programs of this machine, not the web pages its browser shows.

A loopback address keeps other machines out, but not a page in the user's own browser: it can post to 127.0.0.1
(cross-site request) or make its own name resolve there (DNS rebinding). So the Host must be one that we bind, and a
browser's Origin, if there is one, must be our own. The rule is that of the Fetch standard: browsers send Origin with
every cross-origin request that is not a plain GET.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from schemas.errors import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def host_of(authority: str) -> str:
    """The host of `host:port`, lower case, without brackets."""
    return (urlsplit(f"//{authority}").hostname or "").rstrip(".")


def is_trusted(host: str, names: Collection[str]) -> bool:
    """An IP address cannot be rebound, so any address will do; a name must be localhost or one of ours."""
    if host in ("localhost", *names):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def judge(host: str, origin: str | None, names: Collection[str]) -> Refused | None:
    """What is wrong with a request for `host` (the Host header) from `origin` (None for programs), or None."""
    if not is_trusted(host_of(host), names):
        detail = f"The Host {host[:100]!r} is not one of this server's; use its address."
        return Refused(403, "host_not_allowed", detail)
    if origin is not None and urlsplit(origin).netloc != host:
        detail = f"Web pages of {origin[:100]!r} may not use this server; send events from a program."
        return Refused(403, "origin_not_allowed", detail)
    return None


def guard(names: Collection[str] = ()) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """The middleware; `names` are more host names that the server goes by."""

    @lru_cache(maxsize=256)
    def fine(host: str, origin: str | None) -> bool:
        return judge(host, origin, names) is None

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        host, origin = request.host, request.headers.get("Origin")
        if not fine(host, origin) and (refused := judge(host, origin, names)):
            raise refused
        return await handler(request)

    return middleware
