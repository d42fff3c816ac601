"""Setting records aside: as dead, with a copy on a dlq topic, or held, in order, behind
their saga.
"""

from __future__ import annotations

from dataclasses import replace

from saga.contracts import TopicNames, dlq_name, parse_contract_name
from saga.core.identity import Instant, SagaId
from saga.ports import Inbound, Record, UnhandledRecord
from saga.ports.store import UnhandledKind

MESSAGE_CHARS_MAX = 1_000


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
