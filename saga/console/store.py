"""`store`: which tables a PostgreSQL store has, and making those that this version of saga needs.

A file is migrated by whoever opens it; a database that several workers share only by somebody who
decides it, here. A database without any of our tables is the exception: `saga run` makes them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from saga.adapters.opening import components_of
from saga.console.printer import Printer
from saga.console.problems import ExitCode, Misused
from saga.console.session import Session

if TYPE_CHECKING:
    from saga.adapters.postgres import Address, Component


async def store_migrate(session: Session) -> None:
    """Make the tables of the store, or bring them to the version that this saga needs."""
    found = _components(session)
    from saga.adapters.postgres import migrate

    for address, component in found:
        before = await asyncio.to_thread(migrate, address, component)
        _tell(session.printer, component.name, before, component.version, is_done=True)


async def store_status(session: Session) -> ExitCode:
    """Say which versions the store's tables have; exit 1 where some are not up to date."""
    found = _components(session)
    from saga.adapters.postgres import stored_version

    code = ExitCode.OK
    for address, component in found:
        stored = await asyncio.to_thread(stored_version, address, component)
        _tell(session.printer, component.name, stored, component.version, is_done=False)
        if stored != component.version:
            code = ExitCode.NOT_SO
    return code


def _components(session: Session) -> list[tuple[Address, Component]]:
    found = components_of(session.settings)
    if not found:
        raise Misused(
            "store: SAGA_STORE names a file, which is brought up to date by whoever opens it; "
            "there is nothing to do. Name a database with --store postgresql://USER@HOST/DB"
        )
    return found


def _tell(printer: Printer, component: str, stored: int, needed: int, *, is_done: bool) -> None:
    if printer.is_json:
        key = "before" if is_done else "version"
        printer.json({"component": component, key: stored, "needed": needed})
        return
    if stored == needed:
        said = f"{component}: version {stored}, up to date"
    elif is_done:
        said = f"{component}: version {needed} now, {stored or 'nothing'} before"
    else:
        there = f"version {stored}" if stored else "no tables"
        said = f"{component}: {there}, needs version {needed}: run `saga store migrate`"
    printer.say(said)
