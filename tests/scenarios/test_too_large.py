"""Topics of a real Kafka that take less than we do: who says too much is told, alone."""

import asyncio
import logging
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from saga import Context, EffectContext, Effects, Publisher, Retry, SagaApp, saga
from saga.adapters.clocks import SystemClock
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.errors import MessageTooLarge
from saga.ports import Record, Source, TopicSpec
from saga.retrying import Backoff, retried
from tests.adapters.kafka.fixtures import administrator
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay, Refund

LIMIT = 3_000
LONG = 4_000
NAMES = [f"o-{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)


def app() -> SagaApp:
    """Orders of which some have a long shelf or receipt: *o-1/shelf*, *o-2/receipt*."""

    @saga("order", version=1, starts_on=OrderPlaced)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        pay = Pay(order_id=placed.order_id)
        await ctx.do(pay, undo=Refund, retry=Retry(attempts=1), timeout="60s")
        long = "s" * LONG if placed.order_id.endswith("shelf") else "s"
        return OrderConfirmed(order_id=placed.order_id, shelf=long)

    wallets = Effects("wallets")

    @wallets.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt="r" * LONG if intent.order_id.endswith("receipt") else "r")

    @wallets.on(Refund)
    def refund(intent: Refund, ctx: EffectContext) -> None:
        pass

    return SagaApp(sagas=[order], effects=[wallets])


async def limit(bootstrap: str, topic: str, size: int) -> None:
    """Have a topic take no larger records, whether it is there yet or not."""
    configs = {"max.message.bytes": str(size)}
    async with administrator(bootstrap) as admin:
        if topic in await admin.list_topics():
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        else:
            await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])


@pytest.fixture
def places(kafka, namespace: str, tmp_path: Path) -> dict[str, str]:
    store = f"sqlite:///{tmp_path}/saga.db"
    return {"bus": kafka.url, "namespace": namespace, "store": store}


def topic(places: dict[str, str], name: str) -> str:
    return f"dev.{places['namespace']}.{name}"


async def run(places: dict[str, str], names: list[str]) -> dict:
    async with app().service(**places) as service:
        sagas = [await service.publish(OrderPlaced(order_id=name)) for name in names]
        outcomes = await asyncio.gather(*(service.outcome(each, timeout=60) for each in sagas))
        assert await service.problems() == []
    return dict(zip(names, outcomes, strict=True))


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "lowered meanwhile"])
async def test_an_outcome_that_its_topic_does_not_take(kafka, places, is_known) -> None:
    """Its saga parks where that is known beforehand; in any case its neighbours go on."""
    confirmed = topic(places, "shop.evt.order-confirmed.v1")
    if is_known:
        await limit(kafka.bootstrap, confirmed, LIMIT)
    async with app().service(**places) as service:
        first = await service.publish(OrderPlaced(order_id="first"))
        assert (await service.outcome(first, timeout=60)).status == "completed"
        if not is_known:
            await limit(kafka.bootstrap, confirmed, LIMIT)
        names = [*NAMES, "o-x/shelf", "o-y"]
        sagas = [await service.publish(OrderPlaced(order_id=name)) for name in names]
        outcomes = await asyncio.gather(*(service.outcome(each, timeout=60) for each in sagas))
        assert await service.problems() == []
    found = dict(zip(names, outcomes, strict=True))
    evil = found.pop("o-x/shelf")
    assert {each.status for each in found.values()} == {"completed"}
    if is_known:
        assert evil.status == "parked"
        assert "shop.evt.order-confirmed.v1: a record of 4" in evil.reason
        assert f"its topic {confirmed} takes 2" in evil.reason

    again = await run(places, ["later"])
    assert again["later"].status == "completed"


async def test_an_intent_that_its_topic_does_not_take_any_more(kafka, places) -> None:
    """The limit is lowered while the saga runs: it parks although its turn is stored."""
    async with app().service(**places) as service:
        first = await service.publish(OrderPlaced(order_id="first"))
        assert (await service.outcome(first, timeout=60)).status == "completed"
        await limit(kafka.bootstrap, topic(places, "shop.int.pay.v1"), 900)
        evil = await service.publish(OrderPlaced(order_id="x" * 500))
        well = await service.publish(OrderPlaced(order_id="ok"))
        outcome = await service.outcome(evil, timeout=60)
        assert outcome.status == "parked"
        assert f"{topic(places, 'shop.int.pay.v1')} exceeds its limit of" in outcome.reason
        assert (await service.outcome(well, timeout=60)).status in ("completed", "parked")


async def test_a_reply_that_its_topic_does_not_take_fails_its_attempt(kafka, places) -> None:
    """At once and with the reason, not by a timeout."""
    await limit(kafka.bootstrap, topic(places, "shop.evt.paid.v1"), LIMIT)
    found = await run(places, [*NAMES, "o-x/receipt"])

    evil = found.pop("o-x/receipt")
    assert {each.status for each in found.values()} == {"completed"}
    assert evil.status == "rolled_back"
    assert "reply_too_large" in f"{evil.reason}" or "a record of" in evil.reason


async def test_publishers_are_told_topic_size_and_limit(kafka, places) -> None:
    placed = topic(places, "shop.evt.order-placed.v1")
    await limit(kafka.bootstrap, placed, 1_500)
    async with Publisher(bus=places["bus"], namespace=places["namespace"]) as publisher:
        await publisher.publish(OrderPlaced(order_id="o-1"))
        with pytest.raises(MessageTooLarge, match=f"for {placed} exceeds its limit of 1244"):
            await publisher.publish(OrderPlaced(order_id="x" * 900))
        await publisher.publish(OrderPlaced(order_id="o-2"))


async def test_many_small_records_fit_into_a_topic_of_small_batches(kafka, namespace) -> None:
    """A batch counts as one record to the topic's limit."""
    name = f"{namespace}.small"
    await limit(kafka.bootstrap, name, LIMIT)
    bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)))
    await bus.create_topics([TopicSpec(name, 1)])
    records = [Record(name, b"k", b"x" * 500) for _ in range(200)]
    await retried("refused", lambda: Backoff("test", SystemClock()), bus.publish, records)
    assert bus.counts["producers_replaced"] == 1  # the limit was not known before
    await bus.publish(records)
    source = Source(name, 0)
    bounds = await bus.bounds([source])
    await bus.close()

    assert bounds[source][1] == 400
    assert bus.counts["producers_replaced"] == 1
