"""Databases and effects stores as the settings name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite.effects_store import SqliteEffectsStore
from saga.errors import SettingsError
from saga.ports.effects_store import EffectsStore
from saga.settings import Settings, file_of

if TYPE_CHECKING:
    from saga.adapters.postgres import Address, Component, PostgresDatabase


def open_effects_store(settings: Settings) -> EffectsStore:
    """The store of the effect services' inbox and tables; its `open` connects.

    Raises:
        SettingsError: the address needs something that is not there.
    """
    if not settings.effects_address.startswith("postgresql:"):
        path = file_in(settings.effects_address, "SAGA_EFFECTS_STORE")
        return SqliteEffectsStore(path, clock=SystemClock())
    address = effects_address(settings)
    from saga.adapters.postgres import PostgresEffectsStore

    return PostgresEffectsStore(address)


def effects_address(settings: Settings) -> Address:
    """The database of the effect services.

    Raises:
        SettingsError: the address cannot be read, or its driver is not installed.
    """
    if settings.effects_store is None:
        return postgres_address(settings.store, "SAGA_STORE", settings.store_password)
    return postgres_address(
        settings.effects_store, "SAGA_EFFECTS_STORE", settings.effects_store_password
    )


def components_of(settings: Settings) -> list[tuple[Address, Component]]:
    """All that saga keeps in databases, but for outboxes, and where.

    Raises:
        SettingsError: an address cannot be read, or its driver is not installed.
    """
    found: list[tuple[Address, Component]] = []
    if settings.store.startswith("postgresql:"):
        database = open_postgres(settings.store, "SAGA_STORE", settings.store_password)
        from saga.adapters.postgres import components

        found += [(database.address, component) for component in components(database)]
    if settings.effects_address.startswith("postgresql:"):
        address = effects_address(settings)
        from saga.adapters.postgres import INBOX

        found.append((address, INBOX))
    return found


def open_postgres(
    address: str, setting: str, password: SecretStr | None = None
) -> PostgresDatabase:
    """The database at *address*, to be connected to when it is first used; with *password*, where
    the address has none.

    Raises:
        SettingsError: the address cannot be read, or its driver is not installed.
    """
    there = postgres_address(address, setting, password)
    from saga.adapters.postgres import PostgresDatabase

    return PostgresDatabase(there)


def postgres_address(address: str, setting: str, password: SecretStr | None = None) -> Address:
    """Where a database is, and how to get there.

    Raises:
        SettingsError: the address cannot be read, or its driver is not installed.
    """
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


def file_in(address: str, setting: str) -> str:
    """The path of the file that *address* names.

    Raises:
        SettingsError: it names none.
    """
    scheme = address.split(":", 1)[0]
    if scheme not in ("local", "sqlite"):
        raise SettingsError(setting, f"{scheme}:// is not available in this version; use a file")
    return file_of(address)
