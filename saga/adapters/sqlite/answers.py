"""Answers and their inbox rows in the file of the bus: each pair in one transaction.

These are of the units that wrote nothing of their own. All others have their rows in the effects
file. While a transaction with rows is open here, it holds that file too, so that whoever writes a
row, here or there, knows what both inboxes have. Where that file is in use, the rows go there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from saga.adapters.sqlite.bus import LocalBus
from saga.adapters.sqlite.inbox import Elsewhere, Ended, write_units
from saga.adapters.sqlite.records import PlacedRecord, RecordBatch
from saga.adapters.sqlite.writer import Job, settle
from saga.errors import BusUnavailable, MessageTooLarge, StoreUnavailable, TopicMissing
from saga.ports.bus import Record
from saga.ports.effects_store import InboxWrite, NotKept, Unit


class EffectsFile(Protocol):
    """The effects store, which has the units' own writes and an inbox of its own."""

    def hold(self, holder: object, writes: Sequence[InboxWrite]) -> Elsewhere | None:
        """What is kept there of the keys of *writes*, and will be until `release`.

        None where others use the file: they may be keeping any of them.
        """

    def release(self, holder: object) -> None: ...
    def keep_apart(self, unit: Unit, writes: Sequence[InboxWrite]) -> asyncio.Future[NotKept]:
        """Keep the rows there, and publish nothing."""


class AnswersInBus:
    """Publishes the answers of units of *store* through *bus*, and keeps their rows beside them."""

    def __init__(self, bus: LocalBus, store: EffectsFile) -> None:
        self._bus = bus
        self._store = store
        self._group: _Group | None = None

    def keep(
        self, unit: Unit, writes: Sequence[InboxWrite], answer: Record | None
    ) -> asyncio.Future[NotKept]:
        try:
            placed = [] if answer is None else self._bus.place([answer])
            group = self._next_group()
        except (BusUnavailable, MessageTooLarge, StoreUnavailable, TopicMissing):
            return self._store.keep_apart(unit, writes)  # whoever publishes it then is told
        group.units.append((unit, writes))
        group.placed[unit] = placed
        return group.kept

    async def drained(self) -> None:
        """Return when everything accepted is done."""
        if self._group is not None:
            await asyncio.wait([self._group.kept])

    def _next_group(self) -> _Group:
        group = self._group
        if group is None or group.is_written or group.written.done():
            group = _Group()
            job = Job(
                partial(self._write, group),
                group.written,
                on_commit=self._bus.delivery.deliver,
                early_readers=self._bus.early_readers,
                is_of_handlers=True,
            )
            self._bus.database.writer.submit(job)
            group.written.add_done_callback(partial(self._written, group))
            self._group = group
        return group

    def _write(self, group: _Group, cursor: sqlite3.Cursor) -> _Written:
        group.is_written = True
        elsewhere = self._store.hold(
            group, [write for _, writes in group.units for write in writes]
        )
        written = _Written()
        if elsewhere is None:
            return written
        not_kept = written.not_kept = write_units(cursor, group.units, elsewhere)
        kept = [
            unit for unit in group.placed if unit not in not_kept and unit not in not_kept.refused
        ]
        if placed := [each for unit in kept for each in group.placed[unit]]:
            written += self._bus.append(cursor, placed)
        not_kept.published.update(kept)
        return written

    def _written(self, group: _Group, future: asyncio.Future[_Written]) -> None:
        """The transaction has ended; what could not be written in it is kept as all else is."""
        self._store.release(group)
        error = future.exception()
        not_kept = None if error is not None else future.result().not_kept
        if error is not None or not_kept is not None:
            settle(group.kept, not_kept, error)
            return
        # One after another they have the same future.
        *_, apart = [self._store.keep_apart(*each) for each in group.units]
        apart.add_done_callback(partial(_pass_on, group.kept))


class _Written(list[RecordBatch]):
    """What was published; *not_kept* is None where nothing was tried."""

    not_kept: NotKept | None = None


class _Group:
    """Units that will be committed together."""

    __slots__ = ("is_written", "kept", "placed", "units", "written")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.kept: asyncio.Future[NotKept] = loop.create_future()
        self.written: asyncio.Future[_Written] = loop.create_future()
        self.units: list[Ended] = []
        self.placed: dict[Unit, list[PlacedRecord]] = {}
        self.is_written = False


def _pass_on(to: asyncio.Future[NotKept], ended: asyncio.Future[NotKept]) -> None:
    if ended.cancelled():
        to.cancel()
    else:
        error = ended.exception()
        settle(to, None if error is not None else ended.result(), error)
