"""What a saga is between two turns: the fold of its entries, and the running program beside it.

Theory of operation: `fold` is the only module that changes a state, and every change follows from
an entry. A state has one owner and moves with it: `handle` takes it and gives it back changed.
Where a turn cannot be recorded, its state is thrown away and rebuilt from the history; nobody reads
it in between. That is what lets a live coroutine be part of it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from saga.core.events import (
    Arrival,
    CancelMode,
    Channel,
    Event,
    Json,
    Message,
    Parent,
    ReplyReceived,
)
from saga.core.history import RecordedTurn
from saga.core.identity import (
    DO,
    UNDO,
    Direction,
    Instant,
    IntentId,
    IntentName,
    SagaId,
    StepId,
    TimerId,
    intent_id,
    parse_intent_id,
)
from saga.core.intents import (
    Awaited,
    IntentIssued,
    RollbackDue,
    RollbackPlanned,
    SagaParked,
    StepSettled,
    TimerArmed,
    TimerPurpose,
)
from saga.core.migrations import Migrations
from saga.core.program import Definition, Program
from saga.core.status import ISSUED, UNDOING, SagaStatus, StepKind, StepStatus
from saga.core.values import value

Identity = str | tuple[str, str]
"""Of a cause: its id, with the source where that is not the implied one."""
_KIND: Final = itemgetter(0)
_NAME: Final = itemgetter(1)
NAMED_MAX: Final = 20
"""As many people read of what a saga waits for; the index keeps it with every turn."""


@dataclass(slots=True)
class Step:
    """One step, from the first time its intent was issued."""

    id: StepId
    contract: str
    payload: Json
    kind: StepKind
    after: tuple[StepId, ...]
    before: tuple[StepId, ...]
    """The step issued before it, if any."""
    first_issued_at: Instant
    status: StepStatus = StepStatus.ISSUED
    attempts: int = 1
    undo_attempts: int = 0
    undo_began_at: Instant = Instant(0)
    undo_floor: int = 0
    """Attempts to undo below this one began before the step had succeeded: they settle nothing."""
    undo_spent: int = 0
    """Attempts to undo that do not count against the policy: it was given a fresh budget since."""
    is_backing_off: bool = False
    is_dropped: bool = False
    """The program knows that it failed, or does not want it: its effect is undone in any case."""
    has_lost: bool = False
    """A race was decided without it."""
    is_undo_blind: bool = False
    """Its latest undo was issued before any reply was known."""
    ended: int = 0
    """Which one it was of the steps that are issued no longer, in the order of that; 0 if it is."""
    reply: Message | None = None
    has_reply: bool = False
    scope: str | None = None
    """The innermost scope that it was issued in, behind the names of those around that."""


@dataclass(slots=True)
class Child:
    """What is known of the saga that a step has started: nothing, until it says so itself."""

    saga_id: SagaId | None = None
    definition: str = ""
    key: str = ""
    is_overdue: bool = False
    """The time that its step gave it is over."""
    ends_at_once: bool = False
    """Its parent was cancelled at once, and not gracefully."""
    cancelled: CancelMode | None = None
    """How it was asked to end."""


@dataclass(slots=True)
class Progress:
    """How far a rollback has come.

    *passed* are the steps that hold up no other: settled, with all that they had waited for. Of
    the others, *missing* says how many that they wait for are not passed, and *behind* who waits
    for them; *places* is the order of the plan. *free* are those whose turn has not come, though
    they wait for nothing: a heap of place and step.
    """

    passed: set[StepId]
    missing: dict[StepId, int]
    behind: dict[StepId, list[StepId]]
    places: dict[StepId, int]
    free: list[tuple[int, StepId]] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """A recorded rollback; *after* has its steps in order, with those whose undo each waits for.

    *progress* is what the module `rollback` has worked out from it and from where the steps stand.
    """

    recorded: RollbackPlanned
    after: dict[StepId, tuple[StepId, ...]]
    progress: Progress | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Pause:
    """A saga is paused, by an act on itself, on its definition, or both.

    *held* is what its program is told when it goes on; it is not in the entries, as a program is
    not, but follows from them.
    """

    by_saga: bool = False
    by_definition: bool = False
    held: list[Any] = field(default_factory=list, compare=False, repr=False)
    turn: int = field(default=0, compare=False, repr=False)
    """The version of the turn that is taken: what is held then came with its fact."""


@dataclass(slots=True)
class Scopes:
    """What is known of the scopes of a saga; the name of one begins with that of the one around."""

    steps: dict[str, list[StepId]] = field(default_factory=dict)
    """Those that were issued in each, or in a scope within it."""
    left: set[str] = field(default_factory=set)
    """Those that a failure has left."""
    due: dict[str, RollbackDue] = field(default_factory=dict)
    """Of these, those in which something is in flight, which is waited for."""
    plans: dict[str, Plan] = field(default_factory=dict)
    """Those being undone. What a saga, or the scope around it, has planned to undo is its own."""

    @property
    def is_busy(self) -> bool:
        return bool(self.due or self.plans)

    def plan_over(self, scope: str) -> Plan | None:
        """The plan by which what was issued in *scope* is undone."""
        if not self.plans:
            return None
        return next((self.plans[name] for name in around(scope) if name in self.plans), None)

    def undone_over(self, scope: str) -> str | None:
        """The outermost scope around *scope* that was left and does not wait to be undone."""
        names = around(scope)
        if any(name in self.due for name in names):
            return None
        return next((name for name in names if name in self.left), None)

    def end_plans(self) -> None:
        """Forget what was planned, or due: it is part of the saga's own plan, or never undone."""
        self.due.clear()
        self.plans.clear()

    def take_over(self, scope: str) -> None:
        """Forget what was planned, or due, within *scope*: it is part of that now."""
        for kept in (self.due, self.plans):
            for name in [name for name in kept if scope in around(name)]:
                del kept[name]


def around(scope: str) -> list[str]:
    """The names of the scopes around *scope*, the outermost first, and its own."""
    parts = scope.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


@value
class Unarmed:
    """A timer that was never armed, and how long after it is armed it is due."""

    timer: TimerArmed
    length_us: int


class Untold:
    """The failures of a history that its code is not told of, as the saga parks on their steps."""

    __slots__ = ("_known", "_recorded", "held", "parked_in")

    def __init__(self, recorded: Sequence[RecordedTurn]) -> None:
        self._recorded = recorded
        self._known: dict[tuple[Identity, StepId], bool] | None = None
        self.held: set[StepId] = set()
        """The steps that the saga parks on in a turn yet to come."""
        self.parked_in = 0
        """The version of the last turn in which it did so."""

    def parks_later(self, cause: Identity, step: StepId) -> bool | None:
        """Of the failure of *step* in the turn of this cause; None where the code was told of it.

        True: the saga parks on it in a turn yet to come, or behind what else it does in that one.
        False: in that very turn, at once.
        """
        if self._known is None:
            self._known = dict(_untold(self._recorded))
        return self._known.get((cause, step))


def _untold(recorded: Iterable[RecordedTurn]) -> Iterator[tuple[tuple[Identity, StepId], bool]]:
    failed_in: dict[StepId, tuple[Identity, int]] = {}
    for turn in recorded:
        for place, body in enumerate(turn.decided):
            if type(body) is IntentIssued and body.direction is DO:
                failed_in.pop(body.step, None)
            elif type(body) is StepSettled and body.direction is DO:
                # A late failure that closes the doubt is not the one that the code was told of.
                failed_in.setdefault(body.step, (identity_of(turn.event), place))
            elif type(body) is SagaParked and body.step in failed_in:
                cause, failed_at = failed_in[body.step]
                is_later = cause != identity_of(turn.event)
                between = () if is_later else turn.decided[failed_at + 1 : place]
                yield (
                    (cause, body.step),
                    is_later or not {SagaParked}.issuperset(map(type, between)),
                )


@dataclass(slots=True)
class Run:
    """A run of a saga, from the second one on.

    *began_with* is a digest of the saga's first trigger; *causes_before*: how many of the causes
    that are known are those of the run before. *definition* decides, in place of the one before.
    """

    number: int
    began_with: str
    causes_before: int
    definition: Definition | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class SagaState:
    """Everything the next decision depends on.

    What does not follow from the entries alone is *program*, and what stands beside it.
    """

    saga_id: SagaId
    status: SagaStatus = SagaStatus.RUNNING
    version: int = 0
    """That of the last entry of the turn before."""
    key: str = ""
    traceparent: str | None = None
    trigger: Message | None = None
    started_at: Instant = Instant(0)
    format: int | None = None
    steps: dict[StepId, Step] = field(init=False, default_factory=dict)
    replies: dict[IntentName, ReplyReceived] = field(init=False, default_factory=dict)
    """The first answer to each attempt."""
    in_flight: dict[StepId, Step] = field(init=False, default_factory=dict)
    undoing: dict[StepId, Step] = field(init=False, default_factory=dict)
    """The steps that are issued, and those being undone: a turn may not look at all steps."""
    latest_step: tuple[StepId, ...] = ()
    """The step issued last, on which the next one depends where its entry says nothing."""
    ended_steps: int = 0
    """How often a step ended: was issued, and is no longer."""
    undo_contracts: dict[StepId, str] = field(init=False, default_factory=dict)
    """The contract of each step's latest undo, in the order in which the first ones were issued."""
    timers: dict[TimerId, TimerArmed] = field(init=False, default_factory=dict)
    waits: dict[Channel, dict[str, None]] = field(init=False, default_factory=dict)
    """By what is waited for the waits for it, the oldest first."""
    waited: dict[str, Awaited] = field(init=False, default_factory=dict)
    """The waits, by name."""
    kept: dict[Channel, OrderedDict[int, Arrival]] = field(init=False, default_factory=dict)
    """What nobody has taken yet, by the version of its entry: in order of arrival."""
    causes: dict[Identity, str | None] = field(init=False, default_factory=dict)
    """Of each cause a digest of what it said, where nothing else keeps that."""
    details: dict[StepId, Json] | None = None
    """What services have said of steps that failed; None where they said nothing more."""
    told: set[StepId] | None = None
    """The intents whose replies nobody waits for; None where there is none."""
    updates: dict[str, bool] | None = None
    """Of each update that came whether it is open; None where none has come."""
    shown: dict[str, Json] | None = None
    """What people see of it by name; None where it has never shown anything."""
    plan: Plan | None = None
    """By which the saga is undone, or what is left of it."""
    scopes: Scopes | None = None
    """None until a step is issued in one, or one is left by a failure."""
    is_past_pivot: bool = False
    is_stranded: bool = False
    """It has parked past its pivot on its whole: no step brings it on that is tried again."""
    is_finishing: bool = False
    is_continuing: bool = False
    """Whether it is finishing this run only: *pending_outcome* triggers the next one."""
    is_poisoned: bool = False
    cancel_reason: str | None = None
    due: RollbackDue | None = None
    """The rollback that waits for what is in flight."""
    pending_outcome: Message | None = None
    outcome: Message | None = None
    reason: str | None = None
    code: str | None = None
    residue: tuple[StepId, ...] = ()
    parent: Parent | None = None
    undo: IntentId | None = None
    """The intent of its parent by which a child that had completed is undone."""
    children: dict[StepId, Child] | None = None
    """By the step that started each."""
    before_parking: tuple[SagaStatus, str | None] = (SagaStatus.RUNNING, None)
    """Status and reason to go back to when what the saga parked on is settled."""
    before_failure: tuple[SagaStatus, str | None] = (SagaStatus.RUNNING, None)
    """Status and reason to go back to when a failed turn is released."""
    pause: Pause | None = None
    taken: dict[str, tuple[int, Arrival]] | None = None
    """By wait what it took while the saga was paused: given back if the wait is given up then."""
    run: Run | None = None
    """None in the first one."""
    program: Program | None = field(default=None, compare=False, repr=False)
    untold: Untold | None = field(default=None, compare=False, repr=False)
    """Of the history that is replayed: the failures that its program is not told of."""
    migrations: Migrations | None = field(default=None, compare=False, repr=False)
    """Of the history that is replayed; None where it was never migrated."""
    is_ahead: bool = field(default=False, compare=False)
    """Its program knows too much: before the next turn it is brought back from its entries."""
    late: deque[Any] | None = field(default=None, compare=False, repr=False)
    """What the program is told in the next turn only, as it came behind a parking in this one."""
    unarmed: dict[TimerId, Unarmed] = field(init=False, default_factory=dict, compare=False)
    """Timeouts that the code at hand has and the history has not, of what is still open."""

    def stand(self, step: Step, status: StepStatus) -> None:
        """Note where a step stands from now on."""
        if step.status is ISSUED:
            del self.in_flight[step.id]
            self.ended_steps = step.ended = self.ended_steps + 1
        elif step.status is UNDOING:
            del self.undoing[step.id]
        step.status = status
        if status is ISSUED:
            self.in_flight[step.id] = step
        elif status is UNDOING:
            self.undoing[step.id] = step

    def plan_of(self, step: Step) -> Plan | None:
        """The plan that is to undo *step*, if it is to be undone."""
        if self.plan is not None or self.scopes is None or step.scope is None:
            return self.plan
        return self.scopes.plan_over(step.scope)

    @property
    def has_ended(self) -> bool:
        """Whether it has had its outcome, perhaps behind a failed turn that holds it up."""
        return self.status.is_ended or (self.is_poisoned and self.before_failure[0].is_ended)

    def was_issued(self, name: IntentName) -> bool:
        """Whether there was such an intent, of a step or one that was told."""
        _, step_id, direction, attempt = name
        step = self.steps.get(step_id)
        if step is not None:
            return 1 <= attempt <= (step.attempts if direction is DO else step.undo_attempts)
        is_told = self.told is not None and step_id in self.told
        return is_told and direction is DO and attempt == 1

    def is_answered(self, intent_id: IntentId) -> bool:
        return parse_intent_id(intent_id) in self.replies

    @property
    def is_stopping(self) -> bool:
        """Whether it goes forward no more, though no rollback is planned yet."""
        return self.cancel_reason is not None or self.due is not None

    @property
    def run_number(self) -> int:
        return 1 if self.run is None else self.run.number

    @property
    def is_started(self) -> bool:
        return self.trigger is not None


@value(kw_only=True)
class StepRow:
    """One direction of one step, as people see it; *intent_id* is that of the latest attempt."""

    step: StepId
    contract: str
    direction: Direction
    status: StepStatus
    attempts: int
    intent_id: IntentId
    is_dropped: bool


def identity_of(event: Event) -> Identity:
    return event.cause if event.source is None else (event.source, event.cause)


def step_rows(state: SagaState) -> Sequence[StepRow]:
    """A row for each step, then one for each undo, in the order in which they were first issued."""
    steps = state.steps
    issued = [(step, DO, step.contract, step.attempts) for step in steps.values()]
    issued += [
        (steps[step_id], UNDO, contract, steps[step_id].undo_attempts)
        for step_id, contract in state.undo_contracts.items()
    ]
    failed_step = state.plan.recorded.failed_step if state.plan is not None else None
    return [
        StepRow(
            step=step.id,
            contract=contract,
            direction=direction,
            status=step.status,
            attempts=attempts,
            intent_id=intent_id(state.saga_id, step.id, direction, attempts),
            # The failure that began the rollback was caught by nobody.
            is_dropped=step.is_dropped and step.id != failed_step,
        )
        for step, direction, contract, attempts in issued
    ]


def waiting_for(state: SagaState) -> str | None:
    """What has to happen next for this saga to move, in words an operator reads."""
    if state.status.is_ended:
        return None
    if state.status is SagaStatus.PARKED:
        return "operator"
    if state.undoing:
        return "undo of " + _some(state.undoing)
    if state.in_flight:
        if state.children is None:
            return "reply to " + _some(state.in_flight)
        return _answers(state.in_flight, state.children)
    if state.pause is not None:
        return "resume"
    if state.waited:
        return _awaited(state)
    for timer in state.timers.values():
        if timer.purpose is TimerPurpose.SLEEP:
            return f"timer {timer.target}"
    return None


def _answers(in_flight: Collection[StepId], children: Collection[StepId]) -> str:
    """Whose answers a saga with *children* waits for."""
    awaited = [
        ("child" if step in children else "reply to", step) for step in islice(in_flight, NAMED_MAX)
    ]
    return _by_kind(awaited, len(in_flight), " and ")


def _awaited(state: SagaState) -> str:
    return _by_kind(list(islice(state.waits, NAMED_MAX)), len(state.waits), " or ")


def _by_kind(first: Sequence[tuple[str, str]], count: int, link: str) -> str:
    """The *first* of *count* names, each kind by itself: a turn may not look at them all."""
    kinds = dict.fromkeys(map(_KIND, first))
    if len(kinds) == 1:
        text = f"{next(iter(kinds))} {', '.join(map(_NAME, first))}"
    else:
        named = {kind: [name for each, name in first if each == kind] for kind in kinds}
        text = link.join(f"{kind} {', '.join(names)}" for kind, names in named.items())
    return text if count == len(first) else f"{text} and {count - len(first)} more"


def _some(names: Collection[str]) -> str:
    if len(names) <= NAMED_MAX:
        return ", ".join(names)
    return f"{', '.join(islice(names, NAMED_MAX))} and {len(names) - NAMED_MAX} more"


_BESIDE_THE_ENTRIES: Final = (*("program", "unarmed", "untold", "migrations", "is_ahead", "late"),)


def parts_of(state: SagaState) -> dict[str, object]:
    """What follows from the entries, part by part, to compare one state with another."""
    parts = {part.name: getattr(state, part.name) for part in fields(state)}
    for name in _BESIDE_THE_ENTRIES:
        del parts[name]
    parts["undo order"] = list(state.plan.after) if state.plan is not None else None
    plans = {} if state.scopes is None else state.scopes.plans
    parts["undo order of scopes"] = {name: list(plan.after) for name, plan in plans.items()}
    return parts
