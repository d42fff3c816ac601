"""Hop 7: stored records leave in order, with the same ids and bytes; a left backlog is found."""

import asyncio

import pytest

from saga.core.history import Entry
from saga.core.identity import saga_id
from saga.core.intents import EventPublished, SagaCompleted
from saga.errors import CorruptHistory
from saga.ports import Record
from saga.runtime.relay import TAKEOVER_S, RecordEncoder
from saga.runtime.unit_of_work import InboundBatch
from tests.records import header
from tests.runtime.fixtures import NAMES, Scenario, order_id, take
from tests.runtime.test_turns import placed, reserving, shipping
from tests.runtime.toys import OrderDone, Reserve, Reserved, Ship, orders


@pytest.fixture
def scenario(make_scenario):
    return make_scenario(orders(), shares_file=False)


async def stored_only(scenario: Scenario, *records: Record) -> asyncio.Task:
    """Turns that are stored, by a process that cannot publish and is killed."""
    scenario.bus.is_away = True
    await scenario.make_topics()
    scenario.bus.append(records)
    turn = asyncio.ensure_future(take(scenario.turns, InboundBatch(scenario.unread())))
    before = scenario.bus.attempts
    await scenario.until(lambda: scenario.bus.attempts > before)
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    scenario.bus.is_away = False
    scenario.restart()
    return turn


async def test_what_is_published_is_recorded_with_the_next_append(scenario):
    """Publishing costs no transaction of its own."""
    await reserving(scenario)
    assert len(await scenario.store.backlog(limit=9)) == 1
    assert scenario.relay.relayed == [1]

    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))

    assert scenario.relay.relayed == [2]
    assert scenario.store.appends == 2


async def test_without_a_next_append_it_is_recorded_all_the_same(scenario):
    await reserving(scenario)
    await scenario.relay.record()
    await scenario.relay.record()

    assert scenario.relay.relayed == []
    assert await scenario.store.backlog(limit=9) == []
    assert scenario.store.appends == 2


async def test_a_store_that_publishes_itself_leaves_nothing_to_relay(make_scenario):
    """There is no backlog, and nothing is published twice."""
    scenario = make_scenario(orders())
    await reserving(scenario)

    assert scenario.bus.attempts == 0
    assert await scenario.relay.take_over(older_than_s=-1) == 0
    assert len(scenario.on(Reserve)) == 1


async def test_what_a_dead_process_left_is_published_as_it_would_have_been(scenario):
    """Rebuilt from entries: ids, headers and values are those that were never sent."""
    await stored_only(scenario, placed(scenario, id="m-1"))
    assert await scenario.relay.take_over(older_than_s=-1) == 1
    (taken_over,) = scenario.on(Reserve)

    other = Scenario(orders())
    await other.take(placed(other, id="m-1"))
    (direct,) = other.on(Reserve)

    assert (taken_over.key, taken_over.value, taken_over.headers) == (
        direct.key,
        direct.value,
        direct.headers,
    )
    assert scenario.relay.relayed == []


async def test_what_another_process_has_just_appended_is_left_to_it(scenario):
    await stored_only(scenario, placed(scenario))
    scenario.clock.advance(TAKEOVER_S - 0.5)
    assert await scenario.relay.take_over() == 0
    scenario.clock.advance(1)

    assert await scenario.relay.take_over() == 1
    assert await scenario.relay.take_over() == 0
    assert len(scenario.on(Reserve)) == 1


async def test_records_of_one_saga_do_not_overtake_what_another_process_left(scenario):
    """A process that goes on with a saga first publishes the earlier records of others."""
    await reserving(scenario)
    await stored_only(scenario, scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    assert scenario.on(Ship) == []

    await scenario.take(scenario.reply(f"{order_id()}/ship/do/1"))

    (ship,), (done,) = scenario.on(Ship), scenario.on(OrderDone)
    assert header(ship, "ce_id") == f"{order_id()}/ship/do/1"
    assert header(done, "ce_id") == f"{order_id()}/outcome"


async def test_a_corrupt_history_keeps_only_its_own_records_from_being_published(scenario):
    await stored_only(scenario, placed(scenario, "o-1"), placed(scenario, "o-2"))
    load = scenario.store.inner.load

    async def damaged(saga_ids):
        found = dict(await load(saga_ids))
        found[order_id("o-1")] = CorruptHistory(order_id("o-1"), 1, "no JSON")
        return found

    scenario.store.load = damaged
    await scenario.relay.take_over(older_than_s=-1)
    assert [record.key for record in scenario.on(Reserve)] == [b"o-2"]

    del scenario.store.load
    await shipping(scenario, "o-3")
    scenario.bus.append(
        [
            Record(record.topic, record.key, record.value, record.headers)
            for record in _missing(scenario)
        ]
    )


def _missing(scenario: Scenario) -> list[Record]:
    """The records of the corrupt saga, so that the fixture checks everything else."""
    outgoing = RecordEncoder(NAMES, record_bytes_max=1_000_000)
    history = scenario.history(order_id("o-1"))
    return outgoing.records(history, definition="order", key="o-1", traceparent=None)


def test_ids_and_bytes_are_functions_of_the_entry():
    """Published events and outcomes too; entries that concern only the saga say nothing."""
    saga = saga_id("order", "o-1")
    outgoing = RecordEncoder(NAMES, record_bytes_max=1_000)
    entries = [
        Entry(saga, 5, 1_700_000_000_000_000, "c", body)
        for body in (
            EventPublished(
                publication="publish/2", contract="toys.evt.booked.v1", payload='{"a":1}'
            ),
            SagaCompleted(outcome=None),
        )
    ]
    first, again = (
        outgoing.records(entries, definition="order", key="ö", traceparent="00-a-b-01")
        for _ in range(2)
    )
    (record,) = first

    assert first == again
    assert record.topic == NAMES.topic("toys.evt.booked.v1")
    assert (record.key, record.value) == ("ö".encode(), b'{"a":1}')
    assert header(record, "ce_id") == f"{saga}/event/publish/2"
    assert header(record, "ce_source") == "/test/toys/sagas/order"
    assert header(record, "ce_time") == "2023-11-14T22:13:20.000000Z"
    assert header(record, "traceparent") == "00-a-b-01"
