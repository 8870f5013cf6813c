"""Lines that repeat while a server is away: said once, counted, said again."""

from __future__ import annotations

import logging

from app.damper import MOST, QUIET_S, Damper


class Heard:
    def __init__(self) -> None:
        self.now = 1000.0
        self.damper = Damper(lambda: self.now)

    def say(self, text: str, *args: object, name: str = "aiokafka.consumer.fetcher") -> str | None:
        """What is let through of it; None when nothing is."""
        record = logging.LogRecord(name, logging.ERROR, "file.py", 1, text, args, None)
        return record.getMessage() if self.damper.filter(record) else None


def test_what_repeats_is_said_once_in_a_while_and_counted() -> None:
    """Numbers and addresses do not make it another message."""
    heard = Heard()
    assert heard.say("no connection to node %d at %s", 1, "0x7f01") == "no connection to node 1 at 0x7f01"
    assert heard.say("no connection to node %d at %s", 2, "0x7f02") is None
    heard.now += QUIET_S - 1
    assert heard.say("no connection to node %d at %s", 3, "0x7f03") is None
    heard.now += 1
    assert heard.say("no connection to node %d at %s", 4, "0x7f04") == (
        "no connection to node 4 at 0x7f04 (and 2 like it before)"
    )
    heard.now += QUIET_S
    assert heard.say("no connection to node %d at %s", 5, "0x7f05") == "no connection to node 5 at 0x7f05"


def test_other_messages_and_our_own_are_heard() -> None:
    """One library's noise must not cover anything else."""
    heard = Heard()
    assert heard.say("one")
    assert heard.say("two")
    assert heard.say("one", name="asyncio")
    assert all(heard.say("held", name="chronicle.persist") for _ in range(3))
    assert all(heard.say("held", name="aiokafkaesque") for _ in range(3))


def test_it_remembers_no_more_than_it_may() -> None:
    """A library that never says the same twice costs no memory."""
    heard = Heard()
    for number in range(MOST + 50):
        heard.say("".join(chr(97 + int(digit)) for digit in str(number)))
    assert len(heard.damper._heard) == MOST
