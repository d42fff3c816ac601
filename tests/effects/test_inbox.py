"""Intents are handled once and answered always, whatever is delivered how often and in
which order.
"""

import json
from dataclasses import replace

import pytest

from saga.contracts import cloudevents as ce
from tests.effects.lab import (
    ALICE,
    TRACEPARENT,
    Charge,
    Lab,
    Uncharge,
    header,
    intent,
    undo,
    wallet_effects,
)

DONE = ("lab.evt.charged.v1", '{"receipt":"r-alice-1"}')
UNDONE = ("lab.evt.intent-done.v1", "{}")
BEFORE = ("refused", "undone_before")


@pytest.fixture
async def lab():
    """The wallet service at work; `lab.calls` are the calls of its handlers."""
    effects, calls = wallet_effects()
    async with Lab(effects) as lab:
        lab.calls = calls
        yield lab


def failures(lab: Lab) -> list[tuple[str, str]]:
    """Outcome and code of the answers that are failures."""
    found = [json.loads(value) for name, value in lab.answers() if "intent-failed" in name]
    return [(one["outcome"], one["code"]) for one in found]


async def test_an_intent_is_answered_on_the_topic_of_its_reply(lab: Lab) -> None:
    """Key, ids, saga and trace are what the orchestrator needs to match it."""
    await lab.send(intent(Charge()))
    (reply,) = lab.replies()

    assert reply.topic == "test.lab.lab.evt.charged.v1"
    assert reply.key == b"alice"
    assert reply.value == b'{"receipt":"r-alice-1"}'
    assert header(reply, ce.ID) == f"{ALICE}/charge/do/1/reply"
    assert header(reply, ce.CAUSATION_ID) == f"{ALICE}/charge/do/1"
    assert header(reply, ce.SUBJECT) == header(reply, ce.CORRELATION_ID) == ALICE
    assert header(reply, ce.TRACEPARENT) == TRACEPARENT
    assert header(reply, ce.SOURCE) == "/test/lab/effects/wallets"
    assert header(reply, ce.TIME) == "2023-11-14T22:13:20.000000Z"
    assert lab.ledger() == [("alice", 10)]


async def test_an_intent_without_a_reply_is_answered_intent_done(lab: Lab) -> None:
    """`Intent[None]` has no reply of its own."""
    await lab.send(intent(Charge()), undo(Uncharge()))

    assert lab.answers() == [DONE, UNDONE]


async def test_a_redelivered_intent_gets_the_same_answer_byte_for_byte(lab: Lab) -> None:
    """Time included; the handler is not called again."""
    await lab.send(intent(Charge()))
    lab.clock.advance(60)
    await lab.send(intent(Charge()))
    first, second = lab.replies()

    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)
    assert len(lab.calls) == 1


async def test_copies_in_one_batch_are_handled_once(lab: Lab) -> None:
    """The second waits for the first."""
    await lab.send(*[intent(Charge())] * 5)

    assert lab.answers() == [DONE] * 5
    assert lab.ledger() == [("alice", 10)]


async def test_a_later_attempt_at_a_done_step_gets_the_kept_answer(lab: Lab) -> None:
    """It answers the attempt that asks."""
    await lab.send(intent(Charge()), intent(Charge(), attempt=2))

    assert lab.answers() == [DONE, DONE]
    assert [header(one, ce.CAUSATION_ID)[-4:] for one in lab.replies()] == ["do/1", "do/2"]
    assert len(lab.calls) == 1


async def test_a_later_attempt_at_a_refused_step_is_refused_again(lab: Lab) -> None:
    """Refused is final."""
    await lab.send(intent(Charge(amount=501)), intent(Charge(amount=501), attempt=2))

    assert failures(lab) == [("refused", "limit")] * 2
    assert len(lab.calls) == 1


async def test_a_later_attempt_at_a_failed_step_runs_again(lab: Lab) -> None:
    """And what it does replaces what the failed one said."""
    await lab.send(intent(Charge(amount=-1)), intent(Charge(amount=-1), attempt=2))

    assert failures(lab) == [("failed", "ValueError")] * 2
    assert [one[-4:] for one in lab.calls] == ["do/1", "do/2"]


async def test_an_earlier_attempt_that_comes_late_is_not_answered(lab: Lab) -> None:
    """Its own answer went out before the later attempt was taken up."""
    await lab.send(intent(Charge(amount=-1)), intent(Charge(amount=-1), attempt=2))
    await lab.send(intent(Charge(amount=-1)))

    assert len(lab.calls) == len(lab.replies()) == 2


async def test_writes_of_a_failed_attempt_are_rolled_back(lab: Lab) -> None:
    """The failure itself is recorded and answered, with its message."""
    await lab.send(intent(Charge(amount=-1)))

    assert lab.ledger() == []
    assert lab.answers() == [
        (
            "lab.evt.intent-failed.v1",
            '{"code":"ValueError","message":"negative amount","outcome":"failed"}',
        )
    ]


async def test_writes_before_a_refusal_are_rolled_back(lab: Lab) -> None:
    """A `No, and nothing happened` is made true."""
    await lab.send(intent(Charge(amount=501)))

    assert lab.ledger() == []
    assert failures(lab) == [("refused", "limit")]


async def test_neighbours_of_a_failed_attempt_keep_their_writes(lab: Lab) -> None:
    """They share a commit, and nothing else."""
    amounts = [1, -1, 2, 501, 3]
    await lab.send(*[intent(Charge(amount=n), step=f"s{i}") for i, n in enumerate(amounts)])

    assert [amount for _, amount in lab.ledger()] == [1, 2, 3]
    assert sorted(failures(lab)) == [("failed", "ValueError"), ("refused", "limit")]


async def test_one_key_with_two_payloads_is_a_conflict(lab: Lab) -> None:
    """The first stands; the second fails without being handled."""
    await lab.send(intent(Charge(amount=10)), intent(Charge(amount=11), attempt=2))
    await lab.send(intent(Charge(amount=11)))

    assert failures(lab) == [("failed", "id_conflict")] * 2
    assert lab.ledger() == [("alice", 10)]


async def test_the_same_payload_written_otherwise_is_no_conflict(lab: Lab) -> None:
    """Blanks and order mean nothing in JSON."""
    record = intent(Charge(), attempt=2)
    spaced = replace(record, value=b'{ "owner": "alice", "amount": 10 }')
    await lab.send(intent(Charge()), spaced)

    assert lab.answers() == [DONE, DONE]


async def test_an_undo_of_what_never_came_is_done_without_its_handler(lab: Lab) -> None:
    """An empty compensation."""
    await lab.send(undo(Uncharge()))

    assert lab.answers() == [UNDONE]
    assert lab.calls == []


async def test_a_do_that_comes_after_its_undo_is_refused(lab: Lab) -> None:
    """Otherwise it would hang for ever: nobody would undo it again."""
    await lab.send(undo(Uncharge()))
    await lab.send(intent(Charge()), intent(Charge(), attempt=2), undo(Uncharge(), attempt=2))

    assert failures(lab) == [BEFORE, BEFORE]
    assert lab.answers().count(UNDONE) == 2
    assert lab.ledger() == []
    assert lab.calls == []


async def test_an_undo_of_a_refused_step_is_done_without_its_handler(lab: Lab) -> None:
    """Nothing had happened."""
    await lab.send(intent(Charge(amount=501)), undo(Uncharge()))

    assert UNDONE in lab.answers()
    assert [one[-4:] for one in lab.calls] == ["do/1"]


async def test_an_undo_of_a_failed_step_is_handled(lab: Lab) -> None:
    """A failed attempt may have had its effect."""
    await lab.send(intent(Charge(amount=-1)), undo(Uncharge()))

    assert [one.rpartition("/")[0][-5:] for one in lab.calls] == ["ge/do", "/undo"]


async def test_a_failed_step_that_was_undone_has_no_later_attempt(lab: Lab) -> None:
    """A retry that was under way when the rollback began is refused; the failed attempt's own
    answer stays what it was.
    """
    await lab.send(intent(Charge(amount=-1)), undo(Uncharge()))
    calls = len(lab.calls)
    await lab.send(intent(Charge(amount=-1), attempt=2), intent(Charge(amount=-1)))

    assert len(lab.calls) == calls
    assert failures(lab) == [("failed", "ValueError"), BEFORE, ("failed", "ValueError")]


async def test_an_undo_of_another_services_step_is_always_handled(lab: Lab) -> None:
    """What this inbox does not know it cannot judge."""
    await lab.send(undo(Uncharge(), undoes=None))

    assert len(lab.calls) == 1


async def test_a_repeated_undo_is_answered_from_the_inbox(lab: Lab) -> None:
    """It is undone once."""
    await lab.send(intent(Charge()), undo(Uncharge()), undo(Uncharge()))

    assert lab.ledger() == [("alice", 10), ("alice", -10)]
    assert lab.answers() == [DONE, UNDONE, UNDONE]


async def test_do_and_undo_of_one_step_keep_their_order(lab: Lab) -> None:
    """Also when they come in one batch."""
    await lab.send(intent(Charge()), undo(Uncharge()))

    assert [one.split("/")[2] for one in lab.calls] == ["do", "undo"]
    assert lab.ledger() == [("alice", 10), ("alice", -10)]
