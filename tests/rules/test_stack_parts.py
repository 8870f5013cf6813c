"""The small parts of the embedded stack: lock, ports, ready file, jar list, console, configuration."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.stack import stack
from app.stack.console import Lines, LogFile
from app.stack.jars import complete, parse, pinned
from app.stack.kafka import broker_answers, properties
from app.stack.lock import StateLock
from app.stack.ports import FIRST, LAST, PortBook, free_port, is_free
from app.stack.postgres import server_answers
from app.stack.process import Identity
from app.stack.reach import can_traverse, reachable_copy
from app.stack.ready import Pids, Ready, ReadyFiles, TopicNames
from schemas.errors import ChronicleError, Misconfigured, Unavailable

READY = Ready(
    url="http://127.0.0.1:1",
    broker="127.0.0.1:2",
    database="postgresql://u:p@127.0.0.1:3/chronicle",
    sqlite="/s/failover.db",
    state_dir="/s",
    topics=TopicNames("i", "e", "d"),
    pids=Pids(1, None, 3, (4, 5)),
)


# --- one up per state directory ---------------------------------------------------------------------------------------


def test_the_lock_says_who_has_it(tmp_path: Path) -> None:
    """The second owner learns pid and URL of the first."""
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    first.acquire()
    first.note(url="http://127.0.0.1:8000")
    with pytest.raises(Misconfigured, match=rf"already up on .*\(pid {os.getpid()}, http://127.0.0.1:8000\)"):
        second.acquire()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    """One after the other is fine."""
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    first.acquire()
    first.release()
    second.acquire()
    second.release()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    """A killed `up` leaves no lock behind."""
    code = "import os; from app.stack.lock import *; StateLock(Path('.')).acquire(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, env={"PYTHONPATH": os.getcwd()})
    assert done.returncode == -9
    assert json.loads((tmp_path / "up.lock").read_text())["pid"]
    StateLock(tmp_path).acquire()


# --- ports ------------------------------------------------------------------------------------------------------------


def test_a_restart_gets_the_same_ports(tmp_path: Path) -> None:
    """Clients that kept the address find it again."""
    first = PortBook(tmp_path / "ports.json")
    chosen = [first.choose(name) for name in ("kafka", "postgres")]
    again = PortBook(tmp_path / "ports.json")
    assert [again.choose(name) for name in ("kafka", "postgres")] == chosen


def test_a_remembered_port_in_use_is_replaced(tmp_path: Path) -> None:
    """Somebody else may have taken it meanwhile."""
    old = PortBook(tmp_path / "ports.json").choose("kafka")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", old))
        taken.listen()
        assert PortBook(tmp_path / "ports.json").choose("kafka") != old


def test_a_spoilt_port_book_is_begun_anew(tmp_path: Path) -> None:
    """Half a file of a full disk is no reason not to start."""
    (tmp_path / "ports.json").write_text('{"kafka": ')
    assert FIRST <= PortBook(tmp_path / "ports.json").choose("kafka") <= LAST


def test_two_names_never_get_one_port(tmp_path: Path) -> None:
    """A port that was given is not free, although nobody listens yet."""
    book = PortBook(tmp_path / "ports.json")
    port = free_port()
    assert book.choose("a", prefer=port) == port
    assert book.choose("b", prefer=port) != port


def test_a_port_in_use_is_not_free() -> None:
    """Bound and listening means taken."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


# --- the ready file ---------------------------------------------------------------------------------------------------


def test_the_ready_file_has_the_promised_form_and_is_for_its_owner_only(tmp_path: Path) -> None:
    """Tests and drills use exactly these names; it holds the database's password."""
    path = tmp_path / "ready.json"
    ReadyFiles(path).write(READY)
    assert json.loads(path.read_text()) == {
        "url": "http://127.0.0.1:1",
        "broker": "127.0.0.1:2",
        "database": "postgresql://u:p@127.0.0.1:3/chronicle",
        "sqlite": "/s/failover.db",
        "state_dir": "/s",
        "topics": {"ingest": "i", "events": "e", "dead_letters": "d"},
        "pids": {"kafka": 1, "postgres": None, "ingest": 3, "stream": [4, 5]},
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_removing_leaves_nothing_even_where_nothing_was(tmp_path: Path) -> None:
    """Both places are cleared, the one that never was included."""
    files = ReadyFiles(tmp_path / "a.json", tmp_path / "gone" / "b.json")
    ReadyFiles(tmp_path / "a.json").write(READY)
    files.remove()
    assert not list(tmp_path.iterdir())


# --- the jar list -----------------------------------------------------------------------------------------------------


def test_the_pinned_list_is_whole_and_names_no_host() -> None:
    """Every jar once, with size and SHA-256; Kafka, its client and the logging back end among them."""
    jars = pinned()
    names = {jar.artifact for jar in jars}
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert {"kafka_2.13", "kafka-clients", "kafka-server", "log4j-slf4j-impl"} <= names
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 1000 for jar in jars)
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.1.1"}


def test_a_directory_with_half_a_jar_is_not_complete(tmp_path: Path) -> None:
    """An interrupted download is noticed."""
    jars = parse("# a comment\ng:a:1 4 aa\ng:b:2 2 bb\n")
    (tmp_path / "a-1.jar").write_bytes(b"1234")
    assert not complete(tmp_path, jars)
    (tmp_path / "b-2.jar").write_bytes(b"1")
    assert not complete(tmp_path, jars)
    (tmp_path / "b-2.jar").write_bytes(b"12")
    assert complete(tmp_path, jars)


# --- words and configuration ------------------------------------------------------------------------------------------


def test_lines_are_cut_wherever_the_pieces_end() -> None:
    """The pipe's pieces are not the child's lines."""
    seen: list[bytes] = []
    lines = Lines(seen.append, limit=4)
    for piece in (b"on", b"e\ntw", b"o\n", b"\nlonger th", b"an\nend"):
        lines.feed(piece)
    lines.end()
    assert seen == [b"one", b"two", b"", b"long", b"er t", b"han", b"end"]


def test_a_log_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """One old file is kept, so the disk holds at most twice the limit."""
    log = LogFile(tmp_path / "a.log", max_bytes=100)
    for number in range(100):
        log.write(f"{number:09}\n".encode())
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 220
    assert (tmp_path / "a.log").read_text().endswith("000000099\n")


def test_kafka_makes_no_topic_by_itself_and_takes_our_largest_record() -> None:
    """The two settings that the way of an event hangs on."""
    text = properties(port=1, controller_port=2, log_dir=Path("/d"))
    assert "auto.create.topics.enable=false\n" in text
    assert "message.max.bytes=2097152\n" in text
    assert "listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2\n" in text


def test_an_open_port_alone_is_neither_kafka_nor_postgres() -> None:
    """A server that says nothing proves nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not broker_answers("127.0.0.1", port, timeout=0.1)
        assert not server_answers("127.0.0.1", port, timeout=0.1)


# --- reach ------------------------------------------------------------------------------------------------------------


def test_a_closed_directory_above_is_noticed(tmp_path: Path) -> None:
    """Whoever is neither owner nor in the group needs the x of the others, on every directory above."""
    stranger = Identity("stranger", 54321, 54321)
    inner = Path("/tmp") / f"reach-{os.getpid()}" / "inner"
    inner.mkdir(parents=True)
    try:
        inner.parent.chmod(0o711)
        assert can_traverse(inner, stranger)
        inner.parent.chmod(0o710)
        assert not can_traverse(inner, stranger)
    finally:
        inner.rmdir()
        inner.parent.rmdir()


def test_a_reachable_copy_can_be_read_by_everyone(tmp_path: Path) -> None:
    """Closed modes of the source are opened in the copy, the source is left alone."""
    source = tmp_path / "tool"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_text("#!/bin/sh\n")
    (source / "bin" / "run").chmod(0o700)
    (source / "notes.txt").write_text("notes")
    (source / "notes.txt").chmod(0o600)
    copy = reachable_copy([source], "tool-1", places=[tmp_path / "programs"])
    assert (copy / "tool" / "bin" / "run").stat().st_mode & 0o777 == 0o755
    assert (copy / "tool" / "notes.txt").stat().st_mode & 0o777 == 0o644
    assert (source / "notes.txt").stat().st_mode & 0o777 == 0o600
    assert reachable_copy([source], "tool-1", places=[tmp_path / "programs"]) == copy
    assert [path.name for path in copy.parent.iterdir()] == ["tool-1"]


def test_a_port_claimed_by_another_process_is_not_chosen(tmp_path: Path) -> None:
    """Two stacks that start at once both find 8000 free; only one of them may take it."""
    port = free_port()
    holder = (
        "import sys; from app.stack.ports import claim; print(claim(int(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(port)],
        cwd=os.getcwd(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert PortBook(tmp_path / "ports.json").choose("http", prefer=port) != port
        other.communicate()
    assert PortBook(tmp_path / "again.json").choose("http", prefer=port) == port


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unavailable("postgres", "refused"), ". Start it, or name another one with --database."),
        (Unavailable("kafka", "no answer"), ". Start it, or name another one with --broker."),
        (Unavailable("postgres", "no such user. Correct the database URL."), ""),
        (Unavailable("ingest", "ended 5 times at its start"), ""),
        (Misconfigured("The schema is newer.", "Run the newer version."), ""),
    ],
)
def test_a_server_that_does_not_answer_has_a_remedy(error: ChronicleError, said: str) -> None:
    """One sentence, and not a second one where the first tells what to do."""
    assert stack._remedy(error) == said
