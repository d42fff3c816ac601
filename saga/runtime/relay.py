"""Hop 7: publishes what is stored, and remembers how far it got.

The log is the outbox. What this process appended it publishes at once, in log order per saga; what
a process that died has left behind, another one takes over. Whatever is published twice has the
same ids and bytes. A store that shares its file with the bus publishes in the append's own
transaction; then there is nothing left to do here.

where a topic is missing, sagas that have something for it wait (`BlockedTopics`); all others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby

from saga.core.events import SagaStarted
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.errors import (
    BusUnavailable,
    CorruptHistory,
    MessageTooLarge,
    StoreUnavailable,
    TopicMissing,
)
from saga.ports import Appended, Backlog, Batch, Bus, Clock, EventStore, Record, Source
from saga.retrying import Backoff, retried
from saga.runtime.blocked_topics import BlockedTopics
from saga.runtime.record_encoder import RecordEncoder
from saga.runtime.saga_cache import whose

TAKEOVER_S = 2.0
"""How long the process that appended may take to publish, before another one does."""
TAKEOVER_BATCHES_MAX = 100
BACKLOG_MAX = 1_000
LOOKED_PAST_S = 60.0
"""How old a withheld batch is that nothing can appear before any more: older than any append."""
log = logging.getLogger(__name__)


class Relay:
    """Between a store and a bus."""

    def __init__(
        self, *, bus: Bus, store: EventStore, outgoing: RecordEncoder, clock: Clock, worker_id: str
    ) -> None:
        self._bus = bus
        self._store = store
        self._outgoing = outgoing
        self._clock = clock
        self._worker_id = worker_id
        self._in_hand: set[int] = set()
        self._relayed: list[int] = []
        self._withheld = BlockedTopics()
        self._looked_past = 0

    async def publish(
        self, appended: Appended, records: Sequence[Record], *, strangers: Collection[SagaId] = ()
    ) -> None:
        """Publish what an append has left to publish. Returns when it is done, however long it
        takes; what has no topic is left for `release`.

        Of *strangers* another process may have appended entries before; what it has not published
        yet goes first, so that the records of one saga leave in the order of its history.
        """
        backlog_id = appended.backlog_id
        if backlog_id is None:
            return
        self._in_hand.add(backlog_id)
        try:
            if strangers:
                await self._publish_earlier(frozenset(strangers), backlog_id)
            await self._publish_batch(backlog_id, records)
        finally:
            self._in_hand.discard(backlog_id)

    async def publish_copies(self, copies: Sequence[Record]) -> None:
        """Publish copies of what the store keeps whole: one that no topic can take is done
        without.
        """
        if not copies:
            return
        try:
            await self._insist(copies)
        except (MessageTooLarge, TopicMissing) as error:
            if isinstance(error, TopicMissing):
                self._withheld.miss(error.topic)
            if len(copies) == 1:
                log.warning(
                    "a copy for topic %s is left out: %s",
                    copies[0].topic,
                    error,
                    extra={"topic": copies[0].topic, "reason": str(error)},
                )
                return
            for copy in copies:
                await self.publish_copies([copy])

    def relayed(self) -> list[int]:
        """What is published and not yet recorded as such."""
        return list(self._relayed)

    def forget(self, recorded: Sequence[int]) -> None:
        """What was recorded as published."""
        if recorded:
            done = set(recorded)
            self._relayed = [one for one in self._relayed if one not in done]

    async def record(self) -> None:
        """Record what is published, when no append has done so on its way."""
        relayed = self.relayed()
        if relayed:
            await self._store.append(Batch(relayed=relayed), at=self._clock.now())
            self.forget(relayed)

    async def take_over(self, *, older_than_s: float = TAKEOVER_S) -> int:
        """Publish what others have appended and not published for a while; how many batches it
        were.
        """
        now = self._clock.now()
        backlog = await self._store.backlog(limit=TAKEOVER_BATCHES_MAX, after=self._looked_past)
        self._look_past(backlog, Instant(now - round(LOOKED_PAST_S * 1_000_000)))
        left: list[Backlog] = []
        for one in _until_last_before(backlog, Instant(now - round(older_than_s * 1_000_000))):
            if one.backlog_id in self._in_hand:
                break  # what comes after it must not overtake it
            if one.backlog_id not in self._relayed and one.backlog_id not in self._withheld.batches:
                left.append(one)
        for one in left:
            await self._publish_batch(one.backlog_id, await self._records(one))
        if left:
            log.info("published %d batches that other workers had left", len(left))
            await self.record()
        return len(left)

    async def release(self) -> None:
        """Publish what was withheld for topics that are there by now.

        Raises:
            StoreUnavailable: try again later.
        """
        withheld = self._withheld
        if not withheld:
            return
        await self._look_for_topics()
        if not withheld.can_go_on:
            return
        asked, still = list(withheld.sagas), dict[SagaId, str]()
        seen: set[int] = set()
        through = 0
        while backlog := await self._store.backlog(limit=TAKEOVER_BATCHES_MAX, after=through):
            for one in backlog:
                through = one.backlog_id
                seen.add(through)
                own = withheld.batches.get(through, set())
                waiting = withheld.sagas.keys() | own
                entries = [entry for entry in one.entries if entry.saga_id in waiting]
                if entries:
                    records = await self._records(replace(one, entries=entries))
                    await self._publish_free(records, still)
                if own and still.keys().isdisjoint(own):
                    del withheld.batches[through]
                    self._relayed.append(through)
        withheld.release(asked, still, seen)
        self._looked_past = 0
        await self.record()

    def problems(self) -> list[str]:
        """Why not everything that is stored is published now; none while it is."""
        return [
            f"the topic {topic} does not exist: sagas wait for it; `saga topics create` makes it"
            for topic in sorted(self._withheld.missing)
        ]

    @property
    def blocked_sagas(self) -> int:
        """How many sagas wait for a topic."""
        return len(self._withheld.sagas)

    async def _publish_batch(self, backlog_id: int, records: Sequence[Record]) -> None:
        """Publish what can be published of a batch of the backlog."""
        if not await self._publish_free(records, self._withheld.sagas, backlog_id):
            self._relayed.append(backlog_id)

    async def _publish_free(
        self, records: Sequence[Record], waiting: dict[SagaId, str], backlog_id: int | None = None
    ) -> bool:
        """Publish those *records* whose sagas are not *waiting*; whether any are left."""
        free = records
        is_left = False
        while True:
            free, held = self._withheld.split(free, waiting)
            if held:
                is_left = True
                if backlog_id is not None:
                    self._withheld.block(backlog_id, held)
            if not free:
                return is_left
            try:
                await self._insist(free)
            except TopicMissing as error:
                if error.topic not in {record.topic for record in free}:
                    raise  # blocking it would change nothing, and this loop would not end
                self._withheld.miss(error.topic)
            else:
                return is_left

    async def _insist(self, records: Sequence[Record]) -> None:
        """Publish *records*, waiting for the bus to come back if it has to.

        Raises:
            TopicMissing: a topic is not there.
            MessageTooLarge: a topic takes less.
        """
        await retried(lambda: self._bus.publish(records), self._backoff(), "bus unavailable")

    async def _look_for_topics(self) -> None:
        for topic in sorted(self._withheld.missing):
            try:
                await self._bus.bounds([Source(topic, 0)])
            except TopicMissing:
                continue
            except BusUnavailable as error:
                log.info(
                    "cannot look for topic %s: %s",
                    topic,
                    error,
                    extra={"topic": topic, "reason": str(error)},
                )
                return
            self._withheld.found(topic)

    def _look_past(self, backlog: Sequence[Backlog], before: Instant) -> None:
        """Old batches that were withheld need not be read again and again."""
        for one in backlog:
            if one.backlog_id not in self._withheld.batches or one.appended_at >= before:
                return
            self._looked_past = one.backlog_id

    async def _publish_earlier(self, saga_ids: frozenset[SagaId], backlog_id: int) -> None:
        backoff = self._backoff()
        after = 0
        while True:
            try:
                backlog = await self._store.backlog(limit=BACKLOG_MAX, after=after)
                for one in backlog:
                    if one.backlog_id >= backlog_id:
                        return
                    entries = [entry for entry in one.entries if entry.saga_id in saga_ids]
                    if entries:
                        records = await self._records(replace(one, entries=entries))
                        # Under our own id: of that batch the rest is somebody else's business.
                        await self._publish_free(records, self._withheld.sagas, backlog_id)
                    after = one.backlog_id
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
            else:
                if not backlog:
                    return

    def _backoff(self) -> Backoff:
        return Backoff(f"relay/{self._worker_id}", self._clock)

    async def _records(self, backlog: Backlog) -> list[Record]:
        saga_ids = list(dict.fromkeys(entry.saga_id for entry in backlog.entries))
        histories = await self._store.load(saga_ids)
        records: list[Record] = []
        for saga_id, entries in groupby(backlog.entries, key=lambda entry: entry.saga_id):
            history = histories.get(saga_id)
            if history is None or isinstance(history, CorruptHistory):
                log.error(
                    "cannot publish for saga %s: its history is corrupt",
                    saga_id,
                    extra={"saga_id": saga_id},
                )
                continue
            records.extend(self._records_of(history, list(entries)))
        return records

    def _records_of(self, history: Sequence[Entry], entries: Sequence[Entry]) -> list[Record]:
        started = next(
            (entry.body for entry in history if isinstance(entry.body, SagaStarted)), None
        )
        if started is None:
            return []  # its very first turn failed: it has said nothing yet
        return self._outgoing.records(
            entries,
            definition=whose(history)[0],
            key=started.key,
            traceparent=started.traceparent,
        )


def _until_last_before(backlog: Sequence[Backlog], before: Instant) -> Sequence[Backlog]:
    """The batches up to the last one that was appended before; younger ones among them go along,
    because they were committed earlier.
    """
    ends = [place for place, one in enumerate(backlog, 1) if one.appended_at < before]
    return backlog[: ends[-1]] if ends else ()
