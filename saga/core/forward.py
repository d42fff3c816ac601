"""Forward work: the program's commands, the replies to its steps, its sleeps and waits, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from saga.core import rollback
from saga.core.decider import Disposition
from saga.core.events import Json, ReplyOutcome, ReplyReceived, SagaStarted, SignalReceived
from saga.core.identity import Direction, TimerId
from saga.core.intents import (
    BranchDropped,
    EventPublished,
    RollbackGoal,
    SagaFinishing,
    SignalAwaited,
    TimerPurpose,
    Verdict,
)
from saga.core.program import (
    AwaitSignal,
    Command,
    DoStep,
    DropBranch,
    Fail,
    Finish,
    Publish,
    Resolution,
    Signalled,
    Sleep,
    Slept,
    StepGaveOut,
    StepSucceeded,
    WaitTimedOut,
)
from saga.core.state import SagaState, Step
from saga.core.status import StepKind, StepStatus
from saga.core.turn import Turn

_GAVE_OUT = frozenset({StepStatus.FAILED, StepStatus.REFUSED, StepStatus.IN_DOUBT})


def start(turn: Turn, fact: SagaStarted) -> Disposition:
    """The trigger: begin the program, or recognise a repeat of it."""
    state = turn.state
    if state.is_started:
        return Disposition.DUPLICATE if state.trigger == fact.trigger else Disposition.CONFLICT
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "trigger", "abandoned before it had begun")
    turn.take_fact()
    turn.begin(turn.definition.program(state.saga_id, fact.key))
    _run(turn, turn.program.start(fact.trigger, turn.at))
    return Disposition.RECORDED


def reply(turn: Turn, step: Step, attempt: int, fact: ReplyReceived) -> Disposition:
    """A service answered a step's attempt for the first time."""
    state = turn.state
    if step.status is not StepStatus.ISSUED:
        if fact.outcome is ReplyOutcome.DONE and holds_up(state, step):
            return _succeed_at_last(turn, step, fact)
        return rollback.late_reply(turn, step, fact)
    if state.status.is_ended:
        turn.note(Verdict.AFTER_END, fact.intent_id, f"the saga is {state.status.value}")
    if fact.outcome is ReplyOutcome.FAILED and (attempt != step.attempts or step.is_backing_off):
        return turn.note(
            Verdict.SUPERSEDED, fact.intent_id, "a later attempt is on its way already"
        )
    if not turn.has_taken_fact:
        turn.take_fact()
    match fact.outcome:
        case ReplyOutcome.DONE:
            _succeed(turn, step, fact)
        case ReplyOutcome.REFUSED:
            turn.disarm_for(step, Direction.DO)
            _fail_step(turn, step, StepStatus.REFUSED, fact.code, fact.message or "refused")
        case ReplyOutcome.FAILED:
            turn.disarm_for(step, Direction.DO)
            _fail_attempt(turn, step, StepStatus.FAILED, fact.code, fact.message or "failed")
        case _:
            assert_never(fact.outcome)
    return Disposition.RECORDED


def step_due(turn: Turn, step: Step, purpose: TimerPurpose) -> None:
    """A step's deadline has passed, or its next attempt is due."""
    if step.status is not StepStatus.ISSUED:
        return
    if purpose is TimerPurpose.RETRY:
        turn.issue_again(step)
        return
    message = "no reply within the step's deadline"
    _fail_attempt(turn, step, StepStatus.IN_DOUBT, "timeout", message)


def slept(turn: Turn, name: str) -> None:
    """A sleep is over."""
    _go_on(turn, Slept(name))


def wait_timed_out(turn: Turn, wait: str) -> None:
    """No signal came in time."""
    _go_on(turn, WaitTimedOut(wait))


def signalled(turn: Turn, fact: SignalReceived) -> Disposition:
    """Give a signal to the oldest wait for its name, or keep it until there is one."""
    waits = turn.state.waits.get(fact.name)
    if not waits:
        turn.take_fact()
        return Disposition.RECORDED
    wait = waits[0]
    refusal = turn.program.refusal_of(wait, fact.payload)
    if refusal is not None:
        return turn.note(Verdict.REFUSED, f"signal {fact.name}", refusal)
    turn.take_fact()
    turn.disarm(_timer_id(turn.state, TimerPurpose.WAIT, wait))
    _go_on(turn, Signalled(wait, fact.payload))
    return Disposition.RECORDED


def settle(turn: Turn) -> None:
    """End a saga whose program is through or cancelled, once nothing that matters is in flight."""
    state = turn.state
    if state.plan is not None or state.status.is_ended or state.is_poisoned:
        return
    in_flight = [step for step in state.steps.values() if step.status is StepStatus.ISSUED]
    if state.cancel_reason is not None:
        if not in_flight:
            rollback.begin(turn, state.cancel_reason, code="cancelled", failed_step=None)
        return
    has_to_wait = any(step.is_dropped and rollback.has_undo(turn, step) for step in in_flight)
    has_leftovers = rollback.has_leftovers(turn)
    if not has_to_wait and not has_leftovers:
        turn.complete(turn.finish.outcome if turn.finish is not None else state.pending_outcome)
        return
    if turn.finish is not None:
        turn.record(SagaFinishing(outcome=turn.finish.outcome))
    if not has_to_wait:
        rollback.begin_leftovers(turn)


def retry_now(turn: Turn, step: Step) -> None:
    """Issue the next attempt at once, whatever the policy says."""
    turn.disarm_for(step, Direction.DO)
    if holds_up(turn.state, step):
        _resume_if_free(turn, released=step)
    turn.issue_again(step)


def stop_retrying(turn: Turn, step: Step) -> None:
    """Settle a step that waits for its next attempt: there will be none."""
    turn.disarm_for(step, Direction.DO)
    turn.settle(step, StepStatus.FAILED)


def holds_up(state: SagaState, step: Step) -> bool:
    """Whether a saga that can only go forward has parked because of *step*."""
    if step.status not in _GAVE_OUT or step.is_dropped:
        return False
    return state.plan is None and not state.status.is_ended


def _succeed(turn: Turn, step: Step, fact: ReplyReceived) -> None:
    turn.disarm_for(step, Direction.DO)
    if step.status is not StepStatus.DONE:
        # The saga has ended, so that the reply was noted and is told apart.
        turn.settle(step, StepStatus.DONE)
    if not step.is_dropped:
        _go_on(turn, StepSucceeded(step.id, fact.reply))


def _succeed_at_last(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    """The step on which a saga has parked is done after all."""
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
    turn.settle(step, StepStatus.DONE)
    _resume_if_free(turn)
    _go_on(turn, StepSucceeded(step.id, fact.reply))
    return Disposition.RECORDED


def _fail_attempt(
    turn: Turn, step: Step, final: StepStatus, code: str | None, message: str
) -> None:
    """An attempt failed: try again, or settle the step as *final*."""
    retry = turn.policy(step).retry
    may_retry = turn.state.cancel_reason is None and not step.is_dropped
    seed = f"{turn.state.saga_id}/{step.id}/do/{step.attempts}"
    delay_us = retry.delay_us(failed_attempts=step.attempts, seed=seed)
    elapsed_us = turn.at + delay_us - step.first_issued_at
    if may_retry and retry.allows(failed_attempts=step.attempts, elapsed_us=elapsed_us, code=code):
        turn.arm_for(step, Direction.DO, TimerPurpose.RETRY, delay_us)
    else:
        _fail_step(turn, step, final, code, message)


def _fail_step(turn: Turn, step: Step, status: StepStatus, code: str | None, message: str) -> None:
    """A step failed for good: tell the program, or park where there is no way back."""
    assert step.status is StepStatus.ISSUED, (turn.state.saga_id, step.id, step.status)
    state = turn.state
    was_dropped = step.is_dropped
    turn.settle(step, status, code=code, message=message)
    must_go_forward = step.kind is StepKind.RETRIABLE or state.is_past_pivot
    if must_go_forward and not was_dropped and state.cancel_reason is None:
        reason = f"step {step.id} failed for good and there is no way back: {message}"
        turn.park(reason, step)
    elif not was_dropped:
        _go_on(turn, StepGaveOut(step.id, code, message, status is StepStatus.REFUSED))


def _go_on(turn: Turn, resolution: Resolution) -> None:
    state = turn.state
    # `_is_settling`, written out: this is where every reply passes.
    if state.plan is None and state.cancel_reason is None and not state.is_finishing:
        assert turn.finish is None, (state.saga_id, resolution)
        _run(turn, turn.program.resume(resolution, turn.at))


def _is_settling(turn: Turn) -> bool:
    """Whether the program is not asked any more."""
    state = turn.state
    is_through = turn.finish is not None or state.is_finishing
    return is_through or state.plan is not None or state.cancel_reason is not None


def _resume_if_free(turn: Turn, released: Step | None = None) -> None:
    """The last step to hold up the saga lets it go on."""
    state = turn.state
    if not any(holds_up(state, step) for step in state.steps.values() if step is not released):
        turn.resume()


def _run(turn: Turn, commands: Sequence[Command]) -> None:
    """Turn commands into intents.

    Waits come last, when all else that was asked for in the same breath is known: what a kept
    signal leads to may drop some of that.
    """
    queue = list(commands)
    waiting: list[AwaitSignal] = []
    while queue or waiting:
        if not queue:
            queue.extend(_await_signal(turn, waiting.pop(0)))
            continue
        command = queue.pop(0)
        match command:
            case DoStep():
                turn.issue_new(command)
            case Finish():
                assert turn.finish is None, (turn.state.saga_id, command)
                turn.finish = command
            case Fail():
                _fail(turn, command)
            case Sleep():
                timer_id = _timer_id(turn.state, TimerPurpose.SLEEP, command.name)
                turn.arm(timer_id, TimerPurpose.SLEEP, command.name, command.length_us)
            case AwaitSignal():
                waiting.append(command)
            case Publish():
                _publish(turn, command)
            case DropBranch():
                waiting = [wait for wait in waiting if wait.wait not in command.waits]
                _drop_branch(turn, command)
            case _:
                assert_never(command)


def _publish(turn: Turn, command: Publish) -> None:
    turn.record(
        EventPublished(
            publication=command.publication,
            contract=command.message.contract,
            payload=command.message.payload,
        )
    )


def _await_signal(turn: Turn, command: AwaitSignal) -> Sequence[Command]:
    if _is_settling(turn):
        return ()
    kept, refusals = _choose(turn, command)
    turn.record(SignalAwaited(wait=command.wait, name=command.name, refused=len(refusals) or None))
    for refusal in refusals:
        turn.note(Verdict.REFUSED, f"signal {command.name}", refusal)
    if kept is not None:
        return turn.program.resume(Signalled(command.wait, kept), turn.at)
    if command.timeout_us is not None:
        timer_id = _timer_id(turn.state, TimerPurpose.WAIT, command.wait)
        turn.arm(timer_id, TimerPurpose.WAIT, command.wait, command.timeout_us)
    return ()


def _choose(turn: Turn, command: AwaitSignal) -> tuple[Json | None, list[str]]:
    """The oldest kept signal that a wait takes, and why it does not take those before it."""
    refusals: list[str] = []
    for payload in turn.state.signals.get(command.name, ()):
        refusal = turn.program.refusal_of(command.wait, payload)
        if refusal is None:
            return payload, refusals
        refusals.append(refusal)
    return None, refusals


def _drop_branch(turn: Turn, command: DropBranch) -> None:
    state = turn.state
    steps = [state.steps[step_id] for step_id in command.steps]
    steps = [step for step in steps if not step.is_dropped]
    timers = {sleep: _timer_id(state, TimerPurpose.SLEEP, sleep) for sleep in command.sleeps}
    sleeps = tuple(sleep for sleep, timer_id in timers.items() if timer_id in state.timers)
    open_waits = {wait for waits in state.waits.values() for wait in waits}
    waits = tuple(wait for wait in command.waits if wait in open_waits)
    if not steps and not sleeps and not waits:
        return
    were_holding = any(holds_up(state, step) for step in steps)
    step_ids = tuple(step.id for step in steps)
    turn.record(BranchDropped(steps=step_ids, sleeps=sleeps, waits=waits))
    for step in steps:
        if step.is_backing_off:
            stop_retrying(turn, step)
    if were_holding:
        _resume_if_free(turn)
    for sleep in sleeps:
        turn.disarm(timers[sleep])
    for wait in waits:
        turn.disarm(_timer_id(state, TimerPurpose.WAIT, wait))


def _fail(turn: Turn, command: Fail) -> None:
    if turn.state.is_past_pivot:
        turn.park(f"past its pivot, so it can only go forward: {command.reason}")
        return
    rollback.begin(
        turn,
        command.reason,
        code=command.code,
        failed_step=command.failed_step,
        goal=RollbackGoal.ROLLED_BACK,
    )


def _timer_id(state: SagaState, purpose: TimerPurpose, name: str) -> TimerId:
    return TimerId(f"{state.saga_id}/{name}/" + purpose)
