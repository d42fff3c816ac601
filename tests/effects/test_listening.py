"""Facts are heard once each, in order; a listener that fails is called again a few times."""

import pytest

from saga.contracts import cloudevents as ce
from saga.contracts import encode
from saga.effects import EffectContext, Effects, Refused
from saga.ports import Record
from tests.effects.fixtures import NAMES, SAGA, Scenario
from tests.toys import OrderConfirmed

TOPIC = NAMES.topic("shop.evt.order-confirmed.v1")


def fact(order_id: str, *, event_id: str | None = "e1", key: bytes | None = b"o-1") -> Record:
    """An outcome event; without an id, as a plain publisher sends it."""
    headers = ()
    if event_id is not None:
        headers = ((ce.ID, event_id.encode()), (ce.SOURCE, b"/x"), (ce.SUBJECT, SAGA.encode()))
    return Record(TOPIC, key, encode(OrderConfirmed(order_id=order_id)).encode(), headers)


@pytest.fixture
async def scenario():
    """A service that listens; `scenario.heard` is what it heard."""
    effects = Effects("mailer")
    heard: list[tuple[str, int]] = []

    @effects.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS mails (order_id TEXT)")

    @effects.listens(OrderConfirmed)
    async def done(event: OrderConfirmed, ctx: EffectContext) -> None:
        heard.append((event.order_id, ctx.attempt))
        assert ctx.saga_id in ("", SAGA)
        await ctx.db.execute("INSERT INTO mails VALUES (:order_id)", order_id=event.order_id)
        if event.order_id == "nobody":
            raise Refused("no address")
        if event.order_id == "broken" or (event.order_id == "shaky" and ctx.attempt < 3):
            raise OSError("no connection")

    async with Scenario(effects) as scenario:
        scenario.heard = heard
        scenario.mails = lambda: [
            name for (name,) in scenario.disk.execute("SELECT order_id FROM mails")
        ]
        yield scenario


async def test_a_fact_is_heard_once(scenario):
    """However often it is delivered; and nobody is answered."""
    await scenario.send(fact("a"), fact("a"), fact("b", event_id="e2"))
    await scenario.send(fact("a"))

    assert scenario.heard == [("a", 1), ("b", 1)]
    assert scenario.mails() == ["a", "b"]
    assert scenario.replies() == []


async def test_facts_without_ids_are_known_by_their_place(scenario):
    """Two plain records are two facts, one record read again is one."""
    await scenario.send(fact("a", event_id=None), fact("a", event_id=None, key=None))
    await scenario.crash()
    await scenario.send(fact("b"))

    assert [order_id for order_id, _ in scenario.heard] == ["a", "a", "b"]


async def test_a_listener_that_fails_is_called_again(scenario):
    """Its writes are rolled back each time; the next fact of the key waits."""
    await scenario.send(fact("shaky"), fact("b", event_id="e2"))

    assert scenario.heard == [("shaky", 1), ("shaky", 2), ("shaky", 3), ("b", 1)]
    assert scenario.mails() == ["shaky", "b"]
    assert scenario.dead_letters == []


async def test_a_fact_whose_listener_keeps_failing_is_a_dead_letter(scenario):
    """With its error; the others go on."""
    await scenario.send(fact("broken"), fact("b", event_id="e2"))
    ((_, reason, message),) = scenario.dead_letters

    assert reason == "listener_failed"
    assert "failed 5 times: OSError: no connection" in message
    assert scenario.mails() == ["b"]


async def test_a_refusing_listener_has_heard(scenario):
    """A fact has no sender to answer; the listener is not called again, and has written nothing."""
    await scenario.send(fact("nobody"), fact("nobody"))

    assert scenario.heard == [("nobody", 1)]
    assert scenario.mails() == []
    assert scenario.dead_letters == []


async def test_one_id_with_two_contents_is_a_dead_letter(scenario):
    await scenario.send(fact("a"), fact("b"))

    assert [reason for _, reason, _ in scenario.dead_letters] == ["id_conflict"]
    assert scenario.mails() == ["a"]
