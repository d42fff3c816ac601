"""A delivery waits for what its courier does. Nobody asks the courier: it publishes its own events.

    python examples/07_courier_events.py

`listens` says which events of other services reach a running saga, `ctx.next` takes the next of
them. They are kept in order and heard once, also before the saga waits. It prints

    delivery/d-1 completed
      do    announce  done
    d-1 was delivered by way of ['Bari', 'Rome']
    delivery/d-2 rolled_back: no courier has come
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, RollBack, SagaApp, TimedOut, saga


class DeliveryWanted(Event, topic="deliveries.delivery-wanted", version=1, key="delivery"):
    delivery: str
    patience: str = "2d"


class PickedUp(Event, topic="couriers.picked-up", version=1, key="delivery"):
    """The courier's own events, under the delivery's key; for another key see `saga.on`."""

    delivery: str


class Passed(Event, topic="couriers.passed", version=1, key="delivery"):
    delivery: str
    place: str


class HandedOver(Event, topic="couriers.handed-over", version=1, key="delivery"):
    delivery: str


class Announce(Intent[None], topic="deliveries.announce", version=1):
    delivery: str


class Delivered(Event, topic="deliveries.delivered", version=1):
    delivery: str
    way: list[str]


class NotDelivered(Event, topic="deliveries.not-delivered", version=1):
    delivery: str
    reason: str


@saga(
    "delivery",
    version=1,
    starts_on=DeliveryWanted,
    listens=(PickedUp, Passed, HandedOver),
    rolled_back=NotDelivered,
)
async def delivery(ctx: Context, wanted: DeliveryWanted) -> Delivered:
    try:
        await ctx.next(PickedUp, timeout=wanted.patience)
    except TimedOut as error:
        raise RollBack("no courier has come", code="no_courier") from error
    await ctx.do(Announce(delivery=wanted.delivery), kind="harmless")
    way: list[str] = []
    while True:
        match await ctx.next(Passed, HandedOver):
            case Passed(place=place):
                way.append(place)
            case HandedOver():
                return Delivered(delivery=wanted.delivery, way=way)


desk = Effects("delivery-desk")


@desk.on(Announce)
async def announce(intent: Announce, ctx: EffectContext) -> None: ...


app = SagaApp(sagas=[delivery], effects=[desk])


async def main() -> None:
    courier = [
        PickedUp(delivery="d-1"),
        Passed(delivery="d-1", place="Bari"),
        Passed(delivery="d-1", place="Rome"),
        HandedOver(delivery="d-1"),
    ]
    async with app.service() as service:
        served = await service.start(DeliveryWanted(delivery="d-1"))
        ignored = await service.start(DeliveryWanted(delivery="d-2", patience="500ms"))
        for number, event in enumerate(courier):
            # The courier gives each event an id of its own, so that one sent twice is heard once.
            await service.publish(event, message_id=f"d-1-{number}")
        outcome = await service.outcome(served)
        print(await service.find(served))
        if isinstance(outcome.event, Delivered):
            print("d-1 was delivered by way of", outcome.event.way)
        await service.outcome(ignored)
        print(await service.find(ignored))


if __name__ == "__main__":
    asyncio.run(main())
