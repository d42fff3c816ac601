"""Operators' acts: steps marked by hand, timers moved or fired, reruns noted."""

import pytest

from saga.contracts import Event
from saga.core.events import Act, OperatorActed
from saga.core.intents import Noted, TimerMoved
from saga.core.retry import ONCE, Retry
from saga.core.words import told
from saga.testing import (
    after,
    cancelled,
    completed,
    failed,
    given,
    issued,
    operator,
    planned,
    refused,
    replied,
    turn_failed,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)

PLACED = OrderPlaced()


class HelpAsked(Event, topic="acts.help-asked", version=1, key="key"):
    key: str


class Helped(Event, topic="acts.helped", version=1):
    key: str


def of(function):
    return given(as_saga(function), contracts=CONTRACTS)


async def two_steps(ctx, placed):
    reserved = await ctx.do(Reserve(), undo=Unreserve, undo_retry=ONCE)
    await ctx.do(Ship())
    return OrderConfirmed(shelf=reserved.shelf)


def refusal(scenario):
    [noted] = [entry.body for entry in scenario.decided if isinstance(entry.body, Noted)]
    return noted.detail


def done(step, reply=None):
    return operator("mark", step, state="done", reply=reply, evidence="the shelf's own screen")


def test_a_step_in_flight_that_is_marked_done_goes_on_with_the_reply_entered():
    scenario = of(two_steps).when(PLACED).when(done("reserve", Reserved(shelf="s-9")))

    scenario.then(issued(Ship())).then_steps(reserve="done")
    scenario.when(done("ship")).then(completed(OrderConfirmed(shelf="s-9")))


def test_the_undo_of_a_step_marked_done_is_built_from_the_reply_entered():
    scenario = of(two_steps).when(PLACED, done("reserve", Reserved(shelf="s-9")))

    scenario.when(refused(Ship, "no van"))
    scenario.then(planned("reserve"), undo_issued(Unreserve(order_id="o-1", shelf="s-9")))


def test_an_answer_that_comes_after_the_mark_is_noted():
    scenario = of(two_steps).when(PLACED, done("reserve", Reserved(shelf="s-9")))

    scenario.when(replied(Reserve, Reserved(shelf="s-9"))).then()
    assert refusal(scenario) == "an earlier attempt had the same reply"
    other = of(two_steps).when(PLACED, done("reserve", Reserved(shelf="s-9")))
    other.when(replied(Reserve, Reserved(shelf="s-1"))).then()
    assert "a second, different reply" in refusal(other)


def test_a_step_that_the_saga_has_parked_on_is_marked_done():
    async def order(ctx, placed):
        await ctx.do(Ship(), kind="pivot")
        await ctx.do(Reserve(), kind="retriable", retry=ONCE)

    scenario = of(order).when(PLACED, replied(Ship), failed(Reserve)).then_parked()

    scenario.when(done("reserve", Reserved())).then(completed()).then_status("completed")


def test_a_step_that_backs_off_is_marked_done_and_not_tried_again():
    async def order(ctx, placed):
        await ctx.do(Reserve(), retry=Retry(attempts=3, initial="10s"))

    scenario = of(order).when(PLACED, failed(Reserve)).when(done("reserve", Reserved()))

    scenario.then(completed())
    scenario.when(after("1h")).then_nothing()


def test_an_undo_that_is_stuck_is_marked_undone_and_the_rollback_goes_on():
    scenario = of(two_steps).when(PLACED, replied(Reserve, Reserved()), refused(Ship, "no van"))
    scenario.when(failed(Unreserve)).then_parked("cannot undo reserve")

    scenario.when(operator("mark", "reserve", state="undone", evidence="put back by hand"))

    scenario.then_status("rolled_back").then_steps(reserve="undone")
    assert scenario.state.residue == ()


def test_what_was_skipped_is_marked_undone_while_the_rollback_runs():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Reserve(), undo=Unreserve, id="second", undo_retry=ONCE)
        await ctx.do(Ship())

    scenario = of(order).when(
        PLACED,
        replied(Reserve, Reserved(), step="reserve"),
        replied(Reserve, Reserved(), step="second"),
        refused(Ship, "no"),
        failed(Unreserve, step="second"),
        operator("skip", "second"),
    )

    scenario.when(operator("mark", "second", state="undone", evidence="seen"))
    scenario.when(replied(Unreserve, step="reserve")).then_status("rolled_back")


WHY_NOT = [
    ([], done("pay", Paid()), "it has no step 'pay'"),
    ([], done("reserve", Paid()), "it is answered by shop.evt.reserved.v1, not shop.evt.paid.v1"),
    ([], done("reserve"), "it is answered by shop.evt.reserved.v1"),
    (
        [replied(Reserve, Reserved())],
        done("reserve", Reserved()),
        "the step is done: it is not in flight",
    ),
    ([], operator("mark", "reserve", state="undone"), "neither under way, stuck nor skipped"),
    ([cancelled(mode="abandon")], done("reserve", Reserved()), "the saga is abandoned"),
    ([turn_failed("x")], done("reserve", Reserved()), "release it first"),
    ([], operator("fire-timer", "reserve"), "is armed; armed timers: none"),
    ([], operator("rerun", key="o-2"), "the saga has not ended: it is running"),
    ([cancelled(mode="abandon")], operator("rerun", key="o-1"), "'o-1' is its own key"),
    ([cancelled(mode="abandon")], operator("fire-timer", "reserve"), "the saga is abandoned"),
]


@pytest.mark.parametrize(("happened", "act", "why"), WHY_NOT, ids=str)
def test_what_cannot_be_is_refused_and_recorded(happened, act, why):
    scenario = of(two_steps).when(PLACED, *happened).when(act)

    assert why in refusal(scenario)


def test_a_child_that_is_being_undone_is_not_marked_as_undone():
    """It may still be at work: what it has done would be left standing, and in no residue."""

    async def parent(ctx, placed):
        await ctx.child(HelpAsked(key="h-1"), outcome=Helped, id="help")

    scenario = given(as_saga(parent), contracts=[*CONTRACTS, HelpAsked, Helped])
    scenario.when(PLACED, cancelled(mode="immediate"), operator("mark", "help", state="undone"))

    assert refusal(scenario) == "the step is a child saga: act on that one"


async def sleeping(ctx, placed):
    await ctx.sleep("1d")
    await ctx.do(Ship())


def moved(scenario):
    return [entry.body for entry in scenario.history if isinstance(entry.body, TimerMoved)]


def test_a_timer_that_is_to_fire_now_fires_early_in_a_turn_of_its_own():
    scenario = of(sleeping).when(PLACED)
    [timer] = scenario.state.timers.values()

    scenario.when(operator("fire-timer", timer.target)).then()
    [move] = moved(scenario)
    assert (move.timer_id, move.due_at) == (timer.timer_id, scenario.now)
    scenario.when(after("1s")).then(issued(Ship()))


def test_a_timer_that_is_moved_fires_then_and_not_before():
    scenario = of(sleeping).when(PLACED)
    [timer] = scenario.state.timers.values()

    scenario.when(operator("move-timer", timer.target, to="2d"))
    scenario.when(after("1d")).then_nothing()
    scenario.when(after("1d")).then(issued(Ship()))


def test_an_ended_saga_notes_under_which_key_it_is_run_again():
    scenario = of(two_steps).when(PLACED, cancelled(mode="abandon"))
    scenario.when(operator("rerun", key="o-1-again")).then_nothing()

    acted = scenario.history[-1].body
    assert isinstance(acted, OperatorActed)
    assert (acted.act, acted.key) == (Act.RERUN, "o-1-again")
    assert "starts the saga of key o-1-again" in told((), acted)
    scenario.then_status("abandoned")
