"""A schema that differs is refused with what differs: no traceback, no endless wait."""

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest

from saga import SagaApp
from saga.adapters.postgres import Address, PostgresEffectsStore
from saga.adapters.sqlite import SqliteEffectsStore
from saga.errors import SchemaDiffers
from tests.console.conftest import call

APP = SagaApp()
IN_FILES = [
    ("ALTER TABLE stored_events RENAME COLUMN state TO body", "stored_events lacks state"),
    ("ALTER TABLE saga_index ADD COLUMN tenant TEXT", "saga_index has tenant TEXT"),
    ("DROP TABLE timers", "there is no table timers"),
    ("ALTER TABLE bus_topics DROP COLUMN retention_s", "bus_topics lacks retention_s INTEGER"),
    ("UPDATE saga_schema SET version = 'new'", "version 'new', which is none"),
    ("ALTER TABLE saga_schema RENAME COLUMN version TO number", "saga_schema is not saga's"),
]
ON_SERVERS = [
    ("ALTER TABLE stored_events RENAME COLUMN state TO body", "stored_events lacks state bytea"),
    ("ALTER TABLE timers ALTER COLUMN due_at TYPE text", "timers lacks due_at bigint"),
    ("DROP TABLE backlog", "there is no table backlog"),
    ("ALTER TABLE saga_schema RENAME COLUMN version TO number", "saga_schema lacks version"),
]


def serve(**place: str) -> None:
    async def live() -> None:
        async with APP.service(**place):
            pass

    asyncio.run(live())


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("change", "what"), IN_FILES)
def test_a_file_whose_tables_differ_is_refused(change, what):
    serve(bus="local:///a.db", store="sqlite:///a.db")
    with sqlite3.connect("a.db") as connection:
        connection.execute(change)
    connection.close()

    with pytest.raises(SchemaDiffers) as caught:
        serve(bus="local:///a.db", store="sqlite:///a.db")

    assert what in str(caught.value)
    assert "a.db" in str(caught.value)
    looks = () if "bus" in what else (("ls",), ("store", "status"))
    for command in (("run", "--until-idle"), ("doctor",), *looks):
        called = call(*command, "--bus", "local:///a.db", "--store", "sqlite:///a.db")
        assert called.code != 0, command


@pytest.mark.parametrize(("change", "what"), ON_SERVERS)
def test_a_database_whose_tables_differ_is_refused(postgres, change, what):
    serve(bus="local:///bus.db", store=postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(change)

    with pytest.raises(SchemaDiffers) as caught:
        serve(bus="local:///bus.db", store=postgres)

    assert what in str(caught.value)
    for command in (("run", "--until-idle"), ("ls",), ("doctor",), ("store", "status")):
        called = call(*command, "--bus", "local:///bus.db", "--store", postgres)
        assert called.code != 0, command


def test_a_file_of_another_program_is_left_as_it_is():
    with sqlite3.connect("theirs.db") as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = Path("theirs.db").read_bytes()

    for place in ({"store": "sqlite:///theirs.db"}, {"bus": "local:///theirs.db"}):
        with pytest.raises(
            SchemaDiffers, match="another program's file, with the tables bookmarks"
        ):
            serve(**({"bus": "local:///a.db", "store": "sqlite:///a.db"} | place))

    assert Path("theirs.db").read_bytes() == before


async def test_a_service_may_keep_its_inbox_in_a_file_of_its_own():
    """Beside its own tables: that is what `ctx.db` is for."""
    with sqlite3.connect("theirs.db") as connection:
        connection.execute("CREATE TABLE wallets (name TEXT)")
    connection.close()

    store = SqliteEffectsStore("theirs.db")
    await store.open()
    await store.close()


async def test_an_inbox_in_a_file_whose_tables_differ_is_refused():
    store = SqliteEffectsStore("inbox.db")
    await store.open()
    await store.close()
    with sqlite3.connect("inbox.db") as connection:
        connection.execute("ALTER TABLE saga_inbox DROP COLUMN digest")
    connection.close()

    with pytest.raises(SchemaDiffers, match="saga_inbox lacks digest BLOB"):
        await SqliteEffectsStore("inbox.db").open()


async def test_an_inbox_on_a_server_whose_tables_differ_is_refused(postgres):
    store = PostgresEffectsStore(Address(postgres))
    await store.open()
    await store.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("ALTER TABLE saga_inbox DROP COLUMN digest")

    with pytest.raises(SchemaDiffers, match="saga_inbox lacks digest bytea"):
        await PostgresEffectsStore(Address(postgres)).open()
