"""A basket that is changed while it is open: each change is answered, or refused."""

import asyncio
import sys

from pydantic import BaseModel

from saga import Context, Event, SagaApp, saga


class BasketOpened(Event, topic="baskets.opened", version=1, key="name"):
    name: str
    room: int = 5


class BasketClosed(Event, topic="baskets.closed", version=1):
    name: str
    items: list[str]


class Change(BaseModel):
    add: str


class Items(BaseModel):
    items: list[str]


@saga("basket", version=1, starts_on=BasketOpened)
async def basket(ctx: Context, opened: BasketOpened) -> BasketClosed:
    items: list[str] = []
    while len(items) < opened.room:
        request = await ctx.update("change", Change)
        if request.payload.add in items:
            request.refuse("twice", f"{request.payload.add} is in it")
            continue
        if request.payload.add == "poison":
            raise KeyError(request.payload.add)
        items.append(request.payload.add)
        ctx.show(items=len(items))
        request.answer(Items(items=items))
    return BasketClosed(name=opened.name, items=items)


@saga("relay", version=1, starts_on=BasketOpened)
async def runs(ctx: Context, opened: BasketOpened) -> None:
    """A run for each change."""
    request = await ctx.update("change", Change)
    request.answer([opened.room, request.payload.add])
    if opened.room > 1:
        await ctx.continue_as_new(BasketOpened(name=opened.name, room=opened.room - 1))


APP = SagaApp(sagas=[basket])
RUNS = SagaApp(sagas=[runs])


async def serve(bus: str, store: str) -> None:
    """Serve until killed, saying when it has begun."""
    async with APP.service(bus=bus, store=store):
        print("serving", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
