"""SEMANTICS of children, for the child: what pins its parent, and how that has it undone."""

import pytest

from saga.core.events import Parent
from saga.core.identity import DO, StepId, intent_id, saga_id
from saga.core.intents import SagaAbandoned
from saga.core.status import SagaStatus
from saga.testing import (
    abandoned,
    answered,
    as_child,
    cancelled,
    child_completed,
    child_undo_asked,
    child_undone,
    completed,
    given,
    noted,
    operator,
    parked,
    planned,
    redelivered,
    refused,
    replied,
    rolled_back,
    signalled,
    timed_out,
    undo_issued,
    undone_by_parent,
    updated,
)
from tests.core.test_children import ParcelAsked
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
    order_saga,
)

OTHER = Parent(intent_id(saga_id("parent", "parent-2"), StepId("child"), DO, 1), "parent-2")
RUNNING = (as_child(OrderPlaced()), replied(Reserve, Reserved()), replied(Pay, Paid()))
COMPLETED = (*RUNNING, replied(Ship))


def test_a_child_runs_as_any_saga_does_and_knows_its_parent():
    scenario = given(order_saga(), *COMPLETED)

    assert scenario.state.parent is not None
    assert (scenario.state.parent.key, scenario.status) == ("parent-1", SagaStatus.COMPLETED)


def test_the_same_trigger_again_is_a_duplicate():
    given(order_saga(), as_child(OrderPlaced())).when(redelivered()).then_was("duplicate")
    given(order_saga(), *RUNNING).when(as_child(OrderPlaced())).then_was("duplicate")


@pytest.mark.parametrize("trigger", [OrderPlaced(), OrderPlaced(amount=9)])
@pytest.mark.parametrize("begun", [OrderPlaced(), as_child(OrderPlaced(), parent=OTHER)])
def test_a_childs_trigger_that_meets_another_saga_is_noted(begun, trigger):
    """So that its parent can be answered, whatever the trigger says."""
    scenario = given(order_saga(), begun, replied(Reserve, Reserved()))
    scenario.when(as_child(trigger)).then(noted("refused", "is no child of it"))
    scenario.when(redelivered()).then_nothing().then_was("duplicate")

    assert scenario.state.trigger.payload == given(order_saga(), begun).state.trigger.payload


def test_it_is_noted_of_one_that_has_ended_too():
    scenario = given(order_saga(), OrderPlaced(), refused(Reserve))
    scenario.when(as_child(OrderPlaced())).then(noted("refused")).then_status("rolled_back")


def test_a_completed_child_is_undone_as_if_its_last_step_had_failed():
    """It has the outcome of a rollback then."""
    (
        given(order_saga(), *COMPLETED)
        .when(undone_by_parent())
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship))
        .then_status("rolling_back")
        .when(replied(Unship), replied(Refund), replied(Unreserve))
        .then(
            undo_issued(Refund), undo_issued(Unreserve), rolled_back(OrderRejected, code="undone")
        )
        .then_status("rolled_back")
    )


def test_an_update_that_comes_while_a_completed_child_is_undone_is_answered_then():
    scenario = given(order_saga(), *COMPLETED, undone_by_parent(), updated("change"))
    scenario.when(replied(Unship), replied(Refund)).when(replied(Unreserve))
    scenario.then(rolled_back(OrderRejected), answered(code="ended"))


def test_the_undo_again_changes_nothing():
    scenario = given(order_saga(), *COMPLETED, undone_by_parent())
    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(undone_by_parent(attempt=2)).then(noted("superseded", "on its way back"))
    scenario.when(replied(Unship), replied(Refund), replied(Unreserve))

    scenario.when(undone_by_parent(attempt=3)).then(noted("after_end", "undone already"))
    scenario.then_status("rolled_back")


def test_only_its_parent_may_have_it_undone():
    """Nobody else, and nobody at all where it is no child."""
    scenario = given(order_saga(), *COMPLETED)
    scenario.when(undone_by_parent(parent=OTHER)).then(noted("refused", "only its parent"))
    scenario.then_status("completed")

    alone = given(order_saga(), OrderPlaced(), *COMPLETED[1:])
    alone.when(undone_by_parent()).then(noted("refused", "only its parent"))


def test_a_running_child_ends_gracefully_and_is_rolled_back():
    """Its end is the answer to its parent."""
    (
        given(order_saga(), *RUNNING)
        .when(undone_by_parent())
        .then_nothing()
        .when(replied(Ship))
        .then(planned("ship", "pay", "reserve"), undo_issued(Unship))
    )


def test_a_child_that_is_on_its_way_back_goes_on():
    (
        given(order_saga(), *RUNNING, refused(Ship))
        .when(undone_by_parent())
        .then(noted("superseded", "on its way back already"))
        .when(replied(Refund), replied(Unreserve))
        .then(undo_issued(Unreserve), rolled_back(OrderRejected, failed_step="ship"))
    )


async def with_pivot(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve)
    await ctx.do(Pay(), kind="pivot")
    await ctx.wait("go")


@pytest.mark.parametrize("happened", [(), (signalled("go"),)], ids=["running", "completed"])
def test_past_its_pivot_a_child_refuses(happened):
    (
        given(as_saga(with_pivot), *RUNNING, *happened)
        .when(undone_by_parent())
        .then(noted("refused", "past its pivot"))
    )


@pytest.mark.parametrize("status", ["rolled_back_with_residue", "abandoned"])
def test_so_does_one_that_has_left_something(status):
    async def order(ctx, placed):
        await ctx.do(Notify())
        await ctx.do(Ship())

    end = refused(Ship) if status != "abandoned" else cancelled("enough", mode="abandon")
    (
        given(as_saga(order), as_child(OrderPlaced()), replied(Notify), end)
        .then_status(status)
        .when(undone_by_parent())
        .then(noted("refused", "of it is left notify"))
    )


def test_what_cannot_be_undone_of_it_is_its_residue():
    (
        given(order_saga(when_stuck="continue"), *COMPLETED)
        .when(undone_by_parent(), refused(Unship), replied(Refund), replied(Unreserve))
        .then(
            undo_issued(Unship),
            undo_issued(Refund),
            undo_issued(Unreserve),
            rolled_back(OrderRejected, code="undone", residue=("ship",)),
        )
    )


def test_a_child_that_is_cleaning_up_is_undone_whole():
    """A step had succeeded late; what else was done goes back with it."""

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.any(
            ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="1m"), ctx.do(Ship(), undo=Unship)
        )

    scenario = given(
        as_saga(order),
        as_child(OrderPlaced()),
        replied(Reserve, Reserved()),
        timed_out(Pay),
        replied(Ship),
        replied(Refund),
    ).then_status("completed")
    scenario.when(replied(Pay, Paid())).then(undo_issued(Refund))
    scenario.when(undone_by_parent()).then(planned("ship", "pay", "reserve"))
    scenario.when(replied(Refund)).then(undo_issued(Unship))
    scenario.when(replied(Unship), replied(Unreserve)).then(
        undo_issued(Unreserve), rolled_back(OrderRejected, code="undone")
    )


def test_while_it_is_undone_it_can_be_abandoned():
    scenario = given(order_saga(), *COMPLETED, undone_by_parent())
    scenario.when(cancelled("enough", mode="abandon"))
    scenario.then(abandoned(residue=("reserve", "pay", "ship")))

    (end,) = (entry.body for entry in scenario.decided if isinstance(entry.body, SagaAbandoned))
    assert end.undo == f"{saga_id('parent', 'parent-1')}/child/undo/1"


def test_a_stuck_undo_parks_it_as_any_other():
    scenario = given(order_saga(), *COMPLETED, undone_by_parent())
    scenario.when(refused(Unship)).then(parked("cannot undo ship"))
    scenario.when(operator("skip", "ship"), replied(Refund), replied(Unreserve)).then_status(
        "rolled_back_with_residue"
    )


def test_unread_signals_are_noted_once():
    scenario = given(order_saga(), *RUNNING, signalled("hello"), replied(Ship))
    scenario.when(undone_by_parent(), replied(Unship), replied(Refund), replied(Unreserve))
    unread = [entry for entry in scenario.history if getattr(entry.body, "verdict", "") == "unread"]

    assert len(unread) == 1


def test_a_saga_that_never_had_a_step_is_undone_at_once():
    async def order(ctx, placed):
        return OrderConfirmed()

    (
        given(as_saga(order))
        .when(as_child(OrderPlaced()), undone_by_parent())
        .then(completed(OrderConfirmed()), rolled_back(OrderRejected, code="undone"))
    )


def test_its_own_children_are_undone_with_it():
    """Children of children go back the same way."""

    async def order(ctx, placed):
        await ctx.child(ParcelAsked(), id="pack")
        await ctx.do(Ship(), undo=Unship)

    (
        given(as_saga(order), as_child(OrderPlaced()), child_completed("pack"), replied(Ship))
        .when(undone_by_parent())
        .then(undo_issued(Unship))
        .when(replied(Unship))
        .then(child_undo_asked("pack"))
        .when(child_undone("pack"))
        .then(rolled_back(OrderRejected, code="undone"))
    )
