"""Undo a part and go on: the first offer that can be booked whole, and nothing of the others."""

import asyncio

from saga import (
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    RollBack,
    SagaApp,
    StepFailed,
    saga,
)


class EveningWanted(Event, topic="town.evening-wanted", version=1, key="evening"):
    evening: str
    days: list[str]


class HoldTable(Intent[None], topic="town.hold-table", version=1):
    evening: str
    day: str


class DropTable(Intent[None], topic="town.drop-table", version=1):
    evening: str
    day: str


class HoldSeats(Intent[None], topic="town.hold-seats", version=1):
    evening: str
    day: str


class DropSeats(Intent[None], topic="town.drop-seats", version=1):
    evening: str
    day: str


class EveningHeld(Event, topic="town.evening-held", version=1):
    evening: str
    day: str


class EveningOff(Event, topic="town.evening-off", version=1):
    evening: str
    reason: str


@saga("scopes", version=1, starts_on=EveningWanted, rolled_back=EveningOff)
async def evening(ctx: Context, wanted: EveningWanted) -> EveningHeld:
    """A day on which one of both is sold out is undone before the next is tried."""
    for day in wanted.days:
        try:
            async with ctx.scope():
                table = HoldTable(evening=wanted.evening, day=day)
                await ctx.do(table, undo=DropTable)
                seats = HoldSeats(evening=wanted.evening, day=day)
                await ctx.do(seats, undo=DropSeats)
        except StepFailed:
            continue
        return EveningHeld(evening=wanted.evening, day=day)
    raise RollBack("everything is sold out", code="sold_out")


town = Effects("scopes-town")


@town.on(HoldTable)
async def hold_table(intent: HoldTable, ctx: EffectContext) -> None:
    print(intent.evening, "table on", intent.day)


@town.on(DropTable)
async def drop_table(intent: DropTable, ctx: EffectContext) -> None:
    print(intent.evening, "no table on", intent.day)


@town.on(HoldSeats)
async def hold_seats(intent: HoldSeats, ctx: EffectContext) -> None:
    if intent.day != "Friday":
        raise Refused(f"no seats on {intent.day}", code="sold_out")


@town.on(DropSeats)
async def drop_seats(intent: DropSeats, ctx: EffectContext) -> None:
    print(intent.evening, "no seats on", intent.day)


app = SagaApp(sagas=[evening], effects=[town])


async def main() -> None:
    """The third day works; of the others nothing is left."""
    async with app.service() as service:
        for name, days in (("e-1", ["Monday", "Tuesday", "Friday"]), ("e-2", ["Monday"])):
            saga_id = await service.start(EveningWanted(evening=name, days=days))
            outcome = await service.outcome(saga_id, timeout=60)
            print(name, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
