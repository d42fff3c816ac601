"""Three bookings at three providers. The last one fails, and the others are undone in reverse.

    python examples/01_travel_booking.py

Each step names its undo, and that is all: there is no list of undos and no `except`. It prints

    trip/rome completed
      do    book-flight  done
      do    book-hotel   done
      do    book-car     done
    trip/oslo rolled_back: no car left
      do    book-flight  undone
      do    book-hotel   undone
      do    book-car     refused
      undo  book-hotel   undone
      undo  book-flight  undone

The state is in `.saga/`: a second run finds both trips at their end, and books nothing twice.
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class TripWanted(Event, topic="travel.trip-wanted", version=1, key="trip"):
    trip: str


class Booked(Event, topic="travel.booked", version=1):
    number: str


class BookFlight(Intent[Booked], topic="travel.book-flight", version=1):
    trip: str


class CancelFlight(Intent[None], topic="travel.cancel-flight", version=1):
    trip: str


class BookHotel(Intent[Booked], topic="travel.book-hotel", version=1):
    trip: str


class CancelHotel(Intent[None], topic="travel.cancel-hotel", version=1):
    trip: str


class BookCar(Intent[Booked], topic="travel.book-car", version=1):
    trip: str


class CancelCar(Intent[None], topic="travel.cancel-car", version=1):
    trip: str


class TripBooked(Event, topic="travel.trip-booked", version=1):
    trip: str
    numbers: list[str]


class TripOff(Event, topic="travel.trip-off", version=1):
    trip: str
    reason: str


@saga("trip", version=1, starts_on=TripWanted, rolled_back=TripOff)
async def trip(ctx: Context, wanted: TripWanted) -> TripBooked:
    flight = await ctx.do(BookFlight(trip=wanted.trip), undo=CancelFlight)
    hotel = await ctx.do(BookHotel(trip=wanted.trip), undo=CancelHotel)
    car = await ctx.do(BookCar(trip=wanted.trip), undo=CancelCar)
    return TripBooked(trip=wanted.trip, numbers=[flight.number, hotel.number, car.number])


airline, hotels, cars = Effects("airline"), Effects("hotels"), Effects("cars")


@airline.on(BookFlight)
async def book_flight(intent: BookFlight, ctx: EffectContext) -> Booked:
    return Booked(number=f"flight to {intent.trip}")


@airline.on(CancelFlight)
async def cancel_flight(intent: CancelFlight, ctx: EffectContext) -> None: ...


@hotels.on(BookHotel)
async def book_hotel(intent: BookHotel, ctx: EffectContext) -> Booked:
    return Booked(number=f"hotel in {intent.trip}")


@hotels.on(CancelHotel)
async def cancel_hotel(intent: CancelHotel, ctx: EffectContext) -> None: ...


@cars.on(BookCar)
async def book_car(intent: BookCar, ctx: EffectContext) -> Booked:
    if intent.trip == "oslo":
        raise Refused("no car left", code="no_car")  # "no, and nothing happened": it is final
    return Booked(number=f"car in {intent.trip}")


@cars.on(CancelCar)
async def cancel_car(intent: CancelCar, ctx: EffectContext) -> None: ...


app = SagaApp(sagas=[trip], effects=[airline, hotels, cars])


async def main() -> None:
    async with app.service() as service:
        for name in ("rome", "oslo"):
            saga_id = await service.start(TripWanted(trip=name))
            await service.outcome(saga_id)
            print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
