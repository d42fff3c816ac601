"""Worlds of sagas whose code misbehaves: each parks or ends, and all invariants hold.

`tests/FAULTS.md`, numbers 1 to 4.
"""

import asyncio
import sys

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, RollBack, SagaApp, saga
from saga.testing import World

pytestmark = pytest.mark.timeout(0)
SEEDS = range(6)


class Begun(Event, topic="odd.begun", version=1, key="how"):
    how: str


class Untold(Event, topic="odd.untold", version=1):
    pass


class Act(Intent[None], topic="odd.act", version=1):
    how: str


class Undo(Intent[None], topic="odd.undo", version=1):
    how: str


HIDDEN = {"event": Untold}
odd = Effects("odd")


@odd.on(Act)
async def act(intent: Act, ctx: EffectContext) -> None:
    """Always well."""


@odd.on(Undo)
async def undo(intent: Undo, ctx: EffectContext) -> None:
    """Always well."""


class Mute(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise SystemExit(4)


RAISED = {
    "exits": lambda: SystemExit(3),
    "is cancelled": asyncio.CancelledError,
    "is mute": Mute,
    "is loud": lambda: ValueError("no \ud800\x00" + 100_000 * "x"),
    "gives up": lambda: RollBack("no \ud800\x00" + 100_000 * "x"),
}


async def acting(ctx: Context, how: str):
    """Acts, and once more when it is left."""
    try:
        yield await ctx.do(Act(how=how), undo=Undo)
    finally:
        await ctx.do(Act(how=how), undo=Undo)


@saga("odd", version=1, starts_on=Begun)
async def odd_saga(ctx: Context, begun: Begun) -> Event | None:
    """Acts, then does what its key says."""
    await ctx.do(Act(how=begun.how), undo=Undo)
    if begun.how in RAISED:
        error = RAISED[begun.how]()
        raise error
    if begun.how == "sleeps":
        await asyncio.sleep(1)
    elif begun.how == "publishes":
        ctx.publish(HIDDEN["event"]())
    elif begun.how == "leaves a generator":
        async for _ in acting(ctx, begun.how):
            break
    elif begun.how == "is let go of":
        try:
            await ctx.sleep("5s")
        finally:
            if sys.exc_info()[0] is GeneratorExit:
                sys.exit(5)
    return None


BAD = {*RAISED, "sleeps", "publishes"} - {"gives up"}
GOOD = {"gives up", "leaves a generator", "is let go of", "is good"}
ENDS = {"completed", "rolled_back", "rolled_back_with_residue", "abandoned"}
"""A world's operators may have had a saga rolled back, or have given it up."""


@pytest.mark.parametrize("seed", SEEDS)
def test_all_invariants_hold_beside_them(seed):
    app = SagaApp(sagas=[odd_saga], effects=[odd])
    ended, begun = {}, set()

    def look(state):
        ended.update({each.key: each.status.value for each in state.sagas})
        begun.update(event.how for event in state.topics[Begun])
        return []

    triggers = [Begun(how=how) for how in sorted(BAD | GOOD)]
    verdict = World(app, seed, triggers=triggers, check=[look]).run()

    assert verdict.violations == ()
    assert ended.keys() == begun
    assert {ended[how] for how in BAD & begun} <= ENDS - {"completed"} | {"parked"}
    assert {ended[how] for how in GOOD & begun} <= ENDS
