"""Several suppliers are asked at once. The first two who answer count, and the cheaper one wins.

    python examples/04_best_offer.py

`ctx.some(2, …)` takes the first two successes. What the others have done, or may have done, is
undone by itself: `dusk` never answers, and is told all the same. Whom the price rules out is told
behind the pivot, side by side with `ctx.all`. It prints

    purchase/desk completed
      do    hold-offer    done
      do    hold-offer-2  done
      do    hold-offer-3  refused, dropped
      do    hold-offer-4  undone, dropped
      do    buy           done
      do    decline       done
      undo  hold-offer-4  undone, dropped
    desk: bought from bolt for 30
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class Wanted(Event, topic="desks.wanted", version=1, key="item"):
    item: str
    suppliers: list[str]


class Offer(Event, topic="suppliers.offer", version=1):
    supplier: str
    price: int


class HoldOffer(Intent[Offer], topic="suppliers.hold-offer", version=1):
    item: str
    supplier: str


class Decline(Intent[None], topic="suppliers.decline", version=1):
    item: str
    supplier: str


class Buy(Intent[None], topic="suppliers.buy", version=1):
    item: str
    supplier: str
    price: int


class Bought(Event, topic="desks.bought", version=1):
    supplier: str
    price: int


class NotBought(Event, topic="desks.not-bought", version=1):
    item: str
    reason: str


@saga("purchase", version=1, starts_on=Wanted, rolled_back=NotBought)
async def purchase(ctx: Context, wanted: Wanted) -> Bought:
    asked = [HoldOffer(item=wanted.item, supplier=name) for name in wanted.suppliers]
    offers = await ctx.some(2, *(ctx.do(hold, undo=Decline, timeout="1d") for hold in asked))
    best = min(offers, key=lambda offer: offer.price)
    buy = Buy(item=wanted.item, supplier=best.supplier, price=best.price)
    await ctx.do(buy, kind="pivot")
    others = [offer.supplier for offer in offers if offer is not best]
    declines = [Decline(item=wanted.item, supplier=name) for name in others]
    await ctx.all(*(ctx.do(decline, kind="retriable") for decline in declines))
    return Bought(supplier=best.supplier, price=best.price)


suppliers = Effects("suppliers")
PRICES = {"acme": 40, "bolt": 30}


@suppliers.on(HoldOffer)
async def hold_offer(intent: HoldOffer, ctx: EffectContext) -> Offer:
    if intent.supplier == "crow":
        raise Refused("sold out", code="sold_out")
    while intent.supplier == "dusk" and not ctx.cancelled:  # noqa: ASYNC110  # until it is told
        await asyncio.sleep(0.05)
    return Offer(supplier=intent.supplier, price=PRICES.get(intent.supplier, 50))


@suppliers.on(Decline)
async def decline(intent: Decline, ctx: EffectContext) -> None: ...


@suppliers.on(Buy)
async def buy(intent: Buy, ctx: EffectContext) -> None: ...


app = SagaApp(sagas=[purchase], effects=[suppliers])


async def main() -> None:
    async with app.service() as service:
        wanted = Wanted(item="desk", suppliers=["acme", "bolt", "crow", "dusk"])
        saga_id = await service.start(wanted)
        outcome = await service.outcome(saga_id)
        print(await service.find(saga_id))
        if isinstance(outcome.event, Bought):
            print(f"desk: bought from {outcome.event.supplier} for {outcome.event.price}")


if __name__ == "__main__":
    asyncio.run(main())
