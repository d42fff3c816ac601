"""Pauses: what a paused saga holds back, and tells its program when it goes on.

Theory of operation: while a saga is paused, `Holding` stands between the kernel and the program.
Facts have their plain effect, steps settle, timers fire; but what the program would be told is
held, in order, and so is a retry that is due. The rollback asks the program as ever, so cancels
and rollbacks go on. What is held follows from the history: a replay holds the same.

When the saga goes on, a wait may begin for which something was kept that came behind what is still
held. So that all is told in order of arrival, such a wait is put off; one that selects begins, and
is offered it later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from inspect import isfunction, signature
from typing import Any, Final, TypeGuard, cast

from saga.core.identity import Instant, StepId
from saga.core.program import Await, Command, DropBranch, Program
from saga.core.state import Pause, SagaState
from saga.core.values import value

_TOLD: Final = {
    name: list(signature(method).parameters).index("at") - 1
    for name, method in vars(Program).items()
    if isfunction(method) and signature(method).return_annotation == "Sequence[Command]"
}
"""The methods by which a program is told something, and the place of the time among what it is."""
_OF_STEPS: Final = frozenset({"succeeded", "gave_out", "child_ended"})


@value
class Told:
    """Something the program is to be told, and the version of the fact that it came with."""

    version: int
    method: str
    said: tuple[Any, ...]
    named: tuple[tuple[str, object], ...]

    def tell(self, program: Program, at: Instant) -> Sequence[Command]:
        """Tell it now, at the time of this turn."""
        said = list(self.said)
        said[_TOLD[self.method]] = at
        commands: Sequence[Command] = getattr(program, self.method)(*said, **dict(self.named))
        return commands

    def is_for(self, dropped: DropBranch) -> bool:
        """Whether it concerns what has been given up meanwhile."""
        about = self.said[0]
        match self.method:
            case "slept":
                return about in dropped.sleeps
            case "arrived" | "timed_out":
                return about in dropped.waits
            case "undone":
                return False  # a program knows by itself that nobody waits for a scope any more
        return about in dropped.steps


@value
class RetryDue:
    """A step whose next attempt is due, and how many were made by then."""

    version: int
    step: StepId
    attempts: int


@value
class PutOff:
    """A wait that is to begin once all that came before the arrival of this version is told."""

    version: int
    command: Await


@value
class Offer:
    """An arrival that was kept, by its version, and a wait that may take it when it is its turn."""

    version: int
    wait: str


Held = Told | RetryDue | PutOff | Offer


class Holding:
    """A program that is told nothing, and has all of it kept; else it is the program itself."""

    __slots__ = ("_pause", "program")

    def __init__(self, program: Program, pause: Pause) -> None:
        self.program = program
        self._pause = pause

    @property
    def patches(self) -> frozenset[str] | None:
        return self.program.patches

    @patches.setter
    def patches(self, patches: frozenset[str] | None) -> None:
        self.program.patches = patches

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the program has
        if name in _TOLD:
            return partial(self._hold, name)
        return getattr(self.program, name)

    def _hold(self, method: str, *said: object, **named: object) -> Sequence[Command]:
        self._pause.held.append(Told(self._pause.turn, method, said, tuple(named.items())))
        return ()


def hold(state: SagaState) -> None:
    """Have the program of a paused saga be told nothing from here on."""
    assert state.pause is not None, state.saga_id
    state.pause.turn = state.version + 1
    program = held_by(state)
    if program is not None and program is state.program:
        state.program = held_in(state.pause, program)


def held_in(pause: Pause, program: Program) -> Program:
    """A program of which all that it is told is held in *pause*."""
    return cast("Program", Holding(program, pause))


def held_by(state: SagaState) -> Program | None:
    """The program itself, of a saga that is paused or not."""
    program = state.program
    return program.program if isinstance(program, Holding) else program


def forget(held: deque[Held] | None, dropped: DropBranch) -> frozenset[str]:
    """Tell nothing more to a branch that is given up; its waits whose arrivals it never saw."""
    if not held:
        return frozenset()
    told = [each for each in held if isinstance(each, Told) and each.is_for(dropped)]
    left = [each for each in held if each not in told and _wait_of(each) not in dropped.waits]
    held.clear()
    held.extend(left)
    return frozenset(each.said[0] for each in told if each.method == "arrived")


def told_later(held: deque[Held], parked: Collection[StepId | None]) -> deque[Held]:
    """What of all *held* is told in the turn behind a parking.

    Of a step on which the saga has *parked* nothing more: all that waits for it is decided, and so
    it lets nothing begin, as it would where no pause came between.
    """
    return deque(each for each in held if not (is_hold(each) and each.said[0] in parked))


def is_hold(held: Held) -> TypeGuard[Told]:
    """Whether the program is to be told that a step has failed on which the saga parks later."""
    return isinstance(held, Told) and held.method == "hold"


def put_in(held: deque[Held], *later: PutOff | Offer) -> None:
    """Put what waits for an arrival behind all that came before that."""
    for each in later:
        place = next((n for n, other in enumerate(held) if other.version > each.version), len(held))
        held.insert(place, each)


def _wait_of(held: Held) -> str | None:
    """The wait that is put off, or to which something is offered."""
    if isinstance(held, PutOff):
        return held.command.wait
    return held.wait if isinstance(held, Offer) else None


def waits_untold(held: Iterable[Held] | None) -> list[str]:
    """Waits that have taken something of which the program does not know."""
    return [
        each.said[0] for each in held or () if isinstance(each, Told) and each.method == "arrived"
    ]


def steps_untold(held: Iterable[Held] | None) -> list[StepId]:
    """Steps that have settled, of which the program does not know: to it they are in flight."""
    told = (each for each in held or () if isinstance(each, Told))
    return [each.said[0] for each in told if each.method in _OF_STEPS]
