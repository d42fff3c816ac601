"""Reading back what was published, from the outside."""

import asyncio

from saga.adapters.opening import open_bus
from saga.settings import Settings
from tests.patience import HANG_S


async def records_on(topic: str, count: int, **settings):
    """The first *count* records of a topic, in the order of their partitions."""
    opened = open_bus(Settings.read(**settings))
    try:
        consumer = await opened.bus.subscribe(f"reader-of-{topic}", [topic])
        found = []
        async with asyncio.timeout(HANG_S):
            while len(found) < count:
                found += await consumer.fetch(records_max=1000, timeout_s=0.1)
        found += await consumer.fetch(records_max=1000, timeout_s=0.1)
        return found
    finally:
        await opened.close()


def header(record, name: str) -> str | None:
    value = dict(record.headers).get(name)
    return None if value is None else value.decode()
