"""
Hop 7: publishes what is stored, and remembers how far it got.

The log is the outbox. What this process appended it publishes at once, in log order per saga; what
a process that died has left behind, another one takes over. Whatever is published twice has the
same ids and bytes. A store that shares its file with the bus publishes in the append's own
transaction; then there is nothing left to do here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby

import structlog

from saga.core.events import SagaStarted
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.errors import BusUnavailable, CorruptHistory, MessageTooLarge, StoreUnavailable
from saga.ports import Appended, Backlog, Batch, Bus, Clock, EventStore, Record
from saga.runtime.backoff import Backoff
from saga.runtime.live import whose
from saga.runtime.outgoing import Outgoing

TAKEOVER_S = 2.0
"""How long the process that appended may take to publish, before another one does."""
TAKEOVER_BATCHES_MAX = 100
BACKLOG_MAX = 1_000
EVER = Instant(2**62)
log = structlog.get_logger("saga.relay")


class Relay:
    """
    Between a store and a bus.
    """

    def __init__(
        self, *, bus: Bus, store: EventStore, outgoing: Outgoing, clock: Clock, worker_id: str
    ) -> None:
        self._bus = bus
        self._store = store
        self._outgoing = outgoing
        self._clock = clock
        self._worker_id = worker_id
        self._in_hand: set[int] = set()
        self._relayed: list[int] = []

    async def publish(
        self, appended: Appended, records: Sequence[Record], *, strangers: Collection[SagaId] = ()
    ) -> None:
        """
        Publish what an append has left to publish. Returns when it is done, however long it takes.

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
            await self.publish_now(records)
            self._relayed.append(backlog_id)
        finally:
            self._in_hand.discard(backlog_id)

    async def publish_now(self, records: Sequence[Record]) -> None:
        """
        Publish *records*, waiting for the bus to come back if it has to.
        """
        if not records:
            return
        backoff = Backoff(f"relay/{self._worker_id}")
        while True:
            try:
                await self._bus.publish(records)
            except BusUnavailable as error:
                pause_s = backoff.next_s()
                log.warning("bus unavailable", error=str(error), retry_in_s=round(pause_s, 2))
                await self._clock.sleep(pause_s)
            else:
                return

    async def publish_copies(self, copies: Sequence[Record]) -> None:
        """
        Publish copies of what the store keeps whole: one that no topic can take is done without.
        """
        try:
            await self.publish_now(copies)
        except MessageTooLarge as error:
            if len(copies) == 1:
                log.warning("a copy is too large", topic=copies[0].topic, error=str(error))
                return
            for copy in copies:
                await self.publish_copies([copy])

    def relayed(self) -> list[int]:
        """
        What is published and not yet recorded as such.
        """
        return list(self._relayed)

    def forget(self, recorded: Sequence[int]) -> None:
        """
        What was recorded as published.
        """
        if recorded:
            done = set(recorded)
            self._relayed = [one for one in self._relayed if one not in done]

    async def record(self) -> None:
        """
        Record what is published, when no append has done so on its way.
        """
        relayed = self.relayed()
        if relayed:
            await self._store.append(Batch(relayed=relayed), at=self._clock.now())
            self.forget(relayed)

    async def take_over(self, *, older_than_s: float = TAKEOVER_S) -> int:
        """
        Publish what others have appended and not published for a while; how many batches it were.
        """
        before = Instant(self._clock.now() - round(older_than_s * 1_000_000))
        backlog = await self._store.backlog(appended_before=EVER, limit=TAKEOVER_BATCHES_MAX)
        left: list[Backlog] = []
        for one in _until_last_before(backlog, before):
            if one.backlog_id in self._in_hand:
                break  # what comes after it must not overtake it
            if one.backlog_id not in self._relayed:
                left.append(one)
        for one in left:
            await self.publish_now(await self._records(one))
            self._relayed.append(one.backlog_id)
        if left:
            log.info("took over a backlog", batches=len(left))
            await self.record()
        return len(left)

    async def _publish_earlier(self, saga_ids: frozenset[SagaId], backlog_id: int) -> None:
        backoff = Backoff(f"relay/{self._worker_id}")
        while True:
            try:
                backlog = await self._store.backlog(appended_before=EVER, limit=BACKLOG_MAX)
                for one in backlog:
                    if one.backlog_id >= backlog_id:
                        break
                    entries = [entry for entry in one.entries if entry.saga_id in saga_ids]
                    if entries:
                        await self.publish_now(await self._records(replace(one, entries=entries)))
            except StoreUnavailable as error:
                pause_s = backoff.next_s()
                log.warning("store unavailable", error=str(error), retry_in_s=round(pause_s, 2))
                await self._clock.sleep(pause_s)
            else:
                return

    async def _records(self, backlog: Backlog) -> list[Record]:
        saga_ids = list(dict.fromkeys(entry.saga_id for entry in backlog.entries))
        histories = await self._store.load(saga_ids)
        records: list[Record] = []
        for saga_id, entries in groupby(backlog.entries, key=lambda entry: entry.saga_id):
            history = histories.get(saga_id)
            if history is None or isinstance(history, CorruptHistory):
                log.error("cannot publish for a corrupt history", saga_id=saga_id)
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
    """
    The batches up to the last one that was appended before; younger ones among them go along,
    because they were committed earlier.
    """
    ends = [place for place, one in enumerate(backlog, 1) if one.appended_at < before]
    return backlog[: ends[-1]] if ends else ()
