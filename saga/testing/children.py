"""What happens between a saga and its children, as a test says it, and what is expected of it.

A child is another saga, perhaps of another application: a test of its parent says what the child
tells, and a test of the child says what its parent asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saga.contracts import Event, contract_of, message_of
from saga.core.events import (
    CancelMode,
    CancelRequested,
    ChildEnded,
    ChildStarted,
    ChildStatus,
    Fact,
    Message,
    Parent,
)
from saga.core.history import Entry
from saga.core.identity import (
    DO,
    UNDO,
    Direction,
    Instant,
    IntentId,
    StepId,
    intent_id,
    saga_id,
)
from saga.core.intents import CommandSent, IntentIssued, SentAct
from saga.core.state import SagaState
from saga.testing.expectations import Containing, Expectation

ChildSubject = type[Event] | str
"""The class of the event that starts a child, or the id of the step that does."""
PARENT: Parent = Parent(
    intent_id(saga_id("parent", "parent-1"), StepId("child"), DO, 1), "parent-1"
)
"""Whose child a saga is that `as_child` starts."""


@dataclass(frozen=True, slots=True)
class ChildSays:
    """What the child of the step that is meant says of itself."""

    subject: ChildSubject
    direction: Direction = DO
    status: ChildStatus | None = None
    definition: str = "child"
    key: str | None = None
    outcome: Message | None = None
    reason: str | None = None
    code: str | None = None
    failed_step: str | None = None
    residue: tuple[str, ...] = ()

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        issued = self._issued(state, history)
        intent = intent_id(state.saga_id, issued.step, issued.direction, issued.attempt)
        key = self.key or issued.step
        child = saga_id(self.definition, key)
        if self.status is None:
            begun = ChildStarted(
                intent_id=intent, saga_id=child, definition=self.definition, key=key
            )
            return begun, None
        is_there = self.status is not ChildStatus.REFUSED or self.direction is UNDO
        ended = ChildEnded(
            intent_id=intent,
            status=self.status,
            saga_id=child if is_there else None,
            definition=self.definition if is_there else None,
            key=key if is_there else None,
            outcome=self.outcome,
            reason=self.reason,
            code=self.code,
            failed_step=self.failed_step,
            residue=self.residue,
        )
        return ended, None

    def _issued(self, state: SagaState, history: Sequence[Entry]) -> IntentIssued:
        """The intent that is meant: of those that fit the first which is not answered."""
        bodies = [entry.body for entry in history]
        issued = [
            body
            for body in bodies
            if isinstance(body, IntentIssued) and body.child and body.direction is self.direction
        ]
        meant = [body for body in issued if self._fits(body)]
        name = self.subject if isinstance(self.subject, str) else self.subject.__name__
        assert meant, f"no child was asked for by {name} ({self.direction.value})"
        for body in meant:
            intent = intent_id(state.saga_id, body.step, body.direction, body.attempt)
            if not state.is_answered(intent):
                return body
        return meant[-1]

    def _fits(self, issued: IntentIssued) -> bool:
        if isinstance(self.subject, str):
            return issued.step == self.subject
        trigger = issued.contract if issued.direction is DO else issued.undoes
        return trigger == contract_of(self.subject).contract_name


@dataclass(frozen=True, slots=True)
class AsChild:
    """A trigger that another saga has sent."""

    trigger: Event
    parent: Parent


@dataclass(frozen=True, slots=True)
class UndoneByParent:
    attempt: int
    parent: Parent

    def fact(self, state: SagaState, history: Sequence[Entry]) -> tuple[Fact, Instant | None]:
        del state, history
        undo = self.parent.intent_id.rpartition("/do/")[0]
        asked = CancelRequested(
            mode=CancelMode.GRACEFUL,
            reason="its parent is rolled back",
            undo=IntentId(f"{undo}/undo/{self.attempt}"),
        )
        return asked, None


def child_started(
    of: ChildSubject, *, definition: str = "child", key: str | None = None
) -> ChildSays:
    """A saga has begun as the child of this trigger or step."""
    return ChildSays(of, definition=definition, key=key)


def child_completed(
    of: ChildSubject,
    outcome: Event | None = None,
    *,
    definition: str = "child",
    key: str | None = None,
) -> ChildSays:
    """The child is through, with this outcome."""
    message = None if outcome is None else message_of(outcome)
    return ChildSays(of, DO, ChildStatus.COMPLETED, definition, key, message)


def child_rolled_back(
    of: ChildSubject,
    reason: str = "it failed",
    *,
    status: ChildStatus | str = ChildStatus.ROLLED_BACK,
    code: str | None = None,
    failed_step: str | None = None,
    residue: tuple[str, ...] = (),
) -> ChildSays:
    """The child has ended otherwise; *status* may also be `abandoned`, or with residue."""
    return ChildSays(
        of,
        DO,
        ChildStatus(status),
        reason=reason,
        code=code,
        failed_step=failed_step,
        residue=residue,
    )


def child_refused(of: ChildSubject, *, code: str = "key_taken") -> ChildSays:
    """Another saga has the key of the child, so there is none."""
    return ChildSays(of, DO, ChildStatus.REFUSED, reason="it is another saga's", code=code)


def child_undone(of: ChildSubject, *, residue: tuple[str, ...] = ()) -> ChildSays:
    """A child that had completed is rolled back, as its parent wanted."""
    status = ChildStatus.ROLLED_BACK_WITH_RESIDUE if residue else ChildStatus.ROLLED_BACK
    return ChildSays(of, UNDO, status, residue=residue)


def child_undo_refused(of: ChildSubject, reason: str = "past its pivot") -> ChildSays:
    """A child cannot be undone."""
    return ChildSays(of, UNDO, ChildStatus.REFUSED, reason=reason, code="undo_refused")


def as_child(trigger: Event, *, parent: Parent = PARENT) -> AsChild:
    """The saga is started by another one, as its child."""
    return AsChild(trigger, parent)


def undone_by_parent(*, attempt: int = 1, parent: Parent = PARENT) -> UndoneByParent:
    """The parent wants its child undone."""
    return UndoneByParent(attempt, parent)


def child_issued(trigger: Event | type[Event], *, step: str | None = None) -> Expectation:
    """A child is to be started: by exactly *trigger*, or any of that class."""
    model = trigger if isinstance(trigger, type) else type(trigger)
    wanted: dict[str, object] = {"direction": DO, "child": True}
    wanted["contract"] = contract_of(model).contract_name
    if not isinstance(trigger, type):
        wanted["payload"] = message_of(trigger).payload
    if step is not None:
        wanted["step"] = step
    return Expectation(IntentIssued, wanted)


def child_cancelled(step: str, *, mode: CancelMode | str = CancelMode.GRACEFUL) -> Expectation:
    """The child of a step is asked to end."""
    told = None if CancelMode(mode) is CancelMode.GRACEFUL else CancelMode(mode)
    command = Containing(f"/{step}/do/1/cancel")
    return Expectation(CommandSent, {"act": SentAct.CANCEL, "mode": told, "command": command})


def child_undo_asked(step: str, *, attempt: int = 1) -> Expectation:
    """The child of a step, which may have completed, is to be undone."""
    command = Containing(f"/{step}/undo/{attempt}")
    return Expectation(CommandSent, {"act": SentAct.UNDO, "command": command})
