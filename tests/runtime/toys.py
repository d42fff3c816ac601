"""The toys of the runtime: events in two versions, orders, ledgers of the same events, alarms.

`tests.toys` has one version of each contract; the runtime has to read older ones too.
"""

from collections.abc import Callable

from saga import Context, Event, Intent, upcast
from saga.authoring import SagaDefinition, saga
from saga.core.retry import ONCE


class OrderPlacedV1(Event, topic="toys.order-placed", version=1, key="order_id"):
    order_id: str


class OrderPlaced(Event, topic="toys.order-placed", version=2, key="order_id"):
    order_id: str
    amount: int


class ReservedV1(Event, topic="toys.reserved", version=1):
    place: str


class Reserved(Event, topic="toys.reserved", version=2):
    shelf: str


class Reserve(Intent[Reserved], topic="toys.reserve", version=1):
    order_id: str
    note: str = ""


class Unreserve(Intent[None], topic="toys.unreserve", version=1):
    order_id: str
    shelf: str | None = None


class Ship(Intent[None], topic="toys.ship", version=1):
    order_id: str


class OrderDone(Event, topic="toys.order-done", version=1):
    order_id: str
    shelf: str


class OrderFailed(Event, topic="toys.order-failed", version=1):
    order_id: str
    reason: str


class Booked(Event, topic="toys.booked", version=1):
    order_id: str


class AlarmSet(Event, topic="toys.alarm-set", version=1, key="name"):
    name: str


@upcast
def with_amount(old: OrderPlacedV1) -> OrderPlaced:
    """Orders of the first version were of one piece."""
    return OrderPlaced(order_id=old.order_id, amount=1)


@upcast
def shelf_of(old: ReservedV1) -> Reserved:
    return Reserved(shelf=old.place)


def flawless(place: str, subject: str) -> None:
    """Code without a flaw."""


def orders(
    *, version: int = 1, flaw: Callable[[str, str], None] = flawless, note: str = ""
) -> SagaDefinition:
    """Reserve, then ship. *flaw* is called on the way, and may raise as a bug would."""

    @saga("order", version=version, starts_on=OrderPlaced, rolled_back=OrderFailed)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderDone:
        flaw("start", placed.order_id)
        reserve = Reserve(order_id=placed.order_id, note=note)
        reserved = await ctx.do(reserve, undo=Unreserve, retry=ONCE)
        flaw("reserved", reserved.shelf)
        await ctx.do(Ship(order_id=placed.order_id), retry=ONCE)
        return OrderDone(order_id=placed.order_id, shelf=reserved.shelf)

    return order


@saga("ledger", version=1, starts_on=OrderPlaced)
async def ledger(ctx: Context, placed: OrderPlaced) -> Booked:
    first = await ctx.wait("stamp", str)
    second = await ctx.wait("stamp", str)
    return Booked(order_id=f"{first} {second}")


def alarms(*, flaw: Callable[[str, str], None] = flawless) -> SagaDefinition:
    """Sleeps for a minute, then waits for somebody for a minute."""

    @saga("alarm", version=1, starts_on=AlarmSet)
    async def alarm(ctx: Context, asked: AlarmSet) -> Booked:
        await ctx.sleep("60s")
        flaw("woken", asked.name)
        said = await ctx.wait("stop", str, timeout="60s")
        return Booked(order_id=said)

    return alarm
