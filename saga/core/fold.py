"""The one fold: what a saga's entries say of its steps, timers, waits, rollback, status and end.

Theory of operation: a turn is a fact and what was decided on it. The fact has its plain effect,
unless the entry right behind it is `noted`; then the entries behind that one say what it changed.
Each decision has one effect, whatever the fact was. The kernel changes its state through the same
functions, so what it knows is what the history says (`docs/reference/history.md` has the rules).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any, Final, TypeAlias

from saga.core import events, intents
from saga.core.arrivals import (
    answer,
    arrive,
    ask,
    begin_wait,
    end_by_choice,
    end_wait,
    end_waits,
    give_back,
    keep,
    let_go,
)
from saga.core.events import REPLY_DONE, Event
from saga.core.format_1 import FORMAT_1, take_unsaid
from saga.core.history import Entry, RecordedTurn, body_to_plain, turns
from saga.core.identity import DO, UNDO, Instant, IntentName, SagaId, StepId, parse_intent_id
from saga.core.plans import has_begun
from saga.core.state import Child, Pause, Plan, Run, SagaState, Scopes, Step, around, identity_of
from saga.core.status import DONE, ISSUED, TRANSITIONS, UNDOING, SagaStatus, StepKind, StepStatus
from saga.errors import CorruptHistory

_SAID_BY_OTHERS: Final = frozenset(
    {
        events.SignalReceived,
        events.EventReceived,
        events.UpdateReceived,
        events.CancelRequested,
        events.OperatorActed,
        events.ChildStarted,
        events.ChildEnded,
        events.Paused,
        events.Resumed,
        events.Migrated,
    }
)
_LATE: Final = frozenset(
    {intents.Verdict.LATE_SUCCESS, intents.Verdict.LATE_FAILURE, intents.Verdict.SUPERSEDED}
)
"""What a child says counts as its answer then, and is no answer of another saga's."""
_DEADLINE: Final = intents.TimerPurpose.DEADLINE
DIGEST_CHARS: Final = 32
_PIVOT: Final = StepKind.PIVOT
_RETRY: Final = intents.TimerPurpose.RETRY


def fold(saga_id: SagaId, entries: Iterable[Entry]) -> SagaState:
    """The state after a history, or its first entries; CorruptHistory where no fact begins it."""
    state = SagaState(saga_id)
    recorded = turns(entries)
    if recorded and (begun := run_begun_in(recorded[0])) is not None:
        continued, decided = begun
        state.version = recorded[0].version - 1
        for intent in (continued, *decided):
            apply(state, intent, recorded[0].event.at)
        state.version += len(recorded[0])
        recorded = recorded[1:]
    for turn in recorded:
        fact = turn.event.fact
        if type(fact) not in FACT_EFFECTS:
            raise CorruptHistory(saga_id, turn.version, f"no turn begins with {fact}")
        fold_turn(state, turn)
    return state


def run_begun_in(turn: RecordedTurn) -> tuple[intents.Continued, Sequence[intents.Intent]] | None:
    """The run that *turn* begins, the last one in it, and what was decided in that.

    None of the very first turn of a history: that begins with the saga's start.
    """
    if turn.version == 1:
        return None
    numbers = [n for n, each in enumerate(turn.decided) if type(each) is intents.Continued]
    if not numbers:
        raise CorruptHistory(turn.saga_id, turn.version, "the entries before it are missing")
    continued = turn.decided[numbers[-1]]
    assert isinstance(continued, intents.Continued), continued
    return continued, turn.decided[numbers[-1] + 1 :]


def fold_turn(state: SagaState, turn: RecordedTurn) -> None:
    event, decided = turn.event, turn.decided
    first = decided[0] if decided else None
    if type(first) is intents.Noted:
        take_noted(state, event, first.verdict)
    else:
        take_fact(state, event)
    for intent in decided:
        apply(state, intent, event.at)
    if state.format == FORMAT_1:
        take_unsaid(state, event, decided)
    state.version += len(turn)


def take_fact(state: SagaState, event: Event) -> None:
    know(state, event)
    FACT_EFFECTS[type(event.fact)](state, event.fact, event.at)


def know(state: SagaState, event: Event) -> None:
    state.causes[identity_of(event)] = said(event.fact)


def said(fact: events.Fact) -> str | None:
    """A digest of what others said; None of what the trigger, steps and timers keep themselves."""
    if type(fact) is events.Migrated:
        fact = fact.as_asked()
    return digest(body_to_plain(fact, _plainly)) if type(fact) in _SAID_BY_OTHERS else None


def digest(plain: object) -> str:
    """The same in every process and release for the same JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


def _plainly(payload: events.Json) -> str:
    return payload


def take_noted(state: SagaState, event: Event, verdict: intents.Verdict) -> None:
    """What is left of a fact that does not have its plain effect: an answer counts as given."""
    know(state, event)
    fact = event.fact
    if type(fact) is events.TimerFired:
        state.timers.pop(fact.timer_id, None)
    elif type(fact) is events.ReplyReceived and verdict is not intents.Verdict.REFUSED:
        name = parse_intent_id(fact.intent_id)
        if name is not None and name.step in state.steps:
            take_reply(state, state.steps[name.step], name, fact, is_noted=True)
        elif name is not None:
            state.replies.setdefault(name, fact)
    elif type(fact) is events.ChildEnded and verdict in _LATE:
        _child_ended(state, fact, event.at, is_noted=True)


def apply(state: SagaState, intent: intents.Intent, at: Instant) -> None:
    EFFECTS[type(intent)](state, intent, at)


def restate(state: SagaState, recorded: intents.Intent, *, says_order: bool) -> None:
    """Let what is recorded stand where today's code may decide it in another way."""
    match recorded:
        case intents.IntentIssued() if recorded.direction is DO:
            _describe_step(state, recorded, says_order=says_order)
        case intents.IntentIssued():
            state.undo_contracts[recorded.step] = recorded.contract
        case intents.SagaFinishing():
            state.pending_outcome = recorded.outcome
        case intents.Continued():
            state.trigger = recorded.trigger
        case intents.SagaCompleted() | intents.SagaRolledBack() | intents.SagaAbandoned():
            state.outcome = recorded.outcome
        case intents.TimerCancelled():
            _cancelled(state, recorded, Instant(0))
        case intents.EventAwaited() if recorded.wait in state.waited:
            state.waited[recorded.wait] = recorded
        case intents.Shown():
            _shown(state, recorded, Instant(0))
        case _:
            pass


def _describe_step(state: SagaState, intent: intents.IntentIssued, *, says_order: bool) -> None:
    if intent.attempt > 1:
        return
    step = state.steps[intent.step]
    step.contract, step.payload, step.kind = intent.contract, intent.payload, intent.kind
    if says_order:
        step.after = step.before if intent.after is None else intent.after


def _become(state: SagaState, status: SagaStatus) -> None:
    before = state.status
    if before is not status:
        assert status in TRANSITIONS[before], (state.saga_id, before, status)
        state.status = status


def _started(state: SagaState, fact: events.SagaStarted, at: Instant) -> None:
    assert state.trigger is None, (state.saga_id, state.trigger, fact.trigger)
    state.key = fact.key
    state.trigger = fact.trigger
    state.traceparent = fact.traceparent
    state.format = fact.format
    state.parent = fact.parent
    state.started_at = at
    if fact.paused:
        state.pause = Pause(by_definition=True)


def _replied(state: SagaState, fact: events.ReplyReceived, _: Instant) -> None:
    name = parse_intent_id(fact.intent_id)
    step = state.steps.get(name.step) if name is not None else None
    if name is not None and step is not None:
        take_reply(state, step, name, fact)


def take_reply(
    state: SagaState,
    step: Step,
    name: IntentName,
    fact: events.ReplyReceived,
    *,
    is_noted: bool = False,
) -> None:
    """The plain effect of an answer to *step*, or what is left of it where it *is_noted*.

    The first answer to an attempt counts; the first success is the step's reply.
    """
    is_first = state.replies.setdefault(name, fact) is fact
    if fact.outcome is not REPLY_DONE:
        return
    if name.direction is DO:
        if is_first and not step.has_reply:
            step.reply, step.has_reply = fact.reply, True
            if step.undo_attempts and step.id not in (state.children or ()):
                # They were asked for without knowing of it; a child is undone as a whole.
                step.undo_floor = step.undo_attempts + 1
        if step.status is ISSUED and not is_noted:
            state.stand(step, DONE)
            step.is_backing_off = False
            if step.kind is _PIVOT:
                state.is_past_pivot = True
    elif step.status is UNDOING and name.attempt >= step.undo_floor and not is_noted:
        state.stand(step, StepStatus.UNDONE)
        step.is_backing_off = False


def _timer_fired(state: SagaState, fact: events.TimerFired, _: Instant) -> None:
    timer = state.timers.pop(fact.timer_id, None)
    if timer is None:
        return
    if timer.purpose is intents.TimerPurpose.WAIT:
        end_wait(state, timer.target)
    elif timer.purpose is _DEADLINE and state.children is not None:
        child = state.children.get(_step_of(state, timer).id)
        if child is not None:
            child.is_overdue = True


def _cancel_requested(state: SagaState, fact: events.CancelRequested, _: Instant) -> None:
    if fact.mode is not events.CancelMode.ABANDON:
        state.cancel_reason = fact.reason
        end_waits(state)
        if fact.undo is not None and has_had_its_end(state):
            state.undo = fact.undo
        if fact.mode is events.CancelMode.IMMEDIATE and state.children is not None:
            for child in state.children.values():
                child.ends_at_once = True


def has_had_its_end(state: SagaState) -> bool:
    """Whether its end was told, though it may be cleaning up behind that."""
    if state.plan is None:
        return state.status.is_ended
    return state.status.is_ended or (state.plan.recorded.goal is intents.RollbackGoal.CLEANED_UP)


def _child_started(state: SagaState, fact: events.ChildStarted, _: Instant) -> None:
    name = parse_intent_id(fact.intent_id)
    child = None if name is None or state.children is None else state.children.get(name.step)
    if child is not None:
        meet(child, fact)


def _child_ended(
    state: SagaState, fact: events.ChildEnded, _: Instant, *, is_noted: bool = False
) -> None:
    name = parse_intent_id(fact.intent_id)
    child = None if name is None or state.children is None else state.children.get(name.step)
    if name is None or child is None:
        return
    meet(child, fact)
    take_reply(state, state.steps[name.step], name, fact.as_reply(), is_noted=is_noted)


def meet(child: Child, fact: events.ChildStarted | events.ChildEnded) -> None:
    """The first saga that says so is the child."""
    if child.saga_id is None and fact.saga_id is not None:
        child.saga_id, child.definition = fact.saga_id, fact.definition or ""
        child.key = fact.key or ""


def _operator_acted(state: SagaState, fact: events.OperatorActed, _: Instant) -> None:
    if fact.act is events.Act.RELEASE:
        state.is_poisoned = False
        status, state.reason = state.before_failure
        _become(state, status)
    elif fact.act is events.Act.MARK and fact.state is events.MarkedAs.DONE:
        step = state.steps[StepId(fact.step or "")]
        step.reply, step.has_reply = fact.reply, True


def _paused(state: SagaState, fact: events.Paused, _: Instant) -> None:
    if state.pause is None:
        state.pause, state.taken = Pause(), None
    pause = state.pause
    if fact.scope is None:
        pause.by_saga = True
    else:
        pause.by_definition = True


def _pause_ended(state: SagaState, fact: events.Resumed, _: Instant) -> None:
    pause = state.pause
    assert pause is not None, (state.saga_id, fact)
    if fact.scope is None:
        pause.by_saga = False
    else:
        pause.by_definition = False
    if not (pause.by_saga or pause.by_definition):
        state.pause = None


def _turn_failed(state: SagaState, fact: events.TurnFailed, _: Instant) -> None:
    if not state.is_poisoned:
        state.before_failure = (state.status, state.reason)
    state.is_poisoned = True
    state.reason = fact.error
    state.key = state.key or fact.key or ""
    _become(state, SagaStatus.PARKED)


def _issued(state: SagaState, intent: intents.IntentIssued, at: Instant) -> None:
    step = state.steps.get(intent.step)
    if intent.direction is UNDO:
        assert step is not None, (state.saga_id, intent)
        _issued_undo(state, step, intent, at)
    elif step is None:
        before = state.latest_step
        after = before if intent.after is None else intent.after
        state.latest_step = (intent.step,)
        state.steps[intent.step] = state.in_flight[intent.step] = Step(
            intent.step, intent.contract, intent.payload, intent.kind, after, before, at
        )
        if intent.scope is not None:
            _issued_in_scope(state, state.steps[intent.step], intent.scope)
        if intent.child:
            state.children = {} if state.children is None else state.children
            state.children[intent.step] = Child()
    else:
        assert intent.attempt == step.attempts + 1, (state.saga_id, step.id, intent.attempt)
        step.attempts = intent.attempt
        state.stand(step, ISSUED)
        step.is_backing_off = False


def _issued_in_scope(state: SagaState, step: Step, scope: str) -> None:
    step.scope = scope
    if state.scopes is None:
        state.scopes = Scopes()
    for name in around(scope):
        state.scopes.steps.setdefault(name, []).append(step.id)


def _issued_undo(state: SagaState, step: Step, intent: intents.IntentIssued, at: Instant) -> None:
    assert intent.attempt == step.undo_attempts + 1, (state.saga_id, step.id, intent.attempt)
    if not step.is_backing_off:
        # It is no retry by the policy: whoever begins anew has a fresh budget.
        step.undo_began_at = at
        step.undo_spent = step.undo_attempts
    step.undo_attempts = intent.attempt
    state.stand(step, UNDOING)
    step.is_backing_off = False
    step.is_undo_blind = not step.has_reply
    state.undo_contracts[step.id] = intent.contract


def _settled(state: SagaState, intent: intents.StepSettled, _: Instant) -> None:
    step = state.steps[intent.step]
    if intent.direction is DO:
        if intent.details is not None:
            state.details = {**(state.details or {}), step.id: intent.details}
        is_going_forward = state.plan is None and not state.status.is_ended
        if intent.status is DONE:
            step.undo_floor = step.undo_attempts + 1
            if step.kind is _PIVOT and is_going_forward and not step.is_dropped:
                state.is_past_pivot = True
        elif step.status is ISSUED and is_going_forward:
            step.is_dropped = True
    state.stand(step, intent.status)
    step.is_backing_off = False


def _told(state: SagaState, intent: intents.IntentTold, _: Instant) -> None:
    state.told = state.told or set()
    state.told.add(intent.step)


def _dropped(state: SagaState, intent: intents.BranchDropped, _: Instant) -> None:
    for step_id in intent.steps:
        step = state.steps[step_id]
        step.is_dropped = step.has_lost = True
    for wait in intent.waits:
        end_wait(state, wait)
        give_back(state, wait)


def _command_sent(state: SagaState, intent: intents.CommandSent, _: Instant) -> None:
    if intent.act is not intents.SentAct.CANCEL or state.children is None:
        return
    name = parse_intent_id(intent.command.rpartition("/")[0])
    child = None if name is None else state.children.get(name.step)
    if child is not None:
        child.cancelled = intent.mode or events.CancelMode.GRACEFUL


def _armed(state: SagaState, intent: intents.TimerArmed, _: Instant) -> None:
    state.timers[intent.timer_id] = intent
    if intent.purpose is _RETRY:
        _step_of(state, intent).is_backing_off = True


def _cancelled(state: SagaState, intent: intents.TimerCancelled, _: Instant) -> None:
    timer = state.timers.pop(intent.timer_id, None)
    if timer is not None and timer.purpose is _RETRY:
        _step_of(state, timer).is_backing_off = False


def _shown(state: SagaState, intent: intents.Shown, _: Instant) -> None:
    state.shown = {
        name: text
        for name, text in {**(state.shown or {}), **dict(intent.fields)}.items()
        if text != "null"
    }


def _moved(state: SagaState, intent: intents.TimerMoved, _: Instant) -> None:
    timer = state.timers.get(intent.timer_id)
    if timer is not None:
        state.timers[intent.timer_id] = replace(timer, due_at=intent.due_at)


def _step_of(state: SagaState, timer: intents.TimerArmed) -> Step:
    return state.steps[StepId(timer.target.rpartition("/")[0])]


def _due(state: SagaState, intent: intents.RollbackDue, _: Instant) -> None:
    if intent.scope is None:
        state.due = intent
        end_waits(state)
        return
    if state.scopes is None:
        state.scopes = Scopes()
    state.scopes.take_over(intent.scope)
    state.scopes.left.add(intent.scope)
    state.scopes.due[intent.scope] = intent


def _planned(state: SagaState, intent: intents.RollbackPlanned, _: Instant) -> None:
    after: dict[StepId, tuple[StepId, ...]] = {}
    before: tuple[StepId, ...] = ()
    for planned in intent.steps:
        after[planned.step] = before if planned.after is None else planned.after
        if has_begun(state.steps[planned.step]):
            after[planned.step] = ()  # by another plan: it waits for nothing any more
        before = (planned.step,)
    plan = Plan(intent, after)
    if intent.scope is not None:
        _planned_of_scope(state, plan, intent.scope)
        return
    state.plan = plan
    if state.scopes is not None:
        state.scopes.end_plans()
    if intent.goal is not intents.RollbackGoal.COMPLETED:
        _become(state, SagaStatus.ROLLING_BACK)
    if intent.goal is intents.RollbackGoal.ROLLED_BACK:
        state.reason, state.code = intent.reason, intent.code
        state.is_finishing = state.is_continuing = state.is_poisoned = False
        state.pending_outcome = state.due = None
        end_waits(state)


def _planned_of_scope(state: SagaState, plan: Plan, scope: str) -> None:
    if state.scopes is None:
        state.scopes = Scopes()
    state.scopes.take_over(scope)
    state.scopes.left.add(scope)
    state.scopes.plans[scope] = plan


def _scope_undone(state: SagaState, intent: intents.ScopeUndone, _: Instant) -> None:
    assert state.scopes is not None, (state.saga_id, intent)
    del state.scopes.plans[intent.scope]


def _appended(state: SagaState, intent: intents.UndoAppended, _: Instant) -> None:
    plan = state.plan_of(state.steps[intent.step])
    assert plan is not None, (state.saga_id, intent)
    after = plan.after
    before = after.pop(intent.step, ())
    for step_id, others in after.items():
        if intent.step in others:  # then it comes behind what that step came behind
            kept = (other for other in others if other != intent.step)
            after[step_id] = tuple(dict.fromkeys((*before, *kept)))
    after[intent.step] = tuple(after)
    plan.progress = None


def _parked(state: SagaState, intent: intents.SagaParked, _: Instant) -> None:
    if state.status is not SagaStatus.PARKED:
        state.before_parking = (state.status, state.reason)
    state.reason = intent.reason
    _become(state, SagaStatus.PARKED)
    if intent.step is not None:
        state.steps[intent.step].is_dropped = False
    elif state.is_past_pivot and state.plan is None:
        state.is_stranded = state.scopes is None or not state.scopes.plans


def _resumed(state: SagaState, _: intents.SagaResumed, __: Instant) -> None:
    status, state.reason = state.before_parking
    _become(state, status)


def _finishing(state: SagaState, intent: intents.SagaFinishing, _: Instant) -> None:
    state.is_finishing = True
    state.is_continuing = intent.continues is True
    state.pending_outcome = intent.outcome


def _continued(state: SagaState, intent: intents.Continued, _: Instant) -> None:
    """Begin anew, but for what the entry says: whoever reads from it on knows no more."""
    fresh = SagaState(state.saga_id, program=state.program)
    for part in _PARTS:
        setattr(state, part, getattr(fresh, part))
    state.key = intent.key
    state.trigger = intent.trigger
    state.traceparent = intent.traceparent
    state.parent = intent.parent
    state.shown = dict(intent.shown) or None
    state.started_at = intent.started_at
    state.run = Run(intent.run, intent.began_with, len(intent.causes))
    for known in intent.causes:
        identity = known.cause if known.source is None else (known.source, known.cause)
        state.causes[identity] = known.said
    for unread in intent.unread:
        keep(state, unread.arrival, unread.version)


def _completed(state: SagaState, intent: intents.SagaCompleted, _: Instant) -> None:
    state.is_finishing = True
    state.pending_outcome = None
    _end(state, SagaStatus.COMPLETED, intent.residue or ())
    state.outcome = intent.outcome


def _rolled_back(state: SagaState, intent: intents.SagaRolledBack, _: Instant) -> None:
    _end(state, _rolled_back_status(intent.residue), intent.residue)
    state.reason, state.code = intent.reason, intent.code
    state.outcome = intent.outcome


def _cleaned_up(state: SagaState, intent: intents.SagaCleanedUp, _: Instant) -> None:
    rolled_back = _rolled_back_status(intent.residue)
    _end(state, SagaStatus.COMPLETED if state.is_finishing else rolled_back, intent.residue)


def _abandoned(state: SagaState, intent: intents.SagaAbandoned, _: Instant) -> None:
    state.is_poisoned = False
    _end(state, SagaStatus.ABANDONED, intent.residue)
    state.reason = intent.reason
    if not intent.had_outcome:
        state.outcome = intent.outcome


def _end(state: SagaState, status: SagaStatus, residue: tuple[StepId, ...]) -> None:
    _become(state, status)
    state.residue = residue
    state.undo = state.due = None
    if state.scopes is not None:
        state.scopes.end_plans()
    state.timers.clear()
    end_waits(state)
    state.pause = state.taken = None


def _rolled_back_status(residue: tuple[StepId, ...]) -> SagaStatus:
    return SagaStatus.ROLLED_BACK_WITH_RESIDUE if residue else SagaStatus.ROLLED_BACK


def _without_effect(_: SagaState, __: events.Fact | intents.Intent, ___: Instant) -> None:
    """It concerns nobody's state."""


_OF_ALL_RUNS: Final = frozenset({"saga_id", "version", "untold", "migrations"})
_PARTS: Final = tuple(part.name for part in fields(SagaState) if part.name not in _OF_ALL_RUNS)
_Effect: TypeAlias = Callable[[SagaState, Any, Instant], None]

FACT_EFFECTS: Final[dict[type[events.Fact], _Effect]] = {
    events.SagaStarted: _started,
    events.ReplyReceived: _replied,
    events.ProgressReceived: _without_effect,
    events.TimerFired: _timer_fired,
    events.SignalReceived: arrive,
    events.EventReceived: arrive,
    events.UpdateReceived: ask,
    events.CancelRequested: _cancel_requested,
    events.OperatorActed: _operator_acted,
    events.ChildStarted: _child_started,
    events.ChildEnded: _child_ended,
    events.Paused: _paused,
    events.Resumed: _pause_ended,
    events.Migrated: _without_effect,
    events.TurnFailed: _turn_failed,
    events.TimersAdded: _without_effect,
}

EFFECTS: Final[dict[type[intents.Intent], _Effect]] = {
    intents.IntentIssued: _issued,
    intents.StepSettled: _settled,
    intents.BranchDropped: _dropped,
    intents.EventPublished: _without_effect,
    intents.IntentTold: _told,
    intents.CommandSent: _command_sent,
    intents.UpdateAnswered: answer,
    intents.Shown: _shown,
    intents.TimerArmed: _armed,
    intents.TimerCancelled: _cancelled,
    intents.TimerMoved: _moved,
    intents.SignalAwaited: begin_wait,
    intents.EventAwaited: begin_wait,
    intents.WaitEnded: end_by_choice,
    intents.Noted: _without_effect,
    intents.ArrivalRefused: let_go,
    intents.Patched: _without_effect,
    intents.RollbackDue: _due,
    intents.RollbackPlanned: _planned,
    intents.UndoAppended: _appended,
    intents.ScopeUndone: _scope_undone,
    intents.SagaParked: _parked,
    intents.SagaResumed: _resumed,
    intents.SagaFinishing: _finishing,
    intents.Continued: _continued,
    intents.SagaCompleted: _completed,
    intents.SagaRolledBack: _rolled_back,
    intents.SagaCleanedUp: _cleaned_up,
    intents.SagaAbandoned: _abandoned,
}
