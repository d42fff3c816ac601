"""What runs before the deploy. Each saga fetches, waits until it may go on, and brings."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from saga import (
    Acts,
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Next,
    SagaApp,
    State,
    StepDone,
    Transitions,
    contract,
    do,
    machine,
    saga,
)


class ErrandAsked(Event, topic="rolling.errand-asked", version=1, key="name"):
    name: str


class TaskAsked(Event, topic="rolling.task-asked", version=1, key="name"):
    name: str


class DrawingAsked(Event, topic="rolling.drawing-asked", version=1, key="name"):
    name: str


class Fetched(Event, topic="rolling.fetched", version=1):
    what: str


class Fetch(Intent[Fetched], topic="rolling.fetch", version=1):
    name: str


class PutBack(Intent[None], topic="rolling.put-back", version=1):
    name: str
    what: str | None = None


class Bring(Intent[None], topic="rolling.bring", version=1):
    name: str


class Brought(Event, topic="rolling.brought", version=1, key="name"):
    name: str
    what: str


class Go(BaseModel): ...


@saga("errand", version=1, starts_on=ErrandAsked)
async def errand(ctx: Context, asked: ErrandAsked) -> Brought:
    fetched = await ctx.do(Fetch(name=asked.name), undo=PutBack)
    await ctx.wait("go", Go)
    await ctx.do(Bring(name=asked.name))
    return Brought(name=asked.name, what=fetched.what)


class Fetching(State):
    name: str

    def enter(self) -> Acts:
        return do(Fetch(name=self.name), undo=PutBack)

    def handle(self, event: Fetched) -> Next[Waiting]:
        return Waiting(name=self.name, what=event.what)


class Waiting(State):
    name: str
    what: str

    def handle(self, event: Go) -> Next[Bringing]:  # the table reads it
        return Bringing(name=self.name, what=self.what)


class Bringing(State):
    name: str
    what: str

    def enter(self) -> Acts:
        return do(Bring(name=self.name))

    def handle(self, event: StepDone) -> Next[Done]:
        return Done(), Brought(name=self.name, what=self.what)


class Done(State): ...


TASK: Transitions = {
    Fetching: {Fetched: Waiting},
    Waiting: {Go: Bringing},
    Bringing: {StepDone: Done},
}


@machine("task", version=1, starts_on=TaskAsked, signals={"go": Go}, transitions=TASK)
def task(asked: TaskAsked) -> Next[Fetching]:
    return Fetching(name=asked.name)


drawing = contract(Path(__file__).with_name("old.yaml"))
carrier = Effects("carrier")


@carrier.on_start
async def tables(db: object) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS done (name text, step text)")  # type: ignore[attr-defined]


async def done(ctx: EffectContext, name: str, step: str) -> None:
    """Write it down: a row for each time that it is done."""
    await ctx.db.execute("INSERT INTO done VALUES (:name, :step)", name=name, step=step)


@carrier.on(Fetch)
async def fetch(intent: Fetch, ctx: EffectContext) -> Fetched:
    await done(ctx, intent.name, "fetch")
    return Fetched(what=f"what {intent.name} wants")


@carrier.on(PutBack)
async def put_back(intent: PutBack, ctx: EffectContext) -> None:
    await done(ctx, intent.name, "put back")


@carrier.on(Bring)
async def bring(intent: Bring, ctx: EffectContext) -> None:
    await done(ctx, intent.name, "bring")


ASKED = (ErrandAsked, TaskAsked, DrawingAsked)
app = SagaApp(sagas=[errand, task, drawing], effects=[carrier], contracts=[DrawingAsked, Brought])
