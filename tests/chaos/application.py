"""The application that is put through everything: goods are reserved, paid and sent.

What happens to an order is written into its trigger (`refuse`, `fail:2`, `slow:0.5`). The services
write each effect into a ledger, in the transaction of their inbox, with the money that it moves: so
whoever knows the orders can tell from the ledger alone what went wrong.
"""

import asyncio
import os
from typing import Any

from saga import Context, EffectContext, Effects, Event, Intent, Refused, Retry, SagaApp, saga

RETRY = Retry(attempts=None, initial="50ms", cap="500ms")
TIMEOUT = "30s"
NUMBERED = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}
LEDGER = """CREATE TABLE IF NOT EXISTS ledger (
    number {number}, saga_id TEXT NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, intent_id TEXT NOT NULL,
    debit TEXT NOT NULL, credit TEXT NOT NULL, amount INTEGER NOT NULL)"""


class Ordered(Event):
    """An order, with what happens to each of its steps."""

    order_id: str
    script: dict[str, str]


class OrderPlaced(Ordered, topic="chaos.order-placed", version=1, key="order_id"):
    amount: int


class FlawedOrdered(Ordered, topic="chaos.flawed-ordered", version=1, key="order_id"):
    """Its saga's code raises."""


class OrderDone(Event, topic="chaos.order-done", version=1):
    order_id: str


class OrderUndone(Event, topic="chaos.order-undone", version=1):
    order_id: str
    reason: str


class Done(Event, topic="chaos.done", version=1):
    receipt: str


class Moves(Intent[None]):
    """Goods or money of an order."""

    order_id: str
    amount: int


class Reserve(Intent[Done], topic="chaos.reserve", version=1):
    order_id: str
    amount: int
    script: str


class Unreserve(Moves, topic="chaos.unreserve", version=1):
    pass


class Pay(Moves, topic="chaos.pay", version=1):
    script: str


class Refund(Moves, topic="chaos.refund", version=1):
    pass


class Send(Moves, topic="chaos.send", version=1):
    script: str


class CallBack(Moves, topic="chaos.call-back", version=1):
    pass


STEPS = (("reserve", Reserve, Unreserve), ("pay", Pay, Refund), ("send", Send, CallBack))


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderUndone)
async def order(ctx: Context, ordered: OrderPlaced) -> OrderDone:
    """Reserve, pay, send; each as often as it takes."""
    for step, intent, undo in STEPS:
        script = ordered.script.get(step, "")
        message = intent(order_id=ordered.order_id, amount=ordered.amount, script=script)
        await ctx.do(message, undo=undo, id=step, retry=RETRY, timeout=TIMEOUT)
    return OrderDone(order_id=ordered.order_id)


@saga("flawed", version=1, starts_on=FlawedOrdered, rolled_back=OrderUndone)
async def flawed(ctx: Context, ordered: FlawedOrdered) -> OrderDone:
    raise ValueError(f"a flaw that {ordered.order_id} runs into")


goods, bank = Effects("goods"), Effects("bank")


@goods.on_start
@bank.on_start
async def make_ledger(db: Any) -> None:
    """The ledger, shared by both services: whoever starts first makes it."""
    kind = os.environ["SAGA_EFFECTS_STORE"].partition(":")[0]
    await db.execute(LEDGER.format(number=NUMBERED[kind]))


@goods.on(Reserve)
async def reserve(intent: Reserve, ctx: EffectContext) -> Done:
    """From the shelf into a parcel."""
    await _do(ctx, intent, "shelf", "parcel")
    return Done(receipt=ctx.idempotency_key)


@goods.on(Unreserve)
async def unreserve(intent: Unreserve, ctx: EffectContext) -> None:
    await _write(ctx, "undo", "parcel", "shelf", intent.amount)


@bank.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> None:
    """From the customer to the merchant."""
    await _do(ctx, intent, "customer", "merchant")


@bank.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    await _write(ctx, "undo", "merchant", "customer", intent.amount)


@goods.on(Send)
async def send(intent: Send, ctx: EffectContext) -> None:
    """Onto the road."""
    await _do(ctx, intent, "parcel", "road")


@goods.on(CallBack)
async def call_back(intent: CallBack, ctx: EffectContext) -> None:
    await _write(ctx, "undo", "road", "parcel", intent.amount)


async def _do(ctx: EffectContext, intent: Any, debit: str, credit: str) -> None:
    words = dict(word.partition(":")[::2] for word in intent.script.split())
    if "refuse" in words:
        raise Refused("planned: no", code="no")
    await _write(ctx, "do", debit, credit, intent.amount)
    if "slow" in words and ctx.attempt == 1:
        await asyncio.sleep(float(words["slow"]))
    if ctx.attempt <= int(words.get("fail", 0)):
        raise RuntimeError("planned: after it had written")


async def _write(ctx: EffectContext, direction: str, debit: str, credit: str, amount: int) -> None:
    """One line a call, so that two calls have done it twice; an undo of nothing writes none."""
    saga_id, step, _ = ctx.idempotency_key.rsplit("/", 2)
    await ctx.db.execute(
        "INSERT INTO ledger (saga_id, step, direction, intent_id, debit, credit, amount)"
        " SELECT CAST(:saga_id AS TEXT), CAST(:step AS TEXT), CAST(:direction AS TEXT),"
        " CAST(:intent_id AS TEXT), CAST(:debit AS TEXT), CAST(:credit AS TEXT),"
        " CAST(:amount AS INTEGER) WHERE CAST(:direction AS TEXT) = 'do' OR EXISTS ("
        "SELECT 1 FROM ledger WHERE saga_id = CAST(:saga_id AS TEXT)"
        " AND step = CAST(:step AS TEXT) AND direction = 'do')",
        saga_id=saga_id,
        step=step,
        direction=direction,
        intent_id=ctx.intent_id,
        debit=debit,
        credit=credit,
        amount=amount,
    )


app = SagaApp(sagas=[order, flawed], effects=[goods, bank])
