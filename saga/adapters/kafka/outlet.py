"""One idempotent producer of aiokafka, for as long as it can be trusted.

Records go straight into the producer's batches: no coroutine, no future and no metadata a record,
only one future a batch, which costs a third of `AIOKafkaProducer.send`. That takes four private
names of aiokafka, all of them used here and nowhere else.

An idempotent producer never gives up on a record and cannot be mended: after a batch has failed for
good, the sequence numbers of its partition no longer fit (`OutOfOrderSequenceNumber`), and what it
still holds would be sent after what a successor has sent. So whoever does not get an answer in time
gives the whole outlet up, at once and with all that it holds; the records are published again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import time
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from saga.adapters.kafka.connection import KafkaConnection
from saga.ports.bus import Record, Source

BATCH_BYTES: Final = 262_144
"""A batch counts as one message to `max.message.bytes`, so that it has to be well below it."""
REQUEST_BYTES_MAX: Final = 104_857_600
METADATA_MAX_AGE_MS: Final = 60_000
"""How long new partitions of a topic may be unknown."""
LETTING_GO_S: Final = 2.0
LETTING_GO_ROUNDS_MAX: Final = 10

Delivery = asyncio.Future[Any]
"""Of one batch; done when all replicas in sync have it."""


class Outlet:
    """A producer. `put` keeps the order of what is put; `give_up` ends it."""

    def __init__(self, connection: KafkaConnection, *, compression: str | None) -> None:
        self._producer = AIOKafkaProducer(
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            compression_type=compression,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            transactional_id=None,
            **connection.options(),
        )
        self._batches = self._producer._message_accumulator  # noqa: SLF001
        self.is_over = False

    async def start(self) -> None:
        """Connect.

        Raises:
            KafkaError: nobody answers.
        """
        try:
            await self._producer.start()
        except BaseException:
            await self.give_up()
            raise

    def partitions(self, topic: str) -> int | None:
        """How many partitions *topic* has, as far as this producer knows it."""
        found = self._producer.client.cluster.partitions_for_topic(topic)
        return None if found is None else len(found)

    async def learn(self, topic: str) -> None:
        """Get to know a topic that exists.

        Raises:
            KafkaError: nobody answers.
        """
        await self._producer.partitions_for(topic)

    def put(self, placed: Sequence[tuple[Source, Record]]) -> set[Delivery]:
        """Have all of these sent, in order per partition; returns how they are doing."""
        batches = self._batches
        queues, append_batch = batches._batches, batches._append_batch  # noqa: SLF001
        now_ms = int(time() * 1000)
        deliveries: set[Delivery] = set()
        for source, record in placed:
            at = TopicPartition(*source)
            queue = queues.get(at)
            batch = queue[-1] if queue else append_batch(batches.create_builder(), at)
            key, value, headers = record.key, record.value, list(record.headers)
            # None: this batch is full or on its way. The first record always fits.
            while (
                batch._builder.append(  # noqa: SLF001
                    timestamp=now_ms, key=key, value=value, headers=headers
                )
                is None
            ):
                batch = append_batch(batches.create_builder(), at)
            if batch.future not in deliveries:
                deliveries.add(batch.future)
                batch.future.add_done_callback(_seen)
        return deliveries

    async def stop(self, timeout_s: float) -> None:
        """Deliver what was put, if that is possible in *timeout_s*, and let go of everything."""
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(timeout_s):
                await self._producer.flush()
        await self.give_up()

    async def give_up(self) -> None:
        """Let go of everything at once; what is not delivered fails."""
        if self.is_over:
            return
        self.is_over = True
        producer = self._producer
        producer._closed = True  # noqa: SLF001  # else it complains of not being stopped
        self._fail_all()
        sender = producer._sender.sender_task  # noqa: SLF001
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(LETTING_GO_S):
                # Ends the requests that the sender's tasks wait for.
                await producer.client.close()
        if sender is not None:
            await self._end(sender)

    def _fail_all(self) -> None:
        error = KafkaError("the producer was given up")
        queued = [batch for queue in self._batches._batches.values() for batch in queue]  # noqa: SLF001
        for batch in (*queued, *self._batches._pending_batches):  # noqa: SLF001
            if not batch.future.done():
                batch.future.set_exception(error)

    async def _end(self, sender: asyncio.Task[None]) -> None:
        """End the sender's task. It waits for its requests, and those for metadata, which nobody
        brings any more.
        """
        sender.remove_done_callback(self._producer._sender._fail_all)  # noqa: SLF001  # did so
        sender.cancel()
        for _ in range(LETTING_GO_ROUNDS_MAX):
            update = self._producer.client._md_update_fut  # noqa: SLF001
            if update is not None and not update.done():
                update.set_result(False)
            await asyncio.wait([sender], timeout=LETTING_GO_S / LETTING_GO_ROUNDS_MAX)
            if sender.done():
                break
        sender.cancel()
        if sender.done() and not sender.cancelled():
            sender.exception()  # whatever it is: the outlet was given up for a reason of its own


def _seen(delivery: Delivery) -> None:
    """A failure that nobody waits for any more is no news."""
    if not delivery.cancelled():
        delivery.exception()
