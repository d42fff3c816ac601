"""Runs a saga's function without an event loop: a few coroutines, resumed one after another.

A `Task` is one coroutine: the function itself, or a branch of a group. Everything runs in one fixed
order, so that the same resolutions give the same commands.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from types import CoroutineType
from typing import Any, Protocol

from saga.authoring.functions.calls import Call, GroupCall, SleepCall, StepCall, WaitCall
from saga.core.identity import StepId
from saga.core.program import AwaitSignal, Command, DoStep, DropBranch, Sleep
from saga.errors import DefinitionError, RollBack, StepFailed, TimedOut

_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"


class Waiter(Protocol):
    """Who waits for a result: a task, or a slot of a group."""

    parent: Waiter | None
    settled: tuple[StepId, ...]
    """The nearest steps behind it: those of its flow that settled last."""

    def wake(self, scheduler: Scheduler, value: object, error: Exception | None) -> None:
        """Take the result, or the error in its place."""


class Task:
    """One coroutine and who waits for it (None: the function itself)."""

    __slots__ = ("coroutine", "is_over", "parent", "settled")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], parent: Slot | None) -> None:
        self.coroutine = coroutine
        self.parent: Waiter | None = parent
        self.settled: tuple[StepId, ...] = () if parent is None else parent.settled
        self.is_over = False

    def wake(self, scheduler: Scheduler, value: object, error: Exception | None) -> None:
        """Run until the coroutine asks for something or ends."""
        if self.is_over:
            return
        try:
            wanted = self.coroutine.send(value) if error is None else self.coroutine.throw(error)
        except StopIteration as stop:
            self.is_over = True
            scheduler.ended(self, stop.value, None)
        except (StepFailed, RollBack, TimedOut) as failure:
            self.is_over = True
            # A traceback keeps the frames of its callers, and with them the whole batch of turns.
            scheduler.ended(self, None, failure.with_traceback(None))
        except DefinitionError as refusal:
            refusal.where = refusal.where or _raised_at(refusal)
            raise
        else:
            try:
                scheduler.want(self, wanted)
            except DefinitionError as refusal:
                refusal.where = refusal.where or _awaits_at(self.coroutine)
                raise


class Group:
    """A group in progress: results in the order of definition, whatever the order of completion."""

    __slots__ = ("errors", "is_over", "open", "parent", "results", "slots", "takes_first")

    def __init__(self, call: GroupCall, parent: Waiter) -> None:
        self.parent = parent
        self.takes_first = call.takes_first
        self.open = len(call.branches)
        self.results: list[object] = [None] * self.open
        self.errors: list[Exception | None] = [None] * self.open
        self.slots = [Slot(self, index) for index in range(self.open)]
        self.is_over = False

    def settled(self) -> tuple[StepId, ...]:
        """The nearest steps behind what follows the group: those of each branch that made any."""
        before = self.parent.settled
        ends = [slot.settled if slot.task is None else slot.task.settled for slot in self.slots]
        moved = [step for end in ends if end != before for step in end]
        return tuple(moved) if moved else before


class Slot:
    __slots__ = ("group", "index", "is_settled", "parent", "settled", "task")

    def __init__(self, group: Group, index: int) -> None:
        self.group = group
        self.parent: Waiter | None = group.parent
        self.settled = group.parent.settled
        self.index = index
        self.is_settled = False
        self.task: Task | None = None

    def wake(self, scheduler: Scheduler, value: object, error: Exception | None) -> None:
        """Settle this place; the group ends when all are settled, or with the first success."""
        group = self.group
        if group.is_over or self.is_settled:
            return
        self.is_settled = True
        group.results[self.index], group.errors[self.index] = value, error
        group.open -= 1
        is_won = group.takes_first and error is None
        if not is_won and group.open > 0:
            return
        group.is_over = True
        group.parent.settled = group.settled()
        if is_won:
            scheduler.drop_losers(group, winner=self.index)
            scheduler.ready(group.parent, value, None)
            return
        failures = [failure for failure in group.errors if failure is not None]
        if failures:
            scheduler.ready(group.parent, None, failures[0])
        else:
            scheduler.ready(group.parent, tuple(group.results), None)


class Scheduler:
    __slots__ = ("_queue", "commands", "main", "outcome", "sleeps", "steps", "waits")

    def __init__(self) -> None:
        self.main: Task | None = None
        self.commands: list[Command] = []
        self.steps: dict[StepId, tuple[Waiter, StepCall[Any]]] = {}
        self.sleeps: dict[str, Waiter] = {}
        self.waits: dict[str, tuple[Waiter, WaitCall[Any]]] = {}
        self.outcome: tuple[object, Exception | None] | None = None
        self._queue: deque[tuple[Waiter, object, Exception | None]] = deque()

    def run(self, waiter: Waiter, value: object, error: Exception | None) -> list[Command]:
        """Wake *waiter* and everything that follows from it; what was asked for on the way."""
        self.commands = []
        waiter.wake(self, value, error)
        queue = self._queue
        while queue:
            waiter, value, error = queue.popleft()
            waiter.wake(self, value, error)
        return self.commands

    def ready(self, waiter: Waiter, value: object, error: Exception | None) -> None:
        """Let *waiter* be woken after those that are ready already."""
        self._queue.append((waiter, value, error))

    def ended(self, task: Task, value: object, error: Exception | None) -> None:
        if task.parent is None:
            self.outcome = (value, error)
        else:
            self.ready(task.parent, value, error)

    def want(self, waiter: Waiter, wanted: object, group: str | None = None) -> None:
        if not isinstance(wanted, Call):
            raise DefinitionError(
                f"a saga's function may only await what its context gives, not "
                f"{type(wanted).__name__}: leave I/O and waiting to effect services and ctx"
            )
        if wanted.is_taken:
            raise DefinitionError("one call of the context was awaited twice")
        wanted.is_taken = True
        match wanted:
            case StepCall(step=step, message=message, kind=kind):
                wanted.group = group
                self.steps[step] = (waiter, wanted)
                after = waiter.settled
                self.commands.append(
                    DoStep(step=step, message=message, kind=kind, policy=wanted, after=after)
                )
            case SleepCall():
                self.sleeps[wanted.name] = waiter
                self.commands.append(Sleep(wanted.name, wanted.length_us))
            case WaitCall():
                self.waits[wanted.wait] = (waiter, wanted)
                self.commands.append(AwaitSignal(wanted.wait, wanted.name, wanted.timeout_us))
            case GroupCall():
                self._want_group(waiter, wanted)
            case _:
                self.ready(waiter, None, None)

    def drop_losers(self, group: Group, *, winner: int) -> None:
        """Give up what the other branches of a group wait for."""
        places = {step: _place(waiter, group) for step, (waiter, _) in self.steps.items()}
        steps = [step for step, place in places.items() if place not in (None, winner)]
        sleeps = [name for name, waiter in self.sleeps.items() if _place(waiter, group) is not None]
        waits = [
            name for name, (waiter, _) in self.waits.items() if _place(waiter, group) is not None
        ]
        for name in sleeps:
            del self.sleeps[name]
        for name in waits:
            del self.waits[name]
        for slot in group.slots:
            if slot.task is not None and not slot.task.is_over:
                slot.task.is_over = True
                close(slot.task.coroutine)
        if steps or sleeps or waits:
            self.commands.append(DropBranch(tuple(steps), tuple(sleeps), tuple(waits)))

    def close(self) -> None:
        """End all coroutines; whatever they still do is without consequence."""
        for task in self._tasks():
            task.is_over = True
            close(task.coroutine)

    def _want_group(self, waiter: Waiter, call: GroupCall) -> None:
        if not call.branches:
            if call.takes_first:
                raise DefinitionError("ctx.any() of nothing can never succeed")
            self.ready(waiter, (), None)
            return
        group = Group(call, waiter)
        for slot, branch in zip(group.slots, call.branches, strict=True):
            if isinstance(branch, Coroutine):
                slot.task = Task(branch, slot)
                self.ready(slot.task, None, None)
            else:
                self.want(slot, branch, call.group)

    def _tasks(self) -> Iterable[Task]:
        """Every coroutine that waits, the innermost first; the function itself is among them."""
        waiters: list[Waiter] = [waiter for waiter, _ in self.steps.values()]
        waiters += self.sleeps.values()
        waiters += [waiter for waiter, _ in self.waits.values()]
        waiters += [] if self.main is None else [self.main]
        tasks = (task for waiter in waiters for task in _up(waiter) if isinstance(task, Task))
        return {id(task): task for task in tasks}.values()


def close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine whose function may want to await in its `finally`: it may not any more."""
    try:
        coroutine.close()
    except (RuntimeError, StepFailed, RollBack, TimedOut):
        # It awaited or raised while it was closed; its context is over, so nothing can follow.
        return


def _awaits_at(coroutine: Coroutine[Any, Any, Any]) -> str | None:
    """The line at which a suspended coroutine stands, the innermost one in its own package."""
    inner: object = coroutine
    where = package = None
    while isinstance(inner, CoroutineType) and inner.cr_frame is not None:
        frame = inner.cr_frame
        owner = str(frame.f_globals.get("__name__")).partition(".")[0]
        package = package or owner
        if owner == package:
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        inner = inner.cr_await
    return where


def _raised_at(error: Exception) -> str | None:
    """The line that called into this package and was refused."""
    where = None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            where = f"{code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where


def _up(waiter: Waiter | None) -> Iterator[Waiter]:
    while waiter is not None:
        yield waiter
        waiter = waiter.parent


def _place(waiter: Waiter, group: Group) -> int | None:
    """The branch of *group* that *waiter* belongs to, if any."""
    slots = (one for one in _up(waiter) if isinstance(one, Slot) and one.group is group)
    return next((slot.index for slot in slots), None)
