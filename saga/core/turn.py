"""One turn while it is taken: the state, and the intents decided so far, which it ends as.

Theory of operation: a turn changes its state in two ways only. `take_fact` gives the fact its plain
effect; `record` appends a decision and gives it its effect. Both go through the fold, so the state
after a turn is what its entries say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVarTuple

from saga.core import intents, pauses
from saga.core.decider import RECORDED, Disposition
from saga.core.events import Event, Json, Message, ReplyReceived
from saga.core.fold import EFFECTS, FACT_EFFECTS, know, take_noted, take_reply
from saga.core.identity import DO, UNDO, Direction, Instant, IntentName, StepId, TimerId
from saga.core.intents import Intent, TimerPurpose, Verdict
from saga.core.program import (
    ContinueAsNew,
    Definition,
    DoStep,
    Finish,
    LeaveScope,
    Line,
    Program,
)
from saga.core.renamed_program import RenamedProgram
from saga.core.retry import Retry
from saga.core.state import SagaState, Step, Unarmed, identity_of
from saga.core.status import SagaStatus, StepStatus

Asked = TypeVarTuple("Asked")
_NO_PATCHES: Final[frozenset[str]] = frozenset()
_DEADLINE: Final = TimerPurpose.DEADLINE
_RETRY: Final = TimerPurpose.RETRY
_TIMEOUTS: Final = frozenset({TimerPurpose.DEADLINE, TimerPurpose.WAIT, TimerPurpose.SAGA})
"""What may begin while something is waited for; a sleep or a retry changes what comes when."""


class Turn:
    """What the modules of the kernel share in a turn.

    *finish*: what the program returned in it; *left*: the scopes that it wants to be undone.
    """

    __slots__ = (
        "at",
        "definition",
        "disposition",
        "event",
        "finish",
        "has_taken_fact",
        "held",
        "intents",
        "left",
        "lines",
        "places",
        "program",
        "recorded",
        "state",
    )
    disposition: Disposition

    def __init__(
        self,
        definition: Definition,
        state: SagaState,
        event: Event,
        recorded: Sequence[Intent] | None,
    ) -> None:
        run = state.run
        self.definition = definition if run is None else run.definition or definition
        self.state = state
        self.event = event
        self.recorded = recorded
        self.places: dict[str, int] | None = None
        self.at = event.at
        self.intents: list[Intent] = []
        self.lines: list[Line] | None = None
        self.finish: Finish | ContinueAsNew | None = None
        self.held: deque[pauses.Held] | None = None
        self.left: list[LeaveScope] | None = None
        self.has_taken_fact = False
        # None until the saga has begun, and once it is abandoned; then nothing else asks for it.
        self.program: Program = state.program  # type: ignore[assignment]
        if recorded is not None and state.program is not None:
            is_plain = intents.Patched not in map(type, recorded)
            state.program.patches = _NO_PATCHES if is_plain else _patches_in(recorded)

    def begin(self, program: Program) -> None:
        """Have *program* decide for the saga from here on."""
        migrations = self.state.migrations
        names = None if migrations is None else migrations.names_in(self.state.run_number)
        if names is not None:
            program = RenamedProgram(program, names)
        self.program = self.state.program = program
        if self.recorded is not None:
            program.patches = _patches_in(self.recorded)

    def hold(self) -> None:
        """Tell the program nothing until the saga is resumed."""
        pauses.hold(self.state)
        self.program = self.state.program  # type: ignore[assignment]  # as above

    def policy(self, step: Step) -> DoStep:
        return self.program.policy_of(step.id)

    def take_fact(self) -> None:
        """Give the fact its plain effect, before anything is recorded."""
        self.has_taken_fact = True
        state, event = self.state, self.event
        know(state, event)
        FACT_EFFECTS[type(event.fact)](state, event.fact, event.at)

    def take_reply(self, step: Step, name: IntentName, fact: ReplyReceived) -> None:
        """`take_fact` of an answer whose intent and step are known."""
        self.has_taken_fact = True
        state = self.state
        state.causes[identity_of(self.event)] = None  # `replies` keeps what it says
        take_reply(state, step, name, fact)

    def record(self, intent: Intent) -> None:
        """Decide something: it becomes an entry, and has its effect."""
        self.intents.append(intent)
        EFFECTS[type(intent)](self.state, intent, self.at)

    def restore(self, continued: intents.Continued) -> None:
        """Let the entry with which the history at hand begins have its effect."""
        EFFECTS[intents.Continued](self.state, continued, self.at)

    def refusal(self, ask: Callable[[*Asked], str | None], *asked: *Asked) -> str | None:
        """Why the fact is refused, as it was recorded: else whatever *ask* says now.

        What was accepted once stays so, however strict its contract has become.
        """
        if self.recorded is None:
            return ask(*asked)
        first = self.recorded[0] if self.recorded else None
        if isinstance(first, intents.Noted) and first.verdict is Verdict.REFUSED:
            return first.detail
        return None

    @property
    def version(self) -> int:
        """That of the entry of its fact."""
        return self.state.version + 1

    def recorded_wait(self, wait: str) -> intents.EventAwaited | None:
        """How *wait* began in this turn; None where that is not recorded."""
        number = self._places().get(wait)
        if number is None or self.recorded is None:
            return None
        awaited = self.recorded[number]
        return awaited if isinstance(awaited, intents.EventAwaited) else None

    def recorded_choice(self, wait: str) -> int | None:
        """What *wait*, which began in this turn, took at once; None where it took nothing."""
        behind = self._places()[wait] + 1
        if self.recorded is None or behind >= len(self.recorded):
            return None
        ended = self.recorded[behind]
        if isinstance(ended, intents.WaitEnded) and ended.wait == wait:
            return ended.took
        return None

    def recorded_unfit(
        self, wait: str
    ) -> dict[int | str, intents.UpdateAnswered | intents.ArrivalRefused] | None:
        """What was refused right before *wait* began, by version or update; None: not recorded."""
        number = self._places().get(wait)
        if number is None or self.recorded is None:
            return None
        refused: dict[int | str, intents.UpdateAnswered | intents.ArrivalRefused] = {}
        for decided in reversed(self.recorded[:number]):
            match decided:
                case intents.UpdateAnswered():
                    refused[decided.update] = decided
                case intents.ArrivalRefused():
                    refused[decided.arrived] = decided
                case _:
                    break
        return refused

    def recorded_refusals(self, wait: str) -> list[str] | None:
        """Why kept signals were refused when *wait* began; None where that is not recorded."""
        number = self._places().get(wait)
        if number is None:
            return None
        assert self.recorded is not None, wait
        awaited = self.recorded[number]
        if not isinstance(awaited, intents.SignalAwaited):
            return None  # the code at hand waits for something else
        noted = self.recorded[number + 1 : number + 1 + (awaited.refused or 0)]
        return [note.detail for note in noted if isinstance(note, intents.Noted)]

    def is_same(self, recorded: Message | None, message: Message | None) -> bool:
        """Whether a message says what a recorded one says, as today's contracts read that."""
        if recorded is None or message is None:
            return recorded is message
        return recorded == message or self.definition.contracts.reads_as(recorded, message)

    def is_same_answer(self, recorded: ReplyReceived, fact: ReplyReceived) -> bool:
        return recorded == fact or (
            self.is_same(recorded.reply, fact.reply)
            and (recorded.outcome, recorded.code, recorded.message, recorded.details)
            == (fact.outcome, fact.code, fact.message, fact.details)
        )

    def note(self, verdict: Verdict, subject: str, detail: str) -> Disposition:
        """Record a verdict; before all else in a turn, it keeps the fact from its plain effect."""
        if not self.has_taken_fact:
            self.has_taken_fact = True
            take_noted(self.state, self.event, verdict)
        else:
            assert self.intents, (self.state.saga_id, "a note right behind a fact that was taken")
        self.record(intents.Noted(verdict=verdict, subject=subject, detail=detail))
        return RECORDED

    def note_conflict(self, fact: ReplyReceived) -> Disposition:
        """Record a second, different answer to one intent; the first stands."""
        detail = f"a second, different reply ({fact.outcome.value}); the first one stands"
        return self.note(Verdict.CONFLICTING, fact.intent_id, detail)

    def issue_new(self, command: DoStep) -> None:
        state, after = self.state, command.after
        self.record(
            intents.IntentIssued(
                command.step,
                DO,
                1,
                command.contract,
                command.payload,
                command.kind,
                None if after == state.latest_step else after,
                child=command.is_child,
                scope=command.scope,
            )
        )
        if command.timeout_us is not None:
            self.arm_for(state.steps[command.step], DO, _DEADLINE, command.timeout_us)

    def issue_again(self, step: Step) -> None:
        self._issue(step, DO, step.attempts + 1, Message(step.contract, step.payload))

    def issue_undo(self, step: Step) -> None:
        """Issue the next attempt to undo a step, built from its reply where there is one."""
        undo = self.program.undo_of(step.id, step.reply)
        self._issue(step, UNDO, step.undo_attempts + 1, undo, step.contract)

    def settle(
        self,
        step: Step,
        status: StepStatus,
        direction: Direction = DO,
        code: str | None = None,
        message: str | None = None,
        *,
        details: Json | None = None,
    ) -> None:
        """Say where a step stands, which is not the plain success of a reply."""
        assert step.status is not status, (self.state.saga_id, step.id, status)
        self.record(
            intents.StepSettled(
                step=step.id,
                status=status,
                direction=direction,
                code=code,
                message=message,
                details=details,
            )
        )

    def arm_retry(
        self,
        step: Step,
        direction: Direction,
        policy: Retry,
        *,
        failed: int,
        since: Instant,
        code: str | None,
    ) -> bool:
        """Have a step tried again when *policy* says, after *failed* attempts; False if never."""
        attempt = step.attempts if direction is DO else step.undo_attempts
        seed = f"{self.state.saga_id}/{_target(step, direction)}/{attempt}"
        delay_us = policy.delay_us(failed_attempts=failed, seed=seed)
        elapsed_us = self.at + delay_us - since
        if not policy.allows(failed_attempts=failed, elapsed_us=elapsed_us, code=code):
            return False
        self.arm_for(step, direction, TimerPurpose.RETRY, delay_us)
        return True

    def arm_for(
        self, step: Step, direction: Direction, purpose: TimerPurpose, delay_us: int
    ) -> None:
        """Arm the deadline or the retry of a step's latest attempt."""
        attempt = step.attempts if direction is DO else step.undo_attempts
        target = _target(step, direction)
        self.arm(purpose, f"{target}/{attempt}", delay_us, target)

    def arm(
        self, purpose: TimerPurpose, name: str, delay_us: int, target: str | None = None
    ) -> None:
        """Arm the timer of this purpose and name, which are used once."""
        due_at = Instant(self.at + delay_us)
        timer = intents.TimerArmed(self.timer_id(purpose, name), due_at, purpose, target or name)
        if self.recorded is None:
            self.record(timer)
        else:
            self._arm_as_recorded(timer, delay_us)

    def arm_unarmed(self) -> None:
        """Arm the timeouts that only the code at hand has."""
        unarmed, self.state.unarmed = self.state.unarmed, {}
        for timer, length_us in ((each.timer, each.length_us) for each in unarmed.values()):
            armed = replace(timer, due_at=Instant(self.at + length_us))
            if self.recorded is None:
                self.record(armed)
            else:
                self._arm_as_recorded(armed, length_us)

    def timer_id(self, purpose: TimerPurpose, name: str) -> TimerId:
        # Put together with `+`: to format an enum's member takes three times as long.
        return TimerId(f"{self.state.saga_id}/{name}/" + purpose)

    def disarm_for(self, step: Step, direction: Direction) -> None:
        if self.state.timers:
            attempt = step.attempts if direction is DO else step.undo_attempts
            name = f"{_target(step, direction)}/{attempt}"
            # Timers of an earlier attempt were disarmed, or had fired, when that one ended.
            self.disarm(self.timer_id(_DEADLINE, name))
            self.disarm(self.timer_id(_RETRY, name))

    def disarm(self, timer_id: TimerId) -> None:
        if timer_id in self.state.timers:
            self.record(intents.TimerCancelled(timer_id))

    def disarm_all(self) -> None:
        for timer_id in list(self.state.timers):
            self.disarm(timer_id)

    def park(self, reason: str, step: Step | None = None) -> None:
        """Stop and wait for someone; *step* is the failed one that has to be tried again."""
        self.record(intents.SagaParked(reason=reason, step=None if step is None else step.id))

    def resume(self) -> None:
        """Go back to where the saga stood when it parked, if it is parked."""
        if self.state.status is SagaStatus.PARKED:
            assert not self.state.is_poisoned, self.state.saga_id
            self.record(intents.SagaResumed())

    def complete(self, outcome: Message | None, residue: tuple[StepId, ...] = ()) -> None:
        self.disarm_all()
        self.record(intents.SagaCompleted(outcome, residue or None))
        self.note_unread()

    def note_unread(self) -> None:
        """Right behind the saga's end: say what nobody had read by then, and answer updates."""
        # In releases before this one an end said nothing of what was not read.
        if self.recorded is None or any(map(_is_unread, self.recorded)):
            for channel, kept in self.state.kept.items():
                detail = f"nobody had read it at the end ({len(kept)} in all)"
                self.note(Verdict.UNREAD, f"{channel.kind.value} {channel.name}", detail)
        self._end_updates()

    def end_late_updates(self) -> None:
        """Answer what was asked while the saga did something behind its end."""
        # In releases before this one nobody did.
        if self.recorded is None or any(map(_is_answer, self.recorded)):
            self._end_updates()

    def _end_updates(self) -> None:
        message = f"the saga is {self.state.status.value}"
        updates = self.state.updates or {}
        for update in [each for each, is_open in updates.items() if is_open]:
            self.record(
                intents.UpdateAnswered(update=update, code=intents.UPDATE_ENDED, message=message)
            )

    def _arm_as_recorded(self, timer: intents.TimerArmed, length_us: int) -> None:
        """Arm it as long as it was armed then; a timeout that was not is for a live turn to arm."""
        assert self.recorded is not None, timer
        number = self._places().get(timer.timer_id)
        if number is not None:
            self.record(self.recorded[number])
        elif timer.purpose in _TIMEOUTS:
            self.state.unarmed[timer.timer_id] = Unarmed(timer, length_us)
        else:
            self.record(timer)

    def _places(self) -> dict[str, int]:
        """Where in what was recorded each timer was armed and each wait began, by their ids."""
        if self.places is None:
            places: dict[str, int] = {}
            for number, entry in enumerate(self.recorded or ()):
                if isinstance(entry, intents.TimerArmed):
                    places.setdefault(entry.timer_id, number)
                elif isinstance(entry, intents.SignalAwaited | intents.EventAwaited):
                    places.setdefault(entry.wait, number)
            self.places = places
        return self.places

    def _issue(
        self,
        step: Step,
        direction: Direction,
        attempt: int,
        message: Message,
        undoes: str | None = None,
    ) -> None:
        self.record(
            intents.IntentIssued(
                step=step.id,
                direction=direction,
                attempt=attempt,
                contract=message.contract,
                payload=message.payload,
                kind=step.kind,
                undoes=undoes,
                scope=step.scope,
                child=self.state.children is not None and step.id in self.state.children,
            )
        )
        timeout_us = self.policy(step).timeout_us
        if timeout_us is not None:
            self.arm_for(step, direction, _DEADLINE, timeout_us)


def _patches_in(recorded: Sequence[Intent]) -> frozenset[str]:
    """What a program may take, so that it takes the path that was taken then."""
    return frozenset([each.patch for each in recorded if type(each) is intents.Patched])


def _is_unread(decided: Intent) -> bool:
    return isinstance(decided, intents.Noted) and decided.verdict is Verdict.UNREAD


def _is_answer(decided: Intent) -> bool:
    return isinstance(decided, intents.UpdateAnswered)


def _target(step: Step, direction: Direction) -> str:
    return step.id + "/" + direction
