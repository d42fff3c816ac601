"""Fakes that fail when they are told to: one of each, for all rooms."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from saga.adapters.memory import MemoryBus, MemoryEventStore
from saga.errors import BusUnavailable, MessageTooLarge, TopicMissing
from saga.ports import Batch, Record, Source

REPLY_BYTES_MAX = 1_000_000


class FlakyBus(MemoryBus):
    """A bus that is away, has lost a topic, or trips over replies; it counts what it is asked for.

    Of replies, *failures_left* fail, *reply_bytes_max* are too large, and none is answered while it
    *is_stuck*. *missing* are topics that somebody has deleted; *topic_limits* are lower than usual,
    and told beforehand if it *tells_limits*.
    """

    is_away = False
    is_stuck = False
    failures_left = 0
    reply_bytes_max = REPLY_BYTES_MAX
    missing: frozenset[str] = frozenset()
    topic_limits: Mapping[str, int] = MappingProxyType({})
    tells_limits = True

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.attempts = 0
        self.attempted: list[Record] = []
        """The replies that somebody wanted to publish, whatever came of it."""
        self.replies: list[Record] = []
        """Those that were published."""

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all, or fail."""
        self.attempts += 1
        if self.is_away:
            raise BusUnavailable("the bus is away")
        for record in records:
            if record.topic in self.missing:
                raise TopicMissing(record.topic)
        replies = [record for record in records if ".evt." in record.topic]
        self.attempted += replies
        if replies and self.is_stuck:
            await asyncio.get_running_loop().create_future()
        if replies and self.failures_left:
            self.failures_left -= 1
            raise BusUnavailable("the bus is away")
        if any(len(reply.value) > self.reply_bytes_max for reply in replies):
            raise MessageTooLarge("too large")
        for record in records:
            if record.size > self.topic_limits.get(record.topic, record.size):
                raise MessageTooLarge(f"too large for {record.topic}")
        await super().publish(records)
        self.replies += replies

    async def limits(self, topics):
        """Those of topics that take less than others, unless nobody is to know yet."""
        own = self.topic_limits if self.tells_limits else {}
        return {**await super().limits(topics), **{n: own[n] for n in topics if n in own}}

    async def bounds(self, sources: Sequence[Source]):
        """Of each source begin and end."""
        for source in sources:
            if source.topic in self.missing:
                raise TopicMissing(source.topic, source.partition)
        return await super().bounds(sources)


class FlakyStore:
    """A store whose appends fail as told, before or after they were done."""

    def __init__(self, inner: MemoryEventStore) -> None:
        self.inner = inner
        self.before: deque[Exception] = deque()
        self.after: deque[Exception] = deque()
        self.on_append: Callable[[Batch], None] = lambda batch: None
        self.is_away = False
        self.appends = 0

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    async def append(self, batch: Batch, *, at):
        """Append, or fail."""
        self.on_append(batch)
        if self.before:
            raise self.before.popleft()
        appended = await self.inner.append(batch, at=at)
        self.appends += 1
        if self.after and (batch.histories or batch.positions or not batch.relayed):
            raise self.after.popleft()  # of what was relayed nobody else can have been quicker
        return appended


class LockedDisk(sqlite3.Connection):
    """A connection on which a statement fails when told to, as on a database that is locked."""

    failing = ""
    failures_left = 0

    def execute(self, sql: str, *params):
        """Refuse so many times."""
        if self.failures_left and sql.startswith(self.failing):
            self.failures_left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error
        return super().execute(sql, *params)
