"""`chronicle up` with a real Kafka and Postgres, and workers that only answer HTTP: the stack tried by itself.

Usage: fake_up.py STATE_DIR [BROKER DATABASE]. FAKE_* variables are for the workers (fake_worker.py).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from app.stack.console import Console
from app.stack.stack import Plan, Stack
from schemas.topics import topics


async def prepare(broker: str, database: str, sqlite: Path) -> None:
    print(f"prepared {broker} {database}", flush=True)


async def main(state_dir: str, broker: str | None = None, database: str | None = None) -> int:
    plan = Plan(
        state_dir=Path(state_dir),
        topics=topics(prefix="chronicle", partitions=4),
        prepare=prepare,
        worker=(sys.executable, str(Path(__file__).with_name("fake_worker.py"))),
        stream_workers=2,
        broker=broker,
        database=database,
        usual_port=False,
        start_timeout=80,
    )
    return await Stack(plan, Console()).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
