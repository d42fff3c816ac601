"""Forward work: the program's commands, the replies to its steps, its sleeps and waits, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from saga.core import rollback
from saga.core.decider import Disposition
from saga.core.events import ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.identity import Direction, TimerId
from saga.core.intents import (
    EventPublished,
    RollbackGoal,
    SignalAwaited,
    TimerPurpose,
    Verdict,
)
from saga.core.program import (
    AwaitSignal,
    Command,
    Disown,
    DoStep,
    Finish,
    GiveUp,
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
    state.key = fact.key
    state.trigger = fact.trigger
    state.traceparent = fact.traceparent
    state.started_at = turn.at
    state.program = turn.definition.program(state.saga_id, fact.key)
    _run(turn, state.program.start(fact.trigger, turn.at))
    return Disposition.RECORDED


def reply(turn: Turn, step: Step, attempt: int, fact: ReplyReceived) -> Disposition:
    """A service answered a step's attempt for the first time."""
    if holds_up(step) and fact.outcome is ReplyOutcome.DONE:
        turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
        step.status = StepStatus.DONE
        _unpark_if_free(turn)
        succeed(turn, step, fact)
        return Disposition.RECORDED
    if step.status is not StepStatus.ISSUED:
        return rollback.late_reply(turn, step, fact)
    if turn.state.status.is_ended:
        turn.note(Verdict.AFTER_END, fact.intent_id, f"the saga is {turn.state.status.value}")
    if fact.outcome is ReplyOutcome.FAILED and (attempt != step.attempts or step.is_backing_off):
        return turn.note(
            Verdict.SUPERSEDED, fact.intent_id, "a later attempt is on its way already"
        )
    turn.disarm_for(step, Direction.DO)
    step.is_backing_off = False
    match fact.outcome:
        case ReplyOutcome.DONE:
            succeed(turn, step, fact)
        case ReplyOutcome.REFUSED:
            _give_out(turn, step, StepStatus.REFUSED, fact.code, fact.message or "refused")
        case ReplyOutcome.FAILED:
            _attempt_failed(turn, step, StepStatus.FAILED, fact.code, fact.message or "failed")
        case _:
            assert_never(fact.outcome)
    return Disposition.RECORDED


def succeed(turn: Turn, step: Step, fact: ReplyReceived) -> None:
    """A step is done."""
    state = turn.state
    step.status = StepStatus.DONE
    step.reply = fact.reply
    step.has_reply = True
    if step.kind is StepKind.PIVOT:
        state.is_past_pivot = True
    if not step.is_disowned:
        _go_on(turn, StepSucceeded(step.id, fact.reply))


def step_due(turn: Turn, step: Step, purpose: TimerPurpose) -> None:
    """A step's deadline has passed, or its next attempt is due."""
    if step.status is not StepStatus.ISSUED:
        return
    if purpose is TimerPurpose.RETRY:
        step.is_backing_off = False
        turn.issue_do(step)
        return
    _attempt_failed(
        turn, step, StepStatus.IN_DOUBT, "timeout", "no reply within the step's deadline"
    )


def slept(turn: Turn, name: str) -> None:
    """A sleep is over."""
    _go_on(turn, Slept(name))


def wait_timed_out(turn: Turn, wait: str) -> None:
    """No signal came in time."""
    _end_wait(turn, wait)
    _go_on(turn, WaitTimedOut(wait))


def signalled(turn: Turn, name: str) -> None:
    """Give the oldest unread signal of *name* to the oldest wait for it, if there are both."""
    state = turn.state
    waits = state.waits.get(name)
    if not waits or _is_settling(state):
        return
    resolution = _next_signal(turn, name, waits[0])
    if resolution is None:
        return
    _end_wait(turn, resolution.wait)
    _go_on(turn, resolution)


def settle(turn: Turn) -> None:
    """End, or begin to roll back, as soon as nothing that matters is in flight any more."""
    state = turn.state
    if not state.is_finishing and state.cancel_reason is None:
        return
    if state.plan is not None:
        return
    if state.status.is_ended or state.is_poisoned:
        return
    in_flight = [step for step in state.steps.values() if step.status is StepStatus.ISSUED]
    if state.cancel_reason is not None:
        if not in_flight:
            rollback.begin(turn, state.cancel_reason, code="cancelled", failed_step=None)
        return
    if any(step.is_disowned and step.undo_retry is not None for step in in_flight):
        return
    if rollback.has_leftovers(state):
        rollback.begin_leftovers(turn)
    else:
        turn.complete()


def retry_now(turn: Turn, step: Step) -> None:
    """Issue the next attempt at once, whatever the policy says."""
    turn.disarm_for(step, Direction.DO)
    step.is_backing_off = False
    was_holding = holds_up(step)
    step.status = StepStatus.ISSUED
    if was_holding:
        _unpark_if_free(turn)
    turn.issue_do(step)


def stop_retrying(turn: Turn, step: Step) -> None:
    """Settle a step that waits for its next attempt: there will be none."""
    turn.disarm_for(step, Direction.DO)
    step.is_backing_off = False
    step.status = StepStatus.FAILED


def holds_up(step: Step) -> bool:
    """Whether a saga that can only go forward has parked because of *step*."""
    return step.status in _GAVE_OUT and not step.is_disowned


def _attempt_failed(
    turn: Turn, step: Step, final: StepStatus, code: str | None, message: str
) -> None:
    may_retry = turn.state.cancel_reason is None and not step.is_disowned
    seed = f"{turn.state.saga_id}/{step.id}/do/{step.attempts}"
    delay_us = step.retry.delay_us(failed_attempts=step.attempts, seed=seed)
    elapsed_us = turn.at + delay_us - step.first_issued_at
    if may_retry and step.retry.allows(
        failed_attempts=step.attempts, elapsed_us=elapsed_us, code=code
    ):
        step.is_backing_off = True
        turn.arm_for(step, Direction.DO, TimerPurpose.RETRY, delay_us)
        return
    _give_out(turn, step, final, code, message)


def _give_out(turn: Turn, step: Step, status: StepStatus, code: str | None, message: str) -> None:
    state = turn.state
    step.status = status
    step.code, step.error = code, message
    must_go_forward = step.kind is StepKind.RETRIABLE or state.is_past_pivot
    if must_go_forward and not step.is_disowned and state.cancel_reason is None:
        turn.park(f"step {step.id} failed for good and there is no way back: {message}")
        return
    was_disowned, step.is_disowned = step.is_disowned, True
    if not was_disowned:
        _go_on(turn, StepGaveOut(step.id, code, message, status is StepStatus.REFUSED))


def _go_on(turn: Turn, resolution: Resolution) -> None:
    state = turn.state
    if _is_settling(state):
        return
    _run(turn, turn.program.resume(resolution, turn.at))


def _is_settling(state: SagaState) -> bool:
    return state.plan is not None or state.is_finishing or state.cancel_reason is not None


def _unpark_if_free(turn: Turn) -> None:
    """The last step to hold up the saga lets it go on."""
    if not any(holds_up(step) for step in turn.state.steps.values()):
        turn.unpark()


def _run(turn: Turn, commands: Sequence[Command]) -> None:
    """Turn commands into intents. Waits come last, when all else that was asked for in the same
    breath is known: what a kept signal leads to may drop some of that.
    """
    state = turn.state
    queue = list(commands)
    waiting: list[AwaitSignal] = []
    while queue or waiting:
        if not queue:
            queue.extend(_await_signal(turn, waiting.pop(0)))
            continue
        command = queue.pop(0)
        match command:
            case DoStep():
                _do(turn, command)
            case Finish():
                state.is_finishing = True
                state.pending_outcome = command.outcome
            case GiveUp():
                _give_up(turn, command)
            case Sleep():
                timer_id = _timer_id(state, TimerPurpose.SLEEP, command.name)
                turn.arm(timer_id, TimerPurpose.SLEEP, command.name, command.length_us)
            case AwaitSignal():
                waiting.append(command)
            case Publish():
                turn.intents.append(
                    EventPublished(
                        publication=command.publication,
                        contract=command.message.contract,
                        payload=command.message.payload,
                    )
                )
            case Disown():
                waiting = [one for one in waiting if one.wait not in command.waits]
                _disown(turn, command)
            case _:
                assert_never(command)


def _do(turn: Turn, command: DoStep) -> None:
    step = Step(
        command.step,
        command.message,
        command.kind,
        command.retry,
        command.timeout_us,
        command.undo_retry,
        command.group,
        turn.at,
    )
    turn.state.steps[command.step] = step
    turn.issue_do(step)


def _await_signal(turn: Turn, command: AwaitSignal) -> Sequence[Command]:
    state = turn.state
    if _is_settling(state):
        return ()
    resolution = _next_signal(turn, command.name, command.wait)
    if resolution is not None:
        return turn.program.resume(resolution, turn.at)
    state.waits.setdefault(command.name, []).append(command.wait)
    turn.intents.append(SignalAwaited(wait=command.wait, name=command.name))
    if command.timeout_us is not None:
        timer_id = _timer_id(state, TimerPurpose.WAIT, command.wait)
        turn.arm(timer_id, TimerPurpose.WAIT, command.wait, command.timeout_us)
    return ()


def _next_signal(turn: Turn, name: str, wait: str) -> Signalled | None:
    """The oldest unread signal that *wait* takes. One that it cannot take is noted and gone."""
    state = turn.state
    unread = state.signals.get(name)
    while unread:
        payload = unread.pop(0)
        if not unread:
            del state.signals[name]
        refusal = turn.program.refusal_of(wait, payload)
        if refusal is None:
            return Signalled(wait, payload)
        turn.note(Verdict.REFUSED, f"signal {name}", refusal)
    return None


def _end_wait(turn: Turn, wait: str) -> None:
    state = turn.state
    for name, waits in list(state.waits.items()):
        if wait in waits:
            waits.remove(wait)
            if not waits:
                del state.waits[name]
    turn.disarm(_timer_id(state, TimerPurpose.WAIT, wait))


def _disown(turn: Turn, command: Disown) -> None:
    for step_id in command.steps:
        step = turn.step(step_id)
        was_holding = holds_up(step)
        step.is_disowned = True
        if step.is_backing_off:
            stop_retrying(turn, step)
        elif was_holding:
            _unpark_if_free(turn)
    for sleep in command.sleeps:
        turn.disarm(_timer_id(turn.state, TimerPurpose.SLEEP, sleep))
    for wait in command.waits:
        _end_wait(turn, wait)


def _give_up(turn: Turn, command: GiveUp) -> None:
    state = turn.state
    if state.is_past_pivot:
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
    return TimerId(f"{state.saga_id}/{name}/{purpose}")
