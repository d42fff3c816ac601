"""The kernel: turns a definition into a decider. Every fact that reaches a saga comes to `handle`.

Theory of operation: a turn takes one event, lets the program go on where that resolves something it
waits for, and records what the program wants as intents. Forward work lives in `forward`, its waits
in `waiting`, the undoing in `rollback`, what people ask for in `requests`, what children say in
`child_answers`, and what a parent alone may ask in `parents`; they decide, and `fold` alone changes
the state. This module only opens the door to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, assert_never

from saga.core import (
    child_answers,
    deadlines,
    events,
    forward,
    marks,
    parents,
    parking,
    pausing,
    requests,
    reruns,
    rollback,
    runs,
    timer_acts,
)
from saga.core.decider import RECORDED, Decider, Decision, Disposition
from saga.core.events import REPLY_DONE, Act, Event, ReplyReceived
from saga.core.fold import said
from saga.core.identity import DO, UNDO, IntentName, SagaId, StepId, parse_intent_id
from saga.core.intents import Continued, Intent, TimerPurpose, Verdict
from saga.core.program import Definition, Program
from saga.core.snapshots import restored
from saga.core.state import SagaState, identity_of
from saga.core.turn import Turn

_ACTS: Final[Mapping[Act, Callable[[Turn, events.OperatorActed], Disposition]]] = {
    Act.MARK: marks.mark,
    Act.RERUN: reruns.rerun,
    Act.FIRE_TIMER: timer_acts.move,
    Act.MOVE_TIMER: timer_acts.move,
}


def decider_for(definition: Definition) -> Decider:
    """The decider that runs *definition* with retries, deadlines, timers, signals and rollback."""

    def handle(
        state: SagaState, event: Event, recorded: Sequence[Intent] | None = None
    ) -> Decision:
        turn = Turn(definition, state, event, recorded)
        if state.pause is not None:
            state.pause.turn = turn.version
        late = None if state.late is None else pausing.hold_behind_late(turn)
        turn.disposition = _take(turn, event)
        if turn.disposition is RECORDED:
            assert turn.has_taken_fact, (state.saga_id, event)
            if late is not None:
                pausing.tell_late(turn, late)
            may_end = turn.finish is not None or state.is_finishing
            is_stopping = state.cancel_reason is not None or state.due is not None
            if may_end or is_stopping or state.scopes is not None or turn.left is not None:
                parking.park_in_place(turn)
                forward.settle(turn)
            if state.untold is not None and state.untold.held:
                parking.park_on_held(turn)
            state.version += 1 + len(turn.intents if recorded is None else recorded)
        return turn

    def begin_run(
        state: SagaState, event: Event, continued: Continued, recorded: Sequence[Intent]
    ) -> Decision:
        turn = Turn(definition, state, event, recorded)
        turn.disposition = RECORDED
        forward.go_on(turn, continued)
        return turn

    return Decider(
        definition.name,
        definition.version,
        definition.fingerprint,
        definition.code,
        SagaState,
        handle,
        begin_run,
        definition.contracts,
        partial(restored, definition),
    )


def decider_without_code(name: str, version: int) -> Decider:
    """For a saga whose code cannot be run: it takes an abandon, and what comes after one."""
    return decider_for(Definition(name, version, "", _no_program))


_Others: TypeAlias = (
    events.ProgressReceived
    | events.SignalReceived
    | events.EventReceived
    | events.UpdateReceived
    | events.CancelRequested
    | events.OperatorActed
    | events.ChildStarted
    | events.ChildEnded
    | events.Paused
    | events.Resumed
    | events.Migrated
    | events.TimersAdded
)
"""Facts whose repetition is known by their cause alone."""


def _no_program(saga_id: SagaId, _: str, __: int) -> Program:
    raise AssertionError(saga_id)


def _take(turn: Turn, event: Event) -> Disposition:
    fact = event.fact
    match fact:
        case ReplyReceived():
            return _reply(turn, fact)
        case events.SagaStarted():
            return forward.start(turn, fact)
        case events.TimerFired():
            return _timer(turn, fact)
        case events.TurnFailed():
            turn.take_fact()
            return RECORDED
        case _ if (identity := identity_of(event)) in turn.state.causes:
            is_same = turn.state.causes[identity] == said(fact)
            return Disposition.DUPLICATE if is_same else Disposition.CONFLICT
        case _:
            return _take_new(turn, fact)


def _take_new(turn: Turn, fact: _Others) -> Disposition:
    """Take a fact whose cause this saga does not know."""
    match fact:
        case events.ProgressReceived():
            return deadlines.progress(turn, fact)
        case events.SignalReceived() | events.EventReceived() | events.UpdateReceived():
            return forward.arrived(turn, fact)
        case events.CancelRequested():
            return (requests.cancel if fact.undo is None else parents.undo)(turn, fact)
        case events.OperatorActed():
            return _ACTS.get(fact.act, requests.act)(turn, fact)
        case events.ChildStarted() | events.ChildEnded():
            return child_answers.take(turn, fact)
        case events.Paused() | events.Resumed():
            return pausing.take(turn, fact)
        case events.Migrated():
            return requests.migrate(turn, fact)
        case events.TimersAdded():
            turn.take_fact()
            turn.arm_unarmed()
            return RECORDED
        case _:
            assert_never(fact)


def _reply(turn: Turn, fact: ReplyReceived) -> Disposition:
    state, name = turn.state, parse_intent_id(fact.intent_id)
    if name is None:
        return Disposition.UNKNOWN
    _, step_id, direction, attempt = name
    step = state.steps.get(step_id)
    if step is None:
        return _reply_to_no_step(turn, name, fact)
    # As `was_issued` says, without asking for the step again.
    if not 1 <= attempt <= (step.attempts if direction is DO else step.undo_attempts):
        return Disposition.UNKNOWN
    if state.children is not None and step_id in state.children:
        return Disposition.UNKNOWN  # a child answers otherwise, and only it
    if (known := state.replies.get(name)) is not None:
        return _second_reply(turn, known, fact)
    if direction is UNDO:
        return rollback.undo_reply(turn, step, name, fact)
    program = turn.program
    if fact.outcome is REPLY_DONE and program is not None:
        refusal = turn.refusal(program.refusal_of_reply, step.id, fact.reply)
        if refusal is not None:
            return turn.note(Verdict.REFUSED, fact.intent_id, refusal)
    return forward.reply(turn, step, name, fact)


def _reply_to_no_step(turn: Turn, name: IntentName, fact: ReplyReceived) -> Disposition:
    state = turn.state
    if runs.is_of_earlier_run(state, name.step):
        return runs.answered(turn, name.step, fact.intent_id)
    if not state.was_issued(name):
        return Disposition.UNKNOWN
    if (known := state.replies.get(name)) is not None:
        return _second_reply(turn, known, fact)
    detail = f"{fact.outcome.value}: it was told, so nobody waits for an answer"
    return turn.note(Verdict.UNAWAITED, fact.intent_id, detail)


def _second_reply(turn: Turn, known: ReplyReceived, fact: ReplyReceived) -> Disposition:
    if turn.is_same_answer(known, fact):
        return Disposition.DUPLICATE
    # An incident to record once. The same message id again is no news: a dead letter.
    if identity_of(turn.event) in turn.state.causes:
        return Disposition.CONFLICT
    return turn.note_conflict(fact)


def _timer(turn: Turn, fact: events.TimerFired) -> Disposition:
    timer = turn.state.timers.get(fact.timer_id)
    if timer is None and turn.event.cause in turn.state.causes:
        return Disposition.DUPLICATE
    if timer is None:
        return turn.note(Verdict.STALE, fact.timer_id, "it is armed no longer: nothing comes of it")
    if turn.at < timer.due_at and turn.recorded is None:
        return Disposition.NO_NEWS  # it was moved when it had been found due
    if timer.purpose is TimerPurpose.SAGA:
        return requests.overdue(turn)
    turn.take_fact()
    match timer.purpose:
        case TimerPurpose.SLEEP:
            if forward.is_asked(turn):
                forward.run(turn, turn.program.slept(timer.target, turn.at))
        case TimerPurpose.WAIT:
            if forward.is_asked(turn):
                forward.run(turn, turn.program.timed_out(timer.target, turn.at))
        case TimerPurpose.DEADLINE | TimerPurpose.RETRY:
            step_id, direction = timer.target.rsplit("/", 1)
            step = turn.state.steps[StepId(step_id)]
            if direction == UNDO:
                rollback.undo_due(turn, step, timer.purpose)
            else:
                forward.step_due(turn, step, timer.purpose)
        case _:
            assert_never(timer.purpose)
    return RECORDED
