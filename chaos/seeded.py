"""Seven bugs of the kind that loses events or counts them wrongly, planted into Chronicle from outside.

A checker that misses one is no checker.

Each is a patch of one module, applied the moment that module is imported in a worker process (`chaos.inside`). The
scenario that must show it is in `chaos.selftest`.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Bug:
    """`change` gets the module `module` right after its import. `caught_by` names invariants, any of which may tell."""

    name: str
    what: str
    module: str
    change: Callable[[Any], None]
    caught_by: tuple[str, ...]


# --- the bugs --------------------------------------------------------------------------------------------------------


def _trust_the_group(module: Any) -> None:
    """The group's offset is believed, whatever the database says: without this, durable progress would heal the bug."""

    def resume(*_: Any, **__: Any) -> Any:
        async def nothing(_committed: Any) -> Mapping[Any, int]:
            return {}

        return nothing

    module.resume = resume


def _ack_before_sink(module: Any) -> None:
    right = module.Persister.settle

    async def settle(self: Any, cut: Any) -> None:
        for part in cut.slices:
            if part.chunk is not None:
                part.chunk.ack(through=part.end)
        await right(self, cut)

    module.Persister.settle = settle
    _trust_the_group(module)


def _stock_take(module: Any) -> None:
    """`stream.take` as its documentation shows it: a list is acked when the next one is asked for, written or not.

    Our transport does not listen to Faust's own acks of chunks, so the bug says them to the chunks.
    """

    def attach(app: Any, *, topic: Any, status: Any, abort: Any, **parts: Any) -> Any:
        async def persist(stream: Any) -> None:
            persister = module.Persister(status=status, **parts)
            writer = asyncio.create_task(persister.run())
            try:
                async for chunks in stream.take(10, within=0.05):
                    for chunk in chunks:
                        await persister.take(chunk)
                    for chunk in chunks:
                        chunk.ack()
            finally:
                writer.cancel()

        return app.agent(topic, name="persist", concurrency=1)(persist)

    module.attach = attach
    _trust_the_group(module)


def _do_update(module: Any) -> None:
    module.STORE = module.STORE.replace(
        "DO NOTHING", "DO UPDATE SET payload = excluded.payload, ingest_offset = excluded.ingest_offset"
    )


def _spool_from_memory(module: Any) -> None:
    """Told as durable three seconds before it is written: what an fsync would have saved is gone with the process."""
    right = module.Spool.append

    def append(self: Any, records: Sequence[Any]) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        loop.call_later(3.0, lambda: right(self, records))
        told: asyncio.Future[int] = loop.create_future()
        told.set_result(0)
        return told

    module.Spool.append = append


class _Unacked:
    """A chunk whose ack is somebody else's business."""

    def __init__(self, chunk: Any) -> None:
        self._chunk = chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunk, name)

    def ack(self, through: int | None = None) -> None:
        """Not now."""


def _mark_before_produce(module: Any) -> None:
    """Seen first, produced later, and an id that was seen is a duplicate wherever it comes from."""

    async def pass_on(self: Any, chunk: Any) -> None:
        deps, pending = self._deps, await self._memory(chunk)
        seen, now, before = module.read(chunk.records, deps.peek), deps.clock.now(), pending.head
        decision = module.decide(seen.items, pending, int(now * 1000), deps.table.retention)
        pending.push(decision)
        await self._remember(module._Decided(_Unacked(chunk), before, decision, seen.poisons))
        out = module.output(
            chunk.topic, self._partition, chunk.records, seen, decision, deps.remark, int(now * 1_000_000)
        )
        keep = [
            verdict is not module.Verdict.REPLAY for verdict in decision.verdicts if verdict <= module.Verdict.REPLAY
        ]
        events = [record for record, new in zip(out.events, keep, strict=True) if new]
        for topic, outgoing in ((deps.topics.dead_letters.name, out.letters), (deps.topics.events.name, events)):
            if outgoing:
                await self._send(chunk, topic, outgoing)
        chunk.ack()

    module.Lane._pass = pass_on


def _commit_across_a_gap(module: Any) -> None:
    def committable(self: Any) -> int | None:
        return None if self.delivered in (self.start, self.committed) else int(self.delivered)

    module.PartitionLedger.committable = committable


def _count_again(module: Any) -> None:
    """Every event is taken for new: a batch that comes again counts once more.

    Both questions are answered so: after a kill dedup passes its chunks on again, too, and a batch with such repeats in
    it would be counted event by event, rightly.
    """
    module._ordered = module._all_new = lambda *_: True


BUGS: Mapping[str, Bug] = {
    bug.name: bug
    for bug in (
        Bug("ack-before-sink", "acks a batch before it is written", "agents.persist", _ack_before_sink, ("I1",)),
        Bug("stock-take", "batches with Faust's take()", "agents.persist", _stock_take, ("I1",)),
        Bug("do-update", "overwrites instead of DO NOTHING", "connectors.pgsql", _do_update, ("I4", "I6", "I7", "I8")),
        Bug("spool-without-fsync", "acks from memory", "connectors.spool", _spool_from_memory, ("I1",)),
        Bug("mark-before-produce", "remembers an id first", "agents.dedupe", _mark_before_produce, ("I1",)),
        Bug(
            "commit-across-a-gap",
            "commits what was delivered, not what was acked",
            "connectors.transport.ledger",
            _commit_across_a_gap,
            ("I1",),
        ),
        Bug("count-again", "counts a repeated batch once more", "tables.usage_apply", _count_again, ("I17",)),
    )
}
#: Bugs that need a second module changed to become visible.
ALSO: Mapping[str, tuple[tuple[str, Callable[[Any], None]], ...]] = {
    "commit-across-a-gap": (("agents.persist", _trust_the_group),),
}


# --- planting --------------------------------------------------------------------------------------------------------


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, change: Callable[[Any], None]) -> None:
        self._loader, self._change = loader, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real one."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """As the real one, then the change."""
        self._loader.exec_module(module)
        self._change(module)


class _Planter(importlib.abc.MetaPathFinder):
    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Only for the modules to change."""
        change = self._changes.pop(name, None)  # popped: looking for the real one must not come back here
        spec = importlib.util.find_spec(name) if change is not None else None
        if spec is not None and change is not None:
            spec.loader = _Loader(spec.loader, change)
        return spec


def plant(name: str) -> None:
    """Change this process. Raises KeyError for an unknown name."""
    bug = BUGS[name]
    sys.meta_path.insert(0, _Planter(dict([(bug.module, bug.change), *ALSO.get(name, ())])))
