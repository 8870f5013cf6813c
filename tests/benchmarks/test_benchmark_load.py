"""What the benchmark sends: ids that are ids, times that go forward, as many distinct events as are counted on."""

from __future__ import annotations

import subprocess
import uuid

import pytest

from benchmarks.bulk_load import bodies, event_id
from benchmarks.deadline import Late, within
from benchmarks.fill import distinct, records
from benchmarks.restart import changelog
from benchmarks.running import ended, until
from benchmarks.single_load import FIRST
from schemas.codec import AvroCodec
from schemas.envelope import Defaults, event_of, split
from schemas.event import HookEvent
from schemas.native import Arrival
from schemas.redact import Redactor


@pytest.mark.parametrize("number", [0, 1 << 16, FIRST, FIRST + 10_000_000])
def test_every_number_gives_an_id_of_its_own(number: int) -> None:
    """The largest that is ever sent too: a longer one would be refused, and nothing measured."""
    assert len({uuid.UUID(event_id(number + one)) for one in range(100)}) == 100


def test_what_is_posted_is_taken() -> None:
    """By the same rule that the server uses."""
    arrival = Arrival(received_at=1, new_id=lambda: uuid.UUID(int=1), source="bench", redact=Redactor())
    (body,) = bodies(10, 10, first=FIRST)
    taken = [event_of(item, arrival, Defaults()) for item in split(body)]
    assert all(isinstance(one, HookEvent) for one in taken)
    assert len(taken) == 10


def test_what_is_filled_later_is_never_older() -> None:
    """A peer that closes windows would drop it as late, and its counts would never be whole."""
    few, many = records(4, 0, 50, last=150, public=True), records(4, 50, 100, last=150, public=True)
    times = [one.timestamp for one in (*few, *many)]
    assert times == sorted(times)


def test_one_event_in_ten_is_a_repeat_and_stays_in_its_partition() -> None:
    """Of the count that the rows are held against; the public stream has none."""
    peek = AvroCodec().peek
    made = records(4, 0, 200, last=200)
    places = {(peek(one.value)[0], one.partition, one.key) for one in made}
    assert len(places) == len({peek(one.value)[0] for one in made}) == distinct(200) == 180
    assert len({peek(one.value)[0] for one in records(4, 0, 200, last=200, public=True)}) == 200


def test_a_changelog_has_as_many_ids_as_were_asked_for() -> None:
    """Repeats are not counted."""
    assert sum(count for count, _, _ in changelog(9_000)) == 9_000


def test_a_program_that_does_not_end_is_ended() -> None:
    """Nothing of a round is there in the next one."""
    stubborn = ("sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done")
    with ended(subprocess.Popen(stubborn, stdout=subprocess.PIPE), 0.1) as process:
        assert process.stdout is not None
        process.stdout.readline()
    assert process.returncode == -9
    process.stdout.close()


def test_a_wait_that_is_cut_off_leaves_no_program_behind() -> None:
    """The deadline of a side ends what the side has started."""
    with pytest.raises(Late), within(0.3), ended(subprocess.Popen(("sleep", "60"))) as process:
        until(lambda: False, 60.0, "what never comes")
    assert process.returncode is not None
