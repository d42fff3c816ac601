"""A durable function as a program: how things ended goes in, the function's wishes come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError

from saga.authoring.declaration import RolledBack, Surroundings
from saga.authoring.functions.calls import (
    ChildCall,
    ContinueCall,
    NextCall,
    StepCall,
    UpdateCall,
    WaitCall,
)
from saga.authoring.functions.children import not_known, outcome_of, rolled_back
from saga.authoring.functions.context import Context
from saga.authoring.functions.failures import FAILURES, fail_of
from saga.authoring.functions.requests import Request
from saga.authoring.functions.scheduler import Held, Scheduler, Task, Waiter
from saga.authoring.functions.unseen import Unseen
from saga.authoring.mapping import fill, fill_report
from saga.authoring.seclusion import secluded
from saga.contracts import (
    Event,
    Intent,
    Unreadable,
    contract_of,
    decode,
    encode,
    message_of,
    read,
    read_accepted_as,
)
from saga.core.events import (
    Arrival,
    ChildEnded,
    ChildStatus,
    EventReceived,
    Json,
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
from saga.core.texts import storable
from saga.errors import DefinitionError, StepFailed, TimedOut

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
            is_known=registry.paths.__contains__,
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
        return self._run(waiter, None if reply is None else self._read(call, reply), None, at)

    def gave_out(
        self, step: StepId, failure: StepFailure, at: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        waiter, _ = self._scheduler.steps[step]
        waiter.settled = (step,)
        error = StepFailed(
            step,
            code=failure.code or ("refused" if is_refused else "failed"),
            message=failure.message,
            refused=is_refused,
            details=None if failure.details is None else json.loads(failure.details),
        )
        unseen = self._scheduler.unseen = self._scheduler.unseen or Unseen()
        commands = self._run(waiter, None, error, at)
        if commands and isinstance(commands[-1], Fail):
            again = {**unseen.words(), step: failure.message}
            return [*commands[:-1], replace(commands[-1], again=again, stands=0)]
        unseen.tell(step, error, commands=len(commands))
        return commands

    def hold(self, step: StepId, at: Instant) -> Sequence[Command]:
        waiter, _ = self._scheduler.steps[step]
        return self._run(Held(waiter), None, None, at)

    def child_ended(self, step: StepId, ended: ChildEnded | None, at: Instant) -> Sequence[Command]:
        waiter, call = self._scheduler.steps[step]
        assert isinstance(call, ChildCall), call
        waiter.settled = (step,)
        if ended is None:
            return self._run(waiter, None, TimedOut(step, "child"), at)
        if ended.status is ChildStatus.COMPLETED:
            return self._run(waiter, outcome_of(call, ended.outcome, self._registry), None, at)
        return self._run(waiter, None, rolled_back(step, ended), at)

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
            value = _read_payload(call, arrival.payload)
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

    def refusal_of(self, wait: str, payload: Json) -> str | None:
        _, call = self._scheduler.waits.get(wait, (None, None))
        if not isinstance(call, WaitCall | UpdateCall):
            return None
        try:
            with secluded():
                call.adapter.validate_json(payload)
        except ValidationError as invalid:
            problem = invalid.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "payload"
            return storable(f"{place}: {problem['msg']}")
        except UnicodeEncodeError:
            return "payload: it is refused, with a text that is no UTF-8"
        return None

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        call = self._scheduler.steps[step][1]
        name = None if reply is None else reply.contract
        if name in self._registry.replies[call.contract]:
            return None
        expected = contract_of(call.intent).reply
        if expected is None:
            return f"it has no reply of its own, not {name}"
        answer = f"it is answered by {contract_of(expected).contract_name}"
        return answer if name is None else f"{answer}, not {name}"

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        refusal = self.refusal_of_reply(step, reply)
        if refusal is not None or reply is None:
            return refusal
        found = decode(self._registry, reply.contract, reply.payload.encode())
        return storable(found.message) if isinstance(found, Unreadable) else None

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        _, call = self._scheduler.steps[step]
        replied = None if reply is None else self._read(call, reply)
        undo = call.undo
        assert undo is not None, step
        intent: object
        if isinstance(undo, type):
            intent = fill(undo, call.intent, replied)
        else:
            with secluded():
                intent = undo(call.intent, replied)
        if not isinstance(intent, Intent):
            raise DefinitionError(f"the undo of {step} gave {type(intent).__name__}, no Intent")
        contract = contract_of(intent)
        name = contract.contract_name
        if name not in self._registry:
            raise DefinitionError(f"the undo of {step}: {not_known(contract)}")
        return Message(name, encode(intent))

    def outcome_of(self, report: Report) -> Message | None:
        if self._rolled_back is None or self._trigger is None:
            return None
        if isinstance(self._rolled_back, type):
            return self._message(fill_report(self._rolled_back, self._trigger, report))
        with secluded():
            outcome = self._rolled_back(self._trigger, report)
        return self._message(outcome)

    def take_patches(self, patches: Iterable[str]) -> None:
        self._patches = self._patches.union(patches)

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
            scheduler.unseen.end_run(len(commands))
        return commands

    def _ending(self, value: object, error: Exception | None) -> Command:
        if error is None:
            _check_answered(self._requests or ())
            if isinstance(value, ContinueCall):
                return ContinueAsNew(value.trigger)
            return Finish(self._message(value))
        if not isinstance(error, FAILURES):
            raise error
        failure = fail_of(error)
        scheduler = self._scheduler
        if scheduler.unseen is None or not isinstance(error, StepFailed):
            return failure
        stands = scheduler.unseen.stands_before(error, commands=len(scheduler.commands))
        if stands is None:
            return failure
        return replace(failure, again=scheduler.unseen.words(), stands=stands)

    def _message(self, outcome: object) -> Message | None:
        if outcome is None:
            return None
        if not isinstance(outcome, Event):
            raise DefinitionError(
                f"a saga's outcome is an Event or None, not {type(outcome).__name__}"
            )
        contract = contract_of(outcome)
        if contract.contract_name not in self._registry:
            raise not_known(contract)
        return message_of(outcome)

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
        commands = self._scheduler.commands
        if isinstance(command, Show):  # one entry a turn, whatever is shown on the way
            if commands and isinstance(first := commands[0], Show):
                first.fields |= command.fields
            else:
                commands.insert(0, command)
            return
        commands.append(command)

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
            message = Message(arrival.contract, arrival.payload)
            call.read = (arrival, read(self._registry, message))
        return call.read[1]

    def _read(self, call: StepCall[Any], reply: Message) -> BaseModel:
        if call.replied is None or call.reply != reply:
            call.reply, call.replied = reply, read(self._registry, reply)
        return call.replied


def _read_payload(call: WaitCall[Any] | UpdateCall[Any], payload: Json) -> object:
    """What a wait takes: it was accepted, if not by today's model then by an earlier one."""
    try:
        return call.adapter.validate_json(payload)
    except Exception:  # noqa: BLE001  # validators are user code
        return read_accepted_as(call.adapter, payload)


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


def _check_answered(requests: Iterable[tuple[Request[Any], Task, str]]) -> None:
    """Refuse an end that leaves a request open. Who failed or lost a race need not answer."""
    for request, task, place in requests:
        if not request.is_answered and (task.returned or task.parent is None):
            raise DefinitionError(
                f"{request} ({request.id}) was never answered: call request.answer(…) or "
                f"request.refuse(…) before the function ends",
                where=place,
            )
