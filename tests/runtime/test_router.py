"""Hops 2 and 3: what a record says, and which sagas it concerns; or why none."""

import json
from dataclasses import replace

import pytest

from saga import Event
from saga.adapters.clocks import ManualClock
from saga.app import SagaApp
from saga.authoring import saga
from saga.contracts import CommandAct, IntentFailed, TopicNames
from saga.core.events import (
    Act,
    CancelMode,
    CancelRequested,
    OperatorActed,
    ReplyOutcome,
    ReplyReceived,
    SagaStarted,
    SignalReceived,
)
from saga.core.identity import saga_id
from saga.ports import Inbound, Record
from saga.runtime.router import Rejected, Router
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.toys import (
    AlarmSet,
    OrderPlaced,
    OrderPlacedV1,
    Reserved,
    ReservedV1,
    ledger,
    orders,
)

PLACED = NAMES.topic("toys.evt.order-placed.v2")
PLACED_V1 = NAMES.topic("toys.evt.order-placed.v1")
RESERVED = NAMES.topic("toys.evt.reserved.v2")
DONE = NAMES.topic("toys.evt.intent-done.v1")
FAILED = NAMES.topic("toys.evt.intent-failed.v1")
COMMAND = NAMES.topic("saga.ctl.command.v1")
RESERVE_ID = f"{order_id()}/Reserve/do/1"
NOW = ManualClock().now()

UNFIT = [
    (PLACED, b"o-1", None, (), "null_value"),
    (PLACED, b"o-1", b"", (), "not_json"),
    (PLACED, b"o-1", b"{", (), "not_json"),
    (PLACED, b"o-1", b"\xff{}", (), "not_utf8"),
    (PLACED, b"o-1", b'{"order_id": "o-1", "amount": NaN}', (), "number_out_of_range"),
    (PLACED, b"o-1", b"[" * 100_000, (), "too_deep"),
    (PLACED, b"o-1", b"[1]", (), "not_an_object"),
    (PLACED, b"o-1", b'{"order_id": "o-1", "order_id": "o-2"}', (), "duplicate_key"),
    (PLACED, b"o-1", b'{"order_id": "o-1", "amount": 1e999}', (), "number_out_of_range"),
    (PLACED, b"o-1", b'{"order_id": "\\ud800", "amount": 1}', (), "lone_surrogate"),
    (PLACED, b"o-1", b'{"order_id": "o-1"}', (), "schema"),
    (PLACED, b"o-1", b'{"order_id": 1, "amount": 1}', (), "schema"),
    (PLACED, None, b'{"order_id": "o-1", "amount": 1}', (), "no_key"),
    (PLACED, b"", b'{"order_id": "o-1", "amount": 1}', (), "no_key"),
    (PLACED, b"o-2", b'{"order_id": "o-1", "amount": 1}', (), "wrong_key"),
    (PLACED, b"\xff", b'{"order_id": "o-1", "amount": 1}', (), "wrong_key"),
    (DONE, b"o-1", b"{}", (), "no_causation"),
    (DONE, b"o-1", b"{}", (("ce_causationid", b"m-1"),), "no_causation"),
    (RESERVED, b"o-1", b'{"shelf": "s"}', (("ce_causationid", None),), "bad_header"),
    (DONE, b"o-1", b"{}", (("ce_causationid", b"\xff\xfe"),), "bad_header"),
    (FAILED, b"o-1", b'{"outcome": "done"}', (("ce_causationid", b"x"),), "schema"),
    (NAMES.topic("toys.evt.nobody.v1"), b"o-1", b"{}", (), "unknown_contract"),
    (NAMES.topic("toys.evt.order-placed.v3"), b"o-1", b"{}", (), "unknown_contract"),
    ("another.namespace.toys.evt.reserved.v2", b"o-1", b"{}", (), "unknown_contract"),
    ("", b"o-1", b"{}", (), "unknown_contract"),
    (COMMAND, b"o-1", b'{"command_id": "c", "act": "dance", "saga_id": "x"}', (), "schema"),
    (
        COMMAND,
        b"o-1",
        b'{"command_id": "c", "act": "release", "saga_id": "order/o-1"}',
        (),
        "unknown_saga",
    ),
    (
        COMMAND,
        b"o-1",
        b'{"command_id": "c", "act": "signal", "saga_id": "%s"}' % order_id().encode(),
        (),
        "schema",
    ),
]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario(orders(), ledger)


def inbound(record: Record, offset: int = 7) -> Inbound:
    return Inbound(record.topic, 0, offset, record.key, record.value, record.headers, NOW)


def raw(topic: str, key: bytes | None, value: bytes | None, headers=()) -> Inbound:
    return inbound(Record(topic, key, value, headers))


@pytest.mark.parametrize(
    "case", UNFIT, ids=[f"{number}-{case[-1]}" for number, case in enumerate(UNFIT)]
)
def test_what_concerns_no_saga_has_a_stable_reason(scenario, case):
    """And a sentence, and the record itself, untouched."""
    *received, reason = case
    record = raw(*received)
    found = scenario.router.understand(record, NOW, deferred_id=3)

    assert isinstance(found, Rejected)
    assert found.reason == reason
    assert found.message
    assert found.inbound is record
    assert found.deferred_id == 3


def test_a_problem_of_the_schema_names_the_field(scenario):
    """So that the sender knows what to mend."""
    found = scenario.router.understand(
        raw(PLACED, b"o-1", b'{"order_id":"o-1","amount":"two"}'), NOW
    )

    assert isinstance(found, Rejected)
    assert found.message.startswith("amount: expected a valid integer")


def test_a_plain_json_record_starts_every_saga_of_its_event(scenario):
    """Key and value are enough; the position is the message's id then."""
    deliveries = scenario.router.understand(
        raw(PLACED, b"o-1", b'{"amount": 2, "order_id": "o-1"}'), NOW
    )

    assert [delivery.saga_id for delivery in deliveries] == [order_id(), saga_id("ledger", "o-1")]
    for delivery in deliveries:
        assert delivery.event.cause == f"{PLACED}/0/7"
        assert isinstance(delivery.event.fact, SagaStarted)
        assert delivery.event.fact.key == "o-1"
        assert delivery.event.fact.trigger.payload == '{"amount":2,"order_id":"o-1"}'
        assert delivery.starts is not None


def test_the_same_trigger_gives_the_same_visit_wherever_it_stands(scenario):
    """Given an id, position and time do not matter to who is concerned and what caused it."""
    record = scenario.event(OrderPlaced(order_id="o-1", amount=2), "o-1", id="m-1")
    (first, _), (again, _) = (
        scenario.router.understand(inbound(record, offset), NOW) for offset in (1, 99)
    )

    assert (first.saga_id, first.event) == (again.saga_id, again.event)
    assert first.event.cause == "m-1"


def test_an_id_that_is_none_is_replaced_by_the_position(scenario):
    """Empty ids would make different messages the same."""
    deliveries = scenario.router.understand(
        raw(PLACED, b"o-1", b'{"order_id":"o-1","amount":1}', (("ce_id", b""),)), NOW
    )

    assert deliveries[0].event.cause == f"{PLACED}/0/7"


@pytest.mark.parametrize("value", [None, b"\xff"])
@pytest.mark.parametrize("name", ["ce_id", "ce_causationid", "content-type"])
def test_a_header_that_cannot_be_read_makes_its_record_a_dead_letter(scenario, name, value):
    """Without its id a repeat would not be known; headers of others are not ours."""
    content = b'{"order_id":"o-1","amount":1}'
    rejected = scenario.router.understand(raw(PLACED, b"o-1", content, ((name, value),)), NOW)
    deliveries = scenario.router.understand(raw(PLACED, b"o-1", content, (("x-mine", value),)), NOW)

    assert isinstance(rejected, Rejected)
    assert (rejected.reason, name in rejected.message) == ("bad_header", True)
    assert len(deliveries) == 2


def test_an_old_trigger_is_upcast(scenario):
    """On the topic of its own version, to the one that the saga starts on."""
    record = scenario.event(OrderPlacedV1(order_id="o-1"), "o-1")
    deliveries = scenario.router.understand(inbound(record), NOW)

    assert record.topic == PLACED_V1
    assert deliveries[0].event.fact.trigger.contract == "toys.evt.order-placed.v2"
    assert deliveries[0].event.fact.trigger.payload == '{"amount":1,"order_id":"o-1"}'


def test_an_old_reply_is_upcast(scenario):
    """A service that was not deployed yet goes on being understood."""
    old = scenario.reply(RESERVE_ID, ReservedV1(place="p"))
    new = scenario.reply(RESERVE_ID, Reserved(shelf="p"))
    (first,), (second,) = (scenario.router.understand(inbound(value), NOW) for value in (old, new))

    assert old.topic != new.topic
    assert first.event.fact == second.event.fact
    assert first.event.fact.reply.payload == '{"shelf":"p"}'


def test_replies_name_their_intent(scenario):
    """The causation id is all that an answer needs."""
    least = ((ce_causation := "ce_causationid"), RESERVE_ID.encode())
    for topic, value, outcome in (
        (RESERVED, b'{"shelf": "s"}', ReplyOutcome.DONE),
        (DONE, b"{}", ReplyOutcome.DONE),
        (FAILED, b'{"outcome": "refused", "code": "full"}', ReplyOutcome.REFUSED),
        (FAILED, b'{"outcome": "failed"}', ReplyOutcome.FAILED),
    ):
        (delivery,) = scenario.router.understand(raw(topic, b"o-1", value, (least,)), NOW)
        fact = delivery.event.fact

        assert delivery.saga_id == order_id(), ce_causation
        assert isinstance(fact, ReplyReceived)
        assert (fact.intent_id, fact.outcome) == (RESERVE_ID, outcome)
        assert delivery.starts is None
        assert (fact.reply is None) is (topic != RESERVED)


def test_what_a_failure_says_is_kept(scenario):
    """Code and message end in the history."""
    said = IntentFailed(outcome="refused", code="full", message="no shelf")
    (delivery,) = scenario.router.understand(inbound(scenario.reply(RESERVE_ID, said)), NOW)

    assert (delivery.event.fact.code, delivery.event.fact.message) == ("full", "no shelf")


def test_a_structured_cloudevent_is_taken_apart(scenario):
    """The envelope's attributes and data count as the headers and value of a binary one."""
    envelope = {
        "specversion": "1.0",
        "id": "m-9",
        "source": "/there",
        "type": "toys.evt.order-placed.v2",
        "data": {"order_id": "o-1", "amount": 2},
    }
    headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    deliveries = scenario.router.understand(
        raw(PLACED, b"o-1", json.dumps(envelope).encode(), headers), NOW
    )

    assert deliveries[0].event.cause == "m-9"
    assert deliveries[0].event.fact.trigger.payload == '{"amount":2,"order_id":"o-1"}'


def test_a_structured_reply_names_its_intent(scenario):
    """Extension attributes are read from the envelope too."""
    envelope = {"specversion": "1.0", "causationid": RESERVE_ID, "data": {"shelf": "s"}}
    headers = (("content-type", b"application/cloudevents+json"),)
    (delivery,) = scenario.router.understand(
        raw(RESERVED, b"o-1", json.dumps(envelope).encode(), headers), NOW
    )

    assert delivery.event.fact.intent_id == RESERVE_ID


def test_a_traceparent_goes_along_unless_it_is_endless(scenario):
    """It is stored with the saga and sent with every record of it."""
    value = b'{"order_id":"o-1","amount":1}'
    for text, kept in ((b"00-abc-def-01", "00-abc-def-01"), (b"x" * 101, None)):
        deliveries = scenario.router.understand(
            raw(PLACED, b"o-1", value, (("traceparent", text),)), NOW
        )
        assert deliveries[0].event.fact.traceparent == kept


@pytest.mark.parametrize(
    ("act", "said", "fact"),
    [
        (
            CommandAct.SIGNAL,
            {"name": "stamp", "payload": {"b": 1, "a": 2.5}, "actor": "ann"},
            SignalReceived(name="stamp", payload='{"a":2.5,"b":1}', actor="ann"),
        ),
        (
            CommandAct.CANCEL,
            {"reason": "sold out"},
            CancelRequested(mode=CancelMode.GRACEFUL, reason="sold out"),
        ),
        (
            CommandAct.CANCEL,
            {"reason": "fire", "mode": CancelMode.IMMEDIATE},
            CancelRequested(mode=CancelMode.IMMEDIATE, reason="fire"),
        ),
        (
            CommandAct.ABANDON,
            {"reason": "lost", "actor": "bob"},
            CancelRequested(mode=CancelMode.ABANDON, reason="lost", actor="bob"),
        ),
        (
            CommandAct.RETRY,
            {"reason": "again", "step": "Ship"},
            OperatorActed(act=Act.RETRY, reason="again", step="Ship"),
        ),
        (CommandAct.SKIP, {"reason": "x"}, OperatorActed(act=Act.SKIP, reason="x")),
        (CommandAct.COMPENSATE, {"reason": "x"}, OperatorActed(act=Act.COMPENSATE, reason="x")),
        (CommandAct.RELEASE, {}, OperatorActed(act=Act.RELEASE, reason="")),
    ],
)
def test_commands_become_facts_of_their_saga(scenario, act, said, fact):
    """Caused by the command's own id; acts and cancels reach also a saga that stands still."""
    record = scenario.command(order_id(), act, id="c-1", **said)
    (delivery,) = scenario.router.understand(inbound(record), NOW)

    assert (delivery.saga_id, delivery.event.fact, delivery.event.cause) == (
        order_id(),
        fact,
        "c-1",
    )
    assert delivery.is_operator is (act is not CommandAct.SIGNAL)


def test_a_reply_may_start_a_saga_too():
    """An event that is answer and trigger concerns the saga that asked and the one it starts."""

    @saga("shelving", version=1, starts_on=Reserved, key="shelf")
    async def shelving(ctx, reserved):
        await ctx.sleep("1s")

    scenario = Scenario(orders(), shelving)
    record = scenario.reply(RESERVE_ID, Reserved(shelf="s-1"), key="o-1")
    answer, start = scenario.router.understand(inbound(record), NOW)

    assert answer.saga_id == order_id()
    assert answer.starts is None
    assert start.saga_id == saga_id("shelving", "s-1")
    assert start.starts is not None


def test_a_key_function_that_raises_parks_the_record():
    """It is user code: it stops this record, not the service."""

    class Odd(Event, topic="toys.odd", version=1, key="name"):
        name: str

    @saga("odd", version=1, starts_on=Odd, key=lambda odd: odd.name.split(",")[1])
    async def odd(ctx, trigger):
        await ctx.sleep("1s")

    router = Router(SagaApp(sagas=[odd]).registry, SagaApp(sagas=[odd]).contracts, NAMES)
    topic = NAMES.topic("toys.evt.odd.v1")
    found = router.understand(raw(topic, b"a", b'{"name":"a"}'), NOW)

    assert isinstance(found, Rejected)
    assert (found.reason, "odd: IndexError" in found.message) == ("wrong_key", True)
    assert router.understand(raw(topic, b"a,b", b'{"name":"a,b"}'), NOW)[0].event.fact.key == "b"


def test_topics_are_those_that_anything_listens_to(scenario):
    """Triggers and replies in all versions that are read, the engine's replies, commands."""
    assert scenario.router.topics == tuple(
        sorted(
            NAMES.topic(name)
            for name in (
                "toys.evt.order-placed.v1",
                "toys.evt.order-placed.v2",
                "toys.evt.reserved.v1",
                "toys.evt.reserved.v2",
                "toys.evt.intent-done.v1",
                "toys.evt.intent-failed.v1",
                "toys.evt.intent-progress.v1",
                "saga.ctl.command.v1",
            )
        )
    )


def test_another_environment_is_another_world(scenario):
    """The same contract in another namespace is not read."""
    other = Router(scenario.app.registry, scenario.app.contracts, TopicNames("prod", "toys"))
    record = inbound(scenario.event(OrderPlaced(order_id="o-1", amount=1), "o-1"))

    assert isinstance(other.understand(record, NOW), Rejected)
    moved = replace(record, topic=record.topic.replace("test.", "prod."))
    assert len(other.understand(moved, NOW)) == 2


def test_an_event_that_no_saga_here_knows_is_not_listened_to(scenario):
    """Other applications' events on the same bus cost nothing."""
    record = inbound(scenario.event(AlarmSet(name="a"), "a"))

    assert record.topic not in scenario.router.topics
    assert isinstance(scenario.router.understand(record, NOW), Rejected)
