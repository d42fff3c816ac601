"""How fast intents are done and answered: bare aiokafka, our engine on the bus, and on FastStream.

`python -m tests.adapters.faststream.measure HOST:PORT [INTENTS]`. Bare aiokafka reads batches,
parses the JSON, sends an answer with its three headers through an idempotent producer and commits
offsets: no store, no inbox, no validation. Ours keep an inbox row and a row of the handler's for
each intent, durably. All in one process, in turns.
"""

import asyncio
import secrets
import sys
import tempfile
import time
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faststream.kafka import KafkaBroker

from saga.adapters.clocks import SystemClock
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.adapters.sqlite import SqliteEffectsStore
from saga.app import SagaApp
from saga.effects import EffectsService, Subscription
from saga.faststream import attach
from tests.adapters.faststream.fixtures import PAY, REPLY, KafkaScenario, until
from tests.effects.fixtures import wallet_effects

INTENTS = 20_000
ROUNDS = 3
PUBLISHED_AT_ONCE = 2_000


async def bare(scenario: KafkaScenario, folder: Path) -> None:
    """What a hand-written loop without a store would do."""
    consumer = AIOKafkaConsumer(
        scenario.names.topic(PAY),
        bootstrap_servers=scenario.bootstrap,
        group_id=secrets.token_hex(6),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    producer = AIOKafkaProducer(bootstrap_servers=scenario.bootstrap, enable_idempotence=True)
    topic, done = scenario.names.topic(REPLY), 0
    async with consumer, producer:
        while done < scenario.intents:
            sent = []
            for records in (await consumer.getmany(timeout_ms=200, max_records=256)).values():
                for record in records:
                    order_id = orjson.loads(record.value)["order_id"]
                    intent_id = dict(record.headers)["ce_id"]
                    headers = [
                        ("ce_id", intent_id + b"/reply"),
                        ("ce_causationid", intent_id),
                        ("ce_type", REPLY.encode()),
                    ]
                    value = orjson.dumps({"receipt": f"r-{order_id}"})
                    sent.append(await producer.send(topic, value, record.key, headers=headers))
            await asyncio.gather(*sent)
            done += len(sent)
            await consumer.commit()


async def on_bus(scenario: KafkaScenario, folder: Path) -> None:
    """The engine straight on `KafkaBus`."""
    bus = KafkaBus(KafkaConnection(servers=(scenario.bootstrap,)))
    effects = wallet_effects()[0]
    clock = SystemClock()
    store = SqliteEffectsStore(str(folder / "bus.db"))
    service = EffectsService(
        Subscription(effects, SagaApp(effects=[effects]).contracts, scenario.names),
        bus=bus,
        store=store,
        clock=clock,
        dead_letters=None,
    )
    await service.start()
    await until(lambda: service.counts["effects_done"] >= scenario.intents and not service.in_hand)
    await service.stop()
    await store.close()
    await bus.close()


async def on_faststream(scenario: KafkaScenario, folder: Path) -> None:
    """The engine on a FastStream broker, as `attach` does it."""
    broker = KafkaBroker(scenario.bootstrap, logger=None)
    settings = scenario.settings | {"effects_store": f"sqlite:///{folder}/broker.db"}
    (subscriber,) = attach(broker, wallet_effects()[0], **settings).subscribers
    await broker.start()
    await until(
        lambda: subscriber.counts["effects_done"] >= scenario.intents and not subscriber.in_hand
    )
    await broker.stop()


async def measured(run, bootstrap: str, intents: int) -> float:
    """Intents a second, from the first start of a client to the last stop."""
    with tempfile.TemporaryDirectory() as folder:
        async with KafkaScenario(bootstrap, f"m{secrets.token_hex(5)}", Path(folder)) as scenario:
            scenario.intents = intents
            for since in range(0, intents, PUBLISHED_AT_ONCE):
                await scenario.bus.publish(scenario.payments(PUBLISHED_AT_ONCE, since=since))
            began = time.perf_counter()
            await run(scenario, Path(folder))
            return intents / (time.perf_counter() - began)


async def main(bootstrap: str, intents: int) -> None:
    """Print the best of each."""
    best = {run.__name__: 0.0 for run in (bare, on_bus, on_faststream)}
    for _ in range(ROUNDS):
        for run in (bare, on_bus, on_faststream):
            best[run.__name__] = max(best[run.__name__], await measured(run, bootstrap, intents))
    for name, rate in best.items():
        print(f"{name:14} {rate:8,.0f} intents/s")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else INTENTS))
