"""One course of one saga: anything happens to it, then a kind world brings it to its end.

What happens is drawn as pairs of a word and a number: the number picks among what the word can mean
where the saga stands. Nothing happens where it can mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hypothesis import strategies as st
from typing_extensions import override

from saga.authoring.definition import SagaDefinition, UnresolvedSaga
from saga.authoring.registry import SagaRegistry
from saga.contracts import ContractRegistry, Event, message_of
from saga.core.decider import Decider
from saga.core.events import ReplyOutcome, ReplyReceived, TimerFired
from saga.core.identity import DO, UNDO, Instant, StepId, intent_id
from saga.core.intents import IntentIssued
from saga.core.state import SagaState, Step, waiting_for
from saga.core.status import SagaStatus, StepStatus
from saga.testing import (
    Scenario,
    as_child,
    cancelled,
    child_completed,
    child_refused,
    child_rolled_back,
    child_started,
    child_undo_refused,
    child_undone,
    operator,
    progressed,
    redelivered,
    signalled,
    turn_failed,
    undone_by_parent,
    updated,
)
from saga.testing.happenings import Plain
from saga.testing.spec import Happens
from tests.laws.contracts import CONTRACTS, Grown, Made, News
from tests.laws.races import Decided, Race, Races
from tests.laws.record import without_run

TURNS_MAX: Final = 300
"""A saga that takes more turns in a kind world goes in a circle."""
_GAVE_OUT: Final = frozenset({StepStatus.FAILED, StepStatus.REFUSED, StepStatus.IN_DOUBT})
TOO_LATE: Final = "comes after the pivot"
"""Part of why a saga parks that asks for what can be undone where there is no way back."""

NOBODY_ANSWERS: Final = 4
"""So many timers fire at the end of some courses, as nobody has answered by then."""

Happened = tuple[str, int]
"""A word for what happens, and which of what that can be."""


class Description(Protocol):
    """A saga of one way of writing, as data."""

    @property
    def is_parallel(self) -> bool: ...

    @property
    def continues_when_stuck(self) -> bool: ...

    @property
    def halts(self) -> bool:
        """Whether it parks, where others roll back."""
        ...

    def trigger(self) -> Event: ...

    def definition(self) -> SagaDefinition: ...

    @property
    def races(self) -> Races:
        """Those of the saga that began last with this description."""
        ...

    def depends(self, step: str, settled: Sequence[str]) -> set[str]:
        """On which of the *settled* steps one depends that is issued now; ids without the run."""
        ...


@dataclass(frozen=True)
class Drawn:
    """A saga and what happens to it."""

    saga: Description
    happens: tuple[Happened, ...] = ()
    is_child: bool = False
    kept: dict[str, Course] = field(default_factory=dict, compare=False, repr=False)
    """The course, so that several laws look at one."""

    def course(self) -> Course:
        """The whole course, up to its end."""
        if "whole" not in self.kept:
            self.kept["whole"] = through(begun(self))
        return self.kept["whole"]


Listener = Callable[["Course"], None]


class Course(Scenario):
    """A scenario that draws what happens; what it compares beside is what a law says."""

    drawn: Drawn
    is_refused = False
    """It parked for good: it says so, or asks for what can be undone where there is no way back."""

    def __init__(self, saga: SagaDefinition) -> None:
        super().__init__(saga, CONTRACTS, ())
        self.listeners: list[Listener] = []
        self.statuses: list[tuple[int, SagaStatus, str | None]] = []
        """After each turn: how many entries there were, where it stood, what it waited for."""
        self.taken: list[tuple[Instant, Happens]] = []
        """What happened, and when."""
        self.races = Races()
        self.decided_at: dict[Race, tuple[Decided, int]] = {}
        """The races that are decided, and how many entries there were then."""

    @override
    def _become(self, saga: SagaDefinition | UnresolvedSaga) -> None:
        """As any scenario does, with the registry that was made of the definition before."""
        assert not isinstance(saga, UnresolvedSaga)
        self._versions[saga.version] = self._saga = saga
        self._sagas = registry_of(saga)
        registered = self._sagas.find(saga.name, saga.version)
        assert registered is not None
        self._decider = registered.decider

    @property
    def decider(self) -> Decider:
        return self._decider

    def take(self, happened: Happened) -> None:
        """Let it happen, if it can."""
        happens = None if self.is_refused else drawn(self, *happened)
        if happens is not None:
            self.happen(happens)

    def happen(self, happens: Happens) -> None:
        self.taken.append((self.now, happens))
        try:
            self.when(happens)
        finally:
            if self._state is not None and self.state.is_poisoned and self._error is not None:
                is_meant = self.drawn.saga.halts or TOO_LATE in (self.state.reason or "")
                assert is_meant, self.state.reason
                self.is_refused = True

    def be_kind(self) -> None:
        """Everything succeeds and everybody helps, until it has ended."""
        for _ in range(TURNS_MAX):
            if self.is_refused or self.has_rest:
                return
            self.happen(next_in_a_kind_world(self))
        raise AssertionError(f"it does not end: {self.status}, {waiting_for(self.state)}")

    @property
    def has_rest(self) -> bool:
        return self.status.is_ended and not self.state.is_poisoned

    @override
    def _check_rebuilt(self) -> None:
        """After a turn; the laws of replays look by themselves."""
        self.statuses.append((len(self._history), self.state.status, waiting_for(self.state)))
        decided = self.races.decided
        for race, known in [*self.decided_at.items()]:
            if decided.get(race) != known[0]:
                del self.decided_at[race]
        for race, each in decided.items():
            self.decided_at.setdefault(race, (each, len(self._history)))
        for listener in self.listeners:
            listener(self)

    @override
    def _rebuilt(self) -> SagaState:
        """A replay is not told of a failure on which the saga parks: other races may be decided."""
        self.races.clear()
        return super()._rebuilt()

    @override
    def _check_snapshot(self) -> None:
        """After a turn; the law of replays goes on with what snapshots give."""


def begun(drawn: Drawn, kind: type[Course] = Course, *listeners: Listener) -> Course:
    """The saga has been triggered, and nothing more has happened; listeners hear of each turn."""
    definition = drawn.saga.definition()
    course = kind(definition)
    course.drawn = drawn
    course.listeners = [*listeners]
    trigger = drawn.saga.trigger()
    course.races = drawn.saga.races
    course.happen(as_child(trigger) if drawn.is_child else trigger)
    return course


def through(course: Course) -> Course:
    """All that was drawn happens, to the end, and some more behind that."""
    happens = course.drawn.happens
    for each in happens:
        course.take(each)
    for _ in range(NOBODY_ANSWERS if len(happens) % 3 == 1 else 0):
        course.take(("time", 0))
    course.be_kind()
    for word, number in happens[::-3]:
        course.take((AFTERWARDS.get(word, "late reply"), number))
    course.be_kind()
    return course


def repeated(course: Course, leaves_out: Callable[[Happens], bool]) -> Course:
    """Another course, to which the same happens at the same times, but for some of it."""
    other = begun(course.drawn, type(course))
    for at, happens in course.taken[1:]:
        if other.is_refused:
            break
        if not leaves_out(happens):
            other.now = max(other.now, at)
            other.happen(happens)
    return other


REGISTRIES_MAX: Final = 32
_REGISTRIES: dict[int, tuple[SagaDefinition, SagaRegistry]] = {}


def registry_of(definition: SagaDefinition) -> SagaRegistry:
    """The registry of a definition, which is made once."""
    known = _REGISTRIES.get(id(definition))
    if known is None:
        if len(_REGISTRIES) >= REGISTRIES_MAX:
            _REGISTRIES.clear()
        contracts = ContractRegistry([*definition.contracts(), *CONTRACTS])
        known = _REGISTRIES[id(definition)] = (definition, SagaRegistry([definition], contracts))
    return known[1]


def issued_in(course: Scenario, direction: object = None) -> list[IntentIssued]:
    """Every attempt so far of steps that are not children."""
    bodies = [entry.body for entry in course.history if isinstance(entry.body, IntentIssued)]
    return [
        one
        for one in bodies
        if direction in (None, one.direction) and not one.child and one.step in course.state.steps
    ]


def open_in(course: Scenario) -> list[IntentIssued]:
    """Every attempt that has no answer yet."""
    state = course.state
    return [
        one
        for one in issued_in(course)
        if not state.is_answered(intent_id(state.saga_id, one.step, one.direction, one.attempt))
    ]


def answer(course: Scenario, one: IntentIssued, outcome: ReplyOutcome, number: int) -> Plain:
    """A service answers an attempt."""
    is_made = outcome is ReplyOutcome.DONE and one.direction is DO
    said = {} if outcome is ReplyOutcome.DONE else {"code": outcome.value, "message": "drawn"}
    name = intent_id(course.state.saga_id, one.step, one.direction, one.attempt)
    reply = message_of(Made(number=number, step=without_run(one.step))) if is_made else None
    return Plain(ReplyReceived(intent_id=name, outcome=outcome, reply=reply, **said))


def _picked(items: Iterable[Any], number: int) -> Any:
    listed = list(items)
    return listed[number % len(listed)] if listed else None


def _reply(course: Course, number: int) -> Happens | None:
    one = _picked(open_in(course), number)
    outcomes = [*ReplyOutcome, ReplyOutcome.FAILED, ReplyOutcome.REFUSED]
    if one is None:
        return _child_says(course, number)
    return answer(course, one, outcomes[number // 7 % len(outcomes)], number // 50)


def _done(course: Course, number: int) -> Happens | None:
    one = _picked(open_in(course), number)
    return None if one is None else answer(course, one, ReplyOutcome.DONE, number // 90)


def _second_reply(course: Course, number: int) -> Happens | None:
    one = _picked(issued_in(course), number)
    outcomes = [ReplyOutcome.DONE, ReplyOutcome.DONE, *ReplyOutcome]
    return None if one is None else answer(course, one, outcomes[number % 5], number // 50)


def _late_reply(course: Course, number: int) -> Happens | None:
    """A service says at last that it did what nobody waits for any more."""
    late = [one for one in open_in(course) if one.direction is DO]
    one = _picked(late, number)
    if one is None:
        return _second_reply(course, number)
    return answer(course, one, ReplyOutcome.DONE, number // 50)


def _child_says(course: Course, number: int) -> Happens | None:
    state = course.state
    step = _picked(state.children or (), number)
    if step is None:
        return None
    if state.children[step].saga_id is None and number % 2:
        return child_started(step)  # from then on it can be cancelled
    says: list[Happens] = [
        child_completed(step, Grown(number=number, step=without_run(step))),
        child_started(step),
        child_rolled_back(step),
        child_completed(step, Grown(step=without_run(step))),
        child_rolled_back(step, status="abandoned"),
        child_refused(step),
        child_rolled_back(step, status="rolled_back_with_residue", residue=("x",)),
    ]
    if state.steps[step].undo_attempts:
        says += [*[child_undone(step)] * 4, child_undone(step, residue=("x",))] * 2
        says += [child_undo_refused(step)]
    return says[number // 7 % len(says)]


def _timer(course: Course, number: int) -> Happens | None:
    """Some timer fires, at its time: others that are due before it are late."""
    timers = sorted(course.state.timers.values(), key=lambda one: (one.due_at, one.timer_id))
    timer = _picked(timers, number)
    if timer is None:
        return None
    course.now = max(course.now, timer.due_at)
    return Plain(TimerFired(timer_id=timer.timer_id))


def _wait_for_timer(course: Course, number: int) -> Happens | None:
    """The earliest timer fires, at its time."""
    return _timer(course, 0)


def _signal(course: Course, number: int) -> Happens:
    said = {"number": number} if number % 7 else {"number": "bad"}
    return signalled("ab"[number % 2], said)


def _news(course: Course, number: int) -> Happens:
    return News(number=number)


def _update(course: Course, number: int) -> Happens:
    return updated("ask", {"number": number if number % 7 else "bad"}, id=f"u-{number % 9}")


def _cancel(course: Course, number: int) -> Happens:
    modes = ("graceful", "immediate", "graceful", "immediate", "abandon")
    return cancelled(mode=modes[number % len(modes)])


def _operator(course: Course, number: int) -> Happens | None:
    step = _picked(course.state.steps, number)
    if step is None:
        return None
    acts: list[Happens] = [
        operator("retry", step),
        operator("skip", step),
        operator("mark", step, state="done", reply=Made(number=3, step=without_run(step))),
        operator("mark", step, state="undone"),
        operator("retry"),
        operator("compensate"),
        operator("release"),
        operator("mark", step, state="done"),
    ]
    return acts[number // 3 % len(acts)]


def _move_timer(course: Course, number: int) -> Happens | None:
    timer = _picked(course.state.timers.values(), number)
    if timer is None:
        return None
    target = timer.target
    return operator("fire-timer", target) if number % 2 else operator("move-timer", target, to="3s")


def _pause(course: Course, number: int) -> Happens:
    pause = course.state.pause
    if pause is None:
        return operator("pause", definition=number % 4 == 0)
    return operator("resume", definition=pause.by_definition)


def _progress(course: Course, number: int) -> Happens | None:
    one = _picked(open_in(course), number)
    return None if one is None or one.direction is UNDO else progressed(one.step)


def _repeat(course: Course, number: int) -> Happens:
    return redelivered()


def _undone(course: Course, number: int) -> Happens | None:
    return undone_by_parent(attempt=1 + number // 60) if course.drawn.is_child else None


def _fail(course: Course, number: int) -> Happens | None:
    """A service says that an attempt to do something has failed, for now or for good."""
    one = _picked((each for each in open_in(course) if each.direction is DO), number)
    outcome = ReplyOutcome.FAILED if number // 7 % 2 else ReplyOutcome.REFUSED
    return None if one is None else answer(course, one, outcome, number)


def _undo_ends(course: Course, number: int) -> Happens | None:
    one = _picked((each for each in open_in(course) if each.direction is UNDO), number)
    outcomes = [ReplyOutcome.FAILED, ReplyOutcome.REFUSED, ReplyOutcome.DONE]
    return None if one is None else answer(course, one, outcomes[number // 7 % 3], number)


def _hold(course: Course, number: int) -> Happens | None:
    return None if course.state.pause is not None else _pause(course, number)


def _resume(course: Course, number: int) -> Happens | None:
    return None if course.state.pause is None else _pause(course, number)


def _help_step(course: Course, number: int) -> Happens | None:
    """An operator looks after a step that needs it."""
    needy = {*_GAVE_OUT, StepStatus.UNDO_STUCK}
    steps = course.state.steps.values()
    step = _picked((each.id for each in steps if each.status in needy), number)
    acts: list[Happens] = [
        *(operator("retry", step), operator("retry", step), operator("skip", step)),
        operator("mark", step, state="done", reply=Made(number=3)),
        operator("mark", step, state="undone"),
    ]
    return None if step is None else acts[number // 7 % len(acts)]


def _cancel_as(*modes: str) -> Callable[[Course, int], Happens]:
    return lambda _, number: cancelled(mode=modes[number % len(modes)])


def _turn_fails(course: Course, number: int) -> Happens:
    return turn_failed("the code at hand raised")


CAN_HAPPEN: Final[dict[str, Callable[[Course, int], Happens | None]]] = {
    "reply": _reply,
    "done": _done,
    "second reply": _second_reply,
    "late reply": _late_reply,
    "child": _child_says,
    "timer": _timer,
    "time": _wait_for_timer,
    "signal": _signal,
    "news": _news,
    "update": _update,
    "cancel": _cancel,
    "operator": _operator,
    "move timer": _move_timer,
    "pause": _pause,
    "progress": _progress,
    "repeat": _repeat,
    "undone by parent": _undone,
    "turn fails": _turn_fails,
}
IN_PLOTS: Final[dict[str, Callable[[Course, int], Happens | None]]] = {
    "fail": _fail,
    "undo ends": _undo_ends,
    "hold": _hold,
    "resume": _resume,
    "help": _help_step,
    "go back": _cancel_as("graceful", "immediate"),
}
"""What happens in the plots of `searches` alone."""
_MEANS: Final = {**CAN_HAPPEN, **IN_PLOTS}
OFTEN: Final = (
    "reply",
    "done",
    "reply",
    "done",
    "done",
    "child",
    "timer",
    "time",
    "signal",
    "news",
)
WORDS: Final = (*OFTEN, *OFTEN, *CAN_HAPPEN)
AFTERWARDS: Final = {"child": "child", "undone by parent": "undone by parent", "cancel": "cancel"}
"""What may happen to a saga that has ended, beside replies."""
_PAIRS = st.tuples(st.sampled_from(WORDS), st.integers(0, 99))
HAPPENS = st.one_of(
    *(st.lists(_PAIRS, min_size=least, max_size=24) for least in (0, 6, 12)),
).map(tuple)


def drawn(course: Course, word: str, number: int) -> Happens | None:
    """What happens next, of all that it can mean; None where it can mean nothing."""
    if course.state.is_poisoned and word not in ("operator", "cancel"):
        return None
    return _MEANS[word](course, number)


def next_in_a_kind_world(course: Course) -> Happens:
    """What happens next where everything succeeds and everybody helps."""
    state = course.state
    if state.is_poisoned:
        return operator("release")
    if state.pause is not None:
        return operator("resume", definition=state.pause.by_definition)
    for step in [*state.steps.values()][::-1]:
        if not step.is_backing_off and (happens := _kindly(course, step)) is not None:
            return happens
    if state.status is SagaStatus.PARKED:
        return _help(course)
    if state.timers:
        fired = _timer(course, 0)
        assert fired is not None
        return fired
    assert state.waits, f"{state.status} waits for nothing that could happen: {waiting_for(state)}"
    waits = list(state.waits)
    kind, name = waits[len(course.statuses) % len(waits)]
    match kind.value:
        case "signal":
            return signalled(name, {"number": 1})
        case "event":
            return News(number=2)
    return updated(name, {"number": 1})


def _kindly(course: Course, step: Step) -> Happens | None:
    """The answer to a step that is issued, or being undone."""
    is_child = course.state.children is not None and step.id in course.state.children
    match step.status:
        case StepStatus.ISSUED if is_child:
            return child_completed(step.id, Grown(number=1, step=without_run(step.id)))
        case StepStatus.UNDOING if is_child:
            return child_undone(step.id)
        case StepStatus.ISSUED:
            direction, attempt = DO, step.attempts
        case StepStatus.UNDOING:
            direction, attempt = UNDO, step.undo_attempts
        case _:
            return None
    one = IntentIssued(StepId(step.id), direction, attempt, "", "", step.kind)
    return answer(course, one, ReplyOutcome.DONE, 7)


def _help(course: Course) -> Happens:
    """What an operator does for a saga that has parked."""
    steps = course.state.steps.values()
    for step in steps:
        if step.status is StepStatus.UNDO_STUCK:
            return operator("skip", step.id)
    for step in steps if course.state.plan is None else ():
        if step.status in _GAVE_OUT and not step.is_dropped and not course.state.is_stranded:
            return operator("retry", step.id)
    return operator("compensate")
