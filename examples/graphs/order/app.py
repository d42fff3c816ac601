"""An order as a contract graph: `order.yaml` says what happens, Python has contracts and services.

`python examples/graphs/order/app.py` takes three orders to their end, with nothing but files in
`.saga/`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from saga import EffectContext, Effects, Event, Intent, Refused, SagaApp, contract


class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id"):
    order_id: str
    amount: int


class StockReserved(Event, topic="stock.stock-reserved", version=1):
    reservation: str


class Reserve(Intent[StockReserved], topic="stock.reserve", version=1):
    order_id: str


class Release(Intent[None], topic="stock.release", version=1):
    order_id: str
    reservation: str | None = None


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


class Delivered(Event, topic="parcels.delivered", version=1, key="order_id"):
    order_id: str


class OrderConfirmed(Event, topic="orders.order-confirmed", version=1):
    order_id: str
    receipt: str


class OrderRejected(Event, topic="orders.order-rejected", version=1):
    order_id: str
    reason: str
    code: str | None = None


shop = Effects("order-shop")


@shop.on(Reserve)
async def reserve(intent: Reserve, ctx: EffectContext) -> StockReserved:
    return StockReserved(reservation=f"s-{intent.order_id}")


@shop.on(Release)
async def release(intent: Release, ctx: EffectContext) -> None: ...


@shop.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> Paid:
    if intent.amount > 5_000:
        raise Refused("over the limit", code="limit")
    return Paid(receipt=f"r-{intent.order_id}")


@shop.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None: ...


@shop.on(Ship)
async def ship(intent: Ship, ctx: EffectContext) -> None: ...


app = SagaApp(
    sagas=[contract(Path(__file__).with_name("order.yaml"))],
    effects=[shop],
    contracts=[OrderPlaced, Delivered, OrderConfirmed, OrderRejected],
)


async def main() -> None:
    async with app.service() as service:
        cheap = await service.start(OrderPlaced(order_id="g-1", amount=40))
        dear = await service.start(OrderPlaced(order_id="g-2", amount=600))
        huge = await service.start(OrderPlaced(order_id="g-3", amount=9_000))
        for saga in (dear, huge):
            await service.signal(saga, "approval", {"granted": True})
        for order_id in ("g-1", "g-2"):
            await service.publish(Delivered(order_id=order_id))
        for saga in (cheap, dear, huge):
            outcome = await service.outcome(saga)
            print(outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
