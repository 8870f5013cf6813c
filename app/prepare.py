"""Bring databases and topics into the shape this version needs: what `chronicle up` has done before the workers start.

It is run apart (`app.stack.apart`): SQLAlchemy, Alembic and the Kafka client would stay with the supervisor, 45 MB of
them.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from connectors.migrate import sqlite_dsn, upgrade
from connectors.topics import ensure
from schemas.errors import ChronicleError
from schemas.topics import TopicSpec


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is. `sqlite` is a path: workers that find their local store in shape need no SQLAlchemy."""

    brokers: str
    database: str
    sqlite: str
    topics: tuple[TopicSpec, ...]
    replication: int


async def prepare(given: bytes) -> None:
    """`Wanted` as JSON. Raises `Misconfigured` and `Unavailable`; what is wrong with SQLite its sink will tell."""
    wanted = msgspec.json.decode(given, type=Wanted)
    await asyncio.gather(
        upgrade(wanted.database), ensure(wanted.brokers, wanted.topics, wanted.replication), _local(wanted.sqlite)
    )


async def _local(path: str) -> None:
    with contextlib.suppress(ChronicleError, OSError):
        await upgrade(sqlite_dsn(Path(path)))
