"""A topic that is not there holds up those sagas that have something for it, and nobody else."""

import asyncio

import pytest

from saga.authoring import saga
from saga.contracts import contract_of
from saga.core.identity import saga_id
from saga.errors import TopicMissing
from saga.publishing.writer import EventWriter
from saga.runtime.publisher import Publisher
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime.lab import NAMES, Lab, order_id, take
from tests.runtime.shop import Booked, OrderDone, OrderPlaced, Reserve, Reserved, Ship, orders
from tests.runtime.test_turns import placed, reserving


def topic_of(contract) -> str:
    """The topic of a contract's class."""
    return NAMES.topic(contract_of(contract).contract_name)


def take_away(lab: Lab, *contracts) -> None:
    """Somebody deletes topics."""
    lab.bus.missing = frozenset(map(topic_of, contracts))


@saga("booking", version=1, starts_on=OrderPlaced)
async def booking(ctx, order: OrderPlaced) -> Booked:
    """A saga of the same orders that needs no shipping."""
    return Booked(order_id=order.order_id)


@pytest.fixture
def apart():
    """Orders and bookings, with bus and store apart."""
    lab = Lab(orders(), booking, shares_file=False)
    yield lab
    lab.check()


async def backlog_ids(lab: Lab) -> list[int]:
    """What nobody has said to be published."""
    await lab.relay.record()
    found = await lab.store.backlog(limit=1_000)
    return [one.backlog_id for one in found]


async def test_only_sagas_with_something_for_the_topic_wait(apart: Lab, caplog) -> None:
    """The turn is taken and stored, the rest of its batch is published, and the operator is
    told.
    """
    lab = apart
    take_away(lab, Reserve)
    await lab.take(placed(lab, "o-1"), placed(lab, "o-2"))

    assert lab.bodies(order_id("o-1")) != []
    assert lab.on(Reserve) == []
    assert sorted(one.key for one in lab.on(Booked)) == [b"o-1", b"o-2"]
    assert lab.relay.blocked_sagas == 2
    [problem] = lab.relay.problems()
    assert topic_of(Reserve) in problem
    assert "saga topics create" in problem
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.topic for record in errors] == [topic_of(Reserve)]
    assert await backlog_ids(lab) == [1]

    take_away(lab)
    await lab.relay.release()
    assert sorted(one.key for one in lab.on(Reserve)) == [b"o-1", b"o-2"]
    assert len(lab.on(Booked)) == 2
    assert lab.relay.problems() == []
    assert await backlog_ids(lab) == []


async def test_a_saga_that_waits_says_nothing_else_before(apart: Lab) -> None:
    """In the order of its history, although its later records have topics; also over many
    batches.
    """
    lab = apart
    await reserving(lab, "o-1", "o-2")
    take_away(lab, Ship)
    await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")))
    await lab.take(lab.reply(f"{order_id('o-1')}/ship/do/1", key="o-1"))
    await lab.take(placed(lab, "o-3"))

    assert [one.key for one in lab.on(Reserve)] == [b"o-1", b"o-2", b"o-3"]
    assert lab.on(OrderDone) == []
    assert lab.relay.blocked_sagas == 1
    await lab.relay.release()
    assert lab.on(OrderDone) == []

    take_away(lab)
    await lab.relay.release()
    assert len(lab.on(Ship)) == len(lab.on(OrderDone)) == 1
    assert await backlog_ids(lab) == []


async def test_topics_come_back_one_by_one(apart: Lab) -> None:
    """Who waits for the second one waits on."""
    lab = apart
    await reserving(lab, "o-1")
    take_away(lab, Ship, Reserve)
    await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")), placed(lab, "o-2"))
    take_away(lab, Reserve)
    await lab.relay.release()

    assert len(lab.on(Ship)) == 1
    assert len(lab.on(Reserve)) == 1
    assert lab.relay.blocked_sagas == 1
    assert len(await backlog_ids(lab)) == 1

    take_away(lab)
    await lab.relay.release()
    assert len(lab.on(Reserve)) == 2
    assert await backlog_ids(lab) == []


async def test_another_process_takes_over_what_was_withheld(apart: Lab) -> None:
    """The first one is killed; nothing of it was said to be published."""
    lab = apart
    take_away(lab, Reserve)
    await lab.take(placed(lab, "o-1"))
    lab.restart()

    assert await lab.relay.take_over(older_than_s=-1) == 1
    assert lab.relay.blocked_sagas == 1
    assert await lab.relay.take_over(older_than_s=-1) == 0

    take_away(lab)
    await lab.relay.release()
    assert [one.key for one in lab.on(Reserve)] == [b"o-1"]
    assert await backlog_ids(lab) == []


async def test_what_a_stranger_left_for_the_topic_goes_first(apart: Lab) -> None:
    """Another process withheld it; whoever goes on with the saga waits, too."""
    lab = apart
    await reserving(lab, "o-1")
    take_away(lab, Ship)
    await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")))
    lab.restart()
    await lab.take(lab.reply(f"{order_id('o-1')}/ship/do/1", key="o-1"))

    assert lab.on(OrderDone) == []
    take_away(lab)
    await lab.relay.release()
    assert len(lab.on(Ship)) == len(lab.on(OrderDone)) == 1
    await lab.relay.take_over(older_than_s=-1)
    assert await backlog_ids(lab) == []


async def test_what_is_withheld_while_others_are_released_is_not_forgotten(apart: Lab) -> None:
    """A turn of the same saga is taken between the last look at the backlog and the end."""
    lab = apart
    await reserving(lab, "o-1")
    take_away(lab, Ship)
    await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")))
    take_away(lab)
    look = lab.store.inner.backlog
    lab.bus.append([lab.reply(f"{order_id('o-1')}/ship/do/1", key="o-1")])

    async def look_and_be_overtaken(**asked):
        found = await look(**asked)
        if not found:
            await take(lab.turns, InboundBatch(lab.unread()))
        return found

    lab.store.backlog = look_and_be_overtaken
    await lab.relay.release()
    del lab.store.backlog
    assert len(lab.on(Ship)) == 1
    assert lab.on(OrderDone) == []

    await lab.relay.release()
    assert len(lab.on(OrderDone)) == 1
    assert await backlog_ids(lab) == []


async def test_the_whole_worker_goes_on_and_catches_up(apart: Lab) -> None:
    """A hundred orders wait for a topic, another hundred go on; nothing needs to be restarted."""
    lab = apart
    answer = lab.answerer((Reserve, Reserved(shelf="s")), (Ship, None))
    async with lab.serving():
        take_away(lab, Ship)
        lab.bus.append([placed(lab, f"o-{n}") for n in range(100)])
        await lab.until(lambda: answer() and lab.relay.blocked_sagas == 100)
        lab.bus.append([placed(lab, f"p-{n}") for n in range(100)])
        await lab.until(lambda: len(lab.on(Booked)) == 200)
        assert lab.orchestrator.problems() != []

        take_away(lab)
        await lab.until(lambda: answer() and len(lab.on(OrderDone)) == 200)
        await lab.until(lambda: lab.orchestrator.problems() == [])
    assert await backlog_ids(lab) == []


async def test_a_missing_topic_for_copies_costs_the_copy(apart: Lab, caplog) -> None:
    """The record is in the store as it was; its partition moves on."""
    lab = apart
    junk = lab.record(topic_of(OrderPlaced), b"o-1", b"no json")
    lab.bus.missing = frozenset({NAMES.topic("kiosk.dlq.order-placed.v2")})
    draft = await lab.take(junk, placed(lab, "o-2"))

    assert len(lab.dead()) == 1
    assert draft.counts["started"] == 2
    assert "order-placed" in lab.relay.problems()[0]

    lab.bus.missing = frozenset()
    await lab.relay.release()
    assert lab.relay.problems() == []


async def test_a_key_error_of_ours_is_no_missing_topic(apart: Lab) -> None:
    """It is a bug, and is not mistaken for an operator's."""
    lab = apart
    await lab.make_topics()

    async def fail(records) -> None:
        raise KeyError("something else")

    lab.bus.publish = fail
    lab.bus.append([placed(lab)])
    with pytest.raises(KeyError, match="something else"):
        await take(lab.turns, InboundBatch(lab.unread()))
    del lab.bus.publish
    await lab.relay.take_over(older_than_s=-1)


async def test_who_publishes_is_told_the_topic(apart: Lab) -> None:
    """Nobody keeps an event that was never accepted."""
    lab = apart
    publisher = Publisher(
        lab.bus,
        EventWriter(
            NAMES,
            clock=lab.clock,
            source="/test",
            contracts=lab.app.contracts,
            sagas=lab.app.registry,
            new_id=lambda: "m-1",
        ),
    )
    with pytest.raises(TopicMissing) as caught:
        await publisher.send([publisher.writer.record(OrderPlaced(order_id="o-1", amount=1))])

    assert caught.value.topic == topic_of(OrderPlaced)
    assert saga_id("order", "o-1") not in lab.store.inner.summaries
    await asyncio.sleep(0)
