"""`try` and `except` around a step: by code, with another way, or told to people and raised."""

import asyncio

from saga import (
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    Retry,
    SagaApp,
    StepFailed,
    saga,
)


class ImportWanted(Event, topic="port.import-wanted", version=1, key="file"):
    file: str


class Imported(Event, topic="port.imported", version=1):
    rows: int


class Import(Intent[Imported], topic="port.import", version=1):
    file: str


class Remove(Intent[None], topic="port.remove", version=1):
    file: str


class Complain(Intent[None], topic="port.complain", version=1):
    file: str
    problem: str


class Queue(Intent[None], topic="port.queue", version=1):
    file: str


class Alert(Intent[None], topic="port.alert", version=1):
    problem: str


class ImportEnded(Event, topic="port.import-ended", version=1):
    file: str
    result: str


class ImportFailed(Event, topic="port.import-failed", version=1):
    file: str
    reason: str


@saga("error-handling", version=1, starts_on=ImportWanted, rolled_back=ImportFailed)
async def imports(ctx: Context, wanted: ImportWanted) -> ImportEnded:
    """What is invalid is told back, what is away is queued, the rest is somebody's to look at."""
    file, policy = wanted.file, Retry(attempts=2, initial="50ms")
    try:
        done = await ctx.do(Import(file=file), undo=Remove, retry=policy, timeout="30s")
    except StepFailed as error:
        match error.code:
            case "invalid":
                problem = f"{error.message}: {error.details}"
                await ctx.do(Complain(file=file, problem=problem), kind="harmless")
                return ImportEnded(file=file, result="told back")
            case "away":
                await ctx.do(Queue(file=file), kind="harmless")
                return ImportEnded(file=file, result="queued")
            case _:
                await ctx.do(Alert(problem=error.message), kind="harmless")
                raise
    return ImportEnded(file=file, result=f"{done.rows} rows")


port = Effects("error-handling-port")


@port.on(Import)
async def import_file(intent: Import, ctx: EffectContext) -> Imported:
    match intent.file:
        case "bad.csv":
            raise Refused("not what was agreed", code="invalid", details={"line": 3})
        case "far.csv":
            raise Refused("the share is away", code="away")
        case "odd.csv":
            raise RuntimeError("nobody thought of this")
    return Imported(rows=12)


@port.on(Remove)
async def remove(intent: Remove, ctx: EffectContext) -> None:
    print("nothing is left of", intent.file)


@port.on(Complain)
async def complain(intent: Complain, ctx: EffectContext) -> None:
    print(f"to the sender of {intent.file}: {intent.problem}")


@port.on(Queue)
async def queue(intent: Queue, ctx: EffectContext) -> None:
    print("later:", intent.file)


@port.on(Alert)
async def alert(intent: Alert, ctx: EffectContext) -> None:
    print("on call:", intent.problem)


app = SagaApp(sagas=[imports], effects=[port])


async def main() -> None:
    """A file for each way."""
    async with app.service() as service:
        files = ["good.csv", "bad.csv", "far.csv", "odd.csv"]
        sagas = [await service.start(ImportWanted(file=file)) for file in files]
        for file, saga_id in zip(files, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(file, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
