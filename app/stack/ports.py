"""TCP ports: free ones, and the same ones again after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import socket
import tempfile
from pathlib import Path

from app.stack.ready import write_atomically

# Below Linux' default range for outgoing connections (32768 and up): a client that retries a stopped broker on a port
# of that range can be given the very port as its own end, connects to itself, and the broker cannot bind any more.
FIRST, LAST = 20_000, 29_999

#: port -> the open lock file; closed by the kernel when the process ends, however it ends.
_CLAIMS: dict[int, int] = {}


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind it now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1", *, avoid: frozenset[int] = frozenset()) -> int:
    """A port that is free now, at random, so that two stacks starting at once seldom meet."""
    while True:
        port = random.randint(FIRST, LAST)
        if port not in avoid and is_free(port, host):
            return port


class PortBook:
    """Remembers which port each part had, in a file: clients that kept the address find it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ports: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            self._ports = {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
        self._given: set[int] = set()

    def choose(self, name: str, *, host: str = "127.0.0.1", prefer: int | None = None) -> int:
        """The port this part had last time if it is free, else `prefer` if that is, else any free one."""
        for port in (self._ports.get(name), prefer):
            if port and port not in self._given and is_free(port, host) and claim(port):
                break
        else:
            port = free_port(host, avoid=frozenset(self._given))
            while not claim(port):
                port = free_port(host, avoid=frozenset(self._given))
        self._given.add(port)
        self._ports[name] = port
        write_atomically(self._path, json.dumps(self._ports))
        return port


def claim(port: int) -> bool:
    """Keep other stacks that start just now from choosing it: a free port is bound only seconds later.

    The claim is a lock on a file; this process holds it until it ends. True when it is ours, now or before.
    """
    if port in _CLAIMS:
        return True
    folder = Path(tempfile.gettempdir()) / f"chronicle-ports-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / f"{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:  # a folder that another user made in our name
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    _CLAIMS[port] = fd
    return True
