"""SEMANTICS of undoing: what is undone, in what order, with what data, and what remains."""

import pytest

from saga.core.retry import Retry
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
    parked,
    planned,
    redelivered,
    refused,
    replied,
    rolled_back,
    timed_out,
    undo_issued,
    undo_stuck,
)
from tests.toys import (
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
    Unship,
    as_saga,
    order_saga,
)

DONE_TWO = (OrderPlaced(), replied(Reserve, Reserved()), replied(Pay, Paid()))


def test_saga_goes_through_its_steps_and_completes():
    """Each reply leads to the next intent, the last one to the outcome."""
    (
        given(order_saga())
        .when(OrderPlaced())
        .then(issued(Reserve()))
        .when(replied(Reserve, Reserved()))
        .then(issued(Pay(amount=3)))
        .when(replied(Pay, Paid()))
        .then(issued(Ship()))
        .when(replied(Ship))
        .then(completed(OrderConfirmed()))
        .then_status("completed")
        .then_waits_for(None)
    )


def test_undo_is_in_exactly_reverse_order_of_issue():
    (
        given(order_saga(), *DONE_TWO)
        .when(failed(Ship, "truck broke", code="truck"))
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship()))
        .then_status("rolling_back")
        .when(replied(Unship))
        .then(undo_issued(Refund(receipt="r-1")))
        .when(replied(Refund))
        .then(undo_issued(Unreserve(shelf="s-1")))
        .when(replied(Unreserve))
        .then(
            rolled_back(
                OrderRejected(reason="truck broke", code="truck", failed_step="ship"),
                reason="truck broke",
                code="truck",
                failed_step="ship",
            )
        )
        .then_status("rolled_back")
        .then_steps(reserve="undone", pay="undone", ship="undone")
    )


def test_refused_step_is_not_undone():
    (
        given(order_saga(), *DONE_TWO)
        .when(refused(Ship, "no van", code="van"))
        .then(planned("pay", "reserve"), undo_issued(Refund))
        .then_steps(ship="refused")
    )


def test_step_in_doubt_is_undone_from_its_intent_alone():
    """After a missed deadline the effect may be there; its reply is not, and is not needed."""
    (
        given(order_saga(timeout="30s"), OrderPlaced(), replied(Reserve, Reserved()))
        .when(timed_out(Pay))
        .then(planned("pay", "reserve"), undo_issued(Refund(receipt=None)))
        .then_steps(pay="undoing")
    )


def test_first_step_refused_rolls_back_at_once():
    """With nothing to undo the saga has ended in the same turn."""
    (
        given(order_saga(), OrderPlaced())
        .when(refused(Reserve, "sold out"))
        .then(planned(), rolled_back(OrderRejected, reason="sold out", failed_step="reserve"))
        .then_status("rolled_back")
    )


def test_step_without_undo_is_residue():
    """What a step without undo has done is still there: the saga says so."""

    async def notified(ctx, placed):
        await ctx.do(Notify())
        await ctx.do(Ship(), retry=ONCE)

    (
        given(as_saga(notified), OrderPlaced(), replied(Notify))
        .when(refused(Ship, "no"))
        .then(planned(), rolled_back(OrderRejected, residue=("notify",)))
        .then_status("rolled_back_with_residue")
    )


@pytest.mark.parametrize("kind", ["read_only", "harmless"])
def test_step_that_needs_no_undo_is_neither_undone_nor_residue(kind):
    async def looked(ctx, placed):
        await ctx.do(Notify(), kind=kind)
        await ctx.do(Ship(), retry=ONCE)

    (
        given(as_saga(looked), OrderPlaced(), replied(Notify))
        .when(refused(Ship, "no"))
        .then(rolled_back(OrderRejected))
        .then_status("rolled_back")
    )


def test_failing_undo_is_retried_without_limit_by_default():
    """Undoing goes on until it succeeds, with growing delays."""
    scenario = given(order_saga(), OrderPlaced(), replied(Reserve, Reserved()))
    scenario.when(refused(Pay, "no"))
    for attempt in range(1, 30):
        scenario.then(undo_issued(Unreserve, attempt=attempt))
        scenario.when(failed(Unreserve), after("1m"))
    scenario.when(replied(Unreserve)).then(rolled_back(OrderRejected))


def stuck_saga(**options):
    """Pay's undo is tried twice."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(
            Pay(), undo=Refund, undo_retry=Retry(attempts=2, initial="1s", jitter=0), retry=ONCE
        )
        await ctx.do(Ship(), retry=ONCE)

    return as_saga(order, **options)


TO_UNDO = (*DONE_TWO, refused(Ship, "no"))


def test_exhausted_undo_parks_and_nothing_before_it_is_undone():
    """With `halt` the steps that the stuck one built on stay as they are, until someone acts."""
    (
        given(stuck_saga(), *TO_UNDO)
        .when(failed(Refund, "bank down"))
        .then(armed("retry", "pay/undo", "1s"))
        .when(after("1s"))
        .then(undo_issued(Refund, attempt=2))
        .when(failed(Refund, "bank down", code="down"))
        .then(undo_stuck("pay", code="down"), parked("cannot undo pay"))
        .then_steps(pay="undo_stuck", reserve="done")
        .then_waits_for("operator")
        .when(after("30d"))
        .then_nothing()
    )


def test_refused_undo_is_stuck_at_once():
    """A `No` to an undo is no matter of trying again."""
    (
        given(stuck_saga(), *TO_UNDO)
        .when(refused(Refund, "account closed"))
        .then(undo_stuck("pay"), parked("cannot undo pay"))
    )


def test_continue_goes_on_past_a_stuck_step_and_lists_it():
    (
        given(stuck_saga(when_stuck="continue"), *TO_UNDO)
        .when(refused(Refund, "account closed"))
        .then(undo_stuck("pay"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(
            rolled_back(
                OrderRejected(reason="no", code="refused", failed_step="ship", residue=("pay",)),
                residue=("pay",),
            )
        )
        .then_status("rolled_back_with_residue")
    )


def test_saga_does_not_end_while_an_operator_repeats_an_undo():
    """The plan is through, but a step it had passed is being undone after all."""
    (
        given(stuck_saga(when_stuck="continue"), *TO_UNDO, refused(Refund, "closed"))
        .when(operator("retry", "pay"))
        .then(undo_issued(Refund, attempt=2))
        .when(replied(Unreserve))
        .then_nothing()
        .when(failed(Refund), after("1s"))
        .then(undo_issued(Refund, attempt=3))
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
    )


def test_what_waits_for_a_stuck_step_waits_for_its_repeated_undo():
    """Once an operator begins anew with it, the plan has not passed it any more."""

    async def order(ctx, placed):
        await ctx.do(Notify(), undo=Unship)
        await ctx.all(ctx.do(Reserve(), undo=Unreserve), ctx.do(Pay(), undo=Refund))
        await ctx.do(Ship(), retry=ONCE)

    saga = as_saga(order, parallel_undo=True, when_stuck="continue")
    (
        given(saga, OrderPlaced(), replied(Notify), replied(Pay, Paid()))
        .when(replied(Reserve, Reserved()), refused(Ship, "no"), refused(Refund, "closed"))
        .when(operator("retry", "pay"))
        .then(undo_issued(Refund, attempt=2))
        .when(replied(Unreserve))
        .then_nothing()
        .when(replied(Refund))
        .then(undo_issued(Unship))
    )


def test_operator_retries_a_stuck_undo_with_a_fresh_budget():
    """The act issues the next attempt at once, and the policy counts anew."""
    (
        given(stuck_saga(), *TO_UNDO, refused(Refund, "account closed"))
        .when(operator("retry", "pay"))
        .then(undo_issued(Refund, attempt=2))
        .then_status("rolling_back")
        .when(failed(Refund))
        .then(armed("retry", "pay/undo", "1s"))
        .when(after("1s"))
        .then(undo_issued(Refund, attempt=3))
        .when(failed(Refund))
        .then(undo_stuck("pay"), parked())
        .when(operator("retry"))
        .then(undo_issued(Refund, attempt=4))
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected))
    )


def test_operator_skips_a_stuck_undo():
    (
        given(stuck_saga(), *TO_UNDO, refused(Refund, "account closed"))
        .when(operator("skip", "pay"))
        .then(undo_issued(Unreserve))
        .then_steps(pay="skipped")
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, residue=("pay",)))
        .then_status("rolled_back_with_residue")
    )


def test_second_answer_to_an_undo_is_a_conflict():
    """A `failed` stands: whoever says "done" to the same attempt must be looked at."""
    (
        given(stuck_saga(), *TO_UNDO, failed(Refund), after("1s"), failed(Refund))
        .then_parked("cannot undo pay")
        .when(replied(Refund, attempt=1))
        .then(noted("conflicting"))
        .when(redelivered())
        .then_was("id_conflict")
    )


def test_undo_that_missed_its_deadline_succeeds_late():
    """The attempt given up on was done: the undo counts, and the retry is not needed."""

    async def order(ctx, placed):
        await ctx.do(
            Pay(), undo=Refund, timeout="30s", undo_retry=Retry(attempts=2, initial="1s", jitter=0)
        )
        await ctx.do(Ship(), retry=ONCE)

    begun = (OrderPlaced(), replied(Pay, Paid()), refused(Ship, "no"))
    (
        given(as_saga(order), *begun, timed_out(Refund), after("1s"), timed_out(Refund))
        .then_parked("cannot undo pay")
        .when(replied(Refund, attempt=1))
        .then(noted("late_success"), rolled_back(OrderRejected))
        .then_status("rolled_back")
    )


def test_groups_are_undone_one_by_one_by_default():
    """What was issued side by side is undone in exactly reverse order of issue."""
    (
        given(group_saga(), OrderPlaced(), replied(Pay, Paid()), replied(Reserve, Reserved()))
        .when(refused(Ship, "no"))
        .then(planned("pay", "reserve"), undo_issued(Refund))
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
    )


def test_parallel_undo_undoes_a_group_side_by_side():
    """Where the saga says so, and what came before the group waits for all of it."""
    (
        given(group_saga(parallel_undo=True), OrderPlaced())
        .when(replied(Pay, Paid()), replied(Reserve, Reserved()))
        .when(refused(Ship, "no"))
        .then(planned(("pay", "reserve")), undo_issued(Refund), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then_nothing()
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
    )


def test_stuck_sibling_halts_only_after_the_group_is_through():
    """Independent branches of a group go on; then the saga parks."""
    (
        given(group_saga(parallel_undo=True), OrderPlaced())
        .when(replied(Pay, Paid()), replied(Reserve, Reserved()), refused(Ship, "no"))
        .when(refused(Refund, "closed"))
        .then(undo_stuck("pay"))
        .then_status("rolling_back")
        .when(replied(Unreserve))
        .then(parked("cannot undo pay"))
        .when(operator("skip"))
        .then(rolled_back(OrderRejected, residue=("pay",)))
    )


def group_saga(**options):
    """Reserve and pay side by side, then ship."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Reserve(), undo=Unreserve), ctx.do(Pay(), undo=Refund))
        await ctx.do(Ship(), retry=ONCE)

    return as_saga(order, **options)


def test_no_forward_intent_after_the_first_undo():
    """A step whose retry was pending when the rollback began is not issued again."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve, retry=EXACT), ctx.do(Pay(), undo=Refund, retry=EXACT)
        )

    (
        given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()), failed(Pay))
        .when(cancelled("changed my mind", mode="immediate"))
        .then(planned("pay", "reserve"), undo_issued(Refund))
        .when(after("1d"))
        .then_nothing()
    )


def test_program_may_raise_rollback():
    """`RollBack` undoes everything, with the reason and code it gives."""
    from saga.authoring import RollBack

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        raise RollBack("too late", code="late")

    (
        given(as_saga(order), OrderPlaced())
        .when(replied(Reserve, Reserved()))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected(reason="too late", code="late"), code="late"))
    )


def test_rolled_back_may_be_a_function_of_trigger_and_report():
    def rejected(placed, report):
        return OrderRejected(order_id=placed.order_id, reason=f"{report.failed_step}!")

    (
        given(as_saga(plain, rolled_back=rejected), OrderPlaced())
        .when(refused(Ship, "no"))
        .then(rolled_back(OrderRejected(reason="ship!")))
    )


async def plain(ctx, placed):
    """One step."""
    await ctx.do(Ship(), retry=ONCE)


def test_rollback_without_outcome_publishes_nothing():
    """A saga that names no `rolled_back` ends without an event."""
    (
        given(as_saga(plain, rolled_back=None), OrderPlaced())
        .when(refused(Ship, "no"))
        .then(rolled_back(None, reason="no"))
    )


@pytest.mark.parametrize("undo", [lambda pay, paid: Refund(order_id=f"{pay.amount}/{paid}")])
def test_undo_may_be_a_function_of_intent_and_reply(undo):
    async def order(ctx, placed):
        await ctx.do(Pay(), undo=undo, timeout="1s", retry=ONCE)

    (
        given(as_saga(order), OrderPlaced(), contracts=[Refund])
        .when(timed_out(Pay))
        .then(undo_issued(Refund(order_id="3/None")))
    )


def test_undo_that_cannot_be_built_parks_and_heals_by_a_deploy():
    """A bug in an undo function is a failed turn: nothing is lost, the release takes it again."""
    is_fixed = False

    def undo(pay, paid):
        assert is_fixed, "bug"
        return Refund()

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=undo)
        await ctx.do(Ship(), retry=ONCE)

    scenario = (
        given(as_saga(order), OrderPlaced(), replied(Pay, Paid()), contracts=[Refund])
        .when(refused(Ship, "no"))
        .then_parked("AssertionError: bug")
    )
    is_fixed = True
    scenario.when(operator("release")).then(planned("pay"), undo_issued(Refund))


def test_compensate_rolls_back_whatever_the_program_thinks():
    """An operator can turn a running saga around."""
    (
        given(order_saga(), *DONE_TWO)
        .when(operator("compensate", reason="fraud"))
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship))
        .when(operator("compensate"))
        .then(noted("refused", "rolling_back"))
    )


def test_abandon_undoes_nothing_and_lists_residue():
    """The saga ends as it stands; nothing that comes later moves it."""
    (
        given(order_saga(timeout="30s"), *DONE_TWO)
        .when(cancelled("give up", mode="abandon"))
        .then(abandoned(residue=("reserve", "pay", "ship"), reason="give up"))
        .then_status("abandoned")
        .when(replied(Ship))
        .then(noted("late_success"))
        .then_status("abandoned")
        .when(after("1d"))
        .then_nothing()
    )


def test_abandon_during_rollback_stops_it():
    """No undo is retried, and no later reply issues another one."""
    (
        given(order_saga(timeout="30s"), *TO_UNDO)
        .when(cancelled("give up", mode="abandon"))
        .then(abandoned(residue=("reserve", "pay")))
        .when(failed(Refund))
        .then(noted("superseded", "skipped"))
        .when(after("1d"))
        .then_nothing()
        .when(operator("retry", "pay"))
        .then(noted("refused"))
    )


def test_late_successes_of_two_steps_wait_for_the_undo_in_hand():
    """The one that the plan had put before the other is not undone again at its old place."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.all(ctx.do(Pay(), undo=Refund), ctx.do(Ship(), undo=Unship))

    (
        given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()))
        .when(cancelled("no", mode="immediate"), replied(Unship), replied(Refund))
        .then_steps(reserve="undoing", pay="undone", ship="undone")
        .when(replied(Pay, Paid()), replied(Ship))
        .then_steps(reserve="undoing", pay="done", ship="done")
        .when(replied(Unreserve))
        .then_steps(reserve="undone", pay="undoing", ship="done")
        .when(replied(Refund), replied(Unship))
        .then_steps(reserve="undone", pay="undone", ship="undone")
    )
