"""A saga that hears of what other services do: parcels and payments tell it, nobody asks them."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, TimedOut, on, saga


class OrderPlaced(Event, topic="market.order-placed", version=1, key="order_id"):
    order_id: str
    patience: str = "7d"


class PaymentSettled(Event, topic="bank.payment-settled", version=1, key="payment"):
    """The bank's own event, under the bank's own key."""

    payment: str
    order_ref: str
    amount: int


class ParcelMoved(Event, topic="parcels.parcel-moved", version=1, key="order_id"):
    order_id: str
    place: str
    is_delivered: bool = False


class Send(Intent[None], topic="market.send", version=1):
    order_id: str


class Remind(Intent[None], topic="market.remind", version=1):
    order_id: str


class OrderClosed(Event, topic="market.order-closed", version=1):
    order_id: str
    paid: int
    places: list[str]


@saga(
    "events",
    version=1,
    starts_on=OrderPlaced,
    listens=(ParcelMoved, on(PaymentSettled, key="order_ref", early="30s")),
)
async def order(ctx: Context, placed: OrderPlaced) -> OrderClosed:
    """Wait for the money, send, then follow the parcel to its end."""
    paid = 0
    while not paid:
        try:
            settled = await ctx.next(
                PaymentSettled, where=lambda event: event.amount > 0, timeout=placed.patience
            )
        except TimedOut:
            await ctx.do(Remind(order_id=placed.order_id), kind="harmless")
        else:
            paid = settled.amount
    await ctx.do(Send(order_id=placed.order_id))
    places = []
    while True:
        moved = await ctx.next(ParcelMoved)
        places.append(moved.place)
        if moved.is_delivered:
            return OrderClosed(order_id=placed.order_id, paid=paid, places=places)


market = Effects("events-market")


@market.on(Send)
async def send(intent: Send, ctx: EffectContext) -> None:
    print("sent:", intent.order_id)


@market.on(Remind)
async def remind(intent: Remind, ctx: EffectContext) -> None:
    print("please pay:", intent.order_id)


app = SagaApp(sagas=[order], effects=[market])


async def main() -> None:
    """The bank and the parcel service publish what they do."""
    async with app.service() as service:
        saga_id = await service.start(OrderPlaced(order_id="o-1"))
        events = [
            PaymentSettled(payment="p-1", order_ref="o-1", amount=40),
            ParcelMoved(order_id="o-1", place="Bari"),
            ParcelMoved(order_id="o-1", place="Rome", is_delivered=True),
        ]
        for number, event in enumerate(events):
            # The sender gives each its id, so that one sent twice is heard once.
            await service.publish(event, message_id=f"o-1-{number}")
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
