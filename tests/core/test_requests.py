"""SEMANTICS of what people ask: cancels, signals, releases after a failed turn."""

from dataclasses import replace

import pytest
from pydantic import BaseModel

from saga.authoring import TimedOut
from saga.core.events import CancelMode, CancelRequested
from saga.core.intents import Noted, Verdict
from saga.testing import (
    abandoned,
    after,
    armed,
    cancelled,
    completed,
    failed,
    given,
    issued,
    noted,
    operator,
    planned,
    redelivered,
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
    EXACT,
    ONCE,
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
    order_saga,
)


class Approval(BaseModel):
    by: str


def approved_saga(**options):
    """Waits for an approval up to an hour, then ships."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        try:
            approval = await ctx.wait("approval", Approval, timeout="1h")
        except TimedOut:
            return None
        await ctx.do(Ship(order_id=approval.by))
        return OrderConfirmed()

    return as_saga(order, **options)


WAITING = (OrderPlaced(), replied(Reserve, Reserved()))


def test_graceful_cancel_lets_the_step_in_flight_settle():
    """No new forward intent; the reply is awaited; then everything done is undone."""
    (
        given(order_saga(timeout="30s"), *WAITING)
        .when(cancelled("changed my mind"))
        .then_nothing()
        .then_waits_for("reply to pay")
        .when(replied(Pay, Paid()))
        .then(planned("pay", "reserve"), undo_issued(Refund(receipt="r-1")))
        .when(replied(Refund), replied(Unreserve))
        .then(
            undo_issued(Unreserve),
            rolled_back(OrderRejected, reason="changed my mind", code="cancelled"),
        )
    )


@pytest.mark.parametrize(
    "settled", [failed(Pay), refused(Pay), timed_out(Pay)], ids=["failed", "refused", "timed out"]
)
def test_graceful_cancel_does_not_retry(settled):
    """However the step in flight ends, the rollback begins."""
    (
        given(order_saga(retry=EXACT, timeout="30s"), *WAITING, cancelled())
        .when(settled)
        .then(undo_issued(Refund if settled != refused(Pay) else Unreserve))
        .then_status("rolling_back")
    )


def test_graceful_cancel_of_a_pausing_step_rolls_back_at_once():
    """An attempt that is not on its way is never made."""
    (
        given(order_saga(retry=EXACT), *WAITING, failed(Pay))
        .when(cancelled())
        .then(planned("pay", "reserve"), undo_issued(Refund))
        .when(after("1d"))
        .then_nothing()
    )


def test_cancel_of_a_waiting_saga_rolls_back_at_once():
    """Neither wait nor its timer remains."""
    (
        given(approved_saga(), *WAITING)
        .when(cancelled())
        .then(planned("reserve"), undo_issued(Unreserve))
        .when(after("2h"), signalled("approval", {"by": "me"}))
        .then()
    )


def test_immediate_cancel_leaves_steps_in_flight_in_doubt():
    """They are undone without waiting for their reply."""
    (
        given(order_saga(), *WAITING)
        .when(cancelled(mode="immediate"))
        .then(planned("pay", "reserve"), undo_issued(Refund(receipt=None)))
        .when(replied("pay", Paid()))
        .then(noted("late_success"), undo_issued(Refund(receipt="r-1")))
    )


def test_cancel_is_idempotent_by_its_id():
    """The same request again is a duplicate; another one changes nothing and is recorded."""
    (
        given(order_saga(), *WAITING)
        .when(cancelled(), redelivered())
        .then_was("duplicate")
        .when(cancelled())
        .then(noted("refused", "on its way back"))
    )


def test_graceful_cancel_can_be_made_immediate():
    """What is in flight is in doubt at once, and nothing is waited for any more."""
    (
        given(order_saga(timeout="1h"), *WAITING, cancelled())
        .then_status("running")
        .when(cancelled(mode="immediate"))
        .then(
            planned("pay", "reserve"),
            settled("pay", "in_doubt"),
            undo_issued(Refund, step="pay"),
        )
        .when(cancelled(mode="immediate"))
        .then(noted("refused", "on its way back"))
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
    )


def test_cancel_that_an_earlier_release_refused_stays_refused():
    """Its history says so; the saga goes on gracefully."""
    scenario = given(order_saga(), *WAITING, cancelled())
    history = list(scenario.history)
    request = CancelRequested(mode=CancelMode.IMMEDIATE, reason="now")
    refusal = Noted(
        verdict=Verdict.REFUSED, subject="cancel", detail="the saga is on its way back already"
    )
    for body in (request, refusal):
        last = history[-1]
        history.append(replace(last, version=last.version + 1, cause="c-9", body=body))

    again = given(order_saga(), history=history)

    again.then_status("running").when(replied(Pay, Paid())).then_status("rolling_back")


@pytest.mark.parametrize("end", ["completed", "rolled_back", "abandoned"])
def test_saga_that_ends_over_unread_signals_notes_them(end):
    """By name and number, behind its end."""

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund, retry=ONCE)
        return OrderConfirmed()

    last = {
        "completed": [replied(Pay, Paid())],
        "rolled_back": [refused(Pay)],
        "abandoned": [cancelled(mode="abandon")],
    }[end]
    kept = [signalled("late", 1), signalled("late", 2), signalled("other")]
    scenario = given(as_saga(order), OrderPlaced(), *kept).when(*last)

    scenario.then_status(end)
    notes = [entry.body for entry in scenario.decided if isinstance(entry.body, Noted)]
    assert [(note.verdict, note.subject) for note in notes] == [
        ("unread", "signal late"),
        ("unread", "signal other"),
    ]
    assert "(2 in all)" in notes[0].detail


def test_end_without_such_notes_is_no_difference():
    """A release before this one wrote none."""

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)
        return OrderConfirmed()

    ended = given(as_saga(order), OrderPlaced(), signalled("late"), replied(Pay, Paid()))
    assert isinstance(ended.history[-1].body, Noted)

    assert given(as_saga(order), history=ended.history[:-1]).status == "completed"


def test_signal_that_was_read_or_refused_is_not_noted_at_the_end():
    async def order(ctx, placed):
        await ctx.wait("number", int)
        return OrderConfirmed()

    (
        given(as_saga(order), OrderPlaced(), signalled("number", "x"))
        .when(signalled("number", 1))
        .then(completed(OrderConfirmed()))
    )


def test_cancel_during_rollback_changes_nothing():
    (
        given(order_saga(), *WAITING, refused(Pay))
        .when(cancelled())
        .then(noted("refused", "on its way back"))
    )


def test_cancel_after_the_end_is_noted():
    (
        given(order_saga(), OrderPlaced(), refused(Reserve))
        .when(cancelled(), cancelled(mode="abandon"))
        .then(noted("after_end"))
        .then_status("rolled_back")
    )


def test_cancel_after_the_pivot_is_refused():
    """The saga only goes forward."""

    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        await ctx.do(Ship())

    (
        given(as_saga(order), OrderPlaced(), replied(Pay, Paid()))
        .when(cancelled())
        .then(noted("refused", "pivot"))
        .when(replied(Ship))
        .then(completed())
    )


def test_signal_wakes_its_wait_and_its_timer_is_cancelled():
    """The payload arrives as the model that was asked for."""
    (
        given(approved_saga(), OrderPlaced())
        .when(replied(Reserve, Reserved()))
        .then(armed("wait", "wait-approval-1", "1h"))
        .then_waits_for("signal approval")
        .when(signalled("approval", {"by": "ann"}))
        .then(issued(Ship(order_id="ann")))
        .when(after("2h"))
        .then_nothing()
    )


def test_early_signal_is_kept_for_the_next_wait():
    """Even one that came before the wait was reached."""
    (
        given(approved_saga(), OrderPlaced())
        .when(signalled("approval", {"by": "ann"}))
        .then_nothing()
        .when(replied(Reserve, Reserved()))
        .then(issued(Ship(order_id="ann")))
    )


def test_signals_are_given_out_in_order_of_arrival():
    async def order(ctx, placed):
        names = [await ctx.wait("name") for _ in range(3)]
        await ctx.do(Ship(order_id="-".join(names)))

    (
        given(as_saga(order), OrderPlaced())
        .when(*(signalled("name", name) for name in "abcd"))
        .then(issued(Ship(order_id="a-b-c")))
    )


def test_wait_that_times_out_goes_on_without_signal():
    (
        given(approved_saga(), *WAITING)
        .when(after("59m"))
        .then_nothing()
        .when(after("1m"))
        .then(completed(None))
    )


def test_uncaught_timeout_rolls_back():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.wait("approval", timeout="1h")

    (
        given(as_saga(order), *WAITING)
        .when(timed_out("approval"))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, code="timed_out", reason="approval"))
    )


def test_won_wait_leaves_no_timer_that_could_disturb_the_next():
    """The second wait of the same name has its own whole time."""

    async def order(ctx, placed):
        await ctx.wait("name", timeout="10m")
        await ctx.wait("name", timeout="1h")
        return OrderConfirmed()

    (
        given(as_saga(order), OrderPlaced(), after("9m"), signalled("name"))
        .when(after("59m"))
        .then_nothing()
        .when(signalled("name"))
        .then(completed(OrderConfirmed()))
    )


def test_timer_that_is_no_longer_armed_is_recorded_and_changes_nothing():
    """A poller that lost the race does no harm, and the history says what it was."""
    from saga.core.events import TimerFired
    from saga.testing.happenings import Plain

    scenario = given(approved_saga(), *WAITING)
    (timer_id,) = scenario.state.timers
    (
        scenario.when(signalled("approval", {"by": "ann"}))
        .then(issued(Ship))
        .when(Plain(TimerFired(timer_id=timer_id)))
        .then(noted("stale", "armed no longer"))
        .when(Plain(TimerFired(timer_id=timer_id)))
        .then_was("duplicate")
    )


def test_signal_with_a_bad_payload_is_refused_and_the_wait_goes_on():
    """Recorded with the field that is wrong."""
    (
        given(approved_saga(), *WAITING)
        .when(signalled("approval", {"by": 7}))
        .then(noted("refused", "by:"))
        .when(signalled("approval", None))
        .then(noted("refused"))
        .when(signalled("approval", {"by": "ann"}))
        .then(issued(Ship(order_id="ann")))
    )


def test_early_signal_with_a_bad_payload_does_not_block_the_next():
    """It is refused when a wait looks at it."""
    (
        given(approved_saga(), OrderPlaced())
        .when(signalled("approval", 1), signalled("approval", {"by": "ann"}))
        .when(replied(Reserve, Reserved()))
        .then(noted("refused"), issued(Ship(order_id="ann")))
    )


def test_signal_without_payload_survives_its_history():
    """`null` is a payload like any other."""

    async def order(ctx, placed):
        assert await ctx.wait("go") is None
        return OrderConfirmed()

    given(as_saga(order), OrderPlaced()).when(signalled("go")).then(completed(OrderConfirmed()))


def test_signal_after_the_end_is_noted():
    """Nobody reads it, and that is on record."""
    (
        given(order_saga(), OrderPlaced(), refused(Reserve))
        .when(signalled("approval", {"by": "ann"}))
        .then(noted("after_end"))
    )


def test_same_signal_again_is_a_duplicate():
    (given(order_saga(), OrderPlaced()).when(signalled("x"), redelivered()).then_was("duplicate"))


def test_failed_turn_parks_the_saga_and_a_release_takes_it_again():
    """What follows is held behind it, in order."""
    is_fixed = False

    async def order(ctx, placed):
        await ctx.wait("a")
        assert is_fixed, "bug"
        await ctx.wait("b")
        return OrderConfirmed()

    scenario = (
        given(as_saga(order), OrderPlaced())
        .when(signalled("a"), signalled("b"))
        .then_parked("AssertionError: bug")
        .then_waits_for("operator")
    )
    scenario.when(operator("release")).then_parked("AssertionError: bug")
    is_fixed = True
    scenario.when(operator("release")).then(completed(OrderConfirmed()))


def test_failed_first_turn_parks_a_saga_that_begins_when_released():
    """The trigger is not lost."""
    is_fixed = False

    async def order(ctx, placed):
        assert is_fixed, "bug"
        return OrderConfirmed()

    scenario = given(as_saga(order)).when(OrderPlaced()).then_parked("bug")
    is_fixed = True
    scenario.when(operator("release")).then(completed(OrderConfirmed()))


def test_abandoned_before_it_began_a_saga_never_begins():
    """The trigger that was held is noted, not followed."""

    async def order(ctx, placed):
        raise KeyError("bug")

    (
        given(as_saga(order))
        .when(OrderPlaced())
        .then_parked("KeyError")
        .when(cancelled("never mind", mode="abandon"))
        .then(abandoned())
        .when(OrderPlaced())
        .then_status("abandoned")
    )


def test_release_goes_back_to_where_the_saga_stood():
    """Rolling back, parked on a stuck step, or ended: with the reason it had."""
    for happened, status in (
        ((), "running"),
        ((replied(Reserve, Reserved()), refused(Pay, "no")), "rolling_back"),
        ((replied(Reserve, Reserved()), refused(Pay, "no"), refused(Unreserve, "no")), "parked"),
        ((refused(Reserve, "no"),), "rolled_back"),
    ):
        scenario = given(order_saga(), OrderPlaced(), *happened).then_status(status)
        reason = scenario.state.reason
        scenario.when(turn_failed("bug")).then_parked("bug").when(operator("release"))
        assert (scenario.then_status(status).state.reason, status) == (reason, status)


def test_ended_saga_behind_a_failed_turn_is_still_ended():
    """Nobody can cancel, compensate or abandon it."""
    (
        given(order_saga(), OrderPlaced(), refused(Reserve, "no"), turn_failed("bug"))
        .when(operator("compensate"), cancelled(mode="abandon"), cancelled())
        .then(noted("after_end"), noted("refused"))
        .then_status("parked")
        .when(operator("release"))
        .then_status("rolled_back")
    )


def test_cancel_behind_a_failed_turn_is_refused_until_release():
    """What is held may change what is to be undone."""
    (
        given(order_saga(), OrderPlaced(), turn_failed("bug"))
        .when(cancelled())
        .then(noted("refused", "release"))
    )


def test_compensate_behind_a_failed_turn_rolls_back():
    """An operator need not wait for a fix."""
    (
        given(order_saga(), *WAITING, turn_failed("bug"))
        .when(operator("compensate"))
        .then(planned("pay", "reserve"), undo_issued(Refund))
    )
