"""A service that still works on a step puts its deadline off, and the history says so seldom."""

import pytest

from saga.core.durations import duration_us
from saga.core.events import ProgressReceived, TimerFired
from saga.core.intents import TimerMoved
from saga.testing import (
    after,
    cancelled,
    completed,
    given,
    issued,
    progressed,
    refused,
    replied,
    timed_out,
    undo_issued,
)
from saga.testing.happenings import Plain
from tests.toys import EXACT, OrderPlaced, Paid, Pay, Refund, Ship, as_saga


async def pay(ctx, placed):
    """A step whose attempts take half a minute at most, with an undo of the same."""
    await ctx.do(Pay(), undo=Refund, retry=EXACT, timeout="30s")
    await ctx.do(Ship())


async def pay_some_time(ctx, placed):
    """A step that may take as long as it likes."""
    await ctx.do(Pay(), undo=Refund)


def begun(function=pay):
    return given(as_saga(function), OrderPlaced())


def moves(scenario) -> list[int]:
    """How far each move has put a deadline off, from the turn that moved it, in seconds."""
    return [
        round((entry.body.due_at - entry.at) / duration_us("1s"))
        for entry in scenario.history
        if isinstance(entry.body, TimerMoved)
    ]


def test_progress_has_the_deadline_begin_anew() -> None:
    scenario = begun().when(after("20s"), progressed(Pay, "half of it"), after("29s"))

    assert moves(scenario) == [30]
    assert scenario.history[-2].body == ProgressReceived(
        intent_id=f"{scenario.state.saga_id}/pay/do/1", note="half of it"
    )
    scenario.when(replied(Pay, Paid(receipt="r-1"))).then(issued(Ship))


def test_a_service_that_falls_silent_misses_its_deadline_later() -> None:
    scenario = begun().when(after("20s"), progressed(Pay), after("31s"))

    assert scenario.state.steps["pay"].is_backing_off


def test_it_is_recorded_once_in_a_third_of_the_deadline() -> None:
    """However often a service says it, and nothing is lost by that."""
    scenario = begun()
    for _ in range(60):
        scenario.when(after("1s"), progressed(Pay))

    assert moves(scenario) == [30] * 6
    assert scenario.state.steps["pay"].attempts == 1


@pytest.mark.parametrize(
    "late",
    [
        pytest.param((progressed(Pay, attempt=1), "no_news"), id="an earlier attempt"),
        pytest.param((progressed(Pay, attempt=3), "unknown_intent"), id="never issued"),
    ],
)
def test_what_is_no_attempt_at_work_moves_nothing(late) -> None:
    happening, disposition = late
    scenario = begun().when(timed_out(Pay), after("5s"))
    before = scenario.history
    scenario.when(happening)

    assert scenario.then_was(disposition).history == before


def test_a_step_without_a_deadline_takes_no_notice() -> None:
    scenario = begun(pay_some_time)
    before = scenario.history

    assert scenario.when(progressed(Pay)).history == before


def test_an_undo_has_progress_too() -> None:
    scenario = begun().when(replied(Pay, Paid(receipt="r-1"))).when(refused(Ship))
    scenario.then(undo_issued(Refund)).when(after("20s"), progressed(Refund), after("20s"))

    assert moves(scenario) == [30]
    assert scenario.state.steps["pay"].undo_attempts == 1


def test_a_cancelled_saga_waits_as_long_as_a_service_makes_progress() -> None:
    scenario = begun().when(cancelled(), after("20s"), progressed(Pay), after("29s"))
    scenario.when(replied(Pay, Paid(receipt="r-1"))).then(undo_issued(Refund))


def test_a_deadline_that_was_found_due_and_is_moved_does_not_fire() -> None:
    """A worker may have looked before the move: nothing is recorded, and it is looked for again."""
    scenario = begun().when(after("29s"), progressed(Pay))
    timer = next(iter(scenario.state.timers.values()))
    before = scenario.history
    scenario.when(Plain(TimerFired(timer_id=timer.timer_id)))

    assert scenario.then_was("no_news").history == before
    scenario.when(after("31s"))
    assert scenario.state.steps["pay"].is_backing_off


def test_an_old_deadline_is_replayed_as_it_was_moved() -> None:
    """The length of today's timeout does not matter to what was recorded."""
    scenario = begun().when(after("20s"), progressed(Pay), after("29s"))

    async def shorter(ctx, placed):
        await ctx.do(Pay(), undo=Refund, retry=EXACT, timeout="1s")
        await ctx.do(Ship())

    again = given(as_saga(shorter), history=scenario.history)
    again.when(replied(Pay, Paid(receipt="r-1")), replied(Ship))
    again.then(issued(Ship), completed())
