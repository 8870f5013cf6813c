"""TCP ports: free ones, and the same ones again after a restart."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from pathlib import Path

from app.stack.ready import write_atomically

# Below Linux' default range for outgoing connections (32768 and up): a client that retries a stopped broker on a port
# of that range can be given the very port as its own end, connects to itself, and the broker cannot bind any more.
FIRST, LAST = 20_000, 29_999


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
            if port and port not in self._given and is_free(port, host):
                break
        else:
            port = free_port(host, avoid=frozenset(self._given))
        self._given.add(port)
        self._ports[name] = port
        write_atomically(self._path, json.dumps(self._ports))
        return port
