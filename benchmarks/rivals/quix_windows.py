"""Quix Streams: a tumbling window of a minute for each session, counts by tool in it, in its state with a changelog."""

from __future__ import annotations

import threading
import time
from typing import Any

from common import QUIX, TOPIC, Counted, decode
from quixstreams import Application
from quixstreams.models.serializers.base import Deserializer


class Framed(Deserializer):
    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:
        return {"tool": decode(value)["tool_name"]}


def begin(value: dict[str, Any]) -> dict[str, int]:
    return {value["tool"]: 1}


def add(counts: dict[str, int], value: dict[str, Any]) -> dict[str, int]:
    tool = value["tool"]
    counts[tool] = counts.get(tool, 0) + 1
    return counts


def main() -> None:
    app = Application(**QUIX)
    counted = Counted()

    def tell(value: Any, key: Any, timestamp: int, headers: Any) -> None:
        counted.put((key, value["start"]), sum(value["value"].values()))

    def now_and_then() -> None:
        while True:
            time.sleep(0.5)
            counted.tell()

    threading.Thread(target=now_and_then, daemon=True).start()
    topic = app.topic(TOPIC, value_deserializer=Framed(), key_deserializer="bytes")
    frame = app.dataframe(topic).tumbling_window(60_000, grace_ms=10_000).reduce(add, begin).current()
    frame.update(tell, metadata=True)
    app.run()


if __name__ == "__main__":
    main()
