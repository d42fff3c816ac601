"""Records that no saga has taken: deferred ones wait for their saga, dead letters for an operator.

The store keeps both whole. A dead letter also has a copy on a dlq topic, where one takes it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final

from saga.contracts import TopicNames, dlq_name, parse_contract_name
from saga.core.identity import Instant, SagaId, instant
from saga.core.texts import described
from saga.errors import MessageTooLarge, SagaError, TopicMissing
from saga.ports import (
    Appended,
    Batch,
    Bus,
    Clock,
    EventStore,
    Inbound,
    Record,
    Source,
    TopicSpec,
    UnhandledRecord,
)
from saga.ports.store import DeferralReason, Skip, UnhandledKind

MESSAGE_CHARS_MAX = 1_000
log = logging.getLogger(__name__)
OMITTED: Final = ("x-dlq-omitted", b"value")
SKIPS_KNOWN_MAX = 500
OTHER_SOURCES: Final = "(others)"


class SkippedRecords:
    """Counts records that were skipped; the store is told now and then, as nothing rests on it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._counts: Counter[Skip] = Counter()
        self._known: set[Skip] = set()

    def add(self, counts: Mapping[Skip, int]) -> None:
        for skip, more in counts.items():
            # Anybody may write any source: the store keeps so many of them apart, not more.
            if skip not in self._known and len(self._known) >= SKIPS_KNOWN_MAX:
                self._counts[skip._replace(source=OTHER_SOURCES)] += more
            else:
                self._known.add(skip)
                self._counts[skip] += more

    async def record(self) -> None:
        """Raises StoreUnavailable, and then keeps the counts."""
        counts = dict(self._counts)
        if counts:
            await self._store.append(Batch(skipped=counts), at=Instant(0))
            self._counts.subtract(counts)
            self._counts = +self._counts


class DeadLetters:
    """Keeps records that no effect service can read: in *store*, and as a copy on a dlq topic.

    Without a store the copy is all; its topic is made as *spec* says, a large value is left out.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        names: TopicNames,
        clock: Clock,
        store: EventStore | None = None,
        spec: TopicSpec | None = None,
    ) -> None:
        self._bus = bus
        self._names = names
        self._clock = clock
        self._store = store
        self._spec = spec

    async def __call__(self, inbound: Inbound, reason: str, message: str, /) -> None:
        now = self._clock.now()
        letter = dead_letter(inbound, reason, message, now)
        copy = dlq_record(letter, self._names)
        if self._store is None:
            assert copy is not None, f"{inbound.topic} is read by a service, so it is a contract's"
            await self._put(copy)
            return
        if copy is not None:
            with suppress(MessageTooLarge, TopicMissing):  # the store has it whole
                await self._bus.publish([copy])
        await append_letter(self._store, letter, at=now)

    async def _put(self, copy: Record) -> None:
        try:
            await self._publish(copy)
        except MessageTooLarge:
            # The headers say where the record is, as long as its topic keeps it.
            why = tuple(header for header in copy.headers if header[0].startswith("x-dlq-"))
            await self._publish(Record(copy.topic, None, None, (*why, OMITTED)))

    async def _publish(self, copy: Record) -> None:
        try:
            await self._bus.publish([copy])
        except TopicMissing:
            if self._spec is None:
                raise
            await self._bus.create_topics([replace(self._spec, name=copy.topic)])
            await self._bus.publish([copy])


async def append_letter(
    store: EventStore,
    letter: UnhandledRecord,
    *,
    positions: Mapping[Source, int] | None = None,
    at: Instant,
) -> Appended:
    """Keep *letter*, or what the store takes of it; *positions* move in any case.

    Raises:
        SagaError: the store is away, or another worker was first.
    """
    covers = dict(positions or {})
    for part in _parts_of(letter):
        try:
            return await store.append(Batch(unhandled=[part], positions=covers), at=at)
        except SagaError:
            raise
        except Exception as error:  # whatever the store's driver has to say
            reason = described(error)
            keys = {**letter.position._asdict(), "reason": reason}
            log.exception("a dead letter cannot be kept as it is: %s", reason, extra=keys)
    return await store.append(Batch(positions=covers), at=at)


def _parts_of(letter: UnhandledRecord) -> Iterator[UnhandledRecord]:
    """The letter, then less and less of it; what is left out is named by its size and hash."""
    yield letter
    letter = replace(letter, timestamp=instant(letter.timestamp), headers=())
    yield replace(letter, message=f"{letter.message} (without its headers)")
    value, key = letter.value or b"", letter.key or b""
    size = f"value: {len(value)} bytes, sha256 {sha256(value).hexdigest()}"
    letter = replace(letter, value=None, message=f"{letter.message} (without headers and {size})")
    yield letter
    size = f"key: {len(key)} bytes, sha256 {sha256(key).hexdigest()}"
    yield replace(letter, key=None, message=f"{letter.message} (and without its {size})")


def dead_letter(inbound: Inbound, reason: str, message: str, at: Instant) -> UnhandledRecord:
    return UnhandledRecord(
        kind=UnhandledKind.DEAD,
        reason=str(reason),
        message=message[:MESSAGE_CHARS_MAX],
        position=inbound.position,
        key=inbound.key,
        value=inbound.value,
        headers=inbound.headers,
        timestamp=inbound.timestamp,
        kept_at=at,
    )


def deferred(
    inbound: Inbound, reason: DeferralReason, message: str, at: Instant, saga_id: SagaId
) -> UnhandledRecord:
    letter = dead_letter(inbound, reason, message, at)
    return replace(letter, kind=UnhandledKind.DEFERRED, saga_id=saga_id)


def dlq_topic(topic: str, names: TopicNames) -> str | None:
    """Where dead letters of *topic* go; None where it is no topic of ours."""
    contract = names.contract_name(topic)
    if contract is None or parse_contract_name(contract) is None:
        return None
    return names.topic(dlq_name(contract))


def dlq_record(letter: UnhandledRecord, names: TopicNames) -> Record | None:
    """The copy for the dlq topic: key, value and headers byte for byte, with where and why."""
    topic = dlq_topic(letter.position.topic, names)
    if topic is None:
        return None
    why = (
        ("x-dlq-reason", letter.reason.encode()),
        ("x-dlq-message", letter.message.encode("utf-8", "backslashreplace")),
        ("x-dlq-topic", letter.position.topic.encode()),
        ("x-dlq-partition", str(letter.position.partition).encode()),
        ("x-dlq-offset", str(letter.position.offset).encode()),
        ("x-dlq-timestamp", str(letter.timestamp // 1000).encode()),
    )
    return Record(topic, letter.key, letter.value, (*letter.headers, *why))
