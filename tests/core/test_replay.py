"""Replay: the same `handle` over the recorded history, every decision compared with the recorded
one.
"""

from dataclasses import replace

import pytest

from saga.core.history import turns
from saga.core.intents import IntentIssued, TimerArmed
from saga.core.retry import Retry
from saga.core.state import parts_of
from saga.errors import ReplayMismatch
from saga.testing import after, completed, given, issued, refused, replied, timed_out
from tests.toys import (
    CONTRACTS,
    EXACT,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Refund,
    Ship,
    as_saga,
)


def order_of(*, amount=3, ships=True, timeout="30s", id=None, retry=ONCE, intent=Pay):
    """Pay, then ship, with whatever is to differ."""

    async def order(ctx, placed):
        made = Pay(amount=amount) if intent is Pay else intent()
        await ctx.do(made, undo=Refund, timeout=timeout, id=id, retry=retry)
        if ships:
            await ctx.do(Ship())
        return OrderConfirmed()

    return as_saga(order)


def recorded(*happened, **options):
    """The history of an order."""
    return given(order_of(**options), OrderPlaced(), *happened, contracts=CONTRACTS).history


def replayed(history, **options):
    """The same history under other code."""
    return given(order_of(**options), history=history, contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("options", "version", "recorded_says", "decided_says"),
    [
        ({"amount": 4}, 2, '"amount":3', '"amount":4'),
        ({"id": "deposit"}, 2, "pay/do/1", "deposit/do/1"),
        ({"intent": Notify, "id": "pay"}, 2, "shop.int.pay.v1", "shop.int.notify.v1"),
        ({"ships": False}, 6, "ship/do/1", "saga-completed"),
    ],
    ids=["payload", "step", "contract", "end"],
)
def test_first_difference_is_raised(options, version, recorded_says, decided_says):
    """With the entry and both sides; nothing is guessed."""
    history = recorded(replied(Pay, Paid()))

    with pytest.raises(ReplayMismatch) as found:
        replayed(history, **options)

    assert found.value.version == version
    assert recorded_says in found.value.recorded
    assert decided_says in found.value.decided


def test_code_that_decides_less_is_a_mismatch():
    """An intent that was issued and is no longer wanted."""

    async def lazy(ctx, placed):
        await ctx.wait("never")

    with pytest.raises(ReplayMismatch, match="pay/do/1"):
        given(as_saga(lazy), history=recorded())


def test_code_that_decides_more_is_a_mismatch():
    """An intent that was never issued is not issued by a replay."""

    async def eager(ctx, placed):
        await ctx.all(ctx.do(Pay(), undo=Refund, timeout="30s"), ctx.do(Notify()))

    with pytest.raises(ReplayMismatch) as found:
        given(as_saga(eager), history=recorded())

    assert (found.value.version, found.value.recorded) == (4, "nothing")


def test_reply_that_nobody_waits_for_any_more_is_a_mismatch():
    """The recorded fact has no place in what the code does."""

    async def quiet(ctx, placed):
        await ctx.sleep("1h")

    begun = given(as_saga(quiet), OrderPlaced()).history
    orphan = replace(recorded(replied(Pay, Paid()))[3], version=3)

    with pytest.raises(ReplayMismatch, match="unknown_intent"):
        given(as_saga(quiet), history=[*begun, orphan])


def test_old_code_heals_a_mismatch():
    """The history is as good as it was."""
    history = recorded(replied(Pay, Paid()))
    with pytest.raises(ReplayMismatch):
        replayed(history, amount=4)

    replayed(history).when(replied(Ship)).then(completed(OrderConfirmed()))


@pytest.mark.parametrize("timeout", ["1s", "2h", "0s"])
def test_changed_timeout_is_no_difference(timeout):
    """The recorded deadline stands, and what follows has the new one."""
    history = recorded(replied(Pay, Paid()))

    replayed(history, timeout=timeout).when(replied(Ship)).then(completed(OrderConfirmed()))
    replayed(recorded(), timeout=timeout).when(timed_out(Pay)).then_status("rolling_back")


def test_changed_delay_is_no_difference():
    slow = Retry(attempts=3, initial="1h", jitter=0)
    history = recorded(after("30s"), retry=EXACT)

    replayed(history, retry=slow).when(after("10s")).then(issued(Pay, attempt=2))


def test_replay_of_a_replay_is_the_same():
    live = given(order_of(), OrderPlaced(), replied(Pay, Paid()), contracts=CONTRACTS)
    rebuilt = replayed(live.history)

    assert parts_of(rebuilt.state) == parts_of(live.state)
    for scenario in (live, rebuilt):
        scenario.when(refused(Ship, "no"))
    assert parts_of(rebuilt.state) == parts_of(live.state)


def test_function_that_is_not_deterministic_fails_its_test_at_once():
    """The turn after which a rebuilt saga would differ is where it shows."""
    amounts = iter(range(100))

    async def order(ctx, placed):
        await ctx.do(Pay(amount=next(amounts)))

    with pytest.raises(ReplayMismatch):
        given(as_saga(order)).when(OrderPlaced())


def test_history_is_cut_into_turns_at_its_facts():
    history = recorded(replied(Pay, Paid()))
    first, second = turns(history)

    assert [entry.version for entry in first] == [1, 2, 3]
    assert isinstance(first.decided[0], IntentIssued)
    assert isinstance(first.decided[1], TimerArmed)
    assert [entry.version for entry in second] == [4, 5, 6]


def test_failed_report_shows_both_sides():
    """What was expected and what was decided, an entry a line."""
    with pytest.raises(AssertionError) as found:
        given(order_of(), contracts=CONTRACTS).when(OrderPlaced()).then(issued(Ship))

    said = str(found.value)
    assert "expected  intent-issued direction=do contract=shop.int.ship.v1" in said
    assert "decided   intent-issued step=pay" in said


def test_report_of_a_raised_turn_shows_the_cause():
    """A bug in the function is not hidden behind "parked"."""

    async def order(ctx, placed):
        raise KeyError("bug")

    with pytest.raises(AssertionError, match="a turn raised KeyError") as found:
        given(as_saga(order)).when(OrderPlaced()).then(issued(Pay))

    assert isinstance(found.value.__cause__, KeyError)
