"""What each Postgres error means."""

from __future__ import annotations

import asyncpg
import pytest

from connectors.pgerrors import classify, unavailable


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("22P02", "data"),
        ("22021", "data"),
        ("23514", "data"),
        ("54000", "data"),
        ("54001", "data"),
        ("40001", "transient"),
        ("40P01", "transient"),
        ("55P03", "transient"),
        ("57014", "transient"),
        ("08006", "unavailable"),
        ("25006", "unavailable"),
        ("53100", "unavailable"),
        ("53300", "unavailable"),
        ("55000", "unavailable"),
        ("57P01", "unavailable"),
        ("57P03", "unavailable"),
        ("58030", "unavailable"),
        ("XX000", "unavailable"),
        ("P0001", "unavailable"),
        ("28P01", "configuration"),
        ("28000", "configuration"),
        ("3D000", "configuration"),
        ("42703", "configuration"),
        ("42P01", "configuration"),
        ("42501", "configuration"),
    ],
)
def test_a_sqlstate_has_its_class(state: str, kind: str) -> None:
    """By code alone; what is not listed counts as an outage."""
    fault = classify(asyncpg.PostgresError.new({"C": state, "M": "message", "S": "ERROR", "V": "ERROR"}))
    assert (fault.kind, fault.sqlstate) == (kind, state)
    assert bool(fault.remedy) == (kind == "configuration")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), "unavailable"),
        (OSError("no route to host"), "unavailable"),
        (TimeoutError(), "unavailable"),
        (asyncpg.InterfaceError("connection is closed"), "unavailable"),
        (RuntimeError("a bug"), "unavailable"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "data"),
        (OverflowError("int too big"), "data"),
        (asyncpg.exceptions.ClientConfigurationError("bad port"), "configuration"),
    ],
)
def test_errors_without_a_code_have_their_class(error: Exception, kind: str) -> None:
    """Sockets and timeouts are outages, values asyncpg cannot send are data, anything unknown is an outage."""
    assert classify(error).kind == kind


def test_the_detail_never_shows_the_row() -> None:
    """Postgres puts the failing row into DETAIL; logs and dead letters must not."""
    fields = {"C": "23514", "M": "violates check", "D": "Failing row contains (secret)", "S": "ERROR", "V": "ERROR"}
    assert "secret" not in classify(asyncpg.PostgresError.new(fields)).detail


def test_what_a_sink_raises_is_never_of_kind_data() -> None:
    """The contract: data is told by the receipt, never by a raise."""
    assert unavailable(ValueError("x")).kind == "unavailable"
    assert unavailable(ConnectionResetError(), unknown=True).unknown
