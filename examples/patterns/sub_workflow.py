"""A saga that has another one do a part: by its trigger, and it may live in another application."""

import asyncio

from saga import (
    ChildRolledBack,
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    SagaApp,
    saga,
)


class PaymentWanted(Event, topic="payments.payment-wanted", version=1, key="payment"):
    payment: str
    amount: int


class Authorized(Event, topic="payments.authorized", version=1):
    authorization: str


class Authorize(Intent[Authorized], topic="payments.authorize", version=1):
    payment: str
    amount: int


class Void(Intent[None], topic="payments.void", version=1):
    payment: str
    authorization: str | None = None


class Capture(Intent[None], topic="payments.capture", version=1):
    authorization: str


class GiveBack(Intent[None], topic="payments.give-back", version=1):
    authorization: str


class PaymentCaptured(Event, topic="payments.payment-captured", version=1):
    payment: str
    authorization: str


class PaymentOff(Event, topic="payments.payment-off", version=1):
    payment: str
    reason: str


class OrderPlaced(Event, topic="store.order-placed", version=1, key="order_id"):
    order_id: str
    amount: int
    stock: int = 1


class Fulfil(Intent[None], topic="store.fulfil", version=1):
    order_id: str
    stock: int


class OrderFulfilled(Event, topic="store.order-fulfilled", version=1):
    order_id: str
    authorization: str


class OrderOff(Event, topic="store.order-off", version=1):
    order_id: str
    reason: str


@saga("sub-payment", version=1, starts_on=PaymentWanted, rolled_back=PaymentOff)
async def payment(ctx: Context, wanted: PaymentWanted) -> PaymentCaptured:
    """All that a payment needs; nobody but this saga knows of it."""
    authorize = Authorize(payment=wanted.payment, amount=wanted.amount)
    authorized = await ctx.do(authorize, undo=Void)
    await ctx.do(Capture(authorization=authorized.authorization), undo=GiveBack)
    return PaymentCaptured(payment=wanted.payment, authorization=authorized.authorization)


@saga("sub-order", version=1, starts_on=OrderPlaced, rolled_back=OrderOff)
async def order(ctx: Context, placed: OrderPlaced) -> OrderFulfilled:
    """The payment is a saga of its own, and is undone whole if the goods cannot go out."""
    wanted = PaymentWanted(payment=f"for {placed.order_id}", amount=placed.amount)
    try:
        paid = await ctx.child(wanted, outcome=PaymentCaptured, timeout="1d")
    except ChildRolledBack as error:
        ctx.log.info("the payment was rolled back: %s", error)
        raise
    await ctx.do(Fulfil(order_id=placed.order_id, stock=placed.stock))
    return OrderFulfilled(order_id=placed.order_id, authorization=paid.authorization)


store = Effects("sub-store")


@store.on(Authorize)
async def authorize(intent: Authorize, ctx: EffectContext) -> Authorized:
    if intent.amount > 1_000:
        raise Refused("over the limit", code="limit")
    return Authorized(authorization=f"a {intent.payment}")


@store.on(Void)
async def void(intent: Void, ctx: EffectContext) -> None:
    print("void:", intent.payment)


@store.on(Capture)
async def capture(intent: Capture, ctx: EffectContext) -> None:
    print("captured:", intent.authorization)


@store.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None:
    print("given back:", intent.authorization)


@store.on(Fulfil)
async def fulfil(intent: Fulfil, ctx: EffectContext) -> None:
    if intent.stock < 1:
        raise Refused("sold out", code="sold_out")


app = SagaApp(sagas=[order, payment], effects=[store], name="sub-workflow")


async def main() -> None:
    """One goes through; one is too dear; of one the payment is undone, as the goods are gone."""
    orders = [
        OrderPlaced(order_id="o-1", amount=40),
        OrderPlaced(order_id="o-2", amount=4_000),
        OrderPlaced(order_id="o-3", amount=40, stock=0),
    ]
    async with app.service() as service:
        sagas = [await service.start(placed) for placed in orders]
        for placed, saga_id in zip(orders, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(placed.order_id, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
