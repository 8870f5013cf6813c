"""Errors named by their consequence; they carry data, the caller never reads text.

`Refused` is the sender's fault (4xx), `Poison` is a record that can never be stored (dead letter), `Unavailable` is
somebody's outage (hold and retry), `Misconfigured` is an operator's mistake (say the remedy). Anything else is a bug.
"""

from __future__ import annotations


class ChronicleError(Exception):
    """Base of everything Chronicle raises on purpose."""


class Refused(ChronicleError):
    """The request or one of its events cannot be accepted.

    `status` is the HTTP status, `code` a stable machine word, `pointer` an RFC 6901 JSON pointer to the fault ("" is
    the whole body), `detail` one sentence that says what was wrong and what to do.
    """

    def __init__(self, status: int, code: str, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.pointer = pointer


class Poison(ChronicleError):
    """The record can never be processed: it goes to the dead letters with its bytes and this `cause`."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class Unavailable(ChronicleError):
    """Something we need is away; nothing was decided. Try again after `retry_after` seconds.

    `unknown` is true when the write may have happened all the same (a timeout, a cut connection).
    """

    def __init__(self, what: str, detail: str, *, retry_after: float = 1.0, unknown: bool = False) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what
        self.detail = detail
        self.retry_after = retry_after
        self.unknown = unknown


class Misconfigured(ChronicleError):
    """An operator's mistake: `detail` says what is wrong, `remedy` what to do, one sentence each."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail} {remedy}")
        self.detail = detail
        self.remedy = remedy
