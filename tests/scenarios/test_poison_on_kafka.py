"""Records that cannot be read, on a real Kafka, through a whole service.

Each becomes a dead letter with its reason within seconds, the rest of its partition goes on, and
redriven records come back in order.
"""

import asyncio
from dataclasses import replace

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from saga import Context, Event, SagaApp, saga
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.console.cli.dead_letters import dlq_redrive
from saga.console.cli.output import Printer
from saga.console.cli.session import Session
from saga.contracts import CommandAct
from saga.core.identity import saga_id
from saga.core.status import SagaStatus
from saga.ports import Record
from saga.ports.store import UnhandledKind
from saga.settings import Settings
from tests.patience import HANG_S, until
from tests.scenarios import order_app
from tests.scenarios.examined import effects

HUGE = 5 * 1_048_576
CODECS = (None, "gzip", "snappy", "lz4", "zstd")
PARTS = 12


class Opened(Event, topic="shop.opened", version=1, key="box"):
    box: str


class Filled(Event, topic="shop.filled", version=1):
    box: str
    parts: list[int]


@saga("filling", version=1, starts_on=Opened)
async def filling(ctx: Context, opened: Opened) -> Filled:
    """Takes parts in the order in which they come."""
    parts = [await ctx.wait("part", int, timeout="1h") for _ in range(PARTS)]
    return Filled(box=opened.box, parts=parts)


def poison(good: Record) -> dict[str, Record]:
    """Records like *good* that are wrong in one way each, by the reason as dead letters."""

    def changed(name: str, value: bytes | None) -> tuple[tuple[str, bytes | None], ...]:
        return tuple((each, value if each == name else was) for each, was in good.headers)

    type_ = dict(good.headers)["ce_type"]
    assert type_ is not None
    return {
        "null header": replace(good, headers=changed("ce_id", None)),
        "header that is no text": replace(good, headers=changed("ce_id", b"\xff\xfe")),
        "no key": replace(good, key=None),
        "key that is no text": replace(good, key=b"\xff\xfe"),
        "no value": replace(good, value=None),
        "huge value": replace(good, value=b"x" * HUGE),
        "no JSON": replace(good, value=b'{"order_id": '),
        "value that is no text": replace(good, value=b'{"order_id": "\xff"}'),
        "wrong schema": replace(good, value=b'{"order_id": "o", "amount": "much"}'),
        "unknown version": replace(good, headers=changed("ce_type", type_[:-1] + b"9")),
    }


async def send_all(producer: AIOKafkaProducer, topic: str, records: list[Record]) -> None:
    """Send them, and again those that the topic refuses until it knows its new limit."""
    while records:
        sent = [
            await producer.send(
                topic, record.value, record.key, partition=0, headers=list(record.headers)
            )
            for record in records
        ]
        ends = await asyncio.gather(*sent, return_exceptions=True)
        assert all(isinstance(end, RecordMetadata | MessageSizeTooLargeError) for end in ends), ends
        records = [
            record
            for record, end in zip(records, ends, strict=True)
            if isinstance(end, MessageSizeTooLargeError)
        ]


async def publish_among(kafka, topic: str, bad: list[Record], good: list[Record]) -> None:
    """Each bad record between good ones, in one partition, in batches of every compression."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    taken = {"max.message.bytes": str(2 * HUGE)}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, taken)])
    await admin.close()
    share = len(good) // len(CODECS)
    for number, codec in enumerate(CODECS):
        async with AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap,
            compression_type=codec,
            max_request_size=2 * HUGE,
            linger_ms=20,
        ) as producer:
            wrong = bad[number :: len(CODECS)]
            mixed = good[number * share : (number + 1) * share]
            for place, record in enumerate(wrong):
                mixed.insert(2 * place + 1, record)
            await send_all(producer, topic, mixed)


async def test_poison_is_a_dead_letter_and_its_partition_goes_on(kafka, namespace, tmp_path):
    """Null and non-UTF-8 headers, no key, no value, 5 MB, wrong schema, unknown version.

    They are compressed or not. Where code raises, its saga waits until a release by code that does
    not.
    """

    def flaw(place: str) -> None:
        if place == "start cursed":
            raise ZeroDivisionError("a bug")

    given = {"bus": kafka.url, "namespace": namespace}
    topic = f"dev.{namespace}.shop.evt.order-placed.v1"
    async with order_app.service(tmp_path, order_app.order_saga(flaw=flaw), **given) as service:

        def order(name: str) -> Record:
            return service.publisher.writer.record(order_app.OrderPlaced(order_id=name)).record

        good = [order(f"o-{number}") for number in range(30)]
        good[7] = order("cursed")
        # What others put into headers of their own is not ours to judge.
        good[8] = replace(good[8], headers=(*good[8].headers, ("x", None), ("y", b"\xff\xfe")))
        bad = poison(order("bad"))
        await publish_among(kafka, topic, list(bad.values()), good)
        names = [saga_id.key.decode() for saga_id in good]

        async def are_dead_letters() -> bool:
            return len(await service.catalogue.unhandled(kind=UnhandledKind.DEAD)) == len(bad)

        await until(are_dead_letters)
        outcomes = {
            name: await service.outcome(saga_id("order", name), timeout=HANG_S) for name in names
        }
        dead = await service.catalogue.unhandled(kind=UnhandledKind.DEAD)
        [deferred] = await service.catalogue.unhandled(kind=UnhandledKind.DEFERRED)
        assert await service.problems() == []

    assert {record.position.partition for record in dead} == {0}
    assert {(record.key, record.value) for record in dead} == {
        (record.key, record.value) for record in bad.values()
    }
    assert {outcomes.pop("cursed").status} == {SagaStatus.PARKED}
    assert {outcome.status for outcome in outcomes.values()} == {SagaStatus.COMPLETED}
    assert (deferred.reason, deferred.key) == ("turn_failed", b"cursed")
    copied = await copies(kafka, f"dev.{namespace}.shop.dlq.order-placed.v1", len(bad) - 1)
    assert copied == {record.position.offset for record in dead if len(record.value or b"") < HUGE}

    async with order_app.service(tmp_path, order_app.order_saga(), **given) as mended:
        cursed = saga_id("order", "cursed")
        await mended.command(cursed, CommandAct.RELEASE, reason="mended")
        assert (await mended.outcome(cursed, timeout=HANG_S)).status is SagaStatus.COMPLETED
    done = effects(tmp_path)
    assert {order for what, order in done if what == "pay"} == set(names)
    assert set(done.values()) == {1}


async def copies(kafka, topic: str, count: int) -> set[int]:
    """The offsets that so many records on a dlq topic say they had."""
    bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)))
    consumer = await bus.subscribe(f"looker.{topic}", [topic])
    found = []
    async with asyncio.timeout(HANG_S):
        while len(found) < count:
            found += await consumer.fetch(records_max=100, timeout_s=0.2)
        found += await consumer.fetch(records_max=100, timeout_s=0.5)
    await bus.close()
    offsets = [dict(record.headers)["x-dlq-offset"] for record in found]
    assert len(set(offsets)) == len(offsets) == count
    return {int(record) for record in offsets}


async def test_redriven_records_come_back_in_order(kafka, namespace, tmp_path, capfd):
    """Parts for a box that was never opened are dead letters.

    Once it is open the command brings them back, and they are taken in the order in which they were
    sent; those of other boxes stay in theirs.
    """
    given = {
        "bus": kafka.url,
        "store": f"sqlite:///{tmp_path}/saga.db",
        "namespace": namespace,
        "early_hold": "100ms",
    }
    boxes = ["box-1", "box-2", "box-3"]
    async with SagaApp(sagas=[filling]).service(**given) as service:
        for part in range(PARTS):
            for box in boxes:
                service.commands._new[saga_id("filling", box)] = "filling", box  # noqa: SLF001 - none is there to ask
                await service.signal(saga_id("filling", box), "part", part)

        async def are_dead_letters() -> bool:
            dead = await service.catalogue.unhandled(kind=UnhandledKind.DEAD)
            return len(dead) == PARTS * len(boxes)

        await until(are_dead_letters)
        for box in boxes:
            await service.publish(Opened(box=box))
        await until(lambda: _are_open(service, boxes))
        session = Session(Settings.read({}, **given), Printer(is_json=True))
        assert await dlq_redrive(session, everything=True) == 0
        ends = [await service.outcome(saga_id("filling", box), timeout=HANG_S) for box in boxes]
        left = await service.catalogue.unhandled(kind=UnhandledKind.DEAD)
        await service.idle(timeout=HANG_S)
    session.printer.flush()

    assert [record.event.parts for record in ends] == [list(range(PARTS))] * len(boxes)
    assert left == []
    assert capfd.readouterr().out.count('"redriven":true') == PARTS * len(boxes)


async def _are_open(service, boxes: list[str]) -> bool:
    found = await service.catalogue.summaries([saga_id("filling", box) for box in boxes])
    return len(found) == len(boxes)
