"""
What every effects store must do, one test a sentence of the port.

Subclass `EffectsStoreSuite` beside a fixture `open_store`: a coroutine function that opens a store
on the same data each time it is called, as another process would. `can_share` says whether several
of them may be open at once, `has_threads` whether sync handlers may run in threads.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import ClassVar

import pytest

from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant
from saga.errors import StoreUnavailable
from saga.ports.effects_store import (
    EffectsStore,
    InboxRow,
    InboxWrite,
    SqlRow,
    ThreadDatabase,
    Unit,
)

OpenStore = Callable[[], Awaitable[EffectsStore]]

SERVICE = "lab"


class EffectsStoreSuite:
    """
    The contract of the port `EffectsStore`.
    """

    can_share: ClassVar[bool] = True
    has_threads: ClassVar[bool] = True

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> EffectsStore:
        """
        An empty store with a table `things`.
        """
        store = await open_store()
        unit = store.unit()
        await unit.db.execute("CREATE TABLE things (name TEXT PRIMARY KEY, size INTEGER)")
        await unit.keep(())
        return store

    async def test_rows_are_read_as_they_were_kept(self, store: EffectsStore) -> None:
        """
        Every column comes back, whether filled or not.
        """
        full = InboxRow(
            SERVICE,
            "s/full/do",
            7,
            ReplyOutcome.DONE,
            "lab.evt.made.v1",
            Json('{"name":"ä"}'),
            "code",
            "message",
            b"\x00\xff",
            Instant(1_700_000_000_000_001),
            undone=True,
        )
        empty = _row("s/empty/do", digest=None)
        moved = await _keep(store.unit(), full, empty)

        assert not moved
        assert await store.kept(SERVICE, [full.key, empty.key, "s/other/do"]) == {
            full.key: full,
            empty.key: empty,
        }

    async def test_services_have_inboxes_of_their_own(self, store: EffectsStore) -> None:
        """
        The same key in two services is two rows.
        """
        mine, other = _row("k"), _row("k", attempt=2)._replace(service="other")
        await _keep(store.unit(), mine)
        await _keep(store.unit(), other)

        assert await store.kept(SERVICE, ["k"]) == {"k": mine}
        assert await store.kept("other", ["k"]) == {"k": other}

    async def test_many_rows_are_kept_and_found(self, store: EffectsStore) -> None:
        """
        Neither the units of one commit nor the keys of one question are too many.
        """
        rows = [_row(f"s/{number}/do") for number in range(700)]
        futures = [store.unit().keep((InboxWrite(row),)) for row in rows]
        for future in futures:
            assert not await future

        assert await store.kept(SERVICE, [row.key for row in rows]) == {r.key: r for r in rows}

    async def test_writes_and_row_are_kept_together(self, store: EffectsStore) -> None:
        """
        What a handler wrote is there once its unit is kept, and reads back typed.
        """
        unit = store.unit()
        touched = await unit.db.execute(
            "INSERT INTO things VALUES (:name, :size), (:other, NULL)", name="a", size=1, other="b"
        )
        await _keep(unit, _row("k"))

        assert touched == 2
        assert await _things(store) == [{"name": "a", "size": 1}, {"name": "b", "size": None}]
        assert "k" in await store.kept(SERVICE, ["k"])

    async def test_execute_says_how_many_rows_it_touched(self, store: EffectsStore) -> None:
        """
        Zero where nothing matched, and for statements that touch no rows.
        """
        db = store.unit().db

        assert await db.execute("INSERT INTO things VALUES ('a', 1), ('b', 2)") == 2
        assert await db.execute("UPDATE things SET size = 0 WHERE size > :size", size=9) == 0
        assert await db.execute("CREATE TABLE more (name TEXT)") == 0
        assert await db.fetch("DELETE FROM things WHERE name = :name RETURNING size", name="b") == [
            {"size": 2}
        ]

    async def test_a_unit_sees_its_own_writes(self, store: EffectsStore) -> None:
        """
        And those of units before it, whether they are durable yet or not.
        """
        first, second = store.unit(), store.unit()
        await first.db.execute("INSERT INTO things VALUES ('a', 1)")
        assert await first.db.fetch("SELECT size FROM things") == [{"size": 1}]
        kept = first.keep((InboxWrite(_row("k")),))
        assert await second.db.fetch("SELECT size FROM things") == [{"size": 1}]
        second.drop()
        await kept

    async def test_a_dropped_unit_has_written_nothing(self, store: EffectsStore) -> None:
        """
        Its row is kept all the same, and what its neighbours wrote too.
        """
        before, unit, after = store.unit(), store.unit(), store.unit()
        await before.db.execute("INSERT INTO things VALUES ('before', 1)")
        kept = [before.keep((InboxWrite(_row("before")),))]
        await unit.db.execute("INSERT INTO things VALUES ('dropped', 1)")
        await unit.db.execute("DELETE FROM things WHERE name = 'before'")
        unit.drop()
        kept.append(unit.keep((InboxWrite(_row("dropped", outcome=ReplyOutcome.FAILED)),)))
        await after.db.execute("INSERT INTO things VALUES ('after', 1)")
        kept.append(after.keep((InboxWrite(_row("after")),)))
        for future in kept:
            assert not await future

        assert [thing["name"] for thing in await _things(store)] == ["after", "before"]
        assert len(await store.kept(SERVICE, ["before", "dropped", "after"])) == 3

    async def test_a_failed_statement_leaves_the_unit_usable(self, store: EffectsStore) -> None:
        """
        A handler may catch a violated constraint and go on.
        """
        unit = store.unit()
        await unit.db.execute("INSERT INTO things VALUES ('a', 1)")
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await unit.db.execute("INSERT INTO things VALUES ('a', 2)")
        await unit.db.execute("INSERT INTO things VALUES ('b', 2)")

        assert not unit.is_broken
        assert not await _keep(unit, _row("k"))
        assert [thing["name"] for thing in await _things(store)] == ["a", "b"]

    async def test_a_missing_parameter_is_an_error(self, store: EffectsStore) -> None:
        """
        It is never taken for a null.
        """
        unit = store.unit()
        with pytest.raises(Exception, match=r"(?i)size"):
            await unit.db.execute("INSERT INTO things VALUES (:name, :size)", name="a")
        unit.drop()

    async def test_a_handler_cannot_end_the_transaction(self, store: EffectsStore) -> None:
        """
        It belongs to the service: statements that would end it are refused.
        """
        unit = store.unit()
        for statement in ("COMMIT", " rollback;", "END", "BEGIN", "SAVEPOINT x", "RELEASE x"):
            with pytest.raises(ValueError, match="begun and ended by its service"):
                await unit.db.execute(statement)
        unit.drop()

    async def test_a_unit_cannot_be_used_after_its_end(self, store: EffectsStore) -> None:
        """
        A handler that leaves a task behind is told, and harms nobody.
        """
        unit = store.unit()
        await _keep(unit, _row("k"))
        with pytest.raises(RuntimeError, match="after its handler had ended"):
            await unit.db.execute("INSERT INTO things VALUES ('late', 1)")

        assert await _things(store) == []

    async def test_units_take_turns(self, store: EffectsStore) -> None:
        """
        While one unit has written and not ended, others wait, in order; nothing is lost.
        """
        order: list[str] = []

        async def write(name: str) -> None:
            unit = store.unit()
            await unit.db.execute("INSERT INTO things VALUES (:name, 1)", name=name)
            await asyncio.sleep(0)
            order.append(name)
            await _keep(unit, _row(name))

        await asyncio.gather(*(write(name) for name in "abcdef"))

        assert order == list("abcdef")
        assert [thing["name"] for thing in await _things(store)] == list("abcdef")

    async def test_waiting_for_a_turn_can_be_cancelled(self, store: EffectsStore) -> None:
        """
        Those behind in the line go on.
        """
        holder, given_up, patient = store.unit(), store.unit(), store.unit()
        await holder.db.execute("INSERT INTO things VALUES ('holder', 1)")
        waiting = asyncio.ensure_future(given_up.db.execute("DELETE FROM things"))
        behind = asyncio.ensure_future(patient.db.execute("UPDATE things SET size = 2"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        given_up.drop()
        kept = holder.keep((InboxWrite(_row("holder")),))
        assert await behind == 1
        assert not await _keep(patient, _row("patient"))
        assert not await kept

        assert await _things(store) == [{"name": "holder", "size": 2}]

    async def test_two_statements_of_one_unit_may_overlap(self, store: EffectsStore) -> None:
        """
        A handler may gather them.
        """
        unit = store.unit()
        await asyncio.gather(
            unit.db.execute("INSERT INTO things VALUES ('a', 1)"),
            unit.db.execute("INSERT INTO things VALUES ('b', 2)"),
        )
        await _keep(unit, _row("k"))

        assert len(await _things(store)) == 2

    async def test_the_first_row_of_a_key_stands(self, store: EffectsStore) -> None:
        """
        A unit whose key was taken meanwhile is told, and has written nothing.
        """
        first = _row("k")
        await _keep(store.unit(), first)
        rows_only, written, neighbour = store.unit(), store.unit(), store.unit()
        await written.db.execute("INSERT INTO things VALUES ('twice', 1)")
        futures = [
            written.keep((InboxWrite(_row("k", attempt=2)),)),
            rows_only.keep((InboxWrite(_row("k", attempt=3)),)),
            neighbour.keep((InboxWrite(_row("other")),)),
        ]
        moved = {unit for future in futures for unit in await future}

        assert moved == {written, rows_only}
        assert await _things(store) == []
        assert await store.kept(SERVICE, ["k", "other"]) == {"k": first, "other": _row("other")}

    async def test_a_row_is_replaced_only_while_it_is_what_it_was(
        self, store: EffectsStore
    ) -> None:
        """
        The second of two that replace one row is told.
        """
        failed = _row("k", outcome=ReplyOutcome.FAILED)
        await _keep(store.unit(), failed)
        second, third = _row("k", attempt=2), _row("k", attempt=3)
        winner, loser = store.unit(), store.unit()
        won = winner.keep((InboxWrite(second, failed),))
        lost = loser.keep((InboxWrite(third, failed),))

        assert {*await won, *await lost} == {loser}
        assert await store.kept(SERVICE, ["k"]) == {"k": second}

    async def test_rows_of_one_unit_are_kept_together_or_not_at_all(
        self, store: EffectsStore
    ) -> None:
        """
        If one of two rows is taken, the other is not kept either.
        """
        await _keep(store.unit(), _row("do"))
        unit = store.unit()
        moved = await unit.keep((InboxWrite(_row("undo")), InboxWrite(_row("do", attempt=0))))

        assert list(moved) == [unit]
        assert await store.kept(SERVICE, ["undo", "do"]) == {"do": _row("do")}

    async def test_what_is_kept_survives_the_process(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """
        Rows and tables are there for the next one; what was not kept is not.
        """
        unit = store.unit()
        await unit.db.execute("INSERT INTO things VALUES ('kept', 1)")
        await _keep(unit, _row("k"))
        lost = store.unit()
        await lost.db.execute("INSERT INTO things VALUES ('lost', 1)")
        lost.drop()
        await store.close()

        reopened = await open_store()

        assert [thing["name"] for thing in await _things(reopened)] == ["kept"]
        assert await reopened.kept(SERVICE, ["k"]) == {"k": _row("k")}

    async def test_closing_keeps_what_was_to_be_kept(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """
        Nobody needs to wait for a commit before closing.
        """
        future = store.unit().keep((InboxWrite(_row("k")),))
        await store.close()

        assert not await future
        assert "k" in await (await open_store()).kept(SERVICE, ["k"])

    async def test_a_closed_store_is_unavailable(self, store: EffectsStore) -> None:
        """
        Questions, statements and rows are refused, not lost silently.
        """
        await store.close()

        with pytest.raises(StoreUnavailable):
            await store.kept(SERVICE, ["k"])
        with pytest.raises(StoreUnavailable):
            await store.unit().db.execute("DELETE FROM things")
        with pytest.raises(StoreUnavailable):
            await store.unit().keep((InboxWrite(_row("k")),))

    async def test_opening_twice_is_opening_once(self, store: EffectsStore) -> None:
        """
        Services that share a store need not know who opens it.
        """
        await _keep(store.unit(), _row("k"))
        await store.open()

        assert "k" in await store.kept(SERVICE, ["k"])

    async def test_another_process_is_seen_and_respected(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """
        Of two processes that keep the same key one is told; the other's writes are untouched.
        """
        if not self.can_share:
            pytest.skip("one process at a time")
        other = await open_store()
        mine, theirs = store.unit(), other.unit()
        await theirs.db.execute("INSERT INTO things VALUES ('theirs', 1)")
        assert not await _keep(theirs, _row("k"))
        await mine.db.execute("INSERT INTO things VALUES ('mine', 1)")

        assert list(await _keep(mine, _row("k", attempt=2))) == [mine]
        assert [thing["name"] for thing in await _things(store)] == ["theirs"]
        assert await store.kept(SERVICE, ["k"]) == {"k": _row("k")}

    async def test_sync_handlers_use_plain_calls(self, store: EffectsStore) -> None:
        """
        From threads where the store has any: the same statements, one handler at a time.
        """

        def write(db: ThreadDatabase, name: str) -> int:
            touched = db.execute("INSERT INTO things VALUES (:name, 1)", name=name)
            assert db.fetch("SELECT size FROM things WHERE name = :name", name=name) == [
                {"size": 1}
            ]
            return touched

        async def handle(name: str) -> None:
            unit = store.unit()
            if self.has_threads:
                assert await asyncio.to_thread(write, unit.thread_db, name) == 1
            else:
                assert write(unit.thread_db, name) == 1
            await _keep(unit, _row(name))

        await asyncio.gather(*(handle(name) for name in "abcdef"))

        assert [thing["name"] for thing in await _things(store)] == list("abcdef")


async def _keep(unit: Unit, *rows: InboxRow) -> Collection[Unit]:
    return await unit.keep(tuple(InboxWrite(row) for row in rows))


async def _things(store: EffectsStore) -> list[SqlRow]:
    unit = store.unit()
    try:
        return await unit.db.fetch("SELECT name, size FROM things ORDER BY name")
    finally:
        unit.drop()


def _row(
    key: str,
    *,
    attempt: int = 1,
    outcome: ReplyOutcome = ReplyOutcome.DONE,
    digest: bytes | None = b"d",
) -> InboxRow:
    return InboxRow(
        SERVICE,
        key,
        attempt,
        outcome,
        None,
        None,
        None,
        None,
        digest,
        Instant(1_700_000_000_000_000),
    )
