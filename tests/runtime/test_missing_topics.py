"""A missing topic blocks the sagas that have a record for it, and no others."""

import asyncio

import pytest

from saga.authoring import saga
from saga.contracts import contract_of
from saga.core.identity import saga_id
from saga.errors import TopicMissing
from saga.publishing.writer import EventWriter
from saga.runtime.publisher import Publisher
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime.fixtures import NAMES, Scenario, order_id, take
from tests.runtime.test_turns import placed, reserving
from tests.runtime.toys import Booked, OrderDone, OrderPlaced, Reserve, Reserved, Ship, orders


def topic_of(contract) -> str:
    return NAMES.topic(contract_of(contract).contract_name)


def take_away(scenario: Scenario, *contracts) -> None:
    scenario.bus.missing = frozenset(map(topic_of, contracts))


@saga("booking", version=1, starts_on=OrderPlaced)
async def booking(ctx, order: OrderPlaced) -> Booked:
    """A saga of the same orders that needs no shipping."""
    return Booked(order_id=order.order_id)


@pytest.fixture
def scenario(make_scenario):
    """Orders and bookings, with bus and store apart."""
    return make_scenario(orders(), booking, shares_file=False)


async def backlog_ids(scenario: Scenario) -> list[int]:
    """The batches that are not recorded as published."""
    await scenario.relay.record()
    found = await scenario.store.backlog(limit=1_000)
    return [batch.backlog_id for batch in found]


async def test_only_sagas_with_something_for_the_topic_wait(scenario, caplog):
    """The turn is stored, the rest of its batch is published, and the operator is told."""
    take_away(scenario, Reserve)
    await scenario.take(placed(scenario, "o-1"), placed(scenario, "o-2"))

    assert scenario.bodies(order_id("o-1")) != []
    assert scenario.on(Reserve) == []
    assert sorted(record.key for record in scenario.on(Booked)) == [b"o-1", b"o-2"]
    assert scenario.relay.blocked_sagas == 2
    [problem] = scenario.relay.problems()
    assert topic_of(Reserve) in problem
    assert "saga topics create" in problem
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.topic for record in errors] == [topic_of(Reserve)]
    assert await backlog_ids(scenario) == [1]

    take_away(scenario)
    await scenario.relay.release()
    assert sorted(record.key for record in scenario.on(Reserve)) == [b"o-1", b"o-2"]
    assert len(scenario.on(Booked)) == 2
    assert scenario.relay.problems() == []
    assert await backlog_ids(scenario) == []


async def test_a_saga_that_waits_publishes_nothing_before(scenario):
    """In the order of its history, also where its later records have topics; over many batches."""
    await reserving(scenario, "o-1", "o-2")
    take_away(scenario, Ship)
    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    await scenario.take(scenario.reply(f"{order_id('o-1')}/ship/do/1", key="o-1"))
    await scenario.take(placed(scenario, "o-3"))

    assert [record.key for record in scenario.on(Reserve)] == [b"o-1", b"o-2", b"o-3"]
    assert scenario.on(OrderDone) == []
    assert scenario.relay.blocked_sagas == 1
    await scenario.relay.release()
    assert scenario.on(OrderDone) == []

    take_away(scenario)
    await scenario.relay.release()
    assert len(scenario.on(Ship)) == len(scenario.on(OrderDone)) == 1
    assert await backlog_ids(scenario) == []


async def test_topics_come_back_one_by_one(scenario):
    """Who waits for the second one waits on."""
    await reserving(scenario, "o-1")
    take_away(scenario, Ship, Reserve)
    await scenario.take(
        scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")), placed(scenario, "o-2")
    )
    take_away(scenario, Reserve)
    await scenario.relay.release()

    assert len(scenario.on(Ship)) == 1
    assert len(scenario.on(Reserve)) == 1
    assert scenario.relay.blocked_sagas == 1
    assert len(await backlog_ids(scenario)) == 1

    take_away(scenario)
    await scenario.relay.release()
    assert len(scenario.on(Reserve)) == 2
    assert await backlog_ids(scenario) == []


async def test_another_process_takes_over_blocked_records(scenario):
    """The first one is killed; nothing of it was said to be published."""
    take_away(scenario, Reserve)
    await scenario.take(placed(scenario, "o-1"))
    scenario.restart()

    assert await scenario.relay.take_over(older_than_s=-1) == 1
    assert scenario.relay.blocked_sagas == 1
    assert await scenario.relay.take_over(older_than_s=-1) == 0

    take_away(scenario)
    await scenario.relay.release()
    assert [record.key for record in scenario.on(Reserve)] == [b"o-1"]
    assert await backlog_ids(scenario) == []


async def test_what_a_stranger_left_for_the_topic_goes_first(scenario):
    """Another process blocked it; one that goes on with the saga waits, too."""
    await reserving(scenario, "o-1")
    take_away(scenario, Ship)
    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    scenario.restart()
    await scenario.take(scenario.reply(f"{order_id('o-1')}/ship/do/1", key="o-1"))

    assert scenario.on(OrderDone) == []
    take_away(scenario)
    await scenario.relay.release()
    assert len(scenario.on(Ship)) == len(scenario.on(OrderDone)) == 1
    await scenario.relay.take_over(older_than_s=-1)
    assert await backlog_ids(scenario) == []


async def test_what_is_withheld_while_others_are_released_is_not_forgotten(scenario):
    """A turn of the same saga is taken between the last look at the backlog and the end."""
    await reserving(scenario, "o-1")
    take_away(scenario, Ship)
    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    take_away(scenario)
    look = scenario.store.inner.backlog
    scenario.bus.append([scenario.reply(f"{order_id('o-1')}/ship/do/1", key="o-1")])

    async def look_and_be_overtaken(**asked):
        found = await look(**asked)
        if not found:
            await take(scenario.turns, InboundBatch(scenario.unread()))
        return found

    scenario.store.backlog = look_and_be_overtaken
    await scenario.relay.release()
    del scenario.store.backlog
    assert len(scenario.on(Ship)) == 1
    assert scenario.on(OrderDone) == []

    await scenario.relay.release()
    assert len(scenario.on(OrderDone)) == 1
    assert await backlog_ids(scenario) == []


async def test_the_whole_worker_goes_on_and_catches_up(scenario):
    """A hundred orders wait for a topic, another hundred go on; nothing needs to be restarted."""
    answer = scenario.answerer((Reserve, Reserved(shelf="s")), (Ship, None))
    async with scenario.serving():
        take_away(scenario, Ship)
        scenario.bus.append([placed(scenario, f"o-{n}") for n in range(100)])
        await scenario.until(lambda: answer() and scenario.relay.blocked_sagas == 100)
        scenario.bus.append([placed(scenario, f"p-{n}") for n in range(100)])
        await scenario.until(lambda: len(scenario.on(Booked)) == 200)
        assert scenario.orchestrator.problems() != []

        take_away(scenario)
        await scenario.until(lambda: answer() and len(scenario.on(OrderDone)) == 200)
        await scenario.until(lambda: scenario.orchestrator.problems() == [])
    assert await backlog_ids(scenario) == []


async def test_a_missing_topic_for_copies_costs_the_copy(scenario, caplog):
    """The record is in the store as it was; its partition moves on."""
    junk = scenario.record(topic_of(OrderPlaced), b"o-1", b"no json")
    scenario.bus.missing = frozenset({NAMES.topic("toys.dlq.order-placed.v2")})
    unit = await scenario.take(junk, placed(scenario, "o-2"))

    assert len(scenario.dead_letters()) == 1
    assert unit.counts["started"] == 2
    assert "order-placed" in scenario.relay.problems()[0]

    scenario.bus.missing = frozenset()
    await scenario.relay.release()
    assert scenario.relay.problems() == []


async def test_a_key_error_of_ours_is_no_missing_topic(scenario):
    """It is a bug, and is not mistaken for an operator's."""
    await scenario.make_topics()

    async def fail(records) -> None:
        raise KeyError("something else")

    scenario.bus.publish = fail
    scenario.bus.append([placed(scenario)])
    with pytest.raises(KeyError, match="something else"):
        await take(scenario.turns, InboundBatch(scenario.unread()))
    del scenario.bus.publish
    await scenario.relay.take_over(older_than_s=-1)


async def test_who_publishes_is_told_the_topic(scenario):
    """An event that was never accepted is kept nowhere."""
    publisher = Publisher(
        scenario.bus,
        EventWriter(
            NAMES,
            clock=scenario.clock,
            source="/test",
            contracts=scenario.app.contracts,
            sagas=scenario.app.registry,
            new_id=lambda: "m-1",
        ),
    )
    with pytest.raises(TopicMissing) as caught:
        await publisher.send([publisher.writer.record(OrderPlaced(order_id="o-1", amount=1))])

    assert caught.value.topic == topic_of(OrderPlaced)
    assert saga_id("order", "o-1") not in scenario.store.inner.summaries
    await asyncio.sleep(0)
