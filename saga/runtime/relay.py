"""Hop 7: publishes what is stored, in log order per saga, and remembers how far it got.

The log is the outbox: what a process that died has left behind, another one takes over. A record
that is published twice has the same id and bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from sys import maxsize
from types import MappingProxyType
from typing import TypeAlias

from saga.contracts import (
    COMMAND_CONTRACT,
    IntentCancelled,
    TopicNames,
    encode,
    intent_cancelled_name,
)
from saga.contracts import cloudevents as ce
from saga.contracts.between_sagas import CHILD_ENDED, CHILD_STARTED, child_text, command_text
from saga.contracts.keys import key_in
from saga.contracts.signatures import SigningKeys
from saga.core.durations import SECOND_US
from saga.core.events import ChildStarted, Fact, Message, Parent, SagaStarted
from saga.core.history import Entry, RecordedTurn, turns
from saga.core.identity import DO, UNDO, Instant, SagaId, idempotency_key
from saga.core.intents import (
    CommandSent,
    EventPublished,
    Intent,
    IntentIssued,
    IntentTold,
    SagaAbandoned,
    SagaCompleted,
    SagaRolledBack,
)
from saga.errors import (
    BusUnavailable,
    CorruptHistory,
    MessageTooLarge,
    StoreUnavailable,
    TopicMissing,
)
from saga.ports import (
    Backlog,
    Batch,
    Bus,
    Clock,
    EventStore,
    Record,
    Source,
    UnhandledRecord,
)
from saga.ports.bus import HEADERS_USUAL_BYTES, RecordLimits
from saga.retrying import Backoff, retried
from saga.runtime.children import start_of, told_to_parent
from saga.runtime.notices import Notice
from saga.runtime.unhandled import dlq_record

TAKEOVER_S = 2.0
"""How long the process that appended may take to publish, before another one does."""
TAKEOVER_BATCHES_MAX = 100
BACKLOG_MAX = 1_000
LIMITS_S = 5.0
"""How often it is looked whether a topic takes a record by now that it has refused."""
SETTLED_S = 60.0
"""No batch can appear any more before one that is as old as this: no append takes so long."""
MISSING_HINT = "make it with `saga topics create`"
_Said: TypeAlias = Message | IntentIssued | EventPublished | IntentTold
_OUTCOMES = (SagaCompleted, SagaRolledBack, SagaAbandoned)
_PUBLISHED = frozenset({IntentIssued, EventPublished, IntentTold, CommandSent, *_OUTCOMES})
log = logging.getLogger(__name__)


class Relay:
    def __init__(
        self,
        *,
        bus: Bus,
        store: EventStore,
        encoder: RecordEncoder,
        clock: Clock,
        worker_id: str,
        topics: Collection[str] = (),
    ) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._worker_id = worker_id
        self._topics = topics
        self._in_hand: set[int] = set()
        self._blocked = BlockedTopics()
        self._looked_past = 0
        self._look_for_limits_at_s = 0.0
        self.encoder = encoder
        self.relayed: list[int] = []
        """Backlog ids that are published and not yet recorded as such."""

    async def publish(
        self,
        backlog_id: int,
        records: Sequence[Record],
        *,
        possibly_unpublished: Collection[SagaId] = (),
    ) -> None:
        """Publish an append's *records*, waiting for the bus; what has no topic is for `release`.

        What another process has stored of the sagas *possibly_unpublished* goes first, so that the
        records of one saga leave in the order of its history.
        """
        self._in_hand.add(backlog_id)
        try:
            if possibly_unpublished:
                await self._publish_earlier(frozenset(possibly_unpublished), backlog_id)
            await self._publish_batch(backlog_id, records)
        finally:
            self._in_hand.discard(backlog_id)

    async def learn_limits(self, topics: Collection[str] | None = None) -> bool:
        """Ask how large a record may be; whether that has changed. Raises BusUnavailable.

        Of all topics that the application publishes to, where none are named.
        """
        limits = await self._bus.limits(self._topics if topics is None else topics)
        return self.encoder.limits.learn(limits)

    @property
    def refused(self) -> Mapping[SagaId, str]:
        """Sagas that are to park: of each a record is stored that its topic does not take."""
        return self._blocked.to_park

    def parked(self, saga_id: SagaId) -> None:
        """It is recorded that this saga stands still, or it has ended."""
        self._blocked.to_park.pop(saga_id, None)

    async def publish_dead_letters(self, letters: Sequence[UnhandledRecord]) -> None:
        """Publish a copy of each, where a dlq topic takes it; the store keeps the letter itself."""
        copies = filter(None, [dlq_record(letter, self.encoder.names) for letter in letters])
        await self._publish_copies(list(copies))

    def forget(self, recorded: Collection[int]) -> None:
        """These backlog ids are recorded as published."""
        done = set(recorded)
        self.relayed = [backlog_id for backlog_id in self.relayed if backlog_id not in done]

    async def record(self) -> None:
        """Record what is published, where no append has done so on its way."""
        relayed = list(self.relayed)
        if relayed:
            await self._store.append(Batch(relayed=relayed), at=self._clock.now())
            self.forget(relayed)

    async def take_over(self, *, older_than_s: float = TAKEOVER_S) -> int:
        """Publish what others have appended and not published for a while; how many batches."""
        now = self._clock.now()
        look = partial(self._store.backlog, limit=TAKEOVER_BATCHES_MAX, after=self._looked_past)
        backlog = await look(saga_ids=())
        self._look_past(backlog, Instant(now - round(SETTLED_S * SECOND_US)))
        left: set[int] = set()
        for batch in _through_last_before(backlog, Instant(now - round(older_than_s * SECOND_US))):
            backlog_id = batch.backlog_id
            if backlog_id in self._in_hand:
                break  # what comes after it must not overtake it
            if backlog_id not in self.relayed and backlog_id not in self._blocked.batches:
                left.add(backlog_id)
        if not left:
            return 0
        found = [batch for batch in await look() if batch.backlog_id in left]
        for batch in found:
            await self._publish_batch(batch.backlog_id, await self._records(batch.entries))
        log.info("published %d batches that other workers had left", len(found))
        await self.record()
        return len(found)

    async def release(self) -> None:
        """Publish what waits for topics that are there by now; raises StoreUnavailable."""
        blocked = self._blocked
        if not blocked:
            return
        await self._look_for_topics()
        await self._look_for_limits()
        if not blocked.can_go_on:
            return
        asked, still = list(blocked.sagas), dict[SagaId, str]()
        seen: set[int] = set()
        through = 0
        while backlog := await self._store.backlog(limit=TAKEOVER_BATCHES_MAX, after=through):
            for batch in backlog:
                through = batch.backlog_id
                seen.add(through)
                own = blocked.batches.get(through, set())
                waiting = blocked.sagas.keys() | own
                entries = [entry for entry in batch.entries if entry.saga_id in waiting]
                if entries:
                    await self._publish_unblocked(await self._records(entries), still)
                if own and still.keys().isdisjoint(own):
                    del blocked.batches[through]
                    self.relayed.append(through)
        blocked.release(asked, still, seen)
        self._looked_past = 0
        await self.record()

    def problems(self) -> list[str]:
        """Why not everything that is stored is published now; none while it is."""
        return [
            f"the topic {topic} does not exist: sagas wait for it; `saga topics create` makes it"
            for topic in sorted(self._blocked.missing)
        ]

    @property
    def blocked_sagas(self) -> int:
        return len(self._blocked.sagas)

    async def _publish_batch(self, backlog_id: int, records: Sequence[Record]) -> None:
        if not await self._publish_unblocked(records, self._blocked.sagas, backlog_id):
            self.relayed.append(backlog_id)

    async def _publish_unblocked(
        self, records: Sequence[Record], waiting: dict[SagaId, str], backlog_id: int | None = None
    ) -> bool:
        """Publish those *records* whose sagas are not *waiting*; whether any are left."""
        free = records
        is_left = False
        while True:
            free, blocked = self._blocked.split(free, waiting)
            if blocked:
                is_left = True
                if backlog_id is not None:
                    self._blocked.block(backlog_id, blocked)
            if not free:
                return is_left
            try:
                await self._publish_all(free)
            except TopicMissing as error:
                if error.topic not in {record.topic for record in free}:
                    raise  # blocking it would change nothing, and this loop would not end
                self._blocked.miss(error.topic)
            except MessageTooLarge as error:
                if len(free) == 1:
                    waiting[self._blocked.refuse(free[0], str(error))] = free[0].topic
                    continue
                for record in free:
                    is_left |= await self._publish_unblocked([record], waiting, backlog_id)
                return is_left
            else:
                return is_left

    async def _publish_copies(self, copies: Sequence[Record]) -> None:
        if not copies:
            return
        try:
            await self._publish_all(copies)
        except (MessageTooLarge, TopicMissing) as error:
            if isinstance(error, TopicMissing):
                self._blocked.miss(error.topic)
            if len(copies) == 1:
                topic = copies[0].topic
                keys = {"topic": topic, "reason": str(error)}
                log.warning("a copy for topic %s is left out: %s", topic, error, extra=keys)
                return
            for copy in copies:
                await self._publish_copies([copy])

    async def _publish_all(self, records: Sequence[Record]) -> None:
        """Wait for the bus as long as it is away; raises TopicMissing and MessageTooLarge."""
        await retried("bus unavailable", self._backoff, self._bus.publish, records)

    async def _publish_earlier(self, saga_ids: frozenset[SagaId], backlog_id: int) -> None:
        backoff = self._backoff()
        after = 0
        while True:
            try:
                backlog = await self._store.backlog(
                    limit=BACKLOG_MAX, after=after, saga_ids=saga_ids
                )
                for batch in backlog:
                    if batch.backlog_id >= backlog_id:
                        return
                    if batch.entries:
                        records = await self._records(batch.entries)
                        # Under our own id: the rest of that batch is somebody else's business.
                        await self._publish_unblocked(records, self._blocked.sagas, backlog_id)
                    after = batch.backlog_id
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
            else:
                if not backlog:
                    return

    async def _look_for_topics(self) -> None:
        for topic in sorted(self._blocked.missing):
            try:
                await self._bus.bounds([Source(topic, 0)])
            except TopicMissing:
                continue
            except BusUnavailable as error:
                keys = {"topic": topic, "reason": str(error)}
                log.info("cannot look for topic %s: %s", topic, error, extra=keys)
                return
            self._blocked.found(topic)

    async def _look_for_limits(self) -> None:
        """Let those go on whose records their topics take by now."""
        refused, now_s = self._blocked.refused, self._clock.monotonic_s()
        if not refused or now_s < self._look_for_limits_at_s:
            return
        self._look_for_limits_at_s = now_s + LIMITS_S
        try:
            limits = await self._bus.limits({record.topic for record in refused.values()})
        except BusUnavailable as error:
            log.info("cannot look for limits: %s", error, extra={"reason": str(error)})
            return
        self.encoder.limits.learn(limits)
        for saga_id, record in list(refused.items()):
            if record.fits(limits.get(record.topic, -1)):
                self._blocked.accept(saga_id)

    def _look_past(self, backlog: Sequence[Backlog], before: Instant) -> None:
        """Old batches that are blocked need not be read again and again."""
        for batch in backlog:
            if batch.backlog_id not in self._blocked.batches or batch.appended_at >= before:
                return
            self._looked_past = batch.backlog_id

    async def _records(self, entries: Sequence[Entry]) -> list[Record]:
        saga_ids = list(dict.fromkeys(entry.saga_id for entry in entries))
        histories = await self._store.load(saga_ids)
        records: list[Record] = []
        for saga_id, group in groupby(entries, key=lambda entry: entry.saga_id):
            history = histories.get(saga_id)
            if history is None or isinstance(history, CorruptHistory):
                message = "cannot publish for saga %s: its history is corrupt"
                log.error(message, saga_id, extra={"saga_id": saga_id})
                continue
            start = start_of(history)
            if start is None:
                continue  # its very first turn failed: there is nothing to publish yet
            begin, parent = start
            records += self.encoder.records(
                group,
                definition=begin.definition,
                key=begin.key,
                traceparent=begin.traceparent,
                parent=parent,
            )
        return records

    def _backoff(self) -> Backoff:
        return Backoff(f"relay/{self._worker_id}", self._clock)


class BlockedTopics:
    """What cannot be published because a topic is not there, or refuses a record as too large.

    A saga that has something for it publishes nothing more until that is mended; all others go on.
    This is a memory of names, no queue: what is to be published is read from the store again.

    Attributes:
        sagas: those that publish nothing now, each with the topic that it waits for.
        refused: of those whose topic is there, the record that it does not take.
        to_park: of these, those that are to park, each with the reason.
        batches: backlog ids of which something is blocked, and of which sagas.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.refused: dict[SagaId, Record] = {}
        self.to_park: dict[SagaId, str] = {}
        self._reasons: dict[SagaId, str] = {}
        self.sagas: dict[SagaId, str] = {}
        self.batches: dict[int, set[SagaId]] = {}

    def __bool__(self) -> bool:
        return bool(self.missing or self.batches)

    def miss(self, topic: str) -> None:
        if topic not in self.missing:
            self.missing.add(topic)
            message = "topic %s is missing: its records are kept and their sagas wait; %s"
            keys = {"topic": topic, "hint": MISSING_HINT}
            log.error(message, topic, MISSING_HINT, extra=keys)

    def refuse(self, record: Record, reason: str) -> SagaId:
        """Its topic does not take *record*; returns its saga, which is to park."""
        saga_id = _saga_of(record)
        self.refused[saga_id] = record
        self._reasons[saga_id] = self.to_park[saga_id] = reason
        keys = {"saga_id": saga_id, "topic": record.topic, "reason": reason}
        log.error("a record of saga %s is refused: %s", saga_id, reason, extra=keys)
        return saga_id

    def accept(self, saga_id: SagaId) -> None:
        """The record that was refused may go."""
        for known in (self.refused, self.to_park, self._reasons):
            known.pop(saga_id, None)

    def found(self, topic: str) -> None:
        self.missing.discard(topic)
        log.warning("topic %s is there again", topic, extra={"topic": topic})

    def split(
        self, records: Sequence[Record], waiting: dict[SagaId, str]
    ) -> tuple[Sequence[Record], set[SagaId]]:
        """What of *records* can be published; the sagas of the rest, which join *waiting*."""
        if not self.missing and not waiting:
            return records, set()
        free: list[Record] = []
        blocked: set[SagaId] = set()
        for record in records:
            saga_id = _saga_of(record)
            if saga_id not in waiting and record.topic in self.missing:
                waiting[saga_id] = record.topic
            if saga_id in waiting:
                blocked.add(saga_id)
                if saga_id in self.refused:  # it was released, and goes on in vain
                    self.to_park[saga_id] = self._reasons[saga_id]
            else:
                free.append(record)
        return free, blocked

    def block(self, backlog_id: int, saga_ids: Iterable[SagaId]) -> None:
        """Of that batch the records of these sagas are not published."""
        blocked = set(saga_ids)
        if blocked:
            self.batches.setdefault(backlog_id, set()).update(blocked)

    @property
    def can_go_on(self) -> bool:
        """Whether a saga waits for a topic that is there, or a batch for no saga."""
        return any(
            topic not in self.missing and saga_id not in self.refused
            for saga_id, topic in self.sagas.items()
        ) or any(saga_ids.isdisjoint(self.sagas) for saga_ids in self.batches.values())

    def release(
        self, asked: Iterable[SagaId], still: dict[SagaId, str], seen: Collection[int]
    ) -> None:
        """Of *asked*, only those wait on that are in *still*, or in a batch that was not *seen*."""
        late = {
            saga_id
            for backlog_id, saga_ids in self.batches.items()
            if backlog_id not in seen
            for saga_id in saga_ids
        }
        for saga_id in asked:
            if saga_id in still:
                self.sagas[saga_id] = still[saga_id]
            elif saga_id not in late:
                self.sagas.pop(saga_id, None)


class RecordEncoder:
    """Makes the records of one environment and namespace.

    *own_keys*: of events that travel under a key of their own, the member of their JSON that it is.
    All others travel under their saga's key, and commands under that of the saga they are for.
    *signing* signs the commands.
    """

    def __init__(
        self,
        names: TopicNames,
        *,
        record_bytes_max: int,
        own_keys: Mapping[str, str] = MappingProxyType({}),
        signing: SigningKeys | None = None,
    ) -> None:
        self.names = names
        self._record_bytes_max = record_bytes_max
        self.limits = RecordLimits(record_bytes_max + HEADERS_USUAL_BYTES)
        self._own_keys = own_keys
        self._signing = signing
        self._topic = cache(names.topic)
        self._source = cache(partial(names.source, "sagas"))

    def records(
        self,
        entries: Iterable[Entry],
        *,
        definition: str,
        key: str,
        traceparent: str | None,
        parent: Parent | None = None,
    ) -> list[Record]:
        """The records of whole turns, in order; always the same bytes."""
        records: list[Record] = []
        for turn in turns(entries):
            event = turn.event
            records += self.records_of(
                turn.saga_id,
                event.at,
                event.cause,
                (event.fact, *turn.decided),
                definition=definition,
                key=key,
                traceparent=traceparent,
            )
            records += self.told_to_parent(
                turn, parent, definition=definition, key=key, traceparent=traceparent
            )
        return records

    def told_to_parent(
        self,
        turn: RecordedTurn,
        parent: Parent | None,
        *,
        definition: str,
        key: str,
        traceparent: str | None,
        are_stored: bool = True,
    ) -> list[Record]:
        """The records by which a child tells its *parent* of a turn; raises as `records_of`."""
        source, at = self._source(definition), turn.event.at
        records: list[Record] = []
        for told, parent_key in told_to_parent(turn, parent, definition=definition, key=key):
            has_begun = isinstance(told, ChildStarted)
            contract = CHILD_STARTED if has_begun else CHILD_ENDED
            headers = ce.Said(
                f"{told.intent_id}/{'started' if has_begun else 'ended'}",
                contract,
                source,
                at,
                turn.saga_id,
                told.intent_id,
                traceparent=traceparent,
            )
            text = child_text(told).encode()
            record = self._signed(Record(self._topic(contract), parent_key.encode(), text, headers))
            records.append(record if are_stored else self._checked(record))
        return records

    def records_of(
        self,
        saga: SagaId,
        at: Instant,
        cause: str,
        bodies: Iterable[Fact | Intent],
        *,
        definition: str,
        key: str,
        traceparent: str | None,
        are_stored: bool = True,
    ) -> list[Record]:
        """The records of what one turn has decided.

        Raises:
            MessageTooLarge: the bus would refuse one of them, where they are not stored yet.
        """
        source, sagas_key = self._source(definition), key.encode()
        surely_fits = maxsize if are_stored else self.limits.surely_fits
        records: list[Record] = []
        for body in bodies:
            message: _Said
            undoes: str | None = None
            parent_key: str | None = None
            if type(body) is IntentIssued:
                if body.child:
                    if body.direction is UNDO:
                        continue  # a command says it
                    parent_key = key
                message, undoes = body, body.undoes
                same_for_retries = idempotency_key(saga, body.step, body.direction)
                id_ = f"{same_for_retries}/{body.attempt}"
            elif type(body) is EventPublished:
                message = body
                id_ = same_for_retries = f"{saga}/event/{body.publication}"
            elif type(body) is IntentTold:
                message = body
                same_for_retries = idempotency_key(saga, body.step, DO)
                id_ = f"{same_for_retries}/1"
            elif isinstance(body, _OUTCOMES) and body.outcome is not None:
                message = body.outcome
                id_ = same_for_retries = _outcome_id(saga, body)
            elif type(body) is CommandSent:
                sender = f"{definition}/{key}"
                command = self._command(saga, at, cause, body, source=source, sender=sender)
                records.append(command if are_stored else self._checked(command))
                continue
            else:
                continue
            contract, text = message.contract, message.payload.encode()
            headers = ce.Said(
                id_, contract, source, at, saga, cause, same_for_retries, undoes, traceparent
            )
            if parent_key is not None:
                headers.causation_id, headers.parent_key = id_, parent_key
            record_key = sagas_key
            if contract in self._own_keys:
                record_key = self._own_key(message) or sagas_key
            record = Record(self._topic(contract), record_key, text, headers)
            if len(text) + len(record_key) > surely_fits:
                self._check(record)
            records.append(record)
        return records

    def _command(
        self, saga: SagaId, at: Instant, cause: str, sent: CommandSent, *, source: str, sender: str
    ) -> Record:
        """A command names the saga it is for; whose it is, `ce_correlationid` says."""
        headers = ce.Said(
            sent.command, COMMAND_CONTRACT, source, at, causation_id=cause, correlation_id=saga
        )
        value = command_text(sent, actor=sender).encode()
        return self._signed(
            Record(self._topic(COMMAND_CONTRACT), sent.key.encode(), value, headers)
        )

    def _signed(self, record: Record) -> Record:
        """*record* with a signature, where commands and replies are signed."""
        headers = record.headers
        if self._signing is None:
            return record
        assert isinstance(headers, ce.Said), headers
        signed = self._signing.signed(record.topic, record.key, record.value, headers)
        return Record(record.topic, record.key, record.value, signed)

    def notice(
        self, notice: Notice, *, saga: SagaId, at: Instant, definition: str, key: str
    ) -> Record:
        """The record that tells a service of an intent for which nobody waits any more."""
        id_ = f"{notice.intent_id}/cancelled"
        contract = intent_cancelled_name(notice.contract.partition(".")[0])
        value = encode(IntentCancelled(intent_id=notice.intent_id, reason=notice.reason)).encode()
        source = self._source(definition)
        headers = ce.Said(id_, contract, source, at, saga, notice.intent_id, id_)
        return Record(self._topic(contract), key.encode(), value, headers)

    def _checked(self, record: Record) -> Record:
        self._check(record)
        return record

    def _check(self, record: Record) -> None:
        """Raise MessageTooLarge for what the bus would refuse: before it is stored, never after."""
        contract = self.names.contract_name(record.topic)
        size = len(record.value or b"") + len(record.key or b"")
        if size > self._record_bytes_max:
            limit = f"of which a record may have {self._record_bytes_max} (SAGA_RECORD_BYTES)"
            raise MessageTooLarge(f"{contract}: key and value have {size} bytes, {limit}")
        why = self.limits.why_too_large(record)
        if why is not None:
            text = f"{contract}: {why}, then release the saga"
            raise MessageTooLarge(text, topic=record.topic)

    def _own_key(self, message: _Said) -> bytes | None:
        own_key = key_in(message.payload, self._own_keys[message.contract])
        return None if own_key is None else own_key.encode()


def may_publish(turn: RecordedTurn, parent: Parent | None) -> bool:
    """Whether records may follow from a turn, of a saga with this *parent*; else none do."""
    fact = turn.event.fact
    if parent is not None or (type(fact) is SagaStarted and fact.parent is not None):
        return True
    return any(type(body) in _PUBLISHED for body in turn.decided)


def _through_last_before(backlog: Sequence[Backlog], before: Instant) -> Sequence[Backlog]:
    """Batches up to the last one appended *before*: younger ones among them committed earlier."""
    ends = [place for place, batch in enumerate(backlog, 1) if batch.appended_at < before]
    return backlog[: ends[-1]] if ends else ()


def _outcome_id(saga: SagaId, end: SagaCompleted | SagaRolledBack | SagaAbandoned) -> str:
    """A child that had completed and is undone has a second outcome."""
    is_second = not isinstance(end, SagaCompleted) and end.undo is not None
    return f"{saga}/outcome/undone" if is_second else f"{saga}/outcome"


def _saga_of(record: Record) -> SagaId:
    said = ce.read_headers(record.headers)
    saga_id = said.saga_id or said.correlation_id
    assert saga_id is not None, f"a record on {record.topic} belongs to no saga"
    return SagaId(saga_id)
