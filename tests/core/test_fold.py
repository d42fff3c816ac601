"""What entries alone say: of steps and what they depend on, of waits, races, parking, the end.

`Scenario` compares the fold with the kernel's state after every turn of every test, here and
elsewhere. These tests name the entries that make that so.
"""

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import BaseModel

from saga.authoring import StepFailed
from saga.core.events import signal_channel
from saga.core.fold import fold
from saga.core.history import turns
from saga.core.identity import Direction
from saga.core.intents import (
    BranchDropped,
    IntentIssued,
    Noted,
    SagaFinishing,
    SagaParked,
    SignalAwaited,
    StepSettled,
)
from saga.core.state import step_rows
from saga.core.status import StepStatus
from saga.errors import CorruptHistory
from saga.testing import (
    after,
    cancelled,
    failed,
    given,
    issued,
    noted,
    operator,
    refused,
    replied,
    resumed,
    settled,
    signalled,
    timed_out,
    undo_issued,
)
from tests.laws.course import Course, begun, through
from tests.laws.searching import WAYS, courses
from tests.toys import (
    EXACT,
    Notify,
    OrderPlaced,
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


def bodies(scenario, kind):
    """The recorded entries of a kind."""
    return [entry.body for entry in scenario.history if isinstance(entry.body, kind)]


def dependencies(function):
    """What each step of a saga depends on once all has succeeded, as its entries say."""
    scenario = given(as_saga(function), OrderPlaced())
    while scenario.state.status == "running":
        step = next(s for s in scenario.state.steps.values() if s.status is StepStatus.ISSUED)
        scenario.when(replied(step.id, Reserved() if step.contract == RESERVE else None))
    return {step.id: step.after for step in fold("x", scenario.history).steps.values()}, [
        (body.step, body.after) for body in bodies(scenario, IntentIssued) if body.after is not None
    ]


RESERVE = "shop.int.reserve.v1"


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40)
@hypothesis_given(data=st.data())
def test_rows_of_steps_are_the_kernels(way, data):
    """Whatever happens to whatever saga, each row has the status and attempts of the state."""
    through(begun(data.draw(courses(way)), Course, compare_rows))


def _is_undo(issued):
    return issued[1] is Direction.UNDO


def compare_rows(scenario):
    """Row by row; the order is that of first issue, steps before undos."""
    rows = step_rows(fold(scenario.state.saga_id, scenario.history))
    steps = scenario.state.steps
    issued = [body for body in bodies(scenario, IntentIssued) if body.step in steps]
    first = dict.fromkeys((body.step, body.direction) for body in issued)
    assert [(row.step, row.direction) for row in rows] == sorted(first, key=_is_undo)
    for row in rows:
        step = steps[row.step]
        is_undo = row.direction is Direction.UNDO
        assert row.status is step.status, scenario.history
        assert row.attempts == (step.undo_attempts if is_undo else step.attempts)
        assert row.intent_id.endswith(f"/{row.step}/{row.direction}/{row.attempts}")


def test_the_plain_success_of_steps_writes_nothing_beside_replies():
    """An order that goes well has triggers, intents, replies and its outcome."""
    scenario = given(
        order_saga(), OrderPlaced(), replied(Reserve, Reserved()), replied(Pay, Paid())
    ).when(replied(Ship))

    assert scenario.status == "completed"
    assert [type(entry.body).__name__ for entry in scenario.history] == [
        "SagaStarted",
        "IntentIssued",
        "ReplyReceived",
        "IntentIssued",
        "ReplyReceived",
        "IntentIssued",
        "ReplyReceived",
        "SagaCompleted",
    ]


def test_a_step_depends_on_the_one_issued_just_before_it_without_saying_so():
    """A plain sequence needs no `after`; the first step depends on nothing."""

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.do(Notify())
        await ctx.do(Ship())

    after_of, said = dependencies(order)

    assert after_of == {"reserve": (), "notify": ("reserve",), "ship": ("notify",)}
    assert said == []


def test_branches_are_siblings_and_what_follows_depends_on_all():
    """Steps side by side have the same dependencies; the nearest steps of each branch count."""

    async def pair(ctx):
        await ctx.do(Notify(), id="b1")
        await ctx.do(Notify(), id="b2")

    async def order(ctx, placed):
        await ctx.do(Reserve(), id="first")
        await ctx.all(ctx.do(Notify(), id="a"), pair(ctx), ctx.sleep("0s"))
        await ctx.do(Ship(), id="last")

    scenario = given(as_saga(order), OrderPlaced(), replied("first", Reserved()), after("1s"))
    scenario.when(replied("b1"), replied("a"), replied("b2"))

    steps = fold(scenario.state.saga_id, scenario.history).steps
    assert {step.id: step.after for step in steps.values()} == {
        "first": (),
        "a": ("first",),
        "b1": ("first",),
        "b2": ("b1",),
        "last": ("a", "b2"),
    }
    said = {body.step: body.after for body in bodies(scenario, IntentIssued)}
    assert said == {"first": None, "a": None, "b1": ("first",), "b2": None, "last": ("a", "b2")}


def test_the_first_steps_side_by_side_depend_on_nothing_and_say_so():
    """Only for the very first step does silence mean that."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Notify(), id="a"), ctx.do(Notify(), id="b"))

    after_of, said = dependencies(order)

    assert after_of == {"a": (), "b": ()}
    assert said == [("b", ())]


def test_a_failure_that_was_caught_is_depended_on_like_a_success():
    """The step had settled when the next one was issued."""

    async def order(ctx, placed):
        try:
            await ctx.do(Reserve(), id="first")
        except StepFailed:
            await ctx.do(Notify(), id="second")

    scenario = given(as_saga(order), OrderPlaced()).when(refused("first"))

    assert scenario.state.steps["second"].after == ("first",)


def test_a_refusal_settles_the_step_and_a_caught_one_is_dropped():
    """The history says so before what the saga does about it."""

    async def order(ctx, placed):
        try:
            await ctx.do(Reserve(), undo=Unreserve)
        except StepFailed:
            await ctx.do(Notify())

    scenario = given(as_saga(order), OrderPlaced()).when(refused(Reserve, "no", code="empty"))

    scenario.then(settled("reserve", "refused", code="empty"), issued(Notify))
    rows = {row.step: row for row in step_rows(fold("x", scenario.history))}
    assert rows["reserve"].is_dropped
    assert not rows["notify"].is_dropped


def test_a_failure_that_nobody_caught_is_not_dropped():
    """It began the rollback, which names it."""
    scenario = given(order_saga(), OrderPlaced(), replied(Reserve, Reserved())).when(refused(Pay))

    scenario.then(settled("pay", "refused"), undo_issued(Unreserve))
    assert not any(row.is_dropped for row in step_rows(fold("x", scenario.history)))


@pytest.mark.parametrize(
    ("happening", "status"),
    [(failed(Pay), "failed"), (timed_out(Pay), "in_doubt")],
    ids=["failed", "timed out"],
)
def test_a_step_that_is_tried_again_is_settled_by_its_last_attempt_only(happening, status):
    """Until then a retry is armed, and the step stays issued."""
    scenario = given(
        order_saga(retry=EXACT, timeout="1m"), OrderPlaced(), replied(Reserve, Reserved())
    )
    scenario.when(happening, after("10s"), happening, after("20s"))
    assert not bodies(scenario, StepSettled)
    assert scenario.state.steps["pay"].attempts == 3

    scenario.when(happening).then(settled("pay", status), undo_issued(Refund))


def test_an_immediate_cancel_settles_every_step_in_flight():
    """In doubt is what is on its way; failed is what only waited for its next attempt."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Pay(), undo=Refund, retry=EXACT), ctx.do(Reserve(), undo=Unreserve))

    scenario = given(as_saga(order), OrderPlaced(), failed(Pay))

    scenario.when(cancelled(mode="immediate")).then(
        settled("pay", "failed"), settled("reserve", "in_doubt"), undo_issued(Unreserve)
    )


def test_a_graceful_cancel_settles_steps_that_back_off():
    """Their next attempt is never made."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Pay(), undo=Refund, retry=EXACT), ctx.do(Reserve(), undo=Unreserve))

    scenario = given(as_saga(order), OrderPlaced(), failed(Pay))

    scenario.when(cancelled()).then(settled("pay", "failed"))
    assert scenario.state.steps["reserve"].status is StepStatus.ISSUED


def test_an_abandoned_saga_says_where_each_step_was_left():
    """In doubt, or skipped where its undo was under way."""
    scenario = given(order_saga(), OrderPlaced(), replied(Reserve, Reserved()), failed(Pay))
    scenario.then_steps(pay="undoing")

    scenario.when(cancelled(mode="abandon"))

    (skipped,) = bodies(scenario, StepSettled)[-1:]
    assert (skipped.step, skipped.direction, skipped.status) == ("pay", "undo", "skipped")
    scenario.then_steps(pay="skipped", reserve="done")


def test_a_parked_saga_that_goes_on_says_so():
    """It names the step that it parked on, and resumes when that is tried again."""

    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        await ctx.do(Ship())

    scenario = given(as_saga(order), OrderPlaced(), replied(Pay, Paid())).when(refused(Ship))

    assert bodies(scenario, SagaParked)[0].step == "ship"
    assert not scenario.state.steps["ship"].is_dropped
    scenario.when(operator("retry", "ship")).then(issued(Ship), resumed())
    scenario.then_status("running")


def test_the_losers_of_a_race_are_dropped_by_name():
    """Steps, sleeps and waits; their signals find nobody any more."""

    async def waits(ctx):
        return await ctx.wait("approval", Approval, timeout="1h")

    async def order(ctx, placed):
        reserved = ctx.do(Reserve(), undo=Unreserve)
        await ctx.any(reserved, ctx.sleep("1h"), waits(ctx), ctx.do(Notify()))
        await ctx.do(Ship())

    scenario = given(as_saga(order), OrderPlaced()).when(replied(Notify))

    (dropped,) = bodies(scenario, BranchDropped)
    assert dropped == BranchDropped(
        steps=("reserve",), sleeps=("sleep-1",), waits=("wait-approval-1",)
    )
    state = fold(scenario.state.saga_id, scenario.history)
    assert (state.timers, state.waits) == ({}, {})
    assert state.steps["reserve"].is_dropped
    scenario.when(replied(Ship)).then()
    assert [type(entry.body) for entry in scenario.decided] == [SagaFinishing]
    assert fold("x", scenario.history).is_finishing


def test_a_kept_signal_is_taken_as_soon_as_it_is_awaited():
    """The wait is recorded, and ends at once with the oldest signal."""

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.wait("approval", Approval)
        await ctx.do(Ship())

    signals = signalled("approval", {"by": "ann"}), signalled("approval", 7)
    scenario = given(as_saga(order), OrderPlaced(), *signals).when(replied(Reserve, Reserved()))

    assert bodies(scenario, SignalAwaited) == [
        SignalAwaited(wait="wait-approval-1", name="approval")
    ]
    state = fold("x", scenario.history)
    assert state.waited == {}
    kept = state.kept[signal_channel("approval")]
    assert [each.payload for each in kept.values()] == ["7"]
    assert list(state.steps) == ["reserve", "ship"]


def test_kept_signals_that_a_wait_cannot_take_are_counted_and_gone():
    """The notes stand behind the wait, not behind the fact: that had its plain effect."""

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.wait("approval", Approval)

    scenario = given(
        as_saga(order), OrderPlaced(), signalled("approval", 7), signalled("approval", "no")
    ).when(replied(Reserve, Reserved()))

    scenario.then(noted("refused"))
    awaited, *notes = [entry.body for entry in scenario.decided]
    assert awaited == SignalAwaited(wait="wait-approval-1", name="approval", refused=2)
    assert [type(note) for note in notes] == [Noted, Noted]
    state = fold("x", scenario.history)
    assert state.waited == {"wait-approval-1": awaited}
    assert state.kept == {}


def test_an_operators_retry_of_an_undo_has_a_fresh_budget():
    """Where a retry by the policy has not: both follow from the entries."""
    scenario = given(
        order_saga(retry=EXACT), OrderPlaced(), replied(Reserve, Reserved()), refused(Pay)
    ).when(failed(Unreserve), after("1m"), refused(Unreserve))
    scenario.then_steps(reserve="undo_stuck")

    scenario.when(operator("retry", "reserve"))

    step = fold("x", scenario.history).steps["reserve"]
    assert (step.undo_attempts, step.undo_spent) == (3, 2)
    assert step.undo_began_at == scenario.now


def test_a_note_behind_a_fact_takes_its_plain_effect_away():
    """That is the one rule for facts: no other note stands right behind a fact."""
    scenario = given(
        order_saga(timeout="1m"), OrderPlaced(), replied(Reserve, Reserved()), timed_out(Pay)
    ).when(replied("pay", Paid()))

    scenario.then(noted("late_success"), settled("pay", "done"), undo_issued(Refund))
    *_, last = turns(scenario.history)
    assert type(last.decided[0]) is Noted


def test_the_first_entries_of_a_history_fold_too():
    """Also where they end in the middle of a turn: `history --at` asks for that."""
    scenario = given(order_saga(), OrderPlaced(), replied(Reserve, Reserved()), refused(Pay))
    scenario.when(replied(Unreserve))

    statuses = [
        {row.step: row.status.value for row in step_rows(fold("x", scenario.history[:end]))}
        for end in range(len(scenario.history) + 1)
    ]

    assert statuses[0] == {}
    assert statuses[3] == {"reserve": "done"}
    assert statuses[-1] == {"reserve": "undone", "pay": "refused"}


def test_entries_that_do_not_begin_with_a_fact_are_refused():
    """Nothing is guessed of what must have stood before them."""
    scenario = given(order_saga(), OrderPlaced())

    with pytest.raises(CorruptHistory) as raised:
        fold(scenario.state.saga_id, scenario.history[1:])

    assert raised.value.version == 2


def test_an_undo_that_was_asked_for_before_a_late_success_undoes_a_stuck_step_no_more():
    """Whoever answers it may have met a service that had nothing to undo yet."""
    scenario = given(
        order_saga(timeout="1m"), OrderPlaced(), replied(Reserve, Reserved()), timed_out(Pay)
    )
    scenario.when(timed_out(Refund), after("1h"), refused(Refund))
    scenario.then_steps(pay="undo_stuck")

    scenario.when(replied("pay", Paid()), replied(Refund, attempt=1))

    scenario.then(noted("late_success"), noted("superseded")).then_steps(pay="undo_stuck")
    scenario.when(operator("retry", "pay"), replied(Refund))
    scenario.then_steps(pay="undone")
