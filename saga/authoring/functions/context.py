"""The context: the only door through which a saga's function reaches the world.

Nothing here acts: a call says what is wanted, and that is recorded before anything happens. Time,
ids and chance come from the history, so that running the function again gives the same.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from operator import attrgetter
from types import FrameType
from typing import (
    Any,
    Literal,
    NoReturn,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from saga.authoring.functions.calls import (
    Branch,
    Call,
    ChildCall,
    ContinueCall,
    DoneCall,
    GroupCall,
    NextCall,
    SignalCall,
    SleepCall,
    StepCall,
    UpdateCall,
    WaitCall,
)
from saga.authoring.functions.inspection import not_heard
from saga.authoring.functions.scopes import Scope
from saga.authoring.messages import adapter_of
from saga.authoring.requests import Request
from saga.authoring.signals import check_name, checked_signal
from saga.authoring.steps import (
    STEP_ID_CHARS_MAX,
    StepKindName,
    Steps,
    UndoOf,
    check_id,
    shown_name,
)
from saga.authoring.turn_context import EPOCH, TurnContext
from saga.authoring.visible import FIELDS_SHOWN_MAX, shown_fields
from saga.contracts import Contract, Event, Intent, contract_of
from saga.core.durations import Duration, duration_us
from saga.core.identity import Instant, SagaId, instant
from saga.core.program import Answer, Line, Publish, Show, Tell
from saga.core.retry import Retry
from saga.core.texts import is_storable
from saga.errors import DefinitionError

R = TypeVar("R", bound=Event | None)
E = TypeVar("E", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
FailMode = Literal["wait", "fast"]


class Asked(Protocol):
    """Who answers what a context cannot by itself: the saga's program."""

    def say(self, command: Publish | Show | Tell | Answer | Line, /) -> None: ...

    def patched(self, patch: str) -> bool:
        """Whether to take the new path of *patch*: the first time it is recorded."""

    def next_run(self, trigger: Event) -> ContinueCall:
        """The end of this run, if *trigger* starts the next one; DefinitionError if it does not."""


class Context(TurnContext):
    """What a saga's function can ask for. One context belongs to one saga."""

    __slots__ = (*("_heard", "_is_over", "_made", "_new_scope", "_shown", "_steps"),)
    _program: Asked

    def __init__(
        self,
        saga_id: SagaId,
        key: str,
        version: int,
        *,
        made: Callable[[Call[Any], FrameType], Call[Any]],
        program: Asked,
        run: int,
        new_scope: Callable[[str, FrameType], Scope],
        steps: Steps,
        heard: Mapping[str, bool],
    ) -> None:
        super().__init__(saga_id, key, version, program=program, run=run)
        self._made = made
        self._new_scope = new_scope
        self._steps = steps
        self._heard = heard
        """The events that may reach the saga: whether other versions of one may, too."""
        self._is_over = False
        self._shown: set[str] | None = None

    def do(
        self,
        intent: Intent[R],
        *,
        undo: UndoOf[R] | None = None,
        id: str | None = None,
        kind: StepKindName | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo_retry: Retry | None = None,
    ) -> Awaitable[R]:
        """Have a service do something; awaiting gives its reply.

        Args:
            undo: an intent class, filled by field name from intent and reply, or a function
                `(intent, reply or None) -> Intent`.
            id: a stable name for the step; by default the contract's name, numbered from 2 on.
            kind: `compensatable` (the default with an undo), `pivot`, `retriable`, `read_only` or
                `harmless` (has an effect that needs no undo).
            retry: the policy for failed attempts and missed deadlines.
            timeout: the deadline of each attempt; without one a step waits for ever.
            undo_retry: the policy for undoing; without limit by default.

        Raises:
            StepFailed: when awaited: the step failed for good.
            DefinitionError: the call makes no sense; the saga parks before anything is issued.
        """
        call: StepCall[R] = self._steps.do(
            StepCall,
            intent,
            undo=undo,
            id=id,
            kind=kind,
            retry=retry,
            timeout=timeout,
            undo_retry=undo_retry,
        )
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # the caller's place

    @overload
    def child(
        self,
        trigger: Event,
        *,
        outcome: type[E],
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> Awaitable[E]: ...
    @overload
    def child(
        self,
        trigger: Event,
        *,
        outcome: None = None,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> Awaitable[None]: ...
    def child(
        self,
        trigger: Event,
        *,
        outcome: type[Event] | None = None,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> Awaitable[Any]:
        """Start another saga by its trigger, here or in another application, and wait for its end.

        Where this saga is rolled back, a child that has completed is undone by its own rollback.

        Args:
            outcome: the event with which the child is to end; None: whatever it ends with.
            timeout: after it the child is cancelled and waited for; what it has done is undone.
            id: a stable name for the step; by default the contract's name, numbered from 2 on.

        Raises:
            ChildRolledBack: when awaited: the child ended other than completed.
            TimedOut: when awaited: it did not end within *timeout*.
            StepFailed: when awaited: its key belongs to another saga (`key_taken`).
            DefinitionError: the call makes no sense; the saga parks before anything is published.
        """
        call: ChildCall[Any] = self._steps.child(
            ChildCall, trigger, outcome=outcome, timeout=timeout, id=id
        )
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    @overload
    def all(
        self, first: Awaitable[T1], /, *, fail: FailMode = "wait", at_once: int | None = None
    ) -> Awaitable[tuple[T1]]: ...
    @overload
    def all(
        self,
        first: Awaitable[T1],
        second: Awaitable[T2],
        /,
        *,
        fail: FailMode = "wait",
        at_once: int | None = None,
    ) -> Awaitable[tuple[T1, T2]]: ...
    @overload
    def all(
        self,
        first: Awaitable[T1],
        second: Awaitable[T2],
        third: Awaitable[T3],
        /,
        *,
        fail: FailMode = "wait",
        at_once: int | None = None,
    ) -> Awaitable[tuple[T1, T2, T3]]: ...
    @overload
    def all(
        self,
        first: Awaitable[T1],
        second: Awaitable[T2],
        third: Awaitable[T3],
        fourth: Awaitable[T4],
        /,
        *,
        fail: FailMode = "wait",
        at_once: int | None = None,
    ) -> Awaitable[tuple[T1, T2, T3, T4]]: ...
    @overload
    def all(
        self, *branches: Awaitable[T], fail: FailMode = "wait", at_once: int | None = None
    ) -> Awaitable[tuple[T, ...]]: ...
    def all(
        self, *branches: Awaitable[Any], fail: FailMode = "wait", at_once: int | None = None
    ) -> Awaitable[Any]:
        """Side by side; the results in the order given.

        Args:
            fail: `wait`: once all have ended, the first failure in the order given is raised;
                `fast`: a failure is raised at once, and what the other branches may have done is
                undone before the saga completes.
            at_once: so many branches run at one time; the others begin in the order given as these
                end, and never once the group has failed fast.
        """
        refusal = None
        if fail not in ("wait", "fast"):
            refusal = f"ctx.all(…, fail={shown_name(fail)}): expected 'wait' or 'fast'"
        elif at_once is not None and (type(at_once) is not int or at_once < 1):
            refusal = f"ctx.all(…, at_once={shown_name(at_once)}): expected a number from 1 on"
        side_by_side = _branches(branches, refusal)
        call = GroupCall(
            f"all-{self._next('all')}",
            side_by_side,
            len(branches),
            waits_for_all=fail == "wait",
            at_once=at_once,
        )
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # the caller's place

    @overload
    def any(self, first: Awaitable[T1], /) -> Awaitable[T1]: ...
    @overload
    def any(self, first: Awaitable[T1], second: Awaitable[T2], /) -> Awaitable[T1 | T2]: ...
    @overload
    def any(
        self, first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], /
    ) -> Awaitable[T1 | T2 | T3]: ...
    @overload
    def any(self, *branches: Awaitable[T]) -> Awaitable[T]: ...
    def any(self, *branches: Awaitable[Any]) -> Awaitable[Any]:
        """Side by side, the first success; whatever the other branches may have done is undone.

        When all fail, the first failure in the order given is raised.
        """
        side_by_side = _branches(branches)
        if not branches:
            raise DefinitionError("ctx.any() of nothing can never succeed")
        call = GroupCall(f"any-{self._next('any')}", side_by_side, 1, gives_one=True)
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    @overload
    def some(
        self, k: int, first: Awaitable[T1], second: Awaitable[T2], /
    ) -> Awaitable[tuple[T1 | T2, ...]]: ...
    @overload
    def some(
        self, k: int, first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], /
    ) -> Awaitable[tuple[T1 | T2 | T3, ...]]: ...
    @overload
    def some(self, k: int, /, *branches: Awaitable[T]) -> Awaitable[tuple[T, ...]]: ...
    def some(self, k: int, /, *branches: Awaitable[Any]) -> Awaitable[Any]:
        """Side by side, the first *k* successes, in the order given.

        What the other branches may have done is undone. As soon as fewer than *k* can succeed, the
        first failure in the order given is raised; then it is all that did not fail themselves.
        """
        refusal = None
        if type(k) is not int or not 0 <= k <= len(branches):
            refusal = (
                f"ctx.some({shown_name(k)}, …): expected a number from 0 to that of the branches, "
                f"{len(branches)}: more can never succeed"
            )
        side_by_side = _branches(branches, refusal)
        call = GroupCall(f"some-{self._next('some')}", side_by_side, k)
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    def scope(self, id: str | None = None) -> Scope:
        """A part of the function, `async with ctx.scope():`, undone when a failure leaves it.

        What was issued in it is undone first; then the failure goes on, and may be caught outside.

        Args:
            id: a stable name, unique in the scope around it; by default `scope-1`, `scope-2`, ….

        Raises:
            DefinitionError: a pivot is in it; it is awaited, or entered twice or never.
        """
        if id is None:
            id = f"scope-{self._next('scope')}"
        else:
            check_id("scope", id)
        return self._new_scope(id, sys._getframe(1))  # noqa: SLF001  # the caller's place

    def sleep(self, duration: Duration) -> Awaitable[None]:
        """Wait at least *duration*, through crashes and deploys."""
        call = SleepCall(f"{self._prefix}sleep-{self._next('sleep')}", duration_us(duration))
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    def sleep_until(self, moment: datetime) -> Awaitable[None]:
        """Wait until *moment*, which has to know its time zone; one that is past is due at once."""
        call = SleepCall(f"{self._prefix}sleep-{self._next('sleep')}", until=_instant(moment))
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    @overload
    def wait(
        self, name: str, model: type[T], *, timeout: Duration | None = None
    ) -> Awaitable[T]: ...
    @overload
    def wait(self, name: str, *, timeout: Duration | None = None) -> Awaitable[Any]: ...
    def wait(
        self, name: str, model: Any = None, *, timeout: Duration | None = None
    ) -> Awaitable[Any]:
        """Wait for the next signal of *name*, or one kept before; what is no *model* is refused.

        Raises:
            TimedOut: when awaited: none came within *timeout*.
        """
        check_name("ctx.wait", "a signal", name)
        adapter = adapter_of(Any if model is None else model)
        timeout_us = None if timeout is None else duration_us(timeout)
        wait = f"{self._prefix}wait-{name}-{self._next(f'wait {name}')}"
        call: WaitCall[Any] = WaitCall(wait, name, adapter, timeout_us)
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    @overload
    def update(
        self, name: str, model: type[T], *, timeout: Duration | None = None
    ) -> Awaitable[Request[T]]: ...
    @overload
    def update(self, name: str, *, timeout: Duration | None = None) -> Awaitable[Request[Any]]: ...
    def update(
        self, name: str, model: Any = None, *, timeout: Duration | None = None
    ) -> Awaitable[Request[Any]]:
        """The next update of *name*, or one kept before: somebody asks and waits for an answer.

        What is no *model* is refused at once, with code `invalid`. What is taken is to be answered
        with `request.answer(value)` or `request.refuse(code, message)`, once, before the function
        ends; one that is not parks the saga.

        Raises:
            TimedOut: when awaited: none came within *timeout*.
        """
        check_name("ctx.update", "an update", name)
        caller = sys._getframe(1)  # noqa: SLF001  # as above
        call: UpdateCall[Any] = UpdateCall(
            f"{self._prefix}update-{name}-{self._next(f'update {name}')}",
            name,
            adapter_of(Any if model is None else model),
            None if timeout is None else duration_us(timeout),
            f"{caller.f_code.co_filename}:{caller.f_lineno}",
        )
        return self._made(call, caller)

    @overload
    def next(
        self,
        event: type[E1],
        /,
        *,
        where: Callable[[E1], bool] | None = None,
        timeout: Duration | None = None,
    ) -> Awaitable[E1]: ...
    @overload
    def next(
        self,
        first: type[E1],
        second: type[E2],
        /,
        *,
        where: Callable[[E1 | E2], bool] | None = None,
        timeout: Duration | None = None,
    ) -> Awaitable[E1 | E2]: ...
    @overload
    def next(
        self,
        first: type[E1],
        second: type[E2],
        third: type[E3],
        /,
        *,
        where: Callable[[E1 | E2 | E3], bool] | None = None,
        timeout: Duration | None = None,
    ) -> Awaitable[E1 | E2 | E3]: ...
    @overload
    def next(
        self,
        *events: type[E],
        where: Callable[[E], bool] | None = None,
        timeout: Duration | None = None,
    ) -> Awaitable[E]: ...
    def next(
        self,
        *events: type[Any],
        where: Callable[[Any], bool] | None = None,
        timeout: Duration | None = None,
    ) -> Awaitable[Any]:
        """The next event of these classes that this saga has not had, in order of arrival.

        Args:
            events: classes to which the saga listens.
            where: a pure predicate: the oldest event that it accepts is taken, others are left.
            timeout: how long to wait; without one, for ever.

        Raises:
            TimedOut: when awaited: none came within *timeout*.
        """
        contracts = self._heard_contracts(events)
        if where is not None and iscoroutinefunction(where):
            raise DefinitionError("ctx.next(where=…) takes a plain function, not an async one")
        by_name = sorted(contracts, key=attrgetter("contract_name"))
        names = [contract.contract_name for contract in by_name]
        name = "+".join(dict.fromkeys(contract.name for contract in by_name))
        call: NextCall[Any] = NextCall(
            f"{self._prefix}next-{name}-{self._next(f'next {name}')}",
            " or ".join(dict.fromkeys(contract.name for contract in by_name)),
            events,
            tuple(names),
            where,
            where is not None or any(self._heard[each] for each in names),
            None if timeout is None else duration_us(timeout),
        )
        return self._made(call, sys._getframe(1))  # noqa: SLF001  # as above

    def publish(self, event: Event) -> Awaitable[None]:
        """Tell everybody a fact now, before the saga ends; awaiting it changes nothing."""
        published = self._steps.publish(event)
        if not self._is_over:
            self._program.say(published)
        return DoneCall()

    def tell(self, intent: Intent[Any]) -> Awaitable[None]:
        """Have a service do something, and go on; awaiting it changes nothing.

        It is delivered at least once. No answer is waited for, so a failed attempt is not repeated;
        it is never undone, and never residue.
        """
        told = self._steps.tell(intent)
        if not self._is_over:
            self._program.say(told)
        return DoneCall()

    def signal(
        self, definition: str, key: str, name: str, payload: object = None
    ) -> Awaitable[None]:
        """Send a signal to the saga of *definition* and *key*; it is on its way when awaited.

        It is kept until that saga waits for one of this name. One that has not begun yet may be
        sent a signal a little early.

        Args:
            payload: what JSON can say, a model too.
        """
        number = self._next("signal")
        signal = checked_signal(number, definition, key, name, payload)
        return self._made(SignalCall(signal), sys._getframe(1))  # noqa: SLF001  # as above

    def continue_as_new(self, trigger: Event) -> Awaitable[NoReturn]:
        """End this run, and begin the next with *trigger*, as the same saga under the same key.

        For sagas that run for long: a saga is loaded from its last run on. Awaiting never returns,
        and what a `finally` asks for then is not heard. What this run did is not undone any more.
        What nobody has taken yet passes over; the next run is decided by the newest version.

        Raises:
            DefinitionError: the newest version of the saga does not start on *trigger*, or under
                another key; or something is still in flight. The saga parks.
        """
        return self._made(self._program.next_run(trigger), sys._getframe(1))  # noqa: SLF001  # as above

    def patched(self, id: str) -> bool:
        """Whether to take the new path of a change that running sagas may have passed already.

        It is True where it is asked for the first time, which is recorded, and from there on. In a
        replay of what happened before the change it is False. Where two places must take the same
        path, ask once and keep the answer.
        """
        if not id or len(id) > STEP_ID_CHARS_MAX or not is_storable(id):
            raise DefinitionError(
                f"ctx.patched({shown_name(id)}): a patch's id has 1 to {STEP_ID_CHARS_MAX} "
                f"characters, without NUL or half a surrogate pair"
            )
        return self._program.patched(id)

    def show(self, **fields: object) -> Awaitable[None]:
        """Let people see these fields, in `ls`, `show` and `find`; None: no longer.

        It is part of no decision. At most 20 at once; more than 300 characters are cut.
        """
        shown = shown_fields(fields)
        if not self._is_over:
            known = self._shown = self._shown or set()
            known.update(fields)
            known.difference_update(name for name, value in fields.items() if value is None)
            if len(known) > FIELDS_SHOWN_MAX:
                raise DefinitionError(
                    f"ctx.show: {len(known)} fields at once are too many: at most "
                    f"{FIELDS_SHOWN_MAX}; a field set to None is shown no longer"
                )
            self._program.say(Show(shown))
        return DoneCall()

    def _heard_contracts(self, events: tuple[Any, ...]) -> list[Contract]:
        if not events:
            raise DefinitionError("ctx.next() needs the event class to wait for")
        contracts = []
        for event in dict.fromkeys(events):
            if not (isinstance(event, type) and issubclass(event, Event)):
                raise DefinitionError(f"ctx.next takes event classes, not {shown_name(event)}")
            contract = contract_of(event)
            if contract.contract_name not in self._heard:
                raise DefinitionError(not_heard(event))
            contracts.append(contract)
        return contracts


def _branches(branches: tuple[object, ...], refusal: str | None = None) -> tuple[Branch, ...]:
    """What a group is given, all of which can run side by side; there is none with a *refusal*."""
    for branch in branches:
        if refusal is None and not isinstance(branch, (Call, Coroutine)):
            refusal = (
                f"{type(branch).__name__} cannot run side by side: pass calls of ctx, or "
                f"coroutines that make them"
            )
    if refusal is not None:
        for branch in branches:
            if isinstance(branch, Coroutine):
                branch.close()  # nobody is to be warned that it was forgotten
        raise DefinitionError(refusal)
    return cast("tuple[Branch, ...]", branches)


def _instant(moment: datetime) -> Instant:
    if not isinstance(moment, datetime):
        raise DefinitionError(
            f"ctx.sleep_until({shown_name(moment)}): expected a datetime; "
            f"for a length of time there is ctx.sleep(…)"
        )
    if moment.utcoffset() is None:
        raise DefinitionError(
            f"ctx.sleep_until({shown_name(moment)}): the time has no zone, so that it means "
            f"another moment on each machine: give one, as in moment.replace(tzinfo=UTC)"
        )
    return instant((moment - EPOCH) // timedelta(microseconds=1))
