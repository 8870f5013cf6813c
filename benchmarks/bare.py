"""A handler that parses the event and answers: the limit of this HTTP server. `python -m benchmarks.bare --port N`."""

from __future__ import annotations

import argparse

import msgspec
import uvloop
from aiohttp import web


async def take(request: web.Request) -> web.Response:
    """202 for JSON."""
    msgspec.json.decode(await request.read())
    return web.Response(status=202, body=b'{"accepted":1}', content_type="application/json")


async def health(request: web.Request) -> web.Response:
    """For whoever waits for the start."""
    return web.Response(body=b"{}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    app = web.Application()
    app.add_routes([web.post("/events", take), web.get("/health", health)])
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
