"""A branch that never begins is closed, however its group came to nothing: nobody is warned."""

import gc
import warnings

import pytest

from saga.authoring import StepFailed
from saga.testing import failed, given, refused, replied
from tests.toys import CONTRACTS, OrderPlaced, Pay, Reserve, Reserved, Ship, Unreserve, as_saga


@pytest.fixture
def unawaited(recwarn):
    """The warnings of coroutines that nobody has awaited, once the collector has been."""
    warnings.simplefilter("always", RuntimeWarning)

    def found() -> list[str]:
        gc.collect()
        return [str(each.message) for each in recwarn if "never awaited" in str(each.message)]

    return found


PIVOT = "pivot"
"""Not written where it is used, so that only running the function shows it."""


async def branch(ctx):
    await ctx.do(Ship())


def begun(function):
    return given(as_saga(function), OrderPlaced(), contracts=CONTRACTS)


def test_of_a_group_that_waits_for_its_turn(unawaited):
    """The saga leaves memory, or fails, before the others may begin."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Reserve()), branch(ctx), branch(ctx), at_once=1)

    begun(order)
    begun(order).when(refused(Reserve))

    assert unawaited() == []


def test_of_a_group_that_is_at_hand_when_its_maker_fails(unawaited):
    """It was made, and never awaited: what came before it failed."""

    async def order(ctx, placed):
        group = ctx.all(branch(ctx), ctx.any(branch(ctx), ctx.sleep("1s")))
        await ctx.do(Reserve())
        await group

    begun(order).when(refused(Reserve)).then_status("rolled_back")

    assert unawaited() == []


def test_of_a_group_that_was_forgotten(unawaited):
    async def order(ctx, placed):
        made = [ctx.all(branch(ctx), branch(ctx))]
        made.clear()

    begun(order).then_parked("was never awaited")

    assert unawaited() == []


def test_of_a_group_that_is_refused(unawaited):
    """What it was given goes nowhere."""

    async def odd_fail(ctx, placed):
        await ctx.all(branch(ctx), fail="never")

    async def odd_branch(ctx, placed):
        await ctx.any(branch(ctx), 7)

    async def odd_number(ctx, placed):
        await ctx.some(3, branch(ctx), ctx.all(branch(ctx)))

    async def odd_bound(ctx, placed):
        await ctx.all(branch(ctx), at_once=0)

    begun(odd_fail).then_parked("expected 'wait' or 'fast'")
    begun(odd_branch).then_parked("cannot run side by side")
    begun(odd_number).then_parked("expected a number from 0")
    begun(odd_bound).then_parked("expected a number from 1 on")

    assert unawaited() == []


def test_of_a_group_one_of_whose_branches_is_refused(unawaited):
    """The first branch cannot begin: the others never do."""

    async def order(ctx, placed):
        async with ctx.scope():
            await ctx.all(ctx.do(Pay(), kind=PIVOT), branch(ctx), branch(ctx))

    begun(order).then_parked("is a pivot")

    assert unawaited() == []


def test_of_a_group_that_is_made_while_its_maker_is_closed(unawaited):
    """A loser asks for more as it is let go; nobody hears that."""

    async def loser(ctx):
        try:
            await ctx.do(Pay())
        finally:
            await ctx.all(branch(ctx), branch(ctx))

    async def order(ctx, placed):
        try:
            await ctx.any(ctx.do(Reserve(), undo=Unreserve), loser(ctx))
        except StepFailed:
            await ctx.do(Ship(), id="last")

    begun(order).when(replied(Reserve, Reserved()))
    begun(order).when(failed(Pay))

    assert unawaited() == []
