"""Orders in a process that kills itself where a batch of turns is committed, or just before.

`python -m tests.scenarios.struck_turns PLACES POINT` serves them on PLACES, which are settings as
JSON, and does to them what leads to POINT.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any, Final, NamedTuple

from saga import Context, EffectContext, Effects, SagaApp, saga
from saga.adapters.postgres import PostgresEventStore
from saga.adapters.sqlite import SqliteEventStore
from saga.contracts import CommandAct
from saga.core.events import Paused, Resumed
from saga.core.identity import SagaId, saga_id
from saga.core.intents import Continued
from saga.ports import Batch
from saga.runtime import pauses
from saga.service import Service
from tests.patience import HANG_S
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay

ORDERS: Final = 12
RUNS: Final = 5
FIRST_SAGAS: Final = 5
"""So many sagas are paused, or go on, in the first batch, so that a strike finds others."""
PAUSE, RESUME = "pause-1", "resume-1"


class Point(NamedTuple):
    """Before or behind the commit of the *number*-th batch that says *what*."""

    what: Callable[[Batch], bool]
    is_before: bool = False
    number: int = 1


def _has(kind: type) -> Callable[[Batch], bool]:
    return lambda batch: any(
        isinstance(entry.body, kind) for history in batch.histories for entry in history.entries
    )


def _is_act(act: CommandAct) -> Callable[[Batch], bool]:
    return lambda batch: any(f'"{act.value}"' in row.told for row in batch.pauses)


RUN_POINTS: Final = {
    "a run's end is not stored": Point(_has(Continued), is_before=True, number=2),
    "a run's end is stored": Point(_has(Continued), number=2),
}
"""Behind the second one the first step of the third run is stored, and is not published."""
PAUSE_POINTS: Final = {
    "the pause's row is not stored": Point(_is_act(CommandAct.PAUSE), is_before=True),
    "the pause's row is stored": Point(_is_act(CommandAct.PAUSE)),
    "some histories say that they are paused": Point(_has(Paused)),
    "the resume's row is stored": Point(_is_act(CommandAct.RESUME)),
    "some histories go on": Point(_has(Resumed)),
    "others are about to go on": Point(_has(Resumed), is_before=True, number=2),
}


def strike_at(point: Point) -> None:
    """Have the event store kill this process there, without a word to anybody."""
    for store in (SqliteEventStore, PostgresEventStore):
        _strike_in(store, point)


def _strike_in(store: Any, point: Point) -> None:
    append, numbers = store.append, count(1)

    async def struck(self: Any, batch: Batch, **options: Any) -> Any:
        is_there = point.what(batch) and next(numbers) == point.number
        if is_there and point.is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        appended = await append(self, batch, **options)
        if is_there:
            os.kill(os.getpid(), signal.SIGKILL)
        return appended

    store.append = struck


def app() -> SagaApp:
    """Orders paid piece by piece, a run each, and orders that wait between two payments."""
    shop = Effects("shop")

    @shop.on_start
    async def make_tables(db: Any) -> None:
        await db.execute("CREATE TABLE IF NOT EXISTS paid (order_id TEXT, amount INTEGER)")

    @shop.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        values = {"order_id": intent.order_id, "amount": intent.amount}
        await ctx.db.execute("INSERT INTO paid VALUES (:order_id, :amount)", **values)
        return Paid()

    @saga("order", version=1, starts_on=OrderPlaced)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        await ctx.do(Pay(order_id=placed.order_id, amount=placed.amount))
        if placed.wants_approval:
            await ctx.wait("go")
            await ctx.do(Pay(order_id=placed.order_id, amount=0), id="rest")
        elif placed.amount > 1:
            less = placed.model_copy(update={"amount": placed.amount - 1})
            return await ctx.continue_as_new(less)
        return OrderConfirmed(order_id=placed.order_id)

    return SagaApp(sagas=[order], effects=[shop])


def orders() -> list[SagaId]:
    return [saga_id("order", f"o-{number}") for number in range(ORDERS)]


async def place(service: Service, *, waits: bool) -> None:
    for number in range(ORDERS):
        placed = OrderPlaced(order_id=f"o-{number}", amount=RUNS, wants_approval=waits)
        await service.publish(placed, message_id=f"m-{number}")


async def pause(service: Service) -> None:
    said = {"command_id": PAUSE, "reason": "a bad release"}
    await service.commands.send_to_all("order", CommandAct.PAUSE, **said)
    assert (await service.receipt("order", PAUSE, timeout=HANG_S)).accepted


async def resume(service: Service) -> None:
    said = {"command_id": RESUME, "reason": "mended"}
    await service.commands.send_to_all("order", CommandAct.RESUME, **said)
    assert (await service.receipt("order", RESUME, timeout=HANG_S)).accepted


async def approve(service: Service, first: int = 0, end: int = ORDERS) -> None:
    """Under ids of their own, so that whoever does it again does nothing."""
    for number, order in list(enumerate(orders()))[first:end]:
        said = {"command_id": f"go-{number}", "name": "go"}
        await service.command(order, CommandAct.SIGNAL, **said)


async def serve(places: dict[str, str], point: str) -> None:
    async with app().service(**places) as service:
        await place(service, waits=point in PAUSE_POINTS)
        if point in PAUSE_POINTS:
            await service.idle(timeout=HANG_S)
            await pause(service)
            for first, end in ((0, FIRST_SAGAS), (FIRST_SAGAS, ORDERS)):
                await approve(service, first, end)
                await service.idle(timeout=HANG_S)
            await resume(service)
        await service.wait()


if __name__ == "__main__":
    pauses.PAGE_SAGAS_MAX, pauses.PAGES_A_SWEEP = FIRST_SAGAS, 1  # type: ignore[misc]
    strike_at((RUN_POINTS | PAUSE_POINTS)[sys.argv[2]])
    asyncio.run(serve(json.loads(sys.argv[1]), sys.argv[2]))
