"""A loop over items: failures are caught one by one, and the report has both lists."""

import asyncio

from pydantic import BaseModel

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, StepFailed, saga


class BatchArrived(Event, topic="mill.batch-arrived", version=1, key="batch"):
    batch: str
    items: list[int]


class Processed(Event, topic="mill.processed", version=1):
    result: int


class Process(Intent[Processed], topic="mill.process", version=1):
    item: int


class Failure(BaseModel):
    item: int
    error: str


class BatchDone(Event, topic="mill.batch-done", version=1):
    batch: str
    results: list[int]
    failures: list[Failure]


@saga("loop", version=1, starts_on=BatchArrived)
async def batch(ctx: Context, arrived: BatchArrived) -> BatchDone:
    """One item after another; a refused one does not stop the rest."""
    results: list[int] = []
    failures: list[Failure] = []
    for item in arrived.items:
        try:
            done = await ctx.do(Process(item=item), kind="harmless")
        except StepFailed as error:
            failures.append(Failure(item=item, error=error.message))
        else:
            results.append(done.result)
    return BatchDone(batch=arrived.batch, results=results, failures=failures)


mill = Effects("loop-mill")


@mill.on(Process)
async def process(intent: Process, ctx: EffectContext) -> Processed:
    if intent.item < 0:
        raise Refused(f"{intent.item} is negative", code="negative")
    return Processed(result=intent.item**2)


app = SagaApp(sagas=[batch], effects=[mill])


async def main() -> None:
    """Four items, one of which is refused."""
    async with app.service() as service:
        saga_id = await service.start(BatchArrived(batch="b-1", items=[1, 2, -3, 4]))
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
