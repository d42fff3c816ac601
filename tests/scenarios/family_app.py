"""Orders and their parcels, as two applications that share nothing but a bus.

`python -m tests.scenarios.family_app orders|parcels FOLDER BUS NAMESPACE STORES` serves one of them
until it is killed, on files of its own in FOLDER, or on its database of STORES.
"""

import asyncio
import json
import sys
from pathlib import Path

from saga import Context, EffectContext, Effects, Event, Intent, Refused, Retry, SagaApp, saga

AT_ONCE = Retry(attempts=None, initial="10ms", factor=1, jitter=0)


class OrderPlaced(Event, topic="family.order-placed", version=1, key="order_id"):
    order_id: str
    is_paid: bool


class OrderRejected(Event, topic="family.order-rejected", version=1):
    order_id: str


class ParcelAsked(Event, topic="family.parcel-asked", version=1, key="parcel_id"):
    parcel_id: str


class ParcelPacked(Event, topic="family.parcel-packed", version=1):
    parcel_id: str


class ParcelUnpacked(Event, topic="family.parcel-unpacked", version=1):
    parcel_id: str


class Pay(Intent[None], topic="money.pay", version=1):
    order_id: str
    is_paid: bool


class Pack(Intent[None], topic="boxes.pack", version=1):
    parcel_id: str


class Unpack(Intent[None], topic="boxes.unpack", version=1):
    parcel_id: str


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> None:
    """Two parcels side by side, and then the money."""
    await ctx.all(
        *(
            ctx.child(ParcelAsked(parcel_id=f"{placed.order_id}-{side}"), outcome=ParcelPacked)
            for side in ("a", "b")
        )
    )
    pay = Pay(order_id=placed.order_id, is_paid=placed.is_paid)
    await ctx.do(pay, retry=AT_ONCE, timeout="10m")


@saga("parcel", version=1, starts_on=ParcelAsked, rolled_back=ParcelUnpacked)
async def parcel(ctx: Context, asked: ParcelAsked) -> ParcelPacked:
    pack = Pack(parcel_id=asked.parcel_id)
    await ctx.do(pack, undo=Unpack, retry=AT_ONCE, timeout="10m")
    return ParcelPacked(parcel_id=asked.parcel_id)


def orders() -> SagaApp:
    """It knows the events that start and end a parcel, and nothing else of parcels."""
    money = Effects("money")

    @money.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> None:
        if not intent.is_paid:
            raise Refused("no money", code="money")

    return SagaApp(sagas=[order], effects=[money], contracts=[ParcelAsked, ParcelPacked])


def parcels() -> SagaApp:
    boxes = Effects("boxes")

    @boxes.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS effects (what TEXT, order_id TEXT)")

    @boxes.on(Pack)
    async def pack(intent: Pack, ctx: EffectContext) -> None:
        await ctx.db.execute("INSERT INTO effects VALUES ('pack', :parcel)", parcel=ctx.key)

    @boxes.on(Unpack)
    async def unpack(intent: Unpack, ctx: EffectContext) -> None:
        await ctx.db.execute("INSERT INTO effects VALUES ('unpack', :parcel)", parcel=ctx.key)

    return SagaApp(sagas=[parcel], effects=[boxes])


APPLICATIONS = {"orders": orders, "parcels": parcels}


def settings(name: str, folder: Path, bus: str, namespace: str, stores: str = "") -> dict[str, str]:
    """Of one application; *stores* is JSON: of each its database, where that is no file."""
    own = folder / name
    own.mkdir(exist_ok=True)
    store = json.loads(stores)[name] if stores else f"sqlite:///{own}/saga.db"
    effects_store = f"sqlite:///{own}/saga-effects.db"
    return {"bus": bus, "namespace": namespace, "store": store, "effects_store": effects_store}


async def serve(name: str, folder: Path, *places: str) -> None:
    """Serve until killed, saying how far it has come."""
    app = APPLICATIONS[name]()
    async with app.service(**settings(name, folder, *places)) as running:
        print("ready", flush=True)
        await running.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
