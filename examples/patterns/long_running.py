"""A saga without an end in sight goes on in runs, so that what is brought back stays short."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga

ROUNDS_A_RUN = 3


class MeterInstalled(Event, topic="meters.meter-installed", version=1, key="meter"):
    meter: str
    rounds: int
    total: int = 0
    pause: str = "1d"


class Reading(Event, topic="meters.reading", version=1):
    units: int


class Read(Intent[Reading], topic="meters.read", version=1):
    meter: str
    round: int


class MeterRetired(Event, topic="meters.meter-retired", version=1):
    meter: str
    total: int


@saga("long-running", version=1, starts_on=MeterInstalled)
async def meter(ctx: Context, installed: MeterInstalled) -> MeterRetired:
    """Three readings a run; the next run is told what the saga has to know, and nothing else."""
    total, left = installed.total, installed.rounds
    for _ in range(min(ROUNDS_A_RUN, left)):
        reading = await ctx.do(Read(meter=installed.meter, round=left), kind="read_only")
        total, left = total + reading.units, left - 1
        await ctx.sleep(installed.pause)
    if left:
        changes = {"meter": ctx.key, "rounds": left, "total": total}
        await ctx.continue_as_new(installed.model_copy(update=changes))
    return MeterRetired(meter=installed.meter, total=total)


meters = Effects("long-running-meters")


@meters.on(Read)
async def read(intent: Read, ctx: EffectContext) -> Reading:
    return Reading(units=intent.round)


app = SagaApp(sagas=[meter], effects=[meters])


async def main() -> None:
    """Eight rounds in three runs: one saga, one outcome."""
    async with app.service() as service:
        saga_id = await service.start(MeterInstalled(meter="m-1", rounds=8, pause="100ms"))
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
