"""What happens before the first message: the service's own tables are made."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from saga.effects.effects import Starter
from saga.errors import DefinitionError, StoreUnavailable
from saga.ports.effects_store import BEGINNING, EffectsStore


async def run_starter(starter: Starter, store: EffectsStore, threads: Executor | None) -> None:
    """Call a function of `on_start`, in a transaction of its own.

    Raises:
        DefinitionError: it failed.
        StoreUnavailable: the store did.
    """
    # Tables that are made where there are none are made twice by two processes at once.
    unit = store.unit(alone=True)
    try:
        if starter.is_async:
            db = unit.db
            await db.fetch(BEGINNING)  # it may ask for the driver's connection first
            await starter.function(db)
        elif threads is None:
            starter.function(unit.thread_db)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(threads, starter.function, unit.thread_db)
    except Exception as error:
        unit.drop()
        if unit.is_broken:
            raise StoreUnavailable(f"on_start could not use the store: {error}") from error
        raise DefinitionError(
            f"on_start function {starter.function.__qualname__} failed:"
            f" {type(error).__name__}: {error}",
            where=starter.where,
        ) from error
    except BaseException:
        unit.drop()
        raise
    if unit.is_broken:
        unit.drop()
        raise StoreUnavailable("on_start could not use the store")
    await unit.keep(())
