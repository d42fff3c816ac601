"""How tables come to be, whose they are, and what is refused."""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.persistence import StoredEvent, Tracking
from eventsourcing.postgres import PostgresProcessRecorder
from psycopg import Cursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from saga.adapters.mapper import TURN, to_entries, to_state
from saga.adapters.postgres import (
    EVENT_STORE,
    Address,
    PostgresCatalogue,
    PostgresDatabase,
    PostgresEventStore,
    migrate,
    stored_version,
)
from saga.adapters.postgres.schema import prepare
from saga.errors import SettingsError, StoreTooNew, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import HistoryAppend
from saga.testing import samples
from saga.testing.samples import MOMENT, saga


@pytest.fixture
def address(postgres: str) -> Address:
    """An empty database's."""
    return Address(postgres)


async def test_migrating_twice_at_once_is_migrating_once(address: Address) -> None:
    """Several processes that start on an empty database do not get into each other's way."""
    before = await asyncio.gather(
        *(asyncio.to_thread(migrate, address, EVENT_STORE) for _ in range(4))
    )

    assert sorted(before) == [0, *[EVENT_STORE.version] * 3]
    assert stored_version(address, EVENT_STORE) == EVENT_STORE.version


async def test_a_migration_that_fails_leaves_what_was_there(address: Address) -> None:
    """All of it is one transaction."""

    def fails(cursor: object, make: object) -> None:
        raise ZeroDivisionError

    migrate(address, EVENT_STORE)
    newer = replace(EVENT_STORE, migrations=(*EVENT_STORE.migrations, fails))

    with pytest.raises(ZeroDivisionError):
        migrate(address, newer)

    assert stored_version(address, EVENT_STORE) == EVENT_STORE.version


async def test_a_newer_store_is_refused(run, store: PostgresEventStore) -> None:
    """By name of the versions, and nothing is touched."""
    run("UPDATE saga_schema SET version = 7")

    with pytest.raises(StoreTooNew, match=f"version 7, .* knows up to {EVENT_STORE.version}"):
        PostgresEventStore(store.database)


async def test_an_older_store_is_left_to_whoever_decides(address: Address) -> None:
    """`run` does not migrate under other workers' feet; it says what to type, and that helps."""

    def add(cursor: Cursor[Any], make: object) -> None:
        cursor.execute("CREATE TABLE added (id integer)")

    newer = replace(EVENT_STORE, migrations=(*EVENT_STORE.migrations, add))
    prepare(address, EVENT_STORE, make=True)

    here, needed = EVENT_STORE.version, newer.version
    with pytest.raises(StoreUnavailable, match=f"version {here}, this saga needs {needed}: run `s"):
        prepare(address, newer, make=True)

    assert migrate(address, newer) == here
    prepare(address, newer, make=False)


async def test_a_table_that_came_later_is_made_beside_workers_that_do_without(
    run, address: Address
) -> None:
    """The version stays, by which older workers know the store; whoever only reads is told."""
    prepare(address, EVENT_STORE, make=True)
    run("DROP TABLE saga_snapshots")

    with pytest.raises(StoreUnavailable, match="no table 'saga_snapshots', which came with this"):
        prepare(address, EVENT_STORE, make=False)
    prepare(address, EVENT_STORE, make=True)
    prepare(address, EVENT_STORE, make=False)

    run("DROP TABLE saga_snapshots")
    assert migrate(address, EVENT_STORE) == EVENT_STORE.version
    prepare(address, EVENT_STORE, make=False)
    older = replace(EVENT_STORE, added={}, tables={"saga_ids": EVENT_STORE.tables["saga_ids"]})
    prepare(address, older, make=False)


async def test_whoever_only_reads_makes_no_tables(run, database: PostgresDatabase) -> None:
    """A question to an empty database is answered with what to do."""
    with pytest.raises(StoreUnavailable, match="nothing has run there yet"):
        PostgresEventStore(database, make=False)

    assert run("SELECT FROM pg_class WHERE relname LIKE 'saga%'") == []


async def test_whoever_only_reads_needs_no_right_to_write(
    postgres: str, store: PostgresEventStore, run
) -> None:
    """Questions are answered to a user with SELECT alone, as on a standby."""
    await store.append(
        samples.batch(samples.history(saga(1), 0), summaries=[samples.summary(saga(1))]),
        at=MOMENT,
    )
    reader = f"reader_{secrets.token_hex(4)}"
    run(f"CREATE ROLE {reader} LOGIN PASSWORD 'reads'")
    run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    run(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {reader}")
    options = "-c default_transaction_read_only=on"
    address = make_conninfo(postgres, user=reader, password="reads", options=options)
    database = PostgresDatabase(Address(address))
    try:
        read = PostgresEventStore(database, make=False)
        catalogue = PostgresCatalogue(database)
        assert [one.saga_id for one in await catalogue.sagas()] == [saga(1)]
        assert list((await read.load([saga(1)]))[saga(1)]) == samples.entries(saga(1), 0)
        assert [entry.version async for _, entry in catalogue.log()] == [1, 2]
        with pytest.raises(StoreUnavailable):
            await read.append(samples.batch(samples.history(saga(2), 0)), at=MOMENT)
    finally:
        await database.close()
        run(f"DROP OWNED BY {reader}")
        run(f"DROP ROLE {reader}")


async def test_somebody_elses_tables_are_not_taken(run, database: PostgresDatabase) -> None:
    """Another program that uses eventsourcing may have its events there."""
    run("CREATE TABLE stored_events (id integer)")

    with pytest.raises(StoreUnavailable, match="saga did not make"):
        PostgresEventStore(database)


async def test_the_library_reads_and_writes_the_same_tables(
    store: PostgresEventStore, catalogue: PostgresCatalogue, library: PostgresProcessRecorder
) -> None:
    """Its own recorder, unchanged, works beside ours; what it writes is no saga of ours."""
    await store.append(
        samples.batch(samples.history(saga(1)), positions={Source("t", 0): 3}), at=MOMENT
    )
    await store.append(samples.batch(samples.history(saga(2), 0, 2)), at=MOMENT)
    third = stored_events(samples.history(saga(3), 0, 2))
    library.insert_events(third, tracking=Tracking("bus:t:0", 4))

    notifications = library.select_notifications(1, 10)
    assert [each.id for each in notifications] == [1, 2, 3, 4, 5]
    assert [each.originator_version for each in notifications] == [1, 1, 2, 1, 2]
    assert {each.topic for each in notifications} == {"turn"}
    assert notifications[0].originator_id < notifications[1].originator_id
    second = library.select_events(notifications[1].originator_id)
    turns = [to_entries(saga(2), each.topic, each.state) for each in second]
    assert [entry for turn in turns for entry in turn] == samples.entries(saga(2), 0, 4)
    assert library.select_events(third[0].originator_id) == third
    assert await store.positions([Source("t", 0)]) == {Source("t", 0): 4}
    assert {entry.saga_id async for _, entry in catalogue.log()} == {saga(1), saga(2)}


def stored_events(*histories: HistoryAppend) -> list[StoredEvent]:
    """What the library would have stored of these turns."""
    return [
        StoredEvent(UUID(history.saga_id), number, TURN, to_state(turn))
        for history in histories
        for number, turn in enumerate(history.turns, 1)
    ]


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "\x10", "\x10\x00\x100", "é\U0001f600", ""])
async def test_any_text_survives(
    store: PostgresEventStore, catalogue: PostgresCatalogue, text: str
) -> None:
    """PostgreSQL keeps no NUL in text; what a message says is kept all the same."""
    summary = samples.summary(saga(1), reason=text, definition=text)
    timer = samples.timer(saga(1), text, 5)
    await store.append(
        samples.batch(
            samples.history(saga(1)),
            positions={Source(text, 0): 1},
            summaries=[summary],
            timers_armed=[timer],
        ),
        at=MOMENT,
    )

    assert await catalogue.sagas(definition=text) == [summary]
    assert await catalogue.timers() == [timer]
    assert await store.positions([Source(text, 0)]) == {Source(text, 0): 1}


async def test_text_that_is_none_is_refused_and_harms_nobody(store: PostgresEventStore) -> None:
    """Half of a surrogate pair has no bytes."""
    half = samples.batch(samples.history(saga(1)), summaries=[
        samples.summary(saga(1), reason="\ud800")
    ])  # fmt: skip
    for _ in range(store.database.connections_max + 1):
        with pytest.raises(UnicodeEncodeError):
            await store.append(half, at=MOMENT)

    await store.append(samples.batch(samples.history(saga(1))), at=MOMENT)


async def test_a_database_that_cannot_keep_all_text_is_refused(postgres: str, run) -> None:
    """Its encoding is looked at before anything is written."""
    name = conninfo_to_dict(postgres)["dbname"]
    run(f"CREATE DATABASE {name}_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        latin = PostgresDatabase(Address(postgres.replace(f"/{name}", f"/{name}_latin")))
        with pytest.raises(StoreUnavailable, match="LATIN1"):
            PostgresEventStore(latin)
    finally:
        run(f"DROP DATABASE {name}_latin WITH (FORCE)")


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://saga:hunter2@127.0.0.1:1/db",
        "postgresql://saga:hunter2@127.0.0.1:1/db?hunter2=1",
        "host=127.0.0.1 port=1 password=hunter2 hunter2",
        "postgresql://saga:hunter2@[127.0.0.1:1/db",
    ],
)
async def test_passwords_are_never_said(conninfo: str) -> None:
    """Not by an error, its causes or a name, whether the address can be read or not."""

    def use() -> None:
        address = Address(conninfo)
        assert "hunter2" not in f"{address!r} {address.name}"
        PostgresEventStore(PostgresDatabase(address))

    with pytest.raises((SettingsError, StoreUnavailable)) as caught:
        use()

    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__


async def test_a_password_may_be_asked_for(postgres: str, tmp_path: Path) -> None:
    """Where the address has none it is asked for at each connect, and may change."""
    given = conninfo_to_dict(postgres)
    (tmp_path / "secret").write_text(str(given.pop("password", "")))
    bare = " ".join(f"{name}={value}" for name, value in given.items())
    asked = Address(bare, password=(tmp_path / "secret").read_text)

    with asked.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
