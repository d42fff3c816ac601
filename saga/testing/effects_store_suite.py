"""What every effects store must do, one test a sentence of the port: units of work, and the inbox.

Subclass `EffectsStoreSuite` beside a fixture `make_store`: a function that makes a store, not open
yet, on the same data each time. `can_share`: several at once; `has_threads`: sync handlers run in
threads. A store that publishes answers says in `published` what is on its bus, which has the topic
`ANSWERS`; one with two inboxes overrides `damage`.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar

import pytest

from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant
from saga.errors import StoreUnavailable
from saga.ports.bus import Record
from saga.ports.effects_store import (
    EffectsStore,
    InboxRow,
    InboxWrite,
    NotKept,
    SqlRow,
    ThreadDatabase,
    Unit,
)

MakeStore = Callable[[], EffectsStore]
OpenStore = Callable[[], Awaitable[EffectsStore]]
T = TypeVar("T")
SERVICE = "lab"
ANSWERS = "lab.answers"


class EffectsStoreSuite:
    """The contract of the port `EffectsStore`, of its units and of both their databases."""

    can_share: ClassVar[bool] = True
    has_threads: ClassVar[bool] = True

    @pytest.fixture
    async def open_store(self, make_store: MakeStore) -> AsyncIterator[OpenStore]:
        """Opens one more store; all are closed in the end."""
        made: list[EffectsStore] = []

        async def open_store() -> EffectsStore:
            made.append(make_store())
            await made[-1].open()
            return made[-1]

        yield open_store
        for store in made:
            await store.close()

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> EffectsStore:
        """An empty store with a table `things`."""
        store = await open_store()
        unit = store.unit()
        await unit.db.execute("CREATE TABLE things (name TEXT PRIMARY KEY, size INTEGER)")
        await unit.keep(())
        return store

    async def published(self) -> list[Record]:
        """The answers on the store's bus; it has none by default."""
        return []

    async def damage(self, store: EffectsStore, change: str, where: str) -> None:
        """Change rows of the inbox."""
        unit = store.unit()
        await unit.db.execute(f"UPDATE saga_inbox SET {change} WHERE {where}")  # noqa: S608
        assert not await unit.keep([])

    @pytest.mark.parametrize("many", [1, 2, 9])
    async def test_a_row_that_the_store_refuses_takes_no_other_along(
        self, store: EffectsStore, many: int
    ) -> None:
        """It is told why, once and for all; the others of the same commit are kept."""
        units = [store.unit() for _ in range(many)]
        rows = [inbox_row(f"k-{number}") for number in range(many)]
        rows[-1] = rows[-1]._replace(attempt=2**70)

        found = await asyncio.gather(*map(keep_rows, units, rows))

        assert [unit for unit in units if unit in found[0].refused] == [units[-1]]
        assert found[0].refused[units[-1]]
        kept = await store.kept(SERVICE, [row.key for row in rows])
        assert kept.keys() == {row.key for row in rows[:-1]}
        unit = store.unit()
        assert not await keep_rows(unit, rows[-1]._replace(attempt=1))

    async def test_execute_says_how_many_rows_it_touched(self, store: EffectsStore) -> None:
        """Zero where nothing matched, and for statements that touch no rows."""
        db = store.unit().db

        assert await db.execute("INSERT INTO things VALUES ('a', 1), ('b', 2)") == 2
        assert await db.execute("UPDATE things SET size = 0 WHERE size > :size", size=9) == 0
        assert await db.execute("CREATE TABLE more (name TEXT)") == 0
        deleted = await db.fetch("DELETE FROM things WHERE name = :name RETURNING size", name="b")
        assert deleted == [{"size": 2}]

    async def test_a_unit_sees_its_own_writes(self, store: EffectsStore) -> None:
        """And those of units before it, whether they are durable yet or not."""
        first, second = store.unit(), store.unit()
        await _insert(first, "a")
        assert await first.db.fetch("SELECT size FROM things") == [{"size": 1}]
        kept = first.keep((InboxWrite(inbox_row("k")),))
        assert await second.db.fetch("SELECT size FROM things") == [{"size": 1}]
        second.drop()
        await kept

    async def test_a_dropped_unit_has_written_nothing(self, store: EffectsStore) -> None:
        """Its row is kept all the same, and what its neighbours wrote too."""
        before, unit, after = store.unit(), store.unit(), store.unit()
        await _insert(before, "before")
        kept = [before.keep((InboxWrite(inbox_row("before")),))]
        await _insert(unit, "dropped")
        await unit.db.execute("DELETE FROM things WHERE name = 'before'")
        unit.drop()
        kept.append(unit.keep((InboxWrite(inbox_row("dropped", outcome=ReplyOutcome.FAILED)),)))
        await _insert(after, "after")
        kept.append(after.keep((InboxWrite(inbox_row("after")),)))
        for future in kept:
            assert not await future

        assert await _names(store) == ["after", "before"]
        assert len(await store.kept(SERVICE, ["before", "dropped", "after"])) == 3

    async def test_a_failed_statement_leaves_the_unit_usable(self, store: EffectsStore) -> None:
        """A handler may catch a violated constraint and go on."""
        unit = store.unit()
        await _insert(unit, "a")
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await _insert(unit, "a")
        await _insert(unit, "b")

        assert not unit.is_broken
        assert not await keep_rows(unit, inbox_row("k"))
        assert await _names(store) == ["a", "b"]

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
            await _insert(unit, "late")

        assert await things_in(store) == []

    async def test_units_take_turns(self, store: EffectsStore) -> None:
        """While one unit has written and not ended, others wait, in order; nothing is lost."""
        order: list[str] = []

        async def write(name: str) -> None:
            unit = store.unit()
            await _insert(unit, name)
            await asyncio.sleep(0)
            order.append(name)
            await keep_rows(unit, inbox_row(name))

        await asyncio.gather(*(write(name) for name in "abcdef"))

        assert order == await _names(store) == list("abcdef")

    async def test_waiting_for_a_turn_can_be_cancelled(self, store: EffectsStore) -> None:
        """Those behind in the line go on."""
        holder, given_up, patient = store.unit(), store.unit(), store.unit()
        await _insert(holder, "holder")
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
        await asyncio.gather(_insert(unit, "a"), _insert(unit, "b"))
        await keep_rows(unit, inbox_row("k"))

        assert len(await things_in(store)) == 2

    async def test_sync_handlers_use_plain_calls(self, store: EffectsStore) -> None:
        """From threads where the store has any: the same statements, one handler at a time."""

        def write(db: ThreadDatabase, name: str) -> int:
            touched = db.execute("INSERT INTO things VALUES (:name, 1)", name=name)
            found = db.fetch("SELECT size FROM things WHERE name = :name", name=name)
            assert found == [{"size": 1}]
            return touched

        async def handle(name: str) -> None:
            unit = store.unit()
            assert await self._call(write, unit.thread_db, name) == 1
            await keep_rows(unit, inbox_row(name))

        await asyncio.gather(*(handle(name) for name in "abcdef"))

        assert await _names(store) == list("abcdef")

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

        await self._call(write, unit.thread_db)
        assert not await keep_rows(unit, inbox_row("k"))

        assert await things_in(store) == [{"name": "raw", "size": 2}]

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
        full = inbox_row("s/full/do", attempt=7, digest=b"\x00\xff")._replace(
            contract="lab.evt.made.v1",
            payload=Json('{"name":"ä"}'),
            code="code",
            message="message",
            handled_at=Instant(1_700_000_000_000_001),
            undone=True,
        )
        empty = inbox_row("s/empty/do", digest=None)
        assert not await keep_rows(store.unit(), full, empty)

        kept = await store.kept(SERVICE, [full.key, empty.key, "s/other/do"])
        assert kept == {full.key: full, empty.key: empty}

    async def test_services_have_inboxes_of_their_own(self, store: EffectsStore) -> None:
        """The same key in two services is two rows."""
        mine, other = inbox_row("k"), inbox_row("k", attempt=2)._replace(service="other")
        await keep_rows(store.unit(), mine)
        await keep_rows(store.unit(), other)

        assert await store.kept(SERVICE, ["k"]) == {"k": mine}
        assert await store.kept("other", ["k"]) == {"k": other}

    async def test_a_damaged_row_is_named_and_hides_no_other(self, store: EffectsStore) -> None:
        """Nor does it let what is to be kept with it go on, or be tried for ever."""
        rows = [inbox_row(f"s/{name}/do", attempt=n) for n, name in enumerate(("a", "bad", "c"), 1)]
        for row in rows:
            assert not await keep_rows(store.unit(), row)
        for change in (f"handled_at = {10**18}", "outcome = 'dancing'", "attempt = -2"):
            await self.damage(store, change, "step LIKE '%bad%'")

            kept = await store.kept(SERVICE, [row.key for row in rows])
            assert set(kept) == {"s/a/do", "s/c/do"}
            assert change.partition(" ")[0] in kept.damaged["s/bad/do"]
            assert (await store.kept(SERVICE, ["s/bad/do"])).damaged

        first, second = store.unit(), store.unit()
        later = rows[1]._replace(attempt=9)
        replacing = first.keep([InboxWrite(later, rows[1])])
        assert await replacing == {first}
        assert await second.keep([InboxWrite(later)]) == {second}

    async def test_the_longest_key_is_kept(self, store: EffectsStore) -> None:
        """A fact is known by source and id, a thousand bytes each, in a service of a long name."""
        parts = [blake2b(b"%d" % number).hexdigest() for number in range(16)]
        source, fact_id = "".join(parts)[:1_000], "".join(reversed(parts))[:1_000]
        service = "".join(parts)[-100:]
        row = inbox_row(f"fact/{source}/{fact_id}")._replace(service=service)

        assert not await keep_rows(store.unit(), row)
        assert await store.kept(service, [row.key]) == {row.key: row}

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
        await _insert(written, "twice")
        futures = [
            written.keep((InboxWrite(inbox_row("k", attempt=2)),)),
            rows_only.keep((InboxWrite(inbox_row("k", attempt=3)),)),
            neighbour.keep((InboxWrite(inbox_row("other")),)),
        ]
        moved = {unit for future in futures for unit in await future}

        assert moved == {written, rows_only}
        assert await things_in(store) == []
        kept = await store.kept(SERVICE, ["k", "other"])
        assert kept == {"k": first, "other": inbox_row("other")}

    async def test_an_answer_is_published_with_its_row_or_left_to_the_caller(
        self, store: EffectsStore
    ) -> None:
        """Whoever is not told that it was published publishes it; none goes out without a row."""
        await keep_rows(store.unit(), inbox_row("taken"))
        units = {name: store.unit() for name in ("new", "taken", "written", "refused", "silent")}
        await _insert(units["written"], "written")
        too_large = inbox_row("refused")._replace(attempt=2**70)
        rows = {name: inbox_row(name) for name in units} | {"refused": too_large}
        futures = [
            unit.keep((InboxWrite(rows[name]),), None if name == "silent" else _answer(name))
            for name, unit in units.items()
        ]
        published: set[Unit] = set()
        for future in futures:
            published |= (await future).published

        names = {name for name, unit in units.items() if unit in published}
        assert {record.value for record in await self.published()} == {
            name.encode() for name in names - {"silent"}
        }
        assert names <= {"new", "written", "silent"}
        kept = await store.kept(SERVICE, list(units))
        assert kept.keys() == units.keys() - {"refused"}

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

        assert list(await keep_rows(unit, inbox_row("undo"), inbox_row("do", attempt=0))) == [unit]
        assert await store.kept(SERVICE, ["undo", "do"]) == {"do": inbox_row("do")}

    async def test_what_is_kept_survives_the_process(
        self, store: EffectsStore, open_store: OpenStore
    ) -> None:
        """Rows and tables are there for the next one; what was not kept is not."""
        unit = store.unit()
        await _insert(unit, "kept")
        await keep_rows(unit, inbox_row("k"))
        lost = store.unit()
        await _insert(lost, "lost")
        lost.drop()
        await store.close()

        reopened = await open_store()

        assert await _names(reopened) == ["kept"]
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
        await _insert(theirs, "theirs")
        assert not await keep_rows(theirs, inbox_row("k"))
        await _insert(mine, "mine")

        assert list(await keep_rows(mine, inbox_row("k", attempt=2))) == [mine]
        assert await _names(store) == ["theirs"]
        assert await store.kept(SERVICE, ["k"]) == {"k": inbox_row("k")}

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args) if self.has_threads else function(*args)


async def keep_rows(unit: Unit, *rows: InboxRow) -> NotKept:
    """End *unit* with new rows; the units that were not kept."""
    return await unit.keep(tuple(InboxWrite(row) for row in rows))


def _answer(name: str) -> Record:
    return Record(ANSWERS, b"k", name.encode(), ())


async def things_in(store: EffectsStore) -> list[SqlRow]:
    unit = store.unit()
    try:
        return await unit.db.fetch("SELECT name, size FROM things ORDER BY name")
    finally:
        unit.drop()


async def _insert(unit: Unit, name: str) -> None:
    await unit.db.execute("INSERT INTO things VALUES (:name, 1)", name=name)


async def _names(store: EffectsStore) -> list[object]:
    return [thing["name"] for thing in await things_in(store)]


def inbox_row(
    key: str,
    *,
    attempt: int = 1,
    outcome: ReplyOutcome = ReplyOutcome.DONE,
    digest: bytes | None = b"d",
) -> InboxRow:
    at = Instant(1_700_000_000_000_000)
    return InboxRow(SERVICE, key, attempt, outcome, None, None, None, None, digest, at)
