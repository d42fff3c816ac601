"""What every effects store must do, one test a sentence of the port.

Subclass `EffectsStoreSuite` beside a fixture `open_store`: a coroutine function that opens a store
on the same data each time it is called, as another process would. `can_share` says whether several
of them may be open at once, `has_threads` whether sync handlers may run in threads.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant
from saga.errors import StoreUnavailable
from saga.ports.effects_store import EffectsStore, InboxRow, InboxWrite
from saga.testing.effects_unit_suite import (
    SERVICE,
    UnitSuite,
    inbox_row,
    keep_rows,
    things_in,
)

OpenStore = Callable[[], Awaitable[EffectsStore]]


class EffectsStoreSuite(UnitSuite):
    """The contract of the port `EffectsStore`."""

    can_share: ClassVar[bool] = True

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> EffectsStore:
        """An empty store with a table `things`."""
        store = await open_store()
        unit = store.unit()
        await unit.db.execute("CREATE TABLE things (name TEXT PRIMARY KEY, size INTEGER)")
        await unit.keep(())
        return store

    async def test_of_units_that_are_alone_one_runs_at_a_time(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """Two processes may make the same table where there is none."""
        make = "CREATE TABLE IF NOT EXISTS more (name TEXT)"
        other = await open_store() if self.can_share else store
        first, second = store.unit(alone=True), other.unit(alone=True)
        await first.db.execute(make)
        waiting = asyncio.ensure_future(second.db.execute(make))
        await asyncio.sleep(0.1)
        assert not waiting.done()

        kept = first.keep(())
        await waiting
        await asyncio.gather(kept, second.keep(()))

    async def test_rows_are_read_as_they_were_kept(self, store: EffectsStore) -> None:
        """Every column comes back, whether filled or not."""
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
        empty = inbox_row("s/empty/do", digest=None)
        moved = await keep_rows(store.unit(), full, empty)

        assert not moved
        assert await store.kept(SERVICE, [full.key, empty.key, "s/other/do"]) == {
            full.key: full,
            empty.key: empty,
        }

    async def test_services_have_inboxes_of_their_own(self, store: EffectsStore) -> None:
        """The same key in two services is two rows."""
        mine, other = inbox_row("k"), inbox_row("k", attempt=2)._replace(service="other")
        await keep_rows(store.unit(), mine)
        await keep_rows(store.unit(), other)

        assert await store.kept(SERVICE, ["k"]) == {"k": mine}
        assert await store.kept("other", ["k"]) == {"k": other}

    async def test_many_rows_are_kept_and_found(self, store: EffectsStore) -> None:
        """Neither the units of one commit nor the keys of one question are too many."""
        rows = [inbox_row(f"s/{number}/do") for number in range(700)]
        futures = [store.unit().keep((InboxWrite(row),)) for row in rows]
        for future in futures:
            assert not await future

        assert await store.kept(SERVICE, [row.key for row in rows]) == {r.key: r for r in rows}

    async def test_writes_and_row_are_kept_together(self, store: EffectsStore) -> None:
        """What a handler wrote is there once its unit is kept, and reads back typed."""
        unit = store.unit()
        touched = await unit.db.execute(
            "INSERT INTO things VALUES (:name, :size), (:other, NULL)", name="a", size=1, other="b"
        )
        await keep_rows(unit, inbox_row("k"))

        assert touched == 2
        assert await things_in(store) == [{"name": "a", "size": 1}, {"name": "b", "size": None}]
        assert "k" in await store.kept(SERVICE, ["k"])

    async def test_the_first_row_of_a_key_stands(self, store: EffectsStore) -> None:
        """A unit whose key was taken meanwhile is told, and has written nothing."""
        first = inbox_row("k")
        await keep_rows(store.unit(), first)
        rows_only, written, neighbour = store.unit(), store.unit(), store.unit()
        await written.db.execute("INSERT INTO things VALUES ('twice', 1)")
        futures = [
            written.keep((InboxWrite(inbox_row("k", attempt=2)),)),
            rows_only.keep((InboxWrite(inbox_row("k", attempt=3)),)),
            neighbour.keep((InboxWrite(inbox_row("other")),)),
        ]
        moved = {unit for future in futures for unit in await future}

        assert moved == {written, rows_only}
        assert await things_in(store) == []
        assert await store.kept(SERVICE, ["k", "other"]) == {
            "k": first,
            "other": inbox_row("other"),
        }

    async def test_a_row_is_replaced_only_while_it_is_what_it_was(
        self, store: EffectsStore
    ) -> None:
        """The second of two that replace one row is told."""
        failed = inbox_row("k", outcome=ReplyOutcome.FAILED)
        await keep_rows(store.unit(), failed)
        second, third = inbox_row("k", attempt=2), inbox_row("k", attempt=3)
        winner, loser = store.unit(), store.unit()
        won = winner.keep((InboxWrite(second, failed),))
        lost = loser.keep((InboxWrite(third, failed),))

        assert {*await won, *await lost} == {loser}
        assert await store.kept(SERVICE, ["k"]) == {"k": second}

    async def test_rows_of_one_unit_are_kept_together_or_not_at_all(
        self, store: EffectsStore
    ) -> None:
        """If one of two rows is taken, the other is not kept either."""
        await keep_rows(store.unit(), inbox_row("do"))
        unit = store.unit()
        moved = await unit.keep(
            (InboxWrite(inbox_row("undo")), InboxWrite(inbox_row("do", attempt=0)))
        )

        assert list(moved) == [unit]
        assert await store.kept(SERVICE, ["undo", "do"]) == {"do": inbox_row("do")}

    async def test_what_is_kept_survives_the_process(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """Rows and tables are there for the next one; what was not kept is not."""
        unit = store.unit()
        await unit.db.execute("INSERT INTO things VALUES ('kept', 1)")
        await keep_rows(unit, inbox_row("k"))
        lost = store.unit()
        await lost.db.execute("INSERT INTO things VALUES ('lost', 1)")
        lost.drop()
        await store.close()

        reopened = await open_store()

        assert [thing["name"] for thing in await things_in(reopened)] == ["kept"]
        assert await reopened.kept(SERVICE, ["k"]) == {"k": inbox_row("k")}

    async def test_closing_keeps_what_was_to_be_kept(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """Nobody needs to wait for a commit before closing."""
        future = store.unit().keep((InboxWrite(inbox_row("k")),))
        await store.close()

        assert not await future
        assert "k" in await (await open_store()).kept(SERVICE, ["k"])

    async def test_a_closed_store_is_unavailable(self, store: EffectsStore) -> None:
        """Questions, statements and rows are refused, not lost silently."""
        await store.close()

        with pytest.raises(StoreUnavailable):
            await store.kept(SERVICE, ["k"])
        with pytest.raises(StoreUnavailable):
            await store.unit().db.execute("DELETE FROM things")
        with pytest.raises(StoreUnavailable):
            await store.unit().keep((InboxWrite(inbox_row("k")),))

    async def test_opening_twice_is_opening_once(self, store: EffectsStore) -> None:
        """Services that share a store need not know who opens it."""
        await keep_rows(store.unit(), inbox_row("k"))
        await store.open()

        assert "k" in await store.kept(SERVICE, ["k"])

    async def test_another_process_is_seen_and_respected(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """Of two processes that keep the same key one is told; the other's writes are untouched."""
        if not self.can_share:
            pytest.skip("one process at a time")
        other = await open_store()
        mine, theirs = store.unit(), other.unit()
        await theirs.db.execute("INSERT INTO things VALUES ('theirs', 1)")
        assert not await keep_rows(theirs, inbox_row("k"))
        await mine.db.execute("INSERT INTO things VALUES ('mine', 1)")

        assert list(await keep_rows(mine, inbox_row("k", attempt=2))) == [mine]
        assert [thing["name"] for thing in await things_in(store)] == ["theirs"]
        assert await store.kept(SERVICE, ["k"]) == {"k": inbox_row("k")}
