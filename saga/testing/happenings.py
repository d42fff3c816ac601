"""What can happen to a saga, as a test says it: models and names instead of ids and JSON.

A happening becomes a fact when its turn comes: `replied(Pay, …)` answers the `Pay` still open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import to_jsonable_python

from saga.authoring import SagaDefinition, UnresolvedSaga
from saga.contracts import Event, Intent, canonical, contract_of, message_of
from saga.core.durations import Duration, duration_us
from saga.core.events import (
    Act,
    CancelMode,
    CancelRequested,
    Channel,
    Fact,
    Json,
    MarkedAs,
    OperatorActed,
    Paused,
    PauseScope,
    ProgressReceived,
    ReplyOutcome,
    ReplyReceived,
    Resumed,
    SignalReceived,
    TimerFired,
    TurnFailed,
    UpdateReceived,
    event_channel,
    signal_channel,
    update_channel,
)
from saga.core.history import Entry
from saga.core.identity import DO, Direction, Instant, TimerId, intent_id
from saga.core.intents import IntentIssued, IntentTold, TimerArmed, TimerPurpose
from saga.core.state import SagaState
from saga.core.status import StepKind

Subject = type[Intent[Any]] | str
"""An intent class, or the id of a step that is done (not undone)."""
Awaited = Subject | type[Event]
"""Or what a saga waits for: the name of a signal, or the class of an event."""


class Happening(Protocol):
    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        """The fact it is for a saga in this *state*, and the moment before which it cannot happen.

        Raises:
            AssertionError: it cannot happen now, because nobody asked for it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    subject: Subject
    outcome: ReplyOutcome
    reply: Event | None = None
    code: str | None = None
    message: str | None = None
    step: str | None = None
    attempt: int | None = None
    details: Any = None

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        issued = _issued(self.subject, self.step, state, history)
        attempt = issued.attempt if self.attempt is None else self.attempt
        reply = ReplyReceived(
            intent_id=intent_id(state.saga_id, issued.step, issued.direction, attempt),
            outcome=self.outcome,
            reply=None if self.reply is None else message_of(self.reply),
            code=self.code,
            message=self.message,
            details=None if self.details is None else canonical(self.details),
        )
        return reply, None


@dataclass(frozen=True, slots=True)
class Progress:
    """A service says that it still works on an intent."""

    subject: Subject
    note: str | None
    attempt: int | None

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        issued = _issued(self.subject, None, state, history)
        attempt = issued.attempt if self.attempt is None else self.attempt
        id_ = intent_id(state.saga_id, issued.step, issued.direction, attempt)
        return ProgressReceived(intent_id=id_, note=self.note), None


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time for a step, or for a wait, runs out."""

    subject: Awaited

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        timer = self._timer(state, history)
        return TimerFired(timer_id=timer.timer_id), timer.due_at

    def _timer(self, state: SagaState, history: Sequence[Entry]) -> TimerArmed:
        subject = self.subject
        if isinstance(subject, str) and subject in state.waited:
            wanted = (TimerPurpose.WAIT, subject)  # a node of a graph, which waits under its name
        elif isinstance(subject, str) and subject not in state.steps:
            is_update = update_channel(subject) in state.waits
            channel = (update_channel if is_update else signal_channel)(subject)
            wanted = (TimerPurpose.WAIT, _oldest_wait(state, channel))
        elif isinstance(subject, type) and issubclass(subject, Event):
            channel = event_channel(contract_of(subject).contract_name)
            wanted = (TimerPurpose.WAIT, _oldest_wait(state, channel))
        else:
            issued = _issued(subject, None, state, history)
            wanted = (TimerPurpose.DEADLINE, f"{issued.step}/{issued.direction.value}")
        for timer in state.timers.values():
            if (timer.purpose, timer.target) == wanted:
                return timer
        armed = [f"{timer.purpose.value} {timer.target}" for timer in state.timers.values()]
        raise AssertionError(
            f"nothing limits {_named(self.subject)}; armed timers: {', '.join(armed) or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class Plain:
    """Something that needs no looking up."""

    is_what: Fact

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        del state, history
        return self.is_what, None


@dataclass(frozen=True, slots=True)
class TimerAct:
    """An operator moves the timer of a step, sleep or wait, or has it fire."""

    act: Act
    target: str
    reason: str
    to_us: int | None

    def means(self, timer: TimerArmed) -> bool:
        target = self.target
        return timer.target in (target, f"{target}/do", f"{target}/undo")

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        armed = [timer for timer in state.timers.values() if self.means(timer)]
        timer_id = armed[0].timer_id if armed else TimerId(f"{state.saga_id}/{self.target}")
        due_at = None if self.to_us is None else Instant(history[-1].at + self.to_us)
        acted = OperatorActed(act=self.act, reason=self.reason, timer_id=timer_id, due_at=due_at)
        return acted, None


@dataclass(frozen=True, slots=True)
class After:
    """Time passes, and every timer that comes due meanwhile fires."""

    length_us: int


@dataclass(frozen=True, slots=True)
class Redelivered:
    """The last event arrives once more, under the same message id."""


@dataclass(frozen=True, slots=True)
class MigratedTo:
    """An operator moves the saga to another version of its definition."""

    saga: SagaDefinition | UnresolvedSaga
    steps: tuple[tuple[str, str], ...]
    reason: str
    actor: str | None


def migrated_to(
    saga: SagaDefinition | UnresolvedSaga,
    *,
    steps: Mapping[str, str] | None = None,
    reason: str = "on purpose",
    actor: str | None = None,
) -> MigratedTo:
    """The saga goes on with this version of its definition, in which *steps* have other names.

    What that decides otherwise raises ReplayMismatch. In a world it is refused instead.
    """
    return MigratedTo(saga, tuple(sorted((steps or {}).items())), reason, actor)


def replied(
    to: Subject,
    reply: Event | None = None,
    *,
    step: str | None = None,
    attempt: int | None = None,
) -> Reply:
    """A service did what was wanted; meant is the open intent, in its last attempt unless said."""
    return Reply(to, ReplyOutcome.DONE, reply, step=step, attempt=attempt)


def refused(
    what: Subject,
    message: str = "refused",
    *,
    code: str | None = None,
    details: Any = None,
    step: str | None = None,
    attempt: int | None = None,
) -> Reply:
    """A service said no, and nothing happened."""
    return Reply(
        what,
        ReplyOutcome.REFUSED,
        code=code,
        message=message,
        step=step,
        attempt=attempt,
        details=details,
    )


def failed(
    what: Subject,
    message: str = "failed",
    *,
    code: str | None = None,
    details: Any = None,
    step: str | None = None,
    attempt: int | None = None,
) -> Reply:
    """An attempt failed."""
    return Reply(
        what,
        ReplyOutcome.FAILED,
        code=code,
        message=message,
        step=step,
        attempt=attempt,
        details=details,
    )


def progressed(on: Subject, note: str | None = None, *, attempt: int | None = None) -> Progress:
    """A service says that it still works on an intent, so that its deadline begins anew."""
    return Progress(on, note, attempt)


def timed_out(what: Awaited) -> Deadline:
    """The deadline passes of an intent, a step, or a wait for a signal or an event."""
    return Deadline(what)


def signalled(name: str, payload: object = None, *, actor: str | None = None) -> Plain:
    """Somebody sends a signal; *payload* is anything that JSON can say."""
    return Plain(SignalReceived(name=name, payload=canonical(payload), actor=actor))


@dataclass(frozen=True, slots=True)
class Update:
    """Somebody asks; without an *id* of its own, under the next number."""

    name: str
    payload: Json
    id: str | None = None
    actor: str | None = None

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        number = sum(isinstance(entry.body, UpdateReceived) for entry in history) + 1
        update = self.id or f"update-{number}"
        del state
        asked = UpdateReceived(
            update=update, name=self.name, payload=self.payload, actor=self.actor
        )
        return asked, None


def updated(
    name: str, payload: object = None, *, id: str | None = None, actor: str | None = None
) -> Update:
    """Somebody asks the saga and waits for an answer; *payload* is anything that JSON can say.

    Its id is `update-1`, `update-2` and so on, where none is given.
    """
    return Update(name, canonical(to_jsonable_python(payload)), id, actor)


def cancelled(
    reason: str = "cancelled",
    *,
    mode: CancelMode | str = CancelMode.GRACEFUL,
    actor: str | None = None,
) -> Plain:
    """Somebody asks for the saga to end: `graceful`, `immediate` or `abandon`."""
    return Plain(CancelRequested(mode=CancelMode(mode), reason=reason, actor=actor))


def operator(
    act: str,
    step: str | None = None,
    *,
    reason: str = "on purpose",
    actor: str | None = None,
    definition: bool = False,
    state: str | None = None,
    reply: Event | None = None,
    evidence: str = "seen",
    to: Duration | None = None,
    key: str | None = None,
) -> Happening:
    """An operator acts: `retry`, `skip`, `compensate`, `release`, or one of these.

    `pause` and `resume`, with *definition* all sagas of the definition; `mark` a *step* as the
    *state* `done`, with a *reply*, or `undone`; `fire-timer` and `move-timer`, where *step* names
    the step, sleep or wait whose timer it is, and *to* how long from now; `rerun` under a *key*.
    """
    scope = PauseScope.DEFINITION if definition else None
    match act:
        case "pause":
            return Plain(Paused(reason=reason, actor=actor, scope=scope))
        case "resume":
            return Plain(Resumed(reason=reason, actor=actor, scope=scope))
        case "fire-timer" | "move-timer":
            return TimerAct(Act(act), step or "", reason, None if to is None else duration_us(to))
    is_mark = act == Act.MARK
    return Plain(
        OperatorActed(
            act=Act(act),
            reason=reason,
            step=step,
            actor=actor,
            state=MarkedAs(state) if is_mark and state is not None else None,
            evidence=evidence if is_mark else None,
            reply=None if reply is None else message_of(reply),
            key=key,
        )
    )


def turn_failed(error: str) -> Plain:
    """A worker noted that the code at hand raised on some record of this saga."""
    return Plain(TurnFailed(error=error))


def after(duration: Duration) -> After:
    """Time passes: timers that come due within *duration* fire, each at its moment, in order."""
    return After(duration_us(duration))


def redelivered() -> Redelivered:
    """The last event arrives once more, as it was."""
    return Redelivered()


def _oldest_wait(state: SagaState, channel: Channel) -> str:
    return next(iter(state.waits.get(channel, ())), "")


def _issued(
    subject: Subject, step: str | None, state: SagaState, history: Sequence[Entry]
) -> IntentIssued:
    """The intent a test means: of those that fit, the first whose last attempt is unanswered."""
    latest: dict[tuple[str, str], IntentIssued] = {}
    for entry in history:
        body = entry.body
        if isinstance(body, IntentTold):
            body = IntentIssued(body.step, DO, 1, body.contract, body.payload, StepKind.HARMLESS)
        if isinstance(body, IntentIssued) and _fits(body, subject, step):
            latest[body.step, body.direction.value] = body
    latest = {each: body for each, body in latest.items() if each[0] in state.steps} or latest
    assert latest, f"{_named(subject)} was not issued; steps so far: {', '.join(state.steps)}"
    for issued in latest.values():
        id_ = intent_id(state.saga_id, issued.step, issued.direction, issued.attempt)
        if not state.is_answered(id_):
            return issued
    return list(latest.values())[-1]


def _fits(issued: IntentIssued, subject: Subject, step: str | None) -> bool:
    if step is not None and issued.step != step:
        return False
    if isinstance(subject, str):
        return issued.step == subject and issued.direction is Direction.DO
    return issued.contract == contract_of(subject).contract_name


def _named(subject: Awaited) -> str:
    return subject if isinstance(subject, str) else subject.__name__
