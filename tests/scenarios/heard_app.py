"""Parcels that are heard of from elsewhere, and baskets that are changed while they are open.

`python -m tests.scenarios.heard_app BUS STORE NAMESPACE` serves them until it is killed.
"""

import asyncio
import sys

from saga import Context, Event, SagaApp, on, saga
from tests.scenarios.update_app import basket


class ParcelSent(Event, topic="heard.parcel-sent", version=1, key="order_id"):
    order_id: str


class PickedUp(Event, topic="carrier.picked-up", version=1, key="parcel"):
    """Travels under the parcel's key, so often through another worker than the order's records."""

    parcel: str
    order_id: str


class Delivered(Event, topic="carrier.delivered", version=1, key="order_id"):
    order_id: str
    place: str


class ParcelDone(Event, topic="heard.parcel-done", version=1, key="order_id"):
    order_id: str
    parcel: str
    place: str


@saga(
    "parcel",
    version=1,
    starts_on=ParcelSent,
    listens=(on(PickedUp, key="order_id", early="10m"), on(Delivered, early="10m")),
)
async def parcel(ctx: Context, sent: ParcelSent) -> ParcelDone:
    picked_up = await ctx.next(PickedUp, where=lambda event: event.parcel.startswith("p-"))
    delivered = await ctx.next(Delivered)
    return ParcelDone(order_id=sent.order_id, parcel=picked_up.parcel, place=delivered.place)


APP = SagaApp(sagas=[parcel, basket])


async def serve(bus: str, store: str, namespace: str) -> None:
    """Serve until killed, saying when it has begun."""
    async with APP.service(bus=bus, store=store, namespace=namespace):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
