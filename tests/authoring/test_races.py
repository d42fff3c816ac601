"""A race is decided at once: its losers, with all that is nested in them, do nothing any more."""

import random
from contextlib import suppress

import pytest

from saga.authoring import StepFailed
from saga.testing import (
    after,
    cancelled,
    completed,
    given,
    issued,
    published,
    refused,
    replied,
    signalled,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    EXACT,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderSeen,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    as_saga,
)


def running(function, **options):
    return given(as_saga(function, **options), contracts=CONTRACTS)


async def _pay(ctx):
    return await ctx.do(Pay(), undo=Refund)


@pytest.mark.parametrize("group", ["all", "any"])
def test_branches_of_a_loser_that_have_just_begun_never_run(group):
    """One branch wins in the very turn in which another one begins a group of its own."""

    async def order(ctx, placed):
        async def wins():
            await ctx.publish(OrderSeen())

        async def loses():
            await getattr(ctx, group)(_pay(ctx), _pay(ctx))

        await ctx.any(loses(), wins())
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced())
        .then(published(OrderSeen()), completed(OrderConfirmed()))
        .then_status("completed")
    )
    assert running(order).when(OrderPlaced()).state.steps == {}


@pytest.mark.parametrize("is_call", [True, False])
def test_branch_behind_one_that_wins_at_once_never_begins(is_call):
    async def order(ctx, placed):
        async def wins():
            return "at once"

        first = ctx.publish(OrderSeen()) if is_call else wins()
        await ctx.any(first, ctx.do(Ship()), _pay(ctx), ctx.all(_pay(ctx), ctx.sleep("1h")))
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced())

    scenario.then_status("completed")
    # A call is wanted as soon as the group begins, a coroutine only when its turn comes.
    assert list(scenario.state.steps) == ([] if is_call else ["ship"])
    assert scenario.state.timers == {}


def test_nested_branches_end_with_the_loser_they_are_in():
    """At any depth, whatever they wait for, in groups of calls and of coroutines."""

    async def order(ctx, placed):
        async def deep():
            async def inner():
                await ctx.any(ctx.sleep("2h"), ctx.wait("never"))
                await ctx.do(Notify())

            await ctx.all(ctx.all(inner(), _pay(ctx)), ctx.any(ctx.wait("x"), ctx.sleep("1h")))
            await ctx.do(Ship())

        await ctx.any(deep(), ctx.any(ctx.wait("stop"), deep()))
        await ctx.wait("go")
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced(), signalled("stop"))

    assert scenario.state.timers == {}
    assert list(scenario.state.waited) == ["wait-go-1"]
    (
        scenario.when(signalled("x"), signalled("never"), after("3h"))
        .then_nothing()
        .when(replied("pay", Paid()), replied("pay-2", Paid()), signalled("go"))
        .then(undo_issued(Refund, step="pay-2"))
        .when(replied(Refund, step="pay-2"))
        .then(undo_issued(Refund, step="pay"))
        .when(replied(Refund, step="pay"))
        .then(completed(OrderConfirmed()))
    )


def test_signal_goes_to_the_main_flow_and_not_to_a_loser():
    """A wait nested in a loser takes none of the signals that the winner waits for next."""

    async def order(ctx, placed):
        async def greedy():
            async def takes_all():
                while True:
                    await ctx.wait("paid")
                    await ctx.do(Notify())

            await ctx.all(takes_all(), ctx.wait("never"))

        await ctx.any(greedy(), ctx.do(Reserve()))
        return OrderConfirmed(order_id=str(await ctx.wait("paid")))

    (
        running(order)
        .when(OrderPlaced(), replied(Reserve, Reserved()), signalled("paid", 7))
        .then(issued(Reserve), completed(OrderConfirmed(order_id="7")))
    )


def test_what_a_loser_says_while_it_ends_is_not_heard():
    """Neither a fact that its `finally` publishes nor a step that it asks for."""

    async def order(ctx, placed):
        async def inner():
            try:
                await ctx.wait("never")
            finally:
                ctx.publish(OrderSeen(order_id="inner"))

        async def outer():
            try:
                await ctx.all(inner(), inner())
            finally:
                ctx.publish(OrderSeen(order_id="outer"))
                await ctx.do(Notify())

        await ctx.any(outer(), ctx.do(Ship()))
        await ctx.do(Reserve())

    (
        running(order)
        .when(OrderPlaced(), replied(Ship))
        .then(issued(Ship), issued(Reserve))
        .when(replied(Reserve, Reserved()))
        .then(completed())
    )


def test_step_of_a_loser_that_nobody_can_undo_is_residue():
    """Whether it is still in flight, done, or failed; one that was refused had no effect."""

    async def order(ctx, placed):
        async def loses():
            await ctx.do(Pay())
            await ctx.all(ctx.do(Notify(), retry=EXACT), ctx.do(Reserve(), retry=ONCE))

        await ctx.any(loses(), ctx.do(Ship()))
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), replied(Pay, Paid()), refused(Reserve))
        .when(replied(Ship))
        .then(completed(OrderConfirmed(), residue=("pay", "notify")))
        .then_status("completed")
    )


def test_winner_within_a_winner_keeps_what_it_did():
    async def order(ctx, placed):
        async def inner():
            await ctx.all(ctx.do(Reserve()), _pay(ctx))
            return "inner"

        won = await ctx.any(ctx.any(inner(), ctx.wait("never")), ctx.do(Ship(), undo=Notify))
        return OrderConfirmed(order_id=won)

    (
        running(order)
        .when(OrderPlaced(), replied(Reserve, Reserved()), replied(Pay, Paid()))
        .when(replied(Ship))
        .then(undo_issued(Notify))
        .when(replied(Notify))
        .then(completed(OrderConfirmed(order_id="inner")))
    )


class _Tree:
    """A random function of groups in groups, whose branches see whether they have lost."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.shape = self._shape(depth=3)

    def _shape(self, depth):
        kinds = ["do", "sleep", "wait", "publish", "nothing"] + ["any", "all"] * 3 * (depth > 0)
        moves = []
        for _ in range(self.random.randint(1, 3)):
            kind = self.random.choice(kinds)
            count = self.random.randint(1, 3) if kind in ("any", "all") else 0
            moves.append((kind, tuple(self._shape(depth - 1) for _ in range(count))))
        return tuple(moves)

    async def order(self, ctx, placed):
        await self._run(ctx, self.shape, (), set())
        return OrderConfirmed()

    async def _run(self, ctx, moves, path, lost):
        for kind, branches in moves:
            self._check(path, lost)
            await self._move(ctx, kind, branches, path, lost)
            self._check(path, lost)

    async def _move(self, ctx, kind, branches, path, lost):
        match kind:
            case "do":
                await ctx.do(Pay(), undo=Refund, retry=ONCE)
            case "sleep":
                await ctx.sleep("1m")
            case "wait":
                await ctx.wait(f"signal-{len(path) % 2}")
            case "publish":
                ctx.publish(OrderSeen())
            case "any" | "all":
                place = (*path, len(lost))
                running = [
                    self._branch(ctx, kind, each, (*place, number), lost)
                    for number, each in enumerate(branches)
                ]
                with suppress(StepFailed):
                    await getattr(ctx, kind)(*running)

    async def _branch(self, ctx, kind, moves, path, lost):
        await self._run(ctx, moves, path, lost)
        if kind == "any":
            lost.update((*path[:-1], other) for other in range(3) if other != path[-1])

    def _check(self, path, lost):
        assert not any(path[: len(loser)] == loser for loser in lost), f"{path} has lost: {lost}"


@pytest.mark.parametrize("seed", range(60))
def test_no_branch_runs_once_it_has_lost(seed):
    """Random groups in groups, and whatever can happen to them, in any order."""
    tree = _Tree(seed)
    scenario = running(tree.order).when(OrderPlaced())
    for _ in range(25):
        if scenario.status != "running":
            break
        open_steps = [step.id for step in scenario.state.steps.values() if step.status == "issued"]
        happens = [signalled("signal-0"), signalled("signal-1"), after("1m")]
        happens += [replied(step, Paid()) for step in open_steps]
        happens += [refused(step) for step in open_steps]
        scenario.when(tree.random.choice(happens))
    scenario.when(cancelled()).then_status(scenario.status)
