"""Services on a broker do things once and answer always, whatever happens around them."""

import asyncio
import contextlib
import sqlite3
from collections import Counter

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from faststream import BaseMiddleware
from faststream.asgi import AsgiFastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.prometheus import KafkaPrometheusMiddleware
from prometheus_client import CollectorRegistry

from saga import EffectContext, Effects
from saga.adapters.http import HttpServer
from saga.contracts import cloudevents as ce
from saga.contracts import encode
from saga.errors import SettingsError
from saga.ports import Record, Source
from tests.adapters.faststream.fixtures import (
    PARTITIONS,
    PAY,
    KafkaScenario,
)
from tests.adapters.kafka.fixtures import administrator
from tests.adapters.test_http import ask
from tests.effects.fixtures import wallet_effects
from tests.patience import until
from tests.records import header
from tests.toys import OrderConfirmed

DLQ = "shop.dlq.pay.v1"


@contextlib.asynccontextmanager
async def running(scenario: KafkaScenario, **broker):
    """A broker with wallets on it, while it runs."""
    made, attached = scenario.attached(wallet_effects()[0], **broker)
    await made.start()
    try:
        yield attached
    finally:
        await made.stop()


async def test_what_is_delivered_again_is_answered_again_and_done_once(
    scenario: KafkaScenario,
) -> None:
    """With the group's offsets back at the begin, every answer is sent again, byte for byte."""
    await scenario.bus.publish(scenario.payments(40))
    async with running(scenario) as attached:
        await scenario.answered(40)
        group = attached.subscribers[0].group_id
        topic = scenario.names.topic(PAY)

    member = await scenario.bus.subscribe(group, [topic])
    await member.commit({Source(topic, number): 0 for number in range(PARTITIONS)})
    await member.close()
    async with running(scenario) as attached:
        replies = await scenario.answered(80)
        assert attached.subscribers[0].counts["effects_repeated"] == 40

    assert scenario.ledger() == Counter(f"u{n}" for n in range(40))
    assert {len(same) for same in replies.values()} == {2}
    for first, again in replies.values():
        assert (first.key, first.value, first.headers) == (again.key, again.value, again.headers)


async def test_two_members_share_the_work_and_take_over_from_each_other(
    scenario: KafkaScenario,
) -> None:
    """One joins while there is work and the other leaves: all is done once, all is answered."""
    async with running(scenario) as second:
        async with running(scenario) as first:
            topics = len(first.subscribers[0].subscription.topics_read)
            for since in range(0, 200, 20):
                await scenario.bus.publish(scenario.payments(20, since=since))
                await asyncio.sleep(0.05)
            await until(
                lambda: (
                    [len(each.subscribers[0].member.assignment()) for each in (first, second)]
                    == [topics * PARTITIONS // 2] * 2  # half of each topic
                )
            )
        await scenario.bus.publish(scenario.payments(100, since=200))
        replies = await scenario.answered(300)
        done = Counter(first.subscribers[0].counts) + Counter(second.subscribers[0].counts)

    assert len(replies) == 300
    assert scenario.ledger() == Counter(f"u{n}" for n in range(300))
    assert done["effects_done"] == 300, done
    contents = [{(reply.value, reply.headers) for reply in same} for same in replies.values()]
    assert {len(content) for content in contents} == {1}


async def test_poison_does_not_stop_its_neighbours(scenario: KafkaScenario) -> None:
    """Each poisonous record becomes a dead letter with its reason, and all else goes on.

    They have null and non-UTF-8 headers, a null key, a null value, a value of 5 MB. The copies on
    the dlq topic are the same, byte for byte.
    """
    good = scenario.payments(12)
    topic = good[0].topic
    odd = good[0].headers
    poison = [
        Record(topic, b"p", b"{}", (*odd[:1], ("ce_id", None)), 0),
        Record(topic, b"p", b"{}", (("ce_id", b"\xff\xfe"), ("x", None)), 0),
        Record(topic, None, good[0].value, odd, 0),
        Record(topic, b"p", None, odd, 0),
        Record(topic, b"\xff", good[0].value, odd, 0),
        Record(topic, b"p", b'{"order_id": 7', odd, 0),
    ]
    huge = Record(topic, b"p", b"x" * 5_000_000, odd, 0)
    async with running(scenario) as attached:
        for bad, fine in zip(poison, good, strict=False):
            await scenario.bus.publish([bad, fine])
        await publish_huge(scenario, huge)
        await scenario.bus.publish(good[len(poison) :])
        replies = await scenario.answered(12)
        await until(lambda: attached.subscribers[0].counts["effects_dead_letters"] == 7)

    assert scenario.ledger() == Counter(f"u{n}" for n in range(12))
    assert len(replies) == 12
    copies = {header(copy, "x-dlq-offset"): copy for copy in await scenario.read(DLQ)}
    assert len(copies) == 7
    by_content = {(copy.key, copy.value) for copy in copies.values()}
    assert {(record.key, record.value) for record in poison} <= by_content
    omitted = [copy for copy in copies.values() if header(copy, "x-dlq-omitted") == "value"]
    assert len(omitted) == 1
    (nulls,) = [copy for copy in copies.values() if ("x", None) in copy.headers]
    assert nulls.headers[:2] == (("ce_id", b"\xff\xfe"), ("x", None))


async def test_a_batch_that_fails_in_a_middleware_is_read_again(scenario: KafkaScenario) -> None:
    """FastStream only logs what a middleware raises; nothing may be skipped for that."""
    failures = []

    class Failing(BaseMiddleware):
        async def on_receive(self) -> None:
            if len(failures) < 3:
                failures.append(len(self.msg))
                raise RuntimeError("a middleware failed")
            await super().on_receive()

    async with running(scenario, middlewares=[Failing]):
        await scenario.bus.publish(scenario.payments(30))
        replies = await scenario.answered(30)

    assert len(failures) == 3
    assert len(replies) == 30
    assert scenario.ledger() == Counter(f"u{n}" for n in range(30))


async def test_the_metrics_of_faststream_count_our_batches(scenario: KafkaScenario) -> None:
    """Its middleware for Prometheus reads topic and size of what passes."""
    registry = CollectorRegistry()
    async with running(scenario, middlewares=[KafkaPrometheusMiddleware(registry=registry)]):
        await scenario.bus.publish(scenario.payments(10))
        assert len(await scenario.answered(10)) == 10

    labels = {"app_name": "faststream", "broker": "kafka", "handler": scenario.names.topic(PAY)}
    assert registry.get_sample_value("faststream_received_messages_total", labels) == 10


async def test_a_parser_of_the_broker_has_no_say(scenario: KafkaScenario) -> None:
    """The broker's own parser and decoder are for its other subscribers."""

    async def parser(message):
        raise ValueError("never called for ours")

    async with running(scenario, parser=parser, decoder=parser):
        await scenario.bus.publish(scenario.payments(3))
        assert len(await scenario.answered(3)) == 3


async def test_a_store_that_is_away_is_waited_for(scenario: KafkaScenario) -> None:
    """Nothing is answered, set aside or committed meanwhile; then all is done."""
    async with running(scenario) as attached:
        await scenario.bus.publish(scenario.payments(1))
        await scenario.answered(1)
        with sqlite3.connect(scenario.file, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            await scenario.bus.publish(scenario.payments(20, since=1))
            await until(lambda: attached.subscribers[0].in_hand == 20)
            await asyncio.sleep(1.0)
            assert attached.subscribers[0].in_hand == 20
            assert len(await scenario.replies()) == 1
            other.execute("COMMIT")
        other.close()
        replies = await scenario.answered(21)
        assert not attached.subscribers[0].counts["effects_dead_letters"]

    assert len(replies) == 21
    assert scenario.ledger() == Counter(f"u{n}" for n in range(21))


async def test_outcomes_are_listened_to_with_the_same_inbox(scenario: KafkaScenario) -> None:
    """A fact that is on its topic twice is heard once."""
    mailer = Effects("mailer")
    heard: list[str] = []

    @mailer.listens(OrderConfirmed)
    async def done(event: OrderConfirmed, ctx: EffectContext) -> None:
        heard.append(event.order_id)

    topic = scenario.names.topic("shop.evt.order-confirmed.v1")
    facts = [
        Record(
            topic,
            order_id.encode(),
            encode(OrderConfirmed(order_id=order_id)).encode(),
            ((ce.ID, f"e-{order_id}".encode()), (ce.SOURCE, b"/orders")),
        )
        for order_id in ("a", "b", "a", "c")
    ]
    broker, attached = scenario.attached(mailer)
    await broker.start()
    await scenario.bus.publish(facts)
    await until(lambda: attached.subscribers[0].counts["effects_repeated"] == 1)
    await until(lambda: len(heard) == 3)
    await broker.stop()

    assert sorted(heard) == ["a", "b", "c"]


async def test_probes_tell_an_outage_from_an_end(scenario: KafkaScenario) -> None:
    """Ready with an assignment, not ready without the store, dead without the consume loop.

    FastStream's "try it out" leaves a broker without its consume loops.
    """
    broker, attached = scenario.attached(wallet_effects()[0])
    app = AsgiFastStream(broker, asgi_routes=attached.probes)
    probes = HttpServer(app, "127.0.0.1:0", must_listen=True)
    await probes.start()
    assert (await ask(probes.address, "/health/live"))[0] == 200
    assert (await ask(probes.address, "/health/ready"))[0] == 503

    async with app.start_lifespan_context():
        (subscriber,) = attached.subscribers
        await until(lambda: subscriber.member and subscriber.member.waits_for is None)
        status, page = await ask(probes.address, "/health/ready")
        assert (status, page["status"]) == (200, "ready")
        topics = attached.subscribers[0].subscription.topics_read
        assert page["services"]["wallets"]["sources"] == len(topics) * PARTITIONS

        store = attached.subscribers[0].running_service.store
        kept, store.kept = store.kept, _never
        status, page = await ask(probes.address, "/health/ready")
        assert status == 503
        assert "did not answer" in page["problems"][0]
        assert (await ask(probes.address, "/health/live"))[0] == 200
        store.kept = kept

        attached.subscribers[0].running = False
        await scenario.bus.publish(scenario.payments(1))
        await until(lambda: not attached.subscribers[0].is_reading)
        status, page = await ask(probes.address, "/health/live")
        assert status == 503
        assert page["problems"] == ["wallets: its consume loop has ended"]
    await probes.close()
    assert attached.subscribers[0].running_service is None


async def test_a_broker_can_be_started_again(scenario: KafkaScenario) -> None:
    """Stopping drains and leaves; a second start goes on."""
    broker, attached = scenario.attached(wallet_effects()[0])
    for round_number in range(2):
        await broker.start()
        await scenario.bus.publish(scenario.payments(5, since=5 * round_number))
        await scenario.answered(5 * (round_number + 1))
        await broker.stop()

    assert scenario.ledger() == Counter(f"u{n}" for n in range(10))
    assert attached.subscribers[0].counts["effects_done"] == 10


async def test_two_processes_on_one_port_are_no_error_unless_told(kafka) -> None:
    """By default the second has no probes; one that is told to listen there fails."""
    app = AsgiFastStream(KafkaBroker(kafka.bootstrap), logger=None)
    first = HttpServer(app, "127.0.0.1:0", must_listen=True)
    await first.start()
    second = HttpServer(app, first.address, must_listen=False)
    await second.start()
    assert second.address is None
    with pytest.raises(SettingsError, match="in use"):
        await HttpServer(app, first.address, must_listen=True).start()
    await second.close()
    await first.close()


async def _never(*_):
    await asyncio.get_running_loop().create_future()


async def publish_huge(scenario: KafkaScenario, record: Record) -> None:
    """Publish a record that our own bus refuses, on a topic that is told to take it."""
    taken = {"max.message.bytes": "8000000"}
    async with administrator(scenario.bootstrap) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, record.topic, taken)])
    options = {"bootstrap_servers": scenario.bootstrap, "max_request_size": 8_000_000}
    async with AIOKafkaProducer(**options) as producer:
        await until(lambda: _is_taken(producer, record))


async def _is_taken(producer: AIOKafkaProducer, record: Record) -> bool:
    """False until the broker has heard of its limit."""
    try:
        await producer.send_and_wait(
            record.topic, record.value, record.key, partition=0, headers=list(record.headers)
        )
    except MessageSizeTooLargeError:
        return False
    return True
