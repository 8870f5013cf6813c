"""What a Postgres error means for a batch. Pure.

    data           a row can never be stored: set it aside, store the rest    SQLSTATE 22, 23, 54; encoding
    transient      the same transaction will do when tried again              40001, 40P01, 55P03, 57014
    unavailable    the server is away, full or read-only: hold or fail over   08, 53, 57P, 58, 25006; socket, timeout
    configuration  an operator must act: fail over and say so                 28, 3D, 3F, 42

What we do not know is `unavailable`: an outage never makes a dead letter. Class 54 (program limit exceeded) is data:
a text too long for an index, JSON nested too deep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec
from asyncpg import exceptions

from schemas.errors import Unavailable

T = TypeVar("T", bound=str)
Kind = Literal["data", "transient", "unavailable", "configuration"]

#: By the longest prefix of the SQLSTATE.
KINDS: Final[dict[str, Kind]] = {
    "22": "data",
    "23": "data",
    "54": "data",
    "40001": "transient",  # serialization_failure
    "40P01": "transient",  # deadlock_detected
    "55P03": "transient",  # lock_not_available: lock_timeout
    "57014": "transient",  # query_canceled: statement_timeout
    "25006": "unavailable",  # read_only_sql_transaction: a standby, or the disk guard of a host
    "28": "configuration",
    "3D": "configuration",
    "3F": "configuration",  # invalid_schema_name
    "42": "configuration",
}

REMEDIES: Final[dict[str, str]] = {
    "28": "Check the user and password in the database URL, and pg_hba.conf.",
    "3D": "Create the database, or correct its name in the database URL.",
    "3F": "Correct the search_path of the role.",
    "42501": "Grant the role what `chronicle db sql` needs.",
    "42": "Run `chronicle db migrate`.",
}


class Fault(msgspec.Struct, frozen=True):
    """An error, judged. `remedy` is for the operator, empty unless `kind` is configuration."""

    kind: Kind
    detail: str
    sqlstate: str = ""
    remedy: str = ""


class SinkDown(Unavailable):
    """A sink took nothing. `kind` tells an outage from an operator's mistake (`remedy` says what to do then)."""

    def __init__(
        self, what: str, detail: str, *, kind: Kind = "unavailable", remedy: str = "", unknown: bool = False
    ) -> None:
        super().__init__(what, f"{detail} {remedy}".rstrip(), unknown=unknown)
        self.kind = kind
        self.remedy = remedy


def classify(error: BaseException) -> Fault:
    """Judge what asyncpg (or the socket below it) raised."""
    if isinstance(error, exceptions.PostgresError):
        return _by_sqlstate(error)
    # asyncpg refuses a value before it is sent: a text that is not UTF-8, a number too wide for its column
    if isinstance(error, exceptions.ClientConfigurationError):
        return Fault("configuration", str(error), remedy="Correct the database URL.")
    if isinstance(error, exceptions.InterfaceError) and not isinstance(error, ValueError):
        return Fault("unavailable", _say(error))
    if isinstance(error, (UnicodeError, OverflowError, ValueError, TypeError)):
        return Fault("data", _say(error))
    if isinstance(error, (TimeoutError, asyncio.CancelledError)):
        return Fault("unavailable", "no answer in time")
    return Fault("unavailable", _say(error))


def _by_sqlstate(error: exceptions.PostgresError) -> Fault:
    state = str(getattr(error, "sqlstate", None) or "")
    kind: Kind = _longest(KINDS, state, "unavailable")
    remedy = _longest(REMEDIES, state, "") if kind == "configuration" else ""
    message = str(error.args[0]) if error.args else type(error).__name__  # str(error) adds DETAIL, which shows the row
    return Fault(kind, f"{message} (SQLSTATE {state})", state, remedy)


def _longest(table: Mapping[str, T], state: str, default: T) -> T:
    return table.get(state) or table.get(state[:2]) or default


def unavailable(error: BaseException, *, unknown: bool = False) -> SinkDown:
    """The error as what a sink raises; `unknown` when COMMIT was on its way."""
    fault = classify(error)
    kind: Kind = "unavailable" if fault.kind == "data" else fault.kind  # refused, but not for one row's content
    return SinkDown("postgres", fault.detail, kind=kind, remedy=fault.remedy, unknown=unknown)


def _say(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
