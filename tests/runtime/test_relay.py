"""Hop 7: what is stored leaves in order, with the same ids and bytes, and what was left
is found.
"""

import asyncio

import pytest

from saga.core.history import Entry
from saga.core.identity import saga_id
from saga.core.intents import EventPublished, SagaCompleted
from saga.errors import CorruptHistory
from saga.ports import Appended, Record
from saga.runtime.relay import TAKEOVER_S, RecordEncoder
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime.lab import NAMES, Lab, header, order_id, take
from tests.runtime.shop import OrderDone, Reserve, Reserved, Ship, orders
from tests.runtime.test_turns import placed, reserving, shipping


@pytest.fixture
def apart():
    """Orders, with bus and store apart."""
    lab = Lab(orders(), shares_file=False)
    yield lab
    lab.check()


async def stored_only(lab: Lab, *records: Record) -> asyncio.Task:
    """Turns that are stored, by a process that cannot publish and is killed."""
    lab.bus.is_away = True
    await lab.make_topics()
    lab.bus.append(records)
    turn = asyncio.ensure_future(take(lab.turns, InboundBatch(lab.unread())))
    before = lab.bus.attempts
    await lab.until(lambda: lab.bus.attempts > before)
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    lab.bus.is_away = False
    lab.restart()
    return turn


async def test_what_is_published_is_recorded_with_the_next_append(apart: Lab) -> None:
    """Publishing costs no transaction of its own."""
    lab = apart
    await reserving(lab)
    assert len(await lab.store.backlog(limit=9)) == 1
    assert lab.relay.relayed() == [1]

    await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")))

    assert lab.relay.relayed() == [2]
    assert lab.store.appends == 2


async def test_without_a_next_append_it_is_recorded_all_the_same(apart: Lab) -> None:
    """The sweep does it; once."""
    lab = apart
    await reserving(lab)
    await lab.relay.record()
    await lab.relay.record()

    assert lab.relay.relayed() == []
    assert await lab.store.backlog(limit=9) == []
    assert lab.store.appends == 2


async def test_a_store_that_publishes_itself_leaves_nothing_to_relay(order_lab: Lab) -> None:
    """There is no backlog, and nothing is published twice."""
    lab = order_lab
    await reserving(lab)
    attempts = lab.bus.attempts
    await lab.relay.publish(Appended(None), [lab.event(Reserve(order_id="x"), "x")])

    assert lab.bus.attempts == attempts
    assert await lab.relay.take_over(older_than_s=-1) == 0
    assert len(lab.on(Reserve)) == 1


async def test_what_a_dead_process_left_is_published_as_it_would_have_been(apart: Lab) -> None:
    """Rebuilt from entries: ids, headers and values are those that were never sent."""
    lab = apart
    await stored_only(lab, placed(lab, id="m-1"))
    assert await lab.relay.take_over(older_than_s=-1) == 1
    (taken_over,) = lab.on(Reserve)

    other = Lab(orders())
    await other.take(placed(other, id="m-1"))
    (direct,) = other.on(Reserve)

    assert (taken_over.key, taken_over.value, taken_over.headers) == (
        direct.key,
        direct.value,
        direct.headers,
    )
    assert lab.relay.relayed() == []


async def test_what_another_process_has_just_appended_is_left_to_it(apart: Lab) -> None:
    """For two seconds."""
    lab = apart
    await stored_only(lab, placed(lab))
    lab.clock.advance(TAKEOVER_S - 0.5)
    assert await lab.relay.take_over() == 0
    lab.clock.advance(1)

    assert await lab.relay.take_over() == 1
    assert await lab.relay.take_over() == 0
    assert len(lab.on(Reserve)) == 1


async def test_records_of_one_saga_do_not_overtake_what_another_process_left(apart: Lab) -> None:
    """Whoever goes on with its saga publishes first what it finds before its own."""
    lab = apart
    await reserving(lab)
    await stored_only(lab, lab.reply(lab.on(Reserve)[0], Reserved(shelf="s")))
    assert lab.on(Ship) == []

    await lab.take(lab.reply(f"{order_id()}/ship/do/1"))

    (ship,), (done,) = lab.on(Ship), lab.on(OrderDone)
    assert header(ship, "ce_id") == f"{order_id()}/ship/do/1"
    assert header(done, "ce_id") == f"{order_id()}/outcome"


async def test_a_corrupt_history_keeps_only_its_own_records_from_being_published(
    apart: Lab,
) -> None:
    """The others of its batch are."""
    lab = apart
    await stored_only(lab, placed(lab, "o-1"), placed(lab, "o-2"))
    load = lab.store.inner.load

    async def damaged(saga_ids):
        found = dict(await load(saga_ids))
        found[order_id("o-1")] = CorruptHistory(order_id("o-1"), 1, "no JSON")
        return found

    lab.store.load = damaged
    await lab.relay.take_over(older_than_s=-1)
    assert [one.key for one in lab.on(Reserve)] == [b"o-2"]

    del lab.store.load
    await shipping(lab, "o-3")
    lab.bus.append([Record(one.topic, one.key, one.value, one.headers) for one in _missing(lab)])


def _missing(lab: Lab) -> list[Record]:
    """What the corrupt saga would have said, so that the fixture's check is of everything else."""
    outgoing = RecordEncoder(NAMES, record_bytes_max=1_000_000)
    history = lab.history(order_id("o-1"))
    return outgoing.records(history, definition="order", key="o-1", traceparent=None)


def test_ids_and_bytes_are_functions_of_the_entry() -> None:
    """Published events and outcomes too; entries that concern only the saga say nothing."""
    saga = saga_id("order", "o-1")
    outgoing = RecordEncoder(NAMES, record_bytes_max=1_000)
    entries = [
        Entry(saga, 5, 1_700_000_000_000_000, "c", body)
        for body in (
            EventPublished(
                publication="publish/2", contract="kiosk.evt.booked.v1", payload='{"a":1}'
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
    assert record.topic == NAMES.topic("kiosk.evt.booked.v1")
    assert (record.key, record.value) == ("ö".encode(), b'{"a":1}')
    assert header(record, "ce_id") == f"{saga}/event/publish/2"
    assert header(record, "ce_source") == "/test/kiosk/sagas/order"
    assert header(record, "ce_time") == "2023-11-14T22:13:20.000000Z"
    assert header(record, "traceparent") == "00-a-b-01"
