"""docs/topics.md and docs/events.md say what the schemas say."""

from __future__ import annotations

import json
import re
from uuid import UUID

import pytest

from agents import quarantine
from app.demo.session import demo_sessions
from repository import DOCS, ROOT
from schemas.codec import AvroCodec
from schemas.event import DeadLetter, HookEvent, IdOrigin
from schemas.identity import natural_id
from schemas.native import event_type_of
from schemas.topics import CAUSES, POSITION_HEADER, TopicSpec, topics

TOPICS = (DOCS / "topics.md").read_text()
EVENTS = (DOCS / "events.md").read_text()
SCHEMA = json.loads((ROOT / "schemas" / "avro" / "hook_event.v1.avsc").read_text())
#: Hook event -> (type, fields of the natural id), from the table of docs/events.md.
HOOKS = {
    row[1]: (row[2], tuple(re.findall(r"`(\w+)`", row[3])))
    for row in re.finditer(r"^\| `([A-Z]\w+)` \| `(\w+)` \| .* \| ([^|]*) \|$", EVENTS, re.MULTILINE)
}


@pytest.mark.parametrize("topic", topics(prefix="chronicle", partitions=4).all(), ids=lambda topic: topic.name)
def test_every_topic_is_told(topic: TopicSpec) -> None:
    """Name, partitions, how long it is kept."""
    row = re.search(rf"^\| `{re.escape(topic.name)}` \| (.+?) \| (.+?) \| .+ \|$", TOPICS, re.MULTILINE)
    assert row, f"add a row for {topic.name} to docs/topics.md"
    assert (row[1] == "1") == (topic.partitions == 1)
    assert ("compacted" in row[2]) == (topic.cleanup == "compact")
    assert ("internal" in row[0]) != topic.public, f"say whether {topic.name} is internal"


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_of_a_dead_letter_is_told(cause: str) -> None:
    """A row with what it means and what to do."""
    assert re.search(rf"^\| `{cause}` \| .+ \| .+ \|$", TOPICS, re.MULTILINE), f"add {cause} to docs/topics.md"


def test_headers_and_fields_of_a_dead_letter_are_told() -> None:
    """Whoever filters by a header or reads the JSON finds its name."""
    headers = {value for key, value in vars(quarantine).items() if key.endswith("_HEADER")}
    missing = [word for word in (*headers, *DeadLetter.__struct_fields__) if f"`{word}`" not in TOPICS]
    assert not missing, f"tell them in docs/topics.md: {missing}"


def test_the_fixed_places_are_where_the_page_says() -> None:
    """The rows of the layout, cut out of a real record."""
    event = HookEvent(
        event_id=UUID(int=1 << 100), fingerprint=b"f" * 16, id_origin=IdOrigin.NATURAL, session_id="s", event_type="t",
        occurred_at=1, received_at=1, source="test", payload="{}",
    )  # fmt: skip
    value = AvroCodec().encode(event)
    places = {
        row[3]: value[int(row[1]) : int(row[2] or row[1]) + 1]
        for row in re.finditer(r"^\| (\d+)(?: to (\d+))? \| `?(\w+)", TOPICS, re.MULTILINE)
    }
    assert places["0x00"] == b"\0"
    assert (places["event_id"], places["fingerprint"]) == (event.event_id.bytes, event.fingerprint)
    assert places["id_origin"] == b"\x02"
    assert f"`{POSITION_HEADER}`" in TOPICS


@pytest.mark.parametrize("field", [field["name"] for field in SCHEMA["fields"]])
def test_every_field_of_the_record_is_told(field: str) -> None:
    """In the table of columns of docs/events.md."""
    assert re.search(rf"^\| .*`{field}`.* \| .+ \| .+ \|$", EVENTS, re.MULTILINE), f"add {field} to docs/events.md"


def test_every_hook_event_of_the_demo_has_its_row() -> None:
    """The demo plays all of them; a new one gets a row in docs/events.md."""
    played = {body["hook_event_name"] for session in demo_sessions(1) for body in session.events()}
    assert set(HOOKS) == played


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_event_has_the_type_and_the_natural_id_that_the_page_says(hook: str) -> None:
    """The table is held to the code: the fields named give an id, and the id hangs on each of them."""
    kind, fields = HOOKS[hook]
    assert event_type_of(hook) == (kind, hook)
    body = dict.fromkeys(fields, "x")
    first = natural_id("s", None, hook, body)
    assert (first is not None) == bool(fields)
    assert all(natural_id("s", None, hook, body | {field: "y"}) != first for field in fields)


def test_no_hook_body_of_the_demo_has_a_natural_id_that_the_page_denies() -> None:
    """And none that the page promises is without one."""
    for session in demo_sessions(1):
        for body in session.events():
            hook = body["hook_event_name"]
            assert (natural_id("s", None, hook, body) is not None) == bool(HOOKS[hook][1]), hook
