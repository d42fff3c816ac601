"""Records on their way in memory, from who writes them to the consumers of the same process.

Normally a record is handed over once it is durable. A consumer whose positions are kept in the same
file gets it as soon as it is written: what it makes of the record then commits together with it, or
not at all, and a saga's hop costs one commit instead of two. Should that commit fail, the records
are taken back; a batch that accounts for one of them is refused until its consumer has sought anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from saga.adapters.sqlite.record_log import (
    PARTITIONS_MAX,
    Placed,
    Prepared,
    RecordLog,
    Row,
    offset_of,
)
from saga.core.identity import Instant
from saga.errors import RecordsRetracted
from saga.ports.bus import Inbound, Source

if TYPE_CHECKING:
    from saga.adapters.sqlite.consumer import LocalConsumer

HANDED_OVER_BYTES_MAX: Final = 16_384
"""Larger records are not kept in memory: their readers find them in the file."""


class HandingOver:
    """Which consumers of this process follow which sources."""

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self._followers: dict[int, list[LocalConsumer]] = {}
        self._taken_back: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        """Of sources that are followed here, the next offset as far as it is known."""

    @property
    def sources(self) -> list[int]:
        """The sources that are followed."""
        return list(self._followers)

    def follow(self, source_id: int, consumer: LocalConsumer, *, end: int) -> None:
        """Hand over the records of this source from now on; *end* is how far it goes by now."""
        self._followers.setdefault(source_id, []).append(consumer)
        self.ends[source_id] = end

    def unfollow(self, source_id: int, consumer: LocalConsumer) -> None:
        """Hand over no more records of this source."""
        readers = self._followers[source_id]
        readers.remove(consumer)
        if not readers:
            del self._followers[source_id]
            self.ends.pop(source_id, None)

    def hand_over(self, placed: Placed) -> None:
        """Give what was committed to those who have not seen it; in commit order."""
        followers, ends = self._followers, self.ends
        reached: set[LocalConsumer] = set()
        for prepared, row in zip(placed.prepared, placed.rows, strict=True):
            source_id = prepared[0]
            readers = followers.get(source_id)
            if readers is None:
                continue
            offset = offset_of(row[0])
            ends[source_id] = offset + 1
            inbound = None
            for reader in readers:
                if not reader.lacks(source_id, offset):
                    continue
                reached.add(reader)
                if _is_large(row):
                    reader.notice({source_id: offset + 1})
                    continue
                if inbound is None:
                    inbound = _inbound(prepared, row)
                reader.offer(source_id, inbound)
        _wake(reached)

    def show(self, placed: Placed) -> bool:
        """Give what is written to those who commit in the same file; whether there was anybody."""
        reached: set[LocalConsumer] = set()
        for prepared, row in zip(placed.prepared, placed.rows, strict=True):
            for reader in self._followers.get(prepared[0], ()):
                if reader.is_previewed and not _is_large(row):
                    inbound = _inbound(prepared, row)
                    if reader.show(prepared[0], inbound):
                        reached.add(reader)
        _wake(reached)
        return bool(reached)

    def take_back(self, placed: Placed) -> None:
        """What was shown of these is not durable, or not where it was."""
        firsts: dict[int, int] = {}
        for (source_id, _, _), row in zip(placed.prepared, placed.rows, strict=True):
            firsts.setdefault(source_id, offset_of(row[0]))
        for source_id, first in firsts.items():
            for reader in self._followers.get(source_id, ()):
                if reader.is_previewed and reader.take_back(source_id, first):
                    known = self._taken_back.get(source_id, first)
                    self._taken_back[source_id] = min(known, first)

    def check(self, positions: Mapping[Source, int]) -> None:
        """See that *positions* are of records as they are, not as they were shown too early.

        Raises:
            RecordsRetracted: they are not; a seek tells that the consumer knows.
        """
        if not self._taken_back:
            return
        for source, offset in positions.items():
            first = self._taken_back.get(self._log.source_id(source))
            if first is not None and offset >= first:
                raise RecordsRetracted(
                    f"{source.topic}[{source.partition}]: what was shown from {first} on did not "
                    "become durable"
                )

    def sought(self, source_id: int) -> None:
        """The consumer reads this source anew."""
        self._taken_back.pop(source_id, None)


def _wake(consumers: Iterable[LocalConsumer]) -> None:
    for consumer in consumers:
        consumer.wake()


def _is_large(row: Row) -> bool:
    return row[2] is not None and len(row[2]) > HANDED_OVER_BYTES_MAX


def _inbound(prepared: Prepared, row: Row) -> Inbound:
    source_id, _, record = prepared
    return Inbound(
        record.topic,
        source_id & (PARTITIONS_MAX - 1),
        offset_of(row[0]),
        record.key,
        record.value,
        record.headers,
        Instant(row[4]),
    )
