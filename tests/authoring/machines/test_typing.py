"""A strict type checker finds the mistakes of machines: each `type: ignore` here is one, needed."""

import pytest

from tests.type_checkers import check_with_mypy

pytestmark = pytest.mark.slow

USER = """
from __future__ import annotations
from pydantic import BaseModel
from saga import (
    Acts, ChildRolledBack, Event, Intent, Next, State, StepDone, StepFailed, TimedOut, Transitions,
    TurnContext, answer, child, do, drop, machine, publish, refuse, tell,
)


class Began(Event, topic="mill.began", version=1, key="id"):
    id: str


class Ground(Event, topic="mill.ground", version=1):
    bags: int


class Grind(Intent[Ground], topic="mill.grind", version=1):
    id: str


class Sweep(Intent[None], topic="mill.sweep", version=1):
    id: str


class Go(BaseModel):
    fast: bool = False


class Waiting(State, timeout="1h"):
    id: str
    count: int = 0

    def enter(self, ctx: TurnContext) -> Acts:
        ctx.log.info("waits since %s", ctx.now())
        return do(Grind(id=self.id), undo=Sweep, timeout="3m"), tell(Sweep(id=self.id))

    def handle(
        self, event: Go | Ground | StepFailed | TimedOut
    ) -> Next[Waiting | Grinding | Failed]:
        match event:
            case Go():
                return self, answer(3), publish(Began(id=self.id))
            case Ground(bags=bags):
                return Grinding(id=self.id, bags=bags), drop("grind")
            case StepFailed(code=code) | TimedOut(code=code):
                return Failed(reason=code)


class Grinding(State):
    id: str
    bags: int

    def enter(self) -> Acts:
        return (Sweep(id=self.id), child(Began(id="x"), outcome=Ground))

    def handle(self, event: StepDone | ChildRolledBack | Ground) -> Next[Done]:
        return Done(), Began(id=self.id)


def swept(grind: Grind, ground: Ground | None) -> Sweep:
    return Sweep(id=grind.id)


def swept_done(grind: Grind, ground: Ground) -> Sweep:
    return Sweep(id=grind.id)


do(Grind(id="x"), undo=swept)
do(Grind(id="x"), undo=lambda grind, ground: Sweep(id="x" if ground is None else "y"))
do(Sweep(id="x"), undo=lambda sweep, nothing: Sweep(id="x"))


class Done(State): ...


class Failed(State, rolls_back=True):
    reason: str


TABLE: Transitions = {
    Waiting: {Go: Waiting, Ground: Grinding, StepFailed: Failed, TimedOut: Failed},
    Grinding: {StepDone: Done, ChildRolledBack: Done, Ground: Done},
}


@machine("mill", version=1, starts_on=Began, transitions=TABLE, updates={"go": Go})
def mill(began: Began) -> Next[Waiting]:
    return Waiting(id=began.id)


class WrongNext(State):
    def handle(self, event: Ground) -> Next[Done | Failed]:
        return Grinding(id="x", bags=1)  # type: ignore[return-value]


class WrongNextBeside(State):
    def handle(self, event: Ground) -> Next[Done]:
        return Failed(reason="x"), Began(id="x")  # type: ignore[return-value]


class MissingCase(State):
    def handle(self, event: Ground | StepFailed) -> Next[Done]:  # type: ignore[return]
        match event:  # pyright: ignore[reportMatchNotExhaustive]
            case Ground():
                return Done()


class NoAct(State):
    def enter(self) -> Acts:
        return "grind"  # type: ignore[return-value]

    def handle(self, event: Ground) -> Next[Done]:
        return Done(), Go()  # type: ignore[return-value]


Grinding(id="x", bag=1)  # type: ignore[call-arg]
Grinding(id="x", bags="one")  # type: ignore[arg-type]
Grinding("x", 1)  # type: ignore[call-arg]
Grinding(id="x", bags=1).bags = 2  # type: ignore[misc]
Grinding(id="x", bags=1).bag  # type: ignore[attr-defined]
do(Grind(id="x"), undo=Ground)  # type: ignore[arg-type]
do(Grind(id="x"), undo=swept_done)  # type: ignore[arg-type]
do(Sweep(id="x"), undo=swept)
do(Grind(id="x"), undo=lambda grind, ground: Sweep(id=ground.id))  # type: ignore[union-attr]
do(Ground(bags=1))  # type: ignore[arg-type]
do(Grind(id="x"), kind="pivotal")  # type: ignore[arg-type]
tell(Ground(bags=1))  # type: ignore[arg-type]
publish(Grind(id="x"))  # type: ignore[arg-type]
child(Began(id="x"), outcome=Grind)  # type: ignore[arg-type]
refuse(3)  # type: ignore[arg-type]
NOWHERE: Transitions = {Waiting: {Go: Go}}  # type: ignore[dict-item]
NOT_FROM_A_STATE: Transitions = {Go: {Ground: Done}}  # type: ignore[dict-item]
"""


def test_mypy_finds_the_mistakes_of_a_machine(tmp_path):
    check_with_mypy(tmp_path, USER)
