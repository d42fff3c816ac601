"""Replaying stored histories, to see whether the code at hand decides what they say.

One page of sagas after another, so that memory does not grow with the store; nothing is written. A
history that cannot be replayed is a finding, not an error: the next one is replayed all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from saga.authoring.registry import Registered, SagaRegistry
from saga.core.decider import Decider
from saga.core.history import Entry, History, beginning_of, continued_in, turns
from saga.core.identity import SagaId
from saga.core.intents import Continued
from saga.core.replay import replay
from saga.core.state import SagaState
from saga.core.texts import described
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import Catalogue, EventStore, SagaSummary
from saga.users_code import is_ours

PAGE_SAGAS: Final = 200


@value
class Replayed:
    """What became of one history; *difference* None means that the code decides what it says."""

    summary: SagaSummary
    entries: int
    difference: ReplayMismatch | None

    @property
    def is_ok(self) -> bool:
        return self.difference is None


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
    return [
        Replayed(summary, *_replay(sagas, summary, histories.get(summary.saga_id, ())))
        for summary in page
    ]


def _replay(
    sagas: SagaRegistry, summary: SagaSummary, history: Sequence[Entry] | CorruptHistory
) -> tuple[int, ReplayMismatch | None]:
    """How many entries there are, and the first that the code does not decide."""
    if isinstance(history, CorruptHistory):
        return 0, ReplayMismatch(history.version, history.problem, "nothing: it cannot be read")
    if not (entries := len(history)):
        return 0, ReplayMismatch(1, "nothing, though the index names this saga", "nothing")
    runs = _runs(history, summary)
    registered: Registered | None = None
    begins_in = 0
    for first, name, version in reversed(runs):
        found = sagas.find(name, version)
        if found is None:
            break  # an earlier run is never loaded again: it is no difference that it is gone
        registered, begins_in = found, first
    if registered is None:
        recorded = f"saga {name!r} version {version}"
        decided = "nothing: this application has no such version of it"
        return entries, ReplayMismatch(1, recorded, decided)
    if begins_in:
        history = History(turns(history)[begins_in:])
    try:
        state = replayed(registered.decider, summary.saga_id, history)
    except ReplayMismatch as error:
        return entries, error
    if state.program is not None:
        state.program.close()
    return entries, None


def replayed(decider: Decider, saga_id: SagaId, history: Sequence[Entry]) -> SagaState:
    """As `replay`, but what the saga's code raises is a ReplayMismatch too."""
    try:
        return replay(decider, saga_id, history)
    except ReplayMismatch:
        raise
    except BaseException as error:
        if is_ours(error):
            raise
        decided = f"the code at hand raised {described(error)}"
        raise ReplayMismatch(0, "a whole history", decided) from error


def _runs(history: Sequence[Entry], summary: SagaSummary) -> list[tuple[int, str, int]]:
    """Of each run in which of the turns it begins, and the definition that decides it.

    Where the very first turn failed, the index names that.
    """
    begun = beginning_of(history)
    name = summary.definition if begun is None else begun.definition
    version = summary.definition_version if begun is None else begun.definition_version
    runs = [(0, name, version)]
    runs += [
        (number, run.definition, run.definition_version)
        for number, turn in enumerate(turns(history))
        if Continued in map(type, turn.decided) and (run := continued_in(turn)) is not None
    ]
    return runs
