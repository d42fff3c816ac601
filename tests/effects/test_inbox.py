"""Intents are handled once and answered always, however often and in whichever order they come."""

import json
from dataclasses import replace

import pytest

from saga.contracts import cloudevents as ce
from tests.effects.fixtures import SAGA, TRACEPARENT, Scenario, intent, undo, wallet_effects
from tests.records import header
from tests.toys import Pay, Refund

DONE = ("shop.evt.paid.v1", '{"receipt":"r-o-1-1"}')
UNDONE = ("shop.evt.intent-done.v1", "{}")
BEFORE = ("refused", "undone_before")


@pytest.fixture
async def scenario():
    """The wallet service at work; `scenario.calls` are the calls of its handlers."""
    effects, calls = wallet_effects()
    async with Scenario(effects) as scenario:
        scenario.calls = calls
        yield scenario


def failures(scenario: Scenario) -> list[tuple[str, str]]:
    """Outcome and code of the answers that are failures."""
    values = [value for name, value in scenario.answers() if "intent-failed" in name]
    return [(failure["outcome"], failure["code"]) for failure in map(json.loads, values)]


async def test_an_intent_is_answered_on_the_topic_of_its_reply(scenario):
    """Key, ids, saga and trace are what the orchestrator needs to match it."""
    await scenario.send(intent(Pay()))
    (reply,) = scenario.replies()

    assert reply.topic == "test.toys.shop.evt.paid.v1"
    assert reply.key == b"o-1"
    assert reply.value == b'{"receipt":"r-o-1-1"}'
    assert header(reply, ce.ID) == f"{SAGA}/pay/do/1/reply"
    assert header(reply, ce.CAUSATION_ID) == f"{SAGA}/pay/do/1"
    assert header(reply, ce.SUBJECT) == header(reply, ce.CORRELATION_ID) == SAGA
    assert header(reply, ce.TRACEPARENT) == TRACEPARENT
    assert header(reply, ce.SOURCE) == "/test/toys/effects/wallets"
    assert header(reply, ce.TIME) == "2023-11-14T22:13:20.000000Z"
    assert scenario.ledger() == [("o-1", 3)]


async def test_an_intent_without_a_reply_is_answered_intent_done(scenario):
    """`Intent[None]` has no reply of its own."""
    await scenario.send(intent(Pay()), undo(Refund()))

    assert scenario.answers() == [DONE, UNDONE]


async def test_a_redelivered_intent_gets_the_same_answer_byte_for_byte(scenario):
    """Time included; the handler is not called again."""
    await scenario.send(intent(Pay()))
    scenario.clock.advance(60)
    await scenario.send(intent(Pay()))
    first, second = scenario.replies()

    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)
    assert len(scenario.calls) == 1


async def test_copies_in_one_batch_are_handled_once(scenario):
    await scenario.send(*[intent(Pay())] * 5)

    assert scenario.answers() == [DONE] * 5
    assert scenario.ledger() == [("o-1", 3)]


async def test_a_later_attempt_at_a_done_step_gets_the_kept_answer(scenario):
    await scenario.send(intent(Pay()), intent(Pay(), attempt=2))

    assert scenario.answers() == [DONE, DONE]
    assert [header(reply, ce.CAUSATION_ID)[-4:] for reply in scenario.replies()] == ["do/1", "do/2"]
    assert len(scenario.calls) == 1


async def test_a_later_attempt_at_a_refused_step_is_refused_again(scenario):
    await scenario.send(intent(Pay(amount=501)), intent(Pay(amount=501), attempt=2))

    assert failures(scenario) == [("refused", "limit")] * 2
    assert len(scenario.calls) == 1


async def test_a_later_attempt_at_a_failed_step_runs_again(scenario):
    await scenario.send(intent(Pay(amount=-1)), intent(Pay(amount=-1), attempt=2))

    assert failures(scenario) == [("failed", "ValueError")] * 2
    assert [call[-4:] for call in scenario.calls] == ["do/1", "do/2"]


async def test_an_earlier_attempt_that_comes_late_is_not_answered(scenario):
    """Its own answer went out before the later attempt was taken up."""
    await scenario.send(intent(Pay(amount=-1)), intent(Pay(amount=-1), attempt=2))
    await scenario.send(intent(Pay(amount=-1)))

    assert len(scenario.calls) == len(scenario.replies()) == 2


async def test_writes_of_a_failed_attempt_are_rolled_back(scenario):
    """The failure itself is recorded and answered, with its message."""
    await scenario.send(intent(Pay(amount=-1)))

    assert scenario.ledger() == []
    assert scenario.answers() == [
        (
            "shop.evt.intent-failed.v1",
            '{"code":"ValueError","message":"negative amount","outcome":"failed"}',
        )
    ]


async def test_writes_before_a_refusal_are_rolled_back(scenario):
    """A `No, and nothing happened` is made true."""
    await scenario.send(intent(Pay(amount=501)))

    assert scenario.ledger() == []
    assert failures(scenario) == [("refused", "limit")]


async def test_neighbours_of_a_failed_attempt_keep_their_writes(scenario):
    """They share a commit, and nothing else."""
    amounts = [1, -1, 2, 501, 3]
    await scenario.send(*[intent(Pay(amount=n), step=f"s{i}") for i, n in enumerate(amounts)])

    assert [amount for _, amount in scenario.ledger()] == [1, 2, 3]
    assert sorted(failures(scenario)) == [("failed", "ValueError"), ("refused", "limit")]


async def test_one_key_with_two_payloads_is_a_conflict(scenario):
    """The first stands; the second fails without being handled."""
    await scenario.send(intent(Pay(amount=10)), intent(Pay(amount=11), attempt=2))
    await scenario.send(intent(Pay(amount=11)))

    assert failures(scenario) == [("failed", "id_conflict")] * 2
    assert scenario.ledger() == [("o-1", 10)]


async def test_the_same_payload_written_otherwise_is_no_conflict(scenario):
    """Blanks and order mean nothing in JSON."""
    record = intent(Pay(), attempt=2)
    spaced = replace(record, value=b'{ "order_id": "o-1", "amount": 3 }')
    await scenario.send(intent(Pay()), spaced)

    assert scenario.answers() == [DONE, DONE]


async def test_an_undo_of_what_never_came_is_done_without_its_handler(scenario):
    await scenario.send(undo(Refund()))

    assert scenario.answers() == [UNDONE]
    assert scenario.calls == []


async def test_a_do_that_comes_after_its_undo_is_refused(scenario):
    """Otherwise its effect would stand for ever: it is not undone again."""
    await scenario.send(undo(Refund()))
    await scenario.send(intent(Pay()), intent(Pay(), attempt=2), undo(Refund(), attempt=2))

    assert failures(scenario) == [BEFORE, BEFORE]
    assert scenario.answers().count(UNDONE) == 2
    assert scenario.ledger() == []
    assert scenario.calls == []


async def test_an_undo_of_a_refused_step_is_done_without_its_handler(scenario):
    await scenario.send(intent(Pay(amount=501)), undo(Refund()))

    assert UNDONE in scenario.answers()
    assert [call[-4:] for call in scenario.calls] == ["do/1"]


async def test_an_undo_of_a_failed_step_is_handled(scenario):
    """A failed attempt may have had its effect."""
    await scenario.send(intent(Pay(amount=-1)), undo(Refund()))

    assert [call.rpartition("/")[0][-5:] for call in scenario.calls] == ["ay/do", "/undo"]


async def test_a_failed_step_that_was_undone_has_no_later_attempt(scenario):
    """A retry that comes after the undo is refused; the failed attempt's own answer stays."""
    await scenario.send(intent(Pay(amount=-1)), undo(Refund()))
    calls = len(scenario.calls)
    await scenario.send(intent(Pay(amount=-1), attempt=2), intent(Pay(amount=-1)))

    assert len(scenario.calls) == calls
    assert failures(scenario) == [("failed", "ValueError"), BEFORE, ("failed", "ValueError")]


async def test_an_undo_of_another_services_step_is_always_handled(scenario):
    """The inbox judges only steps that it knows."""
    await scenario.send(undo(Refund(), undoes=None))

    assert len(scenario.calls) == 1


async def test_a_repeated_undo_is_answered_from_the_inbox(scenario):
    await scenario.send(intent(Pay()), undo(Refund()), undo(Refund()))

    assert scenario.ledger() == [("o-1", 3), ("o-1", -3)]
    assert scenario.answers() == [DONE, UNDONE, UNDONE]


async def test_do_and_undo_of_one_step_keep_their_order(scenario):
    """Also when they come in one batch."""
    await scenario.send(intent(Pay()), undo(Refund()))

    assert [call.split("/")[2] for call in scenario.calls] == ["do", "undo"]
    assert scenario.ledger() == [("o-1", 3), ("o-1", -3)]
