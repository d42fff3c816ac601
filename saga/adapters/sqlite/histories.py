"""How the event store in an SQLite file reads histories: whole, their last run, what is new.

And what it keeps of snapshots, so that a long one is read from there on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeVar

from typing_extensions import override

from saga.adapters.mapper import reading_history, reading_tail
from saga.adapters.rows import TURNS_READ_AT_ONCE, beginnings_in
from saga.adapters.snapshot_rows import (
    SNAPSHOT_COLUMNS,
    from_snapshot,
    proof_of,
    reading_from_snapshot,
    to_snapshot,
)
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.statements import ManyRows
from saga.core.history import Entry, History
from saga.core.identity import SagaId
from saga.core.piecewise import Piecewise, at_once
from saga.core.status import ENDED
from saga.errors import CorruptHistory
from saga.ports.store import EventStore, Snapshot, SnapshotAndTail, SnapshotsOf, SnapshotStore
from saga.tasks import Interleaved

LOAD_INLINE_SAGAS_MAX: Final = 64
"""More than these are read on another thread, so as not to hold up the event loop."""

# From the turn on that begins the last run, if there were several; numbers may be damaged.
_OF_LAST_RUNS: Final = (
    "SELECT i.saga_id, i.version, coalesce(n.turn, 1), e.originator_version, e.topic, e.state "
    "FROM {rows} AS r CROSS JOIN saga_index AS i ON i.saga_id = r.column1 "
    "LEFT JOIN saga_runs AS n ON n.saga = i.number "
    "LEFT JOIN stored_events AS e ON e.originator_id = printf('%032x', i.number) "
    f"AND e.originator_version >= coalesce(n.turn, {-(2**63)})"
)
HISTORIES: Final = ManyRows(_OF_LAST_RUNS, 1)
WHOLE_HISTORIES: Final = ManyRows(_OF_LAST_RUNS.replace("n.saga = i.number", "false"), 1)
_TAILS: Final = ManyRows(
    "SELECT i.saga_id, r.column2, 0, e.originator_version, e.topic, e.state FROM {rows} AS r "
    "CROSS JOIN saga_index AS i ON i.saga_id = r.column1 CROSS JOIN stored_events AS e "
    "ON e.originator_id = printf('%032x', i.number) AND e.originator_version > r.column2",
    2,
)
# As the histories above, but from the last turn on that a snapshot of the last run covers.
_FROM_SNAPSHOTS: Final = ManyRows(
    "SELECT i.saga_id, i.version, p.turns, coalesce(p.turns, n.turn, 1), "
    "e.originator_version, e.topic, e.state "
    "FROM {rows} AS r CROSS JOIN saga_index AS i ON i.saga_id = r.column1 "
    "LEFT JOIN saga_runs AS n ON n.saga = i.number "
    "LEFT JOIN saga_snapshots AS p ON p.saga = i.number "
    "AND typeof(p.turns) = 'integer' AND p.turns >= coalesce(n.turn, 1) "
    "LEFT JOIN stored_events AS e ON e.originator_id = printf('%032x', i.number) "
    f"AND e.originator_version >= coalesce(p.turns, n.turn, {-(2**63)})",
    1,
)
_KINDS: Final = {
    "integer": ("definition_version", "turns", "version"),
    "blob": ("state", "proof"),
    "text": ("definition", "code"),
}


def _as_its_kind(column: str) -> str:
    """NULL where it holds something else; texts as bytes, as those of a damaged row may be none."""
    [kind] = [kind for kind, columns in _KINDS.items() if column in columns]
    found = f"CAST(p.{column} AS BLOB)" if kind == "text" else f"p.{column}"
    return f"CASE typeof(p.{column}) WHEN '{kind}' THEN {found} END"


_SNAPSHOTS: Final = ManyRows(
    f"SELECT i.saga_id, {', '.join(map(_as_its_kind, (*SNAPSHOT_COLUMNS.split(', '), 'proof')))} "
    "FROM {rows} AS r CROSS JOIN saga_index AS i ON i.saga_id = r.column1 "
    "CROSS JOIN saga_snapshots AS p ON p.saga = i.number",
    1,
)
_WHOSE: Final = ("definition", "definition_version", "code")
_COUNTS: Final = (
    f"SELECT {', '.join(map(_as_its_kind, _WHOSE))}, count(*) "
    "FROM saga_snapshots AS p GROUP BY 1, 2, 3"
)
_COVERED: Final = (
    "SELECT i.number, e.state FROM saga_index AS i CROSS JOIN stored_events AS e "
    "ON e.originator_id = printf('%032x', i.number) AND e.originator_version = ? "
    f"WHERE i.saga_id = ? AND i.status NOT IN ({', '.join(f'{each.value!r}' for each in ENDED)})"
)
_KEEP_SNAPSHOT: Final = (
    f"INSERT OR REPLACE INTO saga_snapshots (saga, {SNAPSHOT_COLUMNS}, proof) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
DROP_SNAPSHOTS: Final = ManyRows(
    "DELETE FROM saga_snapshots WHERE saga IN "
    "(SELECT number FROM saga_index WHERE saga_id IN {rows})",
    1,
)
_BEGINNINGS: Final = ManyRows(
    "SELECT i.saga_id, e.originator_version, e.topic, e.state FROM {rows} AS r "
    "CROSS JOIN saga_index AS i ON i.saga_id = r.column1 "
    "LEFT JOIN saga_runs AS n ON n.saga = i.number CROSS JOIN stored_events AS e "
    "ON e.originator_id = printf('%032x', i.number) "
    "AND e.originator_version = coalesce(n.turn, 1)",
    1,
)

T = TypeVar("T")


class SqliteHistories(EventStore, SnapshotStore):
    """The part of a store that reads histories; *database* is its maker's to close."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @override
    async def load(
        self, saga_ids: Sequence[SagaId], *, is_whole: bool = False
    ) -> Mapping[SagaId, History | CorruptHistory]:
        wanted = dict.fromkeys(saga_ids)
        histories = WHOLE_HISTORIES if is_whole else HISTORIES

        def query(cursor: sqlite3.Cursor) -> dict[SagaId, Piecewise[History | CorruptHistory]]:
            found = histories.fetch(cursor, [(saga_id,) for saga_id in wanted])
            return {
                saga_id: reading_history(saga_id, _in_order(rows), known=known, first=first)
                for (saga_id, known, first), rows in groupby(found, key=itemgetter(0, 1, 2))
            }

        return await self._read_each(query, len(wanted))

    @override
    async def tails(self, known: Mapping[SagaId, int]) -> Mapping[SagaId, History | CorruptHistory]:
        def query(cursor: sqlite3.Cursor) -> dict[SagaId, History | CorruptHistory]:
            found = _TAILS.fetch(cursor, list(known.items()))
            return {
                saga_id: at_once(reading_tail(saga_id, _in_order(rows), first=turns + 1))
                for (saga_id, turns), rows in groupby(found, key=itemgetter(0, 1))
            }

        return await self._database.read(query)

    @override
    async def load_from_snapshots(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, SnapshotAndTail | History | CorruptHistory]:
        wanted = [(saga_id,) for saga_id in dict.fromkeys(saga_ids)]
        shared = itemgetter(0, 1, 2, 3)

        def query(
            cursor: sqlite3.Cursor,
        ) -> dict[SagaId, Piecewise[SnapshotAndTail | History | CorruptHistory | None]]:
            rows = _FROM_SNAPSHOTS.fetch(cursor, wanted)
            found = [(each, _in_order(turns, behind=4)) for each, turns in groupby(rows, shared)]
            told = [(saga_id,) for (saga_id, _, turns, _), _ in found if turns is not None]
            kept = {row[0]: row for row in _kept(cursor, told)} if told else {}
            return {
                saga_id: reading_history(saga_id, rows, known=known, first=first)
                if turns is None
                else reading_from_snapshot(kept.get(saga_id), rows, known=known)
                for (saga_id, known, turns, first), rows in found
            }

        resumed = await self._read_each(query, len(wanted))
        useless = [saga_id for saga_id, each in resumed.items() if each is None]
        found = {saga_id: each for saga_id, each in resumed.items() if each is not None}
        return found | dict(await self.load(useless)) if useless else found

    @override
    async def keep_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        def work(cursor: sqlite3.Cursor) -> None:
            for each in snapshots:
                covered = cursor.execute(_COVERED, (each.turns, each.saga_id)).fetchone()
                number, turn = covered or (0, None)
                proof = proof_of(turn, each.state)
                if proof is not None:
                    cursor.execute(_KEEP_SNAPSHOT, (number, *from_snapshot(each)[1:], proof))

        await self._database.write(work)

    @override
    async def snapshots(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Snapshot]:
        wanted = [(saga_id,) for saga_id in saga_ids]
        rows = await self._database.read(lambda cursor: _kept(cursor, wanted))
        found = map(to_snapshot, (row[:-1] for row in rows))
        return {each.saga_id: each for each in found if each is not None}

    @override
    async def drop_snapshots(self, saga_ids: Sequence[SagaId]) -> None:
        rows = [(saga_id,) for saga_id in saga_ids]
        await self._database.write(lambda cursor: DROP_SNAPSHOTS.execute(cursor, rows))

    @override
    async def count_snapshots(self) -> Mapping[SnapshotsOf, int]:
        rows = await self._database.read(lambda cursor: cursor.execute(_COUNTS).fetchall())
        return {
            SnapshotsOf(
                definition.decode(errors="replace"), version, code.decode(errors="replace")
            ): n
            for definition, version, code, n in rows
            if None not in (definition, version, code)
        }

    async def _read_each(
        self, query: Callable[[sqlite3.Cursor], dict[SagaId, Piecewise[T]]], count: int
    ) -> dict[SagaId, T]:
        """What *query* reads of *count* sagas: while others run, or on another thread."""

        def query_and_read(cursor: sqlite3.Cursor) -> dict[SagaId, T]:
            return {saga_id: at_once(reading) for saga_id, reading in query(cursor).items()}

        if count > LOAD_INLINE_SAGAS_MAX:
            return await self._database.read(query_and_read)
        interleaved, readings = Interleaved(TURNS_READ_AT_ONCE), self._database.read_now(query)
        return {saga_id: await interleaved.finish(reading) for saga_id, reading in readings.items()}

    @override
    async def beginnings(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Sequence[Entry]]:
        wanted = [(saga_id,) for saga_id in saga_ids]
        rows = await self._database.read(lambda cursor: _BEGINNINGS.fetch(cursor, wanted))
        return beginnings_in(rows)


def _in_order(
    rows: Iterable[tuple[Any, ...]], *, behind: int = 3
) -> Sequence[tuple[int, str, bytes]]:
    """The turns of one saga, *behind* so many columns that they share; damaged numbers go last."""
    turns = [row[behind:] for row in rows if row[behind] is not None]
    try:
        turns.sort()
    except TypeError:
        turns.sort(key=lambda turn: (False, turn[0]) if type(turn[0]) is int else (True, 0))
    return turns


def _kept(cursor: sqlite3.Cursor, wanted: Sequence[tuple[SagaId]]) -> list[tuple[Any, ...]]:
    """The rows of snapshots; where a text is none, nobody has such a definition or code."""
    return [
        (saga_id, _text(definition), version, _text(code), *others)
        for saga_id, definition, version, code, *others in _SNAPSHOTS.fetch(cursor, wanted)
    ]


def _text(stored: bytes | None) -> str | None:
    return None if stored is None else stored.decode(errors="replace")
