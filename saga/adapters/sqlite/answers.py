"""Answers and their inbox rows in the file of the bus: each pair in one transaction.

These are of the units that wrote nothing of their own. All others have their rows in the effects
file. While a transaction with rows is open here, it holds that file too, so that whoever writes a
row, here or there, knows what both inboxes have. Where that file is in use, or one of the answers
cannot be published, the rows go there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
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
            group = self._next_group()
        except StoreUnavailable:
            return self._store.keep_apart(unit, writes)  # whoever publishes it then is told
        group.units.append((unit, writes))
        group.answers[unit] = answer
        return group.kept

    async def drained(self) -> None:
        """Return when everything accepted is done."""
        if self._group is not None:
            await asyncio.wait([self._group.kept])

    def _next_group(self) -> _Group:
        group = self._group
        if group is None or not group.is_open:
            group = _Group()
            job = Job(
                partial(self._write, group),
                partial(self._end, group),
                on_commit=self._bus.delivery.deliver,
                early_readers=self._bus.early_readers,
                is_of_handlers=True,
            )
            self._bus.database.writer.submit(job)
            self._group = group
        return group

    def _write(self, group: _Group, cursor: sqlite3.Cursor) -> _Written:
        group.is_open = False
        written = _Written()
        try:
            placed = self._placed(group.answers.values())
        except (BusUnavailable, MessageTooLarge, TopicMissing):
            return written  # whoever publishes them then is told
        elsewhere = self._store.hold(
            group, [write for _, writes in group.units for write in writes]
        )
        if elsewhere is None:
            return written
        not_kept = written.not_kept = write_units(cursor, group.units, elsewhere)
        kept = group.answers.keys() - not_kept - not_kept.refused.keys()
        if len(kept) < len(group.answers):
            placed = self._placed(group.answers[unit] for unit in group.answers if unit in kept)
        if placed:
            written += self._bus.append(cursor, placed)
        not_kept.published |= kept
        return written

    def _placed(self, answers: Iterable[Record | None]) -> list[PlacedRecord]:
        return self._bus.place([*filter(None, answers)])

    def _end(self, group: _Group, written: _Written | None, error: BaseException | None) -> None:
        """The transaction has ended; what could not be written in it is kept as all else is."""
        group.is_open = False
        self._store.release(group)
        not_kept = None if written is None else written.not_kept
        if error is not None or not_kept is not None:
            settle(group.kept, not_kept, error)
            return
        try:
            # One after another they have the same future.
            *_, apart = [self._store.keep_apart(*each) for each in group.units]
        except StoreUnavailable as closed:
            settle(group.kept, None, closed)
        else:
            apart.add_done_callback(partial(_pass_on, group.kept))


class _Written(list[RecordBatch]):
    """What was published; *not_kept* is None where nothing was tried."""

    not_kept: NotKept | None = None


class _Group:
    """Units that will be committed together."""

    __slots__ = ("answers", "is_open", "kept", "units")

    def __init__(self) -> None:
        self.kept: asyncio.Future[NotKept] = asyncio.get_running_loop().create_future()
        self.units: list[Ended] = []
        self.answers: dict[Unit, Record | None] = {}
        self.is_open = True


def _pass_on(to: asyncio.Future[NotKept], ended: asyncio.Future[NotKept]) -> None:
    if ended.cancelled():
        to.cancel()
    else:
        error = ended.exception()
        settle(to, None if error is not None else ended.result(), error)
