"""A rebalance on a real Kafka: records in hand are finished or dropped before others read on."""

# ruff: noqa: SLF001 - only tests ask how far a worker has come

import asyncio
from pathlib import Path

import pytest

from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.adapters.kafka.consumer import DRAIN_S
from saga.errors import StoreUnavailable
from saga.ports.bus import Record, Source, TopicSpec
from saga.runtime.orchestrator import Orchestrator
from tests.adapters.kafka.fixtures import QUICK, read
from tests.patience import HANG_S, until
from tests.scenarios import order_app
from tests.scenarios.examined import effects

ORDERS = 200


@pytest.fixture
async def member(kafka, namespace: str):
    """Makes members of one group, each on a bus of its own, on a topic of three partitions."""
    buses = []

    async def member(**settings):
        connection = KafkaConnection(servers=(kafka.bootstrap,))
        buses.append(bus := KafkaBus(connection, consumers=QUICK))
        await bus.create_topics([TopicSpec(f"{namespace}.t", 3)])
        return bus, await bus.subscribe("g" + namespace, [f"{namespace}.t"], **settings)

    yield member
    for bus in buses:
        await bus.close()


async def shared_out(first, second) -> int:
    """How many partitions are left to *first* once both have some; both fetch until then."""

    async def fetching(consumer) -> None:
        while True:
            await consumer.fetch(records_max=10, timeout_s=0.05)

    tasks = [asyncio.create_task(fetching(consumer)) for consumer in (first, second)]
    await until(lambda: second.assignment() and first.assignment())
    share = len(first.assignment())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return share


@pytest.mark.parametrize("is_finished", [True, False])
async def test_others_read_only_after_we_have_drained(member, namespace: str, is_finished) -> None:
    """The member that drains is waited for, and still owns everything meanwhile.

    It goes on behind the records that it has finished; where it has dropped some, it asks where to
    begin.
    """
    asked, events, others = [], [], []

    async def resume_at(sources):
        asked.append(len(sources))
        return dict.fromkeys(sources, 1)

    async def others_resume_at(sources):
        others.append(len(sources))
        return dict.fromkeys(sources, 2)

    bus, first = await member(resume_at=resume_at)
    topic = f"{namespace}.t"
    await bus.publish([Record(topic, None, b"", (), n) for n in (0, 0, 1, 1, 2, 2)])
    await read(first, 3)

    async def drain(within_s: float) -> bool:
        events.append(("asked", within_s, len(first.assignment())))
        await first.commit({Source(topic, n): 2 for n in range(3)})
        await asyncio.sleep(0.3)
        events.append(("answered", len(others)))
        return is_finished

    first.on_revoke(drain)
    _, second = await member(resume_at=others_resume_at)
    share = await shared_out(first, second)

    assert events == [("asked", DRAIN_S, 3), ("answered", 0)]
    assert share + len(second.assignment()) == 3
    assert asked == ([3] if is_finished else [3, share])
    assert others == [3 - share]


async def test_a_drain_that_fails_keeps_nothing(member, namespace) -> None:
    """Whoever reads the partitions next begins where the store stands."""
    asked = []

    async def resume_at(sources):
        asked.append(len(sources))
        return {}

    async def fail(within_s: float) -> bool:
        raise RuntimeError("a bug")

    _, first = await member(resume_at=resume_at)
    await first.fetch(records_max=1, timeout_s=1)
    first.on_revoke(fail)
    _, second = await member()

    share = await shared_out(first, second)

    assert asked == [3, share]


def orchestrator_of(service) -> Orchestrator:
    [orchestrator] = [role for role in service._roles if isinstance(role, Orchestrator)]
    return orchestrator


async def test_a_batch_in_hand_is_finished_before_the_others_read_on(
    kafka, namespace: str, tmp_path: Path
) -> None:
    """An orchestrator joins while the other has hundreds of records in hand.

    Neither ever decides what the other has decided.
    """
    given = {"bus": kafka.url, "namespace": namespace, "kafka_session_timeout": "2m"}
    async with order_app.service(tmp_path, **given) as first:
        worker = orchestrator_of(first)
        append = worker._turns._store.append

        async def slowly(batch, *, at):
            await asyncio.sleep(0.1)
            return await append(batch, at=at)

        worker._turns._store.append = slowly
        sagas = []

        async def place_orders(are_enough: asyncio.Event) -> None:
            while len(sagas) < ORDERS or not are_enough.is_set():
                order = order_app.OrderPlaced(order_id=f"o-{len(sagas)}")
                sagas.append(await first.publish(order))
                await asyncio.sleep(0.01)

        has_joined = asyncio.Event()
        placing = asyncio.create_task(place_orders(has_joined))
        await until(lambda: first.counts["turns"] > 0)
        async with order_app.service(tmp_path, with_services=False, **given) as second:
            await until(lambda: second.counts["turns"] > 0)
            has_joined.set()
            await placing
            await asyncio.gather(*(first.outcome(saga, timeout=HANG_S) for saga in sagas))
            counts = [first.counts, second.counts]

    assert [count["conflicts"] for count in counts] == [0, 0]
    assert sum(count["completed"] for count in counts) == len(sagas)
    assert set(effects(tmp_path).values()) == {1}


async def test_a_batch_that_cannot_be_finished_is_abandoned(
    kafka, namespace: str, tmp_path: Path
) -> None:
    """Its worker cannot reach the store, so the other worker has the sagas done meanwhile.

    The first drops its records in hand when the store is back.
    """
    given = {"bus": kafka.url, "namespace": namespace}
    async with order_app.service(tmp_path, **given) as first:
        worker = orchestrator_of(first)
        store = worker._turns._store
        append = store.append

        async def fail(batch, *, at):
            raise StoreUnavailable("cut off")

        store.append = fail
        placed = [order_app.OrderPlaced(order_id=f"o-{n}") for n in range(ORDERS)]
        sagas = [await first.publish(order) for order in placed]
        await until(lambda: worker.receiver.in_hand + worker._batcher._records_taken > 0)
        finish, abandoned = worker._batcher.finish_or_abandon, []

        async def abandon(within_s: float) -> bool:
            is_finished = await finish(within_s)
            abandoned.append((is_finished, worker.receiver.in_hand, worker.counts["turns"]))
            return is_finished

        worker.receiver.consumer.on_revoke(abandon)
        async with order_app.service(tmp_path, with_services=False, **given) as second:
            await until(lambda: second.counts["started"] > 0)
            store.append = append
            await asyncio.gather(*(first.outcome(saga, timeout=HANG_S) for saga in sagas))
            counts = [first.counts, second.counts]

    assert abandoned[0] == (False, 0, 0)
    assert sum(count["completed"] for count in counts) == ORDERS
    assert set(effects(tmp_path).values()) == {1}
