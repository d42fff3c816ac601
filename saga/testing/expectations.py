"""What a saga is expected to decide, and how decisions read in the report of a failed test.

*Acts* are what others can see: a test lists all of them, in order. The rest is *bookkeeping*:
timers, plans, notes; a test names what it cares about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from pydantic_core import to_jsonable_python

from saga.contracts import Event, Intent, canonical, contract_of, message_of
from saga.core.durations import Duration, duration_us
from saga.core.events import Message
from saga.core.history import NAME_OF, Entry
from saga.core.identity import Direction, StepId
from saga.core.intents import (
    ArrivalRefused,
    CommandSent,
    Continued,
    EventPublished,
    IntentIssued,
    IntentTold,
    Noted,
    Patched,
    PlannedUndo,
    RollbackDue,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaParked,
    SagaResumed,
    SagaRolledBack,
    ScopeUndone,
    SentAct,
    Shown,
    StepSettled,
    TimerArmed,
    TimerPurpose,
    UndoAppended,
    UpdateAnswered,
    Verdict,
)
from saga.core.status import StepStatus

ACTS: Final = (
    IntentIssued,
    EventPublished,
    IntentTold,
    CommandSent,
    UpdateAnswered,
    SagaParked,
    SagaCompleted,
    SagaRolledBack,
    SagaCleanedUp,
    SagaAbandoned,
)


def is_act(body: object) -> bool:
    """Whether others can see it; to undo a child, a command is what they see."""
    if isinstance(body, IntentIssued) and body.child:
        return body.direction is Direction.DO
    return isinstance(body, ACTS)


EventSpec = Event | type[Event] | None
"""An event, its class where its fields do not matter, or None for no event."""


@dataclass(frozen=True, slots=True)
class Containing:
    """Stands for every text that has *text* in it."""

    text: str


@dataclass(frozen=True, slots=True)
class Expectation:
    """One decision: its type and the fields that matter."""

    decides: type
    wanted: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_act(self) -> bool:
        return self.decides in ACTS

    def matches(self, entry: Entry) -> bool:
        return type(entry.body) is self.decides and all(
            _agrees(want, _value(entry, name)) for name, want in self.wanted.items()
        )

    def __str__(self) -> str:
        words = " ".join(f"{name}={_shown(value)}" for name, value in self.wanted.items())
        return f"{NAME_OF[self.decides]} {words}".rstrip()


def issued(
    intent: Intent[Any] | type[Intent[Any]],
    *,
    step: str | None = None,
    attempt: int | None = None,
    scope: str | None = None,
) -> Expectation:
    """A service is asked to do something: exactly *intent*, or any of that class."""
    return _intent(intent, Direction.DO, step, attempt, scope)


def undo_issued(
    intent: Intent[Any] | type[Intent[Any]], *, step: str | None = None, attempt: int | None = None
) -> Expectation:
    """A service is asked to undo a step."""
    return _intent(intent, Direction.UNDO, step, attempt)


def published(event: Event) -> Expectation:
    """A fact is told before the saga's end."""
    message = message_of(event)
    return Expectation(EventPublished, {"contract": message.contract, "payload": message.payload})


def intent_told(intent: Intent[Any] | type[Intent[Any]], *, step: str | None = None) -> Expectation:
    """A service is asked to do something, and nobody waits for its answer."""
    model = intent if isinstance(intent, type) else type(intent)
    wanted = _given(
        contract=contract_of(model).contract_name,
        payload=None if isinstance(intent, type) else message_of(intent).payload,
        step=step,
    )
    return Expectation(IntentTold, wanted)


def shown(**fields: object) -> Expectation:
    """These fields of what people see have changed; None: it is shown no longer."""
    return Expectation(Shown, {name: canonical(value) for name, value in fields.items()})


def signal_sent(
    definition: str, key: str, name: str, payload: object = None, *, command: str | None = None
) -> Expectation:
    """Another saga is sent a signal; *command*: under this id."""
    wanted = {"act": SentAct.SIGNAL, "definition": definition, "key": key, "name": name}
    wanted["payload"] = canonical(to_jsonable_python(payload))
    return Expectation(CommandSent, wanted | _given(command=command))


def answered(
    answer: object = None,
    *,
    code: str | None = None,
    message: str | None = None,
    update: str | None = None,
) -> Expectation:
    """An update is answered, or refused with this *code*; *message* is part of what is said."""
    wanted: dict[str, object] = {"code": code}
    wanted["answer"] = None if code is not None else canonical(to_jsonable_python(answer))
    return Expectation(UpdateAnswered, wanted | _given(update=update, message=_containing(message)))


def completed(outcome: EventSpec = None, *, residue: tuple[str, ...] = ()) -> Expectation:
    """The saga is through, with this outcome; *residue* is what it gave up and could not undo."""
    return Expectation(SagaCompleted, {"outcome": _outcome(outcome), "residue": residue or None})


def rolled_back(
    outcome: EventSpec = None,
    *,
    reason: str | None = None,
    code: str | None = None,
    failed_step: str | None = None,
    residue: tuple[str, ...] = (),
) -> Expectation:
    """The saga is undone but for its *residue*; *reason* need only be part of what is said."""
    said = _given(code=code, failed_step=failed_step, reason=_containing(reason))
    return Expectation(SagaRolledBack, {"residue": residue, "outcome": _outcome(outcome)} | said)


def cleaned_up(*, residue: tuple[str, ...] = ()) -> Expectation:
    """The late successes of an ended saga are undone."""
    return Expectation(SagaCleanedUp, {"residue": residue})


def abandoned(*, residue: tuple[str, ...] = (), reason: str | None = None) -> Expectation:
    """The saga is ended as it stands."""
    return Expectation(SagaAbandoned, {"residue": residue} | _given(reason=_containing(reason)))


def parked(reason: str = "") -> Expectation:
    """The saga waits for someone; *reason* is part of what is said."""
    return Expectation(SagaParked, {"reason": Containing(reason)})


def planned(*groups: str | tuple[str, ...], scope: str | None = None) -> Expectation:
    """A rollback is planned, of the saga or of a *scope*.

    These steps are undone, one by one in this order; a tuple side by side.
    """
    steps: list[PlannedUndo] = []
    awaited: tuple[StepId, ...] = ()
    for group in groups:
        names = (group,) if isinstance(group, str) else group
        side_by_side = tuple(StepId(name) for name in names)
        for step in side_by_side:
            is_behind_last = awaited == tuple(planned.step for planned in steps[-1:])
            steps.append(PlannedUndo(step=step, after=None if is_behind_last else awaited))
        awaited = side_by_side
    return Expectation(RollbackPlanned, {"steps": tuple(steps), "scope": scope})


def rollback_due(
    reason: str = "",
    *,
    code: str | None = None,
    failed_step: str | None = None,
    scope: str | None = None,
) -> Expectation:
    """A rollback, perhaps of a *scope*, waits for what is in flight; *reason* is part of why."""
    said = {"scope": scope} | _given(code=code, failed_step=failed_step)
    return Expectation(RollbackDue, {"reason": Containing(reason)} | said)


def scope_undone(scope: str, *, residue: tuple[str, ...] = ()) -> Expectation:
    """A scope is undone but for its *residue*, and its failure is raised out of it."""
    return Expectation(ScopeUndone, {"scope": scope, "residue": residue or None})


def undo_appended(step: str) -> Expectation:
    """A late success joins the plan."""
    return Expectation(UndoAppended, {"step": step})


def undo_stuck(step: str, *, code: str | None = None) -> Expectation:
    """A step cannot be undone within its policy."""
    return settled(step, StepStatus.UNDO_STUCK, code=code)


def settled(step: str, status: StepStatus | str, *, code: str | None = None) -> Expectation:
    """A step stands elsewhere now, and not by the plain success of a reply."""
    return Expectation(StepSettled, _given(step=step, status=StepStatus(status), code=code))


def resumed() -> Expectation:
    """The saga goes on where it stood before it parked."""
    return Expectation(SagaResumed)


def armed(purpose: TimerPurpose | str, target: str, length: Duration) -> Expectation:
    """A timer is armed, due after *length*; its target is a step and direction, or a name."""
    wanted = {"purpose": TimerPurpose(purpose), "target": target, "length_us": duration_us(length)}
    return Expectation(TimerArmed, wanted)


def noted(verdict: Verdict | str, detail: str = "") -> Expectation:
    """Something arrived that changed nothing, or not what its sender meant."""
    return Expectation(Noted, {"verdict": Verdict(verdict), "detail": Containing(detail)})


def arrival_refused(detail: str = "", *, arrived: int | None = None) -> Expectation:
    """What was kept is gone, as nothing ahead takes it; *arrived*: it came with this entry."""
    return Expectation(ArrivalRefused, {"detail": Containing(detail)} | _given(arrived=arrived))


def continued(trigger: Event | type[Event], *, run: int | None = None) -> Expectation:
    """A run ends, and the next one begins with this trigger."""
    return Expectation(Continued, {"trigger": _outcome(trigger)} | _given(run=run))


def patched(id: str) -> Expectation:
    """The saga takes the new path of a patch, for the first time."""
    return Expectation(Patched, {"patch": id})


def told(entry: Entry) -> str:
    body = entry.body
    if isinstance(body, Shown):
        return f"shown {' '.join(f'{name}={text}' for name, text in body.fields)}"
    words = " ".join(
        f"{field.name}={_shown(value)}"
        for field in fields(body)
        if (value := getattr(body, field.name)) not in (None, ())
    )
    return f"{NAME_OF[type(body)]} {words}".rstrip()


def _intent(
    intent: Intent[Any] | type[Intent[Any]],
    direction: Direction,
    step: str | None,
    attempt: int | None,
    scope: str | None = None,
) -> Expectation:
    model = intent if isinstance(intent, type) else type(intent)
    wanted = _given(
        direction=direction,
        contract=contract_of(model).contract_name,
        payload=None if isinstance(intent, type) else message_of(intent).payload,
        step=step,
        attempt=attempt,
        scope=scope,
    )
    return Expectation(IntentIssued, wanted)


def _given(**fields: object) -> dict[str, object]:
    """Those that a test names."""
    return {name: value for name, value in fields.items() if value is not None}


def _containing(text: str | None) -> Containing | None:
    return None if text is None else Containing(text)


def _outcome(spec: EventSpec) -> object:
    if isinstance(spec, type):
        return contract_of(spec).contract_name
    return None if spec is None else message_of(spec)


def _value(entry: Entry, name: str) -> object:
    if name == "length_us":
        assert isinstance(entry.body, TimerArmed)
        return entry.body.due_at - entry.at
    if isinstance(entry.body, Shown):
        return dict(entry.body.fields).get(name)
    if name == "steps" and isinstance(entry.body, RollbackPlanned) and entry.body.one_by_one:
        return tuple(PlannedUndo(step=planned.step) for planned in entry.body.steps)
    return getattr(entry.body, name)


def _agrees(want: object, value: object) -> bool:
    if isinstance(want, Containing):
        return isinstance(value, str) and want.text in value
    if isinstance(value, Message) and isinstance(want, str):
        return value.contract == want
    return want == value


def _shown(value: object) -> str:
    match value:
        case Containing():
            return f"…{value.text}…"
        case Message():
            return f"{value.contract} {value.payload}"
        case _:
            return str(value)
