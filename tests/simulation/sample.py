"""The application of the campaign: sagas of every shape, and two services with one table.

What happens to a step is written into its trigger, the *script*: words such as `refuse`, `fail:2`,
`slow:1.5`, `undofail:1`. So the application needs no dice of its own, and whoever knows the trigger
knows what is to be expected. `orders` draws the stories of one world, `worked_once` reads the
services' own table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from random import Random
from types import new_class
from typing import Any, TypeVar

from saga.app import SagaApp
from saga.authoring import Context, RollBack, StepFailed, TimedOut, saga
from saga.contracts import Event, Intent
from saga.core.retry import Retry
from saga.effects import EffectContext, Effects, Refused
from saga.testing import World, WorldState, after, signalled
from saga.testing.world.driver import Happens
from saga.testing.world.process import current_process

RETRY = Retry(attempts=3, initial="80ms", cap="300ms")
UNDO_RETRY = Retry(attempts=None, initial="80ms", cap="300ms")
TIMEOUT = "700ms"


class Ordered(Event):
    """What all triggers have."""

    order_id: str
    script: dict[str, str]


def _ordered(name: str) -> type[Ordered]:
    """The trigger of the saga *name*."""
    options = {"topic": f"sim.{name}-ordered", "version": 1, "key": "order_id"}
    model = new_class(f"{name.capitalize()}Ordered", (Ordered,), options)
    model.__module__ = __name__
    return model


SequenceOrdered, ParallelOrdered = _ordered("sequence"), _ordered("parallel")
WideOrdered, ChoiceOrdered = _ordered("wide"), _ordered("choice")
PatientOrdered, PivotOrdered = _ordered("patient"), _ordered("pivot")
StubbornOrdered, FlawedOrdered = _ordered("stubborn"), _ordered("flawed")
CrowdOrdered, ScopedOrdered = _ordered("crowd"), _ordered("scoped")


class Approval(Event, topic="sim.approval", version=1):
    by: str


class Noticed(Event, topic="sim.noticed", version=1):
    order_id: str


class WorkDone(Event, topic="sim.work-done", version=1):
    order_id: str
    receipts: list[str]


class WorkUndone(Event, topic="sim.work-undone", version=1):
    order_id: str
    reason: str
    residue: list[str]


class Taken(Event, topic="stock.taken", version=1):
    receipt: str


class Seen(Event, topic="stock.seen", version=1):
    units: int


class Look(Intent[Seen], topic="stock.look", version=1):
    order_id: str
    script: str


class Take(Intent[Taken], topic="stock.take", version=1):
    order_id: str
    script: str


class GiveBack(Intent[None], topic="stock.give-back", version=1):
    """Undoes `Take`; made of its reply, where there is one."""

    order_id: str
    script: str
    receipt: str | None = None


class Charge(Intent[None], topic="bank.charge", version=1):
    order_id: str
    script: str


class Refund(Intent[None], topic="bank.refund", version=1):
    order_id: str
    script: str


IntentT = TypeVar("IntentT", bound=Intent)
TABLE = """CREATE TABLE IF NOT EXISTS work (key TEXT NOT NULL, attempt INTEGER NOT NULL)"""

stock = Effects("stock")
bank = Effects("bank")


@stock.on_start
async def make_stock(db: Any) -> None:
    """One line for each call that was kept."""
    await db.execute(TABLE)


@stock.on(Look)
async def look(intent: Look, ctx: EffectContext) -> Seen:
    await _follow(intent.script, ctx)
    rows = await ctx.db.fetch("SELECT count(*) AS units FROM work")
    return Seen(units=len(rows))


@stock.on(Take)
async def do_take(intent: Take, ctx: EffectContext) -> Taken:
    await _do(intent.script, ctx)
    return Taken(receipt=f"r-{ctx.idempotency_key}")


@stock.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None:
    """Writes another; knows the receipt where there was one."""
    if intent.receipt is not None:
        do_key = ctx.idempotency_key.rpartition("/")[0] + "/do"
        assert intent.receipt == f"r-{do_key}", intent.receipt
    await _undo(intent.script, ctx)


@bank.on(Charge)
async def do_charge(intent: Charge, ctx: EffectContext) -> None:
    await _do(intent.script, ctx)


@bank.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    await _undo(intent.script, ctx)


async def _do(script: str, ctx: EffectContext) -> None:
    await _follow(script, ctx)
    await _write(ctx)
    if ctx.attempt <= _number(script, "fail"):
        raise RuntimeError("planned: after it had written")


async def _undo(script: str, ctx: EffectContext) -> None:
    if ctx.attempt <= _number(script, "undofail"):
        raise RuntimeError("planned: cannot undo now")
    await _write(ctx)


async def _follow(script: str, ctx: EffectContext) -> None:
    if ctx.attempt == 1 and (slow_s := _number(script, "slow")):
        await asyncio.sleep(slow_s)
    if "refuse" in script.split():
        raise Refused("planned: no", code="no")


async def _write(ctx: EffectContext) -> None:
    """In every second call, so that each way to keep an answer is gone often."""
    process = current_process()
    if process is not None and process.surroundings.faults.rng.random() < WRITING_NOTHING_SHARE:
        return
    await ctx.db.execute(
        "INSERT INTO work VALUES (:key, :attempt)", key=ctx.idempotency_key, attempt=ctx.attempt
    )


def _number(script: str, word: str) -> float:
    for part in script.split():
        name, _, number = part.partition(":")
        if name == word:
            return float(number)
    return 0.0


TOO_LATE = "z"
"""The step of a branch that has lost before it begins."""
LIMITS: Any = {"retry": RETRY, "timeout": TIMEOUT}
"""Of every step of every saga."""


def asked(model: type[IntentT], ordered: Ordered, step: str) -> IntentT:
    """The intent of a step, with the words that the script has for it."""
    return model(order_id=ordered.order_id, script=ordered.script.get(step, ""))


def take(
    ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY
) -> Awaitable[Taken]:
    """A step of the stock service."""
    intent = asked(Take, ordered, step)
    return ctx.do(intent, undo=GiveBack, id=step, undo_retry=undo_retry, **LIMITS)


def charge(
    ctx: Context, ordered: Ordered, step: str, undo_retry: Retry = UNDO_RETRY
) -> Awaitable[None]:
    """A step of the bank."""
    intent = asked(Charge, ordered, step)
    return ctx.do(intent, undo=Refund, id=step, undo_retry=undo_retry, **LIMITS)


@saga("sequence", version=1, starts_on=SequenceOrdered, rolled_back=WorkUndone)
async def sequence(ctx: Context, ordered: Ordered) -> WorkDone:
    """Look, take, say so, charge, take."""
    await ctx.do(asked(Look, ordered, "look"), id="look", kind="read_only", **LIMITS)
    first = await take(ctx, ordered, "a")
    await ctx.publish(Noticed(order_id=ordered.order_id))
    await charge(ctx, ordered, "b")
    last = await take(ctx, ordered, "c")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last.receipt])


async def _two_more(ctx: Context, ordered: Ordered) -> str:
    await charge(ctx, ordered, "c")
    return (await take(ctx, ordered, "d")).receipt


@saga("parallel", version=1, starts_on=ParallelOrdered, rolled_back=WorkUndone)
async def parallel(ctx: Context, ordered: Ordered) -> WorkDone:
    """Two steps beside a chain of two, then one more."""
    first, _, last = await ctx.all(
        take(ctx, ordered, "a"), charge(ctx, ordered, "b"), _two_more(ctx, ordered)
    )
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last])


@saga("wide", version=1, starts_on=WideOrdered, rolled_back=WorkUndone, parallel_undo=True)
async def wide(ctx: Context, ordered: Ordered) -> WorkDone:
    """One, then three side by side, then one."""
    await charge(ctx, ordered, "a")
    taken = await ctx.all(take(ctx, ordered, "b"), take(ctx, ordered, "c"), take(ctx, ordered, "d"))
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[each.receipt for each in taken])


async def _at_once() -> None:
    """Wins every race."""


async def _too_late(ctx: Context, ordered: Ordered) -> None:
    async def never() -> None:
        await charge(ctx, ordered, TOO_LATE)

    await ctx.all(never(), _at_once())


@saga("choice", version=1, starts_on=ChoiceOrdered, rolled_back=WorkUndone)
async def choice(ctx: Context, ordered: Ordered) -> WorkDone:
    """The first of two, then a second choice where the first does not work."""
    first = await ctx.any(take(ctx, ordered, "a"), take(ctx, ordered, "b"))
    await ctx.any(_at_once(), _too_late(ctx, ordered))
    try:
        await charge(ctx, ordered, "c")
    except StepFailed:
        await charge(ctx, ordered, "d")
    await charge(ctx, ordered, "e")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt])


@saga("patient", version=1, starts_on=PatientOrdered, rolled_back=WorkUndone)
async def patient(ctx: Context, ordered: Ordered) -> WorkDone:
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
async def pivot(ctx: Context, ordered: Ordered) -> WorkDone:
    """Takes, charges for good, takes until it works, and does without what fails then."""
    first = await take(ctx, ordered, "a")
    await ctx.do(asked(Charge, ordered, "b"), id="b", kind="pivot", **LIMITS)
    patiently = LIMITS | {"retry": UNDO_RETRY}
    last = await ctx.do(asked(Take, ordered, "c"), id="c", kind="retriable", **patiently)
    with suppress(StepFailed):
        await ctx.do(asked(Charge, ordered, "d"), id="d", **LIMITS)
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt, last.receipt])


@saga(
    "stubborn", version=1, starts_on=StubbornOrdered, rolled_back=WorkUndone, when_stuck="continue"
)
async def stubborn(ctx: Context, ordered: Ordered) -> WorkDone:
    """Undoing the second of three steps may give up."""
    await take(ctx, ordered, "a")
    await charge(ctx, ordered, "b", Retry(attempts=2, initial="80ms"))
    await take(ctx, ordered, "c")
    return WorkDone(order_id=ordered.order_id, receipts=[])


@saga("flawed", version=1, starts_on=FlawedOrdered, rolled_back=WorkUndone)
async def flawed(ctx: Context, ordered: Ordered) -> WorkDone:
    """Raises where its script says so, until the world has deployed the mended code."""
    _raise_if_flawed(ordered, "start")
    first = await take(ctx, ordered, "a")
    _raise_if_flawed(ordered, "middle")
    await charge(ctx, ordered, "b")
    return WorkDone(order_id=ordered.order_id, receipts=[first.receipt])


@saga("crowd", version=1, starts_on=CrowdOrdered, rolled_back=WorkUndone, deadline="2s")
async def crowd(ctx: Context, ordered: Ordered) -> WorkDone:
    """Two of three, then three of which two run at once and the first failure ends all."""
    ctx.tell(asked(Look, ordered, "z"))
    branches = [take(ctx, ordered, step) for step in "abc"]
    taken = await ctx.some(2, *branches)
    try:
        await ctx.all(*(charge(ctx, ordered, step) for step in "def"), fail="fast", at_once=2)
    except StepFailed:
        await ctx.do(asked(Charge, ordered, "g"), id="g", kind="harmless", **LIMITS)
    return WorkDone(order_id=ordered.order_id, receipts=[each.receipt for each in taken])


@saga("scoped", version=1, starts_on=ScopedOrdered, rolled_back=WorkUndone)
async def scoped(ctx: Context, ordered: Ordered) -> WorkDone:
    """Two scopes side by side, of which one has another one in it, then one more step."""

    async def trip() -> None:
        async with ctx.scope("trip"):
            await take(ctx, ordered, "a")
            try:
                async with ctx.scope("hotel"):
                    await ctx.any(take(ctx, ordered, "b"), charge(ctx, ordered, "c"))
                    await charge(ctx, ordered, "d")
            except StepFailed:
                await charge(ctx, ordered, "e")

    async def gift() -> None:
        try:
            async with ctx.scope("gift"):
                await take(ctx, ordered, "f")
                await charge(ctx, ordered, "g")
        except StepFailed:
            return

    await ctx.all(trip(), gift())
    await charge(ctx, ordered, "h")
    return WorkDone(order_id=ordered.order_id, receipts=[])


def _raise_if_flawed(ordered: Ordered, where: str) -> None:
    process = current_process()
    is_mended = process is None or process.surroundings.is_mended
    if not is_mended and ordered.script.get("flaw") == where:
        raise ValueError(f"a flaw at the {where} of {ordered.order_id}")


app = SagaApp(
    sagas=[sequence, parallel, wide, choice, patient, pivot, stubborn, flawed, crowd, scoped],
    effects=[stock, bank],
)

SIGNALLED_SHARE = 0.7
CONTRADICTED_SHARE = 0.1
WRITING_NOTHING_SHARE = 0.7
STUCK_SHARE = 0.5
ORDERS_MIN, ORDERS_MAX = 3, 8

_SHAPES: dict[str, tuple[type[Ordered], str]] = {
    "sequence": (SequenceOrdered, "abc"),
    "parallel": (ParallelOrdered, "abcde"),
    "wide": (WideOrdered, "abcde"),
    "choice": (ChoiceOrdered, "abcde"),
    "patient": (PatientOrdered, "ab"),
    "pivot": (PivotOrdered, "abd"),
    "stubborn": (StubbornOrdered, "abc"),
    "flawed": (FlawedOrdered, "ab"),
    "crowd": (CrowdOrdered, "abcdefgz"),
    "scoped": (ScopedOrdered, "abcdefgh"),
}
_WEIGHTS = (4, 4, 3, 4, 3, 2, 2, 2, 3, 4)


def sample_world(seed: int) -> World:
    """The world of *seed*."""
    return World(
        app, seed, triggers=orders, check=[nobody_is_parked, worked_once, losers_did_nothing]
    )


def orders(rng: Random) -> list[Sequence[Happens]]:
    """The stories of one world."""
    trouble = rng.choice((0.05, 0.2, 0.4))
    stories: list[Sequence[Happens]] = []
    for number in range(rng.randint(ORDERS_MIN, ORDERS_MAX)):
        name = rng.choices(list(_SHAPES), _WEIGHTS)[0]
        model, steps = _SHAPES[name]
        script = {step: " ".join(_words(rng, trouble, name, step)) for step in steps}
        script = {step: words for step, words in script.items() if words}
        if name == "flawed":
            script["flaw"] = rng.choice(("start", "middle", "nowhere"))
        if name == "pivot" and rng.random() < trouble:
            script["c"] = f"fail:{rng.randint(1, 3)}"
        ordered = model(order_id=f"{name}-{number}", script=script)
        story: list[Happens] = [ordered]
        if name == "patient" and rng.random() < SIGNALLED_SHARE:
            story += [_later(rng, 1.5), signalled("approval", {"by": "boss"})]
        if rng.random() < CONTRADICTED_SHARE:
            other = {"a": "refuse", "other": "yes"}
            story += [_later(rng, 3), ordered.model_copy(update={"script": other})]
        stories.append(story)
    return stories


def nobody_is_parked(world: WorldState) -> None:
    """Whatever was flawed has been mended and released."""
    parked = [saga.key for saga in world.sagas if saga.status.value == "parked"]
    assert not parked, parked


def worked_once(world: WorldState) -> None:
    """What a handler writes through `ctx.db` is there once, whatever was delivered how often."""
    rows = world.db["stock"].fetch(
        "SELECT key, count(*) AS times FROM work GROUP BY key HAVING times > 1"
    )
    assert not rows, rows


def losers_did_nothing(world: WorldState) -> None:
    """A branch that is nested in the loser of a race does not begin once that is decided."""
    rows = world.db["bank"].fetch("SELECT key FROM work")
    late = [row["key"] for row in rows if f"/{TOO_LATE}/" in row["key"]]
    assert not late, late


def _later(rng: Random, most_s: float) -> Happens:
    return after(f"{rng.randint(0, round(most_s * 1000))}ms")


def _words(rng: Random, trouble: float, name: str, step: str) -> list[str]:
    words: list[str] = []
    if rng.random() < trouble:
        words.append(rng.choice(("refuse", "fail:1", "fail:2", "fail:9", "slow:0.3", "slow:1.2")))
    if rng.random() < trouble:
        words.append(f"undofail:{rng.randint(1, 3)}")
    if name == "stubborn" and step == "b" and rng.random() < STUCK_SHARE:
        words.append("undofail:9")
    return words
