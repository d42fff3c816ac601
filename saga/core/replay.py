"""Replay: the same `handle` over a recorded history, every decision compared with the recorded one.

The first difference is raised. Each turn is told what was recorded for it, and that stands where a
difference is allowed: in how long something may take, in what was accepted, in a step's kind and
the steps that it depends on. Recorded payloads are read by today's contracts first. A timeout that
only the code has is no difference while it can still be armed: a running saga does so. A history
begun before 0.1.0 says less than today's code decides; what it could not say is not missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from saga.core import fold, format_1, intents
from saga.core.arrivals import channels_of
from saga.core.decider import RECORDED, Decider, Decision
from saga.core.events import CancelRequested, Fact, Message, Migrated, SagaStarted
from saga.core.history import NAME_OF, Entry, RecordedTurn, turns
from saga.core.identity import DO, SagaId, StepId, TimerId
from saga.core.intents import APART, Intent, TimerArmed, TimerPurpose
from saga.core.migrations import migrations_of
from saga.core.piecewise import Piecewise, at_once
from saga.core.program import Program
from saga.core.state import SagaState, Untold
from saga.core.status import ISSUED, UNDOING, SagaStatus
from saga.core.texts import storable
from saga.core.values import value
from saga.errors import ReplayMismatch

_ReadsAs: TypeAlias = Callable[[Message, Message], bool]

_WITH_OUTCOME: Final = (
    intents.SagaFinishing,
    intents.SagaCompleted,
    intents.SagaRolledBack,
    intents.SagaAbandoned,
)
_SAGA: Final = TimerPurpose.SAGA
_WITH_PAYLOAD: Final = intents.IntentIssued | intents.EventPublished | intents.IntentTold
_CONTINUED: Final = ("trigger", "definition_version", "fingerprint", "began_with")
STANDS: Final[dict[type, tuple[str, ...]]] = {
    # The recorded kind and order stand; they matter to a rollback, which is recorded itself.
    intents.IntentIssued: ("payload", "kind", "after", "undoes"),
    intents.EventPublished: ("payload",),
    intents.IntentTold: ("payload",),
    # Why another saga is asked is for people to read.
    intents.CommandSent: ("reason",),
    **dict.fromkeys(_WITH_OUTCOME, ("outcome",)),
    intents.Continued: _CONTINUED,
}
"""What of a decision is not compared as it is: messages are read first."""
_OTHER_CODE: Final = frozenset({SagaStarted, Migrated})
_ENDS_LIVES: Final = frozenset({intents.Continued, intents.SagaParked})
"""Behind these a live program is not what a replay of the whole history makes."""


@value
class Compared:
    """A turn as it was *recorded*, and what is *decided* now; *entry* and *intent* differ first."""

    entry: Entry | None
    intent: Intent | None
    recorded: Sequence[Entry]
    decided: Sequence[Intent]


def replay(
    decider: Decider,
    saga_id: SagaId,
    entries: Iterable[Entry],
    *,
    ahead: RecordedTurn | None = None,
) -> SagaState:
    """The state after a whole history; ReplayMismatch where the code at hand decides otherwise.

    *ahead* is a migration that is about to be recorded, whose new names count already.
    """
    return at_once(replaying(decider, saga_id, entries, ahead=ahead))


def replaying(
    decider: Decider,
    saga_id: SagaId,
    entries: Iterable[Entry],
    *,
    ahead: RecordedTurn | None = None,
) -> Piecewise[SagaState]:
    """`replay`, turn by turn."""
    state = decider.initial_state(saga_id)
    recorded = turns(entries)
    told = recorded if ahead is None else [*recorded, ahead]
    state.untold, state.migrations = Untold(recorded), migrations_of(told)
    yield from _taking(decider, state, recorded)
    state.untold = state.migrations = None
    return state


def following(
    decider: Decider, state: SagaState, recorded: Sequence[RecordedTurn]
) -> Piecewise[bool]:
    """Bring a live *state* up to date by turns that somebody else has *recorded* behind it.

    Returns whether it can be: not where the saga or a run of it begins in them, or is migrated, as
    other code may decide from there on, or a saga parked on a failure that its program here may
    have been told of. Then, or where it raises, the state is of no use.

    Raises:
        ReplayMismatch: the code at hand decides otherwise.
    """
    assert not state.is_ahead, state.saga_id
    for turn in recorded:
        if type(turn.event.fact) in _OTHER_CODE or not _ENDS_LIVES.isdisjoint(
            map(type, turn.decided)
        ):
            return False
    yield from _taking(decider, state, recorded)
    return not state.is_ahead


def _taking(
    decider: Decider, state: SagaState, recorded: Sequence[RecordedTurn]
) -> Piecewise[None]:
    is_first = not state.version
    try:
        with decider.contracts.accepting(_messages_of(recorded)):
            if is_first and recorded and (begun := fold.run_begun_in(recorded[0])) is not None:
                _begin_run(decider, state, recorded[0], *begun)
                recorded = recorded[1:]
            for turn in recorded:
                yield
                _take(decider, state, turn)
    except BaseException as error:
        if state.program is not None:
            if type(error) is ReplayMismatch:
                error.where = _place(state.program, error.compared)
            state.program.close()
        raise
    if state.program is not None:
        state.program.patches = None  # from here on it takes what it asks for


def _take(decider: Decider, state: SagaState, turn: RecordedTurn) -> None:
    """Handle one turn again, and compare what is decided with what was recorded."""
    event, decided = turn.event, turn.decided
    if is_without_code(state, event.fact, decided):
        take_without_code(state, turn)
        return
    decision = decider.handle(state, event, decided)
    if decision.disposition is not RECORDED:
        compared = Compared(turn.entries[0], None, turn.entries, ())
        raise ReplayMismatch(
            turn.version,
            describe(event.fact),
            decision.disposition.value,
            compared=compared,
        )
    if decision.intents != decided:
        _reconcile(decider, decision, *turn.entries)
    if state.unarmed:
        _check_open(state, after=turn.version + len(decided))


def _begin_run(
    decider: Decider,
    state: SagaState,
    turn: RecordedTurn,
    continued: intents.Continued,
    decided: Sequence[Intent],
) -> None:
    """Take what *turn* decided from *continued* on, and compare it."""
    state.version = turn.version - 1
    decision = decider.begin_run(state, turn.event, continued, decided)
    state.version += len(turn)
    if decision.intents != decided:
        entries = turn.entries
        _reconcile(decider, decision, *entries[len(entries) - len(decided) - 1 :])
    if state.unarmed:
        _check_open(state, after=turn.version + len(turn.decided))


def _reconcile(decider: Decider, decision: Decision, fact: Entry, *recorded: Entry) -> None:
    """Let what is recorded stand where it may differ from what is decided; else raise."""
    theirs: Sequence[Entry] = recorded
    ours, state = decision.intents, decision.state
    reads_as = decider.contracts.reads_as
    is_format_1 = state.format == format_1.FORMAT_1
    if is_format_1:
        theirs = sorted(recorded, key=lambda entry: isinstance(entry.body, intents.Noted))
        ours = _as_format_1(ours, state, theirs, reads_as)
    _compare(fact, ours, theirs, reads_as)
    _restate(decision, recorded, is_format_1=is_format_1)


def is_abandoned(bodies: Iterable[object]) -> bool:
    return any(isinstance(body, intents.SagaAbandoned) for body in bodies)


def is_without_code(state: SagaState, fact: object, decided: Iterable[object]) -> bool:
    """Whether the saga's code had no part in this turn: to abandon a saga does not need it."""
    if state.status is SagaStatus.ABANDONED:
        return True
    return type(fact) is CancelRequested and is_abandoned(decided)


def take_without_code(state: SagaState, turn: RecordedTurn) -> None:
    """Give a recorded turn its effect as it stands, and let go of the program."""
    fold.fold_turn(state, turn)
    state.unarmed.clear()
    if state.program is not None:
        state.program.close()
        state.program = None


def describe(body: object) -> str:
    name = NAME_OF[type(body)]
    if isinstance(body, intents.IntentIssued):
        return f"{name} {body.step}/{body.direction.value}/{body.attempt} {body.contract}"
    if isinstance(body, TimerArmed):
        return f"{name} {body.purpose.value} {body.target}"
    return name


def _as_format_1(
    decided: Sequence[Intent], state: SagaState, recorded: Sequence[Entry], reads_as: _ReadsAs
) -> list[Intent]:
    """*decided* in the words of format 1, notes last: without what it left unsaid."""
    theirs = [entry.body for entry in recorded if type(entry.body) not in APART]
    ours: list[Intent] = []
    place = 0
    for intent in sorted(decided, key=lambda intent: isinstance(intent, intents.Noted)):
        then = format_1.as_then(intent)
        if place < len(theirs) and _same(then, theirs[place], reads_as):
            place += 1
        elif format_1.may_be_missing(intent, state):
            continue
        ours.append(then)
    return ours


def _compare(
    fact: Entry, decided: Sequence[Intent], recorded: Sequence[Entry], reads_as: _ReadsAs
) -> None:
    ours = [intent for intent in decided if type(intent) not in APART]
    theirs = [entry for entry in recorded if type(entry.body) not in APART]
    armed, was_armed = _armed(decided), _armed(entry.body for entry in recorded)
    only_ours: list[Intent] = [timer for id_, timer in armed.items() if id_ not in was_armed]
    differs = partial(_mismatch, fact, decided, recorded)
    for intent, entry in zip(ours, theirs, strict=False):
        if not _same(intent, entry.body, reads_as):
            raise differs(entry, intent)
    for entry in recorded:
        if isinstance(entry.body, TimerArmed) and entry.body.timer_id not in armed:
            raise differs(entry, None)
    if len(ours) < len(theirs):
        raise differs(theirs[len(ours)], next(iter(only_ours), None))
    only_ours += ours[len(theirs) :]
    if only_ours:
        raise differs(None, only_ours[0])


def _mismatch(
    fact: Entry,
    decided: Sequence[Intent],
    recorded: Sequence[Entry],
    entry: Entry | None,
    intent: Intent | None,
) -> ReplayMismatch:
    behind = (recorded[-1] if recorded else fact).version + 1
    return ReplayMismatch(
        behind if entry is None else entry.version,
        "nothing" if entry is None else _detail(entry.body),
        "nothing" if intent is None else _detail(intent),
        compared=Compared(entry, intent, [fact, *recorded], decided),
    )


def _place(program: Program, compared: Compared) -> str | None:
    """File and line of what decides otherwise."""
    match compared.intent:
        case intents.IntentIssued(step=step):
            return _place_of_step(program, step)
        case TimerArmed(purpose=TimerPurpose.DEADLINE | TimerPurpose.RETRY, target=target):
            return _place_of_step(program, StepId(target.rsplit("/", 1)[0]))
        case TimerArmed(target=name):
            return program.stands_at(name)
        case intents.SignalAwaited(wait=name) | intents.EventAwaited(wait=name):
            return program.stands_at(name)
    match None if compared.entry is None else compared.entry.body:
        case intents.IntentIssued(step=name):
            return program.stands_at(name)
        case intents.SignalAwaited(wait=name) | intents.EventAwaited(wait=name):
            return program.stands_at(name)
    return program.stands_at(None)


def _place_of_step(program: Program, step: StepId) -> str | None:
    try:
        return program.place_of(step) or program.stands_at(step)
    except KeyError:
        return program.stands_at(None)  # it is of a run that this turn has ended


def _restate(decision: Decision, recorded: Sequence[Entry], *, is_format_1: bool) -> None:
    program = decision.state.program
    if program is not None:
        bodies = (entry.body for entry in recorded)
        program.take_patches(body.patch for body in bodies if type(body) is intents.Patched)
    runs = [n for n, entry in enumerate(recorded) if type(entry.body) is intents.Continued]
    for entry in recorded[runs[-1] :] if runs else recorded:  # of an earlier run nothing is kept
        fold.restate(decision.state, entry.body, says_order=not is_format_1)  # type: ignore[arg-type]  # behind a fact there are decisions


def _check_open(state: SagaState, *, after: int) -> None:
    """Refuse a timeout that can be armed no more: what it was for is over without it."""
    deadlines = [each.timer for each in state.unarmed.values() if each.timer.purpose is _SAGA]
    for timer in deadlines if state.plan is not None or state.status.is_ended else ():
        del state.unarmed[timer.timer_id]  # it would change nothing any more
    for unarmed in state.unarmed.values():
        if not _is_open(state, unarmed.timer):
            timer = unarmed.timer
            compared = Compared(None, timer, (), [timer])
            raise ReplayMismatch(after, "nothing", _detail(timer), compared=compared)


def _is_open(state: SagaState, timer: TimerArmed) -> bool:
    if timer.purpose is TimerPurpose.WAIT:
        return timer.target in state.waited
    if timer.purpose is TimerPurpose.SAGA:
        return True
    # A deadline's id is `{saga id}/{step}/{do|undo}/{attempt}/deadline`.
    step_id, direction = timer.target.rsplit("/", 1)
    attempt = int(timer.timer_id.rsplit("/", 2)[1])
    step = state.steps[StepId(step_id)]
    if step.is_backing_off:
        return False
    if direction == DO:
        return step.status is ISSUED and step.attempts == attempt
    return step.status is UNDOING and step.undo_attempts == attempt


def _armed(bodies: Iterable[object]) -> dict[TimerId, TimerArmed]:
    return {body.timer_id: body for body in bodies if isinstance(body, TimerArmed)}


def _same(decided: Intent, recorded: Fact | Intent, reads_as: _ReadsAs) -> bool:
    """Whether it is the same decision, once the recorded one is read as today's contracts do."""
    if isinstance(decided, intents.EventAwaited) and isinstance(recorded, intents.EventAwaited):
        is_for_the_same = set(channels_of(decided)) == set(channels_of(recorded))
        return decided.wait == recorded.wait and is_for_the_same
    stands = STANDS.get(type(recorded))
    if stands is None or type(decided) is not type(recorded):
        return decided == recorded
    kept: dict[str, Any] = {name: getattr(recorded, name) for name in stands}
    if replace(decided, **kept) != recorded:
        return False
    ours, theirs = _message(decided), _message(recorded)
    if ours is None or theirs is None:
        return ours is theirs
    return ours == theirs or (ours.contract == theirs.contract and reads_as(theirs, ours))


def _messages_of(recorded: Iterable[RecordedTurn]) -> Iterator[Message]:
    """What was said to others; read only if anybody asks what was accepted."""
    for turn in recorded:
        yield from filter(None, map(_message, turn.decided))


def _message(body: Fact | Intent) -> Message | None:
    """What *body* says to others."""
    if isinstance(body, _WITH_PAYLOAD):
        return Message(body.contract, body.payload)
    if isinstance(body, intents.Continued):
        return body.trigger
    return body.outcome if isinstance(body, _WITH_OUTCOME) else None


def _detail(body: object) -> str:
    text = describe(body)
    if isinstance(body, intents.IntentIssued):
        return storable(f"{text} {body.payload}")
    return text if isinstance(body, TimerArmed) else storable(f"{text} {body}")
