"""`replay` uses no snapshots: it compares them with what histories give, and removes wrong ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from examples.machines.tasks.app import TaskCreated, app
from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.core.history import History
from saga.core.identity import SagaId
from saga.ports import Snapshot
from tests.console.conftest import call
from tests.patience import HANG_S


async def begun() -> SagaId:
    """A task that waits to be started, in the store of the working directory."""
    async with app.service() as service:
        saga = await service.start(TaskCreated(task_id="t-1", text="write it down"))
        await service.idle(timeout=HANG_S)
    return saga


async def kept(saga: SagaId, state: bytes | None = None) -> Snapshot | None:
    """The snapshot of *saga*; first one of *state* is kept, where that is given."""
    database = SqliteDatabase(Path(".saga") / "saga.db")
    store = SqliteEventStore(database)
    if state is not None:
        [registered] = app.registry.all().values()
        [history] = (await store.load([saga])).values()
        assert isinstance(history, History)
        snapshot = Snapshot(
            saga_id=saga,
            definition=registered.decider.name,
            definition_version=registered.decider.version,
            code=registered.decider.code,
            turns=history.turns,
            version=history.version,
            state=state,
        )
        await store.keep_snapshots([snapshot])
    found = (await store.snapshots([saga])).get(saga)
    await database.close()
    return found


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"{", "it cannot be read"),
        (orjson.dumps({"saga": {"state": {}, "program": {}}}), "its state is not what"),
    ],
)
def test_a_snapshot_that_is_wrong_is_told_of_and_removed(
    tmp_path, monkeypatch, state: bytes, problem: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGA_APP", "examples.machines.tasks.app:app")
    saga = asyncio.run(begun())
    assert asyncio.run(kept(saga, state)) is not None

    called = call("replay", "--json")
    again = call("replay", "--json")

    assert (called.code, called.rows[-1]["different"]) == (1, 0)
    assert f"the snapshot of saga {saga} is wrong, and is removed: {problem}" in called.err
    assert "restart the workers" in called.err
    assert asyncio.run(kept(saga)) is None
    assert (again.code, "snapshot" in again.err) == (0, False)
