"""Where one case strikes: at which boundary of which turn, and how."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from random import Random
from typing import NamedTuple

from saga.runtime.unit_of_work import InboundBatch, UnitOfWork
from saga.testing.world.faults import Fault, Rates
from saga.testing.world.process import current_process


class How(StrEnum):
    """What happens at a boundary."""

    DIES = "dies"
    DIES_BEFORE = "dies before"
    ANSWER_LOST = "answer lost"
    """It was done, the caller lives on and is told that it was not."""
    FAILS = "fails"
    """It was not done, and the caller does not know whether it was."""
    STOPS = "is told to stop"


_FELT_AS = {How.DIES_BEFORE: How.DIES}


class Strike(NamedTuple):
    """One fault, of an orchestrator unless *who* says otherwise.

    Without *in_turn* it happens at the next such boundary, whatever is in hand; with it, not before
    the turn that the case is about has begun.
    """

    point: str
    how: How = How.DIES
    in_turn: bool = True
    who: str = "orchestrator"
    skip: int = 0
    """How many such boundaries are left in peace before."""


class _Steady(Random):
    """No dice: nothing of a case is left to chance."""

    def random(self) -> float:
        return 0.999


class Aim:
    """Stands where a world has its `Faults`: strikes where the case says, and nowhere else."""

    def __init__(self, strikes: tuple[Strike, ...], focus: Callable[[InboundBatch], bool]) -> None:
        self.rng = _Steady()
        self.rates = Rates(*[0.0] * (len(fields(Rates)) - 1))
        self.is_on = True
        self.seen: Counter[str] = Counter()
        self.happened: Counter[How] = Counter()
        """What was seen to happen to a process; an order to strike proves nothing yet."""
        self.stop: Callable[[str], None] = lambda name: None
        self.published: int | None = None
        """How many records the turn has published that the case is about, once it has."""
        self.dead_letters: int | None = None
        """And how many dead letters it has led to."""
        self._strikes = strikes
        self._left = list(strikes)
        self._focus = focus
        self._armed: set[str] = set()
        self._skipped = 0
        self._is_torn = False

    @property
    def unspent(self) -> tuple[Strike, ...]:
        """What was to happen and did not."""
        return tuple(self._left)

    def look(self, batch: InboundBatch) -> None:
        """See whether this is the turn that the case is about."""
        process = current_process()
        if process is not None and self._focus(batch):
            self._armed.add(process.name)

    def note(self, unit: UnitOfWork, batch: InboundBatch) -> None:
        """Remember what the turn led to; what came again later leads to nothing."""
        if self._focus(batch) and self.published is None:
            self.published = len(unit.outgoing)
            self.dead_letters = len(unit.unhandled.dead_letters)

    @property
    def is_as_planned(self) -> bool:
        """Whether exactly what was to happen has happened: so many crashes, lost answers and
        stops.
        """
        wanted = Counter(_FELT_AS.get(each.how, each.how) for each in self._strikes)
        return not self._left and wanted == self.happened

    def takes(self, point: str) -> How | None:
        """What happens now, at *point*, to the process whose code is running."""
        process = current_process()
        strike = self._left[0] if self._left else None
        if process is None or strike is None or strike.point != point:
            return None
        if not process.name.startswith(strike.who):
            return None
        # Whoever owns the partitions commits their offsets, whichever process took the turn.
        is_shared = point == "consumer.commit" and bool(self._armed)
        if strike.in_turn and process.name not in self._armed and not is_shared:
            return None
        if self._skipped < strike.skip:
            self._skipped += 1
            return None
        self._left.pop(0)
        self._armed.discard(process.name)
        self._skipped = 0
        self.seen[f"{strike.how.value} {point}"] += 1
        if strike.how is How.STOPS:
            self.stop(process.name)
            return None
        return strike.how

    def at_call(self, point: str, *, can_fail: bool, can_crash: bool = True) -> Fault | None:
        """What happens to one call of a port."""
        if self._is_torn and point == "bus.publish":
            self._is_torn = False
            return Fault.CRASH_AFTER
        match self.takes(point):
            case How.DIES:
                return Fault.CRASH_AFTER
            case How.DIES_BEFORE:
                return Fault.CRASH_BEFORE
            case How.ANSWER_LOST:
                self.happened[How.ANSWER_LOST] += 1
                return Fault.ERROR_AFTER
            case _:
                return None

    def hits(self, what: str, rate: float) -> bool:
        """Whether a publish is torn now: some of its records get through."""
        how = self.takes(what)
        self._is_torn = how is How.DIES
        self.happened[How.ANSWER_LOST] += how is How.ANSWER_LOST
        return how is not None
