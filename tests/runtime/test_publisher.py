"""Publishing facts and commands: every published record can be read by its readers."""

import pytest

from saga import Event
from saga.authoring import saga
from saga.contracts import Command, CommandAct
from saga.core.identity import saga_id
from saga.errors import BusUnavailable, MalformedMessage, UnsupportedVersion
from saga.publishing.writer import EventWriter
from saga.runtime.publisher import Publisher
from saga.runtime.router import Rejected
from tests.records import header
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.test_router import inbound
from tests.runtime.toys import AlarmSet, OrderPlaced, OrderPlacedV1, Reserved, ledger, orders


def publisher_of(scenario: Scenario) -> Publisher:
    numbers = iter(range(1, 1_000))
    return Publisher(
        scenario.bus,
        EventWriter(
            NAMES,
            clock=scenario.clock,
            source="/test/publisher",
            contracts=scenario.app.contracts,
            sagas=scenario.app.registry,
            new_id=lambda: f"m-{next(numbers)}",
        ),
    )


async def test_what_is_published_starts_the_saga_whose_id_is_given_back(scenario):
    """Durable on its topic, under its key, with an id of its own."""
    await scenario.make_topics()
    publisher = publisher_of(scenario)
    written = await publisher.publish(OrderPlaced(order_id="o-1", amount=2))
    unit = await scenario.take()
    (record,) = scenario.on(OrderPlaced)

    assert written.saga_id == order_id()
    assert unit.counts["started"] == 1
    assert scenario.history(order_id())[0].cause == header(record, "ce_id") == "m-1"
    assert header(record, "ce_source") == "/test/publisher"


async def test_an_event_that_starts_several_sagas_gives_none():
    scenario = Scenario(orders(), ledger, contracts=[AlarmSet])
    await scenario.make_topics()
    publisher = publisher_of(scenario)

    assert (await publisher.publish(OrderPlaced(order_id="o-1", amount=2))).saga_id is None
    assert (await publisher.publish(AlarmSet(name="a"))).saga_id is None


async def test_an_old_event_is_published_as_it_is_and_read_as_the_new_one(scenario):
    """The id given back is that of the saga which it starts all the same."""
    written = publisher_of(scenario).writer.record(OrderPlacedV1(order_id="o-1"))

    assert written.record.topic == NAMES.topic("toys.evt.order-placed.v1")
    assert written.record.value == b'{"order_id":"o-1"}'
    assert written.saga_id == order_id()


def test_the_same_message_id_makes_the_same_record(scenario):
    """A repeat is then known as one."""
    publisher = publisher_of(scenario)
    first, again = (
        publisher.writer.record(OrderPlaced(order_id="o", amount=1), message_id="x")
        for _ in range(2)
    )

    assert first == again
    assert first.message_id == "x"


@pytest.mark.parametrize(
    ("value", "code", "says"),
    [
        (b'{"order_id": 7, "amount": 1}', "schema", "order_id"),
        (b'{"order_id": "o"}', "schema", "amount: is missing"),
        (b'{"order_id": "o", "amount": NaN}', "number_out_of_range", ""),
        (b'{"order_id": "\xff", "amount": 1}', "not_utf8", ""),
        (b"[" * 100_000, "too_deep", ""),
        (b'{"order_id": "", "amount": 1}', "no_key", "business key"),
        (b'{"order_id": "  ", "amount": 1}', "no_key", "business key"),
        (b'{"order_id": "%s", "amount": 1}' % (b"x" * 1_001), "no_key", "1,000"),
    ],
    ids=["type", "missing", "nan", "utf-8", "deep", "empty key", "blank key", "long key"],
)
def test_what_nobody_could_read_does_not_get_out(scenario, value, code, says):
    """With the reason that it would have as a dead letter."""
    with pytest.raises(MalformedMessage) as caught:
        publisher_of(scenario).writer.record_json("toys.evt.order-placed.v2", value)

    assert caught.value.code == code
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("contract", "kind"),
    [
        ("toys.evt.order-placed.v9", UnsupportedVersion),
        ("toys.evt.order-paced.v2", MalformedMessage),
    ],
)
def test_an_unknown_contract_is_refused_with_what_comes_near(scenario, contract, kind):
    with pytest.raises(kind, match=r"toys\.evt\.order-placed\.v2") as caught:
        publisher_of(scenario).writer.record_json(contract, b"{}")

    assert caught.value.code in {"unsupported_version", "unknown_contract"}


def test_a_key_must_be_the_payloads_own(scenario):
    """Where the event has one; an event without one takes any."""
    publisher = publisher_of(scenario)
    with pytest.raises(MalformedMessage) as caught:
        publisher.writer.record(OrderPlaced(order_id="o-1", amount=1), key="o-2")
    with pytest.raises(MalformedMessage) as missing:
        publisher.writer.record(Reserved(shelf="s"))

    assert (caught.value.code, missing.value.code) == ("wrong_key", "no_key")
    assert publisher.writer.record(Reserved(shelf="s"), key="any").record.key == b"any"


def test_the_key_may_be_that_of_the_saga_which_starts():
    """An event without a key of its own, and a saga that says where its key is."""

    class Called(Event, topic="toys.called", version=1):
        number: int

    @saga("call", version=1, starts_on=Called, key="number")
    async def call(ctx, called):
        await ctx.sleep("1s")

    scenario = Scenario(call)
    written = publisher_of(scenario).writer.record(Called(number=7))

    assert (written.record.key, written.saga_id) == (b"7", saga_id("call", "7"))


@pytest.mark.parametrize("published", ["o-1", "ö/ü 漢字", "x" * 1_000])
def test_what_is_written_can_be_routed(scenario, published):
    """The publisher lets nothing through that the router would park."""
    written = publisher_of(scenario).writer.record(OrderPlaced(order_id=published, amount=1))
    found = scenario.router.understand(inbound(written.record), scenario.clock.now())

    assert not isinstance(found, Rejected)
    assert [delivery.saga_id for delivery in found] == [written.saga_id] == [order_id(published)]


async def test_a_command_travels_under_its_sagas_key(scenario):
    """With its own id as the message's."""
    await scenario.make_topics()
    command = Command(command_id="c-1", act=CommandAct.RELEASE, saga_id=order_id())
    await publisher_of(scenario).command(command, key="o-1")
    (record,) = scenario.on("saga.ctl.command.v1")

    assert record.key == b"o-1"
    assert (header(record, "ce_id"), header(record, "ce_subject")) == ("c-1", order_id())


async def test_a_bus_that_is_away_says_so(scenario):
    """Nothing was published; the caller tries again."""
    await scenario.make_topics()
    scenario.bus.is_away = True
    with pytest.raises(BusUnavailable):
        await publisher_of(scenario).publish(OrderPlaced(order_id="o-1", amount=1))

    assert scenario.on(OrderPlaced) == []
