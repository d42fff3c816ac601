"""Small sagas of any shape, to which anything happens in any order: what must hold all the same.

A saga is drawn as a tree of steps, groups, waits and try blocks; what happens is drawn as a list of
numbers that pick among what can happen. `Scenario` compares live and rebuilt state after each turn.
The search of migrations uses it; `tests/laws` has what holds of every saga.
"""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from saga.authoring import RollBack, StepFailed, TimedOut
from saga.contracts import Event, Intent, message_of
from saga.core.events import Message, ReplyOutcome, ReplyReceived, TimerFired
from saga.core.identity import Direction, intent_id
from saga.core.intents import (
    IntentIssued,
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaRolledBack,
    ScopeUndone,
    UndoAppended,
)
from saga.core.retry import Retry
from saga.core.state import around, waiting_for
from saga.core.status import NEVER_UNDONE, SagaStatus, StepStatus
from saga.testing import cancelled, operator, signalled
from saga.testing.happenings import Plain
from tests.toys import OrderConfirmed, OrderRejected

TURNS_MAX = 300
ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)


class Made(Event, topic="any.made", version=1):
    number: int = 0


class Make(Intent[Made], topic="any.make", version=1):
    place: str


class Unmake(Intent[None], topic="any.unmake", version=1):
    place: str
    number: int | None = None


CONTRACTS = (Make, Unmake, OrderConfirmed, OrderRejected)


@dataclass(frozen=True)
class Step:
    has_undo: bool
    kind: str | None
    attempts: int
    has_deadline: bool


@dataclass(frozen=True)
class Sleep:
    pass


@dataclass(frozen=True)
class Wait:
    name: str
    has_timeout: bool


@dataclass(frozen=True)
class Give:
    pass


@dataclass(frozen=True)
class Many:
    how: str
    parts: tuple[Any, ...]


steps = st.builds(
    Step,
    st.booleans(),
    st.sampled_from([None, None, None, None, "pivot", "retriable", "read_only", "harmless"]),
    st.integers(1, 2),
    st.booleans(),
).map(lambda one: replace(one, has_undo=one.has_undo and one.kind not in ("read_only", "harmless")))
leaves = st.one_of(
    steps, steps, steps, st.just(Sleep()), st.builds(Wait, st.sampled_from("ab"), st.booleans())
)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        Many,
        st.sampled_from(
            ["seq", "seq", "all", "fast", "one at once", "any", "some", "try", "scope", "scope"]
        ),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
programs = st.tuples(trees, st.sampled_from([True, True, False])).map(
    lambda drawn: Many("seq", (drawn[0],) if drawn[1] else (drawn[0], Give()))
)
happenings = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 99)), max_size=25)


async def run(ctx, node, place, *, passed, is_scoped=False):
    """Interpret a tree; *passed* has the pivots that are behind it."""
    match node:
        case Step():
            await make(ctx, node, place, passed=passed, is_scoped=is_scoped)
        case Sleep():
            await ctx.sleep("7s")
        case Wait():
            await ctx.wait(node.name, int, timeout="9s" if node.has_timeout else None)
        case Give():
            raise RollBack("given up")
        case Many(how="all" | "fast" | "one at once" | "any" | "some"):
            parts = [
                run(ctx, part, f"{place}.{number}", passed=passed, is_scoped=is_scoped)
                for number, part in enumerate(node.parts)
            ]
            await grouped(ctx, node.how, parts)
        case Many(how="try"):
            for number, part in enumerate(node.parts):
                try:
                    await run(ctx, part, f"{place}.{number}", passed=passed, is_scoped=is_scoped)
                except (StepFailed, TimedOut):
                    continue
        case Many(how="scope"):
            async with ctx.scope():
                await run(ctx, replace(node, how="seq"), place, passed=passed, is_scoped=True)
        case Many():
            for number, part in enumerate(node.parts):
                await run(ctx, part, f"{place}.{number}", passed=passed, is_scoped=is_scoped)


async def make(ctx, node, place, *, passed, is_scoped):
    """Behind a pivot nothing has an undo."""
    has_undo = node.has_undo and not passed
    kind = None if is_scoped and node.kind == "pivot" else node.kind
    await ctx.do(
        Make(place=place),
        undo=Unmake if has_undo else None,
        id=place,
        kind=kind,
        retry=Retry(attempts=node.attempts, initial="5s"),
        timeout="10s" if node.has_deadline else None,
        undo_retry=Retry(attempts=2, initial="5s") if has_undo else None,
    )
    if kind == "pivot":
        passed.append(place)


def grouped(ctx, how, parts):
    match how:
        case "any":
            return ctx.any(*parts)
        case "some":
            return ctx.some((len(parts) + 1) // 2, *parts)
        case "one at once":
            return ctx.all(*parts, at_once=1)
    return ctx.all(*parts, fail="fast" if how == "fast" else "wait")


def reply(state, step, direction, attempt, outcome):
    """An answer to any attempt."""
    made: Message | None = None
    if outcome is ReplyOutcome.DONE and direction is Direction.DO:
        made = message_of(Made(number=7))
    said = {} if outcome is ReplyOutcome.DONE else {"code": outcome.value, "message": "drawn"}
    name = intent_id(state.saga_id, step, direction, attempt)
    return Plain(ReplyReceived(intent_id=name, outcome=outcome, reply=made, **said))


def issued(scenario, direction=None):
    """Every attempt so far."""
    bodies = [entry.body for entry in scenario.history if isinstance(entry.body, IntentIssued)]
    return [one for one in bodies if direction in (None, one.direction)]


def drawn(scenario, kind, pick):
    """What happens next, of all that can; None where this kind cannot."""
    state = scenario.state
    made = issued(scenario)
    open_ones = [
        one
        for one in made
        if not state.is_answered(intent_id(state.saga_id, one.step, one.direction, one.attempt))
    ]
    match kind:
        case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 if open_ones:
            one = open_ones[pick % len(open_ones)]
            outcomes = [*ReplyOutcome, ReplyOutcome.DONE]
            outcome = outcomes[(pick // 7 + kind) % len(outcomes)]
            return reply(state, one.step, one.direction, one.attempt, outcome)
        case 10 if made:
            one = made[pick % len(made)]
            return reply(state, one.step, one.direction, one.attempt, ReplyOutcome.DONE)
        case 11 | 12 | 13 if state.timers:
            return due(scenario, pick)
        case 14 | 15:
            return signalled("ab"[pick % 2], pick if pick % 5 else "bad")
        case 16:
            return cancelled(mode=("graceful", "immediate", "abandon")[pick % 3 if pick < 9 else 0])
        case 17 | 18 if state.steps:
            step = list(state.steps)[pick % len(state.steps)]
            return operator(("retry", "skip")[pick % 2], step)
        case 19 if pick % 4 == 0:
            return operator("compensate")
    return None


def due(scenario, pick):
    """Some timer fires, at its time."""
    timers = sorted(scenario.state.timers.values(), key=lambda one: (one.due_at, one.timer_id))
    timer = timers[pick % len(timers)]
    scenario.now = max(scenario.now, timer.due_at)
    return Plain(TimerFired(timer_id=timer.timer_id))


def next_in_a_kind_world(scenario):
    """Everything succeeds, everybody helps: what happens next."""
    state = scenario.state
    if state.pause is not None:
        return operator("resume")
    for step in state.steps.values():
        if step.is_backing_off:
            continue
        if step.status is StepStatus.ISSUED:
            return reply(state, step.id, Direction.DO, step.attempts, ReplyOutcome.DONE)
        if step.status is StepStatus.UNDOING:
            return reply(state, step.id, Direction.UNDO, step.undo_attempts, ReplyOutcome.DONE)
    if state.status is SagaStatus.PARKED:
        for step in state.steps.values():
            if step.status is StepStatus.UNDO_STUCK:
                return operator("skip", step.id)
            gave_out = {StepStatus.FAILED, StepStatus.REFUSED, StepStatus.IN_DOUBT}
            if step.status in gave_out and not step.is_dropped:
                return operator("retry", step.id)
        return operator("compensate")
    if state.timers:
        return due(scenario, 0)
    assert state.waits, f"{state.status} waits for nothing that could happen: {waiting_for(state)}"
    return signalled(next(iter(state.waits)).name, 1)


def check(scenario):
    """What holds after every turn."""
    state = scenario.state
    bodies = [entry.body for entry in scenario.history]
    ends = [one for one in bodies if isinstance(one, ENDS)]
    assert len(ends) <= 1
    own = [place for place, one in enumerate(bodies) if is_own_plan(one)]
    after = bodies[own[0] :] if own else []
    directions = [one.direction for one in after if isinstance(one, IntentIssued)]
    assert Direction.DO not in directions
    cleanups = [one for one in bodies if isinstance(one, RollbackPlanned)]
    cleanups = [one for one in cleanups if one.goal is RollbackGoal.CLEANED_UP]
    cleaned = [one for one in bodies if isinstance(one, SagaCleanedUp)]
    assert len(cleaned) <= len(cleanups)
    assert not cleanups or ends
    check_order(scenario, bodies)
    check_kept(scenario)
    if state.status.is_ended:
        assert not state.timers
        assert not state.waits
        assert waiting_for(state) is None
        check_effects(scenario, ends[0])
    else:
        assert waiting_for(state)
    for cause in {entry.cause for entry in scenario.history}:
        versions = [entry.version for entry in scenario.history if entry.cause == cause]
        assert versions == list(range(versions[0], versions[0] + len(versions)))


def check_kept(scenario):
    """What is kept beside the steps, so that a turn need not look at all, is what they say."""
    state = scenario.state
    steps = state.steps.values()
    for kept, status in ((state.in_flight, "issued"), (state.undoing, "undoing")):
        assert kept == {step.id: step for step in steps if step.status == status}
    timers = [timer for timer in state.timers.values() if timer.purpose in ("deadline", "retry")]
    for timer in timers:
        step_id, direction = timer.target.split("/")
        step = state.steps[step_id]
        latest = step.attempts if direction == "do" else step.undo_attempts
        assert timer.timer_id == f"{state.saga_id}/{timer.target}/{latest}/{timer.purpose}"
    plans = [] if state.scopes is None else list(state.scopes.plans.values())
    for plan in [state.plan, *plans]:
        if plan is not None and plan.progress is not None and not state.status.is_ended:
            check_progress(scenario, plan)


def is_own_plan(body):
    return isinstance(body, RollbackPlanned) and body.scope is None


def check_progress(scenario, plan):
    passed = passed_by_definition(scenario, plan)
    assert plan.progress.passed == passed
    for step_id, after in plan.after.items():
        assert plan.progress.missing[step_id] == len(set(after) - passed)


def passed_by_definition(scenario, plan):
    """The steps that hold up no other, each looked at anew."""
    at_rest = {"refused", "undone", "skipped"}
    if scenario.continues_when_stuck:
        at_rest.add("undo_stuck")
    stands = {step_id: scenario.state.steps[step_id].status for step_id in plan.after}
    begun = {"undoing", "undone", "undo_stuck", "skipped"}
    passed = {each for step, after in plan.after.items() if stands[step] in begun for each in after}
    for step_id, after in plan.after.items():
        if stands[step_id] in at_rest and passed.issuperset(after):
            passed.add(step_id)
    return passed


def check_order(scenario, bodies):
    """Nothing is undone before what depended on it, and one by one if nobody says otherwise."""
    check_scopes(scenario, bodies)
    plans = [one for one in bodies if is_own_plan(one)]
    if not plans:
        return
    appended = {one.step for one in bodies if isinstance(one, UndoAppended)}
    planned = [undo.step for undo in plans[0].steps if undo.step not in appended]
    depends = depends_on(scenario.state.steps)
    for place, step in enumerate(planned):
        assert not any(step in depends[later] for later in planned[place + 1 :]), planned
    undone = list(dict.fromkeys(one.step for one in issued(scenario, Direction.UNDO)))
    undone = [step for step in undone if step in planned]
    for place, step in enumerate(undone):
        dependents = {other for other in planned if step in depends[other]}
        assert dependents <= set(undone[:place]), undone
    was_stuck = any(getattr(one, "status", None) is StepStatus.UNDO_STUCK for one in bodies)
    has_scopes = any(isinstance(one, RollbackPlanned) and one.scope for one in bodies)
    if not scenario.is_parallel and not was_stuck and not has_scopes:
        assert undone == [step for step in planned if step in undone]
        assert len(scenario.state.undoing) <= 1


def check_scopes(scenario, bodies):
    """The plan of a scope has what was issued in it, and it is undone before anybody goes on."""
    depends = depends_on(scenario.state.steps)
    for one in bodies:
        if isinstance(one, RollbackPlanned) and one.scope is not None:
            planned = [undo.step for undo in one.steps]
            for place, step in enumerate(planned):
                scope = scenario.state.steps[step].scope
                assert f"{scope}/".startswith(f"{one.scope}/"), (step, scope)
                assert not any(step in depends[later] for later in planned[place + 1 :]), planned


def depends_on(steps):
    """Of each step all that it depends on, near and far."""
    depends = {}
    for step in steps.values():
        depends[step.id] = set(step.after).union(*(depends[near] for near in step.after))
    return depends


def check_effects(scenario, end):
    """Whatever was issued and not refused is undone by a service's word, or is named as residue.

    Of a saga that has completed, this holds for the scopes that a failure has left.
    """
    bodies = [entry.body for entry in scenario.history]
    left = {one.scope for one in bodies if isinstance(one, ScopeUndone)}
    first = {}  # a second, different answer to one attempt is a conflict and does not count
    for entry in scenario.history:
        if isinstance(one := entry.body, ReplyReceived):
            first.setdefault(one.intent_id, one.outcome)
    replies = {(*name.split("/")[1:3], outcome) for name, outcome in first.items()}
    for step in scenario.state.steps.values():
        is_given_up = step.scope is not None and not left.isdisjoint(around(step.scope))
        if isinstance(end, SagaCompleted) and not is_given_up:
            continue
        was_refused = (step.id, "do", ReplyOutcome.REFUSED) in replies
        was_done = (step.id, "do", ReplyOutcome.DONE) in replies
        is_undone = (step.id, "undo", ReplyOutcome.DONE) in replies
        if step.kind in NEVER_UNDONE or (was_refused and not was_done):
            continue
        known = set(end.residue or ()) | set(scenario.state.residue)
        is_left = was_refused and (
            isinstance(end, SagaAbandoned)
            or scenario.state.program.policy_of(step.id).undo_retry is None
        )
        assert is_undone or step.id in known or is_left, (step.id, step.status)


def is_refused_past_pivot(scenario):
    """Whether a pivot that lost a race has succeeded, so that what can be undone is too late."""
    state = scenario.state
    return state.is_poisoned and "comes after the pivot" in (state.reason or "")
