"""Replay: the same `handle` over a recorded history, with every decision compared to the recorded
one.

Timers are the exception: the recorded time of a timer stands, and a policy that changed only how
long something may take does not make a history differ. Everything else must be equal, entry by
entry; the first difference is raised and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from saga.core.decider import Decider, Disposition
from saga.core.events import Event, Fact
from saga.core.history import FACTS, NAME_OF, Entry
from saga.core.identity import SagaId
from saga.core.intents import Intent, IntentIssued, TimerArmed, TimerCancelled
from saga.core.state import SagaState
from saga.errors import ReplayMismatch


def replay(decider: Decider, saga_id: SagaId, entries: Sequence[Entry]) -> SagaState:
    """The state after *entries*, which are a whole history in order.

    Raises:
        ReplayMismatch: the code at hand decides otherwise.
    """
    state = decider.initial_state(saga_id)
    bodies = [entry.body for entry in entries]
    for begin, end in _bounds(bodies):
        fact = entries[begin]
        event = Event(fact.body, fact.at, fact.cause)  # type: ignore[arg-type]  # a turn begins with a fact
        decision = decider.handle(state, event)
        if decision.disposition is not Disposition.RECORDED:
            raise ReplayMismatch(fact.version, describe(fact.body), decision.disposition.value)
        if decision.intents != bodies[begin + 1 : end]:
            recorded = entries[begin + 1 : end]
            _compare(fact, decision.intents, recorded)
            _adopt_timers(decision.intents, recorded, decision.state)
        state = decision.state
    return state


def turns(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Sequence[Entry]]]:
    """A history cut into turns: the fact, and what was decided on it."""
    for begin, end in _bounds([entry.body for entry in entries]):
        yield entries[begin], entries[begin + 1 : end]


def _bounds(bodies: Sequence[Fact | Intent]) -> Iterator[tuple[int, int]]:
    """Where each turn begins and ends. A history begins with a fact, whatever it holds."""
    begins = [number for number, body in enumerate(bodies) if number == 0 or type(body) in FACTS]
    return pairwise([*begins, len(bodies)])


def describe(body: object) -> str:
    """An entry in a few words, for people who look for a difference."""
    name = NAME_OF[type(body)]
    if isinstance(body, IntentIssued):
        return f"{name} {body.step}/{body.direction.value}/{body.attempt} {body.contract}"
    return name


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


def _adopt_timers(decided: Sequence[Intent], recorded: Sequence[Entry], state: SagaState) -> None:
    for intent in decided:
        if isinstance(intent, TimerArmed):
            state.timers.pop(intent.timer_id, None)
    for entry in recorded:
        if isinstance(entry.body, TimerArmed):
            state.timers[entry.body.timer_id] = entry.body
        elif isinstance(entry.body, TimerCancelled):
            state.timers.pop(entry.body.timer_id, None)


def _is_timer(body: object) -> bool:
    return isinstance(body, (TimerArmed, TimerCancelled))


def _same(decided: object, recorded: object) -> bool:
    if isinstance(decided, IntentIssued) and isinstance(recorded, IntentIssued):
        # The step's kind and group matter to a rollback, which is recorded when it is planned.
        return (decided.step, decided.direction, decided.attempt) == (
            recorded.step,
            recorded.direction,
            recorded.attempt,
        ) and (decided.contract, decided.payload) == (recorded.contract, recorded.payload)
    return decided == recorded


def _detail(body: object) -> str:
    text = describe(body)
    if isinstance(body, IntentIssued):
        return f"{text} {body.payload}"
    return f"{text} {body}" if not text.startswith("saga-") else text
