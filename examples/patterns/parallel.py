"""Steps side by side: all of them, or the first of several."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga


class TripWanted(Event, topic="trips.trip-wanted", version=1, key="trip"):
    trip: str
    cities: list[str]
    carriers: list[str]


class Hotel(Event, topic="hotels.hotel-held", version=1):
    city: str
    room: str


class HoldHotel(Intent[Hotel], topic="hotels.hold-hotel", version=1):
    trip: str
    city: str


class LeaveHotel(Intent[None], topic="hotels.leave-hotel", version=1):
    trip: str
    city: str


class Ticket(Event, topic="rails.ticket", version=1):
    carrier: str


class BuyTicket(Intent[Ticket], topic="rails.buy-ticket", version=1):
    trip: str
    carrier: str


class ReturnTicket(Intent[None], topic="rails.return-ticket", version=1):
    trip: str
    carrier: str


class TripBooked(Event, topic="trips.trip-booked", version=1):
    trip: str
    rooms: list[str]
    carrier: str


class TripOff(Event, topic="trips.trip-off", version=1):
    trip: str
    reason: str


@saga("parallel", version=1, starts_on=TripWanted, rolled_back=TripOff, parallel_undo=True)
async def trip(ctx: Context, wanted: TripWanted) -> TripBooked:
    """All hotels at once, two at a time; of the carriers, whoever sells first."""
    hotels = [
        ctx.do(HoldHotel(trip=wanted.trip, city=city), undo=LeaveHotel) for city in wanted.cities
    ]
    held = await ctx.all(*hotels, fail="fast", at_once=2)
    tickets = [
        ctx.do(BuyTicket(trip=wanted.trip, carrier=carrier), undo=ReturnTicket)
        for carrier in wanted.carriers
    ]
    ticket = await ctx.any(*tickets)
    rooms = [hotel.room for hotel in held]
    return TripBooked(trip=wanted.trip, rooms=rooms, carrier=ticket.carrier)


world = Effects("parallel-world")


@world.on(HoldHotel)
async def hold_hotel(intent: HoldHotel, ctx: EffectContext) -> Hotel:
    if intent.city == "Atlantis":
        raise Refused("it has sunk", code="sunk")
    return Hotel(city=intent.city, room=f"{intent.city} 12")


@world.on(LeaveHotel)
async def leave_hotel(intent: LeaveHotel, ctx: EffectContext) -> None:
    print("no room in", intent.city)


@world.on(BuyTicket)
async def buy_ticket(intent: BuyTicket, ctx: EffectContext) -> Ticket:
    if intent.carrier == "coach":
        raise Refused("sold out", code="sold_out")
    return Ticket(carrier=intent.carrier)


@world.on(ReturnTicket)
async def return_ticket(intent: ReturnTicket, ctx: EffectContext) -> None:
    print("no seat with", intent.carrier)


app = SagaApp(sagas=[trip], effects=[world])


async def main() -> None:
    """A trip that is booked, and one to a place that is not there."""
    trips = [
        TripWanted(trip="t-1", cities=["Rome", "Bari", "Pisa"], carriers=["coach", "train"]),
        TripWanted(trip="t-2", cities=["Rome", "Atlantis"], carriers=["train"]),
    ]
    async with app.service() as service:
        sagas = [await service.start(wanted) for wanted in trips]
        for wanted, saga_id in zip(trips, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(wanted.trip, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
