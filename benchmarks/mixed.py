"""A mixed load on Kafka and PostgreSQL: functions, machines, graphs, events, children and timers.

Sagas of six kinds run side by side, as many of each. Those of `benchmarks.order` and of
`benchmarks.hearing` are two of them; every tenth order of any kind is refused and undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.driving import Place
from benchmarks.hearing import Load, ParcelDone, ParcelSent, driven, parcel
from benchmarks.order import (
    REFUSED_EVERY,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Reserve,
    order,
    services,
)
from benchmarks.serving import Stop
from benchmarks.timing import Measured, run_fast
from benchmarks.ways import ORDER, Reserving
from saga import Context, Event, Next, SagaApp, contract, machine, saga
from saga.settings import Settings
from saga.wiring import build_service

PROCESSES: Final = ("mixed-orchestrator", "mixed-effects")
PAUSE: Final = "100ms"
KINDS: Final = 6


class MachineAsked(Event, topic="bench-mixed.machine-asked", version=1, key="order_id"):
    order_id: str
    amount: int
    is_shippable: bool


class GraphAsked(Event, topic="bench-mixed.graph-asked", version=1, key="order_id"):
    order_id: str
    amount: int
    is_shippable: bool


class ParentAsked(Event, topic="bench-mixed.parent-asked", version=1, key="order_id"):
    order_id: str
    amount: int
    is_shippable: bool


class TimerAsked(Event, topic="bench-mixed.timer-asked", version=1, key="order_id"):
    order_id: str
    amount: int


@machine(
    "bench-mixed-machine",
    version=1,
    starts_on=MachineAsked,
    transitions=ORDER,
    rolled_back=OrderRejected,
)
def order_machine(asked: MachineAsked) -> Next[Reserving]:
    return Reserving(order=OrderPlaced(**asked.model_dump()))


@saga("bench-mixed-parent", version=1, starts_on=ParentAsked, rolled_back=OrderRejected)
async def parent(ctx: Context, asked: ParentAsked) -> OrderConfirmed:
    """Have an order of its own made by a child."""
    child = OrderPlaced(**asked.model_dump() | {"order_id": f"child-of-{asked.order_id}"})
    confirmed = await ctx.child(child, outcome=OrderConfirmed)
    return OrderConfirmed(order_id=asked.order_id, parcel=confirmed.parcel)


@saga("bench-mixed-timer", version=1, starts_on=TimerAsked, rolled_back=OrderRejected)
async def sleeper(ctx: Context, asked: TimerAsked) -> OrderConfirmed:
    """Sleep, reserve, sleep."""
    await ctx.sleep(PAUSE)
    reserved = await ctx.do(Reserve(order_id=asked.order_id, amount=asked.amount), kind="harmless")
    await ctx.sleep(PAUSE)
    return OrderConfirmed(order_id=asked.order_id, parcel=reserved.reservation)


app = SagaApp(
    sagas=[
        *(order, order_machine, parent, sleeper, parcel),
        contract(Path(__file__).with_suffix(".yaml")),
    ],
    effects=[services],
    contracts=[GraphAsked, OrderConfirmed, OrderRejected],
)


def asked(number: int) -> Event:
    """What starts the saga of this number: of all kinds in turns."""
    name, is_shippable = f"mixed-{number}", number // KINDS % REFUSED_EVERY != 0
    about: dict[str, Any] = {"order_id": name, "amount": 100 + number}
    match number % KINDS:
        case 0:
            return OrderPlaced(**about, is_shippable=is_shippable)
        case 1:
            return MachineAsked(**about, is_shippable=is_shippable)
        case 2:
            return GraphAsked(**about, is_shippable=is_shippable)
        case 3:
            return ParentAsked(**about, is_shippable=is_shippable)
        case 4:
            return TimerAsked(**about)
        case _:
            return ParcelSent(order_id=name)


LOAD: Final = Load(
    app=app, asked=asked, ends=(OrderConfirmed, OrderRejected, ParcelDone), is_apart=True
)


def mixed(place: Place, first: int, sagas: int, in_flight: int) -> Measured:
    """*sagas* at a *place*, numbered from *first*."""
    return run_fast(driven(LOAD, PROCESSES, place, range(first, first + sagas), in_flight))


async def orchestrator(settings: dict[str, Any]) -> Stop:
    return await _started(settings, "orchestrator")


async def effects(settings: dict[str, Any]) -> Stop:
    return await _started(settings, "effects")


async def _started(settings: dict[str, Any], role: str) -> Stop:
    service = build_service(app, Settings.read({}, **settings), roles=[role])
    await service.open()
    return service.stop
