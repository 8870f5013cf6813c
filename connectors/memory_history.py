"""A history store in memory, for tests and examples: the contract in plain Python."""

from __future__ import annotations

from connectors.rows import clean
from schemas.errors import Unavailable
from schemas.history import Changes, Place, Row, Written


class MemoryHistory:
    """Everything it took is in `rows`. Set `down` to an error and it raises that instead of writing."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Place], Row] = {}
        self.down: Unavailable | None = None
        self.writes = 0

    async def open(self) -> None:
        """Nothing to do."""

    async def write(self, log_id: str, changes: Changes) -> Written:
        """See the contract."""
        if self.down is not None:
            raise self.down
        self.writes += 1
        removed = sum(self._remove((log_id, one.place), one.generation) for one in changes.removed)
        kept = [row for row in changes.rows if _storable(row)]
        written = sum(self._put((log_id, row.place), row) for row in kept)
        return Written(written, len(kept) - written, removed, len(changes.rows) - len(kept))

    async def close(self) -> None:
        """Nothing to do."""

    def _remove(self, key: tuple[str, Place], generation: int) -> bool:
        there = self.rows.get(key)
        if there is None or there.mark.generation >= generation:
            return False
        del self.rows[key]
        return True

    def _put(self, key: tuple[str, Place], row: Row) -> bool:
        there = self.rows.get(key)
        if there is not None and there.mark >= row.mark:
            return False
        self.rows[key] = row
        return True


def _storable(row: Row) -> bool:
    """What every real database refuses: U+0000 or a lone surrogate in text."""
    texts = (row.place.value, row.place.tool or "")
    return all(clean(text) == text for text in texts)
