"""Records that no database can take, on real buses and stores: they harm nobody else."""

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from saga import Publisher
from saga.adapters.opening import open_store
from saga.core.identity import INSTANT_MAX, saga_id
from saga.ports import Record
from saga.ports.store import UnhandledKind
from saga.publishing.writer import WrittenEvent
from saga.runtime.view import iso
from saga.settings import Settings
from tests.adapters.kafka.fixtures import administrator
from tests.scenarios import order_app
from tests.toys import OrderPlaced

TIMES_MS = {
    "nanoseconds": 1_700_000_000_000_000_000,  # taken for milliseconds
    "of a broken clock": -(2**62),
    "none": -1,
}
TRIGGER = "shop.evt.order-placed.v1"
ANY_TIME = {
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": str(2**63 - 1),
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)


@pytest.fixture(params=["sqlite", "postgres"])
def places(request: pytest.FixtureRequest, kafka, namespace: str, tmp_path: Path) -> dict[str, str]:
    store = f"sqlite:///{tmp_path}/saga.db"
    if request.param == "postgres":
        store = request.getfixturevalue("postgres")
    return {"bus": kafka.url, "namespace": namespace, "store": store}


async def publish(kafka, namespace: str) -> None:
    """Of each time a trigger and a record that is no JSON, in a topic that takes them."""
    topic = f"dev.{namespace}.{TRIGGER}"
    async with administrator(kafka.bootstrap) as admin:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=ANY_TIME)])
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for name, at_ms in TIMES_MS.items():
            for value in (b'{"order_id": "%b"}' % name.encode(), b"no JSON"):
                await producer.send_and_wait(topic, value, name.encode(), timestamp_ms=at_ms)


async def letters(places: dict[str, str]) -> list:
    opened = open_store(Settings.read({}, **places))
    try:
        return list(await opened.catalogue.unhandled(kind=UnhandledKind.DEAD))
    finally:
        await opened.close()


async def test_records_of_any_time_are_taken_from_kafka(
    kafka, places: dict[str, str], tmp_path: Path
) -> None:
    await publish(kafka, places["namespace"])
    async with order_app.service(tmp_path, **places) as service:
        await asyncio.gather(*(_completed(service, name) for name in TIMES_MS))
        assert await service.problems() == []

    found = await letters(places)
    assert {letter.value for letter in found} == {b"no JSON"}
    times = {letter.key.decode(): letter.timestamp for letter in found}
    assert times == {
        "nanoseconds": INSTANT_MAX,
        "of a broken clock": 0,
        "none": 0,
    }
    assert [iso(letter.timestamp)[:4] for letter in found] == ["9999", "1970", "1970"]


async def _completed(service, name: str) -> None:
    """The saga of that order, whose trigger is on its way, completes."""
    while await service.catalogue.summaries([saga_id("order", name)]) == []:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    outcome = await service.outcome(f"order/{name}", timeout=60)
    assert outcome.status == "completed"


@pytest.mark.parametrize("at_us", [2**62, 2**63 - 1])
async def test_records_of_any_time_are_taken_from_a_file(tmp_path: Path, at_us: int) -> None:
    """As a machine whose clock is wrong has written them."""
    places = order_app.addresses(tmp_path)
    bad = Record(f"dev.saga.{TRIGGER}", b"bad", b"no JSON")
    async with Publisher(bus=places["bus"]) as publisher:
        await publisher.publish(OrderPlaced(order_id="o-1"))
        await publisher.send([WrittenEvent(bad, "bad")])
    with sqlite3.connect(tmp_path / "saga.db") as connection:
        connection.execute("UPDATE bus_batches SET timestamp = ?", (at_us,))
    connection.close()
    async with order_app.service(tmp_path) as service:
        await _completed(service, "o-1")

    [letter] = await letters(places)
    assert letter.value == b"no JSON"
    assert letter.timestamp == INSTANT_MAX
    assert iso(at_us)[:4] == iso(letter.timestamp)[:4] == "9999"
