"""An order has a child saga for each of its parcels. One that fails takes back the others.

    python examples/06_parcels.py

A child is started by its own trigger. It may live in another application, of another team. When its
parent is rolled back it is undone too, even if it has long completed. It prints

    parcel-order/o-1 completed
      do    pay                done
      do    shipment-wanted    done
      do    shipment-wanted-2  done
    parcel-order/o-2 rolled_back: 90000 g are too heavy
      do    pay                undone
      do    shipment-wanted    undone
      do    shipment-wanted-2  undone
      undo  shipment-wanted    undone
      undo  pay                undone
    shipment/o-2-1 rolled_back: 90000 g are too heavy
      do    pack       undone
      do    hand-over  undone
      undo  hand-over  undone
      undo  pack       undone
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class ShipmentWanted(Event, topic="depot.shipment-wanted", version=1, key="parcel"):
    parcel: str
    grams: int


class Pack(Intent[None], topic="depot.pack", version=1):
    parcel: str


class Unpack(Intent[None], topic="depot.unpack", version=1):
    parcel: str


class HandOver(Intent[None], topic="depot.hand-over", version=1):
    parcel: str
    grams: int


class CallBack(Intent[None], topic="depot.call-back", version=1):
    parcel: str


class Shipped(Event, topic="depot.shipped", version=1):
    parcel: str


@saga("shipment", version=1, starts_on=ShipmentWanted)
async def shipment(ctx: Context, wanted: ShipmentWanted) -> Shipped:
    await ctx.do(Pack(parcel=wanted.parcel), undo=Unpack)
    await ctx.do(HandOver(parcel=wanted.parcel, grams=wanted.grams), undo=CallBack)
    return Shipped(parcel=wanted.parcel)


class OrderPlaced(Event, topic="depot.order-placed", version=1, key="order_id"):
    order_id: str
    grams: list[int]


class Pay(Intent[None], topic="depot.pay", version=1):
    order_id: str


class Refund(Intent[None], topic="depot.refund", version=1):
    order_id: str


class OrderShipped(Event, topic="depot.order-shipped", version=1):
    order_id: str
    parcels: list[str]


@saga("parcel-order", version=1, starts_on=OrderPlaced)
async def order(ctx: Context, placed: OrderPlaced) -> OrderShipped:
    await ctx.do(Pay(order_id=placed.order_id), undo=Refund)
    wanted = [
        ShipmentWanted(parcel=f"{placed.order_id}-{number}", grams=grams)
        for number, grams in enumerate(placed.grams, start=1)
    ]
    shipped = await ctx.all(*(ctx.child(parcel, outcome=Shipped) for parcel in wanted))
    return OrderShipped(order_id=placed.order_id, parcels=[each.parcel for each in shipped])


depot = Effects("depot")


async def agree(intent: Pay | Refund | Pack | Unpack | CallBack, ctx: EffectContext) -> None: ...


depot.on(Pay)(agree)
depot.on(Refund)(agree)
depot.on(Pack)(agree)
depot.on(Unpack)(agree)
depot.on(CallBack)(agree)


@depot.on(HandOver)
async def hand_over(intent: HandOver, ctx: EffectContext) -> None:
    if intent.grams > 30_000:
        raise Refused(f"{intent.grams} g are too heavy", code="heavy")


app = SagaApp(sagas=[order, shipment], effects=[depot])


async def main() -> None:
    orders = {"o-1": [500, 900], "o-2": [500, 90_000]}
    async with app.service() as service:
        for name, grams in orders.items():
            saga_id = await service.start(OrderPlaced(order_id=name, grams=grams))
            await service.outcome(saga_id)
            print(await service.find(saga_id))
        print(await service.find("shipment/o-2-1"))


if __name__ == "__main__":
    asyncio.run(main())
