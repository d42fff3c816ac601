"""What a saga can decide: send, publish, arm a timer, plan its rollback, end.

Intents are recorded in the past tense, because they are read as history: `IntentIssued` in an entry
means that from this entry on the intent is due to be published. The relay publishes `IntentIssued`,
`IntentTold`, `EventPublished`, `CommandSent` and the outcomes; everything else concerns only the
saga itself.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from saga.core.events import Arrival, CancelMode, Json, Message, Parent
from saga.core.identity import (
    Direction,
    Instant,
    IntentId,
    MessageId,
    SagaId,
    StepId,
    TimerId,
)
from saga.core.status import StepKind, StepStatus
from saga.core.values import value


class TimerPurpose(StrEnum):
    DEADLINE = "deadline"
    RETRY = "retry"
    SLEEP = "sleep"
    WAIT = "wait"
    SAGA = "saga"
    """Its own deadline."""


def purpose_of(timer_id: TimerId) -> TimerPurpose | None:
    """What a timer is for, which is the end of its id; None where it says something else."""
    try:
        return TimerPurpose(timer_id.rpartition("/")[2])
    except ValueError:
        return None


class Verdict(StrEnum):
    """What was made of a reply, timer or request that did not simply match."""

    CONFLICTING = "conflicting"
    LATE_SUCCESS = "late_success"
    LATE_FAILURE = "late_failure"
    SUPERSEDED = "superseded"
    AFTER_END = "after_end"
    REFUSED = "refused"
    STALE = "stale"
    EARLIER_RUN = "earlier_run"
    UNREAD = "unread"
    UNAWAITED = "unawaited"


@value
class IntentIssued:
    """A service is to do or undo a step."""

    step: StepId
    direction: Direction
    attempt: int
    contract: str
    payload: Json
    kind: StepKind
    after: tuple[StepId, ...] | None = None
    """The nearest steps it depends on, at its first issue; None: the one issued before, if any."""
    undoes: str | None = None
    """The contract of the step that is undone."""
    child: bool = False
    """The payload starts a child; to undo it, a command is sent in this intent's name."""
    scope: str | None = None
    """The innermost scope of its step, behind those that this one is in: `trip/hotel`."""


@value(kw_only=True)
class StepSettled:
    """Where a step stands, wherever that is not the plain success of a reply."""

    step: StepId
    status: StepStatus
    direction: Direction = Direction.DO
    code: str | None = None
    message: str | None = None
    details: Json | None = None


@value(kw_only=True)
class BranchDropped:
    """The program gave these up, as losers of a race: sleeps and waits end, steps are undone."""

    steps: tuple[StepId, ...] = ()
    sleeps: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


@value(kw_only=True)
class EventPublished:
    """The saga tells everybody a fact before its end; *publication* is its place in the program."""

    publication: str
    contract: str
    payload: Json


@value(kw_only=True)
class IntentTold:
    """A service is to do something of which no reply is waited for; it is never undone."""

    step: StepId
    contract: str
    payload: Json


class SentAct(StrEnum):
    """What one saga can ask of another; an undo is a parent's alone."""

    SIGNAL = "signal"
    CANCEL = "cancel"
    UNDO = "undo"


@value(kw_only=True)
class CommandSent:
    """Another saga is asked for something, under its *key*; *command* is the message's id."""

    command: MessageId
    act: SentAct
    saga_id: SagaId
    definition: str
    key: str
    name: str | None = None
    """Of a signal, as is its *payload*."""
    payload: Json | None = None
    mode: CancelMode | None = None
    """Of a cancel; None: graceful."""
    reason: str | None = None


UPDATE_ENDED: Final = "ended"
"""The code of an update to a saga that has ended, or did so before it was answered."""
UPDATE_INVALID: Final = "invalid"
"""The code of an update whose payload is not what the saga waits for."""
UPDATE_NOT_NOW: Final = "not_now"
"""The code of an update that the saga does not take where it stands."""


@value(kw_only=True)
class UpdateAnswered:
    """The one answer to an update; or a refusal, which has a *code*."""

    update: str
    answer: Json | None = None
    code: str | None = None
    message: str | None = None


@value(kw_only=True)
class Shown:
    """What people see of the saga's own state has changed; it is part of no decision."""

    fields: tuple[tuple[str, Json], ...]
    """Those that changed, by name; `null` is shown no longer."""


@value
class TimerArmed:
    """The saga wants to be woken at *at*; *target* is the step, sleep or wait concerned."""

    timer_id: TimerId
    due_at: Instant
    purpose: TimerPurpose
    target: str


@value
class TimerCancelled:
    timer_id: TimerId


@value(kw_only=True)
class TimerMoved:
    """The timer is due at another time than it was armed for."""

    timer_id: TimerId
    due_at: Instant


@value(kw_only=True)
class SignalAwaited:
    """The program waits for a signal of this name; the oldest one that was kept ends the wait."""

    wait: str
    name: str
    refused: int | None = None
    """How many of the oldest kept signals this wait cannot take; they are gone."""


@value(kw_only=True)
class EventAwaited:
    """The program waits for the first of several; the oldest one that was kept ends the wait.

    A wait that *selects* takes only what the program accepts: `WaitEnded` says what that was.
    """

    wait: str
    contracts: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    selects: bool = False


Awaited = SignalAwaited | EventAwaited


@value(kw_only=True)
class WaitEnded:
    """A wait that selects took what arrived with the entry of version *took*."""

    wait: str
    took: int


@value(kw_only=True)
class Noted:
    """Something did not simply match; right behind a fact, the fact has no plain effect."""

    verdict: Verdict
    subject: str
    detail: str


@value(kw_only=True)
class ArrivalRefused:
    """What had arrived with the entry of version *arrived*, and was kept, is taken no more."""

    arrived: int
    detail: str


class RollbackGoal(StrEnum):
    """How the saga ends once the plan is through."""

    ROLLED_BACK = "rolled_back"
    COMPLETED = "completed"
    """What a finished program had given up is undone."""
    CLEANED_UP = "cleaned_up"
    """A late success of a saga that had ended is undone."""
    SCOPE_LEFT = "scope_left"
    """A scope is undone, and its failure is raised out of it: the saga goes on."""


@value(kw_only=True)
class PlannedUndo:
    step: StepId
    after: tuple[StepId, ...] | None = None
    """The steps whose undo it waits for; None: the one before it in the plan, if any."""


@value(kw_only=True)
class Patched:
    """The code took the new path of this patch: it does so from here on, whenever it is asked."""

    patch: str


@value(kw_only=True)
class RollbackDue:
    """A rollback is planned as soon as what is in flight has settled or timed out."""

    reason: str
    code: str | None = None
    failed_step: StepId | None = None
    scope: str | None = None
    """What is left and undone; None: the saga."""


@value(kw_only=True)
class RollbackPlanned:
    """The steps to undo, in order; made once, from recorded facts."""

    goal: RollbackGoal
    steps: tuple[PlannedUndo, ...]
    reason: str
    code: str | None = None
    failed_step: StepId | None = None
    details: Json | None = None
    """Those with which *failed_step* failed."""
    one_by_one: bool | None = None
    """One at a time, in this order; None: all that wait for nothing more."""
    scope: str | None = None
    """What is undone; None: the saga, or what is left of it."""


@value(kw_only=True)
class UndoAppended:
    """A step succeeded late: it is undone too, after the rest of the plan."""

    step: StepId


@value(kw_only=True)
class ScopeUndone:
    """What could be undone of a scope is; its failure is raised out of it now."""

    scope: str
    residue: tuple[StepId, ...] | None = None


@value(kw_only=True)
class SagaParked:
    """The saga waits for someone; the program is not told that *step*, if any, has failed."""

    reason: str
    step: StepId | None = None


@value(kw_only=True)
class SagaResumed:
    """The saga goes on where it stood before it parked."""


@value(kw_only=True)
class SagaFinishing:
    """The program has returned *outcome*; what it gave up settles before the saga completes.

    Where it *continues*, that is the trigger of the next run.
    """

    outcome: Message | None = None
    continues: bool | None = None


@value(kw_only=True)
class KnownCause:
    """A message that the run before has had; *said*: a digest of it, where nothing else tells."""

    cause: MessageId
    source: str | None = None
    said: str | None = None


@value(kw_only=True)
class Unread:
    """What arrived in an earlier run, with the entry of this *version*."""

    version: int
    arrival: Arrival


@value(kw_only=True)
class Continued:
    """A new run of the saga begins; nothing before this entry is needed to load it.

    *began_with* is a digest of the trigger that started the saga, at *started_at*. *causes* are
    those of the run just ended, *unread* what arrived and nobody has taken yet.
    """

    run: int
    trigger: Message
    definition: str
    definition_version: int
    fingerprint: str
    key: str
    started_at: Instant
    began_with: str
    traceparent: str | None = None
    causes: tuple[KnownCause, ...] = ()
    unread: tuple[Unread, ...] = ()
    shown: tuple[tuple[str, Json], ...] = ()
    """What people see of the saga's own state, by name."""
    parent: Parent | None = None


@value
class SagaCompleted:
    """The program has returned; *residue* is what it gave up and nobody could undo."""

    outcome: Message | None = None
    residue: tuple[StepId, ...] | None = None


@value(kw_only=True)
class SagaRolledBack:
    """Everything that could be undone is; *residue* is what could not."""

    reason: str
    code: str | None = None
    failed_step: StepId | None = None
    residue: tuple[StepId, ...]
    outcome: Message | None = None
    undo: IntentId | None = None
    """Of a child that had completed: the intent of its parent that had it undone."""


@value(kw_only=True)
class SagaCleanedUp:
    """The late successes of an ended saga are undone; its outcome stands."""

    residue: tuple[StepId, ...]


@value(kw_only=True)
class SagaAbandoned:
    """An operator ended the saga without undoing anything."""

    reason: str
    residue: tuple[StepId, ...]
    outcome: Message | None = None
    undo: IntentId | None = None
    """As `SagaRolledBack` has it."""
    had_outcome: bool = False
    """Whether it had ended before, and was cleaning up: the outcome of then stands."""


Intent = (
    IntentIssued
    | StepSettled
    | BranchDropped
    | EventPublished
    | IntentTold
    | CommandSent
    | UpdateAnswered
    | Shown
    | TimerArmed
    | TimerCancelled
    | TimerMoved
    | SignalAwaited
    | EventAwaited
    | WaitEnded
    | Noted
    | ArrivalRefused
    | Patched
    | RollbackDue
    | RollbackPlanned
    | UndoAppended
    | ScopeUndone
    | SagaParked
    | SagaResumed
    | SagaFinishing
    | Continued
    | SagaCompleted
    | SagaRolledBack
    | SagaCleanedUp
    | SagaAbandoned
)

APART: Final = frozenset({TimerArmed, TimerCancelled, TimerMoved, Patched, Shown})
"""Not compared in their places: timers are by their ids; a patch is retired by asking no more.

What is shown is part of no decision."""
