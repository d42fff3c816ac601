"""Steps one after another: each waits for the one before, and a failure undoes those behind it."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class OrderPlaced(Event, topic="shop.order-placed", version=1, key="order_id"):
    order_id: str
    items: list[str]
    email: str


class Validated(Event, topic="shop.validated", version=1):
    total: int


class Validate(Intent[Validated], topic="shop.validate", version=1):
    items: list[str]


class Reserved(Event, topic="stock.reserved", version=1):
    reservation: str


class Reserve(Intent[Reserved], topic="stock.reserve", version=1):
    order_id: str
    items: list[str]


class Release(Intent[None], topic="stock.release", version=1):
    order_id: str
    reservation: str | None = None


class Charged(Event, topic="payments.charged", version=1):
    transaction: str


class Charge(Intent[Charged], topic="payments.charge", version=1):
    order_id: str
    amount: int


class Refund(Intent[None], topic="payments.refund", version=1):
    order_id: str
    transaction: str | None = None


class Notify(Intent[None], topic="mails.notify", version=1):
    to: str
    text: str


class OrderConfirmed(Event, topic="shop.order-confirmed", version=1):
    order_id: str
    transaction: str


class OrderRejected(Event, topic="shop.order-rejected", version=1):
    order_id: str
    reason: str


@saga("sequential", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """Validate, reserve, charge, notify: a refusal on the way releases what was reserved."""
    valid = await ctx.do(Validate(items=placed.items), kind="read_only")
    await ctx.do(Reserve(order_id=placed.order_id, items=placed.items), undo=Release)
    charge = Charge(order_id=placed.order_id, amount=valid.total)
    charged = await ctx.do(charge, undo=Refund)
    text = f"Your order {placed.order_id} is confirmed"
    await ctx.do(Notify(to=placed.email, text=text), kind="harmless")
    return OrderConfirmed(order_id=placed.order_id, transaction=charged.transaction)


shop = Effects("sequential-shop")
PRICES = {"tea": 4, "pot": 30, "palace": 9_000_000}


@shop.on(Validate)
async def validate(intent: Validate, ctx: EffectContext) -> Validated:
    unknown = [item for item in intent.items if item not in PRICES]
    if unknown:
        raise Refused(f"unknown: {', '.join(unknown)}", code="unknown_item")
    return Validated(total=sum(PRICES[item] for item in intent.items))


@shop.on(Reserve)
async def reserve(intent: Reserve, ctx: EffectContext) -> Reserved:
    return Reserved(reservation=f"shelf of {intent.order_id}")


@shop.on(Release)
async def release(intent: Release, ctx: EffectContext) -> None:
    print("released", intent.order_id)


@shop.on(Charge)
async def charge(intent: Charge, ctx: EffectContext) -> Charged:
    if intent.amount > 1_000:
        raise Refused("over the limit", code="limit")
    return Charged(transaction=f"t-{intent.order_id}")


@shop.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    print("refunded", intent.order_id)


@shop.on(Notify)
async def notify(intent: Notify, ctx: EffectContext) -> None:
    print(f"to {intent.to}: {intent.text}")


app = SagaApp(sagas=[order], effects=[shop])


async def main() -> None:
    """One order goes through; one is dearer than the limit."""
    fine = OrderPlaced(order_id="o-1", items=["tea", "pot"], email="ann@example.org")
    dear = OrderPlaced(order_id="o-2", items=["palace"], email="bob@example.org")
    async with app.service() as service:
        for placed in (fine, dear):
            saga_id = await service.start(placed)
            outcome = await service.outcome(saga_id, timeout=60)
            print(placed.order_id, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
