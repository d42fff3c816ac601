"""What every unit of work must do, one test a sentence of the port: statements, turns, ends.

Part of `EffectsStoreSuite`, beside the helpers that both use.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, ClassVar

import pytest

from saga.core.events import ReplyOutcome
from saga.core.identity import Instant
from saga.ports.effects_store import (
    EffectsStore,
    InboxRow,
    InboxWrite,
    SqlRow,
    ThreadDatabase,
    Unit,
)

SERVICE = "lab"


class UnitSuite:
    """The contract of `Unit` and of both databases. *store* has an empty table `things (name,
    size)`.
    """

    has_threads: ClassVar[bool] = True

    async def test_execute_says_how_many_rows_it_touched(self, store: EffectsStore) -> None:
        """Zero where nothing matched, and for statements that touch no rows."""
        db = store.unit().db

        assert await db.execute("INSERT INTO things VALUES ('a', 1), ('b', 2)") == 2
        assert await db.execute("UPDATE things SET size = 0 WHERE size > :size", size=9) == 0
        assert await db.execute("CREATE TABLE more (name TEXT)") == 0
        assert await db.fetch("DELETE FROM things WHERE name = :name RETURNING size", name="b") == [
            {"size": 2}
        ]

    async def test_a_unit_sees_its_own_writes(self, store: EffectsStore) -> None:
        """And those of units before it, whether they are durable yet or not."""
        first, second = store.unit(), store.unit()
        await first.db.execute("INSERT INTO things VALUES ('a', 1)")
        assert await first.db.fetch("SELECT size FROM things") == [{"size": 1}]
        kept = first.keep((InboxWrite(inbox_row("k")),))
        assert await second.db.fetch("SELECT size FROM things") == [{"size": 1}]
        second.drop()
        await kept

    async def test_a_dropped_unit_has_written_nothing(self, store: EffectsStore) -> None:
        """Its row is kept all the same, and what its neighbours wrote too."""
        before, unit, after = store.unit(), store.unit(), store.unit()
        await before.db.execute("INSERT INTO things VALUES ('before', 1)")
        kept = [before.keep((InboxWrite(inbox_row("before")),))]
        await unit.db.execute("INSERT INTO things VALUES ('dropped', 1)")
        await unit.db.execute("DELETE FROM things WHERE name = 'before'")
        unit.drop()
        kept.append(unit.keep((InboxWrite(inbox_row("dropped", outcome=ReplyOutcome.FAILED)),)))
        await after.db.execute("INSERT INTO things VALUES ('after', 1)")
        kept.append(after.keep((InboxWrite(inbox_row("after")),)))
        for future in kept:
            assert not await future

        assert [thing["name"] for thing in await things_in(store)] == ["after", "before"]
        assert len(await store.kept(SERVICE, ["before", "dropped", "after"])) == 3

    async def test_a_failed_statement_leaves_the_unit_usable(self, store: EffectsStore) -> None:
        """A handler may catch a violated constraint and go on."""
        unit = store.unit()
        await unit.db.execute("INSERT INTO things VALUES ('a', 1)")
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await unit.db.execute("INSERT INTO things VALUES ('a', 2)")
        await unit.db.execute("INSERT INTO things VALUES ('b', 2)")

        assert not unit.is_broken
        assert not await keep_rows(unit, inbox_row("k"))
        assert [thing["name"] for thing in await things_in(store)] == ["a", "b"]

    async def test_a_missing_parameter_is_an_error(self, store: EffectsStore) -> None:
        """It is never taken for a null."""
        unit = store.unit()
        with pytest.raises(Exception, match=r"(?i)size"):
            await unit.db.execute("INSERT INTO things VALUES (:name, :size)", name="a")
        unit.drop()

    async def test_a_handler_cannot_end_the_transaction(self, store: EffectsStore) -> None:
        """It belongs to the service: statements that would end it are refused."""
        unit = store.unit()
        for statement in ("COMMIT", " rollback;", "END", "BEGIN", "SAVEPOINT x", "RELEASE x"):
            with pytest.raises(ValueError, match="begun and ended by its service"):
                await unit.db.execute(statement)
        unit.drop()

    async def test_a_unit_cannot_be_used_after_its_end(self, store: EffectsStore) -> None:
        """A handler that leaves a task behind is told, and harms nobody."""
        unit = store.unit()
        await keep_rows(unit, inbox_row("k"))
        with pytest.raises(RuntimeError, match="after its handler had ended"):
            await unit.db.execute("INSERT INTO things VALUES ('late', 1)")

        assert await things_in(store) == []

    async def test_units_take_turns(self, store: EffectsStore) -> None:
        """While one unit has written and not ended, others wait, in order; nothing is lost."""
        order: list[str] = []

        async def write(name: str) -> None:
            unit = store.unit()
            await unit.db.execute("INSERT INTO things VALUES (:name, 1)", name=name)
            await asyncio.sleep(0)
            order.append(name)
            await keep_rows(unit, inbox_row(name))

        await asyncio.gather(*(write(name) for name in "abcdef"))

        assert order == list("abcdef")
        assert [thing["name"] for thing in await things_in(store)] == list("abcdef")

    async def test_waiting_for_a_turn_can_be_cancelled(self, store: EffectsStore) -> None:
        """Those behind in the line go on."""
        holder, given_up, patient = store.unit(), store.unit(), store.unit()
        await holder.db.execute("INSERT INTO things VALUES ('holder', 1)")
        waiting = asyncio.ensure_future(given_up.db.execute("DELETE FROM things"))
        behind = asyncio.ensure_future(patient.db.execute("UPDATE things SET size = 2"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        given_up.drop()
        kept = holder.keep((InboxWrite(inbox_row("holder")),))
        assert await behind == 1
        assert not await keep_rows(patient, inbox_row("patient"))
        assert not await kept

        assert await things_in(store) == [{"name": "holder", "size": 2}]

    async def test_two_statements_of_one_unit_may_overlap(self, store: EffectsStore) -> None:
        """A handler may gather them."""
        unit = store.unit()
        await asyncio.gather(
            unit.db.execute("INSERT INTO things VALUES ('a', 1)"),
            unit.db.execute("INSERT INTO things VALUES ('b', 2)"),
        )
        await keep_rows(unit, inbox_row("k"))

        assert len(await things_in(store)) == 2

    async def test_sync_handlers_use_plain_calls(self, store: EffectsStore) -> None:
        """From threads where the store has any: the same statements, one handler at a time."""

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
            await keep_rows(unit, inbox_row(name))

        await asyncio.gather(*(handle(name) for name in "abcdef"))

        assert [thing["name"] for thing in await things_in(store)] == list("abcdef")

    async def test_the_drivers_connection_writes_in_the_same_transaction(
        self, store: EffectsStore
    ) -> None:
        """A sync handler may begin with it; on the loop a statement goes before, as it is told."""
        unit, early = store.unit(), store.unit()
        with pytest.raises(RuntimeError, match="first awaits a statement"):
            _ = early.db.raw
        early.drop()

        def write(db: ThreadDatabase) -> None:
            raw: Any = db.raw
            raw.execute("INSERT INTO things VALUES ('raw', 1)")
            assert db.execute("UPDATE things SET size = 2") == 1

        if self.has_threads:
            await asyncio.to_thread(write, unit.thread_db)
        else:
            write(unit.thread_db)
        assert not await keep_rows(unit, inbox_row("k"))

        assert await things_in(store) == [{"name": "raw", "size": 2}]


async def keep_rows(unit: Unit, *rows: InboxRow) -> Collection[Unit]:
    """End *unit* with new rows; the units that were not kept."""
    return await unit.keep(tuple(InboxWrite(row) for row in rows))


async def things_in(store: EffectsStore) -> list[SqlRow]:
    """The rows of the table, by name."""
    unit = store.unit()
    try:
        return await unit.db.fetch("SELECT name, size FROM things ORDER BY name")
    finally:
        unit.drop()


def inbox_row(
    key: str,
    *,
    attempt: int = 1,
    outcome: ReplyOutcome = ReplyOutcome.DONE,
    digest: bytes | None = b"d",
) -> InboxRow:
    """A row of the suite's service."""
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
