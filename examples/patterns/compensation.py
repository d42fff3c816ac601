"""A distributed transaction: each step names its undo, and the engine does the rest."""

import asyncio
from typing import Any

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class TripBooked(Event, topic="agency.trip-booked", version=1, key="trip"):
    """Somebody has chosen a trip; now it has to be made true."""

    trip: str
    flight: str
    hotel: str
    car: str


class Booking(Event, topic="agency.booking", version=1):
    number: str


class BookFlight(Intent[Booking], topic="agency.book-flight", version=1):
    trip: str
    flight: str


class CancelFlight(Intent[None], topic="agency.cancel-flight", version=1):
    trip: str
    number: str | None = None


class BookHotel(Intent[Booking], topic="agency.book-hotel", version=1):
    trip: str
    hotel: str


class CancelHotel(Intent[None], topic="agency.cancel-hotel", version=1):
    trip: str
    number: str | None = None


class BookCar(Intent[Booking], topic="agency.book-car", version=1):
    trip: str
    car: str


class CancelCar(Intent[None], topic="agency.cancel-car", version=1):
    trip: str
    number: str | None = None


class TripConfirmed(Event, topic="agency.trip-confirmed", version=1):
    trip: str
    numbers: list[str]


class TripFailed(Event, topic="agency.trip-failed", version=1):
    trip: str
    reason: str
    failed_step: str | None
    residue: list[str]


@saga("compensation", version=1, starts_on=TripBooked, rolled_back=TripFailed)
async def trip(ctx: Context, wanted: TripBooked) -> TripConfirmed:
    """No list of undos, no `except`: what was issued is undone in reverse order, also in doubt."""
    flight = await ctx.do(BookFlight(trip=wanted.trip, flight=wanted.flight), undo=CancelFlight)
    hotel = await ctx.do(BookHotel(trip=wanted.trip, hotel=wanted.hotel), undo=CancelHotel)
    car = await ctx.do(BookCar(trip=wanted.trip, car=wanted.car), undo=CancelCar)
    return TripConfirmed(trip=wanted.trip, numbers=[flight.number, hotel.number, car.number])


agency = Effects("compensation-agency")


@agency.on_start
async def make_tables(db: Any) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS bookings (number TEXT PRIMARY KEY)")


async def book(ctx: EffectContext, what: str) -> Booking:
    """The row and the answer are kept in one transaction: once, whatever is delivered how often."""
    number = f"{ctx.key} {what}"
    await ctx.db.execute("INSERT INTO bookings VALUES (:number)", number=number)
    return Booking(number=number)


async def cancel(ctx: EffectContext, number: str | None) -> None:
    print("cancelled:", number)
    await ctx.db.execute("DELETE FROM bookings WHERE number = :number", number=number)


@agency.on(BookFlight)
async def book_flight(intent: BookFlight, ctx: EffectContext) -> Booking:
    return await book(ctx, intent.flight)


@agency.on(CancelFlight)
async def cancel_flight(intent: CancelFlight, ctx: EffectContext) -> None:
    await cancel(ctx, intent.number)


@agency.on(BookHotel)
async def book_hotel(intent: BookHotel, ctx: EffectContext) -> Booking:
    return await book(ctx, intent.hotel)


@agency.on(CancelHotel)
async def cancel_hotel(intent: CancelHotel, ctx: EffectContext) -> None:
    await cancel(ctx, intent.number)


@agency.on(BookCar)
async def book_car(intent: BookCar, ctx: EffectContext) -> Booking:
    if intent.car == "none":
        raise Refused("no car left", code="no_car")
    return await book(ctx, intent.car)


@agency.on(CancelCar)
async def cancel_car(intent: CancelCar, ctx: EffectContext) -> None:
    await cancel(ctx, intent.number)


app = SagaApp(sagas=[trip], effects=[agency])


async def main() -> None:
    """A trip that is confirmed, and one without a car, of which nothing is left."""
    trips = [
        TripBooked(trip="t-1", flight="AB 12", hotel="Sole", car="red"),
        TripBooked(trip="t-2", flight="AB 34", hotel="Luna", car="none"),
    ]
    async with app.service() as service:
        sagas = [await service.start(wanted) for wanted in trips]
        for wanted, saga_id in zip(trips, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(wanted.trip, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
