"""Ids and keys have limits before anything caches or stores them, whichever way they come in."""

from dataclasses import replace

import pytest

from saga.contracts import cloudevents as ce
from saga.core.identity import parse_intent_id, saga_id
from saga.ports.bus import SET_ASIDE
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.toys import OrderPlaced, Reserve, Reserved, orders

PLACED = "test.toys.toys.evt.order-placed.v2"
RESERVED = "test.toys.toys.evt.reserved.v2"
JSON = b'{"amount":1,"order_id":"o-1"}'
LONG = 600_000
LIMIT = 1_000


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(orders())


def reasons(scenario: Scenario) -> list[str]:
    return [letter.reason for letter in scenario.dead_letters()]


@pytest.mark.parametrize("size", [LIMIT + 1, LONG])
async def test_a_record_with_a_long_key_is_set_aside(scenario, size):
    await scenario.take(scenario.record(PLACED, b"k" * size, JSON))

    assert reasons(scenario) == ["bad_key"]
    assert "1,000" in scenario.dead_letters()[0].message
    assert scenario.store.inner.summaries == {}


async def test_a_record_whose_payload_has_a_long_key_is_set_aside(scenario):
    payload = b'{"amount":1,"order_id":"%b"}' % (b"k" * (LIMIT + 1))

    await scenario.take(scenario.record(PLACED, b"k", payload))

    assert reasons(scenario) == ["bad_key"]


async def test_bytes_count_not_characters(scenario):
    key = "é" * 500
    await scenario.take(scenario.event(OrderPlaced(order_id=key, amount=1), key))
    assert scenario.status(order_id(key)) == "running"

    await scenario.take(scenario.record(PLACED, ("é" * 501).encode(), JSON))
    assert reasons(scenario) == ["bad_key"]


@pytest.mark.parametrize(
    "header", [ce.ID, ce.SOURCE, ce.CAUSATION_ID, ce.TYPE, ce.SUBJECT, ce.CORRELATION_ID]
)
@pytest.mark.parametrize("size", [LIMIT + 1, LONG])
async def test_a_record_with_a_long_header_is_set_aside(scenario, header, size):
    await scenario.take(scenario.record(PLACED, b"o-1", JSON, ((header, b"i" * size),)))

    assert reasons(scenario) == ["bad_header"]
    assert header in scenario.dead_letters()[0].message


async def test_a_long_trace_context_is_left_out(scenario):
    headers = ((ce.TRACEPARENT, b"t" * LONG),)

    await scenario.take(scenario.record(PLACED, b"o-1", JSON, headers))

    assert scenario.status(order_id()) == "running"
    assert len(scenario.history(order_id())[0].body.traceparent or "") <= LIMIT


async def test_what_stands_for_a_bomb_is_a_dead_letter_and_its_neighbours_go_on(scenario):
    """With the reason that its bus gave, and what is left of it."""
    stands = scenario.record(PLACED, None, b"the first bytes", ((SET_ASIDE, b"3 records at ..."),))
    await scenario.take(
        scenario.record(PLACED, b"o-1", JSON), replace(stands, headers=stands.headers[:1])
    )

    (letter,) = scenario.dead_letters()
    assert (letter.reason, letter.message) == ("inflates", "3 records at ...")
    assert letter.value == b"the first bytes"
    assert scenario.status(order_id()) == "running"


async def test_an_id_of_a_thousand_bytes_is_kept(scenario):
    headers = ((ce.ID, b"i" * LIMIT),)

    await scenario.take(scenario.record(PLACED, b"o-1", JSON, headers))

    assert scenario.history(order_id())[0].cause == "i" * LIMIT


async def test_long_ids_leave_nothing_in_the_caches(scenario):
    """300 of 600 KB left 700 MB."""
    before = parse_intent_id.cache_info().currsize, saga_id.cache_info().currsize
    records = []
    for number in range(20):
        long = b"%d/%b" % (number, b"s" * 100_000)
        envelope = b'{"specversion":"1.0","causationid":"%b","data":{"shelf":"s"}}' % long
        structured = ((ce.CONTENT_TYPE, b"application/cloudevents+json"),)
        records += [
            scenario.record(RESERVED, b"o-1", b'{"shelf":"s"}', ((ce.CAUSATION_ID, long),)),
            scenario.record(RESERVED, b"o-1", envelope, structured),
            scenario.record(PLACED, b"o-1", b'{"amount":1,"order_id":"%b"}' % long),
        ]

    await scenario.take(*records)

    assert set(reasons(scenario)) == {"bad_header", "bad_key"}
    assert (parse_intent_id.cache_info().currsize, saga_id.cache_info().currsize) == before


def test_large_messages_are_not_kept_for_the_next_reader(scenario):
    """A thousand of a megabyte are a gigabyte."""
    large = '{"order_id":"o","note":"%s"}' % ("x" * 100_000)

    scenario.app.contracts.keep("toys.int.reserve.v1", large, Reserve(order_id="o"))
    scenario.app.contracts.keep("toys.evt.reserved.v2", '{"shelf":"s"}', Reserved(shelf="s"))

    assert scenario.app.contracts.take("toys.int.reserve.v1", large) is None
    assert scenario.app.contracts.take("toys.evt.reserved.v2", '{"shelf":"s"}') is not None
