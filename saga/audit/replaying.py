"""Replaying stored histories, to see whether the code at hand decides what they say.

One page of sagas after another, so that memory does not grow with the store; nothing is written. A
history that cannot be replayed is a finding, not an error: the next one is replayed all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from saga.audit.differences import (
    Finding,
    Kind,
    Raised,
    finding_of,
    finding_of_unreadable,
    has_gone_on,
)
from saga.authoring.registry import Registered, SagaRegistry
from saga.core.decider import Decider
from saga.core.history import (
    Entry,
    History,
    RecordedTurn,
    beginning_of,
    continued_in,
    migration_in,
    turns,
)
from saga.core.identity import SagaId
from saga.core.intents import Continued
from saga.core.piecewise import Piecewise, at_once
from saga.core.replay import describe, replaying
from saga.core.state import SagaState
from saga.core.texts import described
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import Catalogue, EventStore, SagaSummary
from saga.users_code import is_ours, raised_at

PAGE_SAGAS: Final = 200
Histories = Mapping[SagaId, History | CorruptHistory]


@value
class Replayed:
    """What became of one history; *finding* None means that the code decides what it says."""

    summary: SagaSummary
    entries: int
    finding: Finding | None

    @property
    def is_ok(self) -> bool:
        return self.finding is None

    @property
    def difference(self) -> ReplayMismatch | None:
        """The same as an error."""
        return None if self.finding is None else self.finding.as_error()


async def replay_all(
    store: EventStore,
    catalogue: Catalogue,
    sagas: SagaRegistry,
    *,
    definition: str | None = None,
    is_open_only: bool = False,
) -> AsyncIterator[Replayed]:
    """Replay every saga, or those of one *definition*, or those that have not ended.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    after: SagaId | None = None
    while page := await catalogue.sagas(definition=definition, after=after, limit=PAGE_SAGAS):
        after = page[-1].saga_id
        chosen = [saga for saga in page if not (is_open_only and saga.status.is_ended)]
        for replayed in await _replay_page(store, sagas, chosen):
            yield replayed


async def replay_some(
    store: EventStore, sagas: SagaRegistry, chosen: Sequence[SagaSummary]
) -> AsyncIterator[Replayed]:
    for first in range(0, len(chosen), PAGE_SAGAS):
        for replayed in await _replay_page(store, sagas, chosen[first : first + PAGE_SAGAS]):
            yield replayed


async def _replay_page(
    store: EventStore, sagas: SagaRegistry, page: Sequence[SagaSummary]
) -> list[Replayed]:
    histories = await store.load([summary.saga_id for summary in page], is_whole=True)
    return [replay_one(sagas, summary, histories) for summary in page]


def replay_one(sagas: SagaRegistry, summary: SagaSummary, histories: Histories) -> Replayed:
    """Replay one of the *histories* that a store has loaded whole."""
    history = histories.get(summary.saga_id, ())
    if isinstance(history, CorruptHistory):
        return Replayed(summary, 0, finding_of_unreadable(history))
    return Replayed(summary, len(history), _finding(sagas, summary, history))


def _finding(sagas: SagaRegistry, summary: SagaSummary, history: Sequence[Entry]) -> Finding | None:
    if not history:
        recorded = "nothing, though the index names this saga"
        kind = Kind.CANNOT_BE_READ
        return Finding(kind=kind, version=1, recorded=recorded, decided="nothing")
    runs = _runs(history, summary)
    registered: Registered | None = None
    begins_in = 0
    for first, name, version in reversed(runs):
        found = sagas.find(name, version)
        if found is None:
            break  # an earlier run is never loaded again: it is no difference that it is gone
        registered, begins_in = found, first
    if registered is None:
        return Finding(
            kind=Kind.NO_SUCH_VERSION,
            version=1,
            recorded=f"saga {name!r} version {version}",
            decided="nothing: this application has no such version of it",
        )
    if begins_in:
        history = History(turns(history)[begins_in:])
    return _difference(registered.decider, summary.saga_id, history)


def _difference(decider: Decider, saga_id: SagaId, history: Sequence[Entry]) -> Finding | None:
    """The first entry that the code does not decide."""
    try:
        state = replayed(decider, saga_id, history)
    except ReplayMismatch as error:
        return at_once(looking_at(error, decider, saga_id, history))
    if state.program is not None:
        state.program.close()
    return None


def looking_at(
    mismatch: ReplayMismatch,
    decider: Decider,
    saga_id: SagaId,
    history: Sequence[Entry],
    *,
    ahead: RecordedTurn | None = None,
) -> Piecewise[Finding]:
    """What *mismatch* is like, which a replay of *history* has raised."""
    found = finding_of(mismatch, decider.contracts)
    if not has_gone_on(mismatch):
        return found
    # The code stands elsewhere by now: what decided is where it stood before this turn.
    before = [turn for turn in turns(history) if turn.version + len(turn) <= mismatch.version]
    try:
        state = yield from replaying_guarded(decider, saga_id, History(before), ahead=ahead)
    except ReplayMismatch:
        return found
    if state.program is None:
        return found
    where = state.program.stands_at(None)
    state.program.close()
    return replace(found, where=where or found.where)


def replayed(
    decider: Decider,
    saga_id: SagaId,
    history: Sequence[Entry],
    *,
    ahead: RecordedTurn | None = None,
) -> SagaState:
    """As `replay`, but what the saga's code raises is a ReplayMismatch too, of its turn's fact."""
    return at_once(replaying_guarded(decider, saga_id, history, ahead=ahead))


def replaying_guarded(
    decider: Decider,
    saga_id: SagaId,
    history: Sequence[Entry],
    *,
    ahead: RecordedTurn | None = None,
) -> Piecewise[SagaState]:
    """`replayed`, turn by turn."""
    taken = 0
    with closing(replaying(decider, saga_id, history, ahead=ahead)) as pieces:
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                state: SagaState = end.value
                return state
            except ReplayMismatch:
                raise
            except BaseException as error:
                if is_ours(error):
                    raise
                raise _raised(error, turns(history), taken) from error
            taken += 1
            yield


def _raised(error: BaseException, recorded: Sequence[RecordedTurn], taken: int) -> ReplayMismatch:
    """What *error* is, which came when so many turns were begun with a pause before each."""
    has_pause = recorded[0].version == 1  # where a run begins, that is taken without one
    turn = recorded[max(taken - 1, 0) if has_pause else taken]
    return ReplayMismatch(
        turn.version,
        describe(turn.event.fact),
        f"nothing: the code at hand raised {described(error)}",
        where=raised_at(error),
        compared=Raised(turn.entries[0]),
    )


def _runs(history: Sequence[Entry], summary: SagaSummary) -> list[tuple[int, str, int]]:
    """Of each run in which of the turns it begins, and the definition that decides it now.

    Where the very first turn failed, the index names that.
    """
    begun = beginning_of(history)
    name = summary.definition if begun is None else begun.definition
    version = summary.definition_version if begun is None else begun.definition_version
    runs = [(0, name, version)]
    for number, turn in enumerate(turns(history)):
        if (moved := migration_in(turn)) is not None:
            runs[-1] = (*runs[-1][:2], moved.definition_version)
        elif Continued in map(type, turn.decided) and (run := continued_in(turn)) is not None:
            runs.append((number, run.definition, run.definition_version))
    return runs
