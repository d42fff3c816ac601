"""Replay: the same `handle` over a recorded history, every decision compared with the recorded one.

The first difference is raised. What is recorded stands where a difference is allowed: in how long
something may take, in a step's kind, in the steps that it depends on. A history begun before 0.1.0
says less than today's code decides; what it could not say is not missed.
"""

from __future__ import annotations

from collections.abc import Sequence

from saga.core import fold, format_1, intents
from saga.core.decider import RECORDED, Decider, Decision
from saga.core.events import CancelRequested, Event
from saga.core.history import NAME_OF, Entry, turn_bounds
from saga.core.identity import DO, SagaId
from saga.core.intents import Intent
from saga.core.state import SagaState
from saga.core.status import SagaStatus
from saga.errors import ReplayMismatch


def replay(decider: Decider, saga_id: SagaId, entries: Sequence[Entry]) -> SagaState:
    """The state after a whole history; ReplayMismatch where the code at hand decides otherwise."""
    state = decider.initial_state(saga_id)
    bodies = [entry.body for entry in entries]
    for begin, end in turn_bounds(bodies):
        fact = entries[begin]
        if is_without_code(state, fact, entries[begin + 1 : end]):
            take_without_code(state, fact, entries[begin + 1 : end])
            continue
        event = Event(fact.body, fact.at, fact.cause)  # type: ignore[arg-type]  # a turn begins with a fact
        decision = decider.handle(state, event)
        if decision.disposition is not RECORDED:
            raise ReplayMismatch(fact.version, describe(fact.body), decision.disposition.value)
        if decision.intents != bodies[begin + 1 : end]:
            recorded = entries[begin + 1 : end]
            decided: Sequence[Intent] = decision.intents
            is_format_1 = format_1.is_format_1(bodies)
            if is_format_1:
                recorded = sorted(recorded, key=lambda entry: isinstance(entry.body, intents.Noted))
                decided = _as_format_1(decided, decision.state, recorded)
            _compare(fact, decided, recorded)
            _adopt(decision, entries[begin + 1 : end], is_format_1=is_format_1)
        state = decision.state
    return state


def is_abandoned(entries: Sequence[Entry]) -> bool:
    return any(isinstance(entry.body, intents.SagaAbandoned) for entry in entries)


def is_without_code(state: SagaState, fact: Entry, decided: Sequence[Entry]) -> bool:
    """Whether the saga's code had no part in this turn: to abandon a saga does not need it."""
    if state.status is SagaStatus.ABANDONED:
        return True
    return isinstance(fact.body, CancelRequested) and is_abandoned(decided)


def take_without_code(state: SagaState, fact: Entry, decided: Sequence[Entry]) -> None:
    """Give a recorded turn its effect as it stands, and let go of the program."""
    fold.fold_turn(state, fact, decided)
    if state.program is not None:
        state.program.close()
        state.program = None


def describe(body: object) -> str:
    name = NAME_OF[type(body)]
    if isinstance(body, intents.IntentIssued):
        return f"{name} {body.step}/{body.direction.value}/{body.attempt} {body.contract}"
    return name


def _as_format_1(
    decided: Sequence[Intent], state: SagaState, recorded: Sequence[Entry]
) -> list[Intent]:
    """*decided* in the words of format 1, notes last: without what it left unsaid."""
    theirs = [entry.body for entry in recorded if not _is_timer(entry.body)]
    ours: list[Intent] = []
    place = 0
    for intent in sorted(decided, key=lambda intent: isinstance(intent, intents.Noted)):
        then = format_1.as_then(intent)
        if place < len(theirs) and _same(then, theirs[place]):
            place += 1
        elif format_1.may_be_missing(intent, state):
            continue
        ours.append(then)
    return ours


def _compare(fact: Entry, decided: Sequence[Intent], recorded: Sequence[Entry]) -> None:
    ours = [intent for intent in decided if not _is_timer(intent)]
    theirs = [entry for entry in recorded if not _is_timer(entry.body)]
    for intent, entry in zip(ours, theirs, strict=False):
        if not _same(intent, entry.body):
            raise ReplayMismatch(entry.version, _detail(entry.body), _detail(intent))
    if len(ours) < len(theirs):
        entry = theirs[len(ours)]
        raise ReplayMismatch(entry.version, _detail(entry.body), "nothing")
    if len(ours) > len(theirs):
        after = recorded[-1].version if recorded else fact.version
        raise ReplayMismatch(after + 1, "nothing", _detail(ours[len(theirs)]))


def _adopt(decision: Decision, recorded: Sequence[Entry], *, is_format_1: bool) -> None:
    """Let what is recorded stand where it may differ from what was decided."""
    state = decision.state
    for intent in decision.intents:
        if isinstance(intent, intents.TimerArmed):
            fold.apply(state, intents.TimerCancelled(timer_id=intent.timer_id), intent.due_at)
    for entry in recorded:
        body = entry.body
        if isinstance(body, intents.TimerArmed | intents.TimerCancelled):
            fold.apply(state, body, entry.at)
        elif isinstance(body, intents.IntentIssued) and body.direction is DO:
            fold.describe_step(state, body, says_order=not is_format_1)


def _is_timer(body: object) -> bool:
    return isinstance(body, (intents.TimerArmed, intents.TimerCancelled))


def _same(decided: object, recorded: object) -> bool:
    if isinstance(decided, intents.IntentIssued) and isinstance(recorded, intents.IntentIssued):
        # The recorded kind and order stand; they matter to a rollback, which is recorded itself.
        return (decided.step, decided.direction, decided.attempt) == (
            recorded.step,
            recorded.direction,
            recorded.attempt,
        ) and (decided.contract, decided.payload) == (recorded.contract, recorded.payload)
    return decided == recorded


def _detail(body: object) -> str:
    text = describe(body)
    if isinstance(body, intents.IntentIssued):
        return f"{text} {body.payload}"
    return f"{text} {body}"
