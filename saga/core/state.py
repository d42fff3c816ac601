"""What a saga is between two turns, folded from its history.

A state has one owner and moves with it: `handle` takes it and gives it back changed. Where a turn
cannot be recorded, its state is thrown away and rebuilt from the history; nobody reads it in
between. That is what lets a live coroutine be part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga.core.events import Json, Message, ReplyReceived
from saga.core.identity import Direction, Instant, SagaId, StepId, TimerId
from saga.core.intents import RollbackPlanned, TimerArmed, TimerPurpose
from saga.core.program import Program
from saga.core.retry import Retry
from saga.core.status import SagaStatus, StepKind, StepStatus


@dataclass(slots=True)
class Step:
    """One step, from the first time its intent was issued.

    *is_disowned* is set once the program was told that the step failed, or no longer wants it: what
    the step may have done is then undone even if the program completes.
    """

    id: StepId
    message: Message
    kind: StepKind
    retry: Retry
    timeout_us: int | None
    undo_retry: Retry | None
    group: str | None
    first_issued_at: Instant
    status: StepStatus = StepStatus.ISSUED
    attempts: int = 0
    undo_attempts: int = 0
    undo_began_at: Instant = Instant(0)
    undo_floor: int = 0
    """Attempts to undo below this one began before the step had succeeded: they settle nothing."""
    undo_spent: int = 0
    """Attempts to undo that do not count against the policy: it was given a fresh budget since."""
    is_backing_off: bool = False
    is_disowned: bool = False
    is_undo_blind: bool = False
    reply: Message | None = None
    has_reply: bool = False
    code: str | None = None
    error: str | None = None
    replies: dict[tuple[Direction, int], ReplyReceived] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """A recorded rollback and how far it got."""

    recorded: RollbackPlanned
    groups: list[tuple[StepId, ...]]
    position: int = 0


@dataclass(slots=True)
class SagaState:
    """Everything the next decision depends on."""

    saga_id: SagaId
    program: Program | None = None
    status: SagaStatus = SagaStatus.RUNNING
    key: str = ""
    traceparent: str | None = None
    trigger: Message | None = None
    started_at: Instant = Instant(0)
    steps: dict[StepId, Step] = field(default_factory=dict)
    timers: dict[TimerId, TimerArmed] = field(default_factory=dict)
    waits: dict[str, list[str]] = field(default_factory=dict)
    signals: dict[str, list[Json]] = field(default_factory=dict)
    causes: set[str] = field(default_factory=set)
    plan: Plan | None = None
    is_past_pivot: bool = False
    is_finishing: bool = False
    is_poisoned: bool = False
    cancel_reason: str | None = None
    pending_outcome: Message | None = None
    outcome: Message | None = None
    reason: str | None = None
    code: str | None = None
    residue: tuple[StepId, ...] = ()
    before_parking: tuple[SagaStatus, str | None] = (SagaStatus.RUNNING, None)
    """Status and reason to go back to when what the saga parked on is settled."""
    before_failure: tuple[SagaStatus, str | None] = (SagaStatus.RUNNING, None)
    """Status and reason to go back to when a failed turn is released."""

    @property
    def has_ended(self) -> bool:
        """Whether it has had its outcome, perhaps behind a failed turn that holds it up."""
        return self.status.is_ended or (self.is_poisoned and self.before_failure[0].is_ended)

    @property
    def is_started(self) -> bool:
        """Whether its trigger has been handled."""
        return self.trigger is not None


def waiting_for(state: SagaState) -> str | None:
    """What has to happen next for this saga to move, in words an operator reads."""
    if state.status.is_ended:
        return None
    if state.status is SagaStatus.PARKED:
        return "operator"
    undoing = [step.id for step in state.steps.values() if step.status is StepStatus.UNDOING]
    if undoing:
        return "undo of " + ", ".join(undoing)
    issued = [step.id for step in state.steps.values() if step.status is StepStatus.ISSUED]
    if issued:
        return "reply to " + ", ".join(issued)
    if state.waits:
        return "signal " + ", ".join(name for name, waits in state.waits.items() if waits)
    for timer in state.timers.values():
        if timer.purpose is TimerPurpose.SLEEP:
            return f"timer {timer.target}"
    return None


def snapshot(state: SagaState) -> dict[str, object]:
    """The recorded side of a state as plain values, to compare a live one with a rebuilt one."""
    plan = state.plan
    return {
        "status": state.status.value,
        "key": state.key,
        "trigger": state.trigger,
        "steps": {
            step.id: (
                step.message,
                step.kind.value,
                step.status.value,
                step.attempts,
                step.undo_attempts,
                step.is_backing_off,
                step.is_disowned,
                step.is_undo_blind,
                (step.first_issued_at, step.undo_began_at, step.undo_floor, step.undo_spent),
                (step.has_reply, step.reply),
                (step.code, step.error),
                dict(step.replies),
            )
            for step in state.steps.values()
        },
        "timers": dict(state.timers),
        "waits": {name: list(waits) for name, waits in state.waits.items() if waits},
        "signals": {name: list(unread) for name, unread in state.signals.items() if unread},
        "causes": set(state.causes),
        "plan": (plan.recorded, list(plan.groups), plan.position) if plan else None,
        "flags": (
            state.is_past_pivot,
            state.is_finishing,
            state.is_poisoned,
            state.cancel_reason,
        ),
        "outcome": (state.outcome, state.pending_outcome),
        "report": (state.reason, state.code, state.residue),
        "before": (state.before_parking, state.before_failure),
    }
