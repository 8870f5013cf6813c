"""Kafka and Postgres in containers instead of embedded ones, for whoever has a Docker engine and wants other images.

`CHRONICLE_TEST_CONTAINERS=1 make test` uses them; the embedded parts stay the default, since they need nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Confluent Platform 8.1 is Kafka 4.1, the version that the embedded stack pins.
KAFKA_IMAGE = "confluentinc/cp-kafka:8.1.0"
POSTGRES_IMAGE = "postgres:18"


def wanted() -> bool:
    """Whether the tests were asked to use containers."""
    return os.environ.get("CHRONICLE_TEST_CONTAINERS") == "1"


@contextmanager
def kafka() -> Iterator[str]:
    """host:port of a broker in a container."""
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false").with_env("KAFKA_MESSAGE_MAX_BYTES", str(2 << 20))
    with container as running:
        yield running.get_bootstrap_server()


@contextmanager
def postgres() -> Iterator[str]:
    """DSN of an administrator of a Postgres in a container."""
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(POSTGRES_IMAGE, driver=None) as running:
        yield running.get_connection_url()
