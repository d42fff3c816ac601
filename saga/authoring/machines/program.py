"""A machine as a program: how things ended goes in, and what its states give comes out.

Theory of operation: there is one state at a time. What comes is looked up in its row of the table;
`handle` chooses what follows. Replies that only a state ahead takes are kept here, in order; what
comes from outside is kept by the kernel, for the one wait that each state has for all its names.
A replay goes through the same states again; a snapshot has where it stands as data.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final, cast

from pydantic import BaseModel

from saga.authoring.declaration import Surroundings
from saga.authoring.exact import NoData, from_text, to_text
from saga.authoring.failures import fail_of
from saga.authoring.machines import acts
from saga.authoring.machines.acts import ACT_CLASSES, Act, StepDone
from saga.authoring.machines.flow import Flow
from saga.authoring.machines.inlets import Inlet, Models
from saga.authoring.machines.states import State, entering, handling
from saga.authoring.machines.table import Table
from saga.authoring.messages import (
    RolledBack,
    adapter_of,
    outcome_message,
    read_event,
    read_payload,
    refusal_of_payload,
    rolled_back_message,
)
from saga.authoring.requests import Request
from saga.authoring.seclusion import secluded
from saga.authoring.source import named_functions, place_of
from saga.authoring.steps import (
    AuthoredStep,
    ChildStep,
    Steps,
    UndoSpec,
    read_reply,
    refusal_of_entered,
    refusal_of_reply,
    result_of_child,
    undo_of,
)
from saga.authoring.told_steps import (
    StepTable,
    class_to_plain,
    failure_from_plain,
    failure_to_plain,
    message_from_plain,
    message_to_plain,
)
from saga.authoring.turn_context import TurnContext
from saga.contracts import ContractRegistry, Event, Intent, canonical, read
from saga.core.events import (
    Arrival,
    ChildEnded,
    EventReceived,
    Json,
    Message,
    SignalReceived,
    UpdateReceived,
)
from saga.core.identity import Instant, SagaId, StepId
from saga.core.program import (
    Await,
    Command,
    ContinueAsNew,
    DoStep,
    DropBranch,
    Fail,
    Finish,
    Refuse,
    RefuseKept,
    Report,
    Show,
    Sleep,
    StepFailure,
)
from saga.core.runs import prefix
from saga.core.values import value
from saga.errors import ChildRolledBack, DefinitionError, RollBack, StepFailed, TimedOut

Failure = StepFailed | TimedOut | ChildRolledBack
ILLEGAL: Final = "illegal"
"""The code of the answer to an update that led where the table does not."""
STATE_SHOWN: Final = "state"
"""The field of what people see that names the state."""


@value(kw_only=True)
class Machine:
    """What all runs of one machine share."""

    version: int
    start: Callable[..., Any]
    table: Table
    inlets: Mapping[type[State], Inlet]
    signals: Models
    updates: Models
    rolled_back: RolledBack | None


class MachineProgram:
    __slots__ = (
        *("_around", "_asked", "_commands", "_context", "_ending", "_failed", "_flow"),
        *("_giver", "_givers", "_is_left_behind", "_is_over", "_is_own", "_kept", "_machine"),
        *("_numbers", "_prefix", "_refused", "_shown", "_sleep", "_state", "_steps"),
        *("_to_make", "_trigger", "_wait", "__weakref__", "patches"),
    )

    def __init__(
        self, saga_id: SagaId, key: str, *, machine: Machine, around: Surroundings, run: int
    ) -> None:
        self._machine = machine
        self._around = around
        self._context = TurnContext(saga_id, key, machine.version, program=self, run=run)
        self._prefix = prefix(run)
        self._to_make = Steps(around.registry, run)
        self._steps = StepTable[AuthoredStep]()
        self._givers: dict[StepId, Callable[..., Any]] = {}
        self._flow = Flow()
        self._state: State | None = None
        self._giver: Callable[..., Any] = machine.start
        """Whose acts are done."""
        self._is_own, self._is_left_behind = True, False
        """Of this turn: whether its event is the machine's own; whether something from outside that
        could be taken before it cannot be taken any more."""
        self._refused: Refuse | None = None
        self._is_over = False
        """Nothing comes to a state any more."""
        self._kept: list[tuple[StepId, object]] = []
        """What own steps came to that a state ahead takes, in order."""
        self._wait: str | None = None
        self._sleep: str | None = None
        self._numbers: dict[str, int] = {}
        """How many waits and timeouts each state has had."""
        self._commands: list[Command] = []
        self._shown: str | None = None
        self._asked: Request[Any] | None = None
        """The update that is handled."""
        self._failed: tuple[StepId, Failure] | None = None
        """The failure that is handled, and its step."""
        self._ending: Finish | ContinueAsNew | None = None
        self._trigger: BaseModel | None = None
        self.patches: frozenset[str] | None = None

    def start(self, trigger: Message, at: Instant) -> Sequence[Command]:
        was_held = self._trigger is not None
        self.know_trigger(trigger)
        start, first = self._machine.start, self._machine.table.first
        self._begin(at)
        self._is_left_behind = was_held or bool(self._prefix)  # in a pause, by an earlier run
        with secluded():
            state, given = self._called(start, self._trigger)
            if type(state) not in first:
                raise DefinitionError(
                    f"{start.__name__} gave {type(state).__name__}: it is annotated with "
                    f"{_names(first)}",
                    where=place_of(start),
                )
            self._enter(state, start, given)
            return self._end()

    def know_trigger(self, trigger: Message) -> None:
        self._trigger = read(self._registry, trigger)

    def succeeded(self, step: StepId, reply: Message | None, at: Instant) -> Sequence[Command]:
        issued = self._steps[step]
        if reply is None:
            return self._own(step, StepDone(self._told(step), issued.intent), at)
        event = read_reply(self._registry, issued, reply)
        assert isinstance(event, Event), event
        return self._own(step, event, at)

    def gave_out(
        self, step: StepId, failure: StepFailure, at: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        details = None if failure.details is None else json.loads(failure.details)
        failed = StepFailed(
            self._told(step),
            code=failure.code or ("refused" if is_refused else "failed"),
            message=failure.message,
            refused=is_refused,
            details=details,
            intent=self._steps[step].intent,
        )
        return self._own(step, failed, at)

    def child_ended(self, step: StepId, ended: ChildEnded | None, at: Instant) -> Sequence[Command]:
        issued = self._steps[step]
        assert isinstance(issued, ChildStep), issued
        result = result_of_child(self._registry, issued, ended)
        if result is None:
            return self._own(step, StepDone(self._told(step), issued.intent), at)
        return self._own(step, result, at)

    def hold(self, _: StepId, __: Instant) -> Sequence[Command]:
        return ()

    def slept(self, name: str, at: Instant) -> Sequence[Command]:
        if name != self._sleep or self._is_over:
            return ()
        self._begin(at)
        self._sleep = None
        with secluded():
            self._take(TimedOut(*self._inlet.late), step=None)
            return self._end()

    def arrived(self, wait: str, arrival: Arrival, at: Instant) -> Sequence[Command]:
        if self._is_over:
            return ()  # it has parked on its way back
        self._begin(at)
        self._wait = None
        event, taken = self._read(arrival)
        self._is_own = False
        if isinstance(arrival, UpdateReceived):
            self._asked = Request(arrival, event, self.say)
        assert taken in self._row, (wait, arrival)
        with secluded():
            self._handle(event, taken)
            self._check_answered()
            return self._end()

    def timed_out(self, wait: str, _: Instant) -> Sequence[Command]:
        raise AssertionError(wait)  # a state's timeout is a sleep

    def undone(self, scope: str, _: Instant) -> Sequence[Command]:
        raise AssertionError(scope)  # there are none

    def policy_of(self, step: StepId) -> DoStep:
        return self._steps[step]

    def place_of(self, step: StepId) -> str | None:
        return place_of(self._givers[step])

    def stands_at(self, _: str | None) -> str | None:
        return place_of(self._giver)

    def accepts(self, _: str, arrival: Arrival) -> bool:
        """Another version of an event may come, which nobody reads as this one."""
        if not isinstance(arrival, EventReceived):
            return True
        return _class_in(self._row, read_event(self._registry, arrival)) is not None

    def takes(self, arrival: Arrival) -> str | None:
        """Why neither this state nor one ahead takes what has come; None where one does."""
        state = self._state
        if state is None:
            return None
        row, ahead = self._row, self._machine.table.ahead[type(state)]
        name = type(state).__name__
        if self._is_over:
            return f"{name} is final"
        if isinstance(arrival, EventReceived):
            event = read_event(self._registry, arrival)
            is_taken = any(_class_in(each, event) for each in (row, ahead))
            return None if is_taken else _not_ahead(name, type(event).__name__)
        if isinstance(arrival, SignalReceived):
            model = self._machine.signals.get(arrival.name)
            if model is None or not (model in row or model in ahead):
                return _not_ahead(name, f"signal {arrival.name!r}")
        else:
            model = self._machine.updates.get(arrival.name)
            if model is None or model not in row:
                return f"{name} does not take update {arrival.name!r}"
        return refusal_of_payload(adapter_of(model), arrival.payload)

    def refusal_of(self, _: str, arrival: Arrival) -> str | None:
        return self.takes(arrival)

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_reply(self._registry, self._steps[step], reply)

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_entered(self._registry, self._steps[step], reply)

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        return undo_of(self._registry, self._steps[step], reply)

    def outcome_of(self, report: Report) -> Message | None:
        rolled_back = self._machine.rolled_back
        return rolled_back_message(self._registry, rolled_back, self._trigger, report)

    def take_patches(self, _: Iterable[str]) -> None:
        """A machine asks for none."""

    def snapshot(self) -> Mapping[str, Any] | None:
        try:
            return None if self._state is None else self._to_plain(self._state)
        except NoData:
            return None

    def restore(self, snapshot: Mapping[str, Any], trigger: Message) -> None:
        told, machine, registry = snapshot, self._machine, self._registry
        states = {each.__name__: each for each in machine.table.states}
        givers = {name: each for each, name in _givers(machine).items()}
        with secluded():
            self._trigger = read(registry, trigger)
            self._state = from_text(states[told["state"][0]], told["state"][1])
            self._steps.take(registry, told["steps"], _made, self._finish)
            self._kept = [(StepId(step), self._kept_from(step, it)) for step, it in told["kept"]]
        self._givers = {StepId(step): givers[name] for step, name in told["givers"].items()}
        self._giver = givers[told["giver"]]
        self._flow.take(told["flow"])
        self._wait, self._sleep, self._shown = told["waits"]
        self._is_over, self._numbers = told["over"], told["numbers"]
        self._to_make.numbers = told["ids"]
        self._context._counters = told["counters"]  # noqa: SLF001  # as below

    def say(self, command: Command, /) -> None:
        self._commands.append(command)

    def close(self) -> None:
        # Program and context know each other: without this every saga waits for the collector.
        self._context._program = CLOSED  # noqa: SLF001  # the context is ours; users see no setter
        self._asked = None

    def _to_plain(self, state: State) -> dict[str, Any]:
        """Where it stands, as JSON; NoData where that cannot be told."""
        givers = _givers(self._machine)
        return {
            "state": [type(state).__name__, to_text(state)],
            "steps": self._steps.to_plain(self._registry, self._more_of),
            "kept": [[step, self._kept_to(event)] for step, event in self._kept],
            "givers": {step: givers[giver] for step, giver in self._givers.items()},
            "giver": givers[self._giver],
            "flow": self._flow.to_plain(),
            "waits": [self._wait, self._sleep, self._shown],
            "over": self._is_over,
            "numbers": self._numbers,
            "ids": self._to_make.numbers,
            "counters": self._context._counters,  # noqa: SLF001  # as above
        }

    def _more_of(self, step: AuthoredStep) -> list[Any]:
        """What only a machine knows of a step: its undo, or what its child is to end with."""
        registry, undo = self._registry, step.undo
        if isinstance(step, ChildStep):
            outcome = step.outcome
            return ["child", outcome and class_to_plain(registry, outcome)]
        if undo is None or isinstance(undo, type):
            return ["class", undo and class_to_plain(registry, undo)]
        functions = named_functions(tuple(_givers(self._machine)))
        name = f"{undo.__module__}.{getattr(undo, '__qualname__', '')}"
        if functions.get(name) is not undo:
            raise NoData(name)
        return ["function", name]

    def _finish(self, step: AuthoredStep, more: list[Any]) -> None:
        """Give a step what `_more_of` has told of it."""
        kind, name = more
        registry = self._registry
        if isinstance(step, ChildStep):
            step.outcome = name and cast("type[Event]", registry.find(name).model)
        elif kind == "function":
            step.undo = named_functions(tuple(_givers(self._machine)))[name]
        elif name is not None:
            step.undo = cast("UndoSpec", registry.find(name).model)

    def _kept_to(self, event: object) -> list[Any]:
        match event:
            case StepDone():
                return ["done"]
            case StepFailed() | TimedOut() | ChildRolledBack():
                return failure_to_plain(event)
            case _:
                assert isinstance(event, Event), event
                return ["event", message_to_plain(self._registry, event)]

    def _kept_from(self, step: StepId, told: list[Any]) -> object:
        match told:
            case ["done"]:
                return StepDone(self._told(step), self._steps[step].intent)
            case ["event", message]:
                return message_from_plain(self._registry, message)
        failure = failure_from_plain(told)
        if isinstance(failure, StepFailed):
            failure.intent = self._steps[step].intent
        return failure

    @property
    def _registry(self) -> ContractRegistry:
        return self._around.registry

    @property
    def _row(self) -> Mapping[type, tuple[type[State], ...]]:
        return self._machine.table.takes(type(self._state)) if self._state else {}

    @property
    def _inlet(self) -> Inlet:
        return self._machine.inlets[type(self._state)]  # type: ignore[index]  # asked in a state

    def _begin(self, at: Instant) -> None:
        self._context._at = at  # noqa: SLF001  # as above
        self._commands = []
        self._asked = self._failed = None
        self._is_own, self._is_left_behind, self._refused = True, False, None

    def _end(self) -> Sequence[Command]:
        """Take what was kept for the states that came, wait for what comes next, and say so."""
        while self._kept and not self._is_over and (kept := self._next_kept()) is not None:
            self._failed, self._is_own = None, True
            self._handle(kept, _class_in(self._row, kept))
        if not self._is_over:
            self._await()
            if self._refused is not None:
                self.say(self._refused)  # never right behind the fact: what was taken is waited for
            if self._is_left_behind:
                self.say(RefuseKept())
        assert self._state is not None
        shown = type(self._state).__name__
        if shown != self._shown:
            self._shown = shown
            self._commands.insert(0, Show({STATE_SHOWN: _json_of(shown)}))
        commands, self._commands = self._commands, []
        return commands

    def _read(self, arrival: Arrival) -> tuple[object, type | None]:
        """What has come, and the class under which rows have it."""
        if isinstance(arrival, EventReceived):
            event = read_event(self._registry, arrival)
            return event, _class_in(self._row, event)
        is_signal = isinstance(arrival, SignalReceived)
        models = self._machine.signals if is_signal else self._machine.updates
        model = models[arrival.name]
        return read_payload(adapter_of(model), arrival.payload), model

    def _own(
        self, step: StepId, event: Event | StepDone | Failure, at: Instant
    ) -> Sequence[Command]:
        """A step of this saga has settled."""
        self._begin(at)
        self._flow.settle(step)
        if self._is_over:
            return ()
        with secluded():
            self._take(event, step)
            return self._end()

    def _take(self, event: Event | StepDone | Failure, step: StepId | None) -> None:
        """Handle what is the machine's own; keep it; or roll back, or leave it at that."""
        state = self._state
        assert state is not None, event
        taken = _class_in(self._row, event)
        if isinstance(event, StepFailed | TimedOut | ChildRolledBack):
            self._failed = None if step is None else (step, event)
            if taken is None:
                self._fail(fail_of(event))
                return
        if taken is not None:
            self._handle(event, taken)
        elif step is not None and _class_in(self._machine.table.ahead[type(state)], event):
            self._kept.append((step, event))

    def _next_kept(self) -> object | None:
        """The oldest that the state takes; what no state ahead takes is forgotten."""
        for number, (_, event) in enumerate(self._kept):
            if _class_in(self._row, event) is not None:
                del self._kept[number]
                return event
        ahead = self._machine.table.ahead[type(self._state)]  # type: ignore[index]  # as above
        self._kept = [each for each in self._kept if _class_in(ahead, each[1]) is not None]
        return None

    def _handle(self, event: object, taken: type | None) -> None:
        state = self._state
        assert state is not None, event
        assert taken is not None, event
        handle = handling(type(state))
        assert handle is not None, state
        following, given = self._called(handle, state, event)
        allowed = self._row[taken]
        if type(following) not in allowed:
            why = f"{taken.__name__} allows {_names(allowed)}"
            self._refuse(state, following, why)
        elif type(following) is type(state):
            self._state = following
            self._do(handle, given)
        else:
            self._enter(following, handle, given)

    def _refuse(self, state: State, following: State, why: str) -> None:
        """The table does not allow what `handle` gave: nothing of it happens.

        What came from outside is refused, and the state waits on. Of the machine's own nothing else
        would come, so it parks.
        """
        subject = f"{type(state).__name__} → {type(following).__name__}"
        if self._is_own:
            handle = handling(type(state))
            assert handle is not None, state
            raise DefinitionError(f"{subject} is no row: {why}", where=place_of(handle))
        self._refused = Refuse(subject, why)
        if self._asked is not None:
            self._asked.refuse(ILLEGAL, f"{subject}: {why}")

    def _enter(self, state: State, giver: Callable[..., Any], given: tuple[Act, ...]) -> None:
        """Leave a state and enter another, of another class; or the first. *giver* gave it."""
        is_final = self._machine.table.is_final(type(state))
        kind = type(state)
        enter = entering(kind)
        if not is_final:
            self._leave(kind)
        self._state = state
        self._is_over = is_final
        self._do(giver, given)
        if enter is not None:
            self._do(enter, _acts(enter, self._call(enter, state)))
        if kind.__saga_rolls_back__:
            self._roll_back(state)
        elif is_final:
            self.say(self._ending or Finish(None))
        elif kind.__saga_timeout_us__ is not None:
            self._sleep = self._name(kind, "timeout")
            self.say(Sleep(self._sleep, kind.__saga_timeout_us__))

    def _leave(self, following: type[State]) -> None:
        """End the wait and the timeout of a state; at an end the kernel does so."""
        if self._state is not None and not self._is_left_behind:
            inlets = self._machine.inlets
            self._is_left_behind = not self._inlet.outlook <= inlets[following].outlook
        if self._sleep is None and self._wait is None:
            return
        sleeps = () if self._sleep is None else (self._sleep,)
        waits = () if self._wait is None else (self._wait,)
        self._sleep = self._wait = None
        self.say(DropBranch((), sleeps, waits))

    def _await(self) -> None:
        inlet = self._inlet
        if self._wait is None and inlet.is_open:
            self._wait = self._name(type(self._state), "wait")
            self.say(
                Await(
                    self._wait,
                    None,
                    signals=inlet.signals,
                    contracts=inlet.contracts,
                    updates=inlet.updates,
                    selects=inlet.selects,
                )
            )

    def _name(self, state: type, of: str) -> str:
        """A name for a wait or a timeout, of which a state may have several in a run."""
        counter = f"{of} {state.__name__}"
        number = self._numbers[counter] = self._numbers.get(counter, 0) + 1
        return f"{self._prefix}{state.__name__}-{number}"

    def _roll_back(self, state: State) -> None:
        name = type(state).__name__
        reason, code = getattr(state, "reason", None), getattr(state, "code", None)
        self._fail(fail_of(RollBack(reason or name, code=code or "rolled_back")))

    def _fail(self, fail: Fail) -> None:
        """Roll back; where a step's failure led to it, that may be tried again past the pivot."""
        self._is_over = True
        if self._failed is not None:
            step, failure = self._failed
            again = {step: failure.message} if isinstance(failure, StepFailed) else {}
            fail = replace(fail, failed_step=step, again=again, stands=0)
        self.say(fail)

    def _do(self, function: Callable[..., Any], given: tuple[Act, ...]) -> None:
        if not given:
            return
        self._giver = function
        try:
            for act in given:
                self._act(act)
        except DefinitionError as refusal:
            refusal.where = refusal.where or place_of(function)
            raise

    def _act(self, act: Act) -> None:
        match act:
            case Intent():
                self._issue(self._to_make.do(AuthoredStep, act, call="do"))
            case acts.Do():
                self._issue(
                    self._to_make.do(
                        AuthoredStep,
                        act.intent,
                        undo=act.undo,
                        id=act.id,
                        kind=act.kind,
                        retry=act.retry,
                        timeout=act.timeout,
                        undo_retry=act.undo_retry,
                        call="do",
                    )
                )
            case acts.StartChild(trigger=trigger, outcome=outcome, timeout=timeout, id=id):
                begins = self._to_make.child
                self._issue(
                    begins(
                        ChildStep, trigger, outcome=outcome, timeout=timeout, id=id, call="child"
                    )
                )
            case Event() if self._is_over:
                self._end_with(act)
            case Event():
                self.say(self._to_make.publish(act, "publish"))
            case acts.Publish():
                self.say(self._to_make.publish(act.event, "publish"))
            case acts.Tell():
                self.say(self._to_make.tell(act.intent, "tell"))
            case acts.Drop():
                self._drop(act.step)
            case acts.Continue():
                self._continue(act.trigger)
            case acts.Answer():
                self._request("answer(…)").answer(act.value)
            case acts.Refuse():
                self._request("refuse(…)").refuse(act.code, act.message)

    def _issue(self, step: AuthoredStep) -> None:
        if self._is_over:
            raise DefinitionError(
                f"step {step.step!r} is issued on entering {type(self._state).__name__}, which is "
                f"final: nothing waits for it there; issue it before, or tell(…) it"
            )
        step.after = self._flow.begin(step.step)
        self._steps[step.step] = step
        self._givers[step.step] = self._giver
        self.say(step)

    def _drop(self, id: str) -> None:
        step = StepId(self._prefix + id)
        steps = self._steps.ids()
        if step not in steps:
            known = ", ".join(map(self._told, steps)) or "none was issued"
            raise DefinitionError(f"drop({id!r}): there is no such step: {known}")
        self._kept = [each for each in self._kept if each[0] != step]
        self.say(DropBranch((step,)))

    def _end_with(self, outcome: Event) -> None:
        name, state = type(outcome).__name__, type(self._state)
        if state.__saga_rolls_back__:  # type: ignore[union-attr]  # as above
            raise DefinitionError(
                f"{name} beside {state.__name__}, which rolls back: its outcome is that of "
                f"@machine(rolled_back=…); for another fact write publish({name}(…))"
            )
        if self._ending is not None:
            raise DefinitionError(
                f"{name} beside {state.__name__} is a second end: a saga has one outcome; for "
                f"another fact write publish({name}(…))"
            )
        self._ending = Finish(outcome_message(self._registry, outcome))

    def _continue(self, trigger: Event) -> None:
        call = f"continue_as_new({type(trigger).__name__}(…))"
        message = outcome_message(self._registry, trigger)
        assert message is not None, trigger
        if not self._is_over or self._ending is not None:
            raise DefinitionError(
                f"{call} stands beside a final state, in the place of its outcome"
            )
        current = read(self._registry, message)
        problem = self._around.why_no_trigger(current, self._context.key)
        if problem is not None:
            raise DefinitionError(f"{call}: {problem}")
        self._ending = ContinueAsNew(message)

    def _request(self, call: str) -> Request[Any]:
        if self._asked is None:
            raise DefinitionError(f"{call}: what is handled is no update, or is answered already")
        return self._asked

    def _check_answered(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not asked.is_answered:
            raise DefinitionError(
                f"{asked} ({asked.id}) was never answered: give answer(…), or refuse(code, "
                f"message), beside the state",
                where=place_of(self._giver),
            )

    def _told(self, step: StepId) -> str:
        """The id of a step as its author knows it, in whichever run."""
        return step.removeprefix(self._prefix)

    def _called(
        self, function: Callable[..., Any], *given: object
    ) -> tuple[State, tuple[Act, ...]]:
        """The state that a function gives, and the acts beside it."""
        result = self._call(function, *given)
        if isinstance(result, State):
            return result, ()
        given_back = result if isinstance(result, tuple) else (result,)
        state = given_back[0] if given_back else None
        if not isinstance(state, State):
            raise DefinitionError(
                f"{function.__qualname__} gave {type(result).__name__}: expected a state, alone or "
                f"followed by what to do",
                where=place_of(function),
            )
        return state, _acts(function, given_back[1:])

    def _call(self, function: Callable[..., Any], *given: object) -> Any:
        if takes_context(function, len(given)):
            return function(*given, self._context)
        return function(*given)


def _givers(machine: Machine) -> Mapping[Callable[..., Any], str]:
    """The functions that say what is done, and what each is in the table."""
    givers: dict[Callable[..., Any], str] = {machine.start: "start"}
    for state in machine.table.states:
        for of, function in (("enter", entering(state)), ("handle", handling(state))):
            if function is not None:
                givers.setdefault(function, f"{of} {state.__name__}")
    return givers


def _made(*told: Any) -> AuthoredStep:  # what a step is, and how it is undone
    *said, (kind, _) = told
    make: Callable[..., AuthoredStep] = AuthoredStep
    if kind == "child":
        make = partial(ChildStep, outcome=None)
    return make(*said, None)


@lru_cache(maxsize=4096)
def takes_context(function: Callable[..., Any], given: int) -> bool:
    """Whether a function takes a `TurnContext` behind so many arguments."""
    return len(inspect.signature(function).parameters) > given


def _acts(function: Callable[..., Any], given: object) -> tuple[Act, ...]:
    if isinstance(given, ACT_CLASSES):
        return (given,)
    beside = given if isinstance(given, tuple) else (given,)
    for each in beside:
        if not isinstance(each, ACT_CLASSES):
            raise DefinitionError(
                f"{function.__qualname__} gave {type(each).__name__}, which is nothing to do: "
                f"expected an intent, an event, or what do(…), publish(…), child(…) and the like "
                f"give",
                where=place_of(function),
            )
    return beside


@lru_cache(maxsize=4096)
def _json_of(name: str) -> Json:
    return canonical(name)


def _class_in(known: Container[type], event: object) -> type | None:
    """The class under which a row has *event*."""
    return next((each for each in type(event).__mro__ if each in known), None)


def _not_ahead(state: str, what: str) -> str:
    return f"neither {state} nor a state ahead takes {what}"


def _names(states: Iterable[type]) -> str:
    return " or ".join(each.__name__ for each in states)


class _Closed:
    """Answers in the place of a program that is closed."""

    __slots__ = ()

    def say(self, _: Command, /) -> None: ...


CLOSED: Final = _Closed()
