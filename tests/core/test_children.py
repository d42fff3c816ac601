"""SEMANTICS of children, for the parent: how they are started, heard, cancelled and undone."""

import pytest

from saga.authoring import ChildRolledBack, RollBack, StepFailed, TimedOut
from saga.contracts import Event
from saga.core.fold import fold
from saga.errors import DefinitionError
from saga.testing import (
    abandoned,
    after,
    cancelled,
    child_cancelled,
    child_completed,
    child_issued,
    child_refused,
    child_rolled_back,
    child_started,
    child_undo_asked,
    child_undo_refused,
    child_undone,
    completed,
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
)
from tests.toys import (
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)


class ParcelAsked(Event, topic="parcels.parcel-asked", version=1, key="parcel_id"):
    parcel_id: str = "p-1"


class Packed(Event, topic="parcels.packed", version=1):
    weight: int = 2


class Lost(Event, topic="parcels.lost", version=1):
    parcel_id: str = "p-1"


def parent(**options):
    """Reserve, have a parcel packed by a child, ship."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        packed = await ctx.child(ParcelAsked(), outcome=Packed, id="pack", **options)
        await ctx.do(Ship())
        return OrderConfirmed(shelf=f"s-{packed.weight}")

    return as_saga(order)


STARTED = (OrderPlaced(), replied(Reserve, Reserved()), child_started("pack"))
DONE = (*STARTED, child_completed("pack", Packed()))


def test_a_child_is_started_by_its_trigger_and_its_outcome_comes_back():
    (
        given(parent(), OrderPlaced())
        .when(replied(Reserve, Reserved()))
        .then(child_issued(ParcelAsked(), step="pack"))
        .then_waits_for("child pack")
        .when(child_started("pack"))
        .then_nothing()
        .when(child_completed("pack", Packed(weight=7)))
        .then(issued(Ship))
        .when(replied(Ship))
        .then(completed(OrderConfirmed(shelf="s-7")))
    )


def test_its_end_may_come_before_it_says_that_it_has_begun():
    """They travel on topics of their own."""
    scenario = given(parent(), OrderPlaced(), replied(Reserve, Reserved()))
    scenario.when(child_completed("pack", Packed())).then(issued(Ship))

    scenario.when(child_started("pack")).then_nothing().then_was("duplicate")


def test_without_an_outcome_any_end_is_enough():
    async def order(ctx, placed):
        assert await ctx.child(ParcelAsked()) is None
        assert await ctx.child(ParcelAsked(parcel_id="p-2"), outcome=None) is None

    (
        given(as_saga(order), OrderPlaced())
        .when(child_completed("parcel-asked", Packed()), child_completed("parcel-asked-2"))
        .then(child_issued(ParcelAsked), completed())
    )


def test_a_repeat_changes_nothing():
    scenario = given(parent(), *STARTED)
    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(child_started("pack")).then_nothing().then_was("duplicate")
    scenario.when(child_completed("pack", Packed()))
    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(child_completed("pack", Packed())).then_nothing().then_was("duplicate")


def test_a_second_saga_that_the_same_trigger_starts_is_noted_and_is_not_the_child():
    """Nor is its end the child's."""
    scenario = given(parent(), *STARTED)
    scenario.when(child_started("pack", definition="label")).then(
        noted("conflicting", "label/pack")
    )
    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(child_completed("pack", Packed(), definition="label")).then(noted("conflicting"))

    scenario.when(child_completed("pack", Packed())).then(issued(Ship))


def test_a_second_other_end_is_noted_and_the_first_stands():
    scenario = given(parent(), *DONE)
    scenario.when(child_completed("pack", Packed(weight=9))).then(noted("conflicting"))
    scenario.when(child_rolled_back("pack")).then(noted("conflicting"))

    scenario.when(replied(Ship)).then(completed(OrderConfirmed(shelf="s-2")))


def test_a_key_that_is_taken_fails_the_step():
    raised = []

    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed)
        except StepFailed as failure:
            raised.append((failure.code, failure.refused, failure.step))
            raise

    (
        given(as_saga(order), OrderPlaced())
        .when(child_refused(ParcelAsked))
        .then(
            settled("parcel-asked", "refused", code="key_taken"),
            rolled_back(OrderRejected, code="key_taken", failed_step="parcel-asked"),
        )
    )
    assert raised[0] == ("key_taken", True, "parcel-asked")


def test_a_refusal_is_not_believed_of_a_child_that_has_begun():
    """Another saga that listens to the trigger has the key; the child goes on."""
    scenario = given(parent(), *STARTED)
    scenario.when(child_refused("pack")).then(noted("conflicting", "nobody is not the child"))

    scenario.when(child_completed("pack", Packed())).then(issued(Ship))


def test_a_child_that_begins_behind_a_refusal_is_cancelled_and_undone():
    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed, id="pack")
        except StepFailed:
            await ctx.do(Ship())

    (
        given(as_saga(order), OrderPlaced(), child_refused("pack"))
        .when(child_started("pack"))
        .then(child_cancelled("pack"))
        .when(child_completed("pack", Packed()))
        .then(noted("late_success"), settled("pack", "done"))
        .when(replied(Ship))
        .then(planned("pack"), child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(completed())
    )


def test_a_child_that_was_rolled_back_raises_with_its_report_and_has_left_nothing():
    raised = []

    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed, id="pack")
        except ChildRolledBack as failure:
            raised.append(failure)
            raise

    (
        given(as_saga(order), OrderPlaced(), child_started("pack"))
        .when(child_rolled_back("pack", "no tape", code="tape", failed_step="fold"))
        .then(
            settled("pack", "undone", code="tape"),
            planned(),
            rolled_back(OrderRejected, reason="no tape", code="tape", failed_step="pack"),
        )
    )
    failure = raised[0]
    assert (failure.step, failure.status) == ("pack", "rolled_back")
    assert (failure.reason, failure.code) == ("no tape", "tape")
    assert (failure.failed_step, failure.residue) == ("fold", ())


@pytest.mark.parametrize("status", ["rolled_back_with_residue", "abandoned"])
def test_what_a_child_has_left_is_residue_of_its_parent(status):
    """There is nobody who could undo it: it was decided in the child's own application."""
    (
        given(parent(), *STARTED)
        .when(child_rolled_back("pack", "no way", status=status, residue=("tape",)))
        .then(settled("pack", "skipped"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(
            rolled_back(
                OrderRejected, reason="no way", code=status, failed_step="pack", residue=("pack",)
            )
        )
    )


def test_a_failure_that_is_caught_is_the_functions_own():
    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed, id="pack")
        except ChildRolledBack:
            return OrderConfirmed()

    (
        given(as_saga(order), OrderPlaced())
        .when(child_rolled_back("pack", status="abandoned"))
        .then(completed(OrderConfirmed()))
    )


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (Lost(), "ended with parcels.evt.lost.v1, not with parcels.evt.packed.v1"),
        (None, "ended without an outcome, not with parcels.evt.packed.v1"),
    ],
)
def test_another_outcome_than_was_asked_for_parks(outcome, problem):
    """With both names, and what to do; the record is taken again once the saga is released."""
    scenario = given(parent(), *STARTED).when(child_completed("pack", outcome))

    scenario.then_parked(problem)
    assert "release the saga" in scenario.state.reason


# Undoing a child that has completed.


def test_a_completed_child_is_undone_in_its_place_by_a_command():
    (
        given(parent(), *DONE)
        .when(refused(Ship, "no van"))
        .then(planned("pack", "reserve"), child_undo_asked("pack"))
        .then_waits_for("undo of pack")
        .when(child_undone("pack"))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, failed_step="ship"))
        .then_steps(pack="undone", reserve="undone")
    )


def test_the_undo_that_is_answered_again_changes_nothing():
    scenario = given(parent(), *DONE, refused(Ship)).when(child_undone("pack"))
    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(child_undone("pack")).then_nothing().then_was("duplicate")


@pytest.mark.parametrize(
    "answer", [child_undo_refused("pack"), child_undone("pack", residue=("tape",))]
)
def test_a_child_that_cannot_be_undone_parks_its_parent(answer):
    """An operator may skip it; then it is residue."""
    (
        given(parent(), *DONE, refused(Ship))
        .when(answer)
        .then(settled("pack", "undo_stuck"), parked("cannot undo pack"))
        .when(operator("retry", "pack"))
        .then(child_undo_asked("pack", attempt=2))
        .when(child_undo_refused("pack"), operator("skip", "pack"))
        .then(parked(), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, failed_step="ship", residue=("pack",)))
    )


def test_or_is_residue_where_the_saga_says_so():
    async def order(ctx, placed):
        await ctx.child(ParcelAsked(), id="pack")
        await ctx.do(Ship())

    (
        given(as_saga(order, when_stuck="continue"), OrderPlaced(), child_completed("pack"))
        .when(refused(Ship), child_undo_refused("pack"))
        .then(child_undo_asked("pack"), rolled_back(OrderRejected, residue=("pack",)))
    )


# Cancels.


def test_a_graceful_cancel_goes_to_the_child_and_waits_for_its_end():
    (
        given(parent(), *STARTED)
        .when(cancelled("no more"))
        .then(child_cancelled("pack"))
        .then_waits_for("child pack")
        .when(child_rolled_back("pack", "no more", code="cancelled"))
        .then(settled("pack", "undone"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, reason="no more", code="cancelled"))
    )


def test_a_cancel_waits_until_the_child_says_who_it_is():
    (
        given(parent(), OrderPlaced(), replied(Reserve, Reserved()))
        .when(cancelled())
        .then()
        .when(child_started("pack"))
        .then(child_cancelled("pack"))
    )


def test_a_child_that_refuses_the_cancel_is_waited_for_and_undone():
    (
        given(parent(), *STARTED, cancelled())
        .when(child_completed("pack", Packed()))
        .then(planned("pack", "reserve"), child_undo_asked("pack"))
    )


def test_an_immediate_cancel_is_sent_and_leaves_the_step_in_doubt():
    """Its undo goes out in its place, and the child's end is believed as its answer."""
    (
        given(parent(), *STARTED)
        .when(cancelled(mode="immediate"))
        .then(
            child_cancelled("pack", mode="immediate"),
            planned("pack", "reserve"),
            settled("pack", "in_doubt"),
            child_undo_asked("pack"),
        )
        .when(child_rolled_back("pack"))
        .then(noted("late_failure"), settled("pack", "undone"), undo_issued(Unreserve))
    )


def test_an_immediate_cancel_of_a_child_that_is_not_known_waits_for_it():
    """What undoes it is sent in the turn in which it says who it is."""
    (
        given(parent(), OrderPlaced(), replied(Reserve, Reserved()))
        .when(cancelled(mode="immediate"))
        .then(planned("pack", "reserve"))
        .then_waits_for("undo of pack")
        .when(child_started("pack"))
        .then(child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(undo_issued(Unreserve))
    )


def test_a_child_in_doubt_that_completes_is_undone_in_its_turn():
    """Two children; the first waits in the plan until the second is undone."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.child(ParcelAsked(), id="one"), ctx.child(ParcelAsked(parcel_id="2"), id="two")
        )

    scenario = given(as_saga(order), OrderPlaced(), child_started("one"), child_started("two"))
    (
        scenario.when(cancelled(mode="immediate"))
        .then(
            child_cancelled("one", mode="immediate"),
            child_cancelled("two", mode="immediate"),
            child_undo_asked("two"),
        )
        .when(child_completed("one"))
        .then(noted("late_success"), settled("one", "done"))
        .when(child_undone("two"))
        .then(child_undo_asked("one"))
        .when(child_undone("one"))
        .then(rolled_back(OrderRejected, code="cancelled"))
    )


def test_a_child_that_completes_before_its_undo_reaches_it_is_still_undone():
    (
        given(parent(), *STARTED, cancelled(mode="immediate"))
        .when(child_completed("pack", Packed()))
        .then(noted("late_success"))
        .when(child_undone("pack"))
        .then(undo_issued(Unreserve))
    )


def test_it_is_asked_to_be_undone_then_if_nobody_knew_it_before():
    """Its end may come before it says that it has begun."""
    (
        given(parent(), OrderPlaced(), replied(Reserve, Reserved()), cancelled(mode="immediate"))
        .when(child_completed("pack", Packed()))
        .then(noted("late_success"), child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(undo_issued(Unreserve))
    )


@pytest.mark.parametrize("status", ["rolled_back_with_residue", "abandoned"])
def test_one_that_leaves_something_instead_is_stuck(status):
    (
        given(parent(), *STARTED, cancelled(mode="immediate"))
        .when(child_rolled_back("pack", status=status))
        .then(noted("late_failure"), settled("pack", "undo_stuck"), parked("cannot undo pack"))
    )


def test_a_graceful_cancel_can_be_made_immediate():
    (
        given(parent(), *STARTED, cancelled())
        .when(cancelled(mode="immediate"))
        .then(child_cancelled("pack", mode="immediate"), child_undo_asked("pack"))
    )


def test_to_abandon_the_parent_leaves_its_child_alone_and_lists_it():
    (
        given(parent(), *STARTED)
        .when(cancelled("enough", mode="abandon"))
        .then(abandoned(residue=("reserve", "pack")))
        .when(child_completed("pack", Packed()))
        .then(noted("late_success"))
    )


# Timeouts.


def test_a_child_that_is_late_is_cancelled_and_waited_for():
    """Then the function is told."""

    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed, id="pack", timeout="1h")
        except TimedOut as failure:
            raised.append(str(failure))
            await ctx.do(Ship())

    raised = []
    (
        given(as_saga(order), OrderPlaced(), child_started("pack"))
        .when(after("1h"))
        .then(child_cancelled("pack"))
        .when(child_rolled_back("pack", code="cancelled"))
        .then(settled("pack", "undone"), issued(Ship))
        .when(replied(Ship))
        .then(completed())
    )
    assert raised[0] == "the child 'pack' did not end in time"


def test_an_outcome_that_comes_meanwhile_is_undone():
    async def order(ctx, placed):
        try:
            await ctx.child(ParcelAsked(), outcome=Packed, id="pack", timeout="1h")
        except TimedOut:
            return OrderConfirmed()

    (
        given(as_saga(order), OrderPlaced(), child_started("pack"), timed_out("pack"))
        .when(child_completed("pack", Packed()))
        .then(planned("pack"), child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(completed(OrderConfirmed()))
    )


def test_uncaught_the_saga_is_rolled_back_as_timed_out():
    (
        given(parent(timeout="1h"), *STARTED, timed_out("pack"))
        .when(child_completed("pack", Packed()))
        .then(planned("pack", "reserve"), child_undo_asked("pack"))
        .when(child_undone("pack"), replied(Unreserve))
        .then(undo_issued(Unreserve), rolled_back(OrderRejected, code="timed_out"))
    )


def test_a_late_child_that_is_not_known_is_cancelled_when_it_says_who_it_is():
    (
        given(parent(timeout="1h"), OrderPlaced(), replied(Reserve, Reserved()), after("2h"))
        .when(child_started("pack"))
        .then(child_cancelled("pack"))
    )


# Groups.


def race(ctx):
    return ctx.any(
        ctx.child(ParcelAsked(), id="one"), ctx.child(ParcelAsked(parcel_id="2"), id="two")
    )


def test_a_child_that_loses_a_race_is_cancelled_and_the_saga_waits_for_it():
    async def order(ctx, placed):
        await race(ctx)

    (
        given(as_saga(order), OrderPlaced(), child_started("one"), child_started("two"))
        .when(child_completed("two"))
        .then(child_cancelled("one"))
        .when(child_rolled_back("one", code="cancelled"))
        .then(completed())
    )


def test_a_loser_that_completes_all_the_same_is_undone():
    async def order(ctx, placed):
        await race(ctx)

    (
        given(as_saga(order), OrderPlaced(), child_started("one"), child_started("two"))
        .when(child_completed("two"), child_completed("one"))
        .then(child_cancelled("one"), child_undo_asked("one"))
        .when(child_undone("one"))
        .then(completed())
    )


def test_a_loser_that_is_not_known_yet_is_cancelled_when_it_says_who_it_is():
    async def order(ctx, placed):
        await race(ctx)
        await ctx.do(Ship())

    (
        given(as_saga(order), OrderPlaced(), child_completed("two"))
        .when(child_started("one"))
        .then(child_cancelled("one"))
    )


def test_a_saga_that_fails_beside_an_open_child_waits_for_its_end():
    async def order(ctx, placed):
        await race(ctx)
        raise RollBack("no")

    begun = (OrderPlaced(), child_started("one"), child_started("two"))
    (
        given(as_saga(order), *begun)
        .when(child_completed("two"))
        .then(child_cancelled("one"), rollback_due("no"))
        .when(child_rolled_back("one", code="cancelled"))
        .then(planned("two"), child_undo_asked("two"))
        .when(child_undone("two"))
        .then(rolled_back(OrderRejected))
    )
    (
        given(as_saga(order), *begun, child_completed("two"))
        .when(child_completed("one"))
        .then(planned("one", "two"), child_undo_asked("one"))
    )


def test_a_hundred_children_side_by_side():
    """Their results in the order in which they were asked for."""

    async def order(ctx, placed):
        parcels = [ParcelAsked(parcel_id=f"p-{n}") for n in range(100)]
        packed = await ctx.all(
            *(ctx.child(each, outcome=Packed, id=each.parcel_id) for each in parcels)
        )
        return OrderConfirmed(shelf=",".join(str(each.weight) for each in packed))

    scenario = given(as_saga(order), OrderPlaced())
    for n in reversed(range(100)):
        scenario.when(child_completed(f"p-{n}", Packed(weight=n)))

    scenario.then(completed(OrderConfirmed(shelf=",".join(map(str, range(100))))))


# What is refused.


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda ctx: ctx.child(ParcelAsked), "was given a class: pass ParcelAsked(…)"),
        (lambda ctx: ctx.child(Reserve()), "not Reserve"),
        (lambda ctx: ctx.child(ParcelAsked(), outcome=Reserve), "expected an Event class"),
        (lambda ctx: ctx.child(ParcelAsked(), outcome=Packed()), "expected an Event class"),
    ],
)
def test_a_call_that_makes_no_sense_parks_before_anything_is_published(call, problem):
    async def order(ctx, placed):
        child = ctx.child  # so that the source shows it
        await (call(ctx) or child)

    scenario = given(as_saga(order), contracts=[ParcelAsked, Packed, Reserve])
    scenario.when(OrderPlaced()).then_parked(problem)


# Together with what else a saga can do.


def test_the_deadline_of_the_parent_goes_to_its_children_too():
    """Also to one that says only then who it is."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.child(ParcelAsked(), id="one"), ctx.child(ParcelAsked(parcel_id="2"), id="two")
        )

    (
        given(as_saga(order, deadline="1h"), OrderPlaced(), child_started("one"))
        .when(after("1h"))
        .then(child_cancelled("one"))
        .when(child_started("two"))
        .then(child_cancelled("two"))
        .when(child_rolled_back("one"), child_completed("two"))
        .then(planned("two"), child_undo_asked("two"))
        .when(child_undone("two"))
        .then(rolled_back(OrderRejected, code="deadline"))
    )


def test_a_child_in_a_scope_is_undone_when_the_scope_is_left():
    async def order(ctx, placed):
        try:
            async with ctx.scope():
                await ctx.child(ParcelAsked(), id="pack")
                await ctx.do(Ship())
        except StepFailed:
            await ctx.do(Reserve())

    (
        given(as_saga(order), OrderPlaced(), child_completed("pack"))
        .when(refused(Ship))
        .then(child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(issued(Reserve))
    )


def test_a_child_that_fails_leaves_its_scope():
    async def order(ctx, placed):
        try:
            async with ctx.scope():
                await ctx.do(Reserve(), undo=Unreserve)
                await ctx.child(ParcelAsked(), id="pack")
        except ChildRolledBack:
            await ctx.do(Ship())

    (
        given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()))
        .when(child_rolled_back("pack"))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(issued(Ship))
    )


def test_a_sibling_that_fails_fast_has_the_other_child_cancelled():
    async def order(ctx, placed):
        try:
            await ctx.all(
                ctx.child(ParcelAsked(), id="one"),
                ctx.child(ParcelAsked(parcel_id="2"), id="two"),
                fail="fast",
            )
        except ChildRolledBack:
            return OrderConfirmed()

    (
        given(as_saga(order), OrderPlaced(), child_started("one"), child_started("two"))
        .when(child_rolled_back("one"))
        .then(child_cancelled("two"))
        .when(child_rolled_back("two", code="cancelled"))
        .then(completed(OrderConfirmed()))
    )


def test_past_the_pivot_a_childs_failure_goes_to_the_code():
    async def order(ctx, placed):
        await ctx.do(Reserve(), kind="pivot")
        try:
            await ctx.child(ParcelAsked(), id="pack")
        except ChildRolledBack:
            await ctx.do(Ship())

    scenario = given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()))
    scenario.when(child_rolled_back("pack")).then(issued(Ship))


def test_past_the_pivot_one_that_is_left_uncaught_parks():
    async def order(ctx, placed):
        await ctx.do(Reserve(), kind="pivot")
        await ctx.child(ParcelAsked(), id="pack")

    begun = (OrderPlaced(), replied(Reserve, Reserved()))
    scenario = given(as_saga(order), *begun)
    scenario.when(child_rolled_back("pack", "no tape")).then(parked("no tape"))

    taken = given(as_saga(order), *begun).when(child_refused("pack")).then(parked())
    taken.when(operator("retry", "pack")).then(child_issued(ParcelAsked, step="pack"))
    taken.when(child_started("pack"), child_completed("pack")).then(completed())


def test_a_paused_parent_hears_its_child_and_acts_on_resume():
    scenario = given(parent(), *STARTED, operator("pause"))
    scenario.when(child_completed("pack", Packed())).then_steps(pack="done").then()
    scenario.when(operator("resume")).then(issued(Ship))


def test_the_children_of_an_earlier_run_are_over():
    async def order(ctx, placed):
        await ctx.child(ParcelAsked(parcel_id=f"p-{placed.amount}"), id="pack")
        if placed.amount > 0:
            await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
        return OrderConfirmed()

    scenario = given(as_saga(order), OrderPlaced(amount=1), child_started("pack"))
    scenario.when(child_completed("pack")).then(child_issued(ParcelAsked, step="2.pack"))
    assert list(scenario.state.children or ()) == ["2.pack"]

    scenario.when(child_completed("2.pack")).then(completed(OrderConfirmed()))


def test_a_child_that_is_never_awaited_is_refused_on_import():
    async def order(ctx, placed):
        ctx.child(ParcelAsked())

    with pytest.raises(DefinitionError, match=r"ctx\.child\(.*\) is never awaited"):
        as_saga(order)


def test_a_call_that_no_source_shows_parks_with_what_to_do():
    """The application has to know that it reads what children say."""
    names = ["child"]

    async def order(ctx, placed):
        await getattr(ctx, names[0])(ParcelAsked())

    scenario = given(as_saga(order), contracts=[ParcelAsked]).when(OrderPlaced())
    scenario.then_parked("write it in the saga's function, or in a helper of the same package")


def test_a_child_that_is_first_heard_of_as_undone_is_known_from_then_on():
    """As its history says: a worker that is behind may hear of that before all else."""
    scenario = given(parent(), OrderPlaced(), replied(Reserve, Reserved()))
    scenario = scenario.when(cancelled(mode="immediate")).when(child_undone("pack"))

    folded = fold(scenario.state.saga_id, scenario.history)
    assert scenario.state.children == folded.children
    assert scenario.state.children["pack"].saga_id is not None
