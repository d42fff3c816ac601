"""A parked machine says on which line of its source it stands."""

from __future__ import annotations

from typing import Any

import pytest

from saga import Acts, Event, Intent, Next, State, do, machine
from saga.testing import given, replied
from saga.testing.spec import Scenario


class Began(Event, topic="kiln.began", version=1, key="id"):
    id: str


class Fired(Event, topic="kiln.fired", version=1):
    pots: int = 1


class Fire(Intent[Fired], topic="kiln.fire", version=1):
    id: str = "k-1"


class Cool(Intent[None], topic="kiln.cool", version=1):
    id: str = "k-1"


def line_of(function: Any, below: int) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno + below}"


class Firing(State):
    ends: str

    def enter(self) -> Acts:
        return do(Fire(), kind="pivot")

    def handle(self, event: Fired) -> Next[Glazing | Breaking | Done]:
        match self.ends:
            case "past the pivot":
                return Glazing()
            case "in enter":
                return Breaking()
        return Done() if int(self.ends) else Glazing()


class Glazing(State):
    def enter(self) -> Acts:
        undo = {"undo": Cool}
        return do(Fire(), **undo)

    def handle(self, event: Fired) -> Next[Done]:
        return Done()


class Breaking(State):
    def enter(self) -> Acts:
        return do(Fire(id=str(int("none"))))

    def handle(self, event: Fired) -> Next[Done]:
        return Done()


class Done(State): ...


@machine(
    "kiln",
    version=1,
    starts_on=Began,
    transitions={
        Firing: {Fired: (Glazing, Breaking, Done)},
        Glazing: {Fired: Done},
        Breaking: {Fired: Done},
    },
)
def kiln(began: Began) -> Next[Firing]:
    return Firing(ends=began.id)


def fired(ends: str) -> Scenario:
    return given(kiln, Began(id=ends)).when(replied(Fire, Fired()))


@pytest.mark.parametrize(
    ("ends", "said", "place"),
    [
        (
            "past the pivot",
            "step 'fire-2' can be undone, but comes after",
            line_of(Glazing.enter, 0),
        ),
        ("in enter", "ValueError: ", line_of(Breaking.enter, 1)),
        ("in handle", "ValueError: ", line_of(Firing.handle, 6)),
    ],
)
def test_a_parked_machine_says_file_and_line(ends: str, said: str, place: str) -> None:
    scenario = fired(ends).then_parked(said)

    assert place in str(scenario.state.reason)
