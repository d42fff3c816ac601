"""Loaded sagas: states kept between turns, so that a turn of a running saga replays nothing.

A history that cannot be brought to life is answered with the reason; nothing is guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from saga.authoring.registry import SagaRegistry
from saga.core.decider import Decider
from saga.core.events import SagaStarted, TurnFailed
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.core.replay import replay
from saga.core.state import SagaState, waiting_for
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch, UnknownEntry
from saga.ports import Catalogue, EventStore, History, SagaSummary
from saga.ports.store import DeferralReason


@dataclass(slots=True)
class LoadedSaga:
    """A saga in memory; *version* counts its entries, *turns* what wrote them, recorded or not.

    *is_possibly_unpublished*: another process may have stored entries and not published them yet.
    """

    saga_id: SagaId
    decider: Decider
    state: SagaState
    version: int
    started_at: Instant
    turns: int = 0
    is_possibly_unpublished: bool = False


@value
class UnloadableSaga:
    """A saga whose history cannot be brought to life here, and why."""

    saga_id: SagaId
    deferral: DeferralReason
    reason: str
    entries: Sequence[Entry] = ()

    @property
    def status(self) -> SagaStatus:
        is_stalled = self.deferral is DeferralReason.STALLED
        return SagaStatus.STALLED if is_stalled else SagaStatus.PARKED

    @property
    def waiting_for(self) -> str:
        """Whom it needs to be loaded again."""
        return "deploy" if self.status is SagaStatus.STALLED else "operator"


class SagaCache:
    """Sagas between their turns; the least recently used leave first."""

    def __init__(
        self, store: EventStore, catalogue: Catalogue, registry: SagaRegistry, *, sagas_max: int
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._sagas_max = sagas_max
        self._loaded: OrderedDict[SagaId, LoadedSaga] = OrderedDict()

    def __len__(self) -> int:
        return len(self._loaded)

    def among(self, saga_ids: Iterable[SagaId]) -> Collection[SagaId]:
        """Those of *saga_ids* that are in memory."""
        return self._loaded.keys() & saga_ids

    async def load(self, saga_ids: Iterable[SagaId]) -> dict[SagaId, LoadedSaga | UnloadableSaga]:
        """The sagas that exist, taken out of memory until `keep`.

        So no other turn closes a saga in use, and one whose turn cannot be recorded is forgotten.
        """
        loaded: dict[SagaId, LoadedSaga | UnloadableSaga] = {}
        missing: list[SagaId] = []
        for saga_id in saga_ids:
            saga = self._loaded.pop(saga_id, None)
            if saga is None:
                missing.append(saga_id)
            else:
                loaded[saga_id] = saga
        if missing:
            histories = await self._store.load(missing)
            for saga_id, history in histories.items():
                loaded[saga_id] = self._revive(saga_id, history)
        return loaded

    def keep(self, saga: LoadedSaga) -> None:
        """Remember a saga whose turns, if there were any, are recorded; an ended one is let go."""
        if saga.state.status.is_ended:
            if saga.state.program is not None:
                saga.state.program.close()
            return
        self._loaded[saga.saga_id] = saga
        while len(self._loaded) > self._sagas_max:
            _, oldest = self._loaded.popitem(last=False)
            if oldest.state.program is not None:
                oldest.state.program.close()

    async def summaries_of(
        self, unloadable: Sequence[UnloadableSaga], at: Instant
    ) -> list[SagaSummary]:
        """The index rows of sagas that cannot be brought to life, with what is wrong."""
        rows = [_summary_of_unloadable(saga, at) for saga in unloadable if saga.entries]
        corrupt = {saga.saga_id: saga for saga in unloadable if not saga.entries}
        if corrupt:
            for row in await self._catalogue.summaries(list(corrupt)):
                saga = corrupt[row.saga_id]
                changed = replace(row, status=saga.status, reason=saga.reason, updated_at=at)
                rows.append(replace(changed, waiting_for=saga.waiting_for))
        return rows

    def clear(self) -> None:
        self._loaded.clear()

    def _revive(
        self, saga_id: SagaId, history: History | CorruptHistory
    ) -> LoadedSaga | UnloadableSaga:
        if isinstance(history, UnknownEntry):
            reason = f"{history}: deploy the release that wrote it"
            return UnloadableSaga(saga_id, DeferralReason.STALLED, reason)
        if isinstance(history, CorruptHistory):
            return UnloadableSaga(saga_id, DeferralReason.CORRUPT_HISTORY, str(history))
        name, version = definition_of(history)
        registered = self._registry.find(name, version)
        if not any(isinstance(entry.body, SagaStarted) for entry in history):
            # It has decided nothing yet that would bind it to the version that could not begin it.
            registered = self._registry.newest(name)
        if registered is None:
            reason = f"no worker here has saga {name!r} version {version}: deploy it"
            return UnloadableSaga(saga_id, DeferralReason.STALLED, reason, history)
        decider = registered.decider
        try:
            state = replay(decider, saga_id, history)
        except ReplayMismatch as error:
            return UnloadableSaga(saga_id, DeferralReason.REPLAY_MISMATCH, str(error), history)
        except Exception as error:  # noqa: BLE001  # the saga's own code raised: it parks, others go on
            reason = f"the code at hand raised {type(error).__name__}: {error}"
            return UnloadableSaga(saga_id, DeferralReason.REPLAY_FAILED, reason, history)
        turns, started_at = history.turns, history[0].at
        return LoadedSaga(
            saga_id, decider, state, len(history), started_at, turns, is_possibly_unpublished=True
        )


def definition_of(history: Sequence[Entry]) -> tuple[str, int]:
    """Name and version of the definition that a history pins."""
    for entry in history:
        body = entry.body
        if isinstance(body, SagaStarted):
            return body.definition, body.definition_version
    first = history[0].body
    if isinstance(first, TurnFailed) and first.definition is not None:
        return first.definition, first.definition_version or 0
    return "?", 0


def summary_of(saga: LoadedSaga, at: Instant) -> SagaSummary:
    state = saga.state
    return SagaSummary(
        saga.saga_id,
        saga.decider.name,
        saga.decider.version,
        state.key,
        state.status,
        saga.started_at,
        at,
        waiting_for(state),
        state.reason,
        saga.version,
    )


def _summary_of_unloadable(saga: UnloadableSaga, at: Instant) -> SagaSummary:
    started = (entry.body for entry in saga.entries if isinstance(entry.body, SagaStarted))
    definition, version = definition_of(saga.entries)
    return SagaSummary(
        saga.saga_id,
        definition,
        version,
        next((body.key for body in started), ""),
        saga.status,
        saga.entries[0].at,
        at,
        saga.waiting_for,
        saga.reason,
        len(saga.entries),
    )
