"""
The application of a world that brings none of its own: sagas of every shape, and two services.

What happens to a step is written into its trigger, the *script*: words such as `refuse`, `fail:2`,
`slow:1.5`, `undofail:1`. So a world needs no dice of its own once it runs, and a checker that knows
the input knows what is to be expected.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from saga.app import SagaApp
from saga.authoring import Context, RollBack, StepFailed, TimedOut, saga
from saga.contracts import Event, Intent
from saga.core.retry import Retry
from saga.effects import EffectContext, Effects, Refused
from saga.testing.world.process import current_process

RETRY = Retry(attempts=3, initial="80ms", cap="300ms")
UNDO_RETRY = Retry(attempts=None, initial="80ms", cap="300ms")
TIMEOUT = "700ms"
LEDGER = """CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, saga_id TEXT NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, intent_id TEXT NOT NULL)"""


class Ordered(Event):
    """
    What all triggers have.
    """

    order_id: str
    script: dict[str, str]


class SequenceOrdered(Ordered, topic="sim.sequence-ordered", version=1, key="order_id"):
    """
    One step after another.
    """


class ParallelOrdered(Ordered, topic="sim.parallel-ordered", version=1, key="order_id"):
    """
    Steps side by side, undone one by one.
    """


class WideOrdered(Ordered, topic="sim.wide-ordered", version=1, key="order_id"):
    """
    Steps side by side, undone side by side.
    """


class ChoiceOrdered(Ordered, topic="sim.choice-ordered", version=1, key="order_id"):
    """
    Whoever is first, and a second choice.
    """


class PatientOrdered(Ordered, topic="sim.patient-ordered", version=1, key="order_id"):
    """
    Sleeps, and waits for an approval.
    """


class PivotOrdered(Ordered, topic="sim.pivot-ordered", version=1, key="order_id"):
    """
    Only goes forward after a point.
    """


class StubbornOrdered(Ordered, topic="sim.stubborn-ordered", version=1, key="order_id"):
    """
    Has an undo that gives up.
    """


class FlawedOrdered(Ordered, topic="sim.flawed-ordered", version=1, key="order_id"):
    """
    Its code raises.
    """


class Approval(Event, topic="sim.approval", version=1):
    """
    The payload of the signal `approval`.
    """

    by: str


class Noticed(Event, topic="sim.noticed", version=1):
    """
    Said on the way.
    """

    order_id: str


class WorkDone(Event, topic="sim.work-done", version=1):
    """
    The outcome of a completed saga.
    """

    order_id: str
    receipts: list[str]


class WorkUndone(Event, topic="sim.work-undone", version=1):
    """
    The outcome of a saga that was rolled back.
    """

    order_id: str
    reason: str
    residue: list[str]


class Taken(Event, topic="stock.taken", version=1):
    """
    Reply to `Take`.
    """

    receipt: str


class Seen(Event, topic="stock.seen", version=1):
    """
    Reply to `Look`.
    """

    units: int


class Look(Intent[Seen], topic="stock.look", version=1):
    """
    Only reads.
    """

    order_id: str
    script: str


class Take(Intent[Taken], topic="stock.take", version=1):
    """
    Has a reply of its own.
    """

    order_id: str
    script: str


class GiveBack(Intent[None], topic="stock.give-back", version=1):
    """
    Undoes `Take`; made of its reply, where there is one.
    """

    order_id: str
    script: str
    receipt: str | None = None


class Charge(Intent[None], topic="bank.charge", version=1):
    """
    Has no reply of its own.
    """

    order_id: str
    script: str


class Refund(Intent[None], topic="bank.refund", version=1):
    """
    Undoes `Charge`.
    """

    order_id: str
    script: str


def take(ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY) -> Awaitable[Taken]:
    """
    A step of the stock service.
    """
    return ctx.do(
        Take(order_id=ordered.order_id, script=ordered.script.get(step, "")),
        undo=GiveBack,
        id=step,
        retry=RETRY,
        timeout=TIMEOUT,
        undo_retry=undo_retry,
    )


def charge(ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY) -> Awaitable[None]:
    """
    A step of the bank.
    """
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
    """
    Look, take, say so, charge, take.
    """
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
    """
    Two steps beside a chain of two, then one more.
    """
    first, _, last = await ctx.all(
        take(ctx, ordered, "a"), charge(ctx, ordered, "b"), _two_more(ctx, ordered)
    )
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last])


@saga("wide", version=1, starts_on=WideOrdered, rolled_back=WorkUndone, parallel_undo=True)
async def wide(ctx: Context, ordered: WideOrdered) -> WorkDone:
    """
    One, then three side by side, then one.
    """
    await charge(ctx, ordered, "a")
    taken = await ctx.all(
        take(ctx, ordered, "b"), take(ctx, ordered, "c"), take(ctx, ordered, "d")
    )
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[one.receipt for one in taken])


@saga("choice", version=1, starts_on=ChoiceOrdered, rolled_back=WorkUndone)
async def choice(ctx: Context, ordered: ChoiceOrdered) -> WorkDone:
    """
    The first of two, then a second choice where the first does not work.
    """
    first = await ctx.any(take(ctx, ordered, "a"), take(ctx, ordered, "b"))
    try:
        await charge(ctx, ordered, "c")
    except StepFailed:
        await charge(ctx, ordered, "d")
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt])


@saga("patient", version=1, starts_on=PatientOrdered, rolled_back=WorkUndone)
async def patient(ctx: Context, ordered: PatientOrdered) -> WorkDone:
    """
    Takes, sleeps, waits for an approval, charges.
    """
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
    """
    Takes, charges for good, then takes until it works.
    """
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
    """
    Undoing the second of three steps may give up.
    """
    await take(ctx, ordered, "a")
    await charge(ctx, ordered, "b", Retry(attempts=2, initial="80ms"))
    await take(ctx, ordered, "c")
    return WorkDone(order_id=ordered.order_id, receipts=[])


@saga("flawed", version=1, starts_on=FlawedOrdered, rolled_back=WorkUndone)
async def flawed(ctx: Context, ordered: FlawedOrdered) -> WorkDone:
    """
    Raises where its script says so, until the world has deployed the mended code.
    """
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


stock = Effects("stock")
bank = Effects("bank")


@stock.on_start
async def make_stock(db: Any) -> None:
    """
    The ledger: what was really done, in the same transaction as the inbox.
    """
    await db.execute(LEDGER)


@stock.on(Look)
async def look(intent: Look, ctx: EffectContext) -> Seen:
    """
    Reads.
    """
    await _follow(intent.script, ctx)
    rows = await ctx.db.fetch("SELECT count(*) AS units FROM ledger")
    return Seen(units=len(rows))


@stock.on(Take)
async def do_take(intent: Take, ctx: EffectContext) -> Taken:
    """
    Writes one line.
    """
    await _do(intent.script, ctx)
    return Taken(receipt=f"r-{ctx.idempotency_key}")


@stock.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None:
    """
    Writes another, if there is the first.
    """
    if intent.receipt is not None:
        assert intent.receipt == f"r-{_do_key(ctx)}", intent.receipt
    await _undo(intent.script, ctx)


@bank.on(Charge)
async def do_charge(intent: Charge, ctx: EffectContext) -> None:
    """
    Writes one line.
    """
    await _do(intent.script, ctx)


@bank.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    """
    Writes another, if there is the first.
    """
    await _undo(intent.script, ctx)


async def _do(script: str, ctx: EffectContext) -> None:
    await _follow(script, ctx)
    await _write(ctx, "do", ctx.idempotency_key)
    if ctx.attempt <= _number(script, "fail"):
        raise RuntimeError("planned: after it had written")


async def _undo(script: str, ctx: EffectContext) -> None:
    await _work(0)
    if ctx.attempt <= _number(script, "undofail"):
        raise RuntimeError("planned: cannot undo now")
    await _write(ctx, "undo", _do_key(ctx))


async def _follow(script: str, ctx: EffectContext) -> None:
    await _work(_number(script, "slow") if ctx.attempt == 1 else 0)
    if "refuse" in script.split():
        raise Refused("planned: no", code="no")


async def _write(ctx: EffectContext, direction: str, do_key: str) -> None:
    """
    One line for each call: a service that is called twice has done it twice. An undo of what was
    never done does nothing.
    """
    process = current_process()
    assert process is not None, "the sample runs in worlds only"
    saga_id, step, _ = do_key.rsplit("/", 2)
    where = "" if direction == "do" else (
        " WHERE EXISTS (SELECT 1 FROM ledger WHERE saga_id = :saga_id AND step = :step"
        " AND direction = 'do')"
    )
    await ctx.db.execute(
        f"INSERT INTO ledger SELECT :number, :saga_id, :step, :direction, :intent_id{where}",  # noqa: S608  # our own literals
        number=process.surroundings.next_number(),
        saga_id=saga_id,
        step=step,
        direction=direction,
        intent_id=ctx.intent_id,
    )
    await _work(0)


async def _work(seconds: float) -> None:
    process = current_process()
    assert process is not None, "the sample runs in worlds only"
    await process.work(seconds)


def _do_key(ctx: EffectContext) -> str:
    return ctx.idempotency_key.rpartition("/")[0] + "/do"


def _number(script: str, word: str) -> float:
    for part in script.split():
        name, _, number = part.partition(":")
        if name == word:
            return float(number)
    return 0.0


def sample_app() -> SagaApp:
    """
    All of it.
    """
    return SagaApp(
        sagas=[sequence, parallel, wide, choice, patient, pivot, stubborn, flawed],
        effects=[stock, bank],
    )
