"""An order as a state machine: undo where the step is said, a person who decides, a courier."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from saga import (
    Acts,
    EffectContext,
    Effects,
    Event,
    Intent,
    Next,
    Refused,
    Retry,
    SagaApp,
    State,
    StepDone,
    StepFailed,
    Transitions,
    do,
    machine,
)

APPROVED_UP_TO = 500


class OrderPlaced(Event, topic="shop.order-placed", version=1, key="order_id"):
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


class Delivered(Event, topic="courier.delivered", version=1, key="order_id"):
    order_id: str


class OrderConfirmed(Event, topic="shop.order-confirmed", version=1):
    order_id: str
    receipt: str


class OrderRejected(Event, topic="shop.order-rejected", version=1):
    order_id: str
    reason: str
    code: str | None = None


class Approval(BaseModel):
    granted: bool


class Reserving(State):
    order: OrderPlaced

    def enter(self) -> Acts:
        return do(Reserve(order_id=self.order.order_id), undo=Release)

    def handle(self, event: StockReserved) -> Next[Approving | Paying]:
        if self.order.amount > APPROVED_UP_TO:
            return Approving(order=self.order)
        return Paying(order=self.order)


class Approving(State, timeout="1d"):
    order: OrderPlaced

    def handle(self, event: Approval) -> Next[Paying | Rejected]:
        match event:
            case Approval(granted=True):
                return Paying(order=self.order)
            case Approval():
                return Rejected(reason="declined", code="declined")


class Paying(State):
    order: OrderPlaced

    def enter(self) -> Acts:
        pay = Pay(order_id=self.order.order_id, amount=self.order.amount)
        return do(pay, undo=Refund, retry=Retry(attempts=3), timeout="30s")

    def handle(self, event: Paid | StepFailed) -> Next[Shipping | Rejected]:
        match event:
            case Paid(receipt=receipt):
                return Shipping(order=self.order, receipt=receipt)
            case StepFailed(code=code, message=message):
                return Rejected(reason=message, code=code)


class Shipping(State):
    order: OrderPlaced
    receipt: str

    def enter(self) -> Acts:
        return Ship(order_id=self.order.order_id)

    def handle(self, event: StepDone) -> Next[Underway]:
        return Underway(order=self.order, receipt=self.receipt)


class Underway(State, timeout="14d"):
    """A `Delivered` that came while the order was `Shipping` was kept for it."""

    order: OrderPlaced
    receipt: str

    def handle(self, event: Delivered) -> Next[Confirmed]:
        return Confirmed(), OrderConfirmed(order_id=self.order.order_id, receipt=self.receipt)


class Confirmed(State): ...


class Rejected(State, rolls_back=True):
    reason: str
    code: str


ORDER: Transitions = {
    Reserving: {StockReserved: (Approving, Paying)},
    Approving: {Approval: (Paying, Rejected)},
    Paying: {Paid: Shipping, StepFailed: Rejected},
    Shipping: {StepDone: Underway},
    Underway: {Delivered: Confirmed},
}


@machine(
    "order",
    version=1,
    starts_on=OrderPlaced,
    transitions=ORDER,
    listens=(Delivered,),
    signals={"approval": Approval},
    rolled_back=OrderRejected,
)
def order(placed: OrderPlaced) -> Next[Reserving]:
    return Reserving(order=placed)


services = Effects("order-services")


@services.on(Reserve)
async def reserve(intent: Reserve, ctx: EffectContext) -> StockReserved:
    return StockReserved(reservation=f"s-{intent.order_id}")


@services.on(Release)
async def release(intent: Release, ctx: EffectContext) -> None:
    print(f"{intent.order_id}: stock released")


@services.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> Paid:
    if intent.order_id == "broke":
        raise Refused("no money", code="funds")
    return Paid(receipt=f"r-{intent.order_id}")


@services.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    print(f"{intent.order_id}: paid back")


@services.on(Ship)
async def ship(intent: Ship, ctx: EffectContext) -> None:
    print(f"{intent.order_id}: on its way")


app = SagaApp(sagas=[order], effects=[services])


async def main() -> None:
    async with app.service() as service:
        for id, amount in (("o-1", 40), ("dear", 4_000), ("broke", 40)):
            await service.start(OrderPlaced(order_id=id, amount=amount))
        await service.signal("order/dear", "approval", Approval(granted=False))
        await service.publish(Delivered(order_id="o-1"))
        for id in ("o-1", "dear", "broke"):
            outcome = await service.outcome(f"order/{id}", timeout=60)
            print(id, outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
