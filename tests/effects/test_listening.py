"""Facts are heard once each, in order; a listener that fails is given another chance,
not for ever.
"""

import pytest

from saga.contracts import cloudevents as ce
from saga.contracts import encode
from saga.effects import EffectContext, Effects, Refused
from saga.ports import Record
from tests.effects.lab import ALICE, NAMES, Lab, OrderDone

TOPIC = NAMES.topic("lab.evt.order-done.v1")


def fact(owner: str, *, event_id: str | None = "e1", key: bytes | None = b"alice") -> Record:
    """An outcome event; without an id, as a plain publisher sends it."""
    headers = ()
    if event_id is not None:
        headers = ((ce.ID, event_id.encode()), (ce.SOURCE, b"/x"), (ce.SUBJECT, ALICE.encode()))
    return Record(TOPIC, key, encode(OrderDone(owner=owner)).encode(), headers)


@pytest.fixture
async def lab():
    """A service that listens; `lab.heard` is what it heard."""
    effects = Effects("mailer")
    heard: list[tuple[str, int]] = []

    @effects.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS mails (owner TEXT)")

    @effects.listens(OrderDone)
    async def done(event: OrderDone, ctx: EffectContext) -> None:
        heard.append((event.owner, ctx.attempt))
        assert ctx.saga_id in ("", ALICE)
        await ctx.db.execute("INSERT INTO mails VALUES (:owner)", owner=event.owner)
        if event.owner == "nobody":
            raise Refused("no address")
        if event.owner == "broken" or (event.owner == "shaky" and ctx.attempt < 3):
            raise OSError("no connection")

    async with Lab(effects) as lab:
        lab.heard = heard
        lab.mails = lambda: [one for (one,) in lab.disk.execute("SELECT owner FROM mails")]
        yield lab


async def test_a_fact_is_heard_once(lab: Lab) -> None:
    """Whatever is delivered how often; and nobody is answered."""
    await lab.send(fact("a"), fact("a"), fact("b", event_id="e2"))
    await lab.send(fact("a"))

    assert lab.heard == [("a", 1), ("b", 1)]
    assert lab.mails() == ["a", "b"]
    assert lab.replies() == []


async def test_facts_without_ids_are_known_by_their_place(lab: Lab) -> None:
    """Two plain records are two facts, one record read again is one."""
    await lab.send(fact("a", event_id=None), fact("a", event_id=None, key=None))
    await lab.crash()
    await lab.send(fact("b"))

    assert [owner for owner, _ in lab.heard] == ["a", "a", "b"]


async def test_a_listener_that_fails_is_called_again(lab: Lab) -> None:
    """What it wrote before it failed is rolled back each time; the next fact of the key waits."""
    await lab.send(fact("shaky"), fact("b", event_id="e2"))

    assert lab.heard == [("shaky", 1), ("shaky", 2), ("shaky", 3), ("b", 1)]
    assert lab.mails() == ["shaky", "b"]
    assert lab.dead_letters == []


async def test_a_listener_that_keeps_failing_has_its_fact_parked(lab: Lab) -> None:
    """With what it said; the others go on."""
    await lab.send(fact("broken"), fact("b", event_id="e2"))
    ((_, reason, message),) = lab.dead_letters

    assert reason == "listener_failed"
    assert "failed 5 times: OSError: no connection" in message
    assert lab.mails() == ["b"]


async def test_a_refusing_listener_has_heard(lab: Lab) -> None:
    """There is nobody to refuse to; it is not called again, and has written nothing."""
    await lab.send(fact("nobody"), fact("nobody"))

    assert lab.heard == [("nobody", 1)]
    assert lab.mails() == []
    assert lab.dead_letters == []


async def test_one_id_with_two_contents_is_parked(lab: Lab) -> None:
    """The first is heard."""
    await lab.send(fact("a"), fact("b"))

    assert [reason for _, reason, _ in lab.dead_letters] == ["id_conflict"]
    assert lab.mails() == ["a"]
