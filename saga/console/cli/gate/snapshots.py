"""Removing the snapshots that a replay has found to be wrong: all else it only reads."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final, Self

from saga.adapters.opening import OpenedStore, open_store
from saga.audit.snapshots import Comparison
from saga.console.cli.gate.verdicts import Verdict
from saga.console.cli.session import Session, closing
from saga.core.identity import SagaId
from saga.errors import SagaError

RESTART: Final = "restart the workers: a saga in their memory may have come from a wrong snapshot"


class Removal:
    """A context manager; the store is opened to be written when the first one is found."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._opened = AsyncExitStack()
        self._store: OpenedStore | None = None
        self._why_not: str | None = None
        self._has_found = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._has_found:
            self._session.printer.note(RESTART)
        await self._opened.aclose()

    async def remove_where_wrong(self, verdict: Verdict) -> None:
        """Tell of it, too; where the store may not be written, the snapshot stays."""
        compared = verdict.snapshot
        if compared is None or not verdict.has_wrong_snapshot:
            return
        self._has_found = True
        try:
            if self._why_not is None:
                await self._remove(verdict)
        except SagaError as error:
            self._why_not = str(error)
        so = "is removed" if self._why_not is None else f"stays ({self._why_not})"
        text = f"the snapshot of saga {verdict.saga_id} is wrong, and {so}: {_told(compared)}"
        self._session.printer.note(text)

    async def _remove(self, verdict: Verdict) -> None:
        if self._store is None:
            opened = closing(open_store(self._session.settings))
            self._store = await self._opened.enter_async_context(opened)
        await self._store.store.drop_snapshots([SagaId(verdict.saga_id)])


def _told(compared: Comparison) -> str:
    place = "" if compared.where is None else f" (at {compared.where})"
    return f"{compared.problem}{place}"
