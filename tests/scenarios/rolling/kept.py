"""Version 1 of function and machine, as the new release has it: with its contracts.

Of the function it was changed as well, with a patch: what began before it goes on as it began.
"""

from __future__ import annotations

from saga import Acts, Context, Event, Intent, Next, State, StepDone, Transitions, do, machine, saga
from tests.scenarios.rolling.old import Bring, ErrandAsked, Fetched, Go, PutBack, TaskAsked


class Fetch(Intent[Fetched], topic="rolling.fetch", version=1):
    name: str
    note: str | None = None


class Wrap(Intent[None], topic="rolling.wrap", version=1):
    name: str


class Brought(Event, topic="rolling.brought", version=1, key="name"):
    name: str
    what: str
    wrapped: bool | None = None


@saga("errand", version=1, starts_on=ErrandAsked)
async def errand(ctx: Context, asked: ErrandAsked) -> Brought:
    fetched = await ctx.do(Fetch(name=asked.name), undo=PutBack)
    await ctx.wait("go", Go)
    if ctx.patched("wrapped"):
        await ctx.do(Wrap(name=asked.name), kind="harmless")
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

    def handle(self, event: Go) -> Next[Bringing]:
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
