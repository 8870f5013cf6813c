"""Recorded hook payloads of real sessions, where they lie beside the checkout (or where CHRONICLE_RECORDED says)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED = Path(os.environ.get("CHRONICLE_RECORDED") or Path(__file__).parents[3] / "shared" / "data" / "recorded")


def bodies() -> Iterator[dict[str, Any]]:
    """Every recorded hook body, in the order of the files."""
    for file in sorted(RECORDED.glob("hooks-*.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line)
    for file in sorted(RECORDED.glob("session-*.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line)["body"]
