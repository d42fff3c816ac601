"""One loan in two versions, written as a function, a machine and a graph.

The second one calls things otherwise, and reminds the reader at the end.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from saga import (
    Acts,
    Context,
    Event,
    Intent,
    Next,
    State,
    StepDone,
    TimedOut,
    contract,
    do,
    machine,
    saga,
)
from saga.core.values import value


class Wanted(Event, topic="loans.wanted", version=1, key="loan"):
    loan: str = "l-1"


class Fetched(Event, topic="loans.fetched", version=1):
    shelf: str = "s-1"


class Fetch(Intent[Fetched], topic="loans.fetch", version=1):
    loan: str


class PutBack(Intent[None], topic="loans.put-back", version=1):
    loan: str
    shelf: str | None = None


class Remind(Intent[None], topic="loans.remind", version=1):
    loan: str


class Lent(Event, topic="loans.lent", version=1):
    loan: str


class PickUp(BaseModel):
    card: str = ""


@saga("loan", version=1, starts_on=Wanted)
async def function_1(ctx: Context, wanted: Wanted) -> Lent:
    await ctx.do(Fetch(loan=wanted.loan), undo=PutBack)
    await ctx.wait("pick-up", PickUp, timeout="3d")
    return Lent(loan=wanted.loan)


@saga("loan", version=2, starts_on=Wanted)
async def function_2(ctx: Context, wanted: Wanted) -> Lent:
    await ctx.do(Fetch(loan=wanted.loan), undo=PutBack, id="bring")
    await ctx.wait("pick-up", PickUp, timeout="3d")
    await ctx.do(Remind(loan=wanted.loan), id="remind")
    return Lent(loan=wanted.loan)


class Fetching(State):
    wanted: Wanted

    def enter(self) -> Acts:
        return do(Fetch(loan=self.wanted.loan), undo=PutBack)

    def handle(self, event: Fetched) -> Next[Waiting]:
        return Waiting(wanted=self.wanted)


class Waiting(State, timeout="3d"):
    wanted: Wanted

    def handle(self, event: PickUp | TimedOut) -> Next[Out | Missed]:
        match event:
            case PickUp():
                return Out(), Lent(loan=self.wanted.loan)
            case TimedOut():
                return Missed()


class Out(State): ...


class Missed(State, rolls_back=True): ...


@machine(
    "loan",
    version=1,
    starts_on=Wanted,
    signals={"pick-up": PickUp},
    transitions={Fetching: {Fetched: Waiting}, Waiting: {PickUp: Out, TimedOut: Missed}},
)
def machine_1(wanted: Wanted) -> Next[Fetching]:
    return Fetching(wanted=wanted)


class Bringing(State):
    wanted: Wanted

    def enter(self) -> Acts:
        return do(Fetch(loan=self.wanted.loan), undo=PutBack, id="bring")

    def handle(self, event: Fetched) -> Next[Kept]:
        return Kept(wanted=self.wanted)


class Kept(State, timeout="3d"):
    wanted: Wanted

    def handle(self, event: PickUp | TimedOut) -> Next[Reminding | Missed]:
        match event:
            case PickUp():
                return Reminding(wanted=self.wanted)
            case TimedOut():
                return Missed()


class Reminding(State):
    wanted: Wanted

    def enter(self) -> Acts:
        return do(Remind(loan=self.wanted.loan), id="remind")

    def handle(self, event: StepDone) -> Next[Out]:
        return Out(), Lent(loan=self.wanted.loan)


@machine(
    "loan",
    version=2,
    starts_on=Wanted,
    signals={"pick-up": PickUp},
    transitions={
        Bringing: {Fetched: Kept},
        Kept: {PickUp: Reminding, TimedOut: Missed},
        Reminding: {StepDone: Out},
    },
)
def machine_2(wanted: Wanted) -> Next[Bringing]:
    return Bringing(wanted=wanted)


GRAPH_1 = """
name: loan
version: 1
outcome: {event: loans.lent}
signals:
  pick-up: {card: str}
nodes:
  - {node_id: wanted, event_pattern: ["loans.wanted.*"]}
  - {node_id: fetch, depends_on: [wanted], intent: loans.fetch, undo: loans.put-back}
  - {node_id: collect, depends_on: [fetch], signal: pick-up, timeout: 3d}
"""
GRAPH_2 = """
name: loan
version: 2
outcome: {event: loans.lent}
signals:
  pick-up: {card: str}
nodes:
  - {node_id: wanted, event_pattern: ["loans.wanted.*"]}
  - {node_id: bring, depends_on: [wanted], intent: loans.fetch, undo: loans.put-back}
  - {node_id: handed, depends_on: [bring], signal: pick-up, timeout: 3d}
  - {node_id: remind, depends_on: [handed], intent: loans.remind}
"""
CONTRACTS = [Wanted, Fetch, PutBack, Remind, Lent]


@value
class Loan:
    """Both versions, and the names that changed between them."""

    first: object
    second: object
    steps: dict[str, str]


WAYS = ("function", "machine", "graph")


def loan_as(way: str, folder: Path) -> Loan:
    if way == "function":
        return Loan(function_1, function_2, {"fetch": "bring"})
    if way == "machine":
        steps = {"fetch": "bring", "Fetching": "Bringing", "Waiting": "Kept"}
        return Loan(machine_1, machine_2, steps)
    files = {folder / "1.yaml": GRAPH_1, folder / "2.yaml": GRAPH_2}
    for file, text in files.items():
        file.write_text(text)
    return Loan(*map(contract, files), {"fetch": "bring", "collect": "handed"})
