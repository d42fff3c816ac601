"""A producer that takes many records at once, and one that ends at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka

from saga.ports.bus import Record, Source

DROP_S: Final = 2.0
DROP_ROUNDS_MAX: Final = 10

Delivery = asyncio.Future[Any]
"""Of one batch; done when all replicas in sync have it."""


def append_records(
    producer: AIOKafkaProducer,
    placed: Sequence[tuple[Source, Record]],
    *,
    now_ms: int,
    sizes: Mapping[str, int],
) -> set[Delivery]:
    """In order per partition; one future a batch costs a third of `AIOKafkaProducer.send`.

    *sizes* are the largest batches of topics that do not take those that the producer makes.
    """
    accumulator = producer._message_accumulator
    queues, append_batch = accumulator._batches, accumulator._append_batch
    deliveries: set[Delivery] = set()
    for source, record in placed:
        at = TopicPartition(*source)
        queue = queues.get(at)
        batch = queue[-1] if queue else append_batch(accumulator.create_builder(), at)
        key, value, headers = record.key, record.value, list(record.headers)
        if sizes and (largest := sizes.get(source.topic)) is not None:
            open_batch = batch._builder
            if open_batch._relative_offset and open_batch.size() + record.size > largest:
                open_batch.close()
        # None: this batch is full or on its way. The first record always fits.
        while (
            batch._builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is None
        ):
            batch = append_batch(accumulator.create_builder(), at)
        if batch.future not in deliveries:
            deliveries.add(batch.future)
            batch.future.add_done_callback(_retrieve)
    return deliveries


async def drop_producer(producer: AIOKafkaProducer, error: Exception) -> None:
    """End *producer* at once; all that it holds fails with *error*.

    Its sender waits for requests, which end with the client, and for metadata that never comes.
    """
    producer._closed = True  # else it complains of never having been stopped
    accumulator, sender = producer._message_accumulator, producer._sender.sender_task
    queued = [batch for queue in accumulator._batches.values() for batch in queue]
    for batch in (*queued, *accumulator._pending_batches):
        if not batch.future.done():
            batch.future.set_exception(error)
    with contextlib.suppress(TimeoutError, kafka.KafkaError, OSError):
        async with asyncio.timeout(DROP_S):
            await producer.client.close()
    if sender is None:
        return
    sender.remove_done_callback(producer._sender._fail_all)  # which is done already
    sender.cancel()
    for _ in range(DROP_ROUNDS_MAX):
        update = producer.client._md_update_fut
        if update is not None and not update.done():
            update.set_result(False)
        await asyncio.wait([sender], timeout=DROP_S / DROP_ROUNDS_MAX)
        if sender.done():
            break
    sender.cancel()
    if sender.done() and not sender.cancelled():
        sender.exception()  # retrieved only: the session ended for a reason of its own


def _retrieve(delivery: Delivery) -> None:
    """Look at a failure, so that asyncio does not report it where no caller waits for it."""
    if not delivery.cancelled():
        delivery.exception()
