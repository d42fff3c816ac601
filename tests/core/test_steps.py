"""SEMANTICS of a step on its way: retries, deadlines, replies of all kinds, the pivot."""

import math
import sys
from contextlib import suppress
from datetime import timedelta

import pytest

from saga.authoring import StepFailed, TimedOut
from saga.core.durations import duration_us
from saga.core.retry import Retry
from saga.testing import (
    after,
    answered,
    armed,
    cancelled,
    cleaned_up,
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
    undo_appended,
    undo_issued,
    updated,
)
from tests.toys import (
    EXACT,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderSeen,
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


async def pay_then_ship(ctx, placed):
    """A step with deadline and retries, and one after it."""
    await ctx.do(Pay(), undo=Refund, retry=EXACT, timeout="30s")
    await ctx.do(Ship(), undo=Unship, retry=ONCE)


def test_failed_attempt_is_repeated_after_growing_delays():
    """10 s, then 20 s, then the step has failed for good."""
    (
        given(as_saga(pay_then_ship))
        .when(OrderPlaced())
        .then(issued(Pay, attempt=1), armed("deadline", "pay/do", "30s"))
        .when(failed(Pay))
        .then(armed("retry", "pay/do", "10s"))
        .when(after("9.9s"))
        .then_nothing()
        .when(after("100ms"))
        .then(issued(Pay, attempt=2), armed("deadline", "pay/do", "30s"))
        .when(failed(Pay))
        .then(armed("retry", "pay/do", "20s"))
        .when(after("20s"))
        .then(issued(Pay, attempt=3))
        .when(failed(Pay, "broken", code="x"))
        .then(planned("pay"), undo_issued(Refund(receipt=None)))
        .then_steps(pay="undoing")
    )


def test_missed_deadline_counts_as_an_attempt():
    """A step in doubt is repeated under the same idempotency key while its budget lasts."""
    (
        given(as_saga(pay_then_ship), OrderPlaced())
        .when(after("30s"))
        .then(armed("retry", "pay/do", "10s"))
        .when(after("10s"))
        .then(issued(Pay, attempt=2))
        .when(after("50s"))
        .then(issued(Pay, attempt=3))
        .when(after("30s"))
        .then(planned("pay"), undo_issued(Refund))
    )


@pytest.mark.parametrize("attempt", [1, 2])
def test_success_of_any_attempt_counts(attempt):
    """A reply to an earlier attempt settles the step, and its deadline no longer matters."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), timed_out(Pay), after("10s"))
        .when(replied(Pay, Paid(), attempt=attempt))
        .then(issued(Ship))
        .when(after("1h"))
        .then_nothing()
    )


def test_success_during_the_pause_before_a_retry_cancels_the_retry():
    """The late reply to the first attempt makes the second superfluous."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), timed_out(Pay))
        .when(replied(Pay, Paid(), attempt=1))
        .then(issued(Ship))
        .when(after("1h"))
        .then_nothing()
    )


def test_failure_of_an_earlier_attempt_is_superseded():
    """Only the last attempt's failure decides anything."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), timed_out(Pay))
        .when(failed(Pay, attempt=1))
        .then(noted("superseded"))
        .when(after("10s"), failed(Pay, attempt=2))
        .then(issued(Pay, attempt=2), armed("retry", "pay/do", "20s"))
    )


def test_refusal_is_final_at_once():
    """A `No, and nothing happened` is not tried again."""
    (
        given(as_saga(pay_then_ship), OrderPlaced())
        .when(refused(Pay, "over the limit", code="limit"))
        .then(rolled_back(OrderRejected, code="limit"))
    )


def test_code_in_never_on_is_final_at_once():
    """A policy can name failures that no repetition heals."""

    async def order(ctx, placed):
        await ctx.do(Pay(), retry=Retry(attempts=5, never_on=("fraud",)))

    (
        given(as_saga(order), OrderPlaced(), failed(Pay, code="net"), after("1s"))
        .when(failed(Pay, code="fraud"))
        .then(rolled_back(OrderRejected, residue=("pay",)))
    )


@pytest.mark.parametrize("code", ["busy", "timeout", "failed"])
def test_only_codes_in_only_on_are_tried_again(code):
    """A missed deadline has one too, and so has a failure that names none."""

    async def order(ctx, placed):
        only = Retry(attempts=5, initial="10s", jitter=0, only_on=("busy", "timeout", "failed"))
        await ctx.do(Pay(), retry=only, timeout="1m")

    scenario = given(as_saga(order), OrderPlaced())
    named = {"busy": failed(Pay, code="busy"), "timeout": timed_out(Pay), "failed": failed(Pay)}
    (
        scenario.when(named[code], after("10s"))
        .then(issued(Pay, attempt=2))
        .when(failed(Pay, code="fraud"))
        .then(rolled_back(OrderRejected, residue=("pay",)))
    )


def test_no_attempt_begins_after_within():
    """A delay that would lead beyond it is not waited for."""

    async def order(ctx, placed):
        retry = Retry(attempts=None, initial="10s", factor=2, jitter=0, within="30s")
        await ctx.do(Pay(), undo=Refund, retry=retry)

    (
        given(as_saga(order), OrderPlaced(), failed(Pay))
        .when(after("10s"), failed(Pay))
        .then(issued(Pay, attempt=2), armed("retry", "pay/do", "20s"))
        .when(after("20s"), failed(Pay))
        .then(issued(Pay, attempt=3), undo_issued(Refund))
    )


def test_jitter_is_seeded_by_the_intent():
    """The same attempt always waits as long; another saga's waits another time."""
    retry = Retry(initial="10s", jitter=0.5)
    one, same, other = (
        retry.delay_us(failed_attempts=1, seed=seed) for seed in ("a/pay/do/1", "a/pay/do/1", "b")
    )

    assert one == same != other
    assert 5_000_000 <= one <= 10_000_000


def test_delays_stop_growing_at_the_cap():
    """However many attempts have failed."""
    retry = Retry(attempts=None, initial="1s", factor=3, cap="1m", jitter=0)

    assert [retry.delay_us(failed_attempts=n, seed="") // 10**6 for n in (1, 2, 4, 5, 10**6)] == [
        1,
        3,
        27,
        60,
        60,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"factor": -0.5},
        {"factor": math.nan},
        {"factor": math.inf},
        {"factor": 10**400},
        {"jitter": 2},
        {"jitter": math.nan},
        {"initial": "soon"},
        {"within": "101y"},
        {"cap": "40000d"},
        {"never_on": "fraud"},
        {"only_on": "busy"},
        {"only_on": ("busy", 7)},
        {"only_on": ()},
        {"only_on": ("busy",), "never_on": ("fraud", "busy")},
    ],
)
def test_policy_that_makes_no_sense_is_refused(wrong):
    """When it is made, not when it is needed."""
    with pytest.raises(ValueError, match=r"attempts=|factor=|jitter=|duration|never_on|only_on"):
        Retry(**wrong)


@pytest.mark.parametrize("factor", [1, 1.0001, 1.5, 2, 1e6, 1e300, sys.float_info.max, 10**300])
@pytest.mark.parametrize("initial", ["0s", "1ms", "1s", "36600d"])
def test_any_finite_factor_leads_to_the_cap(factor, initial):
    """A small one slowly, a large one without leaving what numbers can hold."""
    retry = Retry(attempts=None, initial=initial, factor=factor, cap="36600d", jitter=0)
    attempts = (1, 2, 10, 64, 65, 1_000, 10**6, 10**9)

    delays = [retry.delay_us(failed_attempts=number, seed="") for number in attempts]

    assert delays == sorted(delays)
    assert delays[0] == duration_us(initial)
    expected = delays[0] if factor == 1 or initial == "0s" else duration_us("36600d")
    assert delays[-1] == expected


@pytest.mark.parametrize(("factor", "seconds"), [(0.5, [8, 4, 2, 1]), (0, [8, 0, 0, 0])])
def test_a_factor_below_1_shrinks_the_delays(factor, seconds):
    retry = Retry(attempts=None, initial="8s", factor=factor, cap="1m", jitter=0)
    delays = [retry.delay_us(failed_attempts=n, seed="") for n in (1, 2, 3, 4)]

    assert delays == [second * 10**6 for second in seconds]
    assert retry.delay_us(failed_attempts=10**9, seed="") == 0


def test_small_factor_reaches_its_cap_beyond_the_64th_failure():
    retry = Retry(attempts=None, initial="1s", factor=1.05, cap="1m", jitter=0)
    seconds = [retry.delay_us(failed_attempts=n, seed="") / 10**6 for n in (64, 65, 84, 85)]

    assert seconds == pytest.approx([21.6, 22.7, 57.4, 60], rel=0.01)


@pytest.mark.parametrize("length", ["-1s", timedelta(days=-3), timedelta.min, "-0.5h", "0s"])
def test_what_is_due_in_the_past_is_due_at_once(length):
    """A sleep, a deadline, a wait and a pause before a retry."""

    async def order(ctx, placed):
        await ctx.sleep(length)
        with suppress(TimedOut):
            await ctx.wait("never", timeout=length)
        retry = Retry(attempts=2, initial=length, cap=length, within=length)
        await ctx.do(Pay(), undo=Refund, retry=retry, timeout=length)

    (
        given(as_saga(order))
        .when(OrderPlaced(), after(length))
        .then(
            *(armed("sleep", "sleep-1", "0s"), armed("wait", "wait-never-1", "0s")),
            *(issued(Pay), armed("deadline", "pay/do", "0s"), armed("retry", "pay/do", "0s")),
            *(issued(Pay, attempt=2), undo_issued(Refund)),
        )
    )


@pytest.mark.parametrize(
    "length", ["", "-", "1", "s", "1w", "\u0661s", "1e3s", "--1s", "9" * 400 + "d"]
)
def test_what_is_no_length_of_time_is_refused(length):
    with pytest.raises(ValueError, match="is no duration"):
        duration_us(length)


def test_same_reply_again_is_a_duplicate():
    """Counted, not recorded; nothing else changes."""
    (
        given(order_saga(), OrderPlaced(), replied(Reserve, Reserved()))
        .when(redelivered())
        .then_was("duplicate")
        .then_nothing()
        .when(replied("reserve", Reserved()))
        .then_was("duplicate")
    )


def test_different_reply_to_one_attempt_is_a_recorded_conflict():
    """The first one stands; the second is an incident, recorded once and then parked."""
    (
        given(order_saga(), OrderPlaced(), replied(Reserve, Reserved()))
        .when(replied("reserve", Reserved(shelf="other")))
        .then(noted("conflicting"))
        .when(redelivered())
        .then_was("id_conflict")
        .when(failed("reserve"))
        .then(noted("conflicting"))
    )


def test_two_attempts_with_one_reply_are_no_conflict():
    """An idempotent service answers the repeated intent as it answered the first."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), timed_out(Pay), after("10s"))
        .when(replied(Pay, Paid(), attempt=1), replied("pay", Paid(), attempt=2))
        .then(issued(Ship), noted("superseded", "same reply"))
        .when(redelivered())
        .then_was("duplicate")
    )


def test_two_attempts_with_different_replies_are_a_conflict():
    """A service that did it twice is not idempotent: that must be seen."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), timed_out(Pay), after("10s"))
        .when(replied(Pay, Paid(), attempt=1), replied("pay", Paid(receipt="r-2"), attempt=2))
        .then(issued(Ship), noted("conflicting"))
    )


@pytest.mark.parametrize(("step", "attempt"), [("reserve", 2), ("reserve", 0), ("reserve", 99)])
def test_reply_to_an_attempt_never_made_is_unknown(step, attempt):
    (
        given(order_saga(), OrderPlaced())
        .when(replied(step, Reserved(), attempt=attempt))
        .then_was("unknown_intent")
        .then_nothing()
    )


def test_reply_of_another_contract_is_no_answer():
    """A fact that merely names the intent as its cause does not settle the step."""
    (
        given(order_saga(), OrderPlaced(), contracts=[OrderSeen])
        .when(replied(Reserve, OrderSeen()))
        .then(noted("refused", "shop.evt.reserved.v1"))
        .when(replied(Reserve, None))
        .then(noted("refused", "shop.evt.reserved.v1"))
        .when(replied(Reserve, Reserved()))
        .then(issued(Pay))
        .when(replied(Pay, Paid()))
        .then(issued(Ship))
        .when(replied(Ship, OrderSeen()))
        .then(noted("refused", "no reply of its own"))
        .when(replied(Ship))
        .then(completed(OrderConfirmed()))
    )


IN_DOUBT = (OrderPlaced(), replied(Reserve, Reserved()), timed_out(Pay))


def doubtful():
    """The order saga, every step with one attempt and a deadline."""
    return order_saga(timeout="30s")


def test_late_success_before_its_undo_is_undone_with_its_reply():
    """Its turn in the plan is still to come, and will know the reply."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve, retry=ONCE, timeout="10s"),
            ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="20s"),
        )

    (
        given(as_saga(order), OrderPlaced(), after("20s"))
        .when(replied(Reserve, Reserved()))
        .then(noted("late_success"))
        .when(replied(Refund))
        .then(undo_issued(Unreserve(shelf="s-1")))
    )


def test_late_success_during_its_undo_is_undone_again():
    """The blind undo may have come first and done nothing; one with the reply takes its place."""
    (
        given(doubtful(), *IN_DOUBT)
        .when(replied("pay", Paid(), attempt=1))
        .then(noted("late_success"), undo_issued(Refund(receipt="r-1"), attempt=2))
        .when(replied(Refund, attempt=1))
        .then(noted("superseded"))
        .when(replied(Refund, attempt=2))
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected))
    )


def test_late_success_while_its_undo_pauses_is_undone_at_once():
    """The pending retry is cancelled, and the new attempt's failure counts."""
    (
        given(doubtful(), *IN_DOUBT, failed(Refund))
        .when(replied("pay", Paid(), attempt=1))
        .then(noted("late_success"), undo_issued(Refund(receipt="r-1"), attempt=2))
        .when(failed(Refund), after("1s"))
        .then(undo_issued(Refund, attempt=3))
    )


def test_late_success_after_its_undo_is_undone_again():
    """While the rollback runs, the undo is appended to its plan."""
    (
        given(doubtful(), *IN_DOUBT, replied(Refund))
        .when(replied(Pay, Paid(), attempt=1))
        .then(noted("late_success"), undo_appended("pay"))
        .when(replied(Unreserve))
        .then(undo_issued(Refund(receipt="r-1"), attempt=2))
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
    )


def test_late_success_after_the_rollback_reopens_the_saga_for_cleanup():
    """The outcome stands; what had its effect late is undone."""
    (
        given(doubtful(), *IN_DOUBT, replied(Refund), replied(Unreserve))
        .then_status("rolled_back")
        .when(replied(Pay, Paid(), attempt=1))
        .then(noted("late_success"), planned("pay"), undo_issued(Refund(receipt="r-1")))
        .then_status("rolling_back")
        .when(replied(Refund))
        .then(cleaned_up())
        .then_status("rolled_back")
    )


def test_an_update_that_comes_while_the_saga_cleans_up_is_answered_then():
    """Nobody else would: its end was told before."""
    (
        given(doubtful(), *IN_DOUBT, replied(Refund), replied(Unreserve))
        .when(replied(Pay, Paid(), attempt=1))
        .when(updated("change"))
        .then_nothing()
        .when(replied(Refund))
        .then(cleaned_up(), answered(code="ended", message="the saga is rolled_back"))
    )


def test_late_success_after_completion_reopens_the_saga_for_cleanup():
    """A step that the function had given up on is undone; the saga is completed as before."""
    scenario = (
        given(as_saga(tries_to_pay), OrderPlaced())
        .when(timed_out(Pay))
        .then(planned("pay"), undo_issued(Refund(receipt=None)))
        .then_status("running")
        .when(replied(Refund))
        .then(completed(OrderConfirmed()))
    )
    (
        scenario.when(replied(Pay, Paid(), attempt=1))
        .then(planned("pay"), undo_issued(Refund(receipt="r-1")))
        .then_status("rolling_back")
        .when(timed_out(Refund))
        .when(after("1s"))
        .then(undo_issued(Refund, attempt=3))
        .when(replied(Refund))
        .then(cleaned_up())
        .then_status("completed")
    )


async def tries_to_pay(ctx, placed):
    """Goes on without payment."""
    with suppress(StepFailed):
        await ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="30s")
    return OrderConfirmed()


def test_late_refusal_closes_the_doubt():
    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve, retry=ONCE, timeout="10s"),
            ctx.do(Pay(), undo=Refund, retry=ONCE, timeout="20s"),
        )

    (
        given(as_saga(order), OrderPlaced(), after("20s"))
        .when(refused(Reserve, "sold out"))
        .then(noted("late_failure", "doubt closed"))
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
        .then_status("rolled_back")
    )


def test_late_failure_leaves_the_doubt():
    """A failed attempt may have had its effect: it is undone all the same."""
    (
        given(doubtful(), *IN_DOUBT)
        .when(failed("pay"))
        .then(noted("late_failure"))
        .then_steps(pay="undoing")
    )


def test_late_failure_after_the_end_is_noted():
    (
        given(doubtful(), *IN_DOUBT, replied(Refund), replied(Unreserve))
        .when(failed("pay"))
        .then(noted("late_failure"))
        .then_status("rolled_back")
    )


def test_caught_failure_is_undone_before_completion():
    """The function goes on without the step; what that may have done is undone at the end."""
    (
        given(as_saga(tries_to_pay), OrderPlaced())
        .when(failed(Pay, code="down"))
        .then(planned("pay"), undo_issued(Refund))
        .when(replied(Refund))
        .then(completed(OrderConfirmed()))
    )


def test_caught_refusal_leaves_nothing_to_undo():
    (
        given(as_saga(tries_to_pay), OrderPlaced())
        .when(refused(Pay, code="limit"))
        .then(completed(OrderConfirmed()))
    )


def test_stuck_leftover_parks_a_saga_that_is_through():
    """It completes once the operator has decided about what is left."""
    (
        given(as_saga(tries_to_pay), OrderPlaced(), failed(Pay, code="down"))
        .when(refused(Refund, "closed"))
        .then(parked("cannot undo pay"))
        .when(cancelled())
        .then(noted("refused"))
        .when(operator("skip"))
        .then(completed(OrderConfirmed(), residue=("pay",)))
        .then_status("completed")
    )


async def with_pivot(ctx, placed):
    """Pay is the point of no return."""
    await ctx.do(Reserve(), undo=Unreserve)
    await ctx.do(Pay(), kind="pivot", retry=ONCE)
    await ctx.do(Ship(), kind="retriable", retry=EXACT, timeout="30s")
    return OrderConfirmed()


PAST_PIVOT = (OrderPlaced(), replied(Reserve, Reserved()), replied(Pay, Paid()))


def test_failing_pivot_rolls_back():
    """Up to the pivot there is a way back."""
    (
        given(as_saga(with_pivot), OrderPlaced(), replied(Reserve, Reserved()))
        .when(refused(Pay, "no money"))
        .then(planned("reserve"), undo_issued(Unreserve))
    )


def test_step_after_the_pivot_parks_instead_of_rolling_back():
    """There is no way back; an operator repeats it."""
    (
        given(as_saga(with_pivot), *PAST_PIVOT)
        .when(refused(Ship, "no van"))
        .then(parked("ship"))
        .then_waits_for("operator")
        .when(operator("retry"))
        .then(issued(Ship, attempt=2))
        .then_status("running")
        .when(replied(Ship))
        .then(completed(OrderConfirmed()))
    )


def test_retriable_step_is_retried_without_limit_by_default():
    """Unless it is given a budget of its own."""

    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        await ctx.do(Ship(), kind="retriable")

    scenario = given(as_saga(order), OrderPlaced(), replied(Pay, Paid()))
    for attempt in range(2, 30):
        scenario.when(failed(Ship), after("1m")).then(issued(Ship, attempt=attempt))


def test_late_success_of_the_step_a_saga_parked_on_lets_it_go_on():
    """What it waited for has happened: no operator is needed any more."""
    scenario = given(as_saga(with_pivot), *PAST_PIVOT)
    scenario.when(*[after("1m")] * 3).then_parked("ship")
    (
        scenario.when(replied(Ship, attempt=2))
        .then(noted("late_success"), completed(OrderConfirmed()))
        .then_status("completed")
    )


def test_saga_parked_on_two_steps_is_freed_by_both():
    """The operator repeats one after the other."""

    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        await ctx.all(ctx.do(Ship(), kind="retriable"), ctx.do(Notify(), kind="retriable"))

    (
        given(as_saga(order), OrderPlaced(), replied(Pay, Paid()))
        .when(refused(Ship, "no"), refused(Notify, "no"))
        .then(parked("ship"), parked("notify"))
        .when(operator("retry"))
        .then(noted("refused", "name a step"))
        .when(operator("retry", "ship"))
        .then(issued(Ship, attempt=2))
        .then_status("parked")
        .when(replied(Ship))
        .then_status("parked")
        .when(operator("retry"))
        .then(issued(Notify, attempt=2))
        .then_status("running")
        .when(replied(Notify))
        .then(completed())
    )


def test_program_that_gives_up_after_the_pivot_parks():
    """An operator decides: compensate all the same, or abandon."""
    from saga.authoring import RollBack

    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Pay(), kind="pivot")
        raise RollBack("second thoughts")

    (
        given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()))
        .when(replied(Pay, Paid()))
        .then(parked("second thoughts"))
        .when(operator("compensate"))
        .then(planned("reserve"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, residue=("pay",)))
    )


def test_operator_repeats_a_step_without_waiting_for_its_pause():
    """The pending retry is cancelled."""
    (
        given(as_saga(pay_then_ship), OrderPlaced(), failed(Pay))
        .when(operator("retry", "pay"))
        .then(issued(Pay, attempt=2))
        .when(after("10s"))
        .then_nothing()
    )


@pytest.mark.parametrize("act", ["retry", "skip", "release"])
def test_operator_act_that_makes_no_sense_is_refused_and_recorded(act):
    """Nothing else happens."""
    (
        given(order_saga(), OrderPlaced())
        .when(operator(act, "reserve"))
        .then(noted("refused"))
        .then_status("running")
    )


def test_same_trigger_again_finds_the_same_saga():
    """A duplicate is counted; another content under the same key is a conflict."""
    (
        given(order_saga(), OrderPlaced())
        .when(OrderPlaced())
        .then_was("duplicate")
        .when(OrderPlaced(amount=4))
        .then_was("key_taken")
        .then_nothing()
    )
