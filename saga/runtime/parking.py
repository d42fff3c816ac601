"""Setting records aside: as dead, with a copy on a dlq topic, or held, in order, behind
their saga.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from saga.contracts import TopicNames, dlq_name, parse_contract_name
from saga.core.identity import Instant, SagaId
from saga.errors import MessageTooLarge, TopicMissing
from saga.ports import Batch, Bus, Clock, EventStore, Inbound, Record, TopicSpec, UnhandledRecord
from saga.ports.store import UnhandledKind

MESSAGE_CHARS_MAX = 1_000
OMITTED: Final = ("x-dlq-omitted", b"value")


class DeadLetters:
    """Keeps records that no effect service can read, where an operator sees them.

    With a *store* the record is kept there whole, and a copy goes to its dlq topic if that takes
    it. Without one the copy is all that is kept: its topic is made if it is not there, as *spec*
    says (with any name), and a record that is too large goes without its value.
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
        """Keep *inbound*; may be called again for the same record."""
        letter = dead(inbound, reason, message, self._clock.now())
        copy = dlq_record(letter, self._names)
        if self._store is None:
            assert copy is not None, f"{inbound.topic} is read by a service, so it is a contract's"
            await self._put(copy)
            return
        if copy is not None:
            with suppress(MessageTooLarge, TopicMissing):  # the store has it whole
                await self._bus.publish([copy])
        await self._store.append(Batch(unhandled=[letter]), at=self._clock.now())

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


def dead(inbound: Inbound, reason: str, message: str, at: Instant) -> UnhandledRecord:
    """A record that concerns no saga as it is."""
    return UnhandledRecord(
        kind=UnhandledKind.DEAD,
        reason=reason,
        message=message[:MESSAGE_CHARS_MAX],
        position=inbound.position,
        key=inbound.key,
        value=inbound.value,
        headers=inbound.headers,
        timestamp=inbound.timestamp,
        kept_at=at,
    )


def held(
    inbound: Inbound, reason: str, message: str, at: Instant, saga_id: SagaId
) -> UnhandledRecord:
    """A record that waits for its saga."""
    return replace(dead(inbound, reason, message, at), kind=UnhandledKind.DEFERRED, saga_id=saga_id)


def inbound_of(parked: UnhandledRecord) -> Inbound:
    """The record as it was received."""
    return Inbound(
        parked.position.topic,
        parked.position.partition,
        parked.position.offset,
        parked.key,
        parked.value,
        parked.headers,
        parked.timestamp,
    )


def dlq_topic(topic: str, names: TopicNames) -> str | None:
    """Where dead records of *topic* go; None where it is none of ours."""
    contract = names.contract_name(topic)
    if contract is None or parse_contract_name(contract) is None:
        return None
    return names.topic(dlq_name(contract))


def dlq_record(parked: UnhandledRecord, names: TopicNames) -> Record | None:
    """The copy for the dlq topic: key, value and headers byte for byte, with where and why."""
    topic = dlq_topic(parked.position.topic, names)
    if topic is None:
        return None
    why = (
        ("x-dlq-reason", parked.reason.encode()),
        ("x-dlq-message", parked.message.encode("utf-8", "backslashreplace")),
        ("x-dlq-topic", parked.position.topic.encode()),
        ("x-dlq-partition", str(parked.position.partition).encode()),
        ("x-dlq-offset", str(parked.position.offset).encode()),
        ("x-dlq-timestamp", str(parked.timestamp // 1000).encode()),
    )
    return Record(topic, parked.key, parked.value, (*parked.headers, *why))
