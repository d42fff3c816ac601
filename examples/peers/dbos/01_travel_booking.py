"""DBOS: three bookings at three providers, undone in reverse.

python examples/peers/dbos/01_travel_booking.py
"""

from collections.abc import Callable

from dbos import DBOS, DBOSConfig, SetWorkflowID

CONFIG: DBOSConfig = {"name": "travel", "system_database_url": "sqlite:///travel.sqlite"}


class NoCar(Exception): ...


@DBOS.step()
def book_flight(trip: str) -> str:
    return f"flight to {trip}"


@DBOS.step()
def cancel_flight(trip: str) -> None: ...


@DBOS.step()
def book_hotel(trip: str) -> str:
    return f"hotel in {trip}"


@DBOS.step()
def cancel_hotel(trip: str) -> None: ...


@DBOS.step()
def book_car(trip: str) -> str:
    if trip == "oslo":
        raise NoCar("no car left")
    return f"car in {trip}"


@DBOS.step()
def cancel_car(trip: str) -> None: ...


@DBOS.workflow()
def book_trip(trip: str) -> list[str]:
    undos: list[Callable[[str], None]] = []
    numbers = []
    try:
        for book, cancel in (
            (book_flight, cancel_flight),
            (book_hotel, cancel_hotel),
            (book_car, cancel_car),
        ):
            undos.append(cancel)  # before the step: one that failed may have booked
            numbers.append(book(trip))
    except Exception:
        for undo in reversed(undos):
            undo(trip)
        raise
    return numbers


def main() -> None:
    DBOS(config=CONFIG)
    DBOS.launch()
    for trip in ("rome", "oslo"):
        try:
            with SetWorkflowID(f"trip-{trip}"):
                print(trip, book_trip(trip))
        except NoCar as error:
            print(trip, "is off:", error)
    DBOS.destroy()


if __name__ == "__main__":
    main()
