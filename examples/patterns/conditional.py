"""Branches on data: plain `if` and `else` on what came in and what services answered."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, RollBack, SagaApp, saga


class OrderPlaced(Event, topic="desk.order-placed", version=1, key="order_id"):
    order_id: str
    type: str
    gift_wrap: bool = False


class Express(Intent[None], topic="desk.express", version=1):
    order_id: str


class Schedule(Intent[None], topic="desk.schedule", version=1):
    order_id: str


class Cancel(Intent[None], topic="desk.cancel", version=1):
    """Undoes either way of delivery."""

    order_id: str


class Wrap(Intent[None], topic="desk.wrap", version=1):
    order_id: str


class Unwrap(Intent[None], topic="desk.unwrap", version=1):
    order_id: str


class OrderProcessed(Event, topic="desk.order-processed", version=1):
    order_id: str
    way: str


class OrderRefused(Event, topic="desk.order-refused", version=1):
    order_id: str
    reason: str


@saga("conditional", version=1, starts_on=OrderPlaced, rolled_back=OrderRefused)
async def order(ctx: Context, placed: OrderPlaced) -> OrderProcessed:
    """Express or standard, wrapped or not; a type that nobody knows is refused."""
    if placed.gift_wrap:
        await ctx.do(Wrap(order_id=placed.order_id), undo=Unwrap)
    if placed.type == "express":
        await ctx.do(Express(order_id=placed.order_id), undo=Cancel)
    elif placed.type == "standard":
        await ctx.do(Schedule(order_id=placed.order_id), undo=Cancel)
    else:
        raise RollBack(f"unknown order type: {placed.type}", code="unknown_type")
    return OrderProcessed(order_id=placed.order_id, way=placed.type)


desk = Effects("conditional-desk")


@desk.on(Express)
async def express(intent: Express, ctx: EffectContext) -> None:
    print(intent.order_id, "goes by courier")


@desk.on(Schedule)
async def schedule(intent: Schedule, ctx: EffectContext) -> None:
    print(intent.order_id, "goes on Thursday")


@desk.on(Cancel)
async def cancel(intent: Cancel, ctx: EffectContext) -> None:
    print(intent.order_id, "does not go")


@desk.on(Wrap)
async def wrap(intent: Wrap, ctx: EffectContext) -> None:
    print(intent.order_id, "is wrapped")


@desk.on(Unwrap)
async def unwrap(intent: Unwrap, ctx: EffectContext) -> None:
    print(intent.order_id, "is unwrapped")


app = SagaApp(sagas=[order], effects=[desk])


async def main() -> None:
    """An express order, a standard one in paper, and one of a type that nobody knows."""
    orders = [
        OrderPlaced(order_id="o-1", type="express"),
        OrderPlaced(order_id="o-2", type="standard", gift_wrap=True),
        OrderPlaced(order_id="o-3", type="by balloon", gift_wrap=True),
    ]
    async with app.service() as service:
        sagas = [await service.start(placed) for placed in orders]
        for placed, saga_id in zip(orders, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(placed.order_id, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
