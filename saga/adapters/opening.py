"""From addresses to ports: the only place that knows which adapter an address means.

A driver is imported when it is asked for. All functions raise `SettingsError` where an address
cannot be read or its driver is not installed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import field
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite import (
    LocalBus,
    SqliteCatalogue,
    SqliteDatabase,
    SqliteEffectsStore,
    SqliteEventStore,
    SqliteStatistics,
)
from saga.adapters.sqlite.inbox import COMPONENT as INBOX
from saga.adapters.sqlite.inbox import MIGRATIONS as INBOX_MIGRATIONS
from saga.adapters.sqlite.schema import (
    COMPONENT,
    STORE_VERSION,
    component_version,
    migrate_store,
    stored_store_version,
)
from saga.adapters.sqlite.whose import INBOX_FACTS, STORE_FACTS, adopt_file, whose_file
from saga.adapters.whose import Serves, refuse_others
from saga.core.values import value
from saga.errors import SettingsError
from saga.ports import Bus, Catalogue, Store
from saga.ports.effects_store import EffectsStore
from saga.ports.store import StatisticsReader
from saga.settings import Settings, file_of

if TYPE_CHECKING:
    from saga.adapters.kafka import KafkaBus
    from saga.adapters.postgres import Address, Component, PostgresDatabase

Close = Callable[[], Awaitable[None]]
log = logging.getLogger(__name__)
Prepare = Callable[[], Awaitable[None]]


async def _nothing_to_prepare() -> None:
    pass


@value
class OpenedBus:
    bus: Bus
    close: Close
    files: Sequence[SqliteDatabase] = ()


@value
class OpenedStore:
    """*files* are the SQLite files that the store has open.

    *prepare* sees to its tables, where it was opened without; before that it is not to be used.
    """

    store: Store
    catalogue: Catalogue
    statistics: StatisticsReader
    close: Close
    files: Sequence[SqliteDatabase]
    prepare: Prepare = field(default=_nothing_to_prepare, kw_only=True)


@value
class Opened:
    """A bus and a store; *files* are the SQLite files that they have open."""

    bus: Bus
    store: Store
    catalogue: Catalogue
    statistics: StatisticsReader
    close_bus: Close
    close_store: Close
    files: Sequence[SqliteDatabase]
    prepare: Prepare = field(default=_nothing_to_prepare, kw_only=True)

    async def close(self) -> None:
        async with AsyncExitStack() as closers:
            closers.push_async_callback(self.close_store)
            closers.push_async_callback(self.close_bus)

    def abandon(self) -> None:
        """Let go of the files, where nothing has been done with them."""
        for file in self.files:
            file.abandon()


@value
class Tables:
    """Both functions block; *stored* gives 0 without tables, *migrate* the old version."""

    name: str
    needed: int
    stored: Callable[[], int]
    migrate: Callable[[], int]


@value
class Owned:
    """A store that remembers whom it serves; both functions block.

    *whose* gives None where it does not say, *adopt* has it serve us.
    """

    name: str
    whose: Callable[[], Serves | None]
    adopt: Callable[[], None]


def open_bus(settings: Settings) -> OpenedBus:
    """Call it in the event loop that will use the bus."""
    if settings.bus.startswith("kafka:"):
        kafka = open_kafka(settings)
        return OpenedBus(kafka, kafka.close)
    database = SqliteDatabase(file_in(settings.bus, "SAGA_BUS"))
    with _let_go_on_error(database):
        local = _local_bus(settings, database)
        return OpenedBus(local, _closing(local.close, database.close), [database])


def open_store(
    settings: Settings, *, make: bool = False, is_to_write: bool = True, may_be_away: bool = False
) -> OpenedStore:
    """Raises `StoreUnavailable` and `StoreRefused`, as `open_bus_and_store`.

    Args:
        make: whether to make the tables of a server's database that has none; files are made.
        is_to_write: otherwise a file will do that can only be read, and a store that serves others.
        may_be_away: leave a server alone until `prepare`.
    """
    serves = Serves.of(settings) if is_to_write else None
    if settings.store.startswith("postgresql:"):
        server = open_postgres(settings)
        from saga.adapters.postgres import PostgresCatalogue, PostgresEventStore, PostgresStatistics

        store = PostgresEventStore(server, make=make, serves=serves, may_be_away=may_be_away)
        return OpenedStore(
            store,
            PostgresCatalogue(server),
            PostgresStatistics(server),
            server.close,
            (),
            prepare=store.prepare if may_be_away else _nothing_to_prepare,
        )
    database = SqliteDatabase(file_in(settings.store, "SAGA_STORE"), is_to_write=is_to_write)
    with _let_go_on_error(database):
        return OpenedStore(
            SqliteEventStore(database, serves=serves),
            SqliteCatalogue(database),
            SqliteStatistics(database),
            database.close,
            [database],
        )


def open_bus_and_store(settings: Settings, *, may_be_away: bool = False) -> Opened:
    """A bus and a store in one file share its transactions; *may_be_away* as in `open_store`.

    Raises:
        StoreUnavailable: a file cannot be opened.
        StoreRefused: the store is not one for this program.
    """
    if settings.is_one_file:
        database = SqliteDatabase(file_in(settings.store, "SAGA_STORE"))
        with _let_go_on_error(database):
            bus = _local_bus(settings, database)
            return Opened(
                bus,
                SqliteEventStore(database, publish_through=bus, serves=Serves.of(settings)),
                SqliteCatalogue(database),
                SqliteStatistics(database),
                close_bus=bus.close,
                close_store=database.close,
                files=[database],
            )
    opened = open_store(settings, make=True, may_be_away=may_be_away)
    with _let_go_on_error(*opened.files):
        opened_bus = open_bus(settings)
    return Opened(
        opened_bus.bus,
        opened.store,
        opened.catalogue,
        opened.statistics,
        close_bus=opened_bus.close,
        close_store=opened.close,
        files=[*opened.files, *opened_bus.files],
        prepare=opened.prepare,
    )


def open_kafka(settings: Settings) -> KafkaBus:
    if not settings.bus.startswith("kafka:"):
        raise SettingsError("SAGA_BUS", "names no Kafka; expected kafka://HOST:PORT,…")
    try:
        from saga.adapters.kafka import open_bus as open_kafka_bus
    except ImportError as error:
        raise SettingsError(
            "SAGA_BUS",
            f"kafka:// needs more than is installed ({error.name}): pip install saga[kafka]",
        ) from error
    _warn(settings)
    return open_kafka_bus(settings)


def open_postgres(settings: Settings) -> PostgresDatabase:
    """Connects on the first use."""
    address = store_address(settings)
    from saga.adapters.postgres import PostgresDatabase

    return PostgresDatabase(address)


def open_effects_store(settings: Settings, *, beside: Opened | None = None) -> EffectsStore:
    """Its `open` connects; a database of *beside* that is the same file is shared.

    A bus and a store in one file keep answers there, unless an address says where all rows go.
    """
    if not settings.effects_address.startswith("postgresql:"):
        path = file_in(settings.effects_address, "SAGA_EFFECTS_STORE")
        files = [] if beside is None else beside.files
        shared = next((database for database in files if database.is_at(path)), None)
        bus = None if beside is None else beside.bus
        is_with_bus = settings.is_one_file and (shared or settings.effects_store is None)
        return SqliteEffectsStore(
            shared or path,
            beside=None if shared else _file_of_store(settings, files),
            publish_through=bus if is_with_bus and isinstance(bus, LocalBus) else None,
            serves=Serves.of(settings),
        )
    address = effects_address(settings)
    from saga.adapters.postgres import PostgresEffectsStore

    return PostgresEffectsStore(address, serves=Serves.of(settings))


def check_answers(settings: Settings) -> None:
    """Raise StoreRefused where the store's file has an inbox that does not fit; blocks."""
    if not settings.store.startswith("sqlite:"):
        return
    path, needed = file_in(settings.store, "SAGA_STORE"), len(INBOX_MIGRATIONS)
    if component_version(path, INBOX, needed) == needed:  # an older one is brought over in use
        database = SqliteDatabase(path, is_to_write=False)
        try:
            database.migrate(INBOX, INBOX_MIGRATIONS)
        finally:
            database.abandon()


def _file_of_store(settings: Settings, files: Sequence[SqliteDatabase]) -> SqliteDatabase | None:
    if not settings.store.startswith("sqlite:"):
        return None
    path = file_in(settings.store, "SAGA_STORE")
    return next((database for database in files if database.is_at(path)), None)


def tables_of(settings: Settings) -> list[Tables]:
    """All but those of buses and outboxes."""
    tables: list[Tables] = []
    if settings.store.startswith("postgresql:"):
        address = store_address(settings)
        from saga.adapters.postgres import EVENT_STORE

        tables.append(_tables_on_server(address, EVENT_STORE))
    else:
        path = file_in(settings.store, "SAGA_STORE")
        stored, migrate = partial(stored_store_version, path), partial(migrate_store, path)
        tables.append(Tables("event store", STORE_VERSION, stored=stored, migrate=migrate))
    if settings.effects_address.startswith("postgresql:"):
        address = effects_address(settings)
        from saga.adapters.postgres import INBOX

        tables.append(_tables_on_server(address, INBOX))
    return tables


def owned_by(settings: Settings) -> list[Owned]:
    """The event store and the effects store, where they are there."""
    owned: list[Owned] = []
    if settings.store.startswith("postgresql:"):
        from saga.adapters.postgres import EVENT_STORE

        owned += _owned_on_server(store_address(settings), EVENT_STORE, Serves.of(settings))
    else:
        path = file_in(settings.store, "SAGA_STORE")
        owned += _owned_in_file(path, "event store", STORE_FACTS, Serves.of(settings))
    if settings.effects_address.startswith("postgresql:"):
        from saga.adapters.postgres import INBOX

        owned += _owned_on_server(effects_address(settings), INBOX, Serves.of(settings))
    else:
        path = file_in(settings.effects_address, "SAGA_EFFECTS_STORE")
        owned += _owned_in_file(path, "effects store", INBOX_FACTS, Serves.of(settings))
    return owned


def refuse_stores_of_others(settings: Settings) -> None:
    """Raise StoreForeign where a store that is there serves others; blocks."""
    for store in owned_by(settings):
        refuse_others(store.name, Serves.of(settings), store.whose())


def _owned_on_server(address: Address, component: Component, serves: Serves) -> Iterator[Owned]:
    from saga.adapters.postgres import stored_version
    from saga.adapters.postgres.whose import adopt, whose

    if stored_version(address, component):
        asking = partial(whose, address, component.facts)
        adopting = partial(adopt, address, component.facts, serves)
        yield Owned(component.name, asking, adopting)


def _owned_in_file(path: str, name: str, table: str, serves: Serves) -> Iterator[Owned]:
    component = COMPONENT if table == STORE_FACTS else INBOX
    if component_version(path, component):
        asking = partial(whose_file, path, table)
        yield Owned(name, asking, partial(adopt_file, path, table, serves))


def _tables_on_server(address: Address, component: Component) -> Tables:
    from saga.adapters.postgres import migrate, stored_version

    return Tables(
        component.name,
        component.version,
        stored=partial(stored_version, address, component),
        migrate=partial(migrate, address, component),
    )


def store_address(settings: Settings) -> Address:
    _warn(settings)
    return _address(settings.store, "SAGA_STORE", settings.store_password)


def effects_address(settings: Settings) -> Address:
    """The event store's, unless effect services have one of their own."""
    if settings.effects_store is None:
        return store_address(settings)
    _warn(settings)
    password = settings.effects_store_password
    return _address(settings.effects_store, "SAGA_EFFECTS_STORE", password)


def outbox_address(settings: Settings) -> Address:
    if settings.outbox is None:
        raise SettingsError("SAGA_OUTBOX", "name the database: postgresql://USER@HOST/DB")
    _warn(settings)
    return _address(settings.outbox, "SAGA_OUTBOX", settings.outbox_password)


def _address(address: str, setting: str, password: SecretStr | None) -> Address:
    """*password* is for an address that has none."""
    try:
        from saga.adapters.postgres import Address
    except ImportError as error:
        raise SettingsError(
            setting,
            f"postgresql:// needs more than is installed ({error.name or error}): "
            "pip install saga[postgres]",
        ) from error
    secret = None if password is None else password.get_secret_value
    return Address(address, setting=setting, password=secret)


def _warn(settings: Settings) -> None:
    """Say what is doubtful about *settings*, once in a process."""
    for doubt in settings.doubts():
        _warn_once(doubt)


@lru_cache(maxsize=100)
def _warn_once(doubt: str) -> None:
    log.warning("%s", doubt)


def file_in(address: str, setting: str) -> str:
    scheme = address.split(":", 1)[0]
    if scheme not in ("local", "sqlite"):
        raise SettingsError(setting, f"{scheme}:// is not available in this version; use a file")
    return file_of(address)


def _local_bus(settings: Settings, database: SqliteDatabase) -> LocalBus:
    return LocalBus(database, clock=SystemClock(), record_bytes_max=settings.record_bytes_max)


def _closing(*closers: Close) -> Close:
    """All of them in this order, whatever one of them raises."""

    async def close() -> None:
        async with AsyncExitStack() as stack:
            for each in reversed(closers):
                stack.push_async_callback(each)

    return close


@contextmanager
def _let_go_on_error(*files: SqliteDatabase) -> Iterator[None]:
    """Where what is made of *files* cannot be made, nothing of them is left open."""
    with ExitStack() as undone:
        for file in files:
            undone.callback(file.abandon)
        yield
        undone.pop_all()
