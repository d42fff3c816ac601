"""What a command is given: its settings, its printer, and ways to the application, store and bus.

Commands that only read open the store alone and make no files; those that act send through the bus,
so that they work beside any number of workers on the same store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import UUID

from saga.adapters.opening import OpenedStore, open_store
from saga.app import SagaApp
from saga.console.application import load_app
from saga.console.printer import Printer
from saga.console.problems import NotSo
from saga.core.history import Entry
from saga.core.identity import SagaId, saga_id
from saga.errors import CorruptHistory, StoreUnavailable
from saga.ports import SagaSummary
from saga.service import Service
from saga.settings import Settings, file_of


@dataclass
class Session:
    """One call of one command."""

    settings: Settings
    printer: Printer

    @cached_property
    def app(self) -> SagaApp:
        """The application.

        Raises:
            AppRefused: it cannot be loaded.
        """
        return load_app(self.settings.app)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[OpenedStore]:
        """The store, for questions; it may be one that this user cannot write.

        Raises:
            StoreUnavailable: there is none, or it cannot be opened.
            StoreTooNew: a newer version wrote it.
        """
        must_exist(self.settings.store, "store")
        store = open_store(self.settings, is_to_write=False)
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[Service]:
        """Bus and store, without roles and without the application: for commands to sagas there
        are.

        Raises:
            StoreUnavailable, BusUnavailable: there is none, or it cannot be opened.
        """
        must_exist(self.settings.store, "store")
        must_exist(self.settings.bus, "bus")
        async with SagaApp().build_service(self.settings, roles=()) as service:
            yield service


def must_exist(address: str, what: str) -> None:
    """Raise StoreUnavailable where *address* names a file that is not there."""
    if not address.startswith(("sqlite:", "local:")):
        return
    path = Path(file_of(address))
    if not path.exists():
        raise StoreUnavailable(
            f"there is no {what} at {path}: nothing has run there yet. Start with `saga run` or "
            f"`saga publish`, or name another one with --{what} or SAGA_{what.upper()}"
        )


def saga_id_from(text: str) -> SagaId:
    """The saga that *text* means: a saga id, or `definition/key`.

    Raises:
        NotSo: it is neither.
    """
    definition, slash, key = text.partition("/")
    if slash:
        return saga_id(definition, key)
    try:
        return SagaId(str(UUID(text)))
    except ValueError:
        raise NotSo(
            f"{text!r} names no saga: give its id, or definition/key, for example order/4711"
        ) from None


async def find_saga(store: OpenedStore, text: str) -> SagaSummary:
    """The summary of the saga that *text* means.

    Raises:
        NotSo: there is none.
    """
    found = await store.catalogue.summaries([saga_id_from(text)])
    if not found:
        raise NotSo(f"there is no saga {text} (`saga ls` lists those that there are)")
    return found[0]


async def history_of(store: OpenedStore, saga: SagaId) -> list[Entry]:
    """The whole history of a saga that exists.

    Raises:
        CorruptHistory: it cannot be read.
    """
    history = (await store.store.load([saga])).get(saga, ())
    if isinstance(history, CorruptHistory):
        raise history
    return list(history)
