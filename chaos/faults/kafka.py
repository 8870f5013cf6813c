"""Faults of the broker: stopped, killed, frozen, cut off, slow; and those of `kafka_data`."""

from __future__ import annotations

import asyncio
from typing import Final

from chaos.faults import kafka_data
from chaos.faults.kafka_data import BrokerAway
from chaos.model import Expected, Fault, Place


class KafkaStop(BrokerAway):
    """F8, in order."""

    name = "kafka-stop"
    rows = ("F8",)
    what = "stop Kafka in order, start it after 60 s"
    hold_s = 60.0

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka.stop)

    async def heal(self, place: Place) -> None:
        """See the contract."""
        await asyncio.to_thread(place.kafka.start)


class KafkaKill(KafkaStop):
    """F8, not in order."""

    name = "kafka-kill"
    what = "kill -9 of Kafka, start it after 5 s"
    short = True
    hold_s = 5.0

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka.kill)


class KafkaPause(BrokerAway):
    """F9: it takes connections and never answers."""

    name = "kafka-pause"
    rows = ("F9",)
    what = "SIGSTOP of Kafka for 20 s, then SIGCONT; no request hangs"
    short = True
    hold_s = 20.0

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka.pause)

    async def heal(self, place: Place) -> None:
        """See the contract."""
        await asyncio.to_thread(place.kafka.resume)


class _KafkaLine(BrokerAway):
    """Common to what is done to the line between Chronicle and the broker."""

    rows = ("F10",)
    hold_s = 15.0

    async def heal(self, place: Place) -> None:
        """See the contract."""
        await asyncio.to_thread(place.kafka_proxy.heal)


class KafkaCut(_KafkaLine):
    """F10, told."""

    name = "kafka-cut"
    what = "all connections to Kafka reset and new ones refused for 15 s"

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka_proxy.cut)


class KafkaHalfOpen(_KafkaLine):
    """F10, not told."""

    name = "kafka-half-open"
    what = "everything between Chronicle and Kafka swallowed for 20 s; nobody is told"
    hold_s = 20.0

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka_proxy.half_open)


class KafkaSlow(_KafkaLine):
    """F10: a bad line is still a line."""

    name = "kafka-slow"
    what = "100 ms more each way and 3 Mbit/s between Chronicle and Kafka for 20 s"
    hold_s = 20.0
    expected = Expected(lag_zero_s=45.0, degraded=True)

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.kafka_proxy.slow, latency_s=0.1, bytes_per_s=3e6 / 8)


class KafkaReset(_KafkaLine):
    """F10: a router that forgot."""

    name = "kafka-reset"
    what = "all open connections to Kafka reset, five times; new ones work"
    hold_s = 2.0

    async def _hurt(self, place: Place) -> None:
        for _ in range(5):
            await asyncio.to_thread(place.kafka_proxy.reset_once)
            await asyncio.sleep(self.chance.uniform(0.2, 1.0))


FAULTS: Final[tuple[type[Fault], ...]] = (
    KafkaStop,
    KafkaKill,
    KafkaPause,
    KafkaCut,
    KafkaHalfOpen,
    KafkaSlow,
    KafkaReset,
    *kafka_data.FAULTS,
)
