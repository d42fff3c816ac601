"""Who waits for a result in a saga's function: a coroutine, or a place in a group of branches.

They say where they stand, and a group who has won or failed; the scheduler alone runs anything.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

from saga.authoring.functions.calls import Call, GroupCall
from saga.authoring.functions.scopes import Scope
from saga.core.identity import StepId


class Waiter(Protocol):
    """Who waits for a result: a task, or a slot of a group."""

    parent: Waiter | None
    settled: tuple[StepId, ...]
    """The nearest steps behind it: those of its flow that settled last."""

    @property
    def scope(self) -> Scope | None:
        """The innermost scope that it is in."""

    @property
    def place(self) -> Slot | None:
        """The innermost place in a group that it belongs to."""


class Task:
    """One coroutine and who waits for it (None: the function itself)."""

    __slots__ = (
        *("coroutine", "is_dropped", "is_over", "number", "parent", "place", "returned"),
        *("scope", "settled"),
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], parent: Waiter | None, number: int = 0
    ) -> None:
        self.coroutine = coroutine
        self.parent: Waiter | None = parent
        self.place: Slot | None = None if parent is None else parent.place
        self.number = number
        """In which order it began, among branches and calls."""
        self.settled: tuple[StepId, ...] = () if parent is None else parent.settled
        self.scope: Scope | None = None if parent is None else parent.scope
        self.is_over = False
        self.returned = False
        self.is_dropped = False
        """Nothing that it has left behind may run, its async generators included."""


class Group:
    """A group in progress: results in the order of definition, whatever the order of completion."""

    __slots__ = (
        *("call", "errors", "failed", "held", "is_beginning", "is_over", "parent", "results"),
        *("settled_slots", "slots", "unbegun"),
    )

    def __init__(self, call: GroupCall, parent: Waiter) -> None:
        self.call = call
        self.parent = parent
        size = len(call.branches)
        self.results: list[object] = [None] * size
        self.errors: list[Exception | None] = [None] * size
        self.slots = [Slot(self, index) for index in range(size)]
        self.settled_slots = self.failed = self.held = 0
        self.unbegun = 0
        """The place of the first branch that has not begun."""
        self.is_beginning = False
        self.is_over = False

    @property
    def may_begin(self) -> bool:
        """Whether the next branch begins now."""
        if self.is_over or self.unbegun == len(self.slots) or self.would_fail:
            return False
        at_once = self.call.at_once
        return at_once is None or self.unbegun - self.settled_slots - self.held < at_once

    @property
    def would_fail(self) -> bool:
        """Whether the failures of branches that are held decide it."""
        too_many = self.failed + self.held > len(self.slots) - self.call.needed
        return self.held > 0 and too_many and not self.call.waits_for_all

    @property
    def is_held(self) -> bool:
        """Whether all that it waits for are branches that are held."""
        return self.held > 0 and self.settled_slots + self.held == len(self.slots)

    def settle(self, slot: Slot, value: object, error: Exception | None) -> bool:
        """Note how a branch ended; whether that decides the group."""
        self.results[slot.index], self.errors[slot.index] = value, error
        slot.is_settled = True
        self.held -= slot.is_held
        self.settled_slots += 1
        self.failed += error is not None
        size, needed = len(self.slots), self.call.needed
        if self.settled_slots == size:
            self.is_over = True
        elif not self.call.waits_for_all:
            has_won = self.settled_slots - self.failed == needed
            self.is_over = has_won or self.failed > size - needed
        return self.is_over

    @property
    def failure(self) -> Exception | None:
        """The first failure in order of definition, where there are too few successes."""
        if self.settled_slots - self.failed >= self.call.needed:
            return None
        return next(error for error in self.errors if error is not None)

    def result(self) -> object:
        """What has succeeded, in the order of definition."""
        done = [
            result
            for slot, result, error in zip(self.slots, self.results, self.errors, strict=True)
            if slot.is_settled and error is None
        ]
        return done[0] if self.call.gives_one else tuple(done)

    def losers(self, *, is_won: bool) -> list[Slot]:
        """The branches that count for nothing: of a failed group all but those that failed."""
        return [
            slot
            for slot, error in zip(self.slots, self.errors, strict=True)
            if (not slot.is_settled or (error is not None) is is_won)
        ]

    def settled(self) -> tuple[StepId, ...]:
        """The nearest steps behind what follows the group: those of each branch that made any."""
        before = self.parent.settled
        ends = [slot.settled if slot.task is None else slot.task.settled for slot in self.slots]
        moved = [step for end in ends if end != before for step in end]
        return tuple(moved) if moved else before


class Slot:
    """One place in a group: a branch, or a call that stands for one.

    *begun* is what was begun in it and has to end if it loses: steps, sleeps, waits, branches, and
    groups with such within.
    """

    __slots__ = ("begun", "group", "index", "is_held", "is_settled", "parent", "settled", "task")

    def __init__(self, group: Group, index: int) -> None:
        self.begun: dict[Call[Any] | Task | Group, None] = {}
        self.group = group
        self.parent: Waiter | None = group.parent
        self.settled = group.parent.settled
        self.index = index
        self.is_settled = False
        self.is_held = False
        """It has failed, and may be tried again: it only lets others begin."""
        self.task: Task | None = None

    @property
    def place(self) -> Slot:
        return self

    @property
    def scope(self) -> Scope | None:
        return self.group.parent.scope


class Held:
    """Stands for who waits for a step that has failed and may be tried again."""

    __slots__ = ("parent", "settled")
    place = scope = None

    def __init__(self, waiter: Waiter) -> None:
        self.parent: Waiter | None = waiter
        self.settled = waiter.settled


class CleanUp:
    """Waits for the end of an async generator that was left early."""

    __slots__ = ("parent", "place", "scope", "settled")

    def __init__(self, owner: Task) -> None:
        self.parent: Waiter | None = owner
        self.place = owner.place
        self.settled = owner.settled
        self.scope = owner.scope


def places_of(waiter: Waiter) -> Iterator[Slot]:
    """The places in groups that a waiter belongs to, the innermost first."""
    place = waiter.place
    while place is not None:
        yield place
        place = place.group.parent.place
