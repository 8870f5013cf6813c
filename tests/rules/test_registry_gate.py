"""The compatibility gate: released schemas never change, ids are never reused, new readers read every old version."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from uuid import UUID

import fastavro
import msgspec
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from schemas.codec import AvroCodec, to_fields
from schemas.event import HookEvent, IdOrigin
from schemas.registry import AVRO, Registry, SchemaVersion, packaged, read_versions, registry
from schemas.topics import topics


def compatible(reader: str, writer: str) -> bool:
    """Avro's own verdict."""
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(parse(reader), parse(writer))
    return verdict.compatibility is SchemaCompatibilityType.compatible


def with_field(text: str, field: dict[str, object]) -> str:
    schema = json.loads(text)
    schema["fields"].append(field)
    return json.dumps(schema)


@pytest.mark.parametrize("name", sorted({version.name for version in packaged()}))
def test_every_version_reads_every_older_one(name: str) -> None:
    """BACKWARD_TRANSITIVE over all that was ever committed."""
    ours = [version for version in packaged() if version.name == name]
    for at, reader in enumerate(ours):
        for writer in ours[: at + 1]:
            assert compatible(reader.text, writer.text), (reader.version, writer.version)


def test_the_gate_can_say_no() -> None:
    """A new field without a default cannot be read from old records; with one it can."""
    text = packaged()[0].text
    assert not compatible(with_field(text, {"name": "extra", "type": "string"}), text)
    assert compatible(with_field(text, {"name": "extra", "type": "string", "default": ""}), text)


def test_the_head_of_every_version_is_fixed() -> None:
    """Dedupe reads id, fingerprint and origin of any version at the same bytes."""
    for version in packaged():
        head = version.parsed()["fields"][:3]
        assert [field["name"] for field in head] == ["event_id", "fingerprint", "id_origin"]
        assert [field["type"]["type"] for field in head] == ["fixed", "fixed", "enum"]


def test_a_changed_released_schema_is_refused(tmp_path: Path) -> None:
    """Even by a space: its bytes are pinned."""
    shutil.copytree(AVRO, tmp_path / "avro")
    assert read_versions(tmp_path / "avro") == packaged()
    file = tmp_path / "avro" / "hook_event.v1.avsc"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ValueError, match="changed after its release"):
        read_versions(tmp_path / "avro")


def test_every_schema_file_has_an_id() -> None:
    """A file that was forgotten in ids.json would never be served."""
    listed = {f"{version.name}.v{version.version}.avsc" for version in packaged()}
    assert {file.name for file in AVRO.glob("*.avsc")} == listed


def test_an_id_is_never_given_twice() -> None:
    """Two schemas with one id would decode each other's records."""
    one = packaged()[0]
    with pytest.raises(ValueError, match="twice"):
        Registry([one, msgspec.structs.replace(one, version=2)], {})


def test_subjects_follow_the_topic_prefix() -> None:
    """Two installations on one broker do not share subjects."""
    ours = registry(topics(prefix="acme", partitions=1))
    assert ours.subjects() == ("acme.events-value", "acme.ingest-value")
    assert ours.subjects_of(1) == (("acme.events-value", 1), ("acme.ingest-value", 1))
    assert ours.subject("chronicle.events-value") is None


def test_an_older_version_is_read_by_resolution() -> None:
    """A record written before a field existed gets the field's default; one of the newest is read as well."""
    newest = packaged()[-1]
    schema = newest.parsed()
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in {"metadata", "flags"}]
    old = SchemaVersion(name="hook_event", version=1, id=99, text=json.dumps(schema), sha256="")
    codec = AvroCodec([old, newest])
    event = HookEvent(
        event_id=UUID(int=1),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.FRESH,
        session_id="s",
        event_type="t",
        occurred_at=1,
        received_at=2,
        source="x",
        payload='{"text":"long enough for any record"}',
    )
    out = BytesIO(b"\0\0\0\0\x63")
    out.seek(5)
    for field in schema["fields"]:
        field["type"] = bare(field["type"])
    fastavro.schemaless_writer(out, schema, to_fields(event))
    assert codec.decode(out.getvalue()) == event
    assert codec.peek(out.getvalue())[0] == event.event_id.bytes
    assert codec.decode(codec.encode(event)) == event


def bare(kind: object) -> object:
    if isinstance(kind, dict):
        return {key: bare(part) for key, part in kind.items() if key != "logicalType"}
    return [bare(part) for part in kind] if isinstance(kind, list) else kind
