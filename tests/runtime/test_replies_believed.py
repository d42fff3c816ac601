"""A reply is believed only after its intent was stored: who guesses an id answers nothing."""

import pytest

from saga.contracts import CommandAct, IntentFailed
from saga.core.identity import saga_id
from saga.ports.store import DeferralReason
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.toys import OrderPlaced, Reserve, Reserved, Ship, orders

FORGED = f"{order_id()}/reserve/do/1"


def placed(scenario: Scenario):
    return scenario.event(OrderPlaced(order_id="o-1", amount=1), "o-1")


def reasons(scenario: Scenario) -> list[str]:
    return [letter.reason for letter in scenario.dead_letters()]


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(orders())


@pytest.mark.parametrize("model", [Reserved(shelf="forged"), IntentFailed(outcome="refused")])
async def test_a_reply_before_the_order_is_not_kept(scenario, model):
    forged = scenario.reply(FORGED, model)
    await scenario.take(forged)
    await scenario.take(placed(scenario))
    scenario.clock.advance(60)
    await scenario.take()

    assert scenario.deferred() == []
    assert scenario.status(order_id()) == "running"
    assert "ReplyReceived" not in scenario.bodies(order_id())


async def test_a_reply_in_the_batch_of_the_order_is_not_believed(scenario):
    await scenario.take(placed(scenario), scenario.reply(FORGED, Reserved(shelf="forged")))

    assert reasons(scenario) == ["unknown_intent"]
    assert "ReplyReceived" not in scenario.bodies(order_id())
    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="true")))
    assert scenario.status(order_id()) == "running"
    assert len(scenario.on(Ship)) == 1


async def test_nor_one_to_the_step_after_that_comes_with_the_reply_before_it(scenario):
    await scenario.take(placed(scenario))
    reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))
    await scenario.take(reply, scenario.reply(f"{order_id()}/ship/do/1"))

    assert reasons(scenario) == ["unknown_intent"]
    assert scenario.status(order_id()) == "running"


async def test_nor_one_to_an_attempt_or_an_undo_that_is_not_there(scenario):
    await scenario.take(placed(scenario))
    for name in ("reserve/do/2", "reserve/do/0", "reserve/undo/1", "ship/do/1"):
        await scenario.take(scenario.reply(f"{order_id()}/{name}", Reserved(shelf="s")))

    assert set(reasons(scenario)) == {"unknown_intent"}
    assert len(scenario.history(order_id())) == 2


async def test_a_parked_saga_keeps_no_reply_to_what_it_has_not_asked():
    """It would be believed when the saga is released."""
    broken = [True]

    def flaw(place: str, _: str) -> None:
        if broken and place == "start":
            raise LookupError("a bug")

    scenario = Scenario(orders(flaw=flaw))
    await scenario.take(placed(scenario))
    await scenario.take(scenario.reply(FORGED, Reserved(shelf="forged")))
    assert reasons(scenario) == ["unknown_intent"]

    broken.clear()
    await scenario.take(scenario.release(order_id()))
    await scenario.take(revisits=[order_id()])
    assert len(scenario.on(Reserve)) == 1
    assert "ReplyReceived" not in scenario.bodies(order_id())


async def test_nor_does_a_stalled_one():
    scenario = Scenario(orders())
    await scenario.take(placed(scenario))
    scenario.restart(orders(version=2))
    true = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))
    await scenario.take(scenario.reply(f"{order_id()}/ship/do/1"), true)

    assert reasons(scenario) == ["unknown_intent"]
    assert [each.reason for each in scenario.deferred()] == [DeferralReason.STALLED]
    scenario.restart(orders())
    await scenario.take(revisits=[order_id()])
    assert len(scenario.on(Ship)) == 1


async def test_a_saga_that_another_worker_took_further_is_asked_for(scenario):
    """Memory alone does not say what was issued."""
    await scenario.take(placed(scenario))
    behind = scenario.turns, scenario.cache, scenario.router
    scenario.restart()
    await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
    scenario.turns, scenario.cache, scenario.router = behind
    await scenario.take(scenario.reply(scenario.on(Ship)[0]))

    assert reasons(scenario) == []
    assert scenario.status(order_id()) == "completed"


@pytest.mark.parametrize("act", [CommandAct.SIGNAL, CommandAct.CANCEL, CommandAct.ABANDON])
async def test_a_command_under_a_foreign_key_is_refused(scenario, act):
    """Else rights on one partition were rights on all sagas."""
    await scenario.take(placed(scenario))
    command = scenario.command(order_id(), act, id="c-1", key="o-2", reason="r", name="n")
    await scenario.take(command)

    assert reasons(scenario) == ["wrong_key"]
    assert "a command to a saga of key 'o-1'" in scenario.dead_letters()[0].message
    assert len(scenario.history(order_id())) == 2


async def test_a_reply_to_a_saga_that_is_not_there_is_let_go(scenario):
    unknown = f"{saga_id('order', 'o-9')}/reserve/do/1"
    await scenario.take(scenario.reply(unknown, Reserved(shelf="s"), key="o-9"))

    assert (scenario.dead_letters(), scenario.deferred()) == ([], [])
