"""Paused sagas: what comes is recorded, what is in flight settles, and on resume all acts in order.

After every turn `given` compares the state with that of a replay and of the fold.
"""

import pytest

from saga import StepFailed, TimedOut
from saga.core.intents import Noted
from saga.core.retry import ONCE, Retry
from saga.core.state import waiting_for
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
    rolled_back,
    settled,
    signalled,
    timed_out,
    turn_failed,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)

PLACED = OrderPlaced()
PAUSE, RESUME = operator("pause"), operator("resume")


def of(function, **options):
    return given(as_saga(function, **options), contracts=CONTRACTS)


async def two_steps(ctx, placed):
    reserved = await ctx.do(Reserve(), undo=Unreserve)
    await ctx.do(Ship())
    return OrderConfirmed(shelf=reserved.shelf)


def test_a_reply_is_recorded_and_acts_on_resume():
    scenario = of(two_steps).when(PLACED).when(PAUSE, replied(Reserve, Reserved(shelf="s-7")))

    scenario.then().then_status("running").then_steps(reserve="done").then_waits_for("resume")
    scenario.when(RESUME).then(issued(Ship()))
    scenario.when(replied(Ship)).then(completed(OrderConfirmed(shelf="s-7")))


def test_status_stays_and_the_pause_is_seen_beside_it():
    scenario = of(two_steps).when(PLACED, PAUSE)

    assert scenario.then_status("running").state.pause is not None
    assert waiting_for(scenario.state) == "reply to reserve"
    assert scenario.when(RESUME).state.pause is None


def test_a_failed_attempt_arms_its_retry_which_acts_on_resume():
    async def retried(ctx, placed):
        await ctx.do(Reserve(), retry=Retry(attempts=3, initial="10s", jitter=0))

    scenario = of(retried).when(PLACED).when(PAUSE, failed(Reserve), after("1m"))

    scenario.then().then_steps(reserve="issued")
    scenario.when(RESUME).then(issued(Reserve(), attempt=2))


def test_a_retry_that_was_made_by_hand_meanwhile_is_not_made_again():
    async def retried(ctx, placed):
        await ctx.do(Reserve(), retry=Retry(attempts=3, initial="10s", jitter=0))

    scenario = of(retried).when(PLACED).when(PAUSE, failed(Reserve), after("1m"))

    scenario.when(operator("retry", "reserve")).then(issued(Reserve(), attempt=2))
    scenario.when(RESUME).then()


def test_a_failure_for_good_settles_the_step_and_rolls_back_on_resume():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Ship())

    scenario = of(order).when(PLACED, replied(Reserve, Reserved()))
    scenario.when(PAUSE, refused(Ship, "no van"))

    scenario.then(settled("ship", "refused")).then_status("running")
    scenario.when(RESUME).then(planned("reserve"), undo_issued(Unreserve))


def test_deadlines_run():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve, timeout="30s", retry=ONCE)

    scenario = of(order).when(PLACED).when(PAUSE, after("1m"))

    scenario.then(settled("reserve", "in_doubt")).then_status("running")
    scenario.when(RESUME).then(planned("reserve"), undo_issued(Unreserve))


@pytest.mark.parametrize(
    "waits", [lambda ctx: ctx.sleep("10s"), lambda ctx: ctx.wait("go")], ids=["sleep", "signal"]
)
def test_a_sleep_or_signal_is_recorded_and_acts_on_resume(waits):
    async def order(ctx, placed):
        await waits(ctx)
        await ctx.do(Ship())

    scenario = of(order).when(PLACED, PAUSE, signalled("go"), after("1m"))

    scenario.then()
    scenario.when(RESUME).then(issued(Ship()))


def test_what_came_acts_in_order_of_arrival():
    async def order(ctx, placed):
        one, two = await ctx.all(ctx.wait("one", int), ctx.wait("two", int))
        return OrderConfirmed(shelf=f"{one} {two}")

    scenario = of(order).when(PLACED, PAUSE, signalled("two", 2), signalled("one", 1))

    scenario.then().when(RESUME).then(completed(OrderConfirmed(shelf="1 2")))


def test_a_wait_whose_time_ran_out_does_not_take_what_comes_later():
    async def order(ctx, placed):
        try:
            await ctx.wait("go", timeout="10s")
        except TimedOut:
            said = await ctx.wait("go", int)
            return OrderConfirmed(shelf=str(said))

    scenario = of(order).when(PLACED, PAUSE, timed_out("go"), signalled("go", 4))

    scenario.then().when(RESUME).then(completed(OrderConfirmed(shelf="4")))


def test_the_first_to_arrive_wins_a_race_and_the_loser_s_signal_is_not_lost():
    async def order(ctx, placed):
        first = await ctx.any(ctx.wait("one", int), ctx.wait("two", int))
        other = await ctx.wait("one", int)
        return OrderConfirmed(shelf=f"{first} {other}")

    scenario = of(order).when(PLACED, PAUSE, signalled("two", 2), signalled("one", 1))

    scenario.when(RESUME).then(completed(OrderConfirmed(shelf="2 1")))


def test_a_step_that_lost_a_race_while_paused_is_undone():
    async def order(ctx, placed):
        await ctx.any(ctx.do(Reserve(), undo=Unreserve), ctx.do(Pay(), undo=Refund))

    scenario = of(order).when(PLACED, PAUSE, replied(Pay, Paid()), replied(Reserve, Reserved()))

    scenario.when(RESUME).then(planned("reserve"), undo_issued(Unreserve))
    scenario.when(replied(Unreserve)).then(completed())


@pytest.mark.parametrize("mode", ["graceful", "immediate"])
def test_a_cancel_goes_on(mode):
    scenario = of(two_steps).when(PLACED, PAUSE, replied(Reserve, Reserved()))

    scenario.when(cancelled("enough", mode=mode)).then(planned("reserve"), undo_issued(Unreserve))
    scenario.when(replied(Unreserve)).then(
        rolled_back(OrderRejected(reason="enough", code="cancelled"))
    )
    assert scenario.state.pause is None


def test_a_rollback_goes_on_with_its_retries():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve, undo_retry=Retry(attempts=3, initial="10s"))
        await ctx.do(Ship())

    scenario = of(order).when(PLACED, replied(Reserve, Reserved()), refused(Ship, "no"), PAUSE)

    scenario.when(failed(Unreserve), after("1m")).then(undo_issued(Unreserve, attempt=2))
    scenario.when(replied(Unreserve)).then_status("rolled_back")


def test_a_trigger_starts_its_saga_paused():
    """Where its definition is paused; its code begins when it is resumed."""
    scenario = of(two_steps).when(operator("pause", definition=True), PLACED)

    scenario.then().then_status("running").then_waits_for("resume")
    scenario.when(operator("resume", definition=True)).then(issued(Reserve()))


def test_a_saga_that_is_cancelled_before_its_code_began_has_its_outcome():
    scenario = of(two_steps).when(operator("pause", definition=True), PLACED)

    scenario.when(cancelled("enough"))
    scenario.then(planned(), rolled_back(OrderRejected(reason="enough", code="cancelled")))


def test_a_saga_goes_on_when_both_pauses_have_ended():
    scenario = of(two_steps).when(PLACED, PAUSE, operator("pause", definition=True))
    scenario.when(replied(Reserve, Reserved()), operator("resume", definition=True)).then()

    scenario.when(RESUME).then(issued(Ship()))


def refusal(scenario):
    [noted] = [entry.body for entry in scenario.decided if isinstance(entry.body, Noted)]
    return noted.detail


@pytest.mark.parametrize(
    ("happened", "act", "why"),
    [
        ([PAUSE], PAUSE, "paused already"),
        ([], RESUME, "not paused"),
        ([operator("pause", definition=True)], RESUME, "resume the definition"),
        ([cancelled(mode="abandon")], PAUSE, "abandoned"),
        ([cancelled(mode="abandon")], RESUME, "abandoned"),
    ],
)
def test_what_changes_nothing_is_refused_and_recorded(happened, act, why):
    scenario = of(two_steps).when(PLACED, *happened).when(act)

    assert why in refusal(scenario)


def test_code_that_raises_on_resume_parks_the_saga_and_goes_on_paused_then():
    async def raising(ctx, placed):
        await ctx.do(Reserve())
        raise RuntimeError("bad luck")

    scenario = of(raising).when(PLACED, PAUSE, replied(Reserve, Reserved()), RESUME)

    scenario.then_parked("bad luck")
    assert scenario.state.pause is not None


def test_a_resume_waits_until_a_failed_turn_is_released():
    scenario = of(two_steps).when(PLACED, PAUSE, replied(Reserve, Reserved()), turn_failed("x"))

    scenario.when(RESUME).then().then_parked("x")
    scenario.when(operator("release")).then(issued(Ship()))


@pytest.mark.parametrize("then", ["parks", "is caught"])
def test_a_failure_past_the_pivot_acts_on_resume(then):
    async def order(ctx, placed):
        await ctx.do(Ship(), kind="pivot")
        try:
            await ctx.do(Reserve(), retry=ONCE)
        except StepFailed:
            if then == "parks":
                raise

    scenario = of(order).when(PLACED, replied(Ship), PAUSE, failed(Reserve))
    scenario.then_status("running").then_steps(reserve="failed")

    scenario.when(RESUME)

    if then == "is caught":
        scenario.then_status("completed")
    else:
        scenario.then_parked("reserve")
        scenario.when(operator("retry", "reserve")).then(issued(Reserve(), attempt=2))
        scenario.when(replied(Reserve, Reserved())).then_status("completed")


def test_a_retry_while_paused_past_the_pivot_succeeds():
    async def order(ctx, placed):
        await ctx.do(Ship(), kind="pivot")
        await ctx.do(Reserve(), retry=ONCE)

    scenario = of(order).when(PLACED, replied(Ship), failed(Reserve)).then_parked("reserve")
    scenario.when(PAUSE, operator("retry", "reserve"), replied(Reserve, Reserved()))
    scenario.then_status("running")
    scenario.when(RESUME).then_status("completed")
