"""How many bytes the engine has left on servers, of each record and each row, as `weights`."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.driving import Place, on_servers
from benchmarks.measuring import SAGA
from benchmarks.timing import Measured, run_fast
from saga.settings import Settings

FETCH_MS: Final = 1_000
_TURN: Final = "SELECT ceil(avg(octet_length(state))) FROM stored_events"
_INDEX: Final = "SELECT ceil(avg(pg_column_size(row.*))) FROM saga_index AS row"
_INBOX: Final = "SELECT ceil(avg(pg_column_size(row.*))) FROM saga_inbox AS row"


def weigh_on_servers(place: Place, first: int, sagas: int, in_flight: int) -> Measured:
    """Run *sagas* at a *place* where none have run, and weigh what they have left."""
    on_servers(SAGA, place, first, sagas, in_flight)
    settings = Settings.read({}, **place["settings"])
    with psycopg.connect(settings.store) as connection:
        turn, index, inbox = (_number(connection, each) for each in (_TURN, _INDEX, _INBOX))
    record = run_fast(_record_bytes(settings))
    return {"record": record, "turn": turn, "index": index, "inbox": inbox}


def _number(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


async def _record_bytes(settings: Settings) -> int:
    """Key, value and headers of all records in the namespace, on average."""
    consumer = AIOKafkaConsumer(bootstrap_servers=list(settings.servers), enable_auto_commit=False)
    await consumer.start()
    try:
        own = f"{settings.env}.{settings.namespace}."
        topics = [each for each in await consumer.topics() if each.startswith(own)]
        parts = [TopicPartition(each, n) for each in topics for n in range(settings.partitions)]
        ends = await consumer.end_offsets(parts)
        parts = [part for part in parts if ends[part]]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        records = size = 0
        while records < sum(ends[part] for part in parts):
            for batch in (await consumer.getmany(timeout_ms=FETCH_MS)).values():
                records += len(batch)
                size += sum(map(_size, batch))
    finally:
        await consumer.stop()
    return -(-size // records)


def _size(record: Any) -> int:
    headers = sum(len(name) + len(content) for name, content in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
