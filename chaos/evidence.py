"""Gather what a run left behind: Postgres, SQLite, the topics and what Chronicle says of itself.

It is a reader like any user: table, column and topic names are those of the documentation, no code is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from chaos.evidence_postgres import read_store
from chaos.evidence_recount import read_recount
from chaos.evidence_sqlite import read_local
from chaos.evidence_topics import read_log
from chaos.evidence_values import Evidence, Sample

HTTP_S = 15.0
_METRIC = re.compile(r"^([A-Za-z_:][\w:]*(?:\{.*\})?) (\S+)")


async def gather(
    *,
    url: str,
    dsn: str,
    broker: str,
    sqlite: Path,
    topics: Mapping[str, str],
    metrics_urls: Sequence[str] = (),
    samples: Sequence[Sample] = (),
    passed: bool = True,
    recount: bool = True,
) -> Evidence:
    """Everything, once all is quiet. `topics` are names by role; `metrics_urls` are of further processes.

    `passed`: the public stream record by record. `recount`: all events are counted again.

    Raises when Postgres, the broker or the API does not answer: a verdict from half the evidence is none.
    """
    prefix = topics["ingest"].rpartition(".")[0]
    stats, ready, metrics = await read_http(url, metrics_urls)
    return Evidence(
        postgres=await read_store(dsn),
        sqlite=await asyncio.to_thread(read_local, sqlite),
        log=await asyncio.to_thread(read_log, broker, topics, prefix, passed=passed),
        stats=stats,
        ready=ready,
        metrics=metrics,
        samples=list(samples),
        recounted=await asyncio.to_thread(read_recount, broker, dsn, prefix) if recount else None,
    )


async def read_http(url: str, others: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """(/stats, /ready, /metrics added up over all processes that answer). The API itself must answer."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_S)) as http:
        stats = json.loads(await _text(http, f"{url}/stats"))
        ready = json.loads(await _text(http, f"{url}/ready"))
        metrics = parse_metrics(await _text(http, f"{url}/metrics"))
        for other in others:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                for name, value in parse_metrics(await _text(http, f"{other}/metrics")).items():
                    metrics[name] = metrics.get(name, 0.0) + value
    return stats, ready, metrics


async def _text(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as answer:
        return await answer.text()


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus text: name with its labels -> value."""
    found = (_METRIC.match(line) for line in text.splitlines() if not line.startswith("#"))
    return {match[1]: float(match[2]) for match in found if match}
