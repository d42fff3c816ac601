"""Members of groups that hear of everything quickly, how their records are read, and operators."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient

from saga.adapters.kafka import ConsumerSettings

QUICK = ConsumerSettings(
    fetch_wait_ms=50, heartbeat_interval_ms=100, metadata_max_age_ms=1_000, judge_again_s=0.2
)
FETCHES_MAX = 200


@asynccontextmanager
async def administrator(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def read(consumer, count: int, *, records_max: int = 500):
    """So many records, and no more."""
    records = []
    for _ in range(FETCHES_MAX):
        records += await consumer.fetch(records_max=records_max, timeout_s=0.1)
        if len(records) >= count:
            break
    assert len(records) == count, records[:3]
    return records
