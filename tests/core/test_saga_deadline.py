"""A deadline for the whole saga: past it the saga is rolled back, as by a graceful cancel."""

import pytest

from saga.errors import DefinitionError, ReplayMismatch
from saga.testing import (
    after,
    armed,
    cancelled,
    completed,
    failed,
    given,
    issued,
    noted,
    operator,
    parked,
    refused,
    replied,
    rolled_back,
    signalled,
    turn_failed,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    EXACT,
    ONCE,
    Notify,
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


async def slow(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve)
    await ctx.wait("approval")
    await ctx.do(Pay(), undo=Refund)
    return OrderConfirmed()


def limited(function, deadline="1h", **options):
    return given(as_saga(function, deadline=deadline, **options), contracts=CONTRACTS)


def test_it_runs_from_the_start_and_is_nothing_to_wait_for():
    (
        limited(slow)
        .when(OrderPlaced())
        .then(armed("saga", "deadline", "1h"), issued(Reserve))
        .then_waits_for("reply to reserve")
        .when(replied(Reserve, Reserved()))
        .then_waits_for("signal approval")
    )


def test_past_it_the_saga_is_rolled_back():
    (
        limited(slow)
        .when(OrderPlaced(), replied(Reserve, Reserved()))
        .when(after("59m"))
        .then_nothing()
        .when(after("1m"))
        .then(undo_issued(Unreserve))
        .when(signalled("approval"), replied(Unreserve))
        .then(rolled_back(OrderRejected, code="deadline", reason="deadline has passed"))
    )


def test_what_is_in_flight_settles_first():
    """Nothing new begins meanwhile, and no attempt is repeated."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Reserve(), undo=Unreserve), ctx.do(Pay(), undo=Refund, retry=EXACT))
        await ctx.do(Ship())

    (
        limited(order)
        .when(OrderPlaced(), after("1h"))
        .then_status("running")
        .when(replied(Reserve, Reserved()))
        .then()
        .when(failed(Pay))
        .then(undo_issued(Refund))
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, code="deadline"))
    )


def test_saga_that_ends_in_time_hears_no_more_of_it():
    scenario = limited(slow).when(
        OrderPlaced(), replied(Reserve, Reserved()), signalled("approval")
    )
    scenario.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))
    assert scenario.state.timers == {}
    scenario.when(after("2h")).then_nothing()


def test_past_the_pivot_it_is_noted_and_nothing_else():
    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        await ctx.do(Ship())
        return OrderConfirmed()

    (
        limited(order)
        .when(OrderPlaced(), replied(Pay, Paid()))
        .when(after("1h"))
        .then(noted("refused", "past its pivot"))
        .then_status("running")
        .when(after("2h"))
        .then_nothing()
        .when(replied(Ship))
        .then(completed(OrderConfirmed()))
    )


def test_pivot_that_succeeds_while_it_settles_does_not_save_the_saga():
    """As with a cancel."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Pay(), kind="pivot")

    (
        limited(order)
        .when(OrderPlaced(), replied(Reserve, Reserved()), after("1h"))
        .when(replied(Pay, Paid()))
        .then(undo_issued(Unreserve))
    )


def test_parked_saga_is_rolled_back_too():
    """One that parked on a step before its pivot."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Ship(), kind="retriable", retry=ONCE)

    (
        limited(order)
        .when(OrderPlaced(), replied(Reserve, Reserved()))
        .when(refused(Ship))
        .then(parked("ship"))
        .when(after("1h"))
        .then(undo_issued(Unreserve))
        .then_status("rolling_back")
    )


def test_saga_held_by_a_failed_turn_is_rolled_back_once_it_is_released():
    scenario = limited(slow).when(OrderPlaced(), replied(Reserve, Reserved()))
    scenario.when(turn_failed("a bug"), after("2h")).then_status("parked")
    scenario.when(operator("release"), after("0s")).then(undo_issued(Unreserve))


def test_rollback_that_is_under_way_is_not_hurried():
    (
        limited(slow)
        .when(OrderPlaced(), cancelled())
        .then_status("running")
        .when(after("1h"))
        .then(noted("refused", "on its way back"))
        .when(replied(Reserve, Reserved()))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, code="cancelled"))
    )


def test_cancel_can_be_made_immediate_while_it_settles():
    scenario = limited(slow).when(OrderPlaced(), after("1h"))
    scenario.when(cancelled(mode="graceful")).then(noted("refused"))
    scenario.when(cancelled(mode="immediate")).then(undo_issued(Unreserve))


def test_saga_that_is_through_completes():
    """What it had given up is being undone."""

    async def order(ctx, placed):
        await ctx.any(ctx.do(Notify()), ctx.do(Pay(), undo=Refund))
        return OrderConfirmed()

    scenario = limited(order).when(OrderPlaced(), replied(Notify))
    scenario.when(after("1h")).then(noted("refused", "about to complete"))
    scenario.when(replied(Pay, Paid()), replied(Refund)).then_status("completed")


@pytest.mark.parametrize("deadline", ["soon", "0s", "-1h", 7, "101y"])
def test_deadline_that_makes_no_sense_is_refused_with_its_place(deadline):
    with pytest.raises(DefinitionError, match="saga 'order': deadline=") as refusal:
        as_saga(slow, deadline=deadline)

    assert refusal.value.where.startswith(f"{__file__}:")


class TestChangedCode:
    def test_deadline_that_only_the_code_has_runs_from_now_on(self):
        history = given(as_saga(slow), OrderPlaced(), replied(Reserve, Reserved())).history
        scenario = given(as_saga(slow, deadline="1h"), history=history, contracts=CONTRACTS)

        assert as_saga(slow, deadline="1h").fingerprint != as_saga(slow).fingerprint
        scenario.when().then(armed("saga", "deadline", "1h"))
        scenario.when(after("1h")).then(undo_issued(Unreserve))

    @pytest.mark.parametrize("end", [(), (replied(Unreserve),)])
    def test_it_is_no_difference_of_a_saga_that_goes_back_or_has_ended(self, end):
        scenario = given(as_saga(slow), OrderPlaced(), replied(Reserve, Reserved()), cancelled())
        history = scenario.when(*end).history

        again = given(as_saga(slow, deadline="1h"), history=history, contracts=CONTRACTS)
        again.when().then_nothing()

    def test_deadline_that_only_the_history_has_is_a_difference(self):
        history = given(as_saga(slow, deadline="1h"), OrderPlaced()).history
        with pytest.raises(ReplayMismatch, match="timer-armed saga deadline"):
            given(as_saga(slow), history=history, contracts=CONTRACTS)

    def test_how_long_it_is_stays_as_it_was(self):
        history = given(as_saga(slow, deadline="1h"), OrderPlaced()).history
        scenario = given(as_saga(slow, deadline="9h"), history=history, contracts=CONTRACTS)
        scenario.when(replied(Reserve, Reserved()), after("1h")).then(undo_issued(Unreserve))


def test_it_counts_from_the_first_start_in_all_runs_of_the_saga():
    async def order(ctx, placed):
        await ctx.sleep("40m")
        await ctx.continue_as_new(placed)

    (
        limited(order)
        .when(OrderPlaced(), after("40m"))
        .then(armed("saga", "deadline", "20m"))
        .when(after("20m"))
        .then(rolled_back(OrderRejected, code="deadline"))
    )
