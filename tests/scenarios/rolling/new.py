"""What the deploy brings: `Fetch` and `Brought` may say more, and version 2 of each saga wraps.

The version that runs already is still here.
"""

from __future__ import annotations

from pathlib import Path

from saga import (
    Acts,
    Context,
    EffectContext,
    Effects,
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
from tests.scenarios.rolling import kept, old
from tests.scenarios.rolling.kept import Brought, Fetch, Wrap
from tests.scenarios.rolling.old import (
    Bring,
    DrawingAsked,
    ErrandAsked,
    Fetched,
    Go,
    PutBack,
    TaskAsked,
    bring,
    done,
    put_back,
    tables,
)


@saga("errand", version=2, starts_on=ErrandAsked)
async def errand(ctx: Context, asked: ErrandAsked) -> Brought:
    fetched = await ctx.do(Fetch(name=asked.name), undo=PutBack)
    await ctx.wait("go", Go)
    await ctx.do(Wrap(name=asked.name), kind="harmless")
    await ctx.do(Bring(name=asked.name))
    return Brought(name=asked.name, what=fetched.what, wrapped=True)


class Fetching(State):
    name: str

    def enter(self) -> Acts:
        return do(Fetch(name=self.name), undo=PutBack)

    def handle(self, event: Fetched) -> Next[Waiting]:
        return Waiting(name=self.name, what=event.what)


class Waiting(State):
    name: str
    what: str

    def handle(self, event: Go) -> Next[Wrapping]:  # the table reads it
        return Wrapping(name=self.name, what=self.what)


class Wrapping(State):
    name: str
    what: str

    def enter(self) -> Acts:
        return do(Wrap(name=self.name), kind="harmless")

    def handle(self, event: StepDone) -> Next[Bringing]:
        return Bringing(name=self.name, what=self.what)


class Bringing(State):
    name: str
    what: str

    def enter(self) -> Acts:
        return do(Bring(name=self.name))

    def handle(self, event: StepDone) -> Next[Done]:
        return Done(), Brought(name=self.name, what=self.what, wrapped=True)


class Done(State): ...


TASK: Transitions = {
    Fetching: {Fetched: Waiting},
    Waiting: {Go: Wrapping},
    Wrapping: {StepDone: Bringing},
    Bringing: {StepDone: Done},
}


@machine("task", version=2, starts_on=TaskAsked, signals={"go": Go}, transitions=TASK)
def task(asked: TaskAsked) -> Next[Fetching]:
    return Fetching(name=asked.name)


carrier = Effects("carrier")
carrier.on_start(tables)
carrier.on(PutBack)(put_back)
carrier.on(Bring)(bring)


@carrier.on(Fetch)
async def fetch(intent: Fetch, ctx: EffectContext) -> Fetched:
    await done(ctx, intent.name, "fetch")
    return Fetched(what=f"what {intent.name} wants")


@carrier.on(Wrap)
async def wrap(intent: Wrap, ctx: EffectContext) -> None:
    await done(ctx, intent.name, "wrap")


app = SagaApp(
    sagas=[
        *(kept.errand, errand, kept.task, task),
        old.drawing,
        contract(Path(__file__).with_name("new.yaml")),
    ],
    effects=[carrier],
    contracts=[DrawingAsked, Brought],
)
