"""Members of groups that hear of everything quickly, how their records are read, and operators."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient

from saga.adapters.kafka import ConsumerSettings
from tests.patience import HANG_S

QUICK = ConsumerSettings(
    fetch_wait_ms=50, heartbeat_interval_ms=100, metadata_max_age_ms=1_000, judge_again_s=0.2
)


@asynccontextmanager
async def administrator(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def fetch_until(is_so: Callable[[], object], *consumers) -> None:
    """Let them fetch, whatever they get."""
    async with asyncio.timeout(HANG_S):
        while not is_so():
            for consumer in consumers:
                await consumer.fetch(records_max=1, timeout_s=0.05)


async def read(consumer, count: int, *, records_max: int = 500):
    """So many records, and no more."""
    records = []
    async with asyncio.timeout(HANG_S):
        while len(records) < count:
            records += await consumer.fetch(records_max=records_max, timeout_s=0.1)
    assert len(records) == count, records[:3]
    return records
