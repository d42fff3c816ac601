"""Restate: three bookings at three providers, undone in reverse.

restate-server
hypercorn --bind 0.0.0.0:9080 01_travel_booking:app     # in examples/peers/restate/
restate deployments register http://localhost:9080
curl -X POST localhost:8080/Trip/oslo/run
"""

import restate
from restate import RunOptions, TerminalError, Workflow, WorkflowContext

trips = Workflow("Trip")
THREE_TIMES: RunOptions[str] = RunOptions(max_attempts=3)


async def book_flight(trip: str) -> str:
    return f"flight to {trip}"


async def cancel_flight(trip: str) -> None: ...


async def book_hotel(trip: str) -> str:
    return f"hotel in {trip}"


async def cancel_hotel(trip: str) -> None: ...


async def book_car(trip: str) -> str:
    if trip == "oslo":
        raise TerminalError("no car left")
    return f"car in {trip}"


async def cancel_car(trip: str) -> None: ...


@trips.main()
async def run(ctx: WorkflowContext) -> list[str]:
    trip = ctx.key()
    undos = []
    numbers = []
    try:
        for book, cancel in (
            (book_flight, cancel_flight),
            (book_hotel, cancel_hotel),
            (book_car, cancel_car),
        ):
            undos.append(cancel)  # before the step: one that failed may have booked
            numbers.append(await ctx.run_typed(book.__name__, book, THREE_TIMES, trip))
    except TerminalError:
        for undo in reversed(undos):
            await ctx.run_typed(undo.__name__, undo, RunOptions(), trip)
        raise
    return numbers


app = restate.app(services=[trips])
