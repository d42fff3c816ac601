"""`config` and `store`: the settings of an installation, and the tables of its store.

A file is migrated when it is opened. A database that several workers share is migrated only here,
when an operator decides it; but `saga run` makes the tables where there are none at all.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from saga.adapters.opening import components_of
from saga.console.cli.output import ExitCode, Misused, Printer
from saga.console.cli.session import Session
from saga.settings import HIDDEN, PREFIX, Settings, redacted

if TYPE_CHECKING:
    from saga.adapters.postgres import Address, Component


def config_show(session: Session) -> None:
    """Print every setting with its value and the value's origin; secrets are hidden."""
    settings = session.settings
    values: dict[str, Any] = {name: _shown(value) for name, value in settings.model_dump().items()}
    values["effects_store"] = redacted(settings.effects_address)
    if session.printer.is_json:
        session.printer.json(values)
        return
    session.printer.table(
        ("setting", "value", "from", "meaning"),
        [
            (
                PREFIX + name.upper(),
                str(values[name]),
                _origin(name, settings),
                field.description,
            )
            for name, field in Settings.model_fields.items()
        ],
    )


async def store_migrate(session: Session) -> None:
    """Make the tables of the store, or bring them to the version that this saga needs."""
    components = _components(session)
    from saga.adapters.postgres import migrate

    for address, component in components:
        before = await asyncio.to_thread(migrate, address, component)
        _print(session.printer, component.name, before, component.version, is_done=True)


async def store_status(session: Session) -> ExitCode:
    """Say which versions the store's tables have; exit 1 where some are not up to date."""
    components = _components(session)
    from saga.adapters.postgres import stored_version

    code = ExitCode.OK
    for address, component in components:
        stored = await asyncio.to_thread(stored_version, address, component)
        _print(session.printer, component.name, stored, component.version, is_done=False)
        if stored != component.version:
            code = ExitCode.NOT_SO
    return code


def _shown(value: object) -> object:
    match value:
        case SecretStr():
            return HIDDEN
        case Path():
            return str(value)
        case str():
            return redacted(value)
        case _:
            return value


def _origin(name: str, settings: Settings) -> str:
    variable = os.environ.get(PREFIX + name.upper())
    if name not in settings.model_fields_set:
        return "default"
    is_variable = variable is not None and str(getattr(settings, name)) == variable
    return "environment" if is_variable else "option"


def _components(session: Session) -> list[tuple[Address, Component]]:
    components = components_of(session.settings)
    if not components:
        raise Misused(
            "store: SAGA_STORE names a file, which is brought up to date when it is opened; "
            "there is nothing to do. Name a database with --store postgresql://USER@HOST/DB"
        )
    return components


def _print(printer: Printer, component: str, stored: int, needed: int, *, is_done: bool) -> None:
    if printer.is_json:
        key = "before" if is_done else "version"
        printer.json({"component": component, key: stored, "needed": needed})
        return
    if stored == needed:
        text = f"{component}: version {stored}, up to date"
    elif is_done:
        text = f"{component}: version {needed} now, {stored or 'nothing'} before"
    else:
        state = f"version {stored}" if stored else "no tables"
        text = f"{component}: {state}, needs version {needed}: run `saga store migrate`"
    printer.say(text)
