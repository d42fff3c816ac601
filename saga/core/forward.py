"""Forward work: the program's commands, the replies to its steps, its sleeps and waits, its end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias, assert_never

from saga.core import (
    children,
    events,
    intents,
    parking,
    pauses,
    program,
    rollback,
    runs,
    scopes,
    showing,
    updates,
    waiting,
)
from saga.core.decider import RECORDED, Disposition
from saga.core.events import (
    REPLY_DONE,
    REPLY_FAILED,
    Arrival,
    CancelMode,
    Message,
    ReplyReceived,
)
from saga.core.identity import DO, IntentName, MessageId, StepId, saga_id
from saga.core.intents import TimerPurpose, Verdict
from saga.core.plans import residue_of
from saga.core.state import SagaState, Step, identity_of
from saga.core.status import ISSUED, StepKind, StepStatus
from saga.core.turn import Turn

_Last: TypeAlias = program.Await | program.Refuse | program.RefuseKept
_Waits: TypeAlias = OrderedDict[str, _Last]
"""What a program gives that is decided last, in that order: waits, by their names, and refusals."""
_MISSED_DEADLINE: Final = program.StepFailure("timeout", rollback.MISSED_DEADLINE)


def start(turn: Turn, fact: events.SagaStarted) -> Disposition:
    """The trigger: begin the program, or recognise a repeat of it."""
    state = turn.state
    if state.is_started:
        if fact.parent is not None and fact.parent != state.parent:
            if identity_of(turn.event) in state.causes:
                return Disposition.DUPLICATE
            # Its parent is answered, whatever the trigger says.
            return turn.note(Verdict.REFUSED, "trigger", "the saga of this key is no child of it")
        if turn.is_same(state.trigger, fact.trigger) or runs.began_with(state, fact.trigger):
            return Disposition.DUPLICATE
        is_known = identity_of(turn.event) in state.causes
        return Disposition.CONFLICT if is_known else Disposition.KEY_TAKEN
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "trigger", "abandoned before it had begun")
    turn.take_fact()
    assert state.program is None, state.saga_id
    turn.begin(turn.definition.program(state.saga_id, fact.key, 1))
    runs.arm_deadline(turn)
    if state.pause is not None:
        turn.program.know_trigger(fact.trigger)
        turn.hold()
    run(turn, turn.program.start(fact.trigger, turn.at))
    return RECORDED


def reply(turn: Turn, step: Step, name: IntentName, fact: ReplyReceived) -> Disposition:
    """A service answered a step's attempt for the first time."""
    state = turn.state
    if step.status is not ISSUED:
        if fact.outcome is REPLY_DONE and parking.holds_up(state, step):
            return _succeed_at_last(turn, step, fact)
        return rollback.late_reply(turn, step, fact)
    has_ended = state.status.is_ended
    if has_ended:
        turn.note(Verdict.AFTER_END, fact.intent_id, f"the saga is {state.status.value}")
    if fact.outcome is REPLY_FAILED and (name.attempt != step.attempts or step.is_backing_off):
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, rollback.LATER_ATTEMPT)
    if not has_ended:
        turn.take_reply(step, name, fact)
    turn.disarm_for(step, DO)
    if fact.outcome is REPLY_DONE:
        if has_ended:
            turn.settle(step, StepStatus.DONE)  # the reply was only noted
        if not step.is_dropped and is_asked(turn):
            run(turn, turn.program.succeeded(step.id, fact.reply, turn.at))
    elif fact.outcome is REPLY_FAILED:
        failure = program.StepFailure(fact.code, fact.message or "failed", fact.details)
        _fail_attempt(turn, step, StepStatus.FAILED, failure)
    else:
        failure = program.StepFailure(fact.code, fact.message or "refused", fact.details)
        fail_step(turn, step, StepStatus.REFUSED, failure)
    return RECORDED


def step_due(turn: Turn, step: Step, purpose: TimerPurpose) -> None:
    """A step's deadline has passed, or its next attempt is due."""
    if step.status is not StepStatus.ISSUED:
        return
    pause = turn.state.pause
    if purpose is TimerPurpose.RETRY and pause is not None:
        pause.held.append(pauses.RetryDue(turn.version, step.id, step.attempts))
    elif purpose is TimerPurpose.RETRY:
        turn.issue_again(step)
    elif (child := children.child_of(turn.state, step)) is not None:
        children.overdue(turn, step, child)
    else:
        _fail_attempt(turn, step, StepStatus.IN_DOUBT, _MISSED_DEADLINE)


def arrived(turn: Turn, arrival: Arrival) -> Disposition:
    """A signal or event came: the wait that takes it ends."""
    disposition, wait = waiting.receive(turn, arrival)
    if wait is not None and is_asked(turn):
        run(turn, turn.program.arrived(wait, arrival, turn.at))
    return disposition


def settle(turn: Turn) -> None:
    """Undo the scopes that were left; end a saga that is through, or cancelled.

    It ends once nothing that matters is in flight. One that continues ends its run, and begins the
    next.
    """
    while True:
        if turn.state.scopes is not None or turn.left is not None:
            scopes.settle(turn, run)
        trigger = _end(turn)
        if trigger is None:
            return
        run(turn, runs.begin(turn, trigger))


def go_on(turn: Turn, continued: intents.Continued) -> None:
    """Begin the run of this entry again."""
    run(turn, runs.go_on(turn, continued))
    settle(turn)


def _end(turn: Turn) -> Message | None:
    """The trigger of the next run, where this one has ended and the saga has not."""
    state, finish = turn.state, turn.finish
    if state.plan is not None:
        is_through = state.pause is None and rollback.is_through_to_next_run(state)
        return state.pending_outcome if is_through else None
    if state.status.is_ended or state.is_poisoned:
        return None
    if state.is_stopping:
        if not state.in_flight:
            rollback.begin_due(turn)
        return None
    if finish is None and not state.is_finishing:
        return None
    _give_up(turn)
    is_undoing = bool(state.undoing) or (state.scopes is not None and state.scopes.is_busy)
    has_to_wait = is_undoing or any(
        step.is_dropped and rollback.has_undo(turn, step) for step in state.in_flight.values()
    )
    dropped = [] if has_to_wait else [step for step in state.steps.values() if step.is_dropped]
    has_leftovers = any(rollback.has_to_be_undone(turn, step) for step in dropped)
    is_continuing = state.is_continuing
    outcome = state.pending_outcome
    if finish is not None:
        is_continuing = isinstance(finish, program.ContinueAsNew)
        outcome = finish.trigger if isinstance(finish, program.ContinueAsNew) else finish.outcome
    if not has_to_wait and not has_leftovers:
        if is_continuing:
            return None if state.pause is not None else outcome
        may_leave = bool(dropped) or state.scopes is not None
        turn.complete(outcome, _left_standing(state) if may_leave else ())
        return None
    if finish is not None:
        turn.record(intents.SagaFinishing(outcome=outcome, continues=is_continuing or None))
    if not has_to_wait:
        rollback.begin_leftovers(turn)
    return None


def _left_standing(state: SagaState) -> tuple[StepId, ...]:
    """The residue of a saga that completes.

    A failure that the function caught is its own to judge; what a race left standing is not, and
    neither is what a scope has.
    """
    return residue_of(
        step
        for step in state.steps.values()
        if (step.is_dropped and step.has_lost) or rollback.is_of_undone_scope(state, step)
    )


def _give_up(turn: Turn) -> None:
    """Drop what the program has left in flight; waits end with the saga, if that ends at once.

    What a wait has taken, and the program was not told, is kept again: it may be for the next run.
    """
    state, finish = turn.state, turn.finish
    if finish is None:
        return
    untold = pauses.steps_untold(turn.held)
    in_flight = (*state.in_flight, *untold)
    unseen = pauses.waits_untold(turn.held)
    if not in_flight and not state.waited and not unseen:
        return
    steps = tuple(id_ for id_ in in_flight if id_ in untold or not state.steps[id_].is_dropped)
    goes_on = isinstance(finish, program.ContinueAsNew)
    has_lost = any(step.is_dropped for step in state.steps.values())
    if steps or unseen or goes_on or has_lost:
        timers = state.timers.values()
        sleeps = tuple(each.target for each in timers if each.purpose is TimerPurpose.SLEEP)
        _drop_branch(turn, program.DropBranch(steps, sleeps, (*state.waited, *unseen)), {})


def retry_now(turn: Turn, step: Step) -> None:
    """Issue the next attempt at once, whatever the policy says."""
    turn.disarm_for(step, DO)
    if parking.holds_up(turn.state, step):
        parking.resume_if_free(turn, released=step)
    turn.issue_again(step)


def is_asked(turn: Turn) -> bool:
    """Whether the program is still told how something ended that it waits for."""
    state = turn.state
    if state.plan is not None or state.is_finishing:
        return False
    if state.cancel_reason is not None or state.due is not None:
        return False  # as `is_stopping`, which would be asked in every turn
    assert turn.finish is None, state.saga_id
    return True


def run(turn: Turn, commands: Sequence[program.Command]) -> None:
    """Turn commands into intents, waits last: what was kept leads on, and may drop others."""
    asked: dict[str, _Last] = {}
    _take(turn, commands, asked)
    if asked:
        _decide_last(turn, OrderedDict(asked))


def begin_late(turn: Turn, held: pauses.PutOff | pauses.Offer) -> None:
    """It is the turn of what was kept in a pause: a wait begins, or takes what it is offered."""
    waits: _Waits = OrderedDict()
    if isinstance(held, pauses.PutOff):
        commands = _begin(turn, held.command, waits, since=held.version)
    else:
        taken = waiting.offer(turn, held.wait, held.version)
        commands = () if taken is None else turn.program.arrived(held.wait, taken, turn.at)
    _take(turn, commands, waits)
    _decide_last(turn, waits)


def _decide_last(turn: Turn, waits: _Waits) -> None:
    while waits:
        _take(turn, _go_on(turn, waits), waits)


def _succeed_at_last(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    """The step on which a saga has parked is done after all."""
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
    turn.settle(step, StepStatus.DONE)
    parking.resume_if_free(turn)
    if is_asked(turn):
        run(turn, turn.program.succeeded(step.id, fact.reply, turn.at))
    return RECORDED


def _fail_attempt(turn: Turn, step: Step, final: StepStatus, failure: program.StepFailure) -> None:
    """An attempt failed: try again, or settle the step as *final*."""
    may_retry = not step.is_dropped and not turn.state.is_stopping
    retry, failed, since = turn.policy(step).retry, step.attempts, step.first_issued_at
    if not may_retry or not turn.arm_retry(
        step, DO, retry, failed=failed, since=since, code=failure.code
    ):
        fail_step(turn, step, final, failure)


def fail_step(turn: Turn, step: Step, status: StepStatus, failure: program.StepFailure) -> None:
    """A step failed for good: tell the program."""
    assert step.status is StepStatus.ISSUED, (turn.state.saga_id, step.id, step.status)
    state = turn.state
    was_dropped = step.is_dropped
    turn.settle(step, status, DO, failure.code, failure.message, details=failure.details)
    if was_dropped or not is_asked(turn):
        return
    is_refused = status is StepStatus.REFUSED
    parks_later = parking.parks_later(turn, step, failure.message)
    if parks_later:
        run(turn, turn.program.hold(step.id, turn.at))
    elif parks_later is None and step.kind is StepKind.RETRIABLE and not state.is_past_pivot:
        parking.park_on(turn, step, failure.message)
    elif parks_later is None:
        run(turn, turn.program.gave_out(step.id, failure, turn.at, is_refused=is_refused))


def _take(
    turn: Turn,
    commands: Sequence[program.Command],
    waits: dict[str, _Last],
) -> None:
    if turn.state.is_past_pivot:
        commands = parking.past_pivot(turn, commands)
    for command in commands:
        match command:  # what is said most comes first: each case before the right one is asked
            case program.DoStep():
                turn.issue_new(command)
            case program.Await():
                waits[command.wait] = command
            case program.Show():
                showing.show(turn, command)
            case program.DropBranch():
                _drop_branch(turn, command, waits)
            case program.Finish() | program.ContinueAsNew():
                assert turn.finish is None, (turn.state.saga_id, command)
                turn.finish = command
            case program.Fail() | program.Park():
                _stop(turn, command)
            case program.Sleep(name, length_us, until):
                length_us = length_us if until is None else max(until - turn.at, 0)
                turn.arm(TimerPurpose.SLEEP, name, length_us)
            case program.LeaveScope():
                turn.left = [*(turn.left or ()), command]
            case program.Refuse() | program.RefuseKept():
                waits[f"/{id(command)}"] = command  # no wait has such a name
            case _:
                _say(turn, command)


def _stop(turn: Turn, command: program.Fail | program.Park) -> None:
    """Roll back, or park where there is no way back or the program wants that."""
    match command:
        case program.Park():
            parking.halt(turn, command)
        case program.Fail() if turn.state.is_past_pivot:
            parking.park(turn, command)
        case program.Fail(reason, code, failed_step):
            rollback.begin_once_settled(turn, reason, code=code, failed_step=failed_step)


def _say(turn: Turn, command: program.Saying) -> None:
    """Record what the program says on its way; nothing comes back to it."""
    match command:
        case program.Publish(name, message):
            contract, payload = message.contract, message.payload
            turn.record(
                intents.EventPublished(publication=name, contract=contract, payload=payload)
            )
        case program.Tell(step, message):
            contract, payload = message.contract, message.payload
            turn.record(intents.IntentTold(step=step, contract=contract, payload=payload))
        case program.TakePatch(patch):
            turn.record(intents.Patched(patch=patch))
        case program.Signal():
            turn.record(_signal(turn, command))
        case program.Answer():
            updates.answer(turn, command)
        case program.Line():
            turn.lines = [*(turn.lines or ()), command]
        case _:
            assert_never(command)


def _signal(turn: Turn, command: program.Signal) -> intents.CommandSent:
    number = f"{runs.prefix(turn.state.run_number)}signal/{command.number}"
    return intents.CommandSent(
        command=MessageId(f"{turn.state.saga_id}/{number}"),
        act=intents.SentAct.SIGNAL,
        saga_id=saga_id(command.definition, command.key),
        definition=command.definition,
        key=command.key,
        name=command.name,
        payload=command.payload,
    )


def _go_on(turn: Turn, waits: _Waits) -> Sequence[program.Command]:
    """Decide the next of what is decided last; what the program asks for behind that."""
    state, command = turn.state, waits.popitem(last=False)[1]
    if type(command) is program.Refuse:
        turn.note(Verdict.REFUSED, command.subject, command.detail)
        return ()
    is_through = turn.finish is not None or state.is_finishing
    if is_through or state.plan is not None or state.is_stopping:
        return ()
    if type(command) is program.RefuseKept:
        waiting.refuse_kept(turn)
        return ()
    assert type(command) is program.Await, command
    return _begin(turn, command, waits, since=0)


def _begin(
    turn: Turn, command: program.Await, waits: _Waits, *, since: int
) -> Sequence[program.Command]:
    """Begin a wait, unless it has to wait for what is held; *since* then it has been put off."""
    if turn.held and waiting.put_off(turn, command, turn.held, since=since):
        return ()
    taken = waiting.begin(turn, command)
    if taken is None:
        return ()
    for name in [name for name, each in waits.items() if type(each) is program.Refuse]:
        waits.move_to_end(name, last=False)
        _go_on(turn, waits)  # it was given before what the program is told now
    return turn.program.arrived(command.wait, taken, turn.at)


def _drop_branch(turn: Turn, command: program.DropBranch, asked: dict[str, _Last]) -> None:
    """*asked* are the waits that the program asks for in this turn."""
    state = turn.state
    for wait in command.waits:
        asked.pop(wait, None)
    # What has failed, and its code was never told, has lost like what is in flight.
    untold = pauses.steps_untold(turn.held)
    dropped = map(state.steps.__getitem__, command.steps)
    steps = [step for step in dropped if step.id in untold or not step.is_dropped]
    timers = {sleep: turn.timer_id(TimerPurpose.SLEEP, sleep) for sleep in command.sleeps}
    sleeps = tuple(sleep for sleep, timer_id in timers.items() if timer_id in state.timers)
    unseen = pauses.forget(turn.held, command)
    waits = tuple(wait for wait in command.waits if wait in state.waited or wait in unseen)
    if not steps and not sleeps and not waits:
        return
    were_holding = any(parking.holds_up(state, step) for step in steps)
    step_ids = tuple(step.id for step in steps)
    turn.record(intents.BranchDropped(steps=step_ids, sleeps=sleeps, waits=waits))
    for step in steps:
        if step.is_backing_off:
            turn.disarm_for(step, DO)
            turn.settle(step, StepStatus.FAILED)
        elif (child := children.child_of(state, step)) is not None and step.status is ISSUED:
            children.cancel(turn, step, child, CancelMode.GRACEFUL, "its parent does not need it")
    if were_holding:
        parking.resume_if_free(turn)
    for sleep in sleeps:
        turn.disarm(timers[sleep])
    for wait in waits:
        turn.disarm(turn.timer_id(TimerPurpose.WAIT, wait))
