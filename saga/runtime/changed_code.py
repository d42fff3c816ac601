"""Running sagas that began under other code than this process has.

That code may have a timeout for what they wait for, and nothing may ever come for them otherwise.
So each is looked at once in the life of a process, a few at a time: at its first turn only, which
says what it began under.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from saga.authoring.registry import SagaRegistry
from saga.core.history import Entry, beginning_of
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.ports import Catalogue, EventStore
from saga.runtime.versions import missing

PAGE_SAGAS: Final = 50
log = logging.getLogger(__name__)


class ChangedCode:
    def __init__(self, store: EventStore, catalogue: Catalogue, registry: SagaRegistry) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._after: SagaId | None = None

    async def warn(self) -> None:
        """Say in the log which versions open sagas need that are not here: they will stall.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        for version in await missing(self._catalogue, self._registry):
            place = {"definition": version.definition, "version": version.version}
            place |= {"sagas": version.open, "hint": version.advice}
            log.warning("%s: %s", version, version.advice, extra=place)

    async def next_sagas(self) -> list[SagaId] | None:
        """Of the next page of running sagas those that began under other code; None at the end."""
        page = await self._catalogue.sagas(
            status=SagaStatus.RUNNING, after=self._after, limit=PAGE_SAGAS
        )
        if not page:
            return None
        self._after = page[-1].saga_id
        found = self._registry.find
        ours = [each.saga_id for each in page if found(each.definition, each.definition_version)]
        turns = await self._store.beginnings(ours)
        versions = {each.saga_id: each.definition_version for each in page}
        return [each for each, turn in turns.items() if self._has_changed(turn, versions[each])]

    def _has_changed(self, turn: Sequence[Entry], version: int) -> bool:
        """Whether the run of this first *turn*, now of *version*, may have begun by other code."""
        started = beginning_of(turn)
        if started is None or started.definition_version != version:
            # Its first turn failed, or it was migrated: the history has to be looked at.
            return True
        registered = self._registry.find(started.definition, started.definition_version)
        return registered is not None and registered.decider.fingerprint != started.fingerprint
