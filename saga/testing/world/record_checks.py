"""What must hold between bus and store: nothing invented, nothing missing, nothing
unaccounted for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import orjson

from saga.core.events import ReplyReceived
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.intents import (
    EventPublished,
    IntentIssued,
    SagaAbandoned,
    SagaCompleted,
    SagaRolledBack,
)
from saga.ports import Inbound, Position
from saga.ports.store import UnhandledKind
from saga.testing.world.driver import Said
from saga.testing.world.evidence import Evidence, headers_of, started


class Due(NamedTuple):
    """A record that an entry calls for."""

    topic: str
    key: bytes
    value: bytes
    saga_id: SagaId
    version: int


def check_records(evidence: Evidence) -> Iterator[str]:
    """Yields what is wrong."""
    yield from _acceptance(evidence)
    yield from _outbox(evidence)
    yield from _accounting(evidence)
    yield from _parked(evidence)


def _acceptance(evidence: Evidence) -> Iterator[str]:
    keys = {
        (summary.definition, summary.key): saga_id
        for saga_id, summary in evidence.summaries.items()
    }
    if len(keys) != len(evidence.histories) or len(evidence.summaries) != len(evidence.histories):
        yield "two sagas have one definition and key, or a saga has no row in the index"
    expected = {(order.definition, order.trigger.order_id): order for order in evidence.log.orders}
    for definition, key in keys.keys() - expected.keys():
        yield f"saga {definition}/{key} has no trigger"
    for name, order in expected.items():
        saga_id = keys.get(name)
        if saga_id is None:
            if order.said is Said.OK:
                yield f"trigger {order.message_id} was acknowledged, and there is no saga {name}"
            continue
        begun = started(evidence.histories[saga_id])
        if begun is None:
            yield f"saga {name} never began"
            continue
        payload = orjson.loads(begun.trigger.payload)
        is_conflict = payload["script"].get("other") == "yes" and order.said is not Said.OK
        if payload != order.trigger.model_dump() and not is_conflict:
            yield f"saga {name} began with another trigger: {payload}"


def _due(evidence: Evidence) -> dict[str, Due]:
    due: dict[str, Due] = {}
    for saga_id, history in evidence.histories.items():
        key = evidence.summaries[saga_id].key.encode()
        for entry in history:
            found = _due_to(entry)
            if found is not None:
                record_id, contract, payload = found
                topic = evidence.names.topic(contract)
                due[record_id] = Due(topic, key, payload.encode(), saga_id, entry.version)
    return due


def _due_to(entry: Entry) -> tuple[str, str, str] | None:
    body, saga_id = entry.body, entry.saga_id
    if isinstance(body, IntentIssued):
        record_id = f"{saga_id}/{body.step}/{body.direction.value}/{body.attempt}"
        return record_id, body.contract, body.payload
    if isinstance(body, EventPublished):
        return f"{saga_id}/event/{body.publication}", body.contract, body.payload
    if isinstance(body, SagaCompleted | SagaRolledBack | SagaAbandoned) and body.outcome:
        return f"{saga_id}/outcome", body.outcome.contract, body.outcome.payload
    return None


def _outbox(evidence: Evidence) -> Iterator[str]:
    due = _due(evidence)
    first: dict[str, Inbound] = {}
    reached: dict[tuple[SagaId, str], int] = {}
    of_sagas = f"/{evidence.names.env}/{evidence.names.namespace}/sagas/"
    for number, record in evidence.published:
        headers = headers_of(record)
        if ".dlq." in record.topic or not headers.get("ce_source", "").startswith(of_sagas):
            if ".int." in record.topic and record.value not in evidence.log.garbage:
                yield f"an intent from nowhere: {record}"
            continue
        record_id = headers["ce_id"]
        wanted = due.get(record_id)
        if wanted is None:
            yield f"{record_id} is published and not stored"
            continue
        if (record.topic, record.key, record.value) != wanted[:3]:
            yield f"{record_id} is published with other bytes than are stored: {record.value!r}"
        if record_id in first:
            if record.headers != first[record_id].headers:
                yield f"{record_id} is published twice, with different headers"
            continue
        first[record_id] = record
        stored_at = evidence.stored_at.get((wanted.saga_id, wanted.version))
        if stored_at is not None and number < stored_at:
            yield f"{record_id} is published before it is stored"
        line = (wanted.saga_id, "" if evidence.is_ordered else record.topic)
        if wanted.version < reached.get(line, 0):
            yield f"{record_id} is published out of order"
        reached[line] = max(wanted.version, reached.get(line, 0))
    for record_id in due.keys() - first.keys():
        yield f"{record_id} is stored and not published"


def _accounting(evidence: Evidence) -> Iterator[str]:
    """Every record that the orchestrators have read is handled, a duplicate, or parked."""
    parked = {record.position: record for record in evidence.unhandled}
    answers = {
        (entry.body.intent_id, entry.body.outcome.value)
        for history in evidence.histories.values()
        for entry in history
        if isinstance(entry.body, ReplyReceived)
    }
    causes = {entry.cause for history in evidence.histories.values() for entry in history}
    known = {order.message_id for order in evidence.log.orders}
    conflicting = {message_id for _, message_id in evidence.log.conflicting}
    for _, record in evidence.published:
        if record.topic not in evidence.heard or record.value in evidence.log.garbage:
            continue
        found = parked.get(record.position)
        headers = headers_of(record)
        record_id = headers.get("ce_id", "")
        if found is not None:
            if not _may_be_parked(evidence, record, found.reason):
                yield f"{found.reason}: a good record is parked: {record}, {found.message}"
        elif "ce_causationid" in headers:
            if (headers["ce_causationid"], _outcome_of(record)) not in answers:
                yield f"the reply {_outcome_of(record)} to {headers['ce_causationid']} is nowhere"
        elif ".ctl." in record.topic or record_id in conflicting:
            if record_id not in causes:
                yield f"{record_id} on {record.topic} is nowhere"
        elif record_id not in known:
            yield f"nobody has published {record}"


def _outcome_of(record: Inbound) -> str:
    if "intent-failed" not in record.topic:
        return "done"
    return str(orjson.loads(record.value or b"{}")["outcome"])


def _may_be_parked(evidence: Evidence, record: Inbound, reason: str) -> bool:
    headers = headers_of(record)
    record_id = headers.get("ce_id", "")
    match reason:
        case "id_conflict":
            conflicting = {message_id for _, message_id in evidence.log.conflicting}
            lost = {o.message_id for o in evidence.log.orders if o.said is not Said.OK}
            return record_id in conflicting | lost
        case "unknown_saga":
            return headers.get("ce_subject", "") not in evidence.histories
        case _:
            return False


def _parked(evidence: Evidence) -> Iterator[str]:
    originals = {record.position: record for _, record in evidence.published}
    copies = dict(_copies(evidence))
    seen: set[Position] = set()
    for parked in evidence.unhandled:
        at = parked.position
        seen.add(at)
        original = originals.get(at)
        copy = copies.get(at)
        if original is None:
            yield f"{at} is parked, and nothing was ever there"
            continue
        if parked.kind is UnhandledKind.DEFERRED:
            yield f"{at} is held for ever: {parked.reason}"
        if (parked.key, parked.value, parked.headers) != (
            original.key,
            original.value,
            original.headers,
        ):
            yield f"{at} is parked with other bytes than it came with"
        if copy is None:
            yield f"{at} is parked and not on its dlq topic"
        elif (copy.key, copy.value) != (original.key, original.value):
            yield f"{at} is on its dlq topic with other bytes"
    for at in copies.keys() - seen:
        yield f"{at} is on its dlq topic and not parked"
    for at, record in originals.items():
        is_garbage = record.value in evidence.log.garbage and ".dlq." not in record.topic
        if is_garbage and at not in seen:
            yield f"{at} cannot be read, and is not parked"


def _copies(evidence: Evidence) -> Iterator[tuple[Position, Inbound]]:
    """What is on dlq topics, by the place it came from."""
    for _, record in evidence.published:
        if ".dlq." in record.topic:
            headers = headers_of(record)
            place = int(headers["x-dlq-partition"]), int(headers["x-dlq-offset"])
            yield Position(headers["x-dlq-topic"], *place), record
