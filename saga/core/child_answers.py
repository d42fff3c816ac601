"""What a parent hears of its children: that one has begun, how it has ended, that it is undone.

Theory of operation: the first saga that says so is the child of a step, and only it is believed;
it may come to say how it ended before it comes to say that it has begun. Its end settles the step
as a reply would. A child that was rolled back has left nothing; of one that left something, or was
abandoned, the step is residue.
"""

from __future__ import annotations

from typing import Final

from saga.core import children, forward, intents, rollback, runs
from saga.core.decider import RECORDED, Disposition
from saga.core.events import REPLY_DONE, ChildEnded, ChildStarted, ChildStatus, ReplyReceived
from saga.core.fold import know, meet
from saga.core.identity import DO, UNDO, IntentName, parse_intent_id
from saga.core.intents import Verdict
from saga.core.program import StepFailure
from saga.core.state import Child, SagaState, Step
from saga.core.status import ISSUED, UNDOING, StepStatus
from saga.core.turn import Turn

_STANDING: Final = {
    ChildStatus.ROLLED_BACK: StepStatus.UNDONE,
    ChildStatus.ROLLED_BACK_WITH_RESIDUE: StepStatus.SKIPPED,
    ChildStatus.ABANDONED: StepStatus.SKIPPED,
    ChildStatus.REFUSED: StepStatus.REFUSED,
}
"""Where a step stands whose child did not complete."""
_GIVEN_UP: Final = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED})
_UNDOING_OR_UNDONE: Final = frozenset({UNDOING, StepStatus.UNDONE})


def take(turn: Turn, fact: ChildStarted | ChildEnded) -> Disposition:
    """Take what a saga says that is the child of a step, or says it is."""
    return _started(turn, fact) if isinstance(fact, ChildStarted) else _ended(turn, fact)


def _started(turn: Turn, fact: ChildStarted) -> Disposition:
    found = _find(turn.state, fact.intent_id)
    if found is None or found[0].direction is UNDO:
        return _stray(turn, fact)
    _, step, child = found
    if child.saga_id == fact.saga_id:
        return Disposition.DUPLICATE
    if child.saga_id is not None:
        return _note_other(turn, fact, child)
    if turn.state.has_ended:
        ended = f"the saga is {turn.state.status.value}"
        return turn.note(Verdict.AFTER_END, fact.intent_id, ended)
    turn.take_fact()
    children.met(turn, step, child)
    return RECORDED


def _ended(turn: Turn, fact: ChildEnded) -> Disposition:
    found = _find(turn.state, fact.intent_id)
    if found is None:
        return _stray(turn, fact)
    name, step, child = found
    if child.saga_id is not None and child.saga_id != fact.saga_id:
        return _note_other(turn, fact, child)
    reply = fact.as_reply()
    known = turn.state.replies.get(name)
    # A refusal was another saga's, where the child has begun all the same.
    if known is not None and not (step.status is StepStatus.REFUSED and child.saga_id is not None):
        is_same = turn.is_same_answer(known, reply)
        return Disposition.DUPLICATE if is_same else turn.note_conflict(reply)
    if name.direction is UNDO:
        disposition = rollback.undo_reply(turn, step, name, reply)
        know(turn.state, turn.event)  # of a reply less is kept
        meet(child, fact)  # it may be all that was heard of it so far
        return disposition
    if step.status is not ISSUED:
        return _late(turn, step, child, fact, reply)
    assert not turn.state.status.is_ended, (turn.state.saga_id, step)
    return _settle(turn, step, child, fact)


def _stray(turn: Turn, fact: ChildStarted | ChildEnded) -> Disposition:
    name = parse_intent_id(fact.intent_id)
    if name is None or name.step in turn.state.steps:
        return Disposition.UNKNOWN
    return runs.answered(turn, name.step, fact.intent_id)


def _find(state: SagaState, intent: str) -> tuple[IntentName, Step, Child] | None:
    """The step that an intent was issued for, where that has started a child."""
    name = parse_intent_id(intent)
    if name is None or state.children is None or name.step not in state.children:
        return None
    step = state.steps[name.step]
    issued = step.attempts if name.direction is DO else step.undo_attempts
    if not 1 <= name.attempt <= issued:
        return None
    return name, step, state.children[name.step]


def _note_other(turn: Turn, fact: ChildStarted | ChildEnded, child: Child) -> Disposition:
    who = "nobody" if fact.saga_id is None else f"saga {fact.definition}/{fact.key}"
    detail = f"{who} is not the child: that is saga {child.definition}/{child.key}"
    return turn.note(Verdict.CONFLICTING, fact.intent_id, detail)


def _settle(turn: Turn, step: Step, child: Child, fact: ChildEnded) -> Disposition:
    was_dropped = step.is_dropped
    turn.take_fact()
    turn.disarm_for(step, DO)
    if fact.status is ChildStatus.REFUSED:
        failure = StepFailure(fact.code, fact.reason or "refused")
        forward.fail_step(turn, step, StepStatus.REFUSED, failure)
        return RECORDED
    if fact.status is not ChildStatus.COMPLETED:
        standing = _STANDING[fact.status]
        turn.settle(step, standing, code=fact.code, message=fact.reason)
    if was_dropped or not forward.is_asked(turn):
        return RECORDED
    if child.is_overdue and fact.status is ChildStatus.COMPLETED:
        turn.record(intents.BranchDropped(steps=(step.id,)))  # so it is undone
    told = None if child.is_overdue else fact
    forward.run(turn, turn.program.child_ended(step.id, told, turn.at))
    return RECORDED


def _late(
    turn: Turn, step: Step, child: Child, fact: ChildEnded, reply: ReplyReceived
) -> Disposition:
    """A child ends whose step was settled, or is being undone, without it."""
    intent, standing = fact.intent_id, f"the step is {step.status.value}"
    if reply.outcome is REPLY_DONE:
        if step.status in _UNDOING_OR_UNDONE:
            was_known = child.saga_id is not None
            turn.note(Verdict.LATE_SUCCESS, intent, standing)
            if not was_known:
                children.met(turn, step, child)
            return RECORDED
        return rollback.late_reply(turn, step, reply)
    is_gone = fact.status in (ChildStatus.ROLLED_BACK, ChildStatus.REFUSED)
    if step.status in _GIVEN_UP and is_gone:
        return rollback.undone_late(turn, step, reply)
    turn.note(Verdict.LATE_FAILURE, intent, standing)
    if step.status is StepStatus.IN_DOUBT:
        turn.settle(step, _STANDING[fact.status], code=fact.code, message=fact.reason)
        rollback.go_on(turn, step)
    elif step.status is UNDOING and is_gone:
        turn.settle(step, StepStatus.UNDONE, UNDO)
        rollback.go_on(turn, step)
    elif step.status is UNDOING:
        rollback.stick(turn, step, fact.code, fact.reason)
    return RECORDED
