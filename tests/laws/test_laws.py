"""Laws that hold for every saga, whichever way it is written and whatever happens to it.

Each is looked at with sagas and courses that hypothesis draws; `course.py` says what may happen.
What a law needs to know of a history it reads with `record.py`, not with the engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse
from typing import Any, Final
from zlib import crc32

from hypothesis import strategies as st

from saga.core import events, intents
from saga.core.events import CancelMode, CancelRequested, ReplyOutcome
from saga.core.fold import fold, fold_turn
from saga.core.history import RecordedTurn, turns
from saga.core.identity import DO, IntentId, parse_intent_id
from saga.core.intents import RollbackGoal, TimerPurpose, Verdict
from saga.core.piecewise import at_once
from saga.core.replay import following, replay
from saga.core.snapshots import snapshot_of
from saga.core.state import SagaState, parts_of
from saga.core.status import SagaStatus, StepKind, StepStatus
from saga.testing import child_started, operator
from saga.testing.happenings import Plain, Redelivered
from tests.laws import functions, graphs, machines
from tests.laws.course import (
    Course,
    Drawn,
    answer,
    begun,
    open_in,
    repeated,
    through,
)
from tests.laws.course import drawn as drawn_of
from tests.laws.kept import check_kept
from tests.laws.races import AT_THE_END, Races, is_in
from tests.laws.record import ENDS, Known, Plan, Record, bodies, without_run
from tests.laws.searching import DRAWN, courses, law

RUNNING, ROLLING_BACK, PARKED = SagaStatus.RUNNING, SagaStatus.ROLLING_BACK, SagaStatus.PARKED
COMPLETED, ABANDONED = SagaStatus.COMPLETED, SagaStatus.ABANDONED
ROLLED_BACK, RESIDUE = SagaStatus.ROLLED_BACK, SagaStatus.ROLLED_BACK_WITH_RESIDUE
ALL_ENDS = {COMPLETED, ROLLED_BACK, RESIDUE, ABANDONED}
LEGAL = {
    RUNNING: {ROLLING_BACK, PARKED, *ALL_ENDS},
    ROLLING_BACK: {PARKED, *ALL_ENDS},
    PARKED: {RUNNING, ROLLING_BACK, *ALL_ENDS},
    COMPLETED: {ROLLING_BACK, PARKED, ROLLED_BACK, RESIDUE},
    ROLLED_BACK: {ROLLING_BACK, PARKED},
    RESIDUE: {ROLLING_BACK, PARKED},
    ABANDONED: {PARKED},
}
"""From one turn to the next; a completed child may have nothing that its parent has undone."""
SAID = (
    *(intents.IntentIssued, intents.IntentTold, intents.EventPublished, intents.CommandSent),
    *(*ENDS, intents.SagaCleanedUp),
)
"""What a saga says to others."""


# -- 1: the order of undoing


@law()
def test_a_step_is_undone_only_after_all_that_depended_on_it(drawn: Drawn) -> None:
    """At every moment; and of siblings, whichever ended last is undone first."""
    record, depends = Record(), dict[str, set[str]]()
    for turn in turns(drawn.course().history):
        record.begin(turn)
        for number, body in enumerate(turn.decided):
            if isinstance(body, intents.IntentIssued):
                if body.direction is DO:
                    depends.setdefault(body.step, set()).update(_depends(drawn, record, body.step))
                elif not record.steps[body.step].undos:
                    _check_order(drawn, record, body.step, depends)
            record.decide(turn.version + 1 + number, body)
        record.tell()


def _depends(drawn: Drawn, record: Record, step: str) -> set[str]:
    if record.steps.get(step) is not None:
        return set()
    told = {without_run(each): each for each in record.told_of()}
    return {told[each] for each in drawn.saga.depends(without_run(step), list(told))}


def _check_order(drawn: Drawn, record: Record, step: str, depends: dict[str, set[str]]) -> None:
    plan = next(plan for plan in record.plans[::-1] if step in plan.steps)
    others = [record.steps[each] for each in plan.steps if each != step]
    for other in others:
        if step in depends[other.id]:
            assert _is_at_rest(drawn, other), f"{step} is undone before {other.id}, which needed it"
    if not drawn.saga.is_parallel:
        begun = [each for each in others if each.undos and each.has_effect]
        under_way = [each for each in begun if not (each.has_rested or each.stuck)]
        assert not under_way, f"{step} is undone beside {under_way}"
        _check_latest_first(plan, record, step, depends)


def _is_at_rest(drawn: Drawn, step: Known) -> bool:
    is_passed = drawn.saga.continues_when_stuck and step.stuck
    return bool(step.has_rested or is_passed or not step.has_effect)


def _check_latest_first(
    plan: Plan, record: Record, step: str, depends: dict[str, set[str]]
) -> None:
    """Of siblings, whichever ended last is undone first."""
    known = [record.steps[each] for each in plan.steps]
    if any(each.stuck or each.skipped or each.done > plan.at for each in known):
        return
    waiting = [each for each in known if not each.undos and each.has_effect]
    free = [
        each
        for each in waiting
        if not any(each.id in depends[other.id] for other in waiting if other is not each)
    ]
    ended = {each.id: each.settled if each.settled < plan.at else 0 for each in free}
    latest = [each for each in ended.values() if not each] or [max(ended.values())]
    assert ended[step] == latest[0], f"{step} is undone first of {ended}"


# -- 2: joins


@dataclass(frozen=True)
class Joined:
    """A saga of steps, joins and races; the answer of each step; and two orders of arrival."""

    saga: Any
    answers: tuple[int, ...]
    orders: tuple[tuple[int, ...], tuple[int, ...]]
    holds: bool
    """Whether in the second order the losers of the first answer once their race is decided."""

    def came(self, number: int, before: Races | None = None) -> Course:
        """All answers have come, in one of the orders."""
        order = self.orders[number]
        course = begun(Drawn(self.saga))
        for turn in range(200):
            issued = open_in(course)
            if before is not None:
                issued = [one for one in issued if not _is_held(course, one, before)]
            if course.has_rest or not issued:
                return course
            one = issued[order[turn % len(order)] % len(issued)]
            drawn = self.answers[crc32(one.step.encode()) % len(self.answers)]
            is_sure = one.direction is not DO or not self._may_fail(one.step)
            outcome = ReplyOutcome.DONE if is_sure else [*ReplyOutcome][drawn % 3]
            course.happen(answer(course, one, outcome, drawn))
        raise AssertionError("it does not end")

    def _may_fail(self, step: str) -> bool:
        """A graph goes on behind a failure only where its node says so."""
        if not isinstance(self.saga, graphs.Graph):
            return True
        return self.saga.nodes[graphs.number_of(step)].continues


def _is_held(course: Course, one: intents.IntentIssued, before: Races) -> bool:
    """Whether a race is open yet that this step lost *before*, and it has lost none around that."""
    step, races = without_run(one.step), course.races
    if one.direction is not DO or any(True for _ in races.lost_in(step, 1)):
        return False
    return any(race not in races.decided for race in before.lost_in(step, 1))


def _joins(way: str) -> st.SearchStrategy[Joined]:
    numbers = st.lists(st.integers(0, 99), min_size=1, max_size=8).map(tuple)
    return st.builds(Joined, JOINING[way], numbers, st.tuples(numbers, numbers), st.booleans())


def _joining_machine(machine: machines.Machine) -> machines.Machine:
    """Each stage waits for all, or for the first, who goes on without the others."""
    stages = [
        stage.model_copy(
            update={
                "needs": "first" if stage.needs == "first" else "all",
                "drops": True,
                "when_failed": "on",
                "steps": tuple(map(_plain, stage.steps or (machines.Step(),))),
            }
        )
        for stage in machine.script.stages
    ]
    end = "done" if machine.script.end == "again" else machine.script.end
    script = machines.Script(stages=tuple(stages), sorts=True, end=end)
    return machine.model_copy(update={"script": script})


def _plain(step: machines.Step) -> machines.Step:
    kind = {"kind": None, "attempts": 1, "is_child": False, "has_deadline": False}
    return step.model_copy(update=kind)


def _joining_graph(graph: graphs.Graph) -> graphs.Graph:
    """Without what the order of arrival is meant to decide."""
    does = {"require": "join", "signal": "make", "event": "make", "child": "make", "sleep": "join"}
    does |= {"children": "each"}
    nodes = []
    for node in graph.nodes:
        continues = node.continues and node.does not in does
        plain = {"attempts": 1, "kind": None, "has_timeout": False, "continues": continues}
        nodes.append(replace(node, does=does.get(node.does, node.does), **plain))
        if not continues:
            nodes[-1] = replace(nodes[-1], fails_fast=False)
        if nodes[-1].fails_fast:  # else the failure decides which items begin
            nodes[-1] = replace(nodes[-1], at_once=None)
    return replace(graph, nodes=tuple(nodes), options=())


JOINING = {
    "functions": st.builds(
        functions.Function,
        functions.trees(
            st.builds(functions.Step, st.booleans()),
            (
                *("seq", "seq", "all", "all", "one at once", "try", "scope"),
                *("any", "some", "fast", "fast"),
            ),
        ),
    ),
    "machines": machines.MACHINES.map(_joining_machine),
    "graphs": graphs.GRAPHS.map(_joining_graph),
}


@law(_joins)
def test_the_order_in_which_replies_come_changes_no_join(joined: Joined) -> None:
    """The same replies in any order give the same results, outcome and intents.

    Where there are races, they do so whenever the same ones win: when losers answer, before or
    after that, changes nothing but what they themselves come to do.
    """
    first = joined.came(0)
    second = joined.came(1, first.races if joined.holds else None)
    winners = [course.races.that_count() for course in (first, second)]
    if winners[0] != winners[1] and not joined.holds:
        return
    assert winners[0] == winners[1], "the losers wait, and others win"
    lost = [*first.races.decided.values(), *second.races.decided.values()]
    losers = {place for decided in lost for place in decided.losers}
    assert _said_at_all(first, losers) == _said_at_all(second, losers)


def _said_at_all(course: Course, losers: Iterable[str]) -> tuple[object, ...]:
    """All that counts: without what losers did, and what became of that."""
    issued = {
        (body.step, body.direction, body.contract, body.payload)
        for _, body in bodies(course.history, intents.IntentIssued)
        if not any(is_in(without_run(body.step), place) for place in losers)
    }
    ends = [body for _, body in bodies(course.history, ENDS)]
    assert ends, f"all answers have come, and it waits for {course.statuses[-1]}"
    # Whether a loser without an undo answers in time is its own affair: else it is in doubt.
    doubtful = {*losers, *_items_of_fast_fans(course)}
    # The residue counts above: of losers it is their own affair.
    status = ROLLED_BACK if course.status is RESIDUE else course.status
    return issued, [_without_order(end, doubtful) for end in ends], status


def _items_of_fast_fans(course: Course) -> set[str]:
    """Of a graph: where one of them fails, the others have lost."""
    graph, steps = course.drawn.saga, course.state.steps
    if not isinstance(graph, graphs.Graph):
        return set()
    return {step for step in steps if graph.nodes[graphs.number_of(step)].fails_fast}


def _without_order(end: Any, losers: Iterable[str]) -> tuple[object, ...]:
    reason, code = getattr(end, "reason", None), getattr(end, "code", None)
    residue = {
        step
        for step in end.residue or ()
        if not any(is_in(without_run(step), place) for place in losers)
    }
    said = end.outcome if isinstance(end, intents.SagaCompleted) else None
    return type(end), end.outcome and end.outcome.contract, said, reason, code, residue


# -- 3: replays


class Relieved(Course):
    """Each turn is decided by another worker: one that followed the history, or has replayed it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.follower: SagaState | None = None
        self.followed = 0
        """So many entries the follower knows."""

    def _take(self, event: events.Event) -> None:
        if before := len(self._history):
            self._relieve(self.drawn.happens[before % len(self.drawn.happens)][1])
        super()._take(event)  # where that raises, it takes another turn in it
        if len(self._history) > self.followed:
            self._follow(self._history[self.followed :])
            self.followed = len(self._history)

    def _relieve(self, number: int) -> None:
        """Somebody else decides this turn, or who decided the last one.

        It is the follower, or one that has replayed all, or one that was restored.
        """
        if number % 4 == 1:
            again = replay(self.decider, self.state.saga_id, self._history)
            _check_alike(again, self.state)
            _close(self.state)
            self._state = again
        elif number % 4 == 2 and self.follower is not None:
            self._state, self.follower = self.follower, self._state
        elif number % 4 == 3 and (told := snapshot_of(self.state)) is not None:
            restored = self.decider.restored(self.state.saga_id, json.loads(json.dumps(told)))
            _check_alike(restored, self.state)
            _close(self.state)
            self._state = restored

    def _follow(self, entries: Sequence[Any]) -> None:
        """The other worker takes what was recorded; where it cannot, it replays all of it."""
        if self.follower is not None and not self.follower.is_ahead:
            if at_once(following(self.decider, self.follower, turns(entries))):
                _check_alike(self.follower, self.state)
                return
            _close(self.follower)
        self.follower = replay(self.decider, self.state.saga_id, self._history)
        _check_alike(self.follower, self.state)


def _check_alike(other: SagaState, live: SagaState) -> None:
    """Both stand at the same place, and so do their programs where these can be told as data."""
    _check_same(parts_of(other), parts_of(live))
    assert json.dumps(snapshot_of(other)) == json.dumps(snapshot_of(live))


def _check_same(told: Mapping[str, object], live: Mapping[str, object]) -> None:
    for part, value in live.items():
        assert told[part] == value, f"{part}: {told[part]}; live: {value}"


def _close(state: SagaState) -> None:
    if state.program is not None:
        state.program.close()


@law()
def test_a_replay_is_the_live_saga(drawn: Drawn) -> None:
    """Whoever has replayed a history, or followed it, decides from there on as who lived it."""
    if not drawn.happens:
        return
    relieved = through(begun(drawn, Relieved))
    assert _decided(relieved) == _decided(drawn.course())


def _decided(course: Course) -> list[tuple[object, ...]]:
    return [(entry.version, entry.at, entry.body) for entry in course.history]


# -- 4: what is undone and what is left


@law()
def test_what_was_refused_is_not_undone_and_what_was_done_is(drawn: Drawn) -> None:
    """Who says it is rolled back has left nothing; else it lists exactly what it has left."""
    course, record = drawn.course(), Record()
    statuses = dict(each[:2] for each in course.statuses)
    for turn in turns(course.history):
        record.begin(turn)
        for number, body in enumerate(turn.decided):
            match body:
                case intents.IntentIssued() if body.direction is not DO:
                    step = record.steps[body.step]
                    was_refused = step.refused and not step.done
                    assert not was_refused or step.undos, f"{step.id} is undone, and was refused"
                case intents.SagaRolledBack(residue=residue):
                    _check_residue(record, residue)
                    status = statuses[turn.version + len(turn.decided)]
                    assert status is (RESIDUE if residue else ROLLED_BACK), status
                case _:
                    pass
            record.decide(turn.version + 1 + number, body)


def _check_residue(record: Record, listed: Iterable[str]) -> None:
    left = record.left()
    given_up = {step.id for step in record.steps.values() if step.stuck or step.skipped}
    assert left <= {*listed}, f"left and not listed: {left - {*listed}}"
    assert {*listed} <= left | given_up, f"listed and not left: { ({*listed} - left) }"
    for step in map(record.steps.__getitem__, listed):
        if step.kind is StepKind.COMPENSATABLE and not step.is_child:
            assert step.id in given_up, f"{step.id} has an undo, and nobody gave it up"


# -- 5: cancels


@law()
def test_a_cancel_undoes_or_lists_and_past_the_pivot_is_refused(drawn: Drawn) -> None:
    """A cancel leads to an end undone or with its residue; past the pivot it changes nothing."""
    course, record = drawn.course(), Record()
    refused = 0
    for turn in turns(course.history):
        fact = turn.event.fact
        if isinstance(fact, CancelRequested) and fact.undo is None and not _has_ended(course, turn):
            if _is_past_pivot(record) and fact.mode is not CancelMode.ABANDON:
                refused += 1
                assert [*map(type, turn.decided)] == [intents.Noted], turn.decided
                assert turn.decided[0].verdict is Verdict.REFUSED
            elif not _is_noted(turn):
                _check_cancelled(course, turn)
        record.read(turn)
    if refused:
        without = repeated(course, _is_cancel)
        assert _said(without) == _said(course)


def _is_past_pivot(record: Record) -> bool:
    if any(plan.recorded.scope is None for plan in record.plans):
        return False
    pivots = (step for step in record.steps.values() if step.kind is StepKind.PIVOT)
    # One that succeeds when it has failed passes nothing: its failure counts, told or not.
    return any(step.done and not 0 < step.failed < step.done for step in pivots)


def _is_noted(turn: RecordedTurn) -> bool:
    return bool(turn.decided) and isinstance(turn.decided[0], intents.Noted)


def _has_ended(course: Course, turn: RecordedTurn) -> bool:
    return any(version < turn.version for version, _ in bodies(course.history, ENDS))


def _check_cancelled(course: Course, turn: RecordedTurn) -> None:
    ends = [body for version, body in bodies(course.history, ENDS) if version > turn.version]
    assert course.is_refused or ends
    assert not isinstance(ends[0], intents.SagaCompleted), "it was cancelled, and completes"


def _is_cancel(happens: object) -> bool:
    if isinstance(happens, Redelivered):
        return True
    fact = happens.is_what if isinstance(happens, Plain) else None
    return isinstance(fact, CancelRequested) and fact.mode is not CancelMode.ABANDON


def _said(course: Course) -> list[object]:
    return [body for _, body in bodies(course.history, SAID)]


# -- 6: outcomes


@law()
def test_a_saga_has_one_outcome(drawn: Drawn) -> None:
    """A saga ends once; a child once for completing, and once for being undone by its parent."""
    course = drawn.course()
    ends = [body for _, body in bodies(course.history, ENDS) if not _had_outcome(body)]
    plans = bodies(course.history, intents.RollbackPlanned)
    cleanups = [plan for _, plan in plans if plan.goal is RollbackGoal.CLEANED_UP]
    assert len(bodies(course.history, intents.SagaCleanedUp)) <= len(cleanups)
    assert not cleanups or ends
    if len(ends) > 1:
        completed, undone = ends
        assert drawn.is_child
        assert isinstance(completed, intents.SagaCompleted)
        assert undone.undo is not None


def _had_outcome(end: object) -> bool:
    """Whether the saga had ended before that, and is only abandoned while it cleans up."""
    return isinstance(end, intents.SagaAbandoned) and bool(end.had_outcome)


# -- 7: losers

IS_SLEEP: Final = True
"""A sleep and a wait may have one name."""


class Lost:
    """Who has lost by now: as the saga's code saw it, and for a graph as its file says."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._races = Races()
        self._steps: set[str] = set()
        """Those that are given up one by one, with the run."""
        self._fans: set[int] = set()
        """The nodes of a graph of which an item has failed, and that go on without the others."""

    def has(self, record: Record, step: str) -> bool:
        own = without_run(step)
        if isinstance(self._drawn.saga, graphs.Graph):
            return graphs.number_of(own) in self._fans and not record.steps[step].failed
        return step in self._steps or any(True for _ in self._races.lost_in(own, record.run))

    def learn(self, course: Course, record: Record, turn: RecordedTurn) -> None:
        """What a turn has decided."""
        end = turn.version + len(turn.decided)
        for race, (decided, at) in course.decided_at.items():
            if at == end:
                self._races.decided[race] = decided
            if at == end and race == (record.run, AT_THE_END):
                steps = record.steps.values()
                self._steps |= {each.id for each in steps if not each.settled}
        for body in turn.decided:
            if isinstance(body, intents.SagaParked) and body.step is not None:
                self._races.clear()  # what its code was told counts for nothing
        if isinstance(self._drawn.saga, graphs.Graph) and not record.is_paused:
            self._learn_of_fans(self._drawn.saga, record, turn)

    def _learn_of_fans(self, graph: graphs.Graph, record: Record, turn: RecordedTurn) -> None:
        parked = {getattr(each, "step", None) for each in turn.decided}
        for step in record.steps.values():
            node = graph.nodes[graphs.number_of(step.id)]
            if step.failed and step.id not in parked and node.fails_fast and node.continues:
                self._fans |= {graphs.number_of(step.id)} if node.does in graphs.FANS else set()


@law()
def test_who_loses_does_nothing_more_and_is_undone(drawn: Drawn) -> None:
    """Losers issue, arm and await nothing more; what they did is undone before the end.

    So is what a failure has left that the saga's code has taken.
    """
    course, record, lost = drawn.course(), Record(), Lost(drawn)
    issued: list[str] = []
    gone: set[tuple[bool, str]] = set()
    for turn in turns(course.history):
        record.begin(turn)
        for number, body in enumerate(turn.decided):
            match body:
                case intents.IntentIssued() if body.direction is DO:
                    assert body.step not in record.dropped, f"{body.step} had lost"
                    assert not lost.has(record, body.step), f"{body.step} had lost its race"
                    _check_is_not_late(drawn, without_run(body.step), issued)
                    issued.append(without_run(body.step))
                case intents.BranchDropped():
                    gone |= {(IS_SLEEP, each) for each in body.sleeps}
                    gone |= {(not IS_SLEEP, each) for each in body.waits}
                case intents.TimerArmed(purpose=TimerPurpose.SLEEP | TimerPurpose.WAIT):
                    is_sleep = body.purpose is TimerPurpose.SLEEP
                    assert (is_sleep, body.target) not in gone, body
                case intents.SignalAwaited() | intents.EventAwaited() | intents.WaitEnded():
                    assert (not IS_SLEEP, body.wait) not in gone, body
                case intents.SagaParked(step=str() as step):
                    record.dropped.pop(step, None)  # it did not lose after all
                case intents.Continued():
                    issued, gone = [], set()
                    _check_losers_undone(record, lost, ())
                case intents.SagaCompleted():
                    _check_losers_undone(record, lost, body.residue or ())
                case _:
                    pass
            record.decide(turn.version + 1 + number, body)
        lost.learn(course, record, turn)
        record.tell()
        _check_idle(course, turn, gone)


def _check_is_not_late(drawn: Drawn, step: str, issued: Iterable[str]) -> None:
    """What follows a group comes after all that is in it."""
    if isinstance(drawn.saga, functions.Function):
        behind = [each for each in issued if drawn.saga.is_before(step, each)]
        assert not behind, f"{step} is issued after {behind}, which are behind it"


def _check_losers_undone(record: Record, lost: Lost, residue: Iterable[str]) -> None:
    for step in record.steps.values():
        if step.kind is not StepKind.COMPENSATABLE or not step.has_effect:
            continue
        has_lost = step.id in record.dropped or lost.has(record, step.id)
        is_left = step.failed and not step.is_child
        if has_lost or is_left:
            is_told = step.is_undone or step.stuck or step.skipped or step.id in residue
            assert is_told, f"{step.id} {'had lost' if has_lost else 'has failed'}, and is left"


def _check_idle(course: Course, turn: RecordedTurn, gone: set[tuple[bool, str]]) -> None:
    last = turn.version + len(turn.decided)
    armed = armed_by(course.history[:last]) if gone else {}
    sleeps = [timer for timer in armed.values() if timer.purpose is TimerPurpose.SLEEP]
    waits = [timer for timer in armed.values() if timer.purpose is TimerPurpose.WAIT]
    assert not any((IS_SLEEP, each.target) in gone for each in sleeps), (gone, sleeps)
    assert not any((not IS_SLEEP, each.target) in gone for each in waits), (gone, waits)


def armed_by(history: Iterable[Any]) -> dict[str, intents.TimerArmed]:
    """The timers that stand."""
    armed: dict[str, intents.TimerArmed] = {}
    for entry in history:
        match entry.body:
            case intents.TimerArmed() as timer:
                armed[timer.timer_id] = timer
            case intents.TimerCancelled(timer_id=name) | events.TimerFired(timer_id=name):
                armed.pop(name, None)
            case intents.Continued():
                armed.clear()
    return armed


# -- 8: pauses


@dataclass(frozen=True)
class Interrupted:
    """A course, and what comes while the saga is paused, from some moment on."""

    drawn: Drawn
    at: int
    meanwhile: tuple[tuple[str, int], ...]
    is_of_definition: bool
    knows_children: bool
    """Whether all children have said by then who they are, so that they can be cancelled."""

    def course(self) -> Course:
        """With the pause."""
        course = begun(self.drawn)
        happens = [each for each in self.drawn.happens if each[0] in UNDISTURBED]
        for each in happens[: self.at]:
            course.take(each)
        if not course.is_refused and not course.state.status.is_ended:
            for step in [*(course.state.children or ())] if self.knows_children else ():
                course.happen(child_started(step))
            course.happen(operator("pause", definition=self.is_of_definition))
            for each in self.meanwhile:
                if not _is_late(course, each):
                    course.take(each)
            due = min((timer.due_at for timer in course.state.timers.values()), default=None)
            if due is not None:
                course.now = max(course.now, course.now + (due - course.now) // 2)
            if not course.state.status.is_ended:
                course.happen(operator("resume", definition=self.is_of_definition))
        for each in happens[self.at :]:
            course.take(each)
        course.be_kind()
        return course


def _is_late(course: Course, happened: tuple[str, int]) -> bool:
    """Whether a step would be answered that is not in flight.

    Without the pause the saga may have gone on by then, or have ended: what is late differs.
    """
    if course.is_refused:
        return False
    happens = drawn_of(course, *happened)
    fact = happens.is_what if isinstance(happens, Plain) else None
    name = parse_intent_id(fact.intent_id) if isinstance(fact, events.ReplyReceived) else None
    step = None if name is None else course.state.steps.get(name.step)
    if step is None or name is None or name.direction is not DO:
        return False
    return step.status is not StepStatus.ISSUED or step.is_backing_off


MEANWHILE = ("reply", "done", "done", "signal", "news", "child")
UNDISTURBED = (
    *(*MEANWHILE, "timer", "time", "cancel", "operator", "second reply", "progress"),
    *("fail", "undo ends", "help", "go back"),
)


def _interrupted(way: str) -> st.SearchStrategy[Interrupted]:
    pairs = st.tuples(st.sampled_from(MEANWHILE), st.integers(0, 99))
    meanwhile = st.lists(pairs, max_size=5).map(tuple)
    return st.builds(
        Interrupted, courses(way), st.integers(0, 6), meanwhile, st.booleans(), st.booleans()
    )


def _is_of_pause(happens: object) -> bool:
    fact = happens.is_what if isinstance(happens, Plain) else None
    return isinstance(fact, events.Paused | events.Resumed)


@law(_interrupted, ways=tuple(DRAWN))
def test_a_short_pause_changes_only_times(interrupted: Interrupted) -> None:
    """A pause shorter than every running deadline changes no intent, no order and no outcome.

    The same children are cancelled, but for one that ended in the pause by itself.
    """
    course = interrupted.course()
    if _passes_pivot_while_paused(course):
        return  # what failed before that, and was not told, has a way back without the pause alone
    without = repeated(course, _is_of_pause)
    paused, straight = ([*filterfalse(_asks_to_end, _said(each))] for each in (course, without))
    # What comes behind a parking is told in the next turn; and a step whose next attempt is given
    # up ends later than with what came behind that: who ended last is undone first.
    if _parks_on_resuming(course) or _gives_up_attempts_on_resuming(course):
        paused, straight = sorted(map(str, paused)), sorted(map(str, straight))
    assert paused == straight
    cancelled, others = ({*_cancels(each)} for each in (course, without))
    spared = _ended_while_paused(course)
    only_in_one = {each for each in cancelled ^ others if _child_of(each) not in spared}
    assert not only_in_one, "they are cancelled, or are not, on account of the pause"


def _passes_pivot_while_paused(course: Course) -> bool:
    record = Record()
    for turn in turns(course.history):
        was_past, was_paused = _is_past_pivot(record), record.is_paused
        record.read(turn)
        if was_paused and not was_past and _is_past_pivot(record):
            return True
    return False


def _asks_to_end(body: object) -> bool:
    return isinstance(body, intents.CommandSent) and body.act is intents.SentAct.CANCEL


def _cancels(course: Course) -> Iterator[str]:
    """The commands that ask children to end; why they do may be known later for a pause."""
    return (sent.command for sent in filter(_asks_to_end, _said(course)))


def _child_of(cancel: str) -> str:
    """The step of a cancel, `{intent}/cancel` or `{intent}/cancel-at-once`."""
    name = parse_intent_id(IntentId(cancel.rpartition("/")[0]))
    assert name is not None, cancel
    return name.step


def _ended_while_paused(course: Course) -> set[str]:
    record, ended = Record(), set[str]()
    for turn in turns(course.history):
        fact = turn.event.fact
        if record.is_paused and isinstance(fact, events.ChildEnded):
            name = parse_intent_id(fact.intent_id)
            assert name is not None, fact
            ended.add(name.step)
        record.read(turn)
    return ended


def _parks_on_resuming(course: Course) -> bool:
    return any(
        isinstance(turn.event.fact, events.Resumed)
        and any(isinstance(body, intents.SagaParked) for body in turn.decided)
        for turn in turns(course.history)
    )


def _gives_up_attempts_on_resuming(course: Course) -> bool:
    resuming = (t for t in turns(course.history) if isinstance(t.event.fact, events.Resumed))
    settled = (b for t in resuming for b in t.decided if isinstance(b, intents.StepSettled))
    return any(each.direction is DO for each in settled)


# -- 9: ids


@law()
def test_no_id_is_used_twice(drawn: Drawn) -> None:
    """No intent, publication, command or timer has the id of an earlier one, in whichever run."""
    course = drawn.course()
    ids = [name for entry in course.history if (name := _id_of(entry.body)) is not None]
    assert len(ids) == len({*ids}), sorted(name for name in ids if ids.count(name) > 1)


def _id_of(body: object) -> tuple[object, ...] | None:
    match body:
        case intents.IntentIssued():
            return "intent", body.step, body.direction.value, body.attempt
        case intents.IntentTold():
            return "intent", body.step, DO.value, 1
        case intents.EventPublished(publication=name):
            return "publication", name
        case intents.CommandSent(command=name):
            return "command", name
        case intents.TimerArmed(timer_id=name):
            return "timer", name
    return None


# -- 10: the fold


@law()
def test_the_entries_alone_give_the_state(drawn: Drawn) -> None:
    """After every turn the fold of the entries, which needs no code, is the state of the kernel."""
    folded: list[SagaState] = []

    def compare(course: Course) -> None:
        recorded = turns(course.history)
        if not folded:
            folded.append(SagaState(course.state.saga_id))
        for turn in recorded:
            if turn.version > folded[0].version:
                fold_turn(folded[0], turn)
        _check_same(parts_of(folded[0]), parts_of(course.state))

    course = through(begun(drawn, Course, compare))
    _check_same(parts_of(fold(course.state.saga_id, course.history)), parts_of(course.state))


# -- 11: where a saga stands


@law()
def test_a_saga_goes_only_where_it_may(drawn: Drawn) -> None:
    """Statuses change by the table; on its way back it issues nothing; it ends without timers."""
    course = drawn.course()
    for (_, before, _), (_, after, _) in zip(course.statuses, course.statuses[1:], strict=False):
        assert after is before or after in LEGAL[before], (before, after)
    is_going_back = False
    for entry in course.history:
        match entry.body:
            case intents.RollbackPlanned(scope=None):
                is_going_back = True
            case intents.IntentIssued(direction=direction):
                assert not (is_going_back and direction is DO), entry.body
            case intents.Continued():
                is_going_back = False
    for length, status, waits_for in course.statuses:
        if status.is_ended:
            assert not armed_by(course.history[:length])
        else:
            assert waits_for, f"{status} waits for nothing"


@law()
def test_a_success_after_the_end_is_undone(drawn: Drawn) -> None:
    """What succeeds late, when the saga has ended, is undone all the same; its outcome stands."""
    course, record = drawn.course(), Record(drawn.course().history)
    ends = bodies(course.history, ENDS)
    if not ends or isinstance(ends[-1][1], intents.SagaAbandoned):
        return
    for step in record.steps.values():
        if step.done > ends[0][0] and step.kind is StepKind.COMPENSATABLE:
            assert step.is_undone or step.stuck or step.skipped, step


# -- 12: what is kept


@law()
def test_what_is_kept_beside_the_steps_is_what_they_say(drawn: Drawn) -> None:
    """What the kernel keeps, so that a turn need not look at all steps, is what they say."""
    through(begun(drawn, Course, check_kept))
