"""Writers that race, connections that are cut, servers that die, processes that freeze."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from infra import Postgres
from saga.adapters.postgres import Address, PostgresCatalogue, PostgresDatabase, PostgresEventStore
from saga.adapters.postgres.statements import share_lock
from saga.core.identity import SagaId
from saga.errors import AlreadyRecorded, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import Batch
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.patience import HANG_S
from tests.proxy import Cut, Proxy

SOURCE = Source("shop.evt", 0)
MOMENTS = 12
"""More than there are between the return of a connection and its arrival at who waits for it."""


def batch(number: int, *, after: int = 0, offset: int | None = None, cause: str = "m-1") -> Batch:
    """A batch of one saga, with a position and something to publish."""
    return samples.batch(
        samples.history(saga(number), after, cause=cause),
        positions={} if offset is None else {SOURCE: offset},
        summaries=[samples.summary(saga(number), version=2 * after + 2)],
        outgoing=[samples.record("shop.int")],
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresEventStore]:
    """A store as another process would open it."""
    database = PostgresDatabase(Address(url))
    try:
        yield await asyncio.to_thread(PostgresEventStore, database)
    finally:
        await database.close()


@pytest.fixture
async def proxied(proxy: Proxy, store: PostgresEventStore) -> AsyncIterator[PostgresEventStore]:
    """The same store once more, through a proxy."""
    async with opened(proxy.url) as through_proxy:
        await through_proxy.load([saga(0)])
        yield through_proxy


async def test_of_two_writers_on_one_history_each_version_has_one(
    postgres: str, store: PostgresEventStore
) -> None:
    """Two processes append to the same sagas at full speed: no version is lost or taken twice."""
    lost: list[set[SagaId]] = []

    async def write(own: PostgresEventStore, cause: str) -> int:
        won = 0
        for turns in range(20):
            sagas = range(4) if cause == "a" else reversed(range(4))
            wanted = samples.batch(*(samples.history(saga(n), turns, cause=cause) for n in sagas))
            try:
                await own.append(wanted, at=MOMENT)
            except HistoryConflict as conflict:
                lost.append(set(conflict.saga_ids))
            else:
                won += 1
        return won

    async with opened(postgres) as other:
        won = await asyncio.gather(write(store, "a"), write(other, "b"))

    assert sum(won) == 20
    assert lost == [{saga(n) for n in range(4)}] * 20
    histories = await store.load([saga(n) for n in range(4)])
    assert [len(history) for history in histories.values()] == [40] * 4
    assert all(
        [e.cause for e in history] == [e.cause for e in histories[saga(0)]]
        for history in histories.values()
    )


async def test_a_position_is_covered_once(postgres: str, store: PostgresEventStore) -> None:
    """Of many who account for the same offset at the same time one is told that it was the one."""
    async with opened(postgres) as other:
        answers = await asyncio.gather(
            *(
                own.append(batch(number, offset=7), at=MOMENT)
                for number, own in enumerate([store, other] * 5)
            ),
            return_exceptions=True,
        )

    assert sum(isinstance(answer, AlreadyRecorded) for answer in answers) == 9
    assert len(await store.load([saga(number) for number in range(10)])) == 1


async def test_a_lost_answer_to_a_commit_is_found_out_to_be_success(
    proxy: Proxy, proxied: PostgresEventStore
) -> None:
    """The connection is cut after COMMIT: the batch is there once, and `append` tells the truth."""
    proxy.cut_next(Cut.AFTER)

    answer = await proxied.append(batch(1, offset=3), at=MOMENT)

    assert proxy.cuts == 1
    (owed,) = await proxied.backlog(limit=10)
    assert answer.backlog_id == owed.backlog_id
    assert list(owed.entries) == samples.entries(saga(1), 0)
    with pytest.raises(HistoryConflict):
        await proxied.append(batch(1), at=MOMENT)
    await proxied.append(batch(1, after=1, offset=4), at=MOMENT)


async def test_a_lost_answer_about_a_conflict_is_still_a_conflict(
    proxy: Proxy, proxied: PostgresEventStore
) -> None:
    """What is stored under the same versions is somebody else's: that is not taken for ours."""
    await proxied.append(batch(1, cause="theirs"), at=MOMENT)
    proxy.cut_off()

    with pytest.raises(HistoryConflict):
        await proxied.append(batch(1, cause="ours"), at=MOMENT)

    assert [entry.cause for entry in (await proxied.load([saga(1)]))[saga(1)]] == ["theirs"] * 2


async def test_a_lost_answer_to_positions_alone_is_found_out(
    proxy: Proxy, proxied: PostgresEventStore
) -> None:
    """A batch that only accounts for records, or sets some aside, is not written twice either."""
    proxy.cut_next(Cut.AFTER)
    await proxied.append(Batch(positions={SOURCE: 5}), at=MOMENT)
    proxy.cut_next(Cut.AFTER)
    await proxied.append(Batch(unhandled=[samples.unhandled(5)]), at=MOMENT)

    assert proxy.cuts == 2
    assert await proxied.positions([SOURCE]) == {SOURCE: 5}
    assert len(await PostgresCatalogue(proxied.database).unhandled()) == 1


async def test_a_cut_before_the_transaction_costs_nothing(
    proxy: Proxy, proxied: PostgresEventStore
) -> None:
    """Connections that died while they were idle are replaced; what was asked for is done once."""
    for number in range(5):
        proxy.cut_off()
        await proxied.append(batch(number, offset=number), at=MOMENT)
        proxy.cut_off()
        assert await proxied.positions([SOURCE]) == {SOURCE: number}


async def test_a_session_that_was_ended_while_it_was_idle_costs_nothing(
    run, store: PostgresEventStore
) -> None:
    """By an administrator or by a timeout: the server's last words are all that is left to read."""
    for number in range(3):
        await store.append(batch(number, offset=number), at=MOMENT)
        assert run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'saga'"
        )

    await store.append(batch(3, offset=3), at=MOMENT)

    assert await store.positions([SOURCE]) == {SOURCE: 3}
    assert len(await store.backlog(limit=10)) == 4


async def test_a_server_that_crashes_and_comes_back_keeps_what_was_told(
    own_postgres: Postgres, crash_under
) -> None:
    """`stop -m immediate` under appends: what was told is there, once, and work goes on."""
    async with opened(own_postgres.url()) as store:
        told: list[int] = []

        async def write(lane: int) -> None:
            offset = 0
            while len(told) < 600:
                number = lane * 10_000 + offset
                wanted = batch(number)
                wanted.positions = {Source("shop.evt", lane): offset}
                try:
                    await store.append(wanted, at=MOMENT)
                except StoreUnavailable:
                    continue
                except AlreadyRecorded:  # one whose outcome could not be known
                    assert await store.load([saga(number)])
                told.append(number)
                offset += 1

        await crash_under(write, told, (100, 300))

        assert len(told) >= 600
        histories = await store.load([saga(number) for number in told])
        assert {len(history) for history in histories.values()} == {2}
        assert len(histories) == len(told)
        owed = await store.backlog(limit=10_000)
        assert sorted(e.saga_id for each in owed for e in each.entries[:1]) == sorted(histories)


async def test_a_frozen_process_that_holds_locks_is_ended(
    postgres: str, store: PostgresEventStore
) -> None:
    """A session that stands still in a transaction holds up those who want its rows, briefly."""
    await store.append(batch(1, offset=1), at=MOMENT)
    frozen = psycopg.connect(postgres, application_name="saga")
    frozen.execute("UPDATE notification_tracking SET notification_id = 2")
    frozen.execute("SELECT pg_advisory_xact_lock_shared(1)")

    await store.append(batch(2), at=MOMENT)
    assert frozen.execute("SELECT 1").fetchone() == (1,), "who does not want its rows ended it"
    async with asyncio.timeout(HANG_S):
        while True:
            with suppress(StoreUnavailable):
                await store.append(batch(1, after=1, offset=2), at=MOMENT)
                break

    assert await store.positions([SOURCE]) == {SOURCE: 2}
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("SELECT 1")
    frozen.close()


async def test_no_session_waits_or_stands_still_for_long(
    postgres: str, store: PostgresEventStore, run
) -> None:
    """Whatever the database's own defaults are."""
    [(database,)] = run("SELECT current_database()")
    for setting in (
        "lock_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
        "synchronous_commit = off",
    ):
        run(f"ALTER DATABASE {database} SET {setting}")
    shown = (
        "SELECT current_setting('lock_timeout') AS waiting, "
        "current_setting('idle_in_transaction_session_timeout') AS idle, "
        "current_setting('synchronous_commit') AS durable"
    )
    expected = ("4s", "5s", "on")

    assert await store.database.fetch(shown) == [expected]
    with Address(postgres).connect() as connection:
        assert connection.execute(shown).fetchone() == expected


async def test_a_row_that_another_program_locks_is_waited_for_briefly(
    postgres: str, store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the append fails, says why, and has recorded nothing; that program is let be."""
    await store.append(batch(1, offset=1), at=MOMENT)
    monkeypatch.setattr("saga.adapters.postgres.database.LOCK_TIMEOUT_S", 0.2)
    async with opened(postgres) as impatient:
        with psycopg.connect(postgres) as other:
            other.execute("UPDATE notification_tracking SET notification_id = 1")
            with pytest.raises(StoreUnavailable, match="another session holds a lock: wait for it"):
                await impatient.append(batch(2, offset=2), at=MOMENT)
            other.execute("SELECT 1")
        assert await store.load([saga(2)]) == {}
        await impatient.append(batch(2, offset=2), at=MOMENT)

    assert await store.positions([SOURCE]) == {SOURCE: 2}


async def test_a_session_of_ours_that_stands_still_is_ended_by_the_server(
    postgres: str, store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without anybody's doing: its locks go, and nothing of its transaction is kept."""
    await store.append(batch(1, offset=1), at=MOMENT)
    monkeypatch.setattr("saga.adapters.postgres.database.IDLE_IN_TRANSACTION_TIMEOUT_S", 0.1)
    with Address(postgres).connect() as frozen:
        frozen.execute("BEGIN")
        frozen.execute("UPDATE notification_tracking SET notification_id = 9")

        await store.append(batch(2, offset=2), at=MOMENT)

        assert await store.positions([SOURCE]) == {SOURCE: 2}
        with pytest.raises(psycopg.Error, match="idle-in-transaction timeout"):
            frozen.execute("SELECT 1")


async def test_the_log_waits_for_those_who_write_before_its_end(
    postgres: str, store: PostgresEventStore, catalogue: PostgresCatalogue
) -> None:
    """A place that is taken and not committed is not passed: the entry would be missed for ever."""
    with psycopg.connect(postgres) as slow:
        slow.execute(share_lock(Address(postgres).lock_key("append")).encode())
        (taken,) = slow.execute(
            "SELECT nextval('stored_events_notification_id_seq')"
        ).fetchone() or (0,)
        await store.append(batch(1), at=MOMENT)

        def commit() -> None:
            time.sleep(0.2)
            another = "00000000-0000-0000-0000-000000000001"
            slow.execute(
                "INSERT INTO stored_events SELECT %s::uuid, 1, topic, state, %s FROM stored_events",
                (another, taken),
            )
            slow.execute(
                "INSERT INTO saga_index SELECT %s::uuid, saga_id, definition, definition_version, "
                "key, status, started_at, updated_at, waiting_for, reason, version FROM saga_index",
                (another,),
            )
            slow.commit()

        thread = threading.Thread(target=commit)
        thread.start()
        places = [position async for position, _ in catalogue.log()]
        thread.join()

    assert places == [taken, taken, taken + 1, taken + 1]


async def test_what_is_owed_is_found_though_later_batches_were_published_before(
    postgres: str, store: PostgresEventStore
) -> None:
    """A batch may take its number first and commit last: publishing others does not pass it."""
    await store.append(samples.batch(samples.history(saga(1), 0)), at=MOMENT)
    with psycopg.connect(postgres) as slow:
        slow.execute(
            "INSERT INTO backlog (positions, appended_at) "
            "SELECT array_agg(notification_id), 1 FROM stored_events"
        )
        later = await store.append(batch(2), at=MOMENT)
        (owed,) = await store.backlog(limit=10)
        assert owed.backlog_id == later.backlog_id
        await store.append(Batch(relayed=[owed.backlog_id]), at=MOMENT)
        assert await store.backlog(limit=10) == []
        slow.commit()

    (appeared,) = await store.backlog(limit=10)

    assert appeared.backlog_id < owed.backlog_id
    assert list(appeared.entries) == samples.entries(saga(1), 0)


async def test_a_deadlock_is_tried_again(postgres: str, store: PostgresEventStore) -> None:
    """A transaction that the server ended to resolve one is repeated as a whole."""
    await store.append(Batch(unhandled=[samples.unhandled(1), samples.unhandled(2)]), at=MOMENT)
    with psycopg.connect(postgres) as other:
        other.execute("SET deadlock_timeout = '10s'")  # so that it is not the one to be ended
        other.execute("SELECT FROM unhandled WHERE record_id = 2 FOR UPDATE")
        waiting = asyncio.create_task(store.append(Batch(handled=[1, 2]), at=MOMENT))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(
            other.execute, "SELECT FROM unhandled WHERE record_id = 1 FOR UPDATE"
        )
        other.commit()

    await waiting

    assert await PostgresCatalogue(store.database).unhandled() == []


async def test_a_serialization_error_is_tried_again(
    postgres: str, store: PostgresEventStore
) -> None:
    """Where the database's own default is an isolation that knows such errors."""
    await store.append(batch(1, offset=1), at=MOMENT)
    isolated = f"{postgres}?options=-c%20default_transaction_isolation%3Dserializable"
    async with opened(isolated) as strict:
        with psycopg.connect(postgres) as other:
            other.execute("UPDATE notification_tracking SET notification_id = 2")
            waiting = asyncio.create_task(strict.append(batch(2, offset=3), at=MOMENT))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            other.commit()
        await waiting

    assert await store.positions([SOURCE]) == {SOURCE: 3}
    assert len((await store.load([saga(2)]))[saga(2)]) == 2


async def test_a_cancelled_append_is_whole(postgres: str, store: PostgresEventStore) -> None:
    """Whoever gives up waiting does not stop what was begun, and closing waits for it."""
    for number in range(30):
        task = asyncio.create_task(store.append(batch(number), at=MOMENT))
        await asyncio.sleep(number / 10_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.database.close()

    async with opened(postgres) as again:
        histories = await again.load([saga(number) for number in range(30)])
        owed = await again.backlog(limit=100)
    assert len(histories) == len(owed) >= 29  # the first may not even have begun
    assert {len(history) for history in histories.values()} == {2}


async def test_listeners_hear_of_appends(proxy: Proxy, store: PostgresEventStore) -> None:
    """Long before they would look by themselves, and again after the connection was cut."""
    async with opened(proxy.url) as other:
        appends = other.appends(poll_s=2 * HANG_S)

        async def hear(number: int) -> None:
            heard = asyncio.ensure_future(anext(appends))
            await asyncio.sleep(0.05)
            await store.append(batch(number), at=MOMENT)
            async with asyncio.timeout(HANG_S):
                await heard

        await anext(appends)
        for number in range(3):
            await hear(number)
        heard = asyncio.ensure_future(anext(appends))
        await asyncio.sleep(0.05)
        proxy.cut_off()
        async with asyncio.timeout(HANG_S):
            await heard
            await anext(appends)  # connected again, it tells at once
        await hear(9)
        await appends.aclose()


async def test_nobody_is_told_what_he_has_appended_himself(
    postgres: str, store: PostgresEventStore
) -> None:
    """He knows; only others' appends are news."""
    appends = store.appends(poll_s=2 * HANG_S)
    await anext(appends)
    heard = asyncio.ensure_future(anext(appends))
    await store.append(batch(1), at=MOMENT)
    await asyncio.sleep(0.2)
    assert not heard.done()

    async with opened(postgres) as other:
        await other.append(batch(2), at=MOMENT)
        async with asyncio.timeout(HANG_S):
            await heard
    await appends.aclose()


async def test_whoever_is_cancelled_as_a_connection_comes_ends(postgres: str) -> None:
    """At whichever moment on the connection's way the cancellation falls."""
    database = PostgresDatabase(Address(postgres), connections_max=1)

    async def read_on() -> None:
        for _ in range(100):
            await database.fetch("SELECT 1")

    for moments in range(MOMENTS):
        only = await database.borrow()
        reading = asyncio.create_task(read_on())
        await asyncio.sleep(0.01)
        await database.give_back(only)
        for _ in range(moments):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled(), f"it went on, cancelled {moments} moments later"

    assert await database.fetch("SELECT 2") == [(2,)]
    await database.close()
