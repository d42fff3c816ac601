"""Temporal: three bookings at three providers, undone in reverse.

temporal server start-dev
python examples/peers/temporal/01_travel_booking.py
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

LIMIT = timedelta(seconds=30)


@activity.defn
async def book_flight(trip: str) -> str:
    return f"flight to {trip}"


@activity.defn
async def cancel_flight(trip: str) -> None: ...


@activity.defn
async def book_hotel(trip: str) -> str:
    return f"hotel in {trip}"


@activity.defn
async def cancel_hotel(trip: str) -> None: ...


@activity.defn
async def book_car(trip: str) -> str:
    if trip == "oslo":
        raise ApplicationError("no car left", non_retryable=True)
    return f"car in {trip}"


@activity.defn
async def cancel_car(trip: str) -> None: ...


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, trip: str) -> list[str]:
        undos: list[Callable[[str], Awaitable[None]]] = []
        numbers = []
        try:
            for book, cancel in (
                (book_flight, cancel_flight),
                (book_hotel, cancel_hotel),
                (book_car, cancel_car),
            ):
                undos.append(cancel)  # before the step: one that timed out may have booked
                number = await workflow.execute_activity(book, trip, start_to_close_timeout=LIMIT)
                numbers.append(number)
        except ActivityError:
            for undo in reversed(undos):
                await workflow.execute_activity(undo, trip, start_to_close_timeout=LIMIT)
            raise
        return numbers


ACTIVITIES = [book_flight, cancel_flight, book_hotel, cancel_hotel, book_car, cancel_car]


async def main() -> None:
    client = await Client.connect("localhost:7233")
    async with Worker(client, task_queue="travel", workflows=[Trip], activities=ACTIVITIES):
        for trip in ("rome", "oslo"):
            try:
                booked = await client.execute_workflow(
                    Trip.run, trip, id=f"trip-{trip}", task_queue="travel"
                )
                print(trip, booked)
            except WorkflowFailureError as error:
                print(trip, "is off:", error.cause)


if __name__ == "__main__":
    asyncio.run(main())
