"""Effect services on a FastStream broker and a real Kafka, and what came of them."""

import sqlite3
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Self

from faststream.kafka import KafkaBroker

from saga.adapters.kafka import ConsumerSettings, KafkaBus, KafkaConnection
from saga.contracts import TopicNames, contract_of
from saga.contracts import cloudevents as ce
from saga.core.identity import saga_id
from saga.faststream import Attached, attach
from saga.ports import Inbound, Record, Source, TopicSpec
from tests.effects.fixtures import NAMES, intent
from tests.patience import until
from tests.records import header
from tests.toys import OrderConfirmed, Paid, Pay, Refund

PARTITIONS = 4
REPLY = contract_of(Paid).contract_name
PAY = contract_of(Pay).contract_name
QUICK = ConsumerSettings(fetch_wait_ms=50, metadata_max_age_ms=1_000)


class KafkaScenario:
    """Topics of one's own, an address for the effects store, and an observer from outside."""

    def __init__(self, bootstrap: str, namespace: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.names = TopicNames("test", namespace)
        self.file = folder / "effects.db"
        self.bus = KafkaBus(KafkaConnection(servers=(bootstrap,)), consumers=QUICK)
        self.settings = {
            "env": "test",
            "namespace": namespace,
            "effects_store": f"sqlite:///{self.file}",
        }

    async def __aenter__(self) -> Self:
        await self.bus.create_topics([TopicSpec(topic, PARTITIONS) for topic in self.topics()])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.close()

    def topics(self) -> list[str]:
        """What the services of the scenario read and write."""
        names = [contract_of(toy).contract_name for toy in (Pay, Refund, Paid, OrderConfirmed)]
        names += ["shop.evt.intent-done.v1", "shop.evt.intent-failed.v1", "shop.dlq.pay.v1"]
        names += ["shop.evt.intent-progress.v1", "shop.ctl.intent-cancelled.v1"]
        return [self.names.topic(name) for name in names]

    def attached(self, effects, **broker) -> tuple[KafkaBroker, Attached]:
        """A broker with *effects* on it, not started yet."""
        made = KafkaBroker(self.bootstrap, logger=None, **broker)
        return made, attach(made, effects, **self.settings)

    def here(self, record: Record) -> Record:
        return replace(record, topic=self.names.topic(NAMES.contract_name(record.topic)))

    def payments(self, count: int, *, since: int = 0) -> list[Record]:
        return [
            self.here(intent(Pay(order_id=f"u{n}"), saga=saga_id("order", f"u{n}"), key=f"u{n}"))
            for n in range(since, since + count)
        ]

    async def read(self, contract_name: str) -> list[Inbound]:
        topic = self.names.topic(contract_name)
        wanted = await self.count(topic)
        # It never commits, so it begins at the begin.
        reader = await self.bus.subscribe(f"{topic}.reader", [topic])
        try:
            records: list[Inbound] = []
            while len(records) < wanted:
                records += await reader.fetch(records_max=1_000, timeout_s=0.2)
            return records
        finally:
            await reader.close()

    async def count(self, topic: str) -> int:
        bounds = await self.bus.bounds([Source(topic, number) for number in range(PARTITIONS)])
        return sum(end - begin for begin, end in bounds.values())

    async def replies(self) -> dict[str, list[Inbound]]:
        """The answers, by the id of the intent."""
        replies = defaultdict(list)
        for reply in await self.read(REPLY):
            replies[header(reply, ce.CAUSATION_ID)].append(reply)
        return dict(replies)

    async def answered(self, count: int) -> dict[str, list[Inbound]]:
        """The answers, once there are at least *count*."""

        async def are_there() -> bool:
            return await self.count(self.names.topic(REPLY)) >= count

        await until(are_there)
        return await self.replies()

    def ledger(self) -> Counter[str]:
        """How often each order_id was paid."""
        with sqlite3.connect(self.file) as connection:
            rows = connection.execute("SELECT order_id FROM ledger").fetchall()
        connection.close()
        return Counter(order_id for (order_id,) in rows)
