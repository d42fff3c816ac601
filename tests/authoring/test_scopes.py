"""`async with ctx.scope():`, which is undone by itself when a failure leaves it."""

from contextlib import AsyncExitStack

import pytest

from saga.authoring import RollBack, StepFailed, TimedOut
from saga.contracts import Event
from saga.core.events import Paused, Resumed
from saga.core.intents import IntentIssued, ScopeUndone
from saga.core.words import told
from saga.errors import DefinitionError, ReplayMismatch
from saga.testing import (
    abandoned,
    after,
    cancelled,
    child_completed,
    child_started,
    child_undo_asked,
    child_undone,
    completed,
    failed,
    given,
    issued,
    noted,
    operator,
    parked,
    planned,
    refused,
    replied,
    resumed,
    rollback_due,
    rolled_back,
    scope_undone,
    settled,
    signalled,
    timed_out,
    undo_appended,
    undo_issued,
    undo_stuck,
)
from saga.testing.happenings import Plain
from tests.toys import (
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
)


class ParcelAsked(Event, topic="scoped.parcel-asked", version=1, key="parcel_id"):
    parcel_id: str = "p-1"


CONTRACTS = (Reserve, Unreserve, Pay, Refund, Ship, Unship, Notify, OrderConfirmed, ParcelAsked)


def running(function, *happened, **options):
    return given(as_saga(function, **options), *happened, contracts=CONTRACTS)


def reserve(ctx, **options):
    return ctx.do(Reserve(), undo=Unreserve, **options)


def pay(ctx, **options):
    return ctx.do(Pay(), undo=Refund, retry=ONCE, **options)


async def order(ctx, placed):
    """Reserve and pay in a scope; where that is left, ship all the same."""
    try:
        async with ctx.scope():
            await reserve(ctx)
            await pay(ctx)
    except StepFailed as failure:
        return OrderConfirmed(order_id=f"{placed.order_id} {failure.code}")
    return OrderConfirmed()


RESERVED = (OrderPlaced(), replied(Reserve, Reserved()))


def test_left_by_a_failure_it_is_undone_before_the_failure_goes_on():
    (
        running(order, *RESERVED)
        .when(refused(Pay, "no", code="broke"))
        .then(planned("reserve", scope="scope-1"), undo_issued(Unreserve(shelf="s-1")))
        .then_status("running")
        .then_waits_for("undo of reserve")
        .when(replied(Unreserve))
        .then(scope_undone("scope-1"), completed(OrderConfirmed(order_id="o-1 broke")))
    )


def test_failing_step_is_undone_unless_nothing_happened():
    (
        running(order, *RESERVED)
        .when(failed(Pay))
        .then(planned("pay", "reserve", scope="scope-1"), undo_issued(Refund))
    )


def test_left_normally_its_steps_stay_in_the_plan_of_the_saga():
    async def order(ctx, placed):
        async with ctx.scope():
            await reserve(ctx)
        await pay(ctx)

    (
        running(order, *RESERVED)
        .when(refused(Pay))
        .then(planned("reserve"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected))
    )


def test_what_it_has_undone_is_not_in_a_later_plan():
    async def order(ctx, placed):
        await ctx.do(Notify(), id="first", undo=Unship)
        async with ctx.scope():
            await reserve(ctx)
            raise RollBack("enough", code="late")

    (
        running(order, OrderPlaced(), replied("first"), replied(Reserve, Reserved()))
        .when(replied(Unreserve))
        .then(scope_undone("scope-1"), planned("first"), undo_issued(Unship))
        .when(replied(Unship))
        .then(rolled_back(OrderRejected, reason="enough", code="late"))
        .then_steps(reserve="undone", first="undone")
    )


def give_up(reason="enough"):
    raise RollBack(reason)


@pytest.mark.parametrize("how", [RollBack, TimedOut])
def test_each_failure_leaves_it_undone(how):
    async def order(ctx, placed):
        try:
            async with ctx.scope("trip"):
                await reserve(ctx)
                if how is RollBack:
                    give_up()
                await ctx.wait("go", timeout="1m")
        except how:
            return OrderConfirmed()

    (
        running(order, *RESERVED)
        .when(after("1m"))
        .when(replied(Unreserve))
        .then(scope_undone("trip"), completed(OrderConfirmed()))
    )


def test_a_bug_in_it_parks_and_undoes_nothing():
    async def order(ctx, placed):
        async with ctx.scope():
            await reserve(ctx)
            raise LookupError("bug")

    running(order, *RESERVED).then_parked("LookupError: bug")


def test_a_scope_in_which_nothing_was_issued_is_left_at_once():
    async def order(ctx, placed):
        try:
            async with ctx.scope():
                give_up()
        except RollBack:
            return OrderConfirmed()

    running(order).when(OrderPlaced()).then(
        planned(scope="scope-1"), scope_undone("scope-1"), completed(OrderConfirmed())
    )


def test_the_same_scope_in_a_loop_is_another_one_each_time():
    """Numbered, or named by the function."""

    async def order(ctx, placed):
        for attempt in range(1, 3):
            try:
                async with ctx.scope(f"try-{attempt}"):
                    await reserve(ctx)
                    await pay(ctx)
                break
            except StepFailed:
                continue
        async with ctx.scope():
            await ctx.do(Ship())
        async with ctx.scope():
            await ctx.do(Notify())
        return OrderConfirmed()

    (
        running(order, *RESERVED)
        .when(refused(Pay))
        .then(planned("reserve", scope="try-1"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(scope_undone("try-1"), issued(Reserve, scope="try-2"))
        .when(replied(Reserve, Reserved()), replied(Pay, Paid()))
        .then(issued(Pay, scope="try-2"), issued(Ship, scope="scope-1"))
        .when(replied(Ship))
        .then(issued(Notify, scope="scope-2"))
        .when(replied(Notify))
        .then(completed(OrderConfirmed()))
    )


# One within another.


async def nested(ctx, placed):
    try:
        async with ctx.scope("trip"):
            await reserve(ctx)
            try:
                async with ctx.scope("hotel"):
                    await pay(ctx)
                    await ctx.do(Notify(), retry=ONCE)
            except StepFailed as failure:
                if failure.code != "soft":
                    raise
            await ctx.do(Ship(), retry=ONCE)
    except StepFailed:
        return OrderConfirmed(shelf="none")
    return OrderConfirmed()


PAID_IN_HOTEL = (*RESERVED, replied(Pay, Paid()))


def test_inner_scope_is_undone_alone():
    (
        running(nested, *PAID_IN_HOTEL)
        .when(refused(Notify, code="soft"))
        .then(planned("pay", scope="trip/hotel"), undo_issued(Refund))
        .when(replied(Refund))
        .then(scope_undone("trip/hotel"), issued(Ship, scope="trip"))
        .when(replied(Ship))
        .then(completed(OrderConfirmed()))
        .then_steps(reserve="done", pay="undone")
    )


def test_failure_that_leaves_both_undoes_one_after_the_other():
    (
        running(nested, *PAID_IN_HOTEL)
        .when(refused(Notify, code="hard"))
        .then(planned("pay", scope="trip/hotel"), undo_issued(Refund))
        .when(replied(Refund))
        .then(
            scope_undone("trip/hotel"),
            planned("reserve", scope="trip"),
            undo_issued(Unreserve),
        )
        .when(replied(Unreserve))
        .then(scope_undone("trip"), completed(OrderConfirmed(shelf="none")))
    )


def test_outer_scope_undoes_what_the_inner_one_has_left_done():
    (
        running(nested, *PAID_IN_HOTEL)
        .when(replied(Notify), refused(Ship))
        .then(issued(Ship), planned("pay", "reserve", scope="trip"), undo_issued(Refund))
        .when(replied(Refund), replied(Unreserve))
        .then(
            undo_issued(Unreserve),
            scope_undone("trip", residue=("notify",)),
            completed(OrderConfirmed(shelf="none"), residue=("notify",)),
        )
    )


# What is in flight, and what goes on meanwhile.


def test_what_is_in_flight_in_it_settles_first():
    """The loser of a race in the scope; its late answer is taken into the plan."""

    async def order(ctx, placed):
        async with ctx.scope():
            await ctx.any(reserve(ctx), ctx.do(Notify()))
            await ctx.do(Ship(), retry=ONCE)

    (
        running(order, OrderPlaced(), replied(Notify))
        .when(refused(Ship, "no", code="van"))
        .then(rollback_due("no", code="van", failed_step="ship", scope="scope-1"))
        .then_waits_for("reply to reserve")
        .when(replied(Reserve, Reserved()))
        .then(planned("reserve", scope="scope-1"), undo_issued(Unreserve(shelf="s-1")))
        .when(replied(Unreserve))
        .then(
            scope_undone("scope-1", residue=("notify",)),
            planned(),
            rolled_back(OrderRejected, code="van", residue=("notify",)),
        )
    )


def test_what_is_in_flight_in_it_may_time_out_instead():
    async def order(ctx, placed):
        async with ctx.scope():
            await ctx.all(reserve(ctx, timeout="1m"), pay(ctx), fail="fast")

    scenario = running(order, OrderPlaced()).when(refused(Pay))
    scenario.then(rollback_due(scope="scope-1"))
    scenario.when(timed_out(Reserve)).then(
        settled("reserve", "in_doubt"),
        planned("reserve", scope="scope-1"),
        undo_issued(Unreserve(shelf=None)),
    )


async def beside(ctx, placed):
    """A scope in one branch, notes in the other."""

    async def buy():
        try:
            async with ctx.scope("cart"):
                await reserve(ctx)
                await pay(ctx, undo_retry=ONCE)
                await ctx.do(Ship(), retry=ONCE)
        except StepFailed:
            await ctx.do(Notify(), id="sorry")

    async def tell():
        await ctx.do(Notify(), id="first", undo=Unship)
        await ctx.do(Notify(), id="second", undo=Unship)

    await ctx.all(buy(), tell())
    return OrderConfirmed()


LEFT = (*RESERVED, replied(Pay, Paid()), refused(Ship))


def test_other_branches_go_on_while_it_is_undone():
    (
        running(beside, *LEFT)
        .when(replied("first"))
        .then(issued(Notify, step="second"))
        .when(replied(Refund), replied(Unreserve))
        .then(undo_issued(Unreserve), scope_undone("cart"), issued(Notify, step="sorry"))
        .when(replied("sorry"), replied("second"))
        .then(completed(OrderConfirmed()))
    )


def test_two_scopes_are_undone_side_by_side():
    async def order(ctx, placed):
        async def one(name, step):
            async with ctx.scope(name):
                await step
                await ctx.do(Notify(), id=f"{name}-note", retry=ONCE)

        await ctx.all(one("a", reserve(ctx)), one("b", ctx.do(Pay(), undo=Refund)))

    (
        running(order, *RESERVED, replied(Pay, Paid()))
        .when(refused("a-note"), refused("b-note"))
        .then(
            planned("reserve", scope="a"),
            planned("pay", scope="b"),
            undo_issued(Unreserve),
            undo_issued(Refund),
        )
        .when(replied(Refund))
        .then(scope_undone("b"))
        .when(replied(Unreserve))
        .then(scope_undone("a"), planned(), rolled_back(OrderRejected, failed_step="a-note"))
    )


def test_branches_of_a_scope_belong_to_it():
    """With parallel_undo each is undone in its own order."""

    async def order(ctx, placed):
        async def two(name):
            await ctx.do(Notify(), id=f"{name}-1", undo=Unship)
            await ctx.do(Notify(), id=f"{name}-2", undo=Unship)

        async with ctx.scope():
            await ctx.all(two("a"), two("b"))
            give_up()

    done = [replied(step) for step in ("a-1", "b-1", "a-2", "b-2")]
    scenario = running(order, OrderPlaced(), *done, parallel_undo=True)
    [plan] = scenario.state.scopes.plans.values()
    assert {step: list(waits) for step, waits in plan.after.items()} == {
        "b-2": [],
        "a-2": [],
        "b-1": ["b-2"],
        "a-1": ["a-2"],
    }
    assert list(scenario.state.undoing) == ["b-2", "a-2"]


def test_scope_in_a_branch_that_loses_is_undone_with_the_loser():
    """Nobody is told; the saga waits for it before it completes."""

    async def order(ctx, placed):
        async def buy():
            async with ctx.scope("cart"):
                await reserve(ctx)
                await pay(ctx)

        await ctx.any(buy(), ctx.wait("enough"))
        return OrderConfirmed()

    (
        running(order, *RESERVED)
        .when(signalled("enough"))
        .then()
        .when(replied(Pay, Paid()))
        .then(planned("pay", "reserve"), undo_issued(Refund))
    )
    (
        running(order, *RESERVED, refused(Pay))
        .when(signalled("enough"))
        .then_steps(reserve="undoing")
        .then()
        .when(replied(Unreserve))
        .then(scope_undone("cart"), completed(OrderConfirmed()))
    )


def test_loser_that_waits_for_what_is_in_flight_in_its_scope_is_undone_all_the_same():
    async def order(ctx, placed):
        async def buy():
            async with ctx.scope("cart"):
                await ctx.all(reserve(ctx), pay(ctx), fail="fast")

        await ctx.any(buy(), ctx.wait("enough"))
        return OrderConfirmed()

    (
        running(order, OrderPlaced(), refused(Pay), signalled("enough"))
        .when(replied(Reserve, Reserved()))
        .then(planned("reserve", scope="cart"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(completed(OrderConfirmed()))
    )


# A stuck undo, and what an operator does.


STUCK = (*LEFT, refused(Refund, "closed"))


def test_stuck_undo_parks_and_the_branch_waits():
    (
        running(beside, *LEFT)
        .when(refused(Refund, "closed"))
        .then(undo_stuck("pay"), parked("cannot undo pay"))
        .when(replied("first"))
        .then(issued(Notify, step="second"))
        .then_status("parked")
    )


def test_operator_retries_a_stuck_undo_and_the_scope_goes_on():
    (
        running(beside, *STUCK)
        .when(operator("retry", "pay"))
        .then(resumed(), undo_issued(Refund, attempt=2))
        .then_status("running")
        .when(replied(Refund), replied(Unreserve))
        .then(undo_issued(Unreserve), scope_undone("cart"), issued(Notify, step="sorry"))
    )


def test_operator_skips_a_stuck_undo_and_it_stays_as_residue():
    (
        running(beside, *STUCK)
        .when(operator("skip"))
        .then(resumed(), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(scope_undone("cart", residue=("pay",)), issued(Notify, step="sorry"))
        .when(replied("sorry"), replied("first"), replied("second"))
        .then(issued(Notify, step="second"), completed(OrderConfirmed(), residue=("pay",)))
    )


def test_stuck_undo_that_somebody_has_made_by_hand_lets_the_scope_go_on():
    (
        running(beside, *STUCK)
        .when(operator("mark", "pay", state="undone"))
        .then(resumed(), settled("pay", "undone"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(scope_undone("cart"), issued(Notify, step="sorry"))
    )


def test_receipt_of_an_act_says_what_comes_of_the_scope():
    """In the words in which `saga skip` answers."""

    def words_of(scenario):
        return told(entry.body for entry in scenario.decided)

    begun = (OrderPlaced(), replied(Reserve, Reserved()), refused(Pay), refused(Unreserve, "no"))
    skipped = running(order_with_one_try, *begun).when(operator("skip", "reserve"))
    assert words_of(skipped) == (
        "is parked no more; settles reserve as skipped; "
        "has undone scope scope-1; not undone: reserve; completes; not undone: reserve"
    )
    left = running(beside, *RESERVED, replied(Pay, Paid())).when(refused(Ship))
    assert "leaves scope cart, and plans to undo pay, reserve" in words_of(left)
    turned = running(order, OrderPlaced()).when(operator("compensate"))
    assert words_of(turned) == "rolls back once what is in flight has settled"


async def order_with_one_try(ctx, placed):
    try:
        async with ctx.scope():
            await reserve(ctx, undo_retry=ONCE)
            await pay(ctx)
    except StepFailed:
        return OrderConfirmed()


def test_stuck_undo_that_succeeds_late_resumes_the_scope():
    async def order(ctx, placed):
        async with ctx.scope("cart"):
            await ctx.do(Pay(), undo=Refund, timeout="30s", undo_retry=ONCE)
            give_up()

    (
        running(order, OrderPlaced(), replied(Pay, Paid()), timed_out(Refund))
        .then_status("parked")
        .when(replied(Refund))
        .then(noted("late_success"), resumed(), scope_undone("cart"), rolled_back(OrderRejected))
    )


def test_with_continue_a_stuck_undo_is_residue_and_the_branch_goes_on():
    (
        running(beside, *LEFT, when_stuck="continue")
        .when(refused(Refund, "closed"))
        .then(undo_stuck("pay"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(scope_undone("cart", residue=("pay",)), issued(Notify, step="sorry"))
        .when(operator("retry", "pay"))
        .then(undo_issued(Refund, attempt=2))
        .when(replied("sorry"), replied("first"), replied("second"))
        .then(issued(Notify, step="second"))
        .when(replied(Refund))
        .then(completed(OrderConfirmed()))
    )


def test_two_stuck_scopes_keep_the_saga_parked_until_both_are_dealt_with():
    async def order(ctx, placed):
        async def one(name, step):
            async with ctx.scope(name):
                await step
                give_up()

        await ctx.all(
            one("a", reserve(ctx, undo_retry=ONCE)),
            one("b", ctx.do(Pay(), undo=Refund, undo_retry=ONCE)),
        )

    begun = (*RESERVED, replied(Pay, Paid()))
    (
        running(order, *begun, refused(Unreserve, "no"), refused(Refund, "no"))
        .then_parked("cannot undo reserve")
        .when(operator("skip", "reserve"))
        .then(resumed(), scope_undone("a", residue=("reserve",)), parked("cannot undo pay"))
        .when(operator("skip", "pay"))
        .then(
            scope_undone("b", residue=("pay",)),
            planned(),
            rolled_back(OrderRejected, residue=("reserve", "pay")),
        )
    )


def test_failed_step_keeps_the_saga_parked_when_a_stuck_scope_is_dealt_with():
    async def order(ctx, placed):
        async def buy():
            async with ctx.scope("cart"):
                await reserve(ctx, undo_retry=ONCE)
                give_up()

        await ctx.all(buy(), ctx.do(Notify(), kind="retriable", retry=ONCE), fail="wait")

    (
        running(order, *RESERVED, refused(Unreserve, "no"), failed(Notify))
        .then_parked()
        .when(operator("skip", "reserve"))
        .then(resumed(), scope_undone("cart", residue=("reserve",)), parked("step notify failed"))
        .when(operator("retry", "notify"))
        .then(issued(Notify, attempt=2))
    )


# The saga turns back meanwhile.


def test_graceful_cancel_waits_for_what_is_in_flight_and_takes_over_what_is_left():
    scenario = running(beside, *LEFT)
    scenario.when(cancelled("no")).then()
    scenario.when(replied(Refund)).then(undo_issued(Unreserve))
    scenario.when(replied("first")).then(planned("first", "reserve"))
    (
        scenario.when(replied(Unreserve))
        .then(undo_issued(Unship, step="first"))
        .when(replied(Unship))
        .then(rolled_back(OrderRejected, code="cancelled"))
    )


def test_scope_that_is_through_before_a_cancel_is_leads_to_nothing():
    (
        running(beside, *LEFT, cancelled("no"))
        .when(replied(Refund), replied(Unreserve))
        .then(undo_issued(Unreserve), scope_undone("cart"))
        .when(replied("first"))
        .then(planned("first"), undo_issued(Unship))
    )


def test_immediate_cancel_takes_over_the_undo_in_hand():
    """It is not asked for again, and its retry goes on."""
    scenario = running(beside, *RESERVED, replied(Pay, Paid()), refused(Ship), replied(Refund))
    scenario.when(failed(Unreserve)).when(cancelled("no", mode="immediate"))
    scenario.then(planned("first", "reserve")).then_steps(reserve="undoing", first="in_doubt")
    (
        scenario.when(after("1m"))
        .then(undo_issued(Unreserve, attempt=2))
        .when(replied(Unreserve))
        .then(undo_issued(Unship))
        .when(replied(Unship))
        .then(rolled_back(OrderRejected, code="cancelled"))
    )


def test_cancel_takes_over_a_stuck_undo():
    (
        running(beside, *STUCK)
        .when(cancelled("no", mode="immediate"))
        .then(planned("first", "pay", "reserve"), undo_issued(Unship))
        .then_status("rolling_back")
        .when(replied(Unship))
        .then(parked("cannot undo pay"))
        .then_steps(reserve="done")
        .when(operator("skip"))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, residue=("pay",)))
    )


def test_failure_elsewhere_takes_over_what_is_left():
    async def order(ctx, placed):
        async def buy():
            async with ctx.scope("cart"):
                await reserve(ctx)
                give_up("cart")

        async def tell():
            await ctx.do(Notify(), retry=ONCE)

        await ctx.all(tell(), buy(), fail="fast")

    (
        running(order, *RESERVED)
        .then_steps(reserve="undoing")
        .when(refused(Notify, "silent"))
        .then(planned("reserve"))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, reason="silent"))
    )


def test_compensate_takes_over_what_is_left():
    (
        running(order, *RESERVED, refused(Pay))
        .when(operator("compensate", reason="fraud"))
        .then(planned("reserve"))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, code="compensated"))
    )


def test_outer_scope_takes_over_what_the_inner_one_has_left():
    async def order(ctx, placed):
        async def buy():
            async with ctx.scope("cart"):
                await reserve(ctx)
                give_up("cart")

        async with ctx.scope("trip"):
            await ctx.do(Pay(), undo=Refund)
            await ctx.all(buy(), ctx.do(Notify(), retry=ONCE), fail="fast")

    scenario = running(order, OrderPlaced(), replied(Pay, Paid()), replied(Reserve, Reserved()))
    scenario.then_steps(reserve="undoing")
    (
        scenario.when(refused(Notify))
        .then(planned("reserve", "pay", scope="trip"))
        .when(replied(Unreserve))
        .then(undo_issued(Refund))
        .when(replied(Refund))
        .then(scope_undone("trip"), planned(), rolled_back(OrderRejected))
    )


def test_abandon_leaves_it_as_it_stands():
    (
        running(beside, *LEFT)
        .when(cancelled("give up", mode="abandon"))
        .then(abandoned(residue=("reserve", "first", "pay")))
        .then_steps(pay="skipped")
        .when(replied(Refund))
        .then(noted("late_success"))
        .then_status("abandoned")
    )


# Successes that come late.


async def hurried(ctx, placed):
    try:
        async with ctx.scope("cart"):
            await ctx.do(Notify(), undo=Unship)
            await ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="30s")
    except StepFailed:
        await ctx.wait("go")
        return OrderConfirmed()


TOO_LATE = (OrderPlaced(), replied(Notify), timed_out(Pay))


def test_late_success_while_it_is_undone_is_appended():
    (
        running(hurried, *TOO_LATE, replied(Refund))
        .when(replied(Pay, Paid()))
        .then(noted("late_success"), undo_appended("pay"))
        .when(replied(Unship))
        .then(undo_issued(Refund(receipt="r-1")))
        .when(replied(Refund))
        .then(scope_undone("cart"))
    )


def test_late_success_after_it_is_undone_is_undone_too():
    """The saga goes on meanwhile, and does not complete before that."""
    (
        running(hurried, *TOO_LATE, replied(Refund), replied(Unship))
        .then_waits_for("signal go")
        .when(replied(Pay, Paid()))
        .then(planned("pay", scope="cart"), undo_issued(Refund(receipt="r-1")))
        .when(signalled("go"))
        .then()
        .when(replied(Refund))
        .then(scope_undone("cart"), completed(OrderConfirmed()))
    )


def test_late_success_after_the_end_is_cleaned_up():
    (
        running(hurried, *TOO_LATE, replied(Refund), replied(Unship), signalled("go"))
        .then_status("completed")
        .when(replied(Pay, Paid()))
        .then(planned("pay"), undo_issued(Refund(receipt="r-1")))
        .then_status("rolling_back")
        .when(replied(Refund))
        .then_status("completed")
    )


# Beside what else a saga may do.


async def in_runs(ctx, placed):
    """Each run has a scope of the same name; the second one ends."""
    try:
        async with ctx.scope("cart"):
            if placed.amount > 1:
                await reserve(ctx)
            give_up()
    except RollBack:
        if placed.amount:
            await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
        return OrderConfirmed()


def test_each_run_of_a_saga_has_scopes_of_its_own():
    """In the later ones nothing is to be undone, so all of it is one turn."""
    scenario = running(in_runs, OrderPlaced(amount=2), replied(Reserve, Reserved()))
    scenario.then_waits_for("undo of reserve")
    scenario.when(replied(Unreserve)).then(
        scope_undone("cart"), planned(scope="cart"), completed(OrderConfirmed())
    )
    undone = [one for one in scenario.decided if isinstance(one.body, ScopeUndone)]
    assert len(undone) == 3


def test_run_that_continues_within_a_scope_leaves_it_as_it_is():
    async def order(ctx, placed):
        async with ctx.scope("cart"):
            await reserve(ctx)
            if placed.amount:
                await ctx.continue_as_new(OrderPlaced(amount=0))
        return OrderConfirmed()

    (
        running(order, *RESERVED)
        .then_steps(**{"2.reserve": "issued"})
        .when(replied(Reserve, Reserved()))
        .then(completed(OrderConfirmed()))
    )


def test_paused_saga_undoes_its_scope_and_goes_on_behind_it_when_it_is_resumed():
    (
        running(order, *RESERVED, refused(Pay, code="broke"), Plain(Paused(reason="wait")))
        .when(replied(Unreserve))
        .then(scope_undone("scope-1"))
        .then_status("running")
        .when(Plain(Resumed(reason="go")))
        .then(completed(OrderConfirmed(order_id="o-1 broke")))
    )


def test_scope_of_an_async_generator_is_open_until_that_ends():
    """What is awaited between its values belongs to it; a failure in it undoes all of that."""

    async def order(ctx, placed):
        async def parts():
            async with ctx.scope("parts"):
                await reserve(ctx)
                yield 1
                await pay(ctx)

        try:
            async for _ in parts():
                await ctx.do(Notify(), undo=Unship)
        except StepFailed:
            return OrderConfirmed()

    (
        running(order, *RESERVED, replied(Notify))
        .when(refused(Pay))
        .then(planned("notify", "reserve", scope="parts"), undo_issued(Unship))
        .when(replied(Unship), replied(Unreserve))
        .then(undo_issued(Unreserve), scope_undone("parts"), completed(OrderConfirmed()))
    )


def test_async_generator_that_is_left_early_leaves_its_scope_as_it_is():
    async def order(ctx, placed):
        async def parts():
            async with ctx.scope("parts"):
                await reserve(ctx)
                yield 1

        async for _ in parts():
            break
        await ctx.sleep("1s")
        await ctx.do(Ship(), retry=ONCE)

    (
        running(order, *RESERVED, after("1s"))
        .when(refused(Ship))
        .then(planned("reserve"), undo_issued(Unreserve))
    )


def test_scopes_may_be_kept_in_a_stack():
    async def order(ctx, placed):
        try:
            async with AsyncExitStack() as stack:
                for name in ("a", "b"):
                    await stack.enter_async_context(ctx.scope(name))
                await reserve(ctx)
                give_up()
        except RollBack:
            return OrderConfirmed()

    (
        running(order, *RESERVED)
        .when(replied(Unreserve))
        .then(
            scope_undone("a/b"), planned(scope="a"), scope_undone("a"), completed(OrderConfirmed())
        )
    )


def test_child_in_it_is_undone_with_it():
    async def order(ctx, placed):
        async with ctx.scope("cart"):
            await ctx.child(ParcelAsked(), id="child")
            give_up()

    (
        running(order, OrderPlaced(), child_started("child"))
        .when(child_completed("child"))
        .then(planned("child", scope="cart"), child_undo_asked("child"))
        .when(child_undone("child"))
        .then(scope_undone("cart"), planned(), rolled_back(OrderRejected))
    )


def test_what_is_caught_behind_the_pivot_undoes_its_scope_and_parks_nothing():
    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        try:
            async with ctx.scope():
                await ctx.do(Notify(), retry=ONCE)
                await ctx.do(Ship(), retry=ONCE)
        except StepFailed:
            return OrderConfirmed(shelf="none")

    (
        running(order, OrderPlaced(), replied(Pay, Paid()), replied(Notify))
        .when(refused(Ship))
        .then(
            planned(scope="scope-1"),
            scope_undone("scope-1", residue=("notify",)),
            completed(OrderConfirmed(shelf="none"), residue=("notify",)),
        )
    )


# What is refused.


def test_pivot_in_it_parks_before_it_is_issued():
    async def order(ctx, placed):
        kind = "pivot"
        async with ctx.scope():
            await ctx.all(ctx.do(Pay(), kind=kind))

    scenario = running(order).when(OrderPlaced()).then_parked("is a pivot")
    assert "test_scopes.py:" in scenario.state.reason
    assert not [one for one in scenario.history if isinstance(one.body, IntentIssued)]


def test_pivot_in_its_source_is_refused_at_definition():
    async def order(ctx, placed):
        async with ctx.scope():
            if placed.amount:
                await ctx.do(Pay(), kind="pivot")

    with pytest.raises(DefinitionError, match="a pivot cannot be in a scope") as refusal:
        as_saga(order)
    line = order.__code__.co_firstlineno + 3
    assert refusal.value.where == f"{__file__}:{line}"


def test_pivot_beside_a_scope_is_fine():
    async def order(ctx, placed):
        async with ctx.scope():
            await reserve(ctx)
        await ctx.do(Pay(), kind="pivot")
        return OrderConfirmed()

    running(order, *RESERVED).when(replied(Pay, Paid())).then(completed(OrderConfirmed()))


async def bare(ctx, placed):
    ctx.scope()


async def awaited(ctx, placed):
    await ctx.scope()


async def plain(ctx, placed):
    with ctx.scope():
        await ctx.do(Ship())


@pytest.mark.parametrize("function", [bare, awaited, plain])
def test_scope_that_is_not_entered_is_refused_at_definition(function):
    with pytest.raises(DefinitionError, match=r"async with ctx\.scope") as refusal:
        as_saga(function)
    assert refusal.value.where == f"{__file__}:{function.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize(
    ("misuse", "problem"),
    [
        ("forget", "never entered, so it undoes nothing"),
        ("await", "a scope is entered, not awaited"),
        ("with", "a scope waits until it is undone"),
        ("all", "Scope cannot run side by side"),
        ("twice", "entered twice"),
        ("again", "entered twice"),
        ("id", "scope id 'a' is used twice"),
        ("slash", "scope id 'a/b': 1 to 200 characters"),
    ],
)
def test_misuse_that_only_shows_when_it_runs_parks_with_file_and_line(misuse, problem):
    async def order(ctx, placed):
        scope = ctx.scope
        made = scope("a/b" if misuse == "slash" else "a")
        match misuse:
            case "await":
                await made
            case "with":
                with made:
                    pass
            case "all":
                await ctx.all(made)
            case "twice":
                async with made, made:
                    pass
            case "again":
                for _ in range(2):
                    async with made:
                        pass
            case "id":
                async with made:
                    pass
                async with scope("a"):
                    pass

    scenario = running(order).when(OrderPlaced()).then_parked(problem)
    assert "test_scopes.py:" in scenario.state.reason


# Rebuilt from its history.


def test_code_without_the_scope_differs_where_it_was_left():
    async def without(ctx, placed):
        try:
            await reserve(ctx)
            await pay(ctx)
        except StepFailed as failure:
            return OrderConfirmed(order_id=f"{placed.order_id} {failure.code}")
        return OrderConfirmed()

    history = running(order, *RESERVED).history
    with pytest.raises(ReplayMismatch, match="intent-issued reserve/do/1") as difference:
        given(as_saga(without), history=history)
    assert difference.value.version == 2


async def everything(ctx, placed):
    """Scopes in each other and side by side, a loser in flight, a stuck undo, a late success."""

    async def hotel():
        try:
            async with ctx.scope("hotel"):
                await ctx.any(reserve(ctx), ctx.do(Notify(), id="hint"))
                await ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="30s", undo_retry=ONCE)
        except StepFailed:
            await ctx.do(Notify(), id="sorry")

    async def tell():
        await ctx.do(Notify(), id="first", undo=Unship)

    async with ctx.scope("trip"):
        await ctx.all(hotel(), tell())
        await ctx.do(Ship(), retry=ONCE)


EVERYTHING = (
    OrderPlaced(),
    replied("hint"),
    timed_out(Pay),
    replied(Reserve, Reserved()),
    replied("first"),
    replied(Unreserve),
    refused(Refund, "closed"),
    operator("retry", "pay"),
    failed(Refund, "closed", attempt=2),
    operator("skip", "pay"),
    replied("sorry"),
    refused(Ship, "no"),
    replied(Pay, Paid()),
    replied(Unship),
)


@pytest.mark.parametrize("killed_after", range(1, len(EVERYTHING)))
def test_rebuilt_after_any_turn_it_goes_on_as_if_nothing_had_happened(killed_after):
    whole = running(everything, *EVERYTHING)
    assert "trip/hotel" in {getattr(entry.body, "scope", None) for entry in whole.history}

    before = running(everything, *EVERYTHING[:killed_after])
    rebuilt = given(as_saga(everything), history=before.history, contracts=CONTRACTS)
    rebuilt.when(*EVERYTHING[killed_after:])

    bodies = [entry.body for entry in rebuilt.history]
    assert bodies == [entry.body for entry in whole.history]
    assert rebuilt.status is whole.status
