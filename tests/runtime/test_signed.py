"""Where keys are set, commands and replies are believed only with a signature."""

import asyncio
from dataclasses import replace

import pytest

from saga import SagaApp
from saga.contracts import CommandAct, IntentFailed
from saga.contracts import cloudevents as ce
from saga.contracts.signatures import SigningKeys
from saga.core.identity import Instant, saga_id
from saga.ports import Record
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.test_own_keys import Delivered, Paid, delivery, follower
from tests.runtime.toys import OrderPlaced, Reserve, Reserved, Ship, orders
from tests.scenarios.order_app import OrderPlaced as Placed
from tests.scenarios.order_app import app as order_app

KEYS = "k1 c2FnYSB0ZXN0IHNlY3JldCwgMzIgYnl0ZXMgbG9uZyE="
OTHERS = "k1 YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNhbWUgaWQ="


def signed(record: Record, keys: str = KEYS) -> Record:
    said = ce.read_headers(record.headers)
    headers = ce.Said(
        said.id or "", said.contract_name or "", "/s", Instant(0), causation_id=said.causation_id
    )
    signing = SigningKeys.read(keys)
    *_, signature = signing.signed(record.topic, record.key, record.value, headers)
    return replace(record, headers=(*record.headers, signature))


def reasons(scenario: Scenario) -> list[str]:
    return [letter.reason for letter in scenario.dead_letters()]


@pytest.fixture
async def scenario() -> Scenario:
    made = Scenario(orders(), signing_keys=KEYS)
    await made.take(made.event(OrderPlaced(order_id="o-1", amount=1), "o-1"))
    return made


@pytest.mark.parametrize(
    "model", [Reserved(shelf="s"), IntentFailed(outcome="failed")], ids=["reply", "failure"]
)
async def test_a_reply_is_believed_with_its_signature_only(scenario, model):
    reply = scenario.reply(scenario.on(Reserve)[0], model)
    await scenario.take(reply, signed(reply, OTHERS))
    assert reasons(scenario) == ["bad_signature"] * 2
    assert "a reply: it has no signature" in scenario.dead_letters()[0].message

    await scenario.take(signed(reply))
    assert "ReplyReceived" in scenario.bodies(order_id())
    assert len(scenario.dead_letters()) == 2


async def test_one_without_content_too(scenario):
    await scenario.take(signed(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))))
    done = scenario.reply(scenario.on(Ship)[0])
    await scenario.take(done)
    assert (scenario.status(order_id()), reasons(scenario)) == ("running", ["bad_signature"])

    await scenario.take(signed(done))
    assert scenario.status(order_id()) == "completed"


SAID = {
    CommandAct.MARK: {"step": "reserve", "state": "undone", "evidence": "seen"},
    CommandAct.RERUN: {"definition": "order", "new_key": "o-2"},
    CommandAct.FIRE_TIMER: {"timer": "t-1"},
    CommandAct.MOVE_TIMER: {"timer": "t-1", "due_at": 1},
    CommandAct.MIGRATE: {"definition": "order", "from_version": 1, "to_version": 2},
}


@pytest.mark.parametrize("act", CommandAct)
async def test_a_command_is_believed_with_its_signature_only(scenario, act):
    said = {"name": "n"} | SAID.get(act, {})
    command = scenario.command(order_id(), act, id="c-1", reason="r", **said)
    before = len(scenario.history(order_id()))
    await scenario.take(command, signed(command, OTHERS))
    assert reasons(scenario) == ["bad_signature"] * 2
    assert len(scenario.history(order_id())) == before

    await scenario.take(signed(command))
    assert len(scenario.history(order_id())) > before


async def test_a_signature_is_not_for_another_intent_or_saga(scenario):
    """Taken from one record and put on another."""
    await scenario.take(scenario.event(OrderPlaced(order_id="o-2", amount=1), "o-2"))
    first, second = (
        signed(scenario.reply(intent, Reserved(shelf="s"))) for intent in scenario.on(Reserve)
    )
    stolen = [header for header in first.headers if header[0] == ce.SIGNATURE]
    own = [header for header in second.headers if header[0] != ce.SIGNATURE]
    await scenario.take(replace(second, headers=(*own, *stolen)))

    assert reasons(scenario) == ["bad_signature"]


async def test_triggers_need_none(scenario):
    assert scenario.status(order_id()) == "running"


async def test_a_deferred_record_was_believed_when_it_came():
    """Its key may be gone by the time that its saga goes on."""
    scenario = Scenario(orders(), signing_keys=KEYS)
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=1), "o-1"))
    reply = signed(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    scenario.restart(orders(version=2))
    await scenario.take(reply)
    assert len(scenario.deferred()) == 1

    scenario._settings = scenario._settings.model_copy(update={"signing_keys": None})  # noqa: SLF001  # its key is gone
    scenario.restart(orders())
    await scenario.take(revisits=[order_id()])
    assert len(scenario.on(Ship)) == 1


async def test_without_keys_a_signature_is_not_looked_at():
    scenario = Scenario(orders())
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=1), "o-1"))
    reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))
    await scenario.take(replace(reply, headers=(*reply.headers, (ce.SIGNATURE, b"\xff"))))

    assert reasons(scenario) == []
    assert len(scenario.on(Ship)) == 1


async def test_an_event_that_only_names_an_intent_needs_none_to_start_its_saga():
    scenario = Scenario(delivery, follower("receipt", Paid), signing_keys=KEYS)
    await scenario.take(scenario.event(Delivered(delivery_id="d-1"), "d-1"))
    intent = f"{saga_id('delivery', 'd-1')}/pay/do/1"
    paid = scenario.record(
        "test.toys.own.evt.paid.v1",
        b"r-1",
        b'{"receipt":"r-1"}',
        ((ce.CAUSATION_ID, intent.encode()),),
    )
    await scenario.take(paid)

    assert scenario.status(saga_id("receipt", "r-1")) == "completed"
    assert scenario.status(saga_id("delivery", "d-1")) == "running"


@pytest.mark.parametrize("is_apart", [False, True], ids=["one file", "two files"])
async def test_a_whole_service_signs_and_believes(tmp_path, is_apart):
    """The SDK signs its replies, the service its commands; what a stranger says is set aside."""
    app: SagaApp = order_app()
    bus = tmp_path / ("bus.db" if is_apart else "saga.db")
    settings = {
        "bus": f"local:///{bus}",
        "store": f"sqlite:///{tmp_path / 'saga.db'}",
        "signing_keys": KEYS,
    }
    async with app.service(**settings) as service:
        saga = await service.publish(Placed(order_id="o-1"))
        async with asyncio.timeout(60):
            outcome = await service.outcome(saga)

        assert outcome.status.value == "completed"
        assert await service.catalogue.unhandled() == []
