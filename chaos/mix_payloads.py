"""Payloads of the load: sizes, texts and odd values as hooks send them, each unlike any other.

Nothing in them looks like a secret, and every number is one that a JSON column gives back as the same value: a payload
must come out as it went in. Each holds a marker, which no log may show.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any, Final

#: First part of every marker: whoever finds it in a log has found a payload's body.
MARKER: Final = "chaosmark"
#: Characters of a payload; with its escapes it has at most 200 KiB.
SMALLEST, LARGEST = 200, 110 * 1024
_WORDS: Final = (
    "the", "run", "of", "module", "test", "returns", "value", "when", "file", "changed", "line", "builder", "queue",
    "partition", "event", "cache", "reads", "writes", "and", "then", "index", "row", "column", "größe", "naïve",
    "данные", "日本語", "🙂", "\"quoted\"", "C:\\src\\app", "a/b/c.py", "x = y + 1;", "if (n > 0) {", "}", "\n", "\t",
    "<div>", "it's", "100%", "&&", "def f(x):", "return None", "SELECT * FROM t", "#", "- item", "**bold**", "`code`",
    "…",
)  # fmt: skip
_POOL_CHARS: Final = 1 << 17
#: What a JSON column of Postgres cannot hold and Chronicle gives back all the same.
_ODD: Final = ("a\0b", "\ud83d alone", "\udc90")


def canonical(value: Any) -> bytes:
    """Sorted keys, no blanks, UTF-8: equal values have equal bytes, however they were spelled."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def sha256(value: Any) -> str:
    """Hex digest of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


class Payloads:
    """Makes payloads from one source of chance; `small`: a third of the usual size, one in 2,000 large."""

    def __init__(self, chance: random.Random, name: str, *, small: bool = False) -> None:
        self._chance, self._name = chance, name
        self._large, self._scale = (0.0005, 5.7) if small else (0.005, 6.8)
        words: list[str] = []
        size = 0
        while size < _POOL_CHARS:
            words.append(chance.choice(_WORDS))
            size += len(words[-1]) + 1
        self._pool = " ".join(words)

    def size(self) -> int:
        """Characters that the next payload shall have about: log-normal around 900 (small: 300), few are large."""
        if self._chance.random() < self._large:
            return self._chance.randint(50 * 1024, LARGEST)
        return round(min(LARGEST, max(SMALLEST, self._chance.lognormvariate(self._scale, 1.2))))

    def text(self, size: int) -> str:
        """`size` characters of text."""
        parts = []
        while size > 0:
            start = self._chance.randrange(_POOL_CHARS - 1)
            parts.append(self._pool[start : start + size])
            size -= len(parts[-1]) + 1
        return " ".join(parts)

    def marked(self, seq: int, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with the marker of this event; one in 200 also with characters that databases do not like."""
        payload = {**fields, "marker": f"{MARKER}-{self._name}-{seq}"}
        if self._chance.random() < 0.005:
            payload["odd"] = self._chance.choice(_ODD)
        return payload

    def tool_input(self, size: int) -> dict[str, Any]:
        """What a tool is called with: text, numbers of all kinds, nested lists."""
        chance = self._chance
        return {
            "file_path": f"/srv/shop/src/{chance.randrange(10_000)}.py",
            "content": self.text(max(20, size - 400)),
            "limit": chance.choice((None, 0, -1, chance.randrange(1 << 31), (1 << 70) + chance.randrange(1 << 20))),
            "ratio": round(chance.uniform(-1000, 1000), 3),
            "flags": [chance.random() < 0.5, None, "", {"depth": [[chance.randrange(9)], {}]}],
        }

    def spell(self, value: Any) -> str:
        """JSON on one line, with or without blanks and escapes."""
        blanks = (", ", ": ") if self._chance.random() < 0.3 else (",", ":")
        # A lone surrogate has no UTF-8: it can only be sent as an escape.
        escaped = self._chance.random() < 0.3 or (isinstance(value, dict) and _holds_surrogate(value))
        return json.dumps(value, separators=blanks, ensure_ascii=escaped)


def _holds_surrogate(value: dict[str, Any]) -> bool:
    inner = value.get("payload")
    odd = value.get("odd") or (inner.get("odd") if isinstance(inner, dict) else None)
    return isinstance(odd, str) and any("\ud800" <= char <= "\udfff" for char in odd)
