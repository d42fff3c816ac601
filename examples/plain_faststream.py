"""Parcels with FastStream alone: `python examples/plain_faststream.py HOST:PORT dev.saga`.

It knows of a saga what the wire says: an intent comes with an id in `ce_id`, and whoever answers
sends the same key and that id as `ce_causationid`. To do each intent once it would have to keep
the ids of those that it has done; the SDK does.
"""

import asyncio
import sys

import orjson
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from pydantic import BaseModel


class Ship(BaseModel):
    """As much of the intent as is needed here."""

    order_id: str
    place: str


def parcels(servers: str, prefix: str) -> FastStream:
    """Make the service for the topics below *prefix*."""
    broker = KafkaBroker(servers, enable_idempotence=True, allow_auto_create_topics=False)

    @broker.subscriber(
        f"{prefix}.vans.int.ship.v1",
        group_id="parcels",
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,  # an intent without an answer comes again
    )
    async def ship(intent: Ship, message: KafkaMessage) -> None:
        refusal = {"outcome": "refused", "code": "nowhere", "message": "there is no such place"}
        is_refused = intent.place == "Nowhere"
        reply = "intent-failed" if is_refused else "intent-done"
        record = message.raw_message
        assert not isinstance(record, tuple), "this is no batch"
        await broker.publish(
            orjson.dumps(refusal if is_refused else {}),
            f"{prefix}.vans.evt.{reply}.v1",
            key=record.key,
            headers={"ce_causationid": message.headers["ce_id"]},
        )

    return FastStream(broker)


if __name__ == "__main__":
    asyncio.run(parcels(*sys.argv[1:]).run())
