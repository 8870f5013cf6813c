"""The example consumers say the same of an event as the Avro schema and the API do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import avro.schema
import msgspec
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from app.views.shapes import Event
from example_files import CONSUMERS, columns, example, settings, text
from schemas.registry import packaged
from schemas.topics import POSITION_HEADER, topics

NEWEST: dict[str, Any] = packaged()[-1].parsed()
FIELDS: dict[str, Any] = {field["name"]: field["type"] for field in NEWEST["fields"]}
PUBLIC = {spec.name for spec in topics(prefix="chronicle", partitions=1).public().values()}

#: What the column of a Kafka table must be, by the tables in ClickHouse's and Flink's documentation of their formats.
CLICKHOUSE = {
    "string": "String",
    "int": "Int32",
    "enum": "String",
    "fixed 16": "FixedString(16)",
    "long timestamp-micros": "DateTime64(6, 'UTC')",
    "string uuid": "UUID",
}
FLINK = {"string": "STRING", "int": "INT", "long": "BIGINT", "enum": "STRING", "fixed 16": "VARBINARY(16)"}


def kind(of: Any, *, logical: bool) -> tuple[str, bool]:
    """(word for the type, may it be null)."""
    if isinstance(of, list):
        assert of[0] == "null", of
        return kind(of[1], logical=logical)[0], True
    if isinstance(of, str):
        return of, False
    words = [of["type"]]
    if of["type"] == "fixed":
        words.append(str(of["size"]))
    elif logical and "logicalType" in of:
        words.append(of["logicalType"])
    return " ".join(words), False


def test_clickhouse_has_a_column_for_each_field() -> None:
    """The types that its Avro format reads them into."""
    wanted = {}
    for name, of in FIELDS.items():
        word, null = kind(of, logical=True)
        wanted[name] = f"Nullable({CLICKHOUSE[word]})" if null else CLICKHOUSE[word]
    assert columns("clickhouse.sql", "chronicle.events_queue") == wanted


def test_what_clickhouse_keeps_is_what_it_reads() -> None:
    """The same columns, the id as a UUID, and the position; names that repeat are kept once each."""
    queue, kept = columns("clickhouse.sql", "chronicle.events_queue"), columns("clickhouse.sql", "chronicle.events")
    assert list(kept) == [*queue, "ingest_partition", "ingest_offset"]
    plain = {name: re.sub(r"LowCardinality\((.*)\)$", r"\1", of) for name, of in kept.items()}
    assert plain.pop("event_id") == "UUID"
    assert {name: plain[name] for name in queue if name != "event_id"} == {
        name: of for name, of in queue.items() if name != "event_id"
    }
    view = text("clickhouse.sql").partition("chronicle.events_pipe TO chronicle.events AS")[2].partition(";")[0]
    assert re.findall(r" AS (\w+),?$", view.partition("FROM\n(")[0], re.MULTILINE) == list(kept)
    assert f"'{POSITION_HEADER}'" in view


def test_flink_has_a_column_for_each_field() -> None:
    """In the order of the schema, null where it may be null: Flink compares its columns with the schema it is told."""
    wanted = {}
    for name, of in FIELDS.items():
        word, null = kind(of, logical=False)
        wanted[name] = FLINK[word] + ("" if null else " NOT NULL")
    found = columns("flink.sql", "chronicle_events")
    assert list(found.items()) == list(wanted.items())


def test_flink_reads_by_the_newest_schema() -> None:
    """Without words, defaults and logical types; Avro says that it reads what is written."""
    told = json.loads(settings("flink.sql")["avro-confluent.schema"])
    assert (told["name"], told["namespace"]) == (NEWEST["name"], NEWEST["namespace"])
    assert {field["name"]: field["type"] for field in told["fields"]} == {name: bare(of) for name, of in FIELDS.items()}
    checker = ReaderWriterCompatibilityChecker()
    for version in packaged():
        found = checker.get_compatibility(avro.schema.parse(json.dumps(told)), avro.schema.parse(version.text))
        assert found.compatibility is SchemaCompatibilityType.compatible, found


def bare(of: Any) -> Any:
    """A type without its logical type."""
    if isinstance(of, list):
        return [bare(part) for part in of]
    if not isinstance(of, dict):
        return of
    left = {key: bare(value) for key, value in of.items() if key != "logicalType"}
    return left["type"] if set(left) == {"type"} else left


@pytest.mark.parametrize(
    ("file", "topic", "registry", "form"),
    [
        ("clickhouse.sql", "kafka_topic_list", "format_avro_schema_registry_url", ("kafka_format", "AvroConfluent")),
        ("flink.sql", "topic", "avro-confluent.url", ("format", "avro-confluent")),
    ],
)
def test_sql_reads_the_public_stream_by_our_registry(
    file: str, topic: str, registry: str, form: tuple[str, str]
) -> None:
    """Where it comes from, and how it is decoded."""
    found = settings(file)
    assert found[topic] == "chronicle.events"
    assert found[registry] == "http://127.0.0.1:8000"
    assert found[form[0]] == form[1]


def test_duckdb_has_a_column_for_each_field_of_the_api() -> None:
    """An export has the events of `GET /events`."""
    assert list(example("duckdb_export").COLUMNS) == [field.encode_name for field in msgspec.structs.fields(Event)]


@pytest.mark.parametrize("file", sorted(path for path in CONSUMERS.iterdir() if path.is_file()), ids=lambda it: it.name)
def test_examples_name_public_topics_only(file: Path) -> None:
    """What is internal may change with any version."""
    named = set(re.findall(r"\bchronicle\.(?:ingest|events|dead-letters|seen|aggregates|control)\b", file.read_text()))
    assert named <= PUBLIC


def test_the_python_example_knows_our_header() -> None:
    """Its name is written twice, once here and once there."""
    assert example("python_avro").HEADER == POSITION_HEADER
