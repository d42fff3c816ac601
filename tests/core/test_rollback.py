"""SEMANTICS of undoing: what is undone, in what order, with what data, and what remains."""

from dataclasses import replace

import pytest

from saga.contracts import message_of
from saga.core.intents import IntentIssued, PlannedUndo, RollbackPlanned, SagaAbandoned
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
    rollback_due,
    rolled_back,
    settled,
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
    """Of what was issued side by side, the one that ended last is undone first."""
    (
        given(group_saga(), OrderPlaced(), replied(Pay, Paid()), replied(Reserve, Reserved()))
        .when(refused(Ship, "no"))
        .then(planned("reserve", "pay"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(undo_issued(Refund))
    )


def test_what_has_not_ended_is_undone_before_its_siblings():
    """It may still be at work; what was issued last comes first."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve),
            ctx.do(Pay(), undo=Refund),
            ctx.do(Ship(), undo=Unship),
        )

    (
        given(as_saga(order), OrderPlaced(), replied(Ship))
        .when(cancelled("no", mode="immediate"))
        .then(planned("pay", "reserve", "ship"), undo_issued(Refund))
    )


def test_parallel_undo_undoes_a_group_side_by_side():
    """Where the saga says so, and what came before the group waits for all of it."""
    (
        given(group_saga(parallel_undo=True), OrderPlaced())
        .when(replied(Pay, Paid()), replied(Reserve, Reserved()))
        .when(refused(Ship, "no"))
        .then(planned(("reserve", "pay")), undo_issued(Unreserve), undo_issued(Refund))
        .when(replied(Unreserve))
        .then_nothing()
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
    )


async def two_branches(ctx, placed):
    """Reserve and pay in one branch, look and notify in the other one, each behind the other."""

    async def buy():
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Pay(), undo=Refund, undo_retry=ONCE)

    async def tell():
        await ctx.do(Notify(), id="note", undo=Unship, undo_retry=ONCE)
        await ctx.do(Notify(), id="look", kind="read_only")
        await ctx.do(Notify(), id="second-note", undo=Unship)

    await ctx.all(buy(), tell())
    await ctx.do(Ship(), retry=ONCE)


IN_TWO_BRANCHES = (
    OrderPlaced(),
    replied("note"),
    replied(Reserve, Reserved()),
    replied("look"),
    replied(Pay, Paid()),
    replied("second-note"),
    refused(Ship, "no"),
)


def plan_of(scenario):
    """The steps of the plan in order, each with those that it waits for."""
    plan = scenario.state.plan
    return {step: list(after) for step, after in plan.after.items()}


def test_branches_are_undone_side_by_side_each_in_its_own_order():
    """A step waits for what depended on it, through a step without an undo too."""
    scenario = given(as_saga(two_branches, parallel_undo=True), *IN_TWO_BRANCHES)
    assert plan_of(scenario) == {
        "second-note": [],
        "pay": [],
        "reserve": ["pay"],
        "note": ["second-note"],
    }
    (
        scenario.then_steps(second_note="undoing", pay="undoing", reserve="done", note="done")
        .when(replied(Unship, step="second-note"))
        .then(undo_issued(Unship, step="note"))
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
    )


def test_branches_are_undone_one_by_one_the_latest_end_first():
    scenario = given(as_saga(two_branches), *IN_TWO_BRANCHES)
    assert list(scenario.state.plan.after) == ["second-note", "pay", "reserve", "note"]
    scenario.when(replied(Unship, step="second-note")).then(undo_issued(Refund))
    scenario.when(replied(Refund)).then(undo_issued(Unreserve))
    scenario.when(replied(Unreserve)).then(undo_issued(Unship, step="note"))
    scenario.when(replied(Unship, step="note")).then(rolled_back(OrderRejected))


@pytest.mark.parametrize("options", [{}, {"parallel_undo": True}])
def test_stuck_step_halts_only_what_it_depended_on(options):
    """The other branch is undone to its beginning; then the saga parks."""
    scenario = given(as_saga(two_branches, **options), *IN_TWO_BRANCHES)
    scenario.when(replied(Unship, step="second-note"), refused(Refund, "closed"))
    scenario.then_status("rolling_back").then_steps(reserve="done", note="undoing")
    (
        scenario.when(replied(Unship, step="note"))
        .then(parked("cannot undo pay"))
        .then_steps(reserve="done", pay="undo_stuck")
        .when(operator("retry", "pay"))
        .then(undo_issued(Refund, attempt=2))
        .then_steps(reserve="done")
        .when(replied(Refund))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected))
    )


def test_two_stuck_steps_are_named_when_the_saga_parks():
    (
        given(as_saga(two_branches), *IN_TWO_BRANCHES)
        .when(replied(Unship, step="second-note"), refused(Refund, "closed"))
        .when(refused(Unship, "gone", step="note"))
        .then(parked("cannot undo pay, note"))
        .when(operator("skip", "pay"))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(parked("cannot undo note"))
        .when(operator("skip", "note"))
        .then(rolled_back(OrderRejected, residue=("note", "pay")))
    )


def test_plan_of_an_earlier_release_stands():
    """It undid in the order of issue, each behind the one before it, and goes on like that."""
    scenario = given(group_saga(), OrderPlaced(), replied(Pay, Paid()))
    scenario.when(replied(Reserve, Reserved()), refused(Ship, "no"))
    entries = []
    for entry in scenario.history:
        match entry.body:
            case RollbackPlanned():
                steps = (PlannedUndo(step="pay"), PlannedUndo(step="reserve"))
                body = replace(entry.body, steps=steps, one_by_one=None)
            case IntentIssued(direction="undo"):
                message = message_of(Refund(receipt="r-1"))
                body = replace(
                    entry.body,
                    step="pay",
                    contract=message.contract,
                    payload=message.payload,
                    undoes="shop.int.pay.v1",
                    kind="compensatable",
                )
            case body:
                pass
        entries.append(replace(entry, body=body))

    again = given(group_saga(), history=entries)

    again.when(replied(Refund)).then(undo_issued(Unreserve))


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
    """An operator can turn a running saga around; what is in flight settles first."""
    (
        given(order_saga(), *DONE_TWO)
        .when(operator("compensate", reason="fraud"))
        .then(rollback_due("fraud", code="compensated"))
        .then_status("running")
        .then_waits_for("reply to ship")
        .when(operator("compensate"))
        .then(noted("refused", "on its way back"))
        .when(cancelled("no"))
        .then(noted("refused", "on its way back"))
        .when(replied(Ship))
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship))
        .when(operator("compensate"))
        .then(noted("refused", "rolling_back"))
    )


def test_immediate_cancel_does_not_wait_for_what_a_rollback_waits_for():
    """What is in flight is in doubt at once; the reason stays."""
    (
        given(order_saga(), *DONE_TWO, operator("compensate", reason="fraud"))
        .when(cancelled("now", mode="immediate"))
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship))
        .then_steps(ship="undoing")
        .when(replied(Unship), replied(Refund), replied(Unreserve))
        .then(
            undo_issued(Refund),
            undo_issued(Unreserve),
            rolled_back(OrderRejected, reason="fraud", code="compensated"),
        )
    )


def test_rollback_waits_for_what_is_in_flight_and_tries_nothing_again():
    """A step that fails meanwhile is not retried, and one that waits for its retry is given up."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve, retry=EXACT),
            ctx.do(Pay(), undo=Refund, retry=EXACT, timeout="30s"),
            ctx.do(Ship(), undo=Unship, retry=EXACT),
        )

    (
        given(as_saga(order), OrderPlaced(), failed(Reserve))
        .when(operator("compensate"))
        .then(rollback_due(), settled("reserve", "failed"))
        .when(failed(Ship))
        .then(settled("ship", "failed"))
        .when(after("30s"))
        .then(settled("pay", "in_doubt"), planned("pay", "ship", "reserve"), undo_issued(Refund))
    )


def test_late_success_before_the_plan_is_made_is_in_it():
    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="30s"), ctx.do(Ship(), undo=Unship)
        )

    (
        given(as_saga(order), OrderPlaced(), operator("compensate"), after("30s"))
        .when(replied(Pay, Paid()))
        .then(noted("late_success"))
        .when(replied(Ship))
        .then(planned("ship", "pay"), undo_issued(Unship))
        .when(replied(Unship))
        .then(undo_issued(Refund(receipt="r-1")))
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


def test_saga_that_is_abandoned_while_it_cleans_up_has_no_second_outcome():
    """What it said when it ended stands."""

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)

    scenario = given(as_saga(order), OrderPlaced(), cancelled(mode="immediate"))
    scenario.when(replied(Refund)).then_status("rolled_back")
    outcome = scenario.state.outcome
    scenario.when(replied(Pay, Paid(), attempt=1)).then_status("rolling_back")

    scenario.when(cancelled(mode="abandon")).then_status("abandoned")

    [ended] = [each.body for each in scenario.history if isinstance(each.body, SagaAbandoned)]
    assert (ended.outcome, ended.had_outcome, ended.residue) == (None, True, ("pay",))
    assert outcome is not None
    assert scenario.state.outcome == outcome
