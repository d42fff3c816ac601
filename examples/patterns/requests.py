"""A running saga that answers: a basket that is changed and looked at until it is checked out."""

import asyncio

from pydantic import BaseModel, PositiveInt

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, UpdateRefused, saga


class BasketOpened(Event, topic="kiosk.basket-opened", version=1, key="basket"):
    basket: str
    room: int = 10


class Change(BaseModel):
    item: str
    count: PositiveInt


class Checkout(Intent[None], topic="kiosk.checkout", version=1):
    basket: str
    items: dict[str, int]


class BasketSold(Event, topic="kiosk.basket-sold", version=1):
    basket: str
    items: dict[str, int]


@saga("requests", version=1, starts_on=BasketOpened)
async def basket(ctx: Context, opened: BasketOpened) -> BasketSold:
    """Each request is answered once, and the answer is part of the history."""
    items: dict[str, int] = {}
    while True:
        request = await ctx.update("add", Change)
        change = request.payload
        if change.item == "checkout":
            request.answer(items)
            break
        if sum(items.values()) + change.count > opened.room:
            request.refuse("full", f"there is room for {opened.room}")
            continue
        items[change.item] = items.get(change.item, 0) + change.count
        ctx.show(items=sum(items.values()))
        request.answer(items)
    await ctx.do(Checkout(basket=opened.basket, items=items))
    return BasketSold(basket=opened.basket, items=items)


kiosk = Effects("requests-kiosk")


@kiosk.on(Checkout)
async def checkout(intent: Checkout, ctx: EffectContext) -> None:
    print("sold:", intent.items)


app = SagaApp(sagas=[basket], effects=[kiosk])


async def main() -> None:
    """Requests with ids of their own: one that is sent again gets the answer it had."""
    async with app.service() as service:
        saga_id = await service.start(BasketOpened(basket="b-1"))
        changes = [("tea", 2), ("pot", 1), ("cup", 12), ("checkout", 1)]
        for number, (item, count) in enumerate(changes):
            try:
                answer = await service.update(
                    saga_id, "add", {"item": item, "count": count}, id=f"b-1-{number}", timeout=60
                )
            except UpdateRefused as error:
                print(item, "refused:", error.message)
            else:
                print(item, answer)
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
