"""The definitions that the golden histories pin. A history is for ever, and so is what is here: add
versions, change none.
"""

from __future__ import annotations

from saga import Context, Event, Intent, Retry, RollBack, SagaApp, StepFailed, TimedOut, saga

RETRY = Retry(attempts=3, initial="1s", factor=2.0, cap="10s", jitter=0.2)


class OrderPlaced(Event, topic="golden-orders.order-placed", version=1, key="order_id"):
    order_id: str
    amount: int


class OrderConfirmed(Event, topic="golden-orders.order-confirmed", version=1):
    order_id: str
    receipt: str


class OrderRejected(Event, topic="golden-orders.order-rejected", version=1):
    order_id: str
    reason: str
    residue: list[str]


class Reserved(Event, topic="golden-stock.reserved", version=1):
    reservation: str


class Reserve(Intent[Reserved], topic="golden-stock.reserve", version=1):
    order_id: str


class Release(Intent[None], topic="golden-stock.release", version=1):
    order_id: str
    reservation: str | None = None


class Paid(Event, topic="golden-payments.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="golden-payments.pay", version=1):
    order_id: str
    amount: int


class Refund(Intent[None], topic="golden-payments.refund", version=1):
    order_id: str
    receipt: str | None = None


class Ship(Intent[None], topic="golden-parcels.ship", version=1):
    order_id: str


@saga("golden-order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """One step after another."""
    await ctx.do(
        Reserve(order_id=placed.order_id), undo=Release, id="reserve", retry=RETRY, timeout="30s"
    )
    paid = await ctx.do(
        Pay(order_id=placed.order_id, amount=placed.amount),
        undo=Refund,
        id="pay",
        retry=RETRY,
        timeout="30s",
    )
    await ctx.do(Ship(order_id=placed.order_id), id="ship", kind="read_only", retry=RETRY)
    return OrderConfirmed(order_id=placed.order_id, receipt=paid.receipt)


@saga("golden-order", version=2, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order_2(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """The same steps under other names."""
    await ctx.do(
        Reserve(order_id=placed.order_id), undo=Release, id="hold", retry=RETRY, timeout="30s"
    )
    paid = await ctx.do(
        Pay(order_id=placed.order_id, amount=placed.amount),
        undo=Refund,
        id="charge",
        retry=RETRY,
        timeout="30s",
    )
    await ctx.do(Ship(order_id=placed.order_id), id="ship", kind="read_only", retry=RETRY)
    return OrderConfirmed(order_id=placed.order_id, receipt=paid.receipt)


class TripAsked(Event, topic="golden-trips.trip-asked", version=1, key="trip_id"):
    trip_id: str


class TripBooked(Event, topic="golden-trips.trip-booked", version=1):
    trip_id: str
    seats: list[str]
    approved_by: str


class SeatHeld(Event, topic="golden-trips.seat-held", version=1):
    seat: str


class HoldSeat(Intent[SeatHeld], topic="golden-trips.hold-seat", version=1):
    trip_id: str
    carrier: str


class FreeSeat(Intent[None], topic="golden-trips.free-seat", version=1):
    trip_id: str
    carrier: str
    seat: str | None = None


class Approval(Event, topic="golden-trips.approval", version=1):
    by: str


@saga("golden-trip", version=1, starts_on=TripAsked, parallel_undo=True)
async def trip(ctx: Context, asked: TripAsked) -> TripBooked:
    """All of two, whoever is first of two, a sleep, a signal, a second choice."""

    def hold(carrier: str):  # an awaitable of SeatHeld
        seat = HoldSeat(trip_id=asked.trip_id, carrier=carrier)
        return ctx.do(seat, undo=FreeSeat, id=carrier, retry=RETRY, timeout="20s")

    there, back = await ctx.all(hold("rail"), hold("air"))
    bed = await ctx.any(hold("inn"), hold("camp"))
    await ctx.sleep("1m")
    try:
        approval = await ctx.wait("approval", Approval, timeout="1h")
    except TimedOut:
        raise RollBack("nobody approved", code="late") from None
    try:
        last = await hold("boat")
    except StepFailed:
        last = await hold("bus")
    seats = [there.seat, back.seat, bed.seat, last.seat]
    return TripBooked(trip_id=asked.trip_id, seats=seats, approved_by=approval.by)


class TourAsked(Event, topic="golden-trips.tour-asked", version=1, key="trip_id"):
    trip_id: str


class TourBooked(Event, topic="golden-trips.tour-booked", version=1):
    trip_id: str
    stay: str


@saga("golden-tour", version=1, starts_on=TourAsked)
async def tour(ctx: Context, asked: TourAsked) -> TourBooked:
    """A stay in a scope, with what goes with it in another one, beside a train."""

    def hold(carrier: str):  # an awaitable of SeatHeld
        seat = HoldSeat(trip_id=asked.trip_id, carrier=carrier)
        return ctx.do(seat, undo=FreeSeat, id=carrier, retry=RETRY, timeout="20s")

    async def stay() -> str:
        try:
            async with ctx.scope("stay"):
                await ctx.any(hold("inn"), hold("camp"))
                try:
                    async with ctx.scope():
                        await hold("boat")
                        await hold("bus")
                except StepFailed as failure:
                    if failure.code != "soft":
                        raise
                await hold("guide")
        except StepFailed:
            return "none"
        return "held"

    where, _ = await ctx.all(stay(), hold("rail"))
    return TourBooked(trip_id=asked.trip_id, stay=where)


app = SagaApp(sagas=[order, order_2, trip, tour])
