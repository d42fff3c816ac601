"""A durable function as a program: how things ended goes in, the function's wishes come out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel

from saga.authoring.declaration import Surroundings
from saga.authoring.failures import FAILURES, fail_of, step_failed
from saga.authoring.functions.calls import (
    ChildCall,
    ContinueCall,
    NextCall,
    UpdateCall,
    WaitCall,
)
from saga.authoring.functions.context import Context
from saga.authoring.functions.coroutines import awaits_at
from saga.authoring.functions.scheduler import Scheduler
from saga.authoring.functions.unseen import Unseen
from saga.authoring.functions.waiters import Held, Task, Waiter
from saga.authoring.messages import (
    RolledBack,
    not_known,
    outcome_message,
    read_event,
    read_payload,
    refusal_of_payload,
    rolled_back_message,
)
from saga.authoring.requests import Request
from saga.authoring.seclusion import secluded
from saga.authoring.source import place_of
from saga.authoring.steps import (
    Steps,
    read_reply,
    refusal_of_entered,
    refusal_of_reply,
    result_of_child,
    undo_of,
)
from saga.contracts import (
    Event,
    contract_of,
    message_of,
    read,
)
from saga.core.events import (
    Arrival,
    ChildEnded,
    EventReceived,
    Message,
    UpdateReceived,
)
from saga.core.identity import Instant, SagaId, StepId
from saga.core.program import (
    Command,
    ContinueAsNew,
    DoStep,
    Fail,
    Finish,
    Report,
    Show,
    StepFailure,
    TakePatch,
)
from saga.errors import DefinitionError, TimedOut

SagaFunction = Callable[[Context, Any], Coroutine[Any, Any, Event | None]]


class FunctionProgram:
    __slots__ = (
        *("_context", "_function", "_patches", "_registry", "_requests", "_rolled_back"),
        *("_scheduler", "_trigger", "_why_no_trigger", "patches"),
    )

    def __init__(
        self,
        saga_id: SagaId,
        key: str,
        *,
        function: SagaFunction,
        version: int,
        rolled_back: RolledBack | None,
        around: Surroundings,
        run: int,
    ) -> None:
        registry = self._registry = around.registry
        self._why_no_trigger = around.why_no_trigger
        self._function = function
        self._rolled_back = rolled_back
        self._scheduler = Scheduler()
        self._context = Context(
            saga_id,
            key,
            version,
            made=self._scheduler.made,
            program=self,
            run=run,
            new_scope=self._scheduler.new_scope,
            steps=Steps(registry, run),
            heard=around.heard,
        )
        self._trigger: BaseModel | None = None
        self._requests: list[tuple[Request[Any], Task, str]] | None = None
        """What is to be answered, by whom, and where it was asked for; None where nothing is."""
        self.patches: frozenset[str] | None = None
        self._patches: frozenset[str] = frozenset()
        """Those that were taken."""

    def start(self, trigger: Message, at: Instant) -> Sequence[Command]:
        """Call the function and run it to its first await."""
        self._trigger = read(self._registry, trigger)
        main = self._scheduler.main = Task(self._function(self._context, self._trigger), None)
        return self._run(main, None, None, at)

    def know_trigger(self, trigger: Message) -> None:
        self._trigger = read(self._registry, trigger)

    def succeeded(self, step: StepId, reply: Message | None, at: Instant) -> Sequence[Command]:
        waiter, call = self._scheduler.steps[step]
        waiter.settled = (step,)
        return self._run(
            waiter, None if reply is None else read_reply(self._registry, call, reply), None, at
        )

    def gave_out(
        self, step: StepId, failure: StepFailure, at: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        waiter, _ = self._scheduler.steps[step]
        waiter.settled = (step,)
        error = step_failed(step, failure, is_refused=is_refused)
        unseen = self._scheduler.unseen = self._scheduler.unseen or Unseen()
        unseen.tell(error)
        return self._run(waiter, None, error, at)

    def hold(self, step: StepId, at: Instant) -> Sequence[Command]:
        waiter, _ = self._scheduler.steps[step]
        return self._run(Held(waiter), None, None, at)

    def child_ended(self, step: StepId, ended: ChildEnded | None, at: Instant) -> Sequence[Command]:
        waiter, call = self._scheduler.steps[step]
        assert isinstance(call, ChildCall), call
        waiter.settled = (step,)
        result = result_of_child(self._registry, call, ended)
        if isinstance(result, Exception):
            return self._run(waiter, None, result, at)
        return self._run(waiter, result, None, at)

    def slept(self, name: str, at: Instant) -> Sequence[Command]:
        """Nobody may wait for it any more, when a group was decided without it."""
        waiter = self._scheduler.slept(name)
        return () if waiter is None else self._run(waiter, None, None, at)

    def arrived(self, wait: str, arrival: Arrival, at: Instant) -> Sequence[Command]:
        waiter, call = self._scheduler.waited(wait)
        value: object
        if isinstance(call, NextCall):
            value = self._read_event(call, arrival)
        else:
            value = read_payload(call.adapter, arrival.payload)
        if isinstance(call, UpdateCall):
            value = self._asked(waiter, call, arrival, value)
        return self._run(waiter, value, None, at)

    def timed_out(self, wait: str, at: Instant) -> Sequence[Command]:
        waiter, call = self._scheduler.waited(wait)
        kind: Literal["signal", "event", "update"] = "signal"
        if not isinstance(call, WaitCall):
            kind = "event" if isinstance(call, NextCall) else "update"
        return self._run(waiter, None, TimedOut(call.name, kind), at)

    def undone(self, scope: str, at: Instant) -> Sequence[Command]:
        waiter = self._scheduler.undone(scope)
        return () if waiter is None else self._run(waiter, None, None, at)

    def takes(self, _: Arrival) -> None:
        """Everything: what the function waits for next, nobody knows."""

    def place_of(self, step: StepId) -> str | None:
        return awaits_at(task_of(self._scheduler.steps[step][0]).coroutine)

    def stands_at(self, name: str | None) -> str | None:
        waits, sleeps = self._scheduler.waits, self._scheduler.sleeps
        found = (waits.get(name) or sleeps.get(name)) if name is not None else None
        task = self._scheduler.main if found is None else task_of(found[0])
        where = None if task is None else awaits_at(task.coroutine)
        return where or place_of(self._function)

    def accepts(self, wait: str, arrival: Arrival) -> bool:
        call = self._scheduler.waits[wait][1]
        assert isinstance(call, NextCall), call
        event = self._read_event(call, arrival)
        if not isinstance(event, call.classes):
            return False  # another version, which nobody reads as this one
        if call.where is None:
            return True
        with secluded():
            accepted = call.where(event)
        if not isinstance(accepted, bool):
            raise DefinitionError(
                f"the where of {call} gave {type(accepted).__name__}: expected True or False"
            )
        return accepted

    def policy_of(self, step: StepId) -> DoStep:
        return self._scheduler.steps[step][1]

    def refusal_of(self, wait: str, arrival: Arrival) -> str | None:
        _, call = self._scheduler.waits.get(wait, (None, None))
        if not isinstance(call, WaitCall | UpdateCall):
            return None
        return refusal_of_payload(call.adapter, arrival.payload)

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_reply(self._registry, self._scheduler.steps[step][1], reply)

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_entered(self._registry, self._scheduler.steps[step][1], reply)

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        return undo_of(self._registry, self._scheduler.steps[step][1], reply)

    def outcome_of(self, report: Report) -> Message | None:
        return rolled_back_message(self._registry, self._rolled_back, self._trigger, report)

    def take_patches(self, patches: Iterable[str]) -> None:
        self._patches = self._patches.union(patches)

    def snapshot(self) -> None:
        """A coroutine cannot be told."""

    def restore(self, snapshot: Mapping[str, Any], trigger: Message) -> None:
        raise AssertionError((snapshot, trigger))

    def close(self) -> None:
        context = self._context
        context._is_over = True  # noqa: SLF001  # the context is ours; users see no setter
        self._scheduler.close()
        self._requests = None
        # Program and context know each other: without this every saga waits for the collector.
        context._program = CLOSED  # noqa: SLF001  # as above

    def _run(
        self, waiter: Waiter, value: object, error: Exception | None, at: Instant
    ) -> Sequence[Command]:
        self._context._at = at  # noqa: SLF001  # the context is ours; users see no setter
        scheduler = self._scheduler
        commands = scheduler.run(waiter, value, error)
        if scheduler.outcome is not None:
            self._context._is_over = True  # noqa: SLF001  # as above
            commands.append(self._ending(*scheduler.outcome))
        elif scheduler.unseen is not None:
            scheduler.unseen.end_run()
        return _shown_at_once(commands)

    def _ending(self, value: object, error: Exception | None) -> Command:
        if error is None:
            _check_answered(self._requests or ())
            if isinstance(value, ContinueCall):
                return ContinueAsNew(value.trigger)
            return Finish(outcome_message(self._registry, value))
        if not isinstance(error, FAILURES):
            raise error
        failure, unseen = fail_of(error), self._scheduler.unseen
        stands = None if unseen is None else unseen.stand_before(error)
        if unseen is None or stands is None:
            return failure
        return replace(failure, again=unseen.again(stands), stands=stands)

    def next_run(self, trigger: Event) -> ContinueCall:
        contract = contract_of(trigger)
        if type(trigger) is not contract.model:
            name = contract.model.__name__
            raise DefinitionError(
                f"ctx.continue_as_new takes an Event and was given a class: fill in {name}(…)"
            )
        if contract.contract_name not in self._registry:
            raise not_known(contract)
        message = message_of(trigger)
        with secluded():  # a key function, and an upcast to the version that the saga starts on
            current = read(self._registry, message)
            problem = self._why_no_trigger(current, self._context.key)
        if problem is not None:
            raise DefinitionError(f"ctx.continue_as_new({type(trigger).__name__}(…)): {problem}")
        return ContinueCall(message)

    def _asked(
        self, waiter: Waiter, call: UpdateCall[Any], received: Arrival, payload: object
    ) -> Request[Any]:
        """What the function is given of an update, which it is to answer."""
        assert isinstance(received, UpdateReceived), received
        request: Request[Any] = Request(received, payload, self.say)
        still_open = [each for each in self._requests or () if not each[0].is_answered]
        self._requests = [*still_open, (request, task_of(waiter), call.place)]
        return request

    def say(self, command: Command) -> None:
        self._scheduler.commands.append(command)

    def patched(self, patch: str) -> bool:
        if patch in self._patches:
            return True
        running = self._scheduler.running
        if running is None or running.is_dropped:
            return False  # nobody hears what is asked while a branch is closed
        if self.patches is not None and patch not in self.patches:
            return False
        self.take_patches([patch])
        self._scheduler.commands.append(TakePatch(patch))
        return True

    def _read_event(self, call: NextCall[Any], arrival: Arrival) -> BaseModel:
        """The event in its current version; it was accepted, if not by today's contract."""
        assert isinstance(arrival, EventReceived), arrival
        if call.read is None or call.read[0] is not arrival:
            call.read = (arrival, read_event(self._registry, arrival))
        return call.read[1]


class _Closed:
    """Answers in the place of a program that is closed: nothing that its code still asks counts."""

    __slots__ = ()

    def say(self, _: Command) -> None: ...

    def patched(self, _: str) -> bool:
        return False

    def next_run(self, trigger: Event) -> ContinueCall:
        return ContinueCall(message_of(trigger))


CLOSED: Final = _Closed()


def task_of(waiter: Waiter) -> Task:
    """The coroutine that goes on with what *waiter* waits for."""
    while not isinstance(waiter, Task):
        assert waiter.parent is not None, waiter
        waiter = waiter.parent
    return waiter


def _shown_at_once(commands: list[Command]) -> list[Command]:
    """*commands* with one entry for all that is shown, and one for what may not stand of it."""
    failure = commands[-1] if commands else None
    if not isinstance(failure, Fail):
        return _merged(commands)
    standing = _merged(commands[: failure.stands])
    passing = _merged(commands[failure.stands : -1])
    return [*standing, *passing, replace(failure, stands=len(standing))]


def _merged(commands: list[Command]) -> list[Command]:
    shows = [command for command in commands if isinstance(command, Show)]
    for show in shows[1:]:
        shows[0].fields |= show.fields
        commands.remove(show)
    return commands


def _check_answered(requests: Iterable[tuple[Request[Any], Task, str]]) -> None:
    """Refuse an end that leaves a request open. Who failed or lost a race need not answer."""
    for request, task, place in requests:
        if not request.is_answered and (task.returned or task.parent is None):
            raise DefinitionError(
                f"{request} ({request.id}) was never answered: call request.answer(…) or "
                f"request.refuse(…) before the function ends",
                where=place,
            )
