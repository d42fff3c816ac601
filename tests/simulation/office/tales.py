"""The functions: one of `office` in three versions and two releases, one of `depot`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from saga import ChildRolledBack, Context, RollBack, StepFailed, TimedOut, on, saga
from tests.simulation.office.words import (
    LIMITS,
    CrateAsked,
    Ended,
    Failed,
    FormAsked,
    Go,
    Lift,
    Lifted,
    Lower,
    News,
    PalletAsked,
    Question,
    Stow,
    TaleAsked,
    Unstow,
)

Where = Callable[[News], bool]


@dataclass(frozen=True)
class Way:
    """How a version tells a tale: which news it takes, how long it waits, what it calls things."""

    where: Where
    timeout: str
    names: Mapping[str, str] = field(default_factory=dict)
    has_more: bool = False
    """Whether it has a step more, before the children."""

    def name(self, step: str) -> str:
        return self.names.get(step, step)


def _lift(ctx: Context, asked: TaleAsked, step: str, way: Way) -> Awaitable[Lifted]:
    intent = Lift(key=asked.key, step=step, script=asked.scripts.get(step, ""))
    return ctx.do(intent, undo=Lower, id=way.name(step), **LIMITS)


async def _hear(ctx: Context, where: Where | None, timeout: str) -> list[int]:
    try:
        return [(await ctx.next(News, where=where, timeout=timeout)).number]
    except TimedOut:
        return []


async def _answer(ctx: Context) -> None:
    try:
        request = await ctx.update("ask", Question, timeout="600ms")
    except TimedOut:
        return
    if request.payload.number % 2:
        request.refuse("odd", "only even numbers")
    else:
        request.answer(request.payload.number)


async def _wait(ctx: Context) -> list[int]:
    try:
        await ctx.wait("go", Go, timeout="900ms")
    except TimedOut:
        return []
    return []


async def _tell(ctx: Context, asked: TaleAsked, way: Way) -> Ended:
    """Steps in a scope, a race, news, an update, and two children of another application."""
    heard: list[int] = []
    await _lift(ctx, asked, "first", way)
    try:
        async with ctx.scope(way.names.get("scope-1")):
            await _lift(ctx, asked, "in-scope", way)
            await _lift(ctx, asked, "in-scope-too", way)
            _perhaps_leave(asked)
    except (StepFailed, TimedOut, RollBack):
        await _lift(ctx, asked, "instead", way)
    for number in range(asked.news):
        heard += await _hear(ctx, way.where if number == 0 else None, way.timeout)
    await ctx.any(_lift(ctx, asked, "racing", way), _slowly(ctx, asked, way))
    heard += await _hear(ctx, way.where, way.timeout)
    await _answer(ctx)
    if way.has_more:
        await _lift(ctx, asked, "one-more", way)
    await _children(ctx, asked, way)
    ctx.show(heard=len(heard))
    if asked.runs:
        trigger = TaleAsked(key=ctx.key, scripts={}, news=asked.news, runs=asked.runs - 1)
        return await ctx.continue_as_new(trigger)
    return Ended(key=asked.key, heard=tuple(heard))


def _perhaps_leave(asked: TaleAsked) -> None:
    if "leave" in asked.scripts:
        raise RollBack("planned: leave", code="leave")


async def _slowly(ctx: Context, asked: TaleAsked, way: Way) -> None:
    await _lift(ctx, asked, "slowly", way)
    await ctx.sleep("100ms")
    await _lift(ctx, asked, "more-slowly", way)


async def _children(ctx: Context, asked: TaleAsked, way: Way) -> None:
    """One of which the failure is caught, beside one of which it is not."""
    run = f"{asked.key}-{asked.runs}"
    crate = CrateAsked(key=f"crate-of-{run}", scripts=asked.scripts)
    pallet = PalletAsked(key=f"pallet-of-{run}", scripts=asked.scripts)
    await ctx.all(
        _perhaps(ctx.child(crate, outcome=Ended, timeout="4s", id=way.name("crate"))),
        ctx.child(pallet, outcome=Ended, id="pallet"),
    )


async def _perhaps(child: Awaitable[Any]) -> None:
    try:
        await child
    except (ChildRolledBack, TimedOut, StepFailed):
        return


OPTIONS: dict[str, Any] = {
    "starts_on": TaleAsked,
    "listens": on(News, early="2s"),
    "rolled_back": Failed,
}


@saga("tale", version=1, **OPTIONS)
async def tale_1(ctx: Context, asked: TaleAsked) -> Ended:
    return await _tell(ctx, asked, Way(lambda news: news.number % 2 == 0, "900ms"))


@saga("tale", version=1, **OPTIONS)
async def tale_1_changed(ctx: Context, asked: TaleAsked) -> Ended:
    """Of the next release: takes other news, and waits longer, from then on."""
    return await _tell(ctx, asked, Way(lambda news: news.number % 2 == 1, "1200ms"))


@saga("tale", version=2, **OPTIONS)
async def tale_2(ctx: Context, asked: TaleAsked) -> Ended:
    """Begins otherwise, so that no history of the one fits the other."""
    await ctx.sleep("50ms")
    way = Way(lambda news: news.number > 4, "700ms")
    await _lift(ctx, asked, "before-all", way)
    await _wait(ctx)
    return await _tell(ctx, asked, way)


TALE_3: Final = {
    "first": "at-first",
    "in-scope": "within",
    "in-scope-too": "within-too",
    "scope-1": "part",
    "instead": "rather",
    "racing": "quickly",
    "more-slowly": "later",
    "crate": "box",
}
"""What the third version calls otherwise."""


@saga("tale", version=3, **OPTIONS)
async def tale_3(ctx: Context, asked: TaleAsked) -> Ended:
    """Goes on where the first one stands, with other names, and has a step more."""
    way = Way(lambda news: news.number % 3 == 0, "800ms", TALE_3, has_more=True)
    return await _tell(ctx, asked, way)


@saga("pallet", version=1, starts_on=PalletAsked, rolled_back=Failed, when_stuck="continue")
async def pallet(ctx: Context, asked: PalletAsked) -> Ended:
    """Has a child in the first application."""
    stow = Stow(key=asked.key, step="stack", script=asked.scripts.get("stack", ""))
    await ctx.do(stow, undo=Unstow, id="stack", **LIMITS)
    form = FormAsked(key=f"form-of-{asked.key}", scripts=asked.scripts)
    await ctx.child(form, outcome=Ended, id="form")
    return Ended(key=asked.key)
