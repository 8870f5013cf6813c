"""Read a request's body within its bounds: encoding, media type, size, ratio and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any, Final

import brotli  # type: ignore[import-untyped, unused-ignore]
from aiohttp.web import Request, RequestPayloadError

from schemas.envelope import IngestLimits
from schemas.errors import Refused

ENCODINGS: Final = ("identity", "gzip", "br")
_LINES: Final = frozenset(
    ("application/x-ndjson", "application/jsonl", "application/ndjson", "application/x-jsonlines")
)
#: For `web.Application(handler_args=…)`: bodies as sent, no idle connection for an hour.
SERVER_ARGS: Final[dict[str, Any]] = {"auto_decompress": False, "keepalive_timeout": 30.0}
#: From this packed size on the unpacking is done in a thread.
_THREAD_FROM: Final = 2048
#: Bytes unpacked in one go: what is over the limit is noticed before there is much more of it.
_PART: Final = 64 * 1024
#: Each gzip member costs a decompressor of its own: eight megabytes of empty ones would keep a core busy for seconds.
_MEMBERS: Final = 1000
#: Below this a high ratio is no bomb: equal small events compress a thousandfold.
_RATIO_FROM: Final = 1024 * 1024


def holds_lines(request: Request) -> bool:
    """Whether the media type says NDJSON. Raises `Refused` (415) when it is neither that nor JSON; none means JSON."""
    sent = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if sent in _LINES:
        return True
    if sent in ("", "application/json", "application/octet-stream", "text/json") or sent.endswith("+json"):
        return False
    detail = f"{sent[:80]} is not taken; send application/json or application/x-ndjson."
    raise Refused(415, "unsupported_media_type", detail)


def encoding_of(request: Request) -> str:
    """`identity`, `gzip` or `br`. Raises `Refused` (415) for any other and for more than one."""
    sent = ",".join(request.headers.getall("Content-Encoding", ())).strip().lower() or "identity"
    if sent not in ENCODINGS:
        detail = f"Content-Encoding {sent[:80]} is not taken; send one of {', '.join(ENCODINGS)}."
        raise Refused(415, "unsupported_encoding", detail)
    return sent


async def read_body(request: Request, limits: IngestLimits) -> bytes:
    """The decoded body. Raises `Refused`: 400 `corrupt_body`, 408 `read_timeout`, 413 `body_too_large`, 415.

    The server must hand bodies over as sent (`SERVER_ARGS`): aiohttp's own unpacking takes a cut-off gzip for whole
    and hangs up on a corrupt one.
    """
    encoding = encoding_of(request)
    try:
        if request.content.is_eof():  # it came with its head, as small ones do
            packed = _here(request, limits)
        else:
            async with asyncio.timeout(limits.read_seconds):
                packed = await _read(request, limits)
    except TimeoutError as error:
        detail = f"The body did not arrive within {limits.read_seconds:g} s; send it at once."
        raise Refused(408, "read_timeout", detail) from error
    except RequestPayloadError as error:
        raise Refused(400, "corrupt_body", "The body was cut off; send it whole.") from error
    if encoding == "identity" or getattr(request.content, "total_compressed_bytes", None) is not None:
        return packed  # a server without SERVER_ARGS has unpacked it already
    if len(packed) < _THREAD_FROM:
        return unpack(packed, encoding, limits)
    return await asyncio.to_thread(unpack, packed, encoding, limits)


def unpack(packed: bytes, encoding: str, limits: IngestLimits) -> bytes:
    """Undo gzip or br, never holding more than the limit. Raises `Refused`: 400 `corrupt_body`, 413."""
    body = bytearray()
    try:
        for part in (_gunzip if encoding == "gzip" else _unbrotli)(packed):
            body += part
            if len(body) > limits.max_body_bytes:
                raise _too_large(limits)
    except (ValueError, zlib.error, brotli.error) as error:
        detail = f"The body cannot be read as {encoding}; send it whole and encoded as Content-Encoding says."
        raise Refused(400, "corrupt_body", detail) from error
    if len(body) > max(_RATIO_FROM, len(packed) * limits.max_ratio):
        detail = f"The body unpacks to over {limits.max_ratio} times its size; send it less compressed or in parts."
        raise Refused(413, "ratio_too_high", detail)
    return bytes(body)


def _gunzip(packed: bytes) -> Iterator[bytes]:
    """The contents of all members, in parts. Raises ValueError when the last one is cut off, or there are too many."""
    at = members = 0
    while at < len(packed) or not members:
        members += 1
        if members > _MEMBERS:
            raise ValueError(f"over {_MEMBERS} gzip members")
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = packed[at : at + _PART]
            part = member.decompress(piece, _PART)
            if not part and not piece and not member.eof:
                raise ValueError("the gzip stream ends too early")
            at += len(piece) - len(member.unused_data if member.eof else member.unconsumed_tail)
            yield part


def _unbrotli(packed: bytes) -> Iterator[bytes]:
    """The content, in parts. Raises ValueError when the stream is cut off."""
    stream = brotli.Decompressor()
    part = stream.process(packed, output_buffer_limit=_PART)
    yield part
    while not stream.is_finished():
        part = stream.process(b"", output_buffer_limit=_PART)
        if not part:
            raise ValueError("the brotli stream ends too early")
        yield part


def _here(request: Request, limits: IngestLimits) -> bytes:
    body: bytes = request.content.read_nowait()
    if len(body) > limits.max_body_bytes:
        raise _too_large(limits)
    return body


async def _read(request: Request, limits: IngestLimits) -> bytes:
    if (request.content_length or 0) > limits.max_body_bytes:
        raise _too_large(limits)
    parts: list[bytes] = []
    size = 0
    while chunk := await request.content.readany():
        size += len(chunk)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        parts.append(chunk)
    return b"".join(parts)


def _too_large(limits: IngestLimits) -> Refused:
    detail = f"The body may have {limits.max_body_bytes} bytes, unpacked; send it in parts."
    return Refused(413, "body_too_large", detail)
