"""Programs of this machine may talk to the server; web pages of strangers may not."""

from __future__ import annotations

import pytest

from app.guard import judge


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", None),
        ("localhost:8000", None),
        ("[::1]:8000", None),
        ("10.1.2.3:8000", None),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("chronicle.internal", None),
    ],
)
def test_programs_and_our_own_page_are_let_in(host: str, origin: str | None) -> None:
    """No Origin, or our own."""
    assert judge(host, origin, {"chronicle.internal"}) is None


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("evil.example:8000", None, "host_not_allowed"),
        ("127.0.0.1.evil.example", None, "host_not_allowed"),
        ("", None, "host_not_allowed"),
        ("127.0.0.1:8000", "https://evil.example", "origin_not_allowed"),
        ("127.0.0.1:8000", "null", "origin_not_allowed"),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", "origin_not_allowed"),
    ],
)
def test_rebound_names_and_strange_pages_are_refused(host: str, origin: str | None, code: str) -> None:
    """DNS rebinding shows in the Host, a cross-site post in the Origin."""
    refused = judge(host, origin, ())
    assert refused is not None
    assert (refused.status, refused.code) == (403, code)
