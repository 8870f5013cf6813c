"""The log of a whole process, as it comes out of its stderr: each test runs one, in a pipe or on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from app.telemetry import MAX_VALUE
from repository import ROOT

SETUP = """
import logging, structlog, threading
from app.settings import LoggingSettings
from app.telemetry import configure
configure(LoggingSettings({settings}), worker={worker!r})
log = structlog.get_logger("ours")
"""
#: What begins a line for a terminal or a log reader, or paints, renames or turns round what stands there.
FORGERIES = ["\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\0", "\x1b[2J", "\x1b]0;x\a", "\x9b1m", "\u202e"]  # fmt: skip # noqa: E501
FORGED = "x" + "2026-01-01T00:00:00Z [info     ] all is well".join(FORGERIES)
FAILS = f"""
def load(password, payload):
    raise ValueError({FORGED!r})

try:
    load("hunter2", "what the client sent")
except ValueError:
    log.exception("ours failed")
    logging.getLogger("aiohttp.server").exception("theirs failed")
"""
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \[(info|warning|error) +\] ")


def piped(code: str, settings: str = "", worker: str = "") -> str:
    """What a process with our logging writes to a stderr that is no terminal."""
    done = subprocess.run(command(code, settings, worker), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    return done.stderr.decode()


def on_a_terminal(code: str, settings: str = "", worker: str = "") -> str:
    """The same on a terminal."""
    ours, theirs = pty.openpty()
    seen = b""
    with subprocess.Popen(command(code, settings, worker), cwd=ROOT, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # Linux' way of saying that the other side has closed
            while more := os.read(ours, 65536):
                seen += more
        os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode().replace("\r\n", "\n")


def command(code: str, settings: str, worker: str) -> list[str]:
    return [sys.executable, "-c", SETUP.format(settings=settings, worker=worker) + code]


def lines(text: str) -> list[str]:
    """Lines as the strictest reader sees them."""
    return text.splitlines()


def records(text: str) -> list[dict[str, Any]]:
    """Each line is one JSON object."""
    return [json.loads(line) for line in lines(text)]


def test_in_a_pipe_each_record_is_one_json_object() -> None:
    """With time in UTC, level, logger and values that keep their types."""
    (record,) = records(piped('log.info("stored", events=5, roles=["api"], ok=True, none=None)'))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record.pop("timestamp"))
    assert record == {
        "event": "stored", "level": "info", "logger": "ours", "events": 5, "roles": ["api"], "ok": True, "none": None,
    }  # fmt: skip


def test_on_a_terminal_it_is_for_people() -> None:
    """A line in colour, no JSON, no worker's name."""
    (line,) = lines(on_a_terminal('log.info("stored", events=5)', worker="w-1"))
    assert "\x1b[" in line
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert STAMP.match(plain)
    assert plain.split("] ", 1)[1] == "stored [ours] events=5"


def test_the_setting_beats_what_stderr_is() -> None:
    """JSON on a terminal, a plain line without colour in a pipe."""
    (record,) = records(on_a_terminal('log.info("a")', 'format="json"'))
    assert record["event"] == "a"
    (line,) = lines(piped('log.info("a")', 'format="console"'))
    assert STAMP.match(line)
    assert "\x1b" not in line


def test_every_record_names_its_worker() -> None:
    """Those of other libraries and of other threads too."""
    code = """
log.info("one")
logging.getLogger("faust.worker").warning("two")
thread = threading.Thread(target=lambda: logging.getLogger("aiokafka").error("three"))
thread.start(); thread.join()
"""
    assert [(found["event"], found["worker"]) for found in records(piped(code, worker="w-1"))] == [
        ("one", "w-1"),
        ("two", "w-1"),
        ("three", "w-1"),
    ]


def test_all_loggers_go_through_one_pipeline() -> None:
    """stdlib's and foreign records have the same form; chatty ones are quiet, unless the level is debug."""
    code = """
logging.getLogger("connectors.postgres").warning("away: %s", "a\\nb")
logging.getLogger("faust.app").info("chatter")
logging.getLogger("mode.services").warning("heard")
logging.getLogger("aiokafka.cluster").error("chatter")
logging.getLogger("anybody").info("else")
logging.getLogger("anybody").debug("unheard")
"""
    found = records(piped(code))
    assert [(record["logger"], record["level"], record["event"]) for record in found] == [
        ("connectors.postgres", "warning", r"away: a\nb"),
        ("mode.services", "warning", "heard"),
        ("anybody", "info", "else"),
    ]
    assert all(record.keys() == {"logger", "level", "event", "timestamp"} for record in found)
    assert len(records(piped(code, 'level="debug"'))) == 6
    assert lines(piped(code, 'level="error"')) == []


@pytest.mark.parametrize("form", ["json", "console"])
def test_long_values_are_cut(form: str) -> None:
    """Texts and what holds texts: no line carries a payload; how long it was is told."""
    code = 'log.info("e" * 50_000, text="x" * 50_000, held={"a": ["y" * 50_000]}, raw=b"z" * 50_000)'
    (line,) = lines(piped(code, f'format="{form}"'))
    assert len(line) < 5 * MAX_VALUE
    assert all(letter * (MAX_VALUE // 2) in line for letter in "exyz")
    assert line.count("(50000 characters)") == 2


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_that_was_sent_forges_a_line(form: str) -> None:
    """Whatever it holds, in an event, a value, a key or an argument, a record is one line of printable text."""
    code = f"""
forged = {FORGED!r}
log.info(forged, value=forged, held=[forged], **{{forged: 1}})
logging.getLogger("aiohttp.server").error("bad request %r %s", forged, forged)
"""
    found = lines(piped(code, f'format="{form}"'))
    assert len(found) == 2
    assert all(line.isprintable() for line in found)


def test_what_was_sent_can_still_be_read() -> None:
    """Control characters are escaped, not dropped; letters of any language stay."""
    (record,) = records(piped(r'log.info("a", path="/x\ny\x1b[2J", name="Zoë 😀")'))
    assert (record["path"], record["name"]) == (r"/x\ny\x1b[2J", "Zoë 😀")


def test_an_errors_message_forges_no_line_for_people() -> None:
    """Only records begin at the margin; a traceback is set in and escaped, and shows no local variable."""
    text = piped(FAILS, 'format="console"')
    margin = [line for line in lines(text) if not line.startswith("    ")]
    assert [STAMP.sub("", line) for line in margin] == ["ours failed [ours]", "theirs failed [aiohttp.server]"]
    assert all(line.isprintable() for line in lines(text))
    assert text.count("ValueError: x") == 2
    assert "hunter2" not in text
    assert "what the client sent" not in text


def test_an_error_is_one_json_object_with_its_traceback() -> None:
    """Under `exception`, for ours and for theirs."""
    found = records(piped(FAILS))
    assert [record["event"] for record in found] == ["ours failed", "theirs failed"]
    for record in found:
        assert "Traceback (most recent call last)" in record["exception"]
        assert "ValueError: x" in record["exception"]
