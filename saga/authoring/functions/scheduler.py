"""Runs a saga's function without an event loop: a few coroutines, resumed one after another.

A `Task` is one coroutine: the function itself, or a branch of a group. Everything runs in one fixed
order, so that who is told the same in the same order gives the same commands. `waiters` has what it
runs; here alone anything is run.
"""

from __future__ import annotations

from asyncio.events import _get_running_loop as running_loop
from asyncio.events import _set_running_loop as set_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from traceback import walk_tb
from types import AsyncGeneratorType, CodeType, FrameType
from typing import Any
from weakref import ref

from saga.authoring.failures import FAILURES
from saga.authoring.functions.calls import (
    Branch,
    Call,
    ContinueCall,
    GroupCall,
    NextCall,
    SignalCall,
    SleepCall,
    StepCall,
    UpdateCall,
    WaitCall,
    Waiting,
    unawaited,
)
from saga.authoring.functions.coroutines import awaits_at, close, frames_of, line_of
from saga.authoring.functions.scopes import Leaving, Scope, advice, innermost, name_in, take_in
from saga.authoring.functions.unseen import Unseen
from saga.authoring.functions.waiters import CleanUp, Group, Held, Slot, Task, Waiter, places_of
from saga.authoring.seclusion import (
    INSTEAD,
    NO_LOOP,
    is_collecting,
    placed,
    secluded,
    watch_collector,
)
from saga.core.identity import StepId
from saga.core.program import Command, DropBranch, LeaveScope, Line, Sleep
from saga.errors import DefinitionError

GENERATORS_MIN = 16


_WAITS = (WaitCall, UpdateCall, NextCall)


class Generator:
    """An async generator that has begun, and the coroutine that began it.

    Once nobody else holds it, it is ended: as the next thing in the turn in which it was left, or,
    where the collector found it, when the function is through.
    """

    __slots__ = ("_left", "_referred", "owner")

    def __init__(self, generator: AsyncGeneratorType[Any, Any], owner: Task) -> None:
        self._referred = ref(generator)
        self._left: AsyncGeneratorType[Any, Any] | None = None
        self.owner = owner

    def leave(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        """Hold it, as nobody else does."""
        self._left = generator

    @property
    def open(self) -> AsyncGeneratorType[Any, Any] | None:
        """The generator itself, unless it has ended."""
        found = self._left or self._referred()
        if found is None or found.ag_frame is None or found.ag_running:
            return None  # of one that a loser waits for, nothing can be asked any more
        return found


class Scheduler:
    __slots__ = (
        *("_failure", "_generators", "_generators_max", "_is_closed", "_live", "_number"),
        *("_queue", "_result", "_scopes", "_unawaited", "_waiting", "commands", "main", "outcome"),
        *("running", "sleeps", "steps", "unseen", "waits"),
    )

    def __init__(self) -> None:
        self.main: Task | None = None
        self.commands: list[Command] = []
        self.steps: dict[StepId, tuple[Waiter, StepCall[Any]]] = {}
        self.sleeps: dict[str, tuple[Waiter, SleepCall]] = {}
        self.waits: dict[str, tuple[Waiter, Waiting]] = {}
        self.outcome: tuple[object, Exception | None] | None = None
        self.running: Task | None = None
        self._unawaited: dict[Call[Any] | Scope, tuple[Task | None, CodeType, int]] = {}
        """Calls that were neither awaited nor handed to a group: who made them, and where."""
        self._number = 0
        """Of the branch that began, or the call that was awaited last."""
        self._live: dict[Task, None] = {}
        """Branches that have not ended, in the order in which they began: the inner ones last."""
        self._waiting: dict[Group, None] | None = None
        """Groups with branches that have not begun, as others of them have to end before."""
        self._scopes: dict[str, tuple[Waiter, Leaving] | None] | None = None
        """Those entered so far, by name, with who waits until it is undone."""
        self._queue: deque[tuple[Task, object, Exception | None]] | None = None
        """Who goes on next; None where nobody does, as an empty one is a tenth of an open saga."""
        self._generators: dict[int, Generator] | None = None
        """Those that have begun, in that order; None where none ever has."""
        self._generators_max = GENERATORS_MIN
        """From so many on, those that have ended are forgotten."""
        self._result: tuple[object, Exception | None] = (None, None)
        self._failure: Exception | None = None
        self._is_closed = False
        self.unseen: Unseen | None = None
        """None where no step has failed yet."""

    def run(self, waiter: Waiter, value: object, error: Exception | None) -> list[Command]:
        """Wake *waiter* and everything that follows from it; what was asked for on the way."""
        self.commands = []
        if self.unseen is not None:
            self.unseen.begin_run()
        loop, hooks = running_loop(), get_asyncgen_hooks()
        try:
            set_running_loop(NO_LOOP)  # type: ignore[arg-type]  # see seclusion
            set_asyncgen_hooks(self._begun, self._left)
            self._wake(waiter, value, error)
            while self._queue:
                self._resume(*self._queue.popleft())
        finally:
            self.running = None
            self._queue = self._queue or None
            set_asyncgen_hooks(*hooks)
            set_running_loop(loop)
        return self.commands

    def _wake(self, waiter: Waiter, value: object, error: Exception | None) -> None:
        """Give the result, or the error in its place, to whoever waits for it."""
        match waiter:
            case Task():
                self._resume(waiter, value, error)
            case Slot():
                self._settle(waiter, value, error)
            case Held():
                self.hold(waiter.parent)
            case CleanUp():
                self.cleaned_up(error)
            case _:
                raise AssertionError(waiter)

    def _resume(self, task: Task, value: object, error: Exception | None) -> None:
        """Run a coroutine until it asks for something or ends."""
        if task.is_over:
            return
        self.running = task
        place = len(self.commands)
        try:
            wanted = task.coroutine.send(value) if error is None else task.coroutine.throw(error)
        except StopIteration as stop:
            task.is_over = task.returned = True
            if error is not None:
                self.see(error, place)
            self.ended(task, stop.value, None)
        except FAILURES as failure:
            task.is_over = True
            if error is not None and (failure is not error or self._has_said(place)):
                self.see(error, place)
            self.excuse(frame for frame, _ in walk_tb(failure.__traceback__))
            # A traceback keeps the frames of its callers, and with them the whole batch of turns.
            self.ended(task, None, failure.with_traceback(None))
        except (DefinitionError, RuntimeError, AttributeError) as refusal:
            said = placed(unawaited(refusal))
            if said is refusal:
                raise
            raise said from refusal
        else:
            if error is not None:
                self.see(error, place)
                error.__traceback__ = None  # frames that have ended hold what they had begun
            try:
                self.want(task, wanted)
            except DefinitionError as refusal:
                refusal.where = refusal.where or awaits_at(task.coroutine)
                raise

    def _has_said(self, place: int) -> bool:
        """Whether anything was asked for or said from there on; a line for a log is nothing."""
        return any(type(command) is not Line for command in self.commands[place:])

    def _settle(self, slot: Slot, value: object, error: Exception | None) -> None:
        """Settle this place: the group ends, or another branch of it may begin."""
        group = slot.group
        if group.is_over or slot.is_settled:
            return
        if not group.settle(slot, value, error):
            self.begin_branches(group)
            if group.is_held:
                self.hold(group.parent)
            return
        group.parent.settled = group.settled()
        failure, place = group.failure, len(self.commands)
        if not group.call.waits_for_all:
            self.drop(group.losers(is_won=failure is None))
        if group.failed and self.unseen is not None:
            is_whole = group.settled_slots == len(group.slots)
            is_kept = failure is not None and is_whole and len(self.commands) == place
            self.unseen.surface(filter(None, group.errors), failure, behind=place, is_kept=is_kept)
        self.forgo(group)
        outer = group.parent.place
        if outer is not None and not any(each.begun for each in group.slots):
            del outer.begun[group]
        self.ready(group.parent, group.result() if failure is None else None, failure)

    def see(self, failure: Exception, behind: int) -> None:
        """Somebody has acted on *failure*, behind so many commands."""
        if self.unseen is not None:
            self.unseen.see(failure, behind=behind)

    def hold(self, waiter: Waiter | None) -> None:
        """Have a branch count as ended that may yet succeed: it lets others begin."""
        while waiter is not None:
            if not isinstance(waiter, Slot):
                waiter = waiter.parent
                continue
            group = waiter.group
            if group.is_over or waiter.is_settled or waiter.is_held:
                return
            waiter.is_held = True
            group.held += 1
            self.begin_branches(group)
            waiter = group.parent if group.is_held else None

    def ready(self, waiter: Waiter, value: object, error: Exception | None) -> None:
        """Let a coroutine go on after those that are ready already; a place settles at once.

        So a race is decided before anything else runs.
        """
        if isinstance(waiter, Task):
            if self._queue is None:
                self._queue = deque()
            self._queue.append((waiter, value, error))
        else:
            self._wake(waiter, value, error)

    def ended(self, task: Task, value: object, error: Exception | None) -> None:
        if task.parent is not None:
            del self._live[task]
            if task.place is not None:
                del task.place.begun[task]
            self.ready(task.parent, value, error)
        elif self._generators is None:
            self._end_function(value, error)
        else:
            self._result = (value, error)
            self._end_generators(self._generators)

    def cleaned_up(self, error: Exception | None) -> None:
        if self._failure is None:
            self._failure = error
        if self.main is not None and self.main.is_over and self._generators is not None:
            self._end_generators(self._generators)

    def made(self, call: Call[Any], caller: FrameType) -> Call[Any]:
        """Remember a call until it is awaited, or handed to a group that is."""
        self._unawaited[call] = (self.running, caller.f_code, caller.f_lasti)
        if isinstance(call, GroupCall):
            for branch in call.branches:
                if isinstance(branch, Call):
                    self._unawaited.pop(branch, None)
        return call

    def new_scope(self, id: str, caller: FrameType) -> Scope:
        """A scope, which is remembered until it is entered."""
        scope = Scope(id, self)
        self._unawaited[scope] = (self.running, caller.f_code, caller.f_lasti)
        return scope

    def entered(self, scope: Scope) -> Task:
        self._unawaited.pop(scope, None)
        task = self.running
        assert task is not None, scope
        scope.outer = innermost(task.scope)
        scope.name = name_in(scope, scope.outer)
        self._scopes = {} if self._scopes is None else self._scopes
        if scope.name in self._scopes:
            raise DefinitionError(f"scope id {scope.id!r} is used twice: give each one its own")
        self._scopes[scope.name] = None
        return task

    def left(self, _: Scope) -> bool:
        return self.running is not None and not self.running.is_dropped

    def undone(self, name: str) -> Waiter | None:
        """Who waits until a scope is undone; None where nobody does any more."""
        waiting = None if self._scopes is None else self._scopes.get(name)
        if self._scopes is None or waiting is None:
            return None
        self._scopes[name] = None
        waiter, call = waiting
        if waiter.place is not None:
            del waiter.place.begun[call]
        return waiter

    def want(self, waiter: Waiter, wanted: object) -> None:
        if not isinstance(wanted, Call):
            raise DefinitionError(
                f"a saga's function may only await what its context gives, not "
                f"{type(wanted).__name__}: {INSTEAD}"
            )
        if wanted.number:
            raise DefinitionError("one call of the context was awaited twice")
        wanted.number = self._number = self._number + 1
        self._unawaited.pop(wanted, None)
        match wanted:
            case StepCall():
                wanted.after = waiter.settled
                if waiter.scope is not None:
                    take_in(waiter.scope, wanted)
                self.steps[wanted.step] = (waiter, wanted)
                self.commands.append(wanted)
            case SleepCall():
                self.sleeps[wanted.name] = (waiter, wanted)
                self.commands.append(Sleep(wanted.name, wanted.length_us, wanted.until))
            case WaitCall() | UpdateCall() | NextCall():
                self.waits[wanted.wait] = (waiter, wanted)
                self.commands.append(wanted.awaits())
            case GroupCall():
                self._want_group(waiter, wanted)
                return
            case SignalCall():
                self.commands.append(wanted.signal)
                self.ready(waiter, None, None)
                return
            case ContinueCall():
                self._end_run(waiter, wanted)
                return
            case Leaving():
                assert self._scopes is not None, wanted
                self._scopes[wanted.scope] = (waiter, wanted)
                self.commands.append(LeaveScope(wanted.scope, wanted.failure))
            case _:
                self.ready(waiter, None, None)
                return
        if waiter.place is not None:
            waiter.place.begun[wanted] = None

    def _end_run(self, waiter: Waiter, call: ContinueCall) -> None:
        """The function is through with this run, wherever in it that is said."""
        others = (
            slot for place in places_of(waiter) for slot in place.group.slots if slot is not place
        )
        if not all(slot.is_settled for slot in others):
            raise DefinitionError(
                f"{call} in one branch of ctx.all or ctx.any, while others are under way: nothing "
                f"may be in flight when a run ends, so await it when the group is through"
            )
        if self._unawaited:
            self._check_awaited(self.running)
        self.outcome = (call, None)

    def slept(self, name: str) -> Waiter | None:
        """Who waits for the end of a sleep; None where a race was decided without it."""
        waiter, call = self.sleeps.pop(name, (None, None))
        if waiter is not None and call is not None and waiter.place is not None:
            del waiter.place.begun[call]
        return waiter

    def waited(self, wait: str) -> tuple[Waiter, Waiting]:
        """Who waited for a signal or event, which has come, or comes too late."""
        waiter, call = self.waits.pop(wait)
        if waiter.place is not None:
            del waiter.place.begun[call]
        return waiter, call

    def drop(self, lost: list[Slot]) -> None:
        """End branches for good, with all that is nested in them."""
        tasks: list[Task] = []
        calls: list[Call[Any]] = []
        while lost:
            slot = lost.pop()
            for begun in slot.begun:
                if isinstance(begun, Call):
                    calls.append(begun)
                elif isinstance(begun, Task):
                    tasks.append(begun)
                else:
                    begun.is_over = True
                    self.forgo(begun)
                    lost += begun.slots
            slot.begun = {}
        calls.sort(key=_number_of)
        steps = tuple(call.step for call in calls if isinstance(call, StepCall))
        sleeps = tuple(call.name for call in calls if isinstance(call, SleepCall))
        waits = tuple(call.wait for call in calls if isinstance(call, _WAITS))
        if self.unseen is not None:
            self.unseen.drop(steps)
        for name in sleeps:
            del self.sleeps[name]
        for name in waits:
            del self.waits[name]
        if self._scopes is not None:
            self._scopes |= {call.scope: None for call in calls if isinstance(call, Leaving)}
        self._end(sorted(tasks, key=_number_of))
        if calls:
            self.commands.append(DropBranch(steps, sleeps, waits))

    def close(self) -> None:
        """End all coroutines; whatever they still do is without consequence."""
        self._is_closed = True
        main = self.main
        if main is not None and (self._live or not main.is_over):
            with secluded():
                for group in list(self._waiting or ()):
                    self.forgo(group)
                self._end(list(self._live))
                main.is_over = main.is_dropped = True
                close(main.coroutine)
        for call in list(self._unawaited):
            self._forgo_branch(call)
        self._generators = None  # they know this scheduler, and it knows them

    def _end(self, tasks: Sequence[Task]) -> None:
        """Close branches, the innermost first; what they still ask for is not heard."""
        for task in tasks:
            task.is_over = task.is_dropped = True
            del self._live[task]
        commands, running = self.commands, self.running
        self.commands = []
        for task in reversed(tasks):
            self.running = task
            self.excuse(frames_of(task.coroutine))
            close(task.coroutine)
        self.commands, self.running = commands, running

    def excuse(self, frames: Iterable[FrameType]) -> None:
        """Forget the calls that somebody had at hand who failed or lost: they cannot be awaited."""
        if not self._unawaited:
            return
        for frame in frames:
            for held in frame.f_locals.values():
                for call in held if isinstance(held, (list, tuple)) else (held,):
                    if isinstance(call, (Call, Scope)) and call in self._unawaited:
                        del self._unawaited[call]
                        self._forgo_branch(call)

    def _check_awaited(self, ends: Task | None = None) -> None:
        """Refuse what was forgotten. Who failed or lost a race need not come to all it made.

        *ends* does not return, but is through, too.
        """
        for call, (maker, code, instruction) in self._unawaited.items():
            if maker is not None and (maker.returned or maker is ends):
                where = line_of(code, instruction)
                raise DefinitionError(advice(call), where=where) from None

    def _begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A hook of the interpreter: an async generator is asked for its first value."""
        assert isinstance(generator, AsyncGeneratorType), generator
        assert self.running is not None, generator
        watch_collector()
        known = {} if self._generators is None else self._generators
        if len(known) >= self._generators_max:
            known = {number: each for number, each in known.items() if each.open is not None}
            self._generators_max = max(GENERATORS_MIN, 2 * len(known))
        known.pop(id(generator), None)  # of one that has ended, and whose place this one has taken
        known[id(generator)] = Generator(generator, self.running)
        self._generators = known

    def _left(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A hook of the interpreter: nobody holds a generator any more that has not ended."""
        assert isinstance(generator, AsyncGeneratorType), generator
        known = None if self._generators is None else self._generators.get(id(generator))
        if known is None or known.owner.is_dropped or self._is_closed:
            return
        known.leave(generator)
        if self.running is not None and not is_collecting():
            self._clean_up(generator, known)

    def _end_generators(self, generators: dict[int, Generator]) -> None:
        """The function is through: so are its generators, and what they do at their end."""
        for known in list(generators.values()):
            generator = known.open
            if generator is not None and not known.owner.is_dropped:
                self._clean_up(generator, known)
        if not any(isinstance(task.parent, CleanUp) for task in self._live):
            value, error = self._result
            self._end_function(value, self._failure if error is None else error)

    def _end_function(self, value: object, error: Exception | None) -> None:
        self.outcome = (value, error)
        if error is None and self._unawaited:
            self._check_awaited()

    def _clean_up(self, generator: AsyncGeneratorType[Any, Any], known: Generator) -> None:
        assert self._generators is not None, generator
        del self._generators[id(generator)]
        self._begin(generator.aclose(), CleanUp(known.owner))

    def begin_branches(self, group: Group) -> None:
        """Begin the branches whose turn it is, in the order of definition."""
        if group.is_beginning:
            return  # one that is done at once: who begins it goes on
        group.is_beginning = True
        branches = group.call.branches
        try:
            while group.may_begin:
                slot, branch = group.slots[group.unbegun], branches[group.unbegun]
                group.unbegun += 1
                if isinstance(branch, Coroutine):
                    slot.task = self._begin(branch, slot)
                else:
                    self.want(slot, branch)
        except DefinitionError:
            self.forgo(group)
            raise
        group.is_beginning = False
        if group.unbegun < len(branches):
            self._waiting = self._waiting or {}
            self._waiting[group] = None

    def forgo(self, group: Group) -> None:
        """Close the branches that never began: nobody is to be warned that they were forgotten."""
        for branch in group.call.branches[group.unbegun :]:
            self._forgo_branch(branch)
        group.unbegun = len(group.slots)
        if self._waiting is not None:
            self._waiting.pop(group, None)

    def _forgo_branch(self, branch: Branch | Scope) -> None:
        if isinstance(branch, Coroutine):
            self.excuse(frames_of(branch))
            branch.close()
        elif isinstance(branch, GroupCall):
            for inner in branch.branches:
                self._forgo_branch(inner)

    def _want_group(self, waiter: Waiter, call: GroupCall) -> None:
        if not call.needed:
            for branch in call.branches:
                self._forgo_branch(branch)
            self.ready(waiter, (), None)
            return
        group = Group(call, waiter)
        if waiter.place is not None:
            waiter.place.begun[group] = None
        self.begin_branches(group)

    def _begin(self, coroutine: Coroutine[Any, Any, Any], parent: Waiter) -> Task:
        """Let a coroutine run after those that are ready already."""
        self._number += 1
        task = Task(coroutine, parent, self._number)
        self._live[task] = None
        if task.place is not None:
            task.place.begun[task] = None
        self.ready(task, None, None)
        return task


def _number_of(begun: Call[Any] | Task) -> int:
    return begun.number
