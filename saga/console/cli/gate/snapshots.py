"""`saga replay` uses no snapshots: behind it, each is compared with what its history gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from saga.adapters.opening import OpenedStore, open_store
from saga.audit.snapshots import compare_snapshots
from saga.console.cli.session import Session, closing, find_saga
from saga.core.identity import SagaId

PAGE_SAGAS: Final = 200


async def are_right(session: Session, store: OpenedStore, ids: Sequence[str] | None) -> bool:
    """Whether the snapshots of these sagas, or of all, are right; those that are not go."""
    wrong: dict[SagaId, str] = {}
    if ids:
        named = [(await find_saga(store, each)).saga_id for each in ids]
        wrong.update(await compare_snapshots(store.store, session.app.registry, named))
    else:
        after: SagaId | None = None
        while page := await store.catalogue.sagas(after=after, limit=PAGE_SAGAS):
            after = page[-1].saga_id
            running = [each.saga_id for each in page if not each.status.is_ended]
            wrong.update(await compare_snapshots(store.store, session.app.registry, running))
    for saga_id, problem in wrong.items():
        session.printer.note(f"the snapshot of saga {saga_id} is wrong, and is removed: {problem}")
    if wrong:
        async with closing(open_store(session.settings)) as writable:
            await writable.store.drop_snapshots(list(wrong))
        session.printer.note("restart the workers: a saga in their memory may have come from one")
    return not wrong
