"""`ctx.patched` and `ctx.version`: code that changes while sagas run."""

import pytest

from saga.errors import ReplayMismatch
from saga.testing import after, completed, given, issued, patched, replied, signalled
from tests.toys import (
    CONTRACTS,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Reserve,
    Reserved,
    Ship,
    as_saga,
)

PLACED = OrderPlaced()


def running(function, *happened, history=(), **options):
    return given(as_saga(function, **options), *happened, history=history, contracts=CONTRACTS)


async def before(ctx, placed):
    await ctx.do(Reserve())
    await ctx.wait("go")
    await ctx.do(Ship())
    return OrderConfirmed()


async def patched_early(ctx, placed):
    """The shelf is not asked for any more, but the customer told."""
    if ctx.patched("tell"):
        await ctx.do(Notify())
    else:
        await ctx.do(Reserve())
    await ctx.wait("go")
    await ctx.do(Ship())
    return OrderConfirmed()


async def patched_late(ctx, placed):
    await ctx.do(Reserve())
    await ctx.wait("go")
    if ctx.patched("pay first"):
        await ctx.do(Pay())
    await ctx.do(Ship())
    return OrderConfirmed()


def test_a_new_saga_records_the_patch_and_takes_the_new_path():
    running(patched_early).when(PLACED).then(patched("tell"), issued(Notify))


def test_a_saga_that_has_passed_the_place_keeps_to_the_old_path():
    old = running(before, PLACED, replied(Reserve, Reserved())).history

    loaded = running(patched_early, history=old)

    loaded.when(signalled("go")).then(issued(Ship))
    loaded.when(replied(Ship)).then(completed(OrderConfirmed()))
    assert "Patched" not in {type(entry.body).__name__ for entry in loaded.history}


def test_a_running_saga_takes_the_new_path_where_it_has_not_been_yet():
    old = running(before, PLACED, replied(Reserve, Reserved())).history

    loaded = running(patched_late, history=old).when(signalled("go"))

    loaded.then(patched("pay first"), issued(Pay))
    again = running(patched_late, history=loaded.history)
    again.when(replied(Pay, Paid())).then(issued(Ship))


def test_a_loop_takes_the_new_path_from_its_next_round_on():
    """Each turn is told what was recorded for it: rounds that are over replay as they were."""

    async def rounds(ctx, placed):
        for number in range(3):
            await ctx.wait("go")
            await ctx.do(Reserve(), id=f"reserve-{number}")
        return OrderConfirmed()

    async def with_patch(ctx, placed):
        for number in range(3):
            await ctx.wait("go")
            if ctx.patched("ship"):
                await ctx.do(Ship(), id=f"ship-{number}")
            else:
                await ctx.do(Reserve(), id=f"reserve-{number}")
        return OrderConfirmed()

    old = running(rounds, PLACED, signalled("go"), replied(Reserve, Reserved())).history
    second = running(with_patch, history=old).when(signalled("go"))
    second.then(patched("ship"), issued(Ship, step="ship-1"))
    third = running(with_patch, history=second.history).when(replied(Ship), signalled("go"))
    third.then(issued(Ship, step="ship-2"))
    third.when(replied(Ship)).then(completed(OrderConfirmed()))


def test_a_patch_is_recorded_once_however_often_it_is_asked_for():
    async def twice(ctx, placed):
        assert ctx.patched("a")
        assert ctx.patched("a")
        await ctx.do(Ship())
        assert ctx.patched("a")
        return OrderConfirmed() if ctx.patched("b") else None

    saga = running(twice).when(PLACED)
    saga.then(patched("a"), issued(Ship))
    saga.when(replied(Ship)).then(patched("b"), completed(OrderConfirmed()))


def test_a_patch_is_retired_by_taking_out_the_question():
    """Histories that recorded it go on as the new path, and so do those that begin now."""

    async def retired(ctx, placed):
        await ctx.do(Reserve())
        await ctx.wait("go")
        await ctx.do(Pay())
        await ctx.do(Ship())
        return OrderConfirmed()

    happened = (PLACED, replied(Reserve, Reserved()), signalled("go"), replied(Pay, Paid()))
    history = running(patched_late, *happened).history

    running(retired, history=history).when(replied(Ship)).then(completed(OrderConfirmed()))


def test_a_patch_that_is_retired_too_early_is_a_difference():
    """Of a saga that took the old path; the gate names it before a deploy."""

    async def retired(ctx, placed):
        await ctx.do(Notify())
        await ctx.wait("go")
        await ctx.do(Ship())
        return OrderConfirmed()

    old = running(before, PLACED).history

    with pytest.raises(ReplayMismatch):
        running(retired, history=old)


def test_a_question_that_has_moved_finds_what_was_recorded_before_it():
    async def moved(ctx, placed):
        await ctx.do(Reserve())
        await ctx.wait("go")
        await ctx.do(Pay())
        if ctx.patched("pay first"):
            await ctx.do(Ship())
        return OrderConfirmed()

    happened = (PLACED, replied(Reserve, Reserved()), signalled("go"), replied(Pay, Paid()))
    history = running(patched_late, *happened).history

    running(moved, history=history).when(replied(Ship)).then(completed(OrderConfirmed()))


def test_what_a_closed_branch_asks_for_is_not_recorded():
    async def loser(ctx):
        try:
            await ctx.wait("never")
        finally:
            ctx.patched("late")

    async def race(ctx, placed):
        await ctx.any(loser(ctx), ctx.sleep("1s"))
        if ctx.patched("late"):
            await ctx.do(Ship())
        return OrderConfirmed()

    running(race, PLACED).when(after("1s")).then(patched("late"), issued(Ship))


def test_a_patch_needs_a_name():
    async def nameless(ctx, placed):
        ctx.patched("")

    running(nameless).when(PLACED).then_parked("a patch's id has 1 to 200 characters")


def test_the_version_of_the_definition_is_known():
    async def versioned(ctx, placed):
        if ctx.version > 1:
            await ctx.do(Ship())
        else:
            await ctx.do(Reserve())

    running(versioned, version=2).when(PLACED).then(issued(Ship))
    running(versioned, version=1).when(PLACED).then(issued(Reserve))
