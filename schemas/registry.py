"""Which schema has which id: the packaged .avsc files, their versions and the subjects they are published under.

The files and `avro/ids.json` are the registry; the HTTP face of it is `app.views.registry`. A new version is a new file
and a new line in `ids.json`; a released file never changes (its hash is pinned, and a test checks it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.topics import Topics

AVRO: Final = Path(__file__).parent / "avro"

#: Readers of the newest version read every older one. The gate is a test over all committed versions.
COMPATIBILITY: Final = "BACKWARD_TRANSITIVE"


class SchemaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One released schema. `text` is its JSON as published, `sha256` the pinned hash of the file it came from."""

    name: str
    version: int
    id: int
    text: str
    sha256: str

    def parsed(self) -> Any:
        """The schema as JSON values; a fresh copy each time."""
        return json.loads(self.text)


class Registry:
    """Released schemas by id, and by subject and version. Read-only.

    `subjects` names, for each subject, the schema that is published under it. Raises `ValueError` at construction when
    an id is used twice or the versions of a schema are not 1, 2, 3 …
    """

    def __init__(self, versions: Sequence[SchemaVersion], subjects: Mapping[str, str]) -> None:
        self._by_name: dict[str, list[SchemaVersion]] = {}
        for version in versions:
            self._by_name.setdefault(version.name, []).append(version)
        self._by_id = {version.id: version for version in versions}
        self._subjects = dict(sorted(subjects.items()))
        if len(self._by_id) != len(versions):
            raise ValueError("a schema id is used twice")
        for name, ours in self._by_name.items():
            if [version.version for version in ours] != list(range(1, len(ours) + 1)):
                raise ValueError(f"the versions of {name} are not 1, 2, 3 … in order")

    def by_id(self, id: int) -> SchemaVersion | None:
        """The schema with this id, or None."""
        return self._by_id.get(id)

    def ids(self) -> frozenset[int]:
        """Every id a reader may meet."""
        return frozenset(self._by_id)

    def versions(self, name: str) -> Sequence[SchemaVersion]:
        """All versions of a schema, oldest first; KeyError when there is no such schema."""
        return tuple(self._by_name[name])

    def latest(self, name: str) -> SchemaVersion:
        """The version that is written today."""
        return self._by_name[name][-1]

    def names(self) -> Sequence[str]:
        """Every schema by name."""
        return tuple(self._by_name)

    def subjects(self) -> Sequence[str]:
        """Every subject, sorted."""
        return tuple(self._subjects)

    def subject(self, subject: str) -> Sequence[SchemaVersion] | None:
        """All versions published under a subject, oldest first, or None."""
        name = self._subjects.get(subject)
        return None if name is None else self.versions(name)

    def subjects_of(self, id: int) -> Sequence[tuple[str, int]]:
        """(subject, version) of every place where this id is published."""
        found = self._by_id.get(id)
        if found is None:
            return ()
        return tuple((subject, found.version) for subject, name in self._subjects.items() if name == found.name)


def read_versions(folder: Path = AVRO) -> tuple[SchemaVersion, ...]:
    """Every version listed in `folder`/ids.json. Raises `ValueError` when a file does not have its pinned hash."""
    versions = []
    for name, rows in json.loads((folder / "ids.json").read_text(encoding="utf-8"))["schemas"].items():
        for row in rows:
            raw = (folder / f"{name}.v{row['version']}.avsc").read_bytes()
            if hashlib.sha256(raw).hexdigest() != row["sha256"]:
                raise ValueError(f"{name}.v{row['version']}.avsc was changed after its release; add a version instead")
            text = json.dumps(json.loads(raw), separators=(",", ":"))
            versions.append(SchemaVersion(name=name, text=text, **row))
    return tuple(versions)


@cache
def packaged() -> tuple[SchemaVersion, ...]:
    """The versions that ship with this release, read once."""
    return read_versions()


def registry(topics: Topics) -> Registry:
    """The packaged schemas under the subjects of one installation: `<topic>-value` of both event topics."""
    return Registry(packaged(), {f"{spec.name}-value": "hook_event" for spec in (topics.ingest, topics.events)})
