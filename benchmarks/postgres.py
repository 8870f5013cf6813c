"""A Postgres of a round's own, for what must be there before Chronicle starts, or stay when it goes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.stack.ports import free_port
from app.stack.postgres import Postgres


@contextlib.contextmanager
def own_postgres() -> Iterator[Postgres]:
    """Running, empty; gone with its files at the end."""
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:
        Path(folder).chmod(0o711)  # Postgres' own user, when we are root
        postgres = Postgres(Path(folder) / "postgres", free_port())
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()
