"""Runs: a saga ends one and begins the next, under the same id and the same key.

Theory of operation: the entry `continued` says all that a run knows of what was before it, so a
saga is loaded from its last one on. The fold forgets everything else at that entry, live too. From
the second run on each id begins with the number of the run: `2.pay` is another step than `pay`,
and no service takes it for the same. What an earlier run did is not undone any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final

from saga.core.decider import Disposition
from saga.core.events import Message, UpdateReceived
from saga.core.fold import digest
from saga.core.identity import MessageId
from saga.core.intents import (
    UPDATE_ENDED,
    Continued,
    KnownCause,
    TimerPurpose,
    Unread,
    UpdateAnswered,
    Verdict,
)
from saga.core.program import Command, Definition
from saga.core.state import Identity, SagaState, identity_of
from saga.core.turn import Turn
from saga.errors import DefinitionError

RUNS_A_TURN_MAX: Final = 1_000
"""A run that finds all that it waits for begins and ends within one turn; more go in a circle."""
DEADLINE: Final = "deadline"
"""The name of the saga's own deadline, and the code of a rollback that it leads to."""
_OF_A_RUN: Final = re.compile(r"([0-9]+)\.")


def prefix(run: int) -> str:
    """What the ids of a run's steps, sleeps, waits and publications begin with."""
    return "" if run == 1 else f"{run}."


def arm_deadline(turn: Turn) -> None:
    """Arm the deadline of the whole saga: in each of its runs it counts from the first start."""
    length_us, state = turn.definition.deadline_us, turn.state
    if length_us is not None:
        left_us = max(state.started_at + length_us - turn.at, 0)
        name = prefix(state.run_number) + DEADLINE
        turn.arm(TimerPurpose.SAGA, name, left_us, DEADLINE)


def is_of_earlier_run(state: SagaState, step: str) -> bool:
    """Whether a step of this id belongs to a run that is over."""
    return state.run is not None and _run_of(step) < state.run.number


def is_of_run_before(bodies: Iterable[object], step: str) -> bool:
    """`is_of_earlier_run`, of the saga whose entries these are."""
    last = max((body.run for body in bodies if isinstance(body, Continued)), default=1)
    return _run_of(step) < last


def answered(turn: Turn, step: str, intent_id: str) -> Disposition:
    """An answer to a *step* that this run does not have is noted where an earlier one may have.

    Whether that one has had it already is known of the run just ended only.
    """
    if not is_of_earlier_run(turn.state, step):
        return Disposition.UNKNOWN
    if identity_of(turn.event) in turn.state.causes:
        return Disposition.DUPLICATE
    detail = "it answers a step of an earlier run, which stays as it was"
    return turn.note(Verdict.EARLIER_RUN, intent_id, detail)


def began_with(state: SagaState, trigger: Message) -> bool:
    """Whether the first run of a saga in a later one began with *trigger*."""
    return state.run is not None and state.run.began_with == _digest(trigger)


def begin(turn: Turn, trigger: Message) -> Sequence[Command]:
    """End a run in which nothing is under way, and begin the next; what that asks for first.

    Raises:
        DefinitionError: the saga continues without end, or cannot tell its steps apart.
    """
    state = turn.state
    assert state.trigger is not None, state.saga_id
    assert not state.waited, (state.saga_id, state.waited)
    number = state.run_number + 1
    recorded = _recorded(turn, number)
    if recorded is None:
        _check(turn)
    definition = _definition(turn, recorded)
    turn.disarm_all()
    _end_taken(turn)
    turn.record(
        Continued(
            run=number,
            trigger=trigger,
            definition=definition.name,
            definition_version=definition.version,
            fingerprint=definition.fingerprint,
            key=state.key,
            started_at=state.started_at,
            began_with=_digest(state.trigger) if state.run is None else state.run.began_with,
            traceparent=state.traceparent,
            causes=_causes(turn),
            unread=_unread(state),
            shown=tuple(sorted((state.shown or {}).items())),
            parent=state.parent,
        )
    )
    turn.finish = turn.held = None
    turn.program.close()
    return _start(turn, definition, trigger if recorded is None else recorded.trigger)


def go_on(turn: Turn, continued: Continued) -> Sequence[Command]:
    """Begin the run of this entry, with which the history that is at hand begins."""
    turn.has_taken_fact = True
    turn.restore(continued)
    return _start(turn, turn.definition, continued.trigger)


def _start(turn: Turn, definition: Definition, trigger: Message) -> Sequence[Command]:
    state = turn.state
    assert state.run is not None, state.saga_id
    state.run.definition = turn.definition = definition
    turn.begin(definition.program(state.saga_id, state.key, state.run.number))
    arm_deadline(turn)
    return turn.program.start(trigger, turn.at)


def _recorded(turn: Turn, number: int) -> Continued | None:
    """The entry of this run, where the turn was taken before."""
    for entry in turn.recorded or ():
        if isinstance(entry, Continued) and entry.run == number:
            return entry
    return None


def _definition(turn: Turn, recorded: Continued | None) -> Definition:
    """The newest version, or the one that decided that run: it may have been migrated since."""
    find, migrations = turn.definition.find, turn.state.migrations
    version = None
    if recorded is not None:
        moved_to = None if migrations is None else migrations.version_in(recorded.run)
        version = moved_to or recorded.definition_version
    found = turn.definition if find is None else find(version)
    if found is None:
        raise DefinitionError(
            f"run {turn.state.run_number + 1} was decided by version {version} of saga "
            f"{turn.definition.name!r}, which this application does not have"
        )
    return found


def _check(turn: Turn) -> None:
    state = turn.state
    if sum(type(each) is Continued for each in turn.intents) >= RUNS_A_TURN_MAX:
        raise DefinitionError(
            f"{RUNS_A_TURN_MAX:,} runs have begun and ended in one turn, so they go in a circle: "
            f"let a run wait for something before ctx.continue_as_new"
        )
    alike = next(filter(_OF_A_RUN.match, state.steps), None) if state.run is None else None
    if alike is not None:
        raise DefinitionError(
            f"step id {alike!r} looks like one of a later run, which begins with its number: "
            f"give the step another id=, to use ctx.continue_as_new"
        )


def _end_taken(turn: Turn) -> None:
    """Answer updates that a branch of this run had taken, and lost its race before it answered."""
    state = turn.state
    kept = {
        arrival.update
        for arrivals in state.kept.values()
        for arrival in arrivals.values()
        if isinstance(arrival, UpdateReceived)
    }
    for update in [each for each, is_open in (state.updates or {}).items() if is_open]:
        if update not in kept:
            message = "the run that had taken it is over"
            turn.record(UpdateAnswered(update=update, code=UPDATE_ENDED, message=message))


def _causes(turn: Turn) -> tuple[KnownCause, ...]:
    """What the run just ended has heard; of the run before it that is forgotten."""
    state = turn.state
    before = 0 if state.run is None else state.run.causes_before
    own: dict[Identity, str | None] = dict(islice(state.causes.items(), before, None))
    current = identity_of(turn.event)
    own.setdefault(current, state.causes[current])
    return tuple(
        KnownCause(cause=MessageId(identity), said=said)
        if isinstance(identity, str)
        else KnownCause(cause=MessageId(identity[1]), source=identity[0], said=said)
        for identity, said in own.items()
    )


def _unread(state: SagaState) -> tuple[Unread, ...]:
    """What nobody has taken, in order of arrival."""
    kept = [item for arrivals in state.kept.values() for item in arrivals.items()]
    kept.sort(key=itemgetter(0))
    return tuple(Unread(version=version, arrival=arrival) for version, arrival in kept)


def _run_of(step: str) -> int:
    found = _OF_A_RUN.match(step)
    return 1 if found is None else int(found[1])


def _digest(message: Message) -> str:
    return digest([message.contract, message.payload])
