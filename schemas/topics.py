"""Topic names, partitions and retention as data; headers and causes as words."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

DAY_MS: Final = 24 * 60 * 60 * 1000

#: Header on every record of `chronicle.events`: struct ">iq", the partition and offset in `chronicle.ingest`.
POSITION_HEADER: Final = "chronicle-position"

Cause = Literal["undecodable", "unknown_schema", "invalid", "conflict", "refused_by_database", "oversize"]
#: Why a record became a dead letter. `conflict`: same event_id, another payload; the first one stays.
CAUSES: Final[tuple[Cause, ...]] = (
    "undecodable",
    "unknown_schema",
    "invalid",
    "conflict",
    "refused_by_database",
    "oversize",
)


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a topic must be. `partitions` 0 means: as many as the ingest topic. `retention_ms` -1 keeps for ever.

    `public`: others may consume it; what it holds is told at /asyncapi.json. The rest is internal.
    """

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    doc: str
    public: bool = False


class Topics(msgspec.Struct, frozen=True):
    """All topics of one installation, by their role."""

    ingest: TopicSpec
    events: TopicSpec
    dead_letters: TopicSpec
    seen: TopicSpec
    aggregates: TopicSpec
    control: TopicSpec

    def all(self) -> tuple[TopicSpec, ...]:
        """In walking order."""
        return (self.ingest, self.events, self.dead_letters, self.seen, self.aggregates, self.control)

    def public(self) -> dict[str, TopicSpec]:
        """Those that others may consume, by role."""
        return {role: spec for role, spec in msgspec.structs.asdict(self).items() if spec.public}


def topics(*, prefix: str, partitions: int, retention_ms: int = 7 * DAY_MS) -> Topics:
    """The topics of the installation named `prefix` (`chronicle` unless told otherwise)."""

    def spec(
        name: str, parts: int, cleanup: Literal["delete", "compact"], keep: int, doc: str, public: bool = False
    ) -> TopicSpec:
        return TopicSpec(
            name=f"{prefix}.{name}", partitions=parts, cleanup=cleanup, retention_ms=keep, doc=doc, public=public
        )

    return Topics(
        ingest=spec("ingest", partitions, "delete", retention_ms, "every accepted event, before dedup; internal"),
        events=spec("events", partitions, "delete", retention_ms, "the public stream: each event once", True),
        dead_letters=spec("dead-letters", 1, "delete", 4 * retention_ms, "what could not be decoded or stored", True),
        seen=spec("seen", partitions, "compact", -1, "changelog of the dedup table; internal"),
        aggregates=spec(
            "aggregates", partitions, "compact", -1, "the aggregate tables: newest value under each key", True
        ),
        control=spec("control", 1, "compact", -1, "worker status and failover ranges; internal"),
    )
