"""Payments without the SDK: `python examples/plain_aiokafka.py HOST:PORT dev.saga`."""

import asyncio
import json
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


def answer(topic: str, intent: dict[str, Any]) -> tuple[str, dict[str, str]]:
    if topic.endswith(".tills.int.refund.v1"):
        return "tills.evt.intent-done.v1", {}
    if intent["amount"] > 500:
        failure = {"outcome": "refused", "code": "limit", "message": "over the limit"}
        return "tills.evt.intent-failed.v1", failure
    return "tills.evt.paid.v1", {"receipt": f"r-{intent['order_id']}"}


async def main(servers: str, prefix: str) -> None:
    topics = [f"{prefix}.tills.int.{name}.v1" for name in ("pay", "refund")]
    start = {"group_id": "payments", "auto_offset_reset": "earliest", "enable_auto_commit": False}
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, **start)
    async with consumer, AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        while True:
            batches = await consumer.getmany(timeout_ms=1000)
            sent = []
            for record in (record for batch in batches.values() for record in batch):
                to, reply = answer(record.topic, json.loads(record.value))
                cause = [("ce_causationid", dict(record.headers)["ce_id"])]
                value = json.dumps(reply).encode()
                sent.append(await producer.send(f"{prefix}.{to}", value, record.key, headers=cause))
            await asyncio.gather(*sent)  # every answer is there before its intent counts as done
            await consumer.commit()


asyncio.run(main(*sys.argv[1:]))
