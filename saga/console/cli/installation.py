"""`config` and `store`: the settings of an installation, and the tables of its store.

Tables are migrated only here; but `saga run` makes them where there are none at all.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from saga.adapters.opening import owned_by, tables_of
from saga.adapters.whose import Serves
from saga.console.cli.output import ExitCode, Printer
from saga.console.cli.session import Session
from saga.settings import HIDDEN, PREFIX, Settings, redacted


def config_show(session: Session) -> None:
    """Print every setting with its value and the value's origin; secrets are hidden."""
    settings = session.settings
    values: dict[str, Any] = {name: _shown(value) for name, value in settings.model_dump().items()}
    values["effects_store"] = redacted(settings.effects_address)
    if session.printer.is_json:
        session.printer.json(values)
        return
    cells = [
        (PREFIX + name.upper(), str(values[name]), _origin(name, settings), field.description)
        for name, field in Settings.model_fields.items()
    ]
    session.printer.table(("setting", "value", "from", "meaning"), cells)


Adopts = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Have stores that serve another environment or namespace serve this one from now on.",
    ),
]


async def store_migrate(session: Session, *, adopt: Adopts = False) -> None:
    """Make the tables of the store, or bring them to the version that this saga needs."""
    for tables in tables_of(session.settings):
        before = await asyncio.to_thread(tables.migrate)
        _print(session.printer, tables.name, before, tables.needed, is_done=True)
    if adopt:
        await adopt_stores(session)


async def adopt_stores(session: Session) -> None:
    """Have the stores that are there serve the environment and namespace of the settings."""
    serves = Serves.of(session.settings)
    for store in await asyncio.to_thread(owned_by, session.settings):
        before = await asyncio.to_thread(store.whose)
        if before != serves:
            await asyncio.to_thread(store.adopt)
            served = f"and not {before} any more" if before else "and nobody else"
            session.printer.note(f"{store.name}: serves {serves} from now on, {served}")


async def store_status(session: Session) -> ExitCode:
    """Say which versions the store's tables have; exit 1 where some are not up to date."""
    is_ready = True
    for tables in tables_of(session.settings):
        stored = await asyncio.to_thread(tables.stored)
        _print(session.printer, tables.name, stored, tables.needed, is_done=False)
        is_ready &= stored == tables.needed
    return ExitCode.OK if is_ready else ExitCode.NOT_SO


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
    if name not in settings.model_fields_set:
        return "default"
    variable = os.environ.get(PREFIX + name.upper())
    return "environment" if str(getattr(settings, name)) == variable else "option"


def _print(printer: Printer, component: str, stored: int, needed: int, *, is_done: bool) -> None:
    if stored == needed:
        text = f"version {stored}, up to date"
    elif is_done:
        text = f"version {needed} now, {stored or 'nothing'} before"
    else:
        state = f"version {stored}" if stored else "no tables"
        text = f"{state}, needs version {needed}: run `saga store migrate`"
    row = {"component": component, "before" if is_done else "version": stored, "needed": needed}
    printer.result(row, f"{component}: {text}")
