"""Events through a FastStream broker are what `Publisher` would have sent."""

import asyncio
import json

import pytest
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from saga import Publisher
from saga.adapters.partitioner import partition_of
from saga.errors import BusUnavailable, MalformedMessage, MessageTooLarge
from saga.publishing.faststream import FastStreamPublisher
from tests.patience import HANG_S
from tests.publishing.events import OPENED, SOLD, CupSold, ShopOpened
from tests.publishing.reading import header, records_on


@pytest.fixture
async def broker(kafka):
    """A FastStream broker, as a service has one."""
    made = KafkaBroker(kafka.bootstrap, enable_idempotence=True, logger=None)
    yield made
    await made.stop()


def without_chance(record):
    """What two records of one event share, without the headers that FastStream adds."""
    headers = {name: value for name, value in record.headers if name != "correlation_id"}
    headers.pop("ce_time")
    return record.partition, record.key, record.value, headers


async def test_a_record_is_what_the_publisher_would_have_sent(kafka, cluster, broker):
    event = CupSold(cup="c-1", cents=250)
    events = FastStreamPublisher(broker, source="/shop", namespace=cluster["namespace"])
    await events.publish(event, message_id="sale-1")
    async with Publisher(source="/shop", **cluster) as publisher:
        await publisher.publish(event, message_id="sale-1")

    ours, theirs = await records_on(f"dev.{cluster['namespace']}.{SOLD}", 2, **cluster)
    assert without_chance(ours) == without_chance(theirs)
    assert ours.partition == partition_of(b"c-1", 4)


async def test_events_of_a_batch_go_to_the_partitions_of_their_keys(kafka, cluster, broker):
    """In order for each key, which one batch of FastStream's would not give."""
    events = FastStreamPublisher(broker, namespace=cluster["namespace"])
    ids = await events.publish_all([CupSold(cup=f"c-{n % 9}", cents=n) for n in range(90)])

    records = await records_on(f"dev.{cluster['namespace']}.{SOLD}", 90, **cluster)
    assert sorted(header(record, "ce_id") for record in records) == sorted(ids)
    assert [r.partition for r in records] == [partition_of(r.key, 4) for r in records]
    for number in range(9):
        cents = [json.loads(r.value)["cents"] for r in records if r.key == f"c-{number}".encode()]
        assert cents == sorted(cents)


async def test_a_handler_that_runs_again_publishes_under_the_same_id(kafka, cluster, broker):
    events = FastStreamPublisher(broker, namespace=cluster["namespace"])
    runs = []

    @broker.subscriber(
        f"{cluster['namespace']}.carts",
        group_id=cluster["namespace"],
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def on_cart(cart: str, message: KafkaMessage) -> None:
        await events.publish_all(
            [CupSold(cup="c", cents=1), CupSold(cup="c", cents=2)], cause=message
        )
        runs.append(cart)
        if len(runs) == 1:
            raise RuntimeError("after publishing")

    await broker.start()
    headers = {"ce_id": "cart-7", "ce_correlationid": "delivery-1"}
    await broker.publish("a cart", f"{cluster['namespace']}.carts", headers=headers)
    records = await records_on(f"dev.{cluster['namespace']}.{SOLD}", 4, **cluster)

    assert len(runs) == 2
    ids = [header(record, "ce_id") for record in records]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]
    assert {header(record, "ce_causationid") for record in records} == {"cart-7"}
    assert {header(record, "ce_correlationid") for record in records} == {"delivery-1"}


async def test_what_readers_could_not_read_is_refused(kafka, cluster, broker):
    events = FastStreamPublisher(broker, namespace=cluster["namespace"])
    with pytest.raises(MalformedMessage):
        await events.publish_all([CupSold(cup="c", cents=1), ShopOpened(by="ann")])
    with pytest.raises(TypeError, match="batch"):
        await events.publish(CupSold(cup="c", cents=1), cause=type("B", (), {"raw_message": ()})())
    small = KafkaBroker(kafka.bootstrap, max_request_size=1_000, logger=None)
    with pytest.raises(MessageTooLarge):
        await FastStreamPublisher(small, namespace=cluster["namespace"]).publish(
            CupSold(cup="c" * 900, cents=1)
        )
    await small.stop()
    await events.publish(ShopOpened(by="ann"), key="shop")

    assert len(await records_on(f"dev.{cluster['namespace']}.{OPENED}", 1, **cluster)) == 1


# FastStream lets go of a producer that could not start without stopping it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_broker_that_is_not_there_is_an_error_in_time():
    """Of our own kind, so that the caller need not know whose client is beneath."""
    events = FastStreamPublisher(KafkaBroker("127.0.0.1:9", logger=None), timeout="500ms")
    with pytest.raises(BusUnavailable):
        async with asyncio.timeout(HANG_S):
            await events.publish(CupSold(cup="c", cents=1))
