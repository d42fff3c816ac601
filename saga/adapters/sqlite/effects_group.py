"""Group commit of effect services: the units of work that share one transaction, and how it ends.

Units that wrote tables of their own and units that only keep an inbox row are told apart: when an
inbox row turns out to be taken by another process, the former can only be undone together, the
latter one by one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from saga.adapters.sqlite.effects_inbox import insert_rows, write_row
from saga.ports.effects_store import InboxWrite, Unit

if TYPE_CHECKING:
    from saga.adapters.sqlite.effects_unit import SqliteUnit

BUSY_WAIT_MS: Final = 5_000


class Settled(NamedTuple):
    """A unit that has ended, and the inbox rows it wants kept."""

    unit: SqliteUnit
    writes: Sequence[InboxWrite]


class Group:
    """The units that will be committed together, in the order in which they ended."""

    __slots__ = ("began_at_s", "kept", "lost", "rows_only", "written")

    def __init__(self, began_at_s: float) -> None:
        self.began_at_s = began_at_s
        self.written: list[Settled] = []
        self.rows_only: list[Settled] = []
        self.lost: list[SqliteUnit] = []
        self.kept: asyncio.Future[Collection[Unit]] | None = None

    @property
    def units(self) -> int:
        """How many units the group has."""
        return len(self.written) + len(self.rows_only)

    def lose_written(self) -> None:
        """The transaction is gone, and with it what the units of this group had written."""
        self.lost += [settled.unit for settled in self.written]
        self.written.clear()


def begin(connection: sqlite3.Connection, *, wait: bool) -> None:
    """Begin the one write transaction of the file; with *wait*, while another process is at it."""
    if not wait:
        connection.execute("BEGIN IMMEDIATE")
        return
    connection.execute(f"PRAGMA busy_timeout={BUSY_WAIT_MS}")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute("PRAGMA busy_timeout=0")


def write(connection: sqlite3.Connection, group: Group) -> Collection[Unit]:
    """Write the group's rows inside the transaction and return its units that are not kept.

    Raises:
        sqlite3.Error: nothing can be kept; roll back.
    """
    cursor = connection.cursor()
    moved = _write(cursor, (*group.written, *group.rows_only))
    if any(settled.unit in moved for settled in group.written):
        connection.execute("ROLLBACK")
        group.lose_written()
        begin(connection, wait=False)
        moved = _write(cursor, group.rows_only)
    return moved.union(group.lost)


def _write(cursor: sqlite3.Cursor, settled: Iterable[Settled]) -> set[SqliteUnit]:
    """Write the rows: new ones all at once, replacements and units of several rows one by one."""
    new: list[Settled] = []
    careful: list[Settled] = []
    for one in settled:
        is_new = len(one.writes) == 1 and one.writes[0].replaces is None
        (new if is_new else careful).append(one)
    if new:
        cursor.execute("SAVEPOINT inbox")
        if insert_rows(cursor, [one.writes[0].row for one in new]) != len(new):
            cursor.execute("ROLLBACK TO inbox")
            careful = new + careful
        cursor.execute("RELEASE inbox")
    return {one.unit for one in careful if not _write_unit(cursor, one.writes)}


def _write_unit(cursor: sqlite3.Cursor, writes: Sequence[InboxWrite]) -> bool:
    cursor.execute("SAVEPOINT inbox")
    is_kept = all(write_row(cursor, write) for write in writes)
    if not is_kept:
        cursor.execute("ROLLBACK TO inbox")
    cursor.execute("RELEASE inbox")
    return is_kept
