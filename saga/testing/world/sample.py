"""The application of a world that brings none of its own: sagas of every shape, and two services.

What happens to a step is written into its trigger, the *script*: words such as `refuse`, `fail:2`,
`slow:1.5`, `undofail:1`. So a world needs no dice of its own once it runs, and a checker that knows
the input knows what is to be expected.
"""

from __future__ import annotations

from collections.abc import Awaitable

from saga.app import SagaApp
from saga.authoring import Context, RollBack, StepFailed, TimedOut, saga
from saga.core.retry import Retry
from saga.testing.world.process import current_process
from saga.testing.world.sample_messages import (
    Approval,
    Charge,
    ChoiceOrdered,
    FlawedOrdered,
    GiveBack,
    Look,
    Noticed,
    Ordered,
    ParallelOrdered,
    PatientOrdered,
    PivotOrdered,
    Refund,
    SequenceOrdered,
    StubbornOrdered,
    Take,
    Taken,
    WideOrdered,
    WorkDone,
    WorkUndone,
)
from saga.testing.world.sample_services import bank, stock

RETRY = Retry(attempts=3, initial="80ms", cap="300ms")
UNDO_RETRY = Retry(attempts=None, initial="80ms", cap="300ms")
TIMEOUT = "700ms"


def take(
    ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY
) -> Awaitable[Taken]:
    """A step of the stock service."""
    return ctx.do(
        Take(order_id=ordered.order_id, script=ordered.script.get(step, "")),
        undo=GiveBack,
        id=step,
        retry=RETRY,
        timeout=TIMEOUT,
        undo_retry=undo_retry,
    )


def charge(
    ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY
) -> Awaitable[None]:
    """A step of the bank."""
    return ctx.do(
        Charge(order_id=ordered.order_id, script=ordered.script.get(step, "")),
        undo=Refund,
        id=step,
        retry=RETRY,
        timeout=TIMEOUT,
        undo_retry=undo_retry,
    )


@saga("sequence", version=1, starts_on=SequenceOrdered, rolled_back=WorkUndone)
async def sequence(ctx: Context, ordered: SequenceOrdered) -> WorkDone:
    """Look, take, say so, charge, take."""
    await ctx.do(
        Look(order_id=ordered.order_id, script=ordered.script.get("look", "")),
        id="look",
        kind="read_only",
        retry=RETRY,
        timeout=TIMEOUT,
    )
    first = await take(ctx, ordered, "a")
    await ctx.publish(Noticed(order_id=ordered.order_id))
    await charge(ctx, ordered, "b")
    last = await take(ctx, ordered, "c")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last.receipt])


async def _two_more(ctx: Context, ordered: Ordered) -> str:
    await charge(ctx, ordered, "c")
    return (await take(ctx, ordered, "d")).receipt


@saga("parallel", version=1, starts_on=ParallelOrdered, rolled_back=WorkUndone)
async def parallel(ctx: Context, ordered: ParallelOrdered) -> WorkDone:
    """Two steps beside a chain of two, then one more."""
    first, _, last = await ctx.all(
        take(ctx, ordered, "a"), charge(ctx, ordered, "b"), _two_more(ctx, ordered)
    )
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last])


@saga("wide", version=1, starts_on=WideOrdered, rolled_back=WorkUndone, parallel_undo=True)
async def wide(ctx: Context, ordered: WideOrdered) -> WorkDone:
    """One, then three side by side, then one."""
    await charge(ctx, ordered, "a")
    taken = await ctx.all(take(ctx, ordered, "b"), take(ctx, ordered, "c"), take(ctx, ordered, "d"))
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[one.receipt for one in taken])


@saga("choice", version=1, starts_on=ChoiceOrdered, rolled_back=WorkUndone)
async def choice(ctx: Context, ordered: ChoiceOrdered) -> WorkDone:
    """The first of two, then a second choice where the first does not work."""
    first = await ctx.any(take(ctx, ordered, "a"), take(ctx, ordered, "b"))
    try:
        await charge(ctx, ordered, "c")
    except StepFailed:
        await charge(ctx, ordered, "d")
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt])


@saga("patient", version=1, starts_on=PatientOrdered, rolled_back=WorkUndone)
async def patient(ctx: Context, ordered: PatientOrdered) -> WorkDone:
    """Takes, sleeps, waits for an approval, charges."""
    first = await take(ctx, ordered, "a")
    await ctx.sleep("250ms")
    try:
        approval = await ctx.wait("approval", Approval, timeout="1200ms")
    except TimedOut:
        raise RollBack("nobody approved", code="late") from None
    await charge(ctx, ordered, "b")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, approval.by])


@saga("pivot", version=1, starts_on=PivotOrdered, rolled_back=WorkUndone)
async def pivot(ctx: Context, ordered: PivotOrdered) -> WorkDone:
    """Takes, charges for good, then takes until it works."""
    first = await take(ctx, ordered, "a")
    await ctx.do(
        Charge(order_id=ordered.order_id, script=ordered.script.get("b", "")),
        id="b",
        kind="pivot",
        retry=RETRY,
        timeout=TIMEOUT,
    )
    last = await ctx.do(
        Take(order_id=ordered.order_id, script=ordered.script.get("c", "")),
        id="c",
        kind="retriable",
        retry=UNDO_RETRY,
        timeout=TIMEOUT,
    )
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last.receipt])


@saga(
    "stubborn",
    version=1,
    starts_on=StubbornOrdered,
    rolled_back=WorkUndone,
    when_stuck="continue",
)
async def stubborn(ctx: Context, ordered: StubbornOrdered) -> WorkDone:
    """Undoing the second of three steps may give up."""
    await take(ctx, ordered, "a")
    await charge(ctx, ordered, "b", Retry(attempts=2, initial="80ms"))
    await take(ctx, ordered, "c")
    return WorkDone(order_id=ordered.order_id, receipts=[])


@saga("flawed", version=1, starts_on=FlawedOrdered, rolled_back=WorkUndone)
async def flawed(ctx: Context, ordered: FlawedOrdered) -> WorkDone:
    """Raises where its script says so, until the world has deployed the mended code."""
    _raise_if_flawed(ordered, "start")
    first = await take(ctx, ordered, "a")
    _raise_if_flawed(ordered, "middle")
    await charge(ctx, ordered, "b")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt])


def _raise_if_flawed(ordered: Ordered, where: str) -> None:
    process = current_process()
    is_fixed = process is None or process.surroundings.is_bug_fixed
    if not is_fixed and ordered.script.get("flaw") == where:
        raise ValueError(f"a flaw at the {where} of {ordered.order_id}")


def sample_app() -> SagaApp:
    """All of it."""
    return SagaApp(
        sagas=[sequence, parallel, wide, choice, patient, pivot, stubborn, flawed],
        effects=[stock, bank],
    )
