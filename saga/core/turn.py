"""One turn while it is taken: the state it changes and the intents it has decided so far."""

from __future__ import annotations

from saga.core.decider import Disposition
from saga.core.events import Event, ReplyReceived
from saga.core.identity import Direction, Instant, StepId, TimerId
from saga.core.intents import (
    Intent,
    IntentIssued,
    Noted,
    SagaCompleted,
    SagaParked,
    TimerArmed,
    TimerCancelled,
    TimerPurpose,
    Verdict,
)
from saga.core.program import Definition, Program
from saga.core.state import SagaState, Step
from saga.core.status import SagaStatus, can_become


class Turn:
    """The verbs that the rooms of the kernel share."""

    __slots__ = ("at", "definition", "event", "intents", "state")

    def __init__(self, definition: Definition, state: SagaState, event: Event) -> None:
        self.definition = definition
        self.state = state
        self.event = event
        self.at = event.at
        self.intents: list[Intent] = []

    @property
    def program(self) -> Program:
        """The program of a saga that has begun."""
        program = self.state.program
        assert program is not None, self.state.saga_id
        return program

    def step(self, step_id: str) -> Step:
        """The step of this id, which must have been issued."""
        return self.state.steps[StepId(step_id)]

    def become(self, status: SagaStatus) -> None:
        """Change the saga's status, by the table."""
        before = self.state.status
        if before is not status:
            assert can_become(before, status), (self.state.saga_id, before, status)
            self.state.status = status

    def issue_do(self, step: Step) -> None:
        """Issue the next attempt of a step."""
        step.attempts += 1
        self.intents.append(
            IntentIssued(
                step=step.id,
                direction=Direction.DO,
                attempt=step.attempts,
                contract=step.message.contract,
                payload=step.message.payload,
                kind=step.kind,
                group=step.group,
            )
        )
        if step.timeout_us is not None:
            self.arm_for(step, Direction.DO, TimerPurpose.DEADLINE, step.timeout_us)

    def issue_undo(self, step: Step) -> None:
        """Issue the next attempt to undo a step, built from its reply where there is one."""
        message = self.program.undo_of(step.id, step.reply)
        step.undo_attempts += 1
        step.is_undo_blind = not step.has_reply
        self.intents.append(
            IntentIssued(
                step=step.id,
                direction=Direction.UNDO,
                attempt=step.undo_attempts,
                contract=message.contract,
                payload=message.payload,
                kind=step.kind,
                undoes=step.message.contract,
            )
        )
        if step.timeout_us is not None:
            self.arm_for(step, Direction.UNDO, TimerPurpose.DEADLINE, step.timeout_us)

    def arm_for(
        self, step: Step, direction: Direction, purpose: TimerPurpose, delay_us: int
    ) -> None:
        """Arm the deadline or the retry of a step's latest attempt."""
        attempt = step.attempts if direction is Direction.DO else step.undo_attempts
        target = f"{step.id}/{direction}"
        timer_id = TimerId(f"{self.state.saga_id}/{target}/{attempt}/{purpose}")
        self.arm(timer_id, purpose, target, delay_us)

    def arm(self, timer_id: TimerId, purpose: TimerPurpose, target: str, delay_us: int) -> None:
        """Arm a timer under an id that is used once."""
        timer = TimerArmed(
            timer_id=timer_id,
            due_at=Instant(self.at + delay_us),
            purpose=purpose,
            target=target,
        )
        self.state.timers[timer_id] = timer
        self.intents.append(timer)

    def disarm_for(self, step: Step, direction: Direction) -> None:
        """Cancel whatever timer the step has armed."""
        timers = self.state.timers
        if timers:
            target = f"{step.id}/{direction}"
            for timer in [timer for timer in timers.values() if timer.target == target]:
                self.disarm(timer.timer_id)

    def disarm(self, timer_id: TimerId) -> None:
        """Cancel a timer if it is armed."""
        if self.state.timers.pop(timer_id, None) is not None:
            self.intents.append(TimerCancelled(timer_id=timer_id))

    def disarm_all(self) -> None:
        """Cancel every timer of the saga."""
        for timer_id in list(self.state.timers):
            self.disarm(timer_id)

    def park(self, reason: str) -> None:
        """Stop and wait for someone."""
        state = self.state
        if state.status is not SagaStatus.PARKED:
            state.before_parking = (state.status, state.reason)
        state.reason = reason
        self.become(SagaStatus.PARKED)
        self.intents.append(SagaParked(reason=reason))

    def unpark(self) -> None:
        """Go back to where the saga stood when it parked, if it is parked."""
        if self.state.status is SagaStatus.PARKED:
            status, self.state.reason = self.state.before_parking
            self.become(status)

    def complete(self) -> None:
        """Record the end of a program that has returned."""
        self.disarm_all()
        self.state.outcome = self.state.pending_outcome
        self.become(SagaStatus.COMPLETED)
        self.intents.append(SagaCompleted(outcome=self.state.outcome))

    def note(self, verdict: Verdict, subject: str, detail: str) -> Disposition:
        """Record that something arrived and what was made of it."""
        self.intents.append(Noted(verdict=verdict, subject=subject, detail=detail))
        return Disposition.RECORDED

    def note_conflict(self, fact: ReplyReceived) -> Disposition:
        """Record a second, different answer to one intent; the first stands."""
        return self.note(
            Verdict.CONFLICTING,
            fact.intent_id,
            f"a second, different reply ({fact.outcome.value}); the first one stands",
        )
