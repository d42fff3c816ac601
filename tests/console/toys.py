"""A small application for the tests of the command line, written into temporary folders."""

TOYS = """
from pydantic import BaseModel
from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class OrderPlaced(Event, topic="cli-orders.order-placed", version=1, key="order_id"):
    order_id: str
    amount: int


class Paid(Event, topic="payments.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="payments.pay", version=1):
    order_id: str
    amount: int


class Refund(Intent[None], topic="payments.refund", version=1):
    order_id: str
    receipt: str | None = None


class Ship(Intent[None], topic="parcels.ship", version=1):
    order_id: str


class OrderConfirmed(Event, topic="cli-orders.order-confirmed", version=1):
    order_id: str


class OrderRejected(Event, topic="cli-orders.order-rejected", version=1):
    order_id: str
    reason: str


class Approval(BaseModel):
    by: str


class LeaveAsked(Event, topic="staff.leave-asked", version=1, key="name"):
    name: str


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    await ctx.do(Pay(order_id=placed.order_id, amount=placed.amount), undo=Refund)
    await ctx.do(Ship(order_id=placed.order_id))
    return OrderConfirmed(order_id=placed.order_id)


@saga("leave", version=1, starts_on=LeaveAsked)
async def leave(ctx: Context, asked: LeaveAsked) -> None:
    await ctx.do(Pay(order_id=asked.name, amount=1), undo=Refund)
    ctx.show(step="at the boss", days=3)
    await ctx.wait("approval", Approval, timeout="1h")


payments = Effects("payments")


@payments.on_start
async def tables(db) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS paid (order_id TEXT, amount BIGINT)")


@payments.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> Paid:
    if intent.amount > 500:
        raise Refused("over the limit", code="limit")
    await ctx.db.execute(
        "INSERT INTO paid VALUES (:order_id, :amount)",
        order_id=intent.order_id,
        amount=intent.amount,
    )
    return Paid(receipt=f"r-{intent.order_id}")


@payments.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    await ctx.db.execute("DELETE FROM paid WHERE order_id = :order_id", order_id=intent.order_id)


@payments.on(Ship)
async def ship(intent: Ship, ctx: EffectContext) -> None:
    if intent.order_id.startswith("far"):
        raise Refused("too far", code="far")


app = SagaApp(sagas=[order, leave], effects=[payments])
"""

ORDER = "cli-orders.evt.order-placed.v1"
LEAVE = "staff.evt.leave-asked.v1"
