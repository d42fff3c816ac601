"""What a history says of steps, read by this module alone: a second reading beside the engine's.

It knows which replies were first, what was in flight when something was issued, and what of a step
may still be there. Nothing of `saga.core.fold` or `saga.core.plans` is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from saga.core import events, intents
from saga.core.events import Act, ChildStatus, MarkedAs, ReplyOutcome
from saga.core.history import Entry, RecordedTurn, turns
from saga.core.identity import DO, UNDO, parse_intent_id
from saga.core.intents import RollbackGoal, Verdict
from saga.core.status import StepKind, StepStatus

ENDS: Final = (intents.SagaCompleted, intents.SagaRolledBack, intents.SagaAbandoned)
NO_EFFECT: Final = frozenset({StepKind.READ_ONLY, StepKind.HARMLESS})
_SAID = {
    ChildStatus.COMPLETED: ReplyOutcome.DONE,
    ChildStatus.ROLLED_BACK: ReplyOutcome.REFUSED,
    ChildStatus.REFUSED: ReplyOutcome.REFUSED,
    ChildStatus.ROLLED_BACK_WITH_RESIDUE: ReplyOutcome.FAILED,
    ChildStatus.ABANDONED: ReplyOutcome.FAILED,
}


@dataclass
class Known:
    """What is known of one step; moments are versions of entries, 0 where it never was."""

    id: str
    kind: StepKind
    is_child: bool
    issued: list[int] = field(default_factory=list)
    undos: list[int] = field(default_factory=list)
    """When each attempt to undo it was issued."""
    done: int = 0
    """When it was first known that it is done."""
    refused: int = 0
    undone: int = 0
    stuck: int = 0
    skipped: int = 0
    settled: int = 0
    """Since when it is in flight no more; 0 while it is."""
    failed: int = 0
    """Since when its code may know that it failed, or missed its deadline; 0 where it did not."""
    is_held: bool = False
    """The saga has parked on it, so it is to be tried again: its code does not know."""

    @property
    def has_effect(self) -> bool:
        """Whether something may be left that matters, had nobody undone it."""
        return self.kind not in NO_EFFECT and (bool(self.done) or not self.refused)

    @property
    def is_undone(self) -> bool:
        return bool(self.undone)

    @property
    def has_rested(self) -> int:
        """When its undo held up no other any more, at first; 0 where that has not come."""
        return min(filter(None, (self.undone, self.skipped)), default=0)


@dataclass
class Plan:
    recorded: intents.RollbackPlanned
    at: int
    steps: list[str]


class Record:
    """A history as far as it was read, entry by entry."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.steps: dict[str, Known] = {}
        self.plans: list[Plan] = []
        self.dropped: dict[str, int] = {}
        self.run = 1
        self.is_paused = False
        self._since: set[str] = set()
        """The steps that were settled while the saga was paused: its program is not told yet."""
        self._answered: set[tuple[str, str, int]] = set()
        self.version = 0
        for turn in turns(entries):
            self.read(turn)

    def read(self, turn: RecordedTurn) -> None:
        self.begin(turn)
        for number, body in enumerate(turn.decided):
            self.decide(turn.version + 1 + number, body)

    def begin(self, turn: RecordedTurn) -> None:
        """Read the fact of a turn, with what was made of it at once."""
        self.version = turn.version
        first = turn.decided[0] if turn.decided else None
        verdict = first.verdict if isinstance(first, intents.Noted) else None
        fact = turn.event.fact
        match fact:
            case events.ReplyReceived() if verdict is not Verdict.REFUSED:
                self._reply(fact.intent_id, fact.outcome)
            case events.ChildEnded() if verdict is not Verdict.CONFLICTING:
                name = parse_intent_id(fact.intent_id)
                is_undo = name is not None and name.direction is UNDO
                said = _SAID[fact.status]
                if is_undo:
                    is_rolled_back = fact.status is ChildStatus.ROLLED_BACK
                    said = ReplyOutcome.DONE if is_rolled_back else ReplyOutcome.REFUSED
                self._reply(fact.intent_id, said)
            case events.OperatorActed(act=Act.MARK) if verdict is None:
                self._mark(fact)
            case events.Paused() if verdict is None:
                self.is_paused = True
            case events.Resumed() if verdict is None:
                self.is_paused = False
            case _:
                pass

    def decide(self, version: int, body: object) -> None:
        self.version = version
        match body:
            case intents.IntentIssued(direction=direction) if direction is DO:
                known = self.steps.setdefault(body.step, Known(body.step, body.kind, body.child))
                known.issued.append(version)
                known.settled = known.failed = 0
                known.is_held = False
            case intents.IntentIssued():
                self.steps[body.step].undos.append(version)
            case intents.StepSettled():
                self._settle(self.steps[body.step], body)
            case intents.SagaParked(step=str() as step):
                self.steps[step].failed = 0
                self.steps[step].is_held = True
            case intents.BranchDropped():
                self.dropped |= dict.fromkeys(body.steps, version)
            case intents.RollbackPlanned():
                self.plans.append(Plan(body, version, [undo.step for undo in body.steps]))
            case intents.UndoAppended() if self.plans:
                self.plans[-1].steps.append(body.step)
            case intents.Continued():
                self.run = body.run
                self.steps, self.plans, self.dropped = {}, [], {}
            case _:
                pass

    def told_of(self) -> list[str]:
        """The steps that are settled, as the saga's code knows it: of losers it knows no more."""
        return [
            step.id
            for step in self.steps.values()
            if step.settled and not step.is_held
            if step.id not in self._since and step.id not in self.dropped
        ]

    def tell(self) -> None:
        """The saga's code knows now what was settled in a pause."""
        if not self.is_paused:
            self._since.clear()

    def left(self) -> set[str]:
        """The steps of which something may be left."""
        return {step.id for step in self.steps.values() if step.has_effect and not step.is_undone}

    def _reply(self, intent: str, outcome: ReplyOutcome) -> None:
        name = parse_intent_id(intent)
        step = None if name is None else self.steps.get(name.step)
        if name is None or step is None:
            return
        attempt = (name.step, name.direction.value, name.attempt)
        # A child that completes after it was said to be refused has to be undone all the same.
        if attempt in self._answered and not (step.is_child and outcome is ReplyOutcome.DONE):
            return
        self._answered.add(attempt)
        if name.direction is DO:
            if outcome is ReplyOutcome.DONE:
                self._done(step)
            elif outcome is ReplyOutcome.REFUSED:
                step.refused = step.refused or self.version
        elif outcome is ReplyOutcome.DONE and (
            step.is_child or step.undos[name.attempt - 1] > step.done
        ):
            step.undone = step.undone or self.version

    def _done(self, step: Known) -> None:
        """It is done; what was undone before it was known that it was is to be undone again."""
        if not step.done:
            step.done = self.version
            if step.undos and step.undone and not step.is_child:
                step.undone = 0
        self._end(step)

    def _mark(self, fact: events.OperatorActed) -> None:
        step = self.steps[fact.step or ""]
        if fact.state is MarkedAs.DONE:
            self._done(step)
        else:
            step.undone = step.undone or self.version

    def _settle(self, step: Known, body: intents.StepSettled) -> None:
        if body.direction is DO:
            if body.status is StepStatus.UNDONE:
                step.undone = self.version  # a child that has ended rolled back
            elif body.status is StepStatus.SKIPPED:
                step.skipped = self.version  # a child that has left something
            if body.status is not StepStatus.DONE:
                step.failed = step.failed or self.version
            self._end(step)
        elif body.status is StepStatus.UNDO_STUCK:
            step.stuck = self.version
        elif body.status is StepStatus.SKIPPED:
            step.skipped = self.version

    def _end(self, step: Known) -> None:
        step.is_held = False
        step.settled = step.settled or self.version
        if self.is_paused:
            self._since.add(step.id)


def without_run(step: str) -> str:
    """The id of a step as its author knows it: from the second run on it begins with the run."""
    run, dot, rest = step.partition(".")
    return rest if dot and run.isdigit() else step


def bodies(course_history: Sequence[Entry], kind: type) -> list[tuple[int, object]]:
    """The recorded decisions or facts of a kind, each with its version."""
    return [(entry.version, entry.body) for entry in course_history if isinstance(entry.body, kind)]


def is_own(plan: intents.RollbackPlanned) -> bool:
    """Whether the saga itself is rolled back by it."""
    return plan.goal is RollbackGoal.ROLLED_BACK
