"""The measured saga: an order of three steps, every tenth of which is refused at the last.

A second saga stays open. Services keep their inbox and nothing else: the engine is measured.
"""

from __future__ import annotations

from saga.app import SagaApp
from saga.authoring import Context, SagaDefinition, saga
from saga.contracts import Event, Intent
from saga.effects import EffectContext, Effects, Refused

REFUSED_EVERY = 10
ANSWER = "answer"
ANSWER_TIMEOUT = "30d"


class OrderPlaced(Event, topic="bench-orders.order-placed", version=1, key="order_id"):
    order_id: str
    amount: int
    is_shippable: bool


class OrderConfirmed(Event, topic="bench-orders.order-confirmed", version=1):
    order_id: str
    parcel: str


class OrderRejected(Event, topic="bench-orders.order-rejected", version=1):
    order_id: str
    reason: str


class OrderQuestioned(Event, topic="bench-orders.order-questioned", version=1, key="order_id"):
    """A customer is to say whether that is really what is wanted."""

    order_id: str
    amount: int


class OrderCleared(Event, topic="bench-orders.order-cleared", version=1):
    order_id: str
    answer: str


class Reserved(Event, topic="bench-stock.reserved", version=1):
    reservation: str


class Reserve(Intent[Reserved], topic="bench-stock.reserve", version=1):
    order_id: str
    amount: int


class Release(Intent[None], topic="bench-stock.release", version=1):
    order_id: str
    reservation: str | None = None


class Charged(Event, topic="bench-payments.charged", version=1):
    receipt: str


class Charge(Intent[Charged], topic="bench-payments.charge", version=1):
    order_id: str
    amount: int


class Refund(Intent[None], topic="bench-payments.refund", version=1):
    order_id: str
    receipt: str | None = None


class Shipped(Event, topic="bench-parcels.shipped", version=1):
    parcel: str


class Ship(Intent[Shipped], topic="bench-parcels.ship", version=1):
    order_id: str
    is_shippable: bool


@saga("bench-order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """Reserve, charge, ship."""
    reserve = Reserve(order_id=placed.order_id, amount=placed.amount)
    await ctx.do(reserve, undo=Release)
    charge = Charge(order_id=placed.order_id, amount=placed.amount)
    await ctx.do(charge, undo=Refund)
    ship = Ship(order_id=placed.order_id, is_shippable=placed.is_shippable)
    shipped = await ctx.do(ship)
    return OrderConfirmed(order_id=placed.order_id, parcel=shipped.parcel)


@saga("bench-question", version=1, starts_on=OrderQuestioned, rolled_back=OrderRejected)
async def question(ctx: Context, asked: OrderQuestioned) -> OrderCleared:
    """Reserve, then wait for the answer."""
    await ctx.do(Reserve(order_id=asked.order_id, amount=asked.amount), undo=Release)
    answer = await ctx.wait(ANSWER, str, timeout=ANSWER_TIMEOUT)
    return OrderCleared(order_id=asked.order_id, answer=answer)


services = Effects("bench-services")


@services.on(Reserve)
async def reserve(intent: Reserve, ctx: EffectContext) -> Reserved:
    return Reserved(reservation=f"{intent.amount} for {ctx.key}")


@services.on(Release)
async def release(intent: Release, ctx: EffectContext) -> None:
    """Always possible."""


@services.on(Charge)
async def charge(intent: Charge, ctx: EffectContext) -> Charged:
    return Charged(receipt=f"{intent.amount} from {ctx.key}")


@services.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    """Always possible."""


@services.on(Ship)
async def ship(intent: Ship, ctx: EffectContext) -> Shipped:
    if not intent.is_shippable:
        raise Refused("nobody delivers there", code="no_delivery")
    return Shipped(parcel=f"parcel-{ctx.key}")


app = SagaApp(sagas=[order, question], effects=[services])


IDLE_CONTRACTS = 3
"""Of each idle saga; beside them its domain has those that every domain has."""
DOMAIN_CONTRACTS = 4


def app_with(contracts: int) -> SagaApp:
    """The same application, with sagas that nobody starts until it has about so many contracts."""
    missing = contracts - len(app.contracts.contracts) - DOMAIN_CONTRACTS
    idle = [_idle(number) for number in range(missing // IDLE_CONTRACTS)]
    return SagaApp(sagas=[*app.sagas, *idle], effects=app.effects) if idle else app


def _idle(number: int) -> SagaDefinition:
    class Asked(Event, topic=f"bench-idle.asked-{number}", version=1, key="name"):
        name: str

    class Answered(Event, topic=f"bench-idle.answered-{number}", version=1):
        answer: str

    class Answer(Intent[Answered], topic=f"bench-idle.answer-{number}", version=1):
        name: str

    @saga(f"bench-idle-{number}", version=1, starts_on=Asked)
    async def idle(ctx: Context, asked: Asked) -> None:
        await ctx.do(Answer(name=asked.name))

    return idle


def placed(number: int) -> OrderPlaced:
    is_shippable = number % REFUSED_EVERY != 0
    return OrderPlaced(order_id=f"order-{number}", amount=100 + number, is_shippable=is_shippable)
