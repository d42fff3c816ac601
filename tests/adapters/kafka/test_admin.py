"""Topics that take their time: a cluster of many partitions elects their leaders one by one."""

# ruff: noqa: SLF001 - what a cluster answers is replaced behind the adapter

from itertools import count

import pytest

from saga.adapters.kafka import admin
from saga.adapters.kafka.admin import Cluster
from saga.core.retry import Retry
from saga.errors import BusUnavailable
from saga.ports import Source

OFTEN = Retry(attempts=None, initial="100ms", factor=1, jitter=0)


class Electing(Cluster):
    """One more partition is led each time it is asked, of so many at most."""

    def __init__(self, partitions: int, led_max: int) -> None:
        super().__init__(None)
        self._partitions, self._led_max, self._asked = partitions, led_max, count(1)

    async def _leaders(self, topics):
        led = min(next(self._asked), self._led_max)
        return {Source("t", n): 1 if n < led else None for n in range(self._partitions)}

    async def _offsets(self, by_leader, at, isolation):
        return {source: 0 for sources in by_leader.values() for source in sources}


@pytest.fixture
def hasty(monkeypatch):
    """Leaders are to come within two seconds each, and are asked for ten times a second."""
    monkeypatch.setattr(admin, "ANSWER_S", 2.0)
    monkeypatch.setattr(admin, "SETTLING", OFTEN)


async def test_it_is_waited_as_long_as_leaders_arrive(hasty):
    """All together take longer than any one of them may."""
    await Electing(30, led_max=30)._until_led(["t"], most_s=100)


async def test_who_waits_in_vain_is_told(hasty):
    with pytest.raises(BusUnavailable, match="create topics: no answer within 2 s"):
        await Electing(3, led_max=2)._until_led(["t"], most_s=100)


async def test_at_most_so_long(hasty):
    """However many go on to arrive."""
    with pytest.raises(BusUnavailable, match="create topics: no answer within"):
        await Electing(10_000, led_max=10_000)._until_led(["t"], most_s=0.5)
