"""Sagas that several workers start at once in one file, from several topics: each begins once."""

import asyncio
import sqlite3
from contextlib import closing
from itertools import cycle
from pathlib import Path

import pytest

from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore, connection
from saga.errors import HistoryConflict
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.first_triggers import (
    KEYS,
    TOPICS,
    check_each_began_once,
    start_all,
    start_all_though_killed,
)


async def check(path: Path, store: SqliteEventStore) -> None:
    """Each saga began once, and nothing else is there: no row of a saga that was refused."""
    await check_each_began_once(store)
    with closing(sqlite3.connect(path)) as file:
        counted = file.execute(
            "SELECT (SELECT count(*) FROM stored_events), (SELECT count(*) FROM saga_index), "
            "(SELECT count(*) FROM saga_index JOIN stored_events "
            "ON originator_id = printf('%032x', number))"
        ).fetchone()
    assert counted == (KEYS, KEYS, KEYS)


async def test_processes_that_are_killed_start_each_saga_once(
    path: Path, database: SqliteDatabase
) -> None:
    """Two processes, each on its own topic, killed again and again at whichever moment it is."""
    store = SqliteEventStore(database)

    lives = await asyncio.gather(*(start_all_though_killed(str(path), topic) for topic in TOPICS))

    assert min(lives) > 1
    await check(path, store)


class CutConnection(sqlite3.Connection):
    """A connection that loses the answer to some commits; whether they are done is in *cuts*."""

    cuts = cycle([None])
    lost = 0

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        is_done = next(CutConnection.cuts) if sql == "COMMIT" else None
        if is_done is None:
            return super().execute(sql, *args)
        super().execute("COMMIT" if is_done else "ROLLBACK")
        CutConnection.lost += 1
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error


@pytest.mark.parametrize("cuts", [(True,), (False,), (True, False, None)], ids=str)
async def test_lost_answers_start_no_saga_twice(
    path: Path,
    database: SqliteDatabase,
    cuts: tuple[bool | None, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers whose commits end in errors: they know which beginnings are theirs."""
    store = SqliteEventStore(database)
    real = sqlite3.connect
    monkeypatch.setattr(CutConnection, "lost", 0)

    with monkeypatch.context() as patch:
        patch.setattr(
            connection.sqlite3,
            "connect",
            lambda *args, **options: real(*args, **options, factory=CutConnection),
        )
        files = [SqliteDatabase(path) for _ in TOPICS]
        stores = [SqliteEventStore(file) for file in files]
        patch.setattr(CutConnection, "cuts", cycle([*cuts, None]))
        await asyncio.gather(*map(start_all, stores, TOPICS))
    for file in files:
        await file.close()

    assert CutConnection.lost > 0
    await check(path, store)


async def test_a_second_saga_of_an_id_is_a_conflict_that_names_it(
    path: Path, database: SqliteDatabase
) -> None:
    """Its number would be another one: it is the saga's own id that is refused."""
    store = SqliteEventStore(database)
    await store.append(samples.batch(samples.history(saga(1), cause="left")), at=MOMENT)
    second = SqliteDatabase(path)
    other = SqliteEventStore(second)
    batch = samples.batch(samples.history(saga(2)), samples.history(saga(1), cause="right"))

    with pytest.raises(HistoryConflict) as conflict:
        await other.append(batch, at=MOMENT)

    assert conflict.value.saga_ids == (saga(1),)
    assert list(await other.load([saga(1), saga(2)])) == [saga(1)]
    await second.close()
