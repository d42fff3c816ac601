"""What a program publishes is on the bus when the call returns: from a loop, and from threads."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from saga import Outbox, Publisher, SyncPublisher
from saga.adapters.kafka import KafkaConnection
from saga.adapters.kafka.admin import Cluster
from saga.adapters.opening import OpenedBus, open_bus
from saga.adapters.partitioner import partition_of
from saga.errors import (
    BusUnavailable,
    MalformedMessage,
    MessageTooLarge,
    SettingsError,
    TopicMissing,
)
from tests.patience import HANG_S
from tests.publishing.events import SOLD, CupSold, ShopOpened
from tests.publishing.reading import header, records_on


async def test_an_event_is_published_with_its_key_json_and_headers(bus):
    async with Publisher(bus=bus, source="/shop") as publisher:
        message_id = await publisher.publish(
            CupSold(cup="c-1", cents=250), causation_id="delivery-1", correlation_id="customer-1"
        )

    [record] = await records_on(f"dev.saga.{SOLD}", 1, bus=bus)
    assert record.key == b"c-1"
    assert json.loads(record.value) == {"cents": 250, "cup": "c-1"}
    assert header(record, "ce_id") == message_id
    assert header(record, "ce_type") == SOLD
    assert header(record, "ce_source") == "/shop"
    assert header(record, "ce_causationid") == "delivery-1"
    assert header(record, "ce_correlationid") == "customer-1"
    assert header(record, "content-type") == "application/json"


async def test_the_programs_own_id_is_the_messages_id(bus):
    """So that what is published again after a crash is recognised."""
    async with Publisher(bus=bus) as publisher:
        for _ in range(2):
            await publisher.publish(CupSold(cup="c-1", cents=1), message_id="sale-1")

    records = await records_on(f"dev.saga.{SOLD}", 2, bus=bus)
    assert [header(record, "ce_id") for record in records] == ["sale-1", "sale-1"]


async def test_a_publisher_may_be_opened_again(bus):
    publisher = Publisher(bus=bus)
    for cents in (1, 2):
        async with publisher:
            await publisher.publish(CupSold(cup="c", cents=cents))

    assert len(await records_on(f"dev.saga.{SOLD}", 2, bus=bus)) == 2


async def test_many_events_keep_their_order_for_each_key(bus):
    """Also where they are published as one batch."""
    events = [CupSold(cup=f"c-{n % 7}", cents=n) for n in range(200)]
    async with Publisher(bus=bus) as publisher:
        ids = await publisher.publish_all(events)

    records = await records_on(f"dev.saga.{SOLD}", 200, bus=bus)
    assert sorted(header(record, "ce_id") for record in records) == sorted(ids)
    for key in range(7):
        cents = [json.loads(r.value)["cents"] for r in records if r.key == f"c-{key}".encode()]
        assert cents == sorted(cents)


@pytest.mark.parametrize(
    ("event", "options", "code"),
    [
        (ShopOpened(by="ann"), {}, "no_key"),
        (CupSold(cup=" ", cents=1), {}, "no_key"),
        (CupSold(cup="a", cents=1), {"key": "b"}, "wrong_key"),
        (CupSold(cup="a", cents=1), {"message_id": " "}, "bad_id"),
        (CupSold(cup="a", cents=1), {"message_id": "i" * 1_001}, "bad_id"),
        (CupSold(cup="a", cents=1), {"message_id": "é" * 501}, "bad_id"),
        (CupSold(cup="a", cents=1), {"causation_id": "i" * 1_001}, "bad_id"),
        (CupSold(cup="a", cents=1), {"correlation_id": "i" * 1_001}, "bad_id"),
        (CupSold(cup="a", cents=1), {"traceparent": "i" * 1_001}, "bad_id"),
        (CupSold(cup="a", cents=1), {"message_id": "\ud800"}, "bad_id"),
        (ShopOpened(by="ann"), {"key": "k" * 1_001}, "no_key"),
        (ShopOpened(by="ann"), {"key": "é" * 501}, "no_key"),
        (CupSold(cup="\udc00", cents=1), {}, "lone_surrogate"),
        (CupSold.model_construct(cup="a", cents="many"), {}, "schema"),
        (CupSold(cup="a" * 2_000, cents=1), {}, "too_large"),
    ],
)
async def test_what_readers_could_not_read_is_refused_before_anything_is_sent(
    bus, event, options, code
):
    async with Publisher(bus=bus, record_bytes=1024) as publisher:
        with pytest.raises(MalformedMessage) as refused:
            publisher.write(event, **options)
        assert refused.value.code == code
        if not options:
            with pytest.raises(MalformedMessage):
                await publisher.publish_all([CupSold(cup="fine", cents=1), event])
        await publisher.publish(CupSold(cup="last", cents=1))

    [record] = await records_on(f"dev.saga.{SOLD}", 1, bus=bus)
    assert record.key == b"last"


async def test_a_publisher_that_is_not_open_says_so(bus):
    with pytest.raises(RuntimeError, match="async with"):
        await Publisher(bus=bus).publish(CupSold(cup="c", cents=1))


def test_settings_are_checked_when_the_publisher_is_made():
    with pytest.raises(SettingsError, match="SAGA_BUS"):
        Publisher(bus="redis://here")
    with pytest.raises(SettingsError, match=r"source: it has 1,001 bytes"):
        Publisher(bus="local:///x.db", source="/" + "s" * 1_000)


class Recording:
    """A connection that remembers what it was told to execute."""

    def __init__(self) -> None:
        self.executed = []

    def execute(self, query, params=None) -> None:
        self.executed.append((query, params))


def test_an_outbox_refuses_long_ids_and_keys_before_it_stores_them():
    outbox, connection = Outbox(source="/shop"), Recording()
    for event, options in (
        (CupSold(cup="c", cents=1), {"message_id": "i" * 1_001}),
        (CupSold(cup="c" * 1_001, cents=1), {}),
        (ShopOpened(by="ann"), {"key": "k" * 1_001}),
    ):
        with pytest.raises(MalformedMessage):
            outbox.add(connection, event, **options)
    assert connection.executed == []

    outbox.add(connection, CupSold(cup="c" * 1_000, cents=1), message_id="i" * 1_000)
    assert len(connection.executed) == 1


class Away:
    """A bus that is away for some calls, having published half of what it was given."""

    def __init__(self, bus, failures: int) -> None:
        self.bus = bus
        self.failures = failures
        self.calls = []

    async def publish(self, records) -> None:
        """As a bus does, or half of it."""
        self.calls.append(list(records))
        if len(self.calls) <= self.failures:
            await self.bus.publish(records[: len(records) // 2])
            raise BusUnavailable("away")
        await self.bus.publish(records)


@pytest.fixture
def lose_bus(monkeypatch):
    """Lets the publisher opened next be without its bus for so many calls."""

    def lose(failures: int) -> list[Away]:
        made = []

        def opening(settings):
            opened = open_bus(settings)
            made.append(Away(opened.bus, failures))
            return OpenedBus(made[-1], opened.close)

        monkeypatch.setattr("saga.adapters.opening.open_bus", opening)
        return made

    return lose


async def test_the_same_bytes_are_sent_again_while_the_bus_is_away(bus, lose_bus):
    """Under the same id, however often; the call returns once all is durable."""
    async with Publisher(bus=bus) as publisher:
        await publisher.publish(CupSold(cup="first", cents=0))
    made = lose_bus(2)
    async with Publisher(bus=bus) as publisher:
        await publisher.publish_all([CupSold(cup="c", cents=1), CupSold(cup="c", cents=2)])

    [away] = made
    assert len(away.calls) == 3
    assert away.calls[0] == away.calls[1] == away.calls[2]
    records = await records_on(f"dev.saga.{SOLD}", 5, bus=bus)
    mine = [json.loads(record.value)["cents"] for record in records if record.key == b"c"]
    assert list(dict.fromkeys(mine)) == [1, 2]


async def test_a_bus_that_stays_away_is_an_error_in_time(bus, lose_bus):
    lose_bus(1_000)
    async with Publisher(bus=bus, timeout="200ms") as publisher:
        with pytest.raises(BusUnavailable, match=r"within 0\.2 s: away"):
            await publisher.publish(CupSold(cup="c", cents=1))


async def test_kafka_gets_what_the_embedded_bus_gets(kafka, cluster):
    """And a record is where Kafka's own clients would put it."""
    topic = f"dev.{cluster['namespace']}.{SOLD}"
    async with Publisher(**cluster) as publisher:
        ids = await publisher.publish_all([CupSold(cup=f"c-{n}", cents=n) for n in range(50)])

    records = await records_on(topic, 50, **cluster)
    assert sorted(header(record, "ce_id") for record in records) == sorted(ids)
    assert [r.partition for r in records] == [partition_of(r.key, 4) for r in records]


async def test_a_topic_that_kafka_does_not_have_is_not_made_by_a_publisher(kafka, namespace):
    """Partitions and retention are somebody's decision: the error says which command makes it."""
    async with Publisher(bus=kafka.url, namespace=namespace) as publisher:
        with pytest.raises(TopicMissing, match=r"saga topics create") as missing:
            await publisher.publish(CupSold(cup="c", cents=1))

    assert missing.value.topic == f"dev.{namespace}.{SOLD}"
    asking = Cluster(KafkaConnection(servers=(kafka.bootstrap,)))
    assert await asking.layouts([missing.value.topic]) == {}
    await asking.close()


async def test_a_kafka_that_is_not_there_is_an_error_in_time():
    """Opening does not need it; the first event does."""
    async with Publisher(bus="kafka://127.0.0.1:9", timeout="500ms") as publisher:
        with pytest.raises(BusUnavailable, match="not published within"):
            await publisher.publish(CupSold(cup="c", cents=1))


async def test_a_record_larger_than_the_bus_takes_is_refused_at_once(bus):
    """Trying again would not make it smaller."""
    async with Publisher(bus=bus) as publisher:
        written = publisher.write(CupSold(cup="c", cents=1))
        written = replace(written, record=replace(written.record, value=b"x" * 3_000_000))
        with pytest.raises(MessageTooLarge):
            await publisher.send([written])


ROOT = Path(__file__).parents[2]


async def test_a_call_returns_when_the_event_is_durable(bus):
    with SyncPublisher(bus=bus, source="/shop") as publisher:
        message_id = publisher.publish(CupSold(cup="c", cents=1))
        [record] = await records_on(f"dev.saga.{SOLD}", 1, bus=bus)

    assert header(record, "ce_id") == message_id
    assert "saga-publisher" not in {thread.name for thread in threading.enumerate()}


async def test_all_threads_of_a_process_share_one_publisher(bus):
    def sell(thread: int) -> None:
        for cents in range(20):
            publisher.publish(CupSold(cup=f"c-{thread}", cents=cents))

    with SyncPublisher(bus=bus) as publisher:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(sell, range(8)))
        assert sum(thread.name == "saga-publisher" for thread in threading.enumerate()) == 1

    records = await records_on(f"dev.saga.{SOLD}", 160, bus=bus)
    for thread in range(8):
        cents = [json.loads(r.value)["cents"] for r in records if r.key == f"c-{thread}".encode()]
        assert cents == list(range(20))


async def test_a_closed_publisher_begins_anew(bus):
    publisher = SyncPublisher(bus=bus)
    publisher.close()
    for cents in range(2):
        publisher.publish(CupSold(cup="c", cents=cents))
        publisher.close()

    assert len(await records_on(f"dev.saga.{SOLD}", 2, bus=bus)) == 2


def test_a_bad_event_costs_nothing(bus, tmp_path):
    publisher = SyncPublisher(bus=bus)
    with pytest.raises(MalformedMessage):
        publisher.publish(ShopOpened(by="ann"))

    assert list(tmp_path.iterdir()) == []


def test_every_wait_has_an_end():
    """Also where nobody answers."""
    with (
        SyncPublisher(bus="kafka://127.0.0.1:9", timeout="300ms") as publisher,
        pytest.raises(BusUnavailable, match="not published within"),
    ):
        publisher.publish(CupSold(cup="c", cents=1))


PROGRAM = """
import os, sys
from saga import SyncPublisher
from tests.publishing.events import CupSold

publisher = SyncPublisher(bus=sys.argv[1])
publisher.publish(CupSold(cup="parent", cents=1))
child = os.fork()
publisher.publish(CupSold(cup="parent" if child else "child", cents=2))
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(bus: str) -> subprocess.CompletedProcess[str]:
    """The program above, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, bus],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=HANG_S,
        check=False,
        capture_output=True,
        text=True,
    )


async def test_a_forked_process_has_its_own_and_both_end_by_themselves(bus):
    ran = run(bus)

    assert (ran.returncode, ran.stderr) == (0, "")
    records = await records_on(f"dev.saga.{SOLD}", 3, bus=bus)
    assert sorted(record.key for record in records) == [b"child", b"parent", b"parent"]
