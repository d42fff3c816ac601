"""Entries to records: what a history says is to be published, always with the same id and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from saga.contracts import TopicNames
from saga.contracts.cloudevents import headers_for
from saga.core.events import Json, Message
from saga.core.history import Entry
from saga.core.identity import idempotency_key, intent_id
from saga.core.intents import (
    EventPublished,
    IntentIssued,
    SagaAbandoned,
    SagaCompleted,
    SagaRolledBack,
)
from saga.errors import MessageTooLarge
from saga.ports import Record

_OUTCOMES = (SagaCompleted, SagaRolledBack, SagaAbandoned)
SPEAKING = frozenset({IntentIssued, EventPublished, *_OUTCOMES})
"""Entries that may have something to publish."""


class _Sender(NamedTuple):
    """What all records of one saga have in common."""

    key: bytes
    source: str
    traceparent: str | None


class RecordEncoder:
    """Makes the records of one environment and namespace."""

    def __init__(self, names: TopicNames, *, record_bytes_max: int) -> None:
        self._names = names
        self._record_bytes_max = record_bytes_max
        self._sources: dict[str, str] = {}

    def records(
        self, entries: Iterable[Entry], *, definition: str, key: str, traceparent: str | None
    ) -> list[Record]:
        """The records of *entries*, which belong to one saga, in order.

        Raises:
            MessageTooLarge: a payload exceeds what the bus takes.
        """
        source = self._sources.get(definition)
        if source is None:
            source = f"/{self._names.env}/{self._names.namespace}/sagas/{definition}"
            self._sources[definition] = source
        sender = _Sender(key.encode(), source, traceparent)
        records: list[Record] = []
        for entry in entries:
            body = entry.body
            if isinstance(body, IntentIssued):
                records.append(self._intent(entry, body, sender))
            elif isinstance(body, EventPublished):
                message = Message(body.contract, body.payload)
                event_id = f"{entry.saga_id}/event/{body.publication}"
                records.append(self._event(entry, event_id, message, sender))
            elif isinstance(body, _OUTCOMES) and body.outcome is not None:
                event_id = f"{entry.saga_id}/outcome"
                records.append(self._event(entry, event_id, body.outcome, sender))
        return records

    def _intent(self, entry: Entry, intent: IntentIssued, sender: _Sender) -> Record:
        headers = headers_for(
            id=intent_id(entry.saga_id, intent.step, intent.direction, intent.attempt),
            contract_name=intent.contract,
            source=sender.source,
            at=entry.at,
            saga_id=entry.saga_id,
            causation_id=entry.cause,
            idempotency_key=idempotency_key(entry.saga_id, intent.step, intent.direction),
            undoes=intent.undoes,
            traceparent=sender.traceparent,
        )
        value = self._value(intent.contract, intent.payload, sender)
        return Record(self._names.topic(intent.contract), sender.key, value, headers)

    def _event(self, entry: Entry, event_id: str, message: Message, sender: _Sender) -> Record:
        headers = headers_for(
            id=event_id,
            contract_name=message.contract,
            source=sender.source,
            at=entry.at,
            saga_id=entry.saga_id,
            causation_id=entry.cause,
            idempotency_key=event_id,
            traceparent=sender.traceparent,
        )
        value = self._value(message.contract, message.payload, sender)
        return Record(self._names.topic(message.contract), sender.key, value, headers)

    def _value(self, contract: str, payload: Json, sender: _Sender) -> bytes:
        value = payload.encode()
        size = len(value) + len(sender.key)
        if size > self._record_bytes_max:
            raise MessageTooLarge(
                f"{contract}: key and value have {size} bytes, of which a record may have "
                f"{self._record_bytes_max}"
            )
        return value
