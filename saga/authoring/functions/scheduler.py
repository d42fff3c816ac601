"""Runs a saga's function without an event loop: a few coroutines, resumed one after another.

A *fiber* is one coroutine: the function itself, or a branch of a group. Whoever waits for a result
is a `Waiter`: a fiber, or a place in a group. Everything runs in one fixed order, so that the same
resolutions give the same commands. What the function asks for becomes a command; the scheduler
keeps which waiter to wake when the kernel says how it ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import CoroutineType
from typing import Any, Protocol

from saga.authoring.functions.calls import (
    Branch,
    Call,
    GroupCall,
    SleepCall,
    StepCall,
    WaitCall,
)
from saga.core.identity import StepId
from saga.core.program import AwaitSignal, Command, Disown, Sleep
from saga.errors import DefinitionError, RollBack, StepFailed, TimedOut

_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"


class Waiter(Protocol):
    """Whoever waits for a result; *parent* leads to the function itself."""

    parent: Waiter | None

    def wake(self, scheduler: Scheduler, value: object, error: Exception | None) -> None:
        """Take the result, or the error in its place."""
        ...


class Fiber:
    """One coroutine and who waits for it (None: the function itself)."""

    __slots__ = ("coroutine", "is_over", "parent")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], parent: Waiter | None) -> None:
        self.coroutine = coroutine
        self.parent: Waiter | None = parent
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


class Join:
    """A group in progress: results in the order of definition, whatever the order of completion."""

    __slots__ = ("errors", "group", "is_over", "open", "parent", "results", "seats", "takes_first")

    def __init__(self, call: GroupCall, parent: Waiter) -> None:
        self.parent: Waiter | None = parent
        self.group = call.group
        self.takes_first = call.takes_first
        self.open = len(call.branches)
        self.results: list[object] = [None] * self.open
        self.errors: list[Exception | None] = [None] * self.open
        self.seats = [Seat(self, index) for index in range(self.open)]
        self.is_over = False


class Seat:
    """A place in a group."""

    __slots__ = ("fiber", "index", "is_settled", "join", "parent")

    def __init__(self, join: Join, index: int) -> None:
        self.join = join
        self.parent: Waiter | None = join.parent
        self.index = index
        self.is_settled = False
        self.fiber: Fiber | None = None

    def wake(self, scheduler: Scheduler, value: object, error: Exception | None) -> None:
        """Settle this place; the group ends when all are settled, or with the first success."""
        join = self.join
        if join.is_over or self.is_settled:
            return
        self.is_settled = True
        join.results[self.index], join.errors[self.index] = value, error
        join.open -= 1
        assert join.parent is not None
        if join.takes_first and error is None:
            join.is_over = True
            scheduler.drop_losers(join, winner=self.index)
            scheduler.ready(join.parent, value, None)
        elif join.open == 0:
            join.is_over = True
            failures = [failure for failure in join.errors if failure is not None]
            if failures:
                scheduler.ready(join.parent, None, failures[0])
            else:
                scheduler.ready(join.parent, tuple(join.results), None)


class Scheduler:
    """The fibers of one saga and what they wait for."""

    __slots__ = ("_queue", "commands", "main", "outcome", "sleeps", "steps", "waits")

    def __init__(self, function: Coroutine[Any, Any, Any]) -> None:
        self.main = Fiber(function, None)
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

    def ended(self, fiber: Fiber, value: object, error: Exception | None) -> None:
        """A coroutine returned or gave up."""
        if fiber.parent is None:
            self.outcome = (value, error)
        else:
            self.ready(fiber.parent, value, error)

    def want(self, waiter: Waiter, wanted: object, group: str | None = None) -> None:
        """Turn what a fiber awaits into a command."""
        if not isinstance(wanted, Call):
            raise DefinitionError(
                f"a saga's function may only await what its context gives, not "
                f"{type(wanted).__name__}: leave I/O and waiting to effect services and ctx"
            )
        if wanted.is_taken:
            raise DefinitionError("one call of the context was awaited twice")
        wanted.is_taken = True
        match wanted:
            case StepCall():
                self._want_step(waiter, wanted, group)
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

    def drop_losers(self, join: Join, *, winner: int) -> None:
        """Give up what the other branches of a group wait for."""
        steps = [
            step
            for step, (waiter, _) in self.steps.items()
            if _belongs_to(waiter, join) and not _belongs_to_seat(waiter, join.seats[winner])
        ]
        sleeps = [name for name, waiter in self.sleeps.items() if _belongs_to(waiter, join)]
        waits = [name for name, (waiter, _) in self.waits.items() if _belongs_to(waiter, join)]
        for name in sleeps:
            del self.sleeps[name]
        for name in waits:
            del self.waits[name]
        for seat in join.seats:
            if seat.fiber is not None and not seat.fiber.is_over:
                seat.fiber.is_over = True
                close(seat.fiber.coroutine)
        if steps or sleeps or waits:
            self.commands.append(Disown(tuple(steps), tuple(sleeps), tuple(waits)))

    def close(self) -> None:
        """End all coroutines; whatever they still do is without consequence."""
        for fiber in self._fibers():
            fiber.is_over = True
            close(fiber.coroutine)

    def _want_step(self, waiter: Waiter, call: StepCall[Any], group: str | None) -> None:
        command = call.command if group is None else replace(call.command, group=group)
        self.steps[command.step] = (waiter, call)
        self.commands.append(command)

    def _want_group(self, waiter: Waiter, call: GroupCall) -> None:
        if not call.branches:
            if call.takes_first:
                raise DefinitionError("ctx.any() of nothing can never succeed")
            self.ready(waiter, (), None)
            return
        join = Join(call, waiter)
        for seat, branch in zip(join.seats, call.branches, strict=True):
            self._begin_branch(seat, branch, call.group)

    def _begin_branch(self, seat: Seat, branch: Branch, group: str) -> None:
        if isinstance(branch, Coroutine):
            seat.fiber = Fiber(branch, seat)
            self.ready(seat.fiber, None, None)
        else:
            self.want(seat, branch, group)

    def _fibers(self) -> Iterator[Fiber]:
        waiters: list[Waiter] = [waiter for waiter, _ in self.steps.values()]
        waiters += self.sleeps.values()
        waiters += [waiter for waiter, _ in self.waits.values()]
        seen: set[int] = set()
        for waiter in waiters:
            for fiber in _up(waiter):
                if isinstance(fiber, Fiber) and id(fiber) not in seen:
                    seen.add(id(fiber))
                    yield fiber
        if id(self.main) not in seen:
            yield self.main


def close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine whose function may want to await in its `finally`: it may not any more."""
    try:
        coroutine.close()
    except (RuntimeError, StepFailed, RollBack, TimedOut):
        # It awaited or raised while it was closed; its context is over, so nothing can follow.
        return


def _awaits_at(coroutine: Coroutine[Any, Any, Any]) -> str | None:
    """The line at which a suspended coroutine stands, or the innermost one it awaits of its
    package.
    """
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


def _belongs_to(waiter: Waiter, join: Join) -> bool:
    return any(isinstance(one, Seat) and one.join is join for one in _up(waiter))


def _belongs_to_seat(waiter: Waiter, seat: Seat) -> bool:
    return any(one is seat for one in _up(waiter))
