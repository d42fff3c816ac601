"""Handlers on a PostgreSQL that cuts them off, crashes, ends their transactions or has
other ideas.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import psycopg
import pytest

from infra import Postgres
from saga.adapters.postgres import Address, PostgresEffectsStore
from saga.adapters.postgres.effects import PostgresUnit
from saga.core.events import ReplyOutcome
from saga.errors import StoreTooNew, StoreUnavailable, TransactionEnded
from saga.ports.effects_store import InboxWrite
from saga.testing.effects_store_suite import SERVICE, inbox_row, keep_rows, things_in
from tests.patience import until
from tests.proxy import Cut, Proxy

CREATE_THINGS = "CREATE TABLE things (name text, size bigint)"
INSERT = "INSERT INTO things VALUES (:name, 1)"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresEffectsStore]:
    """A store as another process would open it."""
    store = PostgresEffectsStore(Address(url))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(postgres: str, run) -> AsyncIterator[PostgresEffectsStore]:
    """A store with an empty table of a service's own."""
    run(CREATE_THINGS)
    async with opened(postgres) as store:
        yield store


@pytest.fixture
async def proxied(proxy: Proxy, store: PostgresEffectsStore) -> AsyncIterator[PostgresEffectsStore]:
    """The same once more, through a proxy."""
    async with opened(proxy.url) as through_proxy:
        yield through_proxy


async def names(store: PostgresEffectsStore) -> list[object]:
    """What handlers have written."""
    return [thing["name"] for thing in await things_in(store)]


async def test_a_lost_answer_to_a_handlers_commit_is_found_out_to_be_success(
    proxy: Proxy, proxied: PostgresEffectsStore
) -> None:
    """The connection is cut after COMMIT: the inbox tells that the handler was there."""
    unit = proxied.unit()
    await unit.db.execute(INSERT, name="a")
    proxy.cut_next(Cut.AFTER)

    assert not await keep_rows(unit, inbox_row("k"))

    assert proxy.cuts == 1
    assert await names(proxied) == ["a"]
    assert await proxied.kept(SERVICE, ["k"]) == {"k": inbox_row("k")}


async def test_a_commit_that_never_arrived_is_told_as_not_kept(
    proxy: Proxy, proxied: PostgresEffectsStore
) -> None:
    """Neither the writes nor the row are there, and the handler may be called again."""
    unit = proxied.unit()
    await unit.db.execute(INSERT, name="a")
    proxy.cut_next(Cut.BEFORE)

    assert list(await keep_rows(unit, inbox_row("k"))) == [unit]

    assert await names(proxied) == []
    assert await proxied.kept(SERVICE, ["k"]) == {}
    again = proxied.unit()
    await again.db.execute(INSERT, name="a")
    assert not await keep_rows(again, inbox_row("k"))
    assert await names(proxied) == ["a"]


@pytest.mark.parametrize("cut", Cut)
async def test_rows_alone_are_kept_whatever_became_of_their_commit(
    proxy: Proxy, proxied: PostgresEffectsStore, cut: Cut
) -> None:
    """They are written again where they are not there, and only then."""
    proxy.cut_next(cut)

    kept = await asyncio.gather(*(keep_rows(proxied.unit(), inbox_row(key)) for key in "abc"))

    assert (proxy.cuts, list(map(list, kept))) == (1, [[], [], []])
    assert set(await proxied.kept(SERVICE, [*"abc"])) == set("abc")


@pytest.mark.parametrize("has_written", [True, False])
async def test_who_gives_up_waiting_does_not_stop_a_commit(
    store: PostgresEffectsStore, *, has_written: bool
) -> None:
    """Nor the commits of those who end later."""
    unit, later = store.unit(), store.unit()
    if has_written:
        await unit.db.execute(INSERT, name="a")
    unit.keep([InboxWrite(inbox_row("k"))]).cancel()
    await asyncio.sleep(0)

    assert not await keep_rows(later, inbox_row("later"))
    await store.close()
    async with opened(store.address.conninfo) as again:
        assert set(await again.kept(SERVICE, ["k", "later"])) == {"k", "later"}


async def test_connections_that_died_while_they_were_idle_are_replaced(
    proxy: Proxy, proxied: PostgresEffectsStore
) -> None:
    """No handler notices."""
    for turn in range(3):
        units = [proxied.unit() for _ in range(proxied.handlers_max)]
        for number, unit in enumerate(units):
            await unit.db.execute(INSERT, name=f"{turn}-{number}")
            assert not await keep_rows(unit, inbox_row(f"{turn}-{number}"))
        proxy.cut_off()

    assert len(await names(proxied)) == 3 * proxied.handlers_max


async def test_a_connection_that_is_cut_under_a_handler_breaks_its_unit_alone(
    proxy: Proxy, proxied: PostgresEffectsStore, store: PostgresEffectsStore
) -> None:
    """Nothing of it is kept; others, and the same handler called again, go on."""
    cut, other = proxied.unit(), store.unit()
    await cut.db.execute(INSERT, name="lost")
    await other.db.execute(INSERT, name="other")
    proxy.cut_off()

    with pytest.raises(StoreUnavailable):
        await cut.db.execute(INSERT, name="lost too")
    assert cut.is_broken
    cut.drop()
    assert not await keep_rows(other, inbox_row("other"))
    again = proxied.unit()
    await again.db.execute(INSERT, name="again")
    assert not await keep_rows(again, inbox_row("again"))
    assert await names(store) == ["again", "other"]


async def test_of_two_handlers_in_a_deadlock_one_is_to_begin_anew(
    store: PostgresEffectsStore,
) -> None:
    """The other one goes on; nothing of the first is left."""
    both = [store.unit(), store.unit()]
    await both[0].db.execute("INSERT INTO things VALUES ('a', 0), ('b', 0)")
    assert not await keep_rows(both[0], inbox_row("made"))
    both[0] = store.unit()
    add = "UPDATE things SET size = size + 1 WHERE name = :name"
    for unit, name in zip(both, "ab", strict=True):
        await unit.db.execute("SET LOCAL deadlock_timeout = '50ms'")
        await unit.db.execute(add, name=name)

    async def go_on(unit: PostgresUnit, name: str) -> bool:
        try:
            await unit.db.execute(add, name=name)
        except StoreUnavailable:
            assert unit.is_broken
            unit.drop()
            return False
        return True

    assert sorted(await asyncio.gather(*map(go_on, both, "ba"))) == [False, True]

    (winner,) = (unit for unit in both if not unit.is_broken)
    assert not await keep_rows(winner, inbox_row("winner"))
    assert [thing["size"] for thing in await things_in(store)] == [1, 1]


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_handler_that_stands_still_in_its_transaction_is_ended(
    store: PostgresEffectsStore, run, *, goes_on: bool
) -> None:
    """The server does that, after a while, so that nobody waits for its rows for ever; it is called
    again, like one whose connection was cut.
    """
    unit = store.unit()
    await unit.db.execute(INSERT, name="slow")
    (timeout,) = await unit.db.fetch("SHOW idle_in_transaction_session_timeout")
    assert timeout == {"idle_in_transaction_session_timeout": "20s"}
    (session,) = await unit.db.fetch("SELECT pg_backend_pid() AS pid")
    await unit.db.execute("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
    await until(lambda: not run(f"SELECT 1 FROM pg_stat_activity WHERE pid = {session['pid']}"))

    if goes_on:
        with pytest.raises(StoreUnavailable):
            await unit.db.execute(INSERT, name="slow")
        assert unit.is_broken
        unit.drop()
    else:
        assert list(await keep_rows(unit, inbox_row("k"))) == [unit]

    assert await names(store) == []
    assert await store.kept(SERVICE, ["k"]) == {}


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("ends", [["COMMIT"], ["ROLLBACK"], ["COMMIT", "BEGIN"]], ids=str)
async def test_a_transaction_ended_behind_our_back_is_noticed(
    store: PostgresEffectsStore, ends: list[str], *, goes_on: bool
) -> None:
    """A handler can, through the driver's connection; it is told so, and its row may be kept."""
    unit = store.unit()
    await unit.db.execute(INSERT, name="a")
    for end in ends:
        await unit.db.raw.execute(end.encode())

    with pytest.raises(TransactionEnded):
        await (unit.db.execute(INSERT, name="b") if goes_on else keep_rows(unit, inbox_row("k")))

    unit.drop()
    assert not await keep_rows(unit, inbox_row("k", outcome=ReplyOutcome.FAILED))
    other = store.unit()
    await other.db.execute(INSERT, name="c")
    assert not await keep_rows(other, inbox_row("other"))
    assert await names(store) == [*(["a"] if "COMMIT" in ends else []), "c"]


async def test_a_saga_whose_number_is_gone_is_numbered_again(
    store: PostgresEffectsStore, run
) -> None:
    """A standby that took over may lack what this process knows to be there."""
    assert not await keep_rows(store.unit(), inbox_row("s/first/do"))
    run("TRUNCATE saga_inbox_sagas, saga_inbox")

    assert not await keep_rows(store.unit(), inbox_row("s/second/do"))

    run("TRUNCATE saga_inbox_sagas, saga_inbox")
    unit = store.unit()
    await unit.db.execute(INSERT, name="a")
    assert list(await keep_rows(unit, inbox_row("s/third/do"))) == [unit]
    again = store.unit()
    await again.db.execute(INSERT, name="b")
    assert not await keep_rows(again, inbox_row("s/third/do"))
    assert await names(store) == ["b"]
    assert list(await store.kept(SERVICE, ["s/first/do", "s/third/do"])) == ["s/third/do"]


async def test_a_constraint_that_is_looked_at_last_refuses_one_handler(
    store: PostgresEffectsStore, run
) -> None:
    """Deferred until COMMIT, it speaks only then; the handler is at fault, not the database."""
    run("ALTER TABLE things ADD CONSTRAINT one UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
    unit, other = store.unit(), store.unit()
    for _ in range(2):
        await unit.db.execute(INSERT, name="twice")
    await other.db.execute(INSERT, name="once")

    kept = await asyncio.gather(
        keep_rows(unit, inbox_row("k")), keep_rows(other, inbox_row("o")), return_exceptions=True
    )

    assert isinstance(kept[0], TransactionEnded)
    assert "twice" in str(kept[0])
    assert not kept[1]
    assert await names(store) == ["once"]
    assert set(await store.kept(SERVICE, ["k", "o"])) == {"o"}


async def test_a_table_may_change_under_statements_that_are_prepared(
    store: PostgresEffectsStore, run
) -> None:
    """The server refuses those once; a service need not be restarted for it."""
    unit = store.unit()
    await unit.db.execute(INSERT, name="a")
    for _ in range(3):
        assert await unit.db.fetch("SELECT * FROM things") == [{"name": "a", "size": 1}]
    assert not await keep_rows(unit, inbox_row("k"))
    run("ALTER TABLE things ADD COLUMN colour text DEFAULT 'red'")

    for _ in range(3):
        changed = store.unit()
        found = await changed.db.fetch("SELECT * FROM things")
        assert found == [{"name": "a", "size": 1, "colour": "red"}]
        changed.drop()


async def test_values_go_out_and_come_back_as_they_are(store: PostgresEffectsStore) -> None:
    """Sums of integers stay integers, decimals are exact, text stands for what its place asks."""
    db = store.unit().db
    await db.execute(
        "CREATE TABLE kinds (t text, b bytea, n numeric, f float8, d date, j jsonb, u uuid, "
        "i bigint, none text, is_so boolean)"
    )
    uuid = "0b1d5d5e-3b1e-4c39-9d3e-0d8f1a1f6b11"
    await db.execute(
        "INSERT INTO kinds VALUES (:t, :b, :n, :f, :d, :j, :u, :i, :none, :is_so)",
        t="ü'\\ :a \U0001f600",
        b=b"\x00\xff",
        n="12.50",
        f=0.1,
        d="2026-02-28",
        j='{"a": [1, null]}',
        u=uuid,
        i=-(2**63),
        none=None,
        is_so=True,
    )

    (row,) = await db.fetch("SELECT *, (SELECT sum(i) FROM kinds) - 1 AS beyond FROM kinds")

    shown = {name: str(row[name]) for name in "du"}
    assert shown == {"d": "2026-02-28", "u": uuid}
    assert {name: value for name, value in row.items() if name not in shown} == {
        "t": "ü'\\ :a \U0001f600",
        "b": b"\x00\xff",
        "n": Decimal("12.50"),
        "f": 0.1,
        "j": {"a": [1, None]},
        "i": -(2**63),
        "none": None,
        "is_so": True,
        "beyond": -(2**63) - 1,
    }
    with pytest.raises(ValueError, match="NUL"):
        await db.execute(INSERT, name="a\x00b")


async def test_a_newer_inbox_is_refused(store: PostgresEffectsStore, postgres: str, run) -> None:
    """By an older program, which says which versions there are."""
    run("UPDATE saga_schema SET version = 9 WHERE component = 'effects store'")

    with pytest.raises(StoreTooNew, match="effects store tables have version 9"):
        async with opened(postgres):
            pass


async def test_a_server_that_crashes_and_comes_back_has_each_effect_once(
    own_postgres: Postgres, crash_under
) -> None:
    """`stop -m immediate` under handlers that look at the inbox before they are called again."""
    url = own_postgres.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CREATE_THINGS)
    done: list[str] = []

    async with opened(url) as store:

        async def serve(lane: int) -> None:
            number = 0
            while len(done) < 400:
                key = f"{lane}-{number}"
                try:
                    if key not in await store.kept(SERVICE, [key]):
                        unit = store.unit()
                        await unit.db.execute(INSERT, name=key)
                        if await unit.keep([InboxWrite(inbox_row(key))]):
                            continue
                except StoreUnavailable:
                    unit.drop()
                    await asyncio.sleep(0.01)
                    continue
                done.append(key)
                number += 1

        await crash_under(serve, done, (100, 250))

        assert len(done) >= 400
        assert sorted(await names(store)) == sorted(done)
        assert set(await store.kept(SERVICE, done)) == set(done)
