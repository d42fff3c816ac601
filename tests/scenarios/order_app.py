"""Orders as a whole application: reserved, approved and paid, by services with tables of their own.

`python -m tests.scenarios.order_app PATH` serves it on the files in the folder PATH until it is
killed.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from saga import Context, EffectContext, Effects, Refused, Retry, SagaApp, Service, saga
from saga.errors import BusUnavailable
from tests.patience import HANG_S
from tests.toys import (
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Unreserve,
)

AT_ONCE = Retry(attempts=None, initial="10ms", factor=1, jitter=0)


def flawless(place: str) -> None:
    """Code without a flaw."""


def order_saga(*, version: int = 1, flaw: Callable[[str], None] = flawless, nap: str = "700ms"):
    """Reserve, have somebody approve, pay; an order of nothing has a *nap* before.

    *flaw* may raise on the way, as a bug would.
    """

    @saga("order", version=version, starts_on=OrderPlaced, rolled_back=OrderRejected)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        flaw(f"start {placed.order_id}")
        reserved = await ctx.do(
            Reserve(order_id=placed.order_id), undo=Unreserve, retry=AT_ONCE, timeout="10m"
        )
        flaw(f"reserved {placed.order_id}")
        if placed.wants_approval:
            await ctx.wait("approval", str, timeout="1h")
        if placed.amount == 0:
            await ctx.sleep(nap)
        pay = Pay(order_id=placed.order_id, amount=placed.amount)
        await ctx.do(pay, undo=Refund, retry=AT_ONCE, timeout="10m")
        return OrderConfirmed(order_id=placed.order_id, shelf=reserved.shelf)

    return order


def services() -> list[Effects]:
    """Stock and wallets, which count every effect in a table."""
    stock, wallets = Effects("stock"), Effects("wallets")

    @stock.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS effects (what TEXT, order_id TEXT)")

    @stock.on(Reserve)
    async def reserve(intent: Reserve, ctx: EffectContext) -> Reserved:
        await ctx.db.execute("INSERT INTO effects VALUES ('reserve', :order)", order=ctx.key)
        return Reserved(shelf=f"s-{intent.order_id}")

    @stock.on(Unreserve)
    async def unreserve(intent: Unreserve, ctx: EffectContext) -> None:
        await ctx.db.execute("INSERT INTO effects VALUES ('unreserve', :order)", order=ctx.key)

    @wallets.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if intent.amount > 500:
            raise Refused("over the limit", code="limit")
        ctx.db.execute("INSERT INTO effects VALUES ('pay', :order)", order=ctx.key)
        return Paid(receipt=f"r-{intent.order_id}")

    @wallets.on(Refund)
    def refund(intent: Refund, ctx: EffectContext) -> None:
        ctx.db.execute("INSERT INTO effects VALUES ('refund', :order)", order=ctx.key)

    return [stock, wallets]


def app(*sagas, with_services: bool = True) -> SagaApp:
    """The application; with other sagas than the usual one if there are any."""
    return SagaApp(
        sagas=sagas or [order_saga()],
        effects=services() if with_services else [],
        contracts=[Reserve, Unreserve, Pay, Refund],
    )


def addresses(folder: Path, *, is_apart: bool = False) -> dict[str, str]:
    """Where everything is, as settings: bus and store in one file, or apart."""
    bus = "bus.db" if is_apart else "saga.db"
    return {"bus": f"local:///{folder}/{bus}", "store": f"sqlite:///{folder}/saga.db"}


def service(folder: Path, *sagas, is_apart: bool = False, with_services=True, **settings):
    """The service of this process on the files in *folder*."""
    settings = addresses(folder, is_apart=is_apart) | {"early_hold": "2m"} | settings
    return app(*sagas, with_services=with_services).service(**settings)


async def serve(folder: Path, *, is_apart: bool) -> None:
    """Serve until killed, saying when it has begun."""
    async with service(folder, is_apart=is_apart) as running:
        assert isinstance(running, Service)
        print("serving", flush=True)
        await running.wait()


async def run_orders(service, numbers: range) -> Counter[str]:
    """How they ended."""
    sagas = []
    for number in numbers:
        event = OrderPlaced(order_id=f"o-{number}", amount=501 if number % 5 == 0 else 10)
        prepared = service.publisher.writer.record(event)
        while True:
            try:
                await service.publisher.send([prepared])
                break
            except BusUnavailable:
                continue  # as a publisher would: again, under the same id
        sagas.append(prepared.saga_id)
    outcomes = [await service.outcome(saga, timeout=HANG_S) for saga in sagas]
    return Counter(outcome.status.value for outcome in outcomes)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), is_apart=sys.argv[2:] == ["apart"]))
