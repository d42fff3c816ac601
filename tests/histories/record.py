"""Records golden histories: `python -m tests.histories.record`. What is there is never overwritten.

Each is what today's code decides on a scenario of what happened. Once recorded, a file is the
reference and not its script: the code of tomorrow has to follow it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from saga.core.events import Act, CancelMode, SagaStarted
from saga.core.history import Entry
from saga.testing import (
    Scenario,
    after,
    cancelled,
    failed,
    given,
    migrated_to,
    operator,
    refused,
    replied,
    signalled,
    timed_out,
)
from saga.testing.spec import Happens
from tests.histories import definitions as own
from tests.histories.definitions import FreeSeat, Paid, Refund, Release, Reserved, SeatHeld
from tests.histories.plain import FOLDER, dump

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RETRY: Final = after("10s")
"""Longer than any delay of the definitions' policy: what backs off is tried again."""
by_ann = partial(cancelled, "changed mind", actor="ann")
looked_into = partial(operator, reason="looked into it", actor="ann")


def _order(key: str, *happened: Happens) -> Scenario:
    """An order that has something reserved."""
    placed = own.OrderPlaced(order_id=key, amount=30)
    return given(own.order, placed, replied("reserve", Reserved(reservation="r-1")), *happened)


def _trip(key: str, *happened: Happens) -> Scenario:
    return given(own.trip, own.TripAsked(trip_id=key), *happened)


def _tour(key: str, *happened: Happens) -> Scenario:
    """A tour with an inn and a boat; for the bus there is no seat."""
    asked = own.TourAsked(trip_id=key)
    begun = (_held("inn"), _held("boat"), refused("bus", code="soft"), _freed("boat"))
    return given(own.tour, asked, *begun, *happened)


def _held(carrier: str) -> Happens:
    return replied(carrier, SeatHeld(seat=f"{carrier}-7"))


def _freed(carrier: str) -> Happens:
    return replied(FreeSeat, step=carrier)


def _seated(key: str, *happened: Happens) -> Scenario:
    """A trip with two seats and a bed, after its sleep."""
    return _trip(key, _held("air"), _held("rail"), _held("inn"), after("1m"), *happened)


SCRIPTS: Final[dict[str, Callable[[], Scenario]]] = {
    "order-completed": lambda: _order(
        "g-1", failed("pay"), RETRY, replied("pay", Paid(receipt="p-1")), replied("ship")
    ),
    "order-refused": lambda: _order(
        "g-2", refused("pay", code="no"), failed(Release), RETRY, replied(Release)
    ),
    "order-late-success": lambda: _order(
        "g-3",
        timed_out("pay"),
        RETRY,
        timed_out("pay"),
        RETRY,
        timed_out("pay"),
        replied(Refund),
        replied(Release),
        replied("pay", Paid(receipt="p-3"), attempt=2),
        replied(Refund, attempt=2),
        failed("pay", attempt=1),
    ),
    "order-cancelled": lambda: _order(
        "g-4",
        by_ann(),
        by_ann(mode=CancelMode.IMMEDIATE),
        replied("pay", Paid(receipt="p-4")),
        replied(Refund),
        replied(Release),
        by_ann(),
    ),
    "order-stuck-and-skipped": lambda: _order(
        "g-5",
        replied("pay", Paid(receipt="p-5")),
        refused("ship", code="no"),
        refused(Refund, code="no"),
        looked_into(Act.RETRY, "pay"),
        refused(Refund, code="no"),
        looked_into(Act.SKIP, "pay"),
        replied(Release),
    ),
    "order-abandoned": lambda: _order("g-6", by_ann(mode=CancelMode.ABANDON)),
    "trip-completed": lambda: _seated(
        "g-7",
        signalled("approval", {"by": 7}, actor="ann"),
        signalled("approval", {"by": "ann"}, actor="ann"),
        _held("boat"),
        _held("camp"),
        _freed("camp"),
    ),
    "trip-not-approved": lambda: _seated(
        "g-8", timed_out("approval"), _freed("camp"), _freed("inn"), _freed("rail"), _freed("air")
    ),
    "tour-without-a-stay": lambda: _tour(
        "g-10",
        refused("guide", code="no"),
        _held("camp"),
        refused(FreeSeat, step="camp", code="no"),
        looked_into(Act.RETRY, "camp"),
        _freed("camp"),
        _freed("inn"),
        _held("rail"),
    ),
    "tour-cancelled": lambda: _tour(
        "g-11",
        refused("guide", code="no"),
        timed_out("camp"),
        by_ann(),
        _held("rail"),
        *map(_freed, ("camp", "rail", "inn")),
        _held("camp"),
        _freed("camp"),
    ),
    "order-migrated": lambda: _order(
        "g-12",
        failed("pay"),
        migrated_to(own.order_2, steps={"reserve": "hold", "pay": "charge"}, actor="ann"),
        RETRY,
        replied("pay", Paid(receipt="p-12")),
        refused("ship", code="no"),
        replied(Refund),
        replied(Release),
    ),
    "trip-second-choice": lambda: _trip(
        "g-9",
        signalled("approval", {"by": "early"}, actor="ann"),
        _held("rail"),
        _held("air"),
        _held("camp"),
        refused("inn", code="no"),
        after("1m"),
        refused("boat", code="no"),
        _held("bus"),
    ),
}


def recorded(scenario: Scenario) -> list[Entry]:
    """The history of *scenario*, whose trigger came with a trace."""
    first, *others = scenario.history
    assert isinstance(first.body, SagaStarted), first
    return [replace(first, body=replace(first.body, traceparent=TRACEPARENT)), *others]


def main() -> int:
    """Record what is not there yet."""
    for name, script in SCRIPTS.items():
        file = FOLDER / f"{name}.jsonl"
        if file.exists():
            print(f"{file.name} is there already")
            continue
        history = recorded(script())
        file.write_bytes(dump(history))
        print(f"{file.name}: {len(history)} entries, {type(history[-1].body).__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
