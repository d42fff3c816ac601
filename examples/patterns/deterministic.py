"""Time, chance and flags: from the context, or from a service whose answer is recorded."""

import asyncio
import os
import random

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga


class DrawWanted(Event, topic="lottery.draw-wanted", version=1, key="draw"):
    draw: str


class Drawn(Event, topic="lottery.drawn", version=1):
    number: float
    has_bonus: bool


class Draw(Intent[Drawn], topic="lottery.draw", version=1):
    """What must not be in a saga's function: a draw and a look at the surroundings."""

    draw: str


class Pay(Intent[None], topic="lottery.pay", version=1):
    ticket: str
    prize: int


class DrawDone(Event, topic="lottery.draw-done", version=1):
    draw: str
    ticket: str
    at: str
    prize: int


@saga("deterministic", version=1, starts_on=DrawWanted)
async def draw(ctx: Context, wanted: DrawWanted) -> DrawDone:
    """However often it is run again, it takes the way that it took first."""
    ticket, at = str(ctx.uuid()), ctx.now().isoformat()
    drawn = await ctx.do(Draw(draw=wanted.draw), kind="read_only")
    prize = 100 if drawn.number > 0.5 else 10
    if ctx.random() > 0.5:
        prize += 1
    if drawn.has_bonus:
        prize *= 2
    await ctx.do(Pay(ticket=ticket, prize=prize))
    return DrawDone(draw=wanted.draw, ticket=ticket, at=at, prize=prize)


lottery = Effects("deterministic-lottery")


@lottery.on(Draw)
async def draw_number(intent: Draw, ctx: EffectContext) -> Drawn:
    return Drawn(number=random.random(), has_bonus=bool(os.environ.get("BONUS")))


@lottery.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> None:
    print(f"{intent.prize} for {intent.ticket}")


app = SagaApp(sagas=[draw], effects=[lottery])


async def main() -> None:
    """One draw."""
    async with app.service() as service:
        saga_id = await service.start(DrawWanted(draw="d-1"))
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
