"""A replay sees timers: one that only the code has, or only the history, is a difference.

A timeout that only the code has, of what is still open, is none: a running saga arms it.
"""

import pytest

from saga import TimedOut
from saga.core.events import TimersAdded
from saga.core.history import turns
from saga.core.intents import TimerArmed
from saga.core.state import parts_of
from saga.errors import ReplayMismatch
from saga.testing import (
    after,
    armed,
    cancelled,
    completed,
    given,
    operator,
    planned,
    replied,
    rolled_back,
    signalled,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Ship,
    as_saga,
)


def doing(body):
    """A saga whose function does *body* with its context."""

    async def order(ctx, placed):
        return await body(ctx)

    return as_saga(order)


def paying(timeout=None, **options):
    async def pay(ctx):
        await ctx.do(Pay(), undo=Refund, retry=ONCE, timeout=timeout, **options)
        await ctx.do(Ship())
        return OrderConfirmed()

    return doing(pay)


def waiting(timeout=None, beside=None):
    async def wait(ctx):
        try:
            waits = [ctx.wait("go", timeout=timeout)]
            await ctx.all(*waits, *([] if beside is None else [beside(ctx)]))
        except TimedOut:
            return OrderConfirmed(order_id="nobody came")
        return OrderConfirmed()

    return doing(wait)


def asleep(ctx):
    return ctx.sleep("1h")


async def _pay_and_sleep(ctx):
    await ctx.do(Pay())
    await ctx.sleep("1h")
    await ctx.do(Ship())


async def _pay(ctx):
    await ctx.do(Pay())
    await ctx.do(Ship())


PAID = (OrderPlaced(), replied(Pay, Paid()))

DIFFERENCES = {
    "a sleep beside a wait was added": (
        (waiting(), waiting(beside=asleep), [OrderPlaced()]),
        (3, "nothing", "timer-armed sleep sleep-1"),
    ),
    "a sleep beside a wait was removed": (
        (waiting(beside=asleep), waiting(), [OrderPlaced()]),
        (2, "timer-armed sleep sleep-1", "nothing"),
    ),
    "a sleep between steps was added": (
        (doing(_pay), doing(_pay_and_sleep), PAID),
        (4, "intent-issued ship/do/1", "timer-armed sleep sleep-1"),
    ),
    "a sleep between steps was removed": (
        (doing(_pay_and_sleep), doing(_pay), PAID),
        (4, "timer-armed sleep sleep-1", "nothing"),
    ),
    "the timeout of a wait was removed": (
        (waiting("1h"), waiting(), [OrderPlaced()]),
        (3, "timer-armed wait wait-go-1", "nothing"),
    ),
    "the timeout of a step was removed": (
        (paying("1h"), paying(), [OrderPlaced()]),
        (3, "timer-armed deadline pay/do", "nothing"),
    ),
    "the timeout of a step that is done was removed": (
        (paying("1h"), paying(), PAID),
        (3, "timer-armed deadline pay/do", "nothing"),
    ),
    "a step that is done has a timeout now": (
        (paying(), paying("1h"), PAID),
        (4, "nothing", "timer-armed deadline pay/do"),
    ),
    "a wait that is over has a timeout now": (
        (waiting(), waiting("1h"), [OrderPlaced(), signalled("go")]),
        (4, "nothing", "timer-armed wait wait-go-1"),
    ),
    "a saga that was cancelled has a timeout now": (
        (waiting(), waiting("1h"), [OrderPlaced(), cancelled()]),
        (4, "nothing", "timer-armed wait wait-go-1"),
    ),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_timer_of_one_side_alone_is_a_difference(kind):
    """With the entry where it is, or should be, and what both sides say."""
    (old, new, happened), (version, recorded, decided) = DIFFERENCES[kind]
    history = given(old, *happened, contracts=CONTRACTS).history

    with pytest.raises(ReplayMismatch) as found:
        given(new, history=history, contracts=CONTRACTS)

    assert found.value.version >= version
    assert recorded in found.value.recorded
    assert decided in found.value.decided
    given(old, history=history, contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("old", "new", "happened"),
    [
        (waiting("1h"), waiting("2h"), [OrderPlaced()]),
        (waiting("1h"), waiting("1s"), [OrderPlaced(), signalled("go")]),
        (waiting("1h", asleep), waiting("1h", lambda ctx: ctx.sleep("0s")), [OrderPlaced()]),
        (paying("1h"), paying("-1s"), [OrderPlaced()]),
        (paying("1h"), paying("1m"), [OrderPlaced(), replied(Pay, Paid())]),
        (paying("1h"), paying("1m"), [OrderPlaced(), after("1h")]),
    ],
)
def test_length_that_changed_is_no_difference(old, new, happened):
    """What is armed already stays armed as it was."""
    before = given(old, *happened, contracts=CONTRACTS)

    rebuilt = given(new, history=before.history, contracts=CONTRACTS)

    assert parts_of(rebuilt.state) == parts_of(before.state)
    assert rebuilt.state.unarmed == {}


def test_new_timeout_of_a_wait_is_armed_by_a_running_saga():
    """From then on, in a turn of its own, which every replay knows again."""
    old = given(waiting(), OrderPlaced(), contracts=CONTRACTS)

    new = given(waiting("1h"), history=old.history, contracts=CONTRACTS)
    assert new.state.timers == {}
    (
        new.when()
        .then(armed("wait", "wait-go-1", "1h"))
        .when(after("59m"))
        .then_nothing()
        .when(after("1m"))
        .then(completed(OrderConfirmed(order_id="nobody came")))
    )
    added = [turn.event.fact for turn in turns(new.history)][1]
    assert added == TimersAdded()
    again = given(waiting("3h"), history=new.history, contracts=CONTRACTS)
    assert parts_of(again.state) == parts_of(new.state)
    with pytest.raises(ReplayMismatch, match="timer-armed wait"):
        given(waiting(), history=new.history, contracts=CONTRACTS)


def test_new_deadline_of_a_step_in_flight_is_armed_by_a_running_saga():
    history = given(paying(), OrderPlaced(), contracts=CONTRACTS).history

    (
        given(paying("10s"), history=history, contracts=CONTRACTS)
        .when(after("10s"))
        .then(
            armed("deadline", "pay/do", "10s"),
            planned("pay"),
            undo_issued(Refund),
            armed("deadline", "pay/undo", "10s"),
        )
        .when(replied(Refund))
        .then(rolled_back(OrderRejected, code="timeout"))
    )


def test_new_timeout_that_is_over_before_it_was_armed_is_still_recorded():
    """So that the next replay does not miss it."""
    history = given(waiting(), OrderPlaced(), contracts=CONTRACTS).history

    new = given(waiting("1h"), history=history, contracts=CONTRACTS).when(signalled("go"))

    new.then(armed("wait", "wait-go-1", "1h"), completed(OrderConfirmed()))
    assert given(waiting("1h"), history=new.history, contracts=CONTRACTS).status == "completed"


def test_new_timeouts_may_come_one_deploy_after_another():
    async def both(ctx, first, second):
        await ctx.all(ctx.wait("a", timeout=first), ctx.do(Notify(), timeout=second, retry=ONCE))

    def deployed(first, second):
        return doing(lambda ctx: both(ctx, first, second))

    history = given(deployed(None, None), OrderPlaced(), contracts=CONTRACTS).history
    for code in (deployed("1h", None), deployed("1h", "1h")):
        scenario = given(code, history=history, contracts=CONTRACTS).when()
        history = scenario.history

    bodies = [entry.body for entry in history]
    assert bodies.count(TimersAdded()) == 2
    assert sum(isinstance(body, TimerArmed) for body in bodies) == 2
    scenario.when(after("1h")).then_status("rolled_back_with_residue")


def test_saga_parked_by_a_failed_turn_gets_its_new_timeouts_when_it_goes_on():
    """Nothing is added to one that stands still."""

    def deployed(timeout, *, is_broken):
        async def body(ctx):
            await ctx.wait("first", timeout=timeout)
            if is_broken:
                raise KeyError("bug")

        return doing(body)

    parked = given(deployed(None, is_broken=True), OrderPlaced(), signalled("first"))
    parked.then_parked("KeyError")

    scenario = given(deployed("1h", is_broken=False), history=parked.history).when()
    scenario.then_nothing()
    scenario.when(operator("release")).when()
    scenario.then(armed("wait", "wait-first-1", "1h"))
