"""LoadedSaga sagas: states kept between turns, so that a turn of a running saga replays nothing.

The cache is a cache: whatever is in it can be rebuilt from the history, and is thrown away as soon
as a turn of it could not be recorded. A history that cannot be brought to life is answered as such,
with what to do, and never guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saga.authoring.registry import SagaRegistry
from saga.core.decider import Decider
from saga.core.events import SagaStarted, TurnFailed
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.core.replay import replay
from saga.core.state import SagaState, waiting_for
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import EventStore, History, SagaSummary
from saga.ports.store import DeferralReason


@dataclass(slots=True)
class LoadedSaga:
    """A saga in memory. *version* counts its entries, *turns* the turns that wrote them.

    Both include what is not recorded yet.

    *has_unknown_past* says that another process may have appended entries whose records it has not
    published yet.
    """

    saga_id: SagaId
    decider: Decider
    state: SagaState
    version: int
    started_at: Instant
    turns: int = 0
    has_unknown_past: bool = False


@dataclass(frozen=True, slots=True)
class UnloadableSaga:
    """A saga whose history cannot be brought to life here, and why."""

    saga_id: SagaId
    deferral: DeferralReason
    reason: str
    status: SagaStatus
    entries: Sequence[Entry]


class SagaCache:
    """The least recently used live sagas leave first."""

    def __init__(self, store: EventStore, sagas: SagaRegistry, *, sagas_max: int) -> None:
        self._store = store
        self._sagas = sagas
        self._sagas_max = sagas_max
        self._live: OrderedDict[SagaId, LoadedSaga] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def among(self, saga_ids: Iterable[SagaId]) -> frozenset[SagaId]:
        """Those of *saga_ids* that are in memory."""
        return frozenset(saga_id for saga_id in saga_ids if saga_id in self._live)

    async def load(self, saga_ids: Iterable[SagaId]) -> dict[SagaId, LoadedSaga | UnloadableSaga]:
        """The sagas that exist, from memory or, all others in one query, from the store.

        They leave the memory until they are kept again: nobody closes what somebody works with, and
        what cannot be recorded is forgotten by being let go.
        """
        found: dict[SagaId, LoadedSaga | UnloadableSaga] = {}
        missing: list[SagaId] = []
        for saga_id in saga_ids:
            live = self._live.pop(saga_id, None)
            if live is None:
                missing.append(saga_id)
            else:
                found[saga_id] = live
        if missing:
            histories = await self._store.load(missing)
            for saga_id, history in histories.items():
                found[saga_id] = self._revive(saga_id, history)
        return found

    def keep(self, live: LoadedSaga) -> None:
        """Remember a saga whose turns, if there were any, are recorded; an ended one is let go."""
        if live.state.status.is_ended:
            if live.state.program is not None:
                live.state.program.close()
            return
        self._live[live.saga_id] = live
        while len(self._live) > self._sagas_max:
            _, oldest = self._live.popitem(last=False)
            if oldest.state.program is not None:
                oldest.state.program.close()

    def clear(self) -> None:
        """Forget everything."""
        self._live.clear()

    def _revive(
        self, saga_id: SagaId, history: History | CorruptHistory
    ) -> LoadedSaga | UnloadableSaga:
        if isinstance(history, CorruptHistory):
            return _parked(saga_id, DeferralReason.CORRUPT_HISTORY, str(history))
        name, version = whose(history)
        registered = self._sagas.find(name, version)
        if not any(isinstance(entry.body, SagaStarted) for entry in history):
            # It has decided nothing yet that would bind it to the version that could not begin it.
            registered = self._sagas.newest(name)
        if registered is None:
            reason = f"no worker here has saga {name!r} version {version}: deploy it"
            return UnloadableSaga(
                saga_id, DeferralReason.STALLED, reason, SagaStatus.STALLED, history
            )
        try:
            state = replay(registered.decider, saga_id, history)
        except ReplayMismatch as error:
            return _parked(saga_id, DeferralReason.REPLAY_MISMATCH, str(error), history)
        except Exception as error:  # noqa: BLE001  # the saga's own code raised: it parks, others go on
            reason = f"the code at hand raised {type(error).__name__}: {error}"
            return _parked(saga_id, DeferralReason.REPLAY_FAILED, reason, history)
        return LoadedSaga(
            saga_id,
            registered.decider,
            state,
            len(history),
            history[0].at,
            turns=history.turns,
            has_unknown_past=True,
        )


def _parked(
    saga_id: SagaId, deferral: DeferralReason, reason: str, history: Sequence[Entry] = ()
) -> UnloadableSaga:
    return UnloadableSaga(saga_id, deferral, reason, SagaStatus.PARKED, history)


def whose(history: Sequence[Entry]) -> tuple[str, int]:
    """Name and version of the definition that a history pins."""
    for entry in history:
        body = entry.body
        if isinstance(body, SagaStarted):
            return body.definition, body.definition_version
    first = history[0].body
    if isinstance(first, TurnFailed) and first.definition is not None:
        return first.definition, first.definition_version or 0
    return "?", 0


def summary_of(live: LoadedSaga, at: Instant) -> SagaSummary:
    """The index row of a live saga."""
    state = live.state
    return SagaSummary(
        live.saga_id,
        live.decider.name,
        live.decider.version,
        state.key,
        state.status,
        live.started_at,
        at,
        waiting_for(state),
        state.reason,
        live.version,
    )


def summary_of_unloadable(unloadable: UnloadableSaga, at: Instant) -> SagaSummary | None:
    """The index row of a saga that cannot be brought to life; None where not even its name is
    known.
    """
    if not unloadable.entries:
        return None
    first = unloadable.entries[0]
    definition, version = whose(unloadable.entries)
    key = next(
        (entry.body.key for entry in unloadable.entries if isinstance(entry.body, SagaStarted)), ""
    )
    return SagaSummary(
        unloadable.saga_id,
        definition,
        version,
        key,
        unloadable.status,
        first.at,
        at,
        "deploy" if unloadable.status is SagaStatus.STALLED else "operator",
        unloadable.reason,
        len(unloadable.entries),
    )
