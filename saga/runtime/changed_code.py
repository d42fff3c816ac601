"""Running sagas that began under other code than this process has.

That code may have a timeout for what they wait for, and nothing may ever come for them otherwise.
So each is looked at once in the life of a process, a few at a time.
"""

from __future__ import annotations

from typing import Final

from saga.authoring.registry import SagaRegistry
from saga.core.events import SagaStarted
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory
from saga.ports import Catalogue, EventStore, History

PAGE_SAGAS: Final = 50


class ChangedCode:
    def __init__(self, store: EventStore, catalogue: Catalogue, registry: SagaRegistry) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._after: SagaId | None = None

    async def next_sagas(self) -> list[SagaId] | None:
        """Of the next page of running sagas those that began under other code; None at the end."""
        page = await self._catalogue.sagas(
            status=SagaStatus.RUNNING, after=self._after, limit=PAGE_SAGAS
        )
        if not page:
            return None
        self._after = page[-1].saga_id
        histories = await self._store.load([saga.saga_id for saga in page])
        return [saga_id for saga_id, history in histories.items() if self._has_changed(history)]

    def _has_changed(self, history: History | CorruptHistory) -> bool:
        if isinstance(history, CorruptHistory):
            return False
        started = next((entry.body for entry in history if _begins(entry)), None)
        if not isinstance(started, SagaStarted):
            return False
        registered = self._registry.find(started.definition, started.definition_version)
        return registered is not None and registered.decider.fingerprint != started.fingerprint


def _begins(entry: Entry) -> bool:
    return isinstance(entry.body, SagaStarted)
