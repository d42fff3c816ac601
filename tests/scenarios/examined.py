"""The examination after every scenario, of the files themselves."""

# ruff: noqa: SLF001 - what is in memory is nobody's business but the tests'

import sqlite3
from collections import Counter, defaultdict
from pathlib import Path

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import open_store
from saga.adapters.sqlite import LocalBus, SqliteDatabase
from saga.app import SagaApp
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.runtime.orchestrator import Orchestrator
from saga.settings import Settings, file_of
from tests.runtime import invariants
from tests.scenarios import order_app


async def histories_of(folder: Path) -> dict[SagaId, list[Entry]]:
    """Every history in the store, read through its log."""
    settings = Settings.read({}, **order_app.addresses(folder))
    parts = open_store(settings)
    found: dict[SagaId, list[Entry]] = defaultdict(list)
    async for _, entry in parts.catalogue.log():
        found[entry.saga_id].append(entry)
    await parts.close()
    return dict(found)


async def records_of(folder: Path, app: SagaApp, *, is_apart: bool):
    """Every record on the bus, by a group that has never read before."""
    settings = Settings.read({}, **order_app.addresses(folder, is_apart=is_apart))
    database = SqliteDatabase(file_of(settings.bus))
    bus = LocalBus(database, clock=SystemClock())
    consumer = await bus.subscribe("examiner", app.topics(settings.topic_names))
    records, quiet = [], 0
    while quiet < 2:
        page = await consumer.fetch(records_max=1_000, timeout_s=0.02)
        quiet = 0 if page else quiet + 1
        records += page
    await bus.close()
    await database.close()
    return records


async def examine(folder: Path, app: SagaApp, *, is_apart: bool) -> None:
    """Look at all files.

    Versions are gapless, and the code at hand decides what is recorded. All that is stored is
    published with the same bytes, and nothing else. No timer is armed for an ended saga. Effects
    are once.
    """
    settings = Settings.read({}, **order_app.addresses(folder))
    histories = await histories_of(folder)
    invariants.check_histories(app, histories)
    records = await records_of(folder, app, is_apart=is_apart)
    invariants.check_published(settings.topic_names, histories, records)
    parts = open_store(settings)
    armed = {timer.timer_id for timer in await parts.catalogue.timers(limit=10_000)}
    summaries = {summary.saga_id: summary for summary in await parts.catalogue.sagas(limit=10_000)}
    await parts.close()
    assert summaries.keys() == histories.keys()
    for saga_id, history in histories.items():
        state = invariants.rebuilt(app, history)
        summary = summaries[saga_id]
        assert summary.version == len(history)
        if state is None or summary.reason != state.reason:
            continue  # it cannot be brought to life here, and the index says so
        assert summary.status is state.status
        assert set(state.timers) == {
            timer_id for timer_id in armed if timer_id.startswith(f"{saga_id}/")
        }
    doubled = {effect: count for effect, count in effects(folder).items() if count > 1}
    assert not doubled


def check_live(service, histories) -> None:
    """The states in the memory of an idle service are those of the histories."""
    for role in service._roles:
        if isinstance(role, Orchestrator):
            live = role._turns._cache
            app_sagas = role._turns._cache._registry
            invariants.check_live(_Registry(app_sagas), live, histories)


class _Registry:
    """As much of an application as a replay needs."""

    def __init__(self, registry) -> None:
        self.registry = registry


def effects(folder: Path) -> Counter[tuple[str, str]]:
    """What the services have done, counted in their own table."""
    path = folder / "saga-effects.db"
    if not path.exists():
        return Counter()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT what, order_id FROM effects").fetchall()
    connection.close()
    return Counter(rows)
