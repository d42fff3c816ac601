"""A row of the inbox that cannot be read harms those alone who ask for it."""

import json

import pytest

from saga.effects import EffectContext, Effects
from tests.effects.fixtures import Scenario, intent, undo, wallet_effects
from tests.effects.test_listening import fact
from tests.toys import OrderConfirmed, Pay, Refund

CHANGES = [
    "outcome = 'dancing'",
    "outcome = x'ff'",
    "attempt = 'first'",
    "attempt = -1",
    "payload = x'ff'",
    "code = x'31'",
    "message = x'00'",
    "contract = x'31'",
    "digest = 'text'",
    "handled_at = 'noon'",
    "handled_at = -3",
    "undone = 'no'",
    "undone = 5",
]


def damage(scenario: Scenario, change: str) -> None:
    touched = scenario.disk.execute(f"UPDATE saga_inbox SET {change} WHERE step LIKE 'bad%'")
    assert touched.rowcount == 1


@pytest.mark.parametrize("change", CHANGES)
async def test_its_request_fails_and_others_are_answered(change):
    """The handler is not called once more: nobody knows what it has done."""
    effects, calls = wallet_effects()
    async with Scenario(effects) as scenario:
        steps = ["good", "bad", "other"]
        requests = [intent(Pay(amount=1), step=step) for step in steps]
        await scenario.send(*requests)
        damage(scenario, change)
        before = len(scenario.answers())
        await scenario.send(*requests, intent(Pay(amount=2), step="new"))

        answers = scenario.answers()[before:]
        [failure] = [json.loads(value) for name, value in answers if "failed" in name]
        assert (failure["outcome"], failure["code"]) == ("failed", "inbox_damaged")
        assert "saga_inbox, row" in failure["message"]
        assert f"its {change.partition(' ')[0]} is" in failure["message"]
        assert len(answers) == 4
        assert len(calls) == 4


async def test_an_undo_of_it_fails_and_others_are_undone():
    effects, calls = wallet_effects()
    async with Scenario(effects) as scenario:
        for step in ("bad", "good"):
            await scenario.send(intent(Pay(amount=1), step=step))
        damage(scenario, "outcome = 'dancing'")
        before = len(scenario.answers())
        await scenario.send(*[undo(Refund(), step=step) for step in ("bad", "good")])

        names = [name for name, _ in scenario.answers()[before:]]
        assert sorted("failed" in name for name in names) == [False, True]
        assert len(calls) == 3


async def test_a_fact_of_it_is_a_dead_letter_and_others_are_heard():
    """Nobody repeats a fact."""
    effects, heard = Effects("mailer"), []

    @effects.listens(OrderConfirmed)
    async def done(event: OrderConfirmed, ctx: EffectContext) -> None:
        heard.append(event.order_id)

    async with Scenario(effects) as scenario:
        await scenario.send(fact("bad"))
        assert scenario.disk.execute("UPDATE saga_inbox SET outcome = 'dancing'").rowcount == 1
        await scenario.send(fact("bad"), fact("good", event_id="e2"))

        assert heard == ["bad", "good"]
        [(_, reason, message)] = scenario.dead_letters
        assert reason == "inbox_damaged"
        assert "its outcome is 'dancing'" in message
