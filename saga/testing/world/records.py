"""What must hold between bus and stores: nothing invented, missing, or unaccounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from saga.contracts import contract_of
from saga.contracts.between_sagas import CHILD_CONTRACTS
from saga.contracts.models import INTENT_CANCELLED, INTENT_PROGRESS
from saga.core.events import (
    ReplyReceived,
)
from saga.core.history import Entry
from saga.core.identity import DO, SagaId, intent_id
from saga.core.intents import (
    EventPublished,
    IntentIssued,
    IntentTold,
    SagaAbandoned,
    SagaCompleted,
    SagaRolledBack,
)
from saga.ports import Inbound, Position, UnhandledRecord
from saga.ports.store import DeadLetterReason, UnhandledKind
from saga.testing.world.acting import is_rerun
from saga.testing.world.children import owed
from saga.testing.world.evidence import (
    Evidence,
    SagaName,
    Trigger,
    headers_of,
)
from saga.testing.world.histories import (
    all_of,
    begun_in,
    id_of,
)

_ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)


class Due(NamedTuple):
    topic: str
    key: bytes
    value: bytes
    saga_id: SagaId
    version: int


def check_records(evidence: Evidence) -> Iterator[str]:
    """Yields what is wrong between bus and store: invented, missing, or unaccounted for."""
    due = _due(evidence)
    yield from _acceptance(evidence, due)
    yield from _outbox(evidence, due)
    yield from _accounting(evidence)
    yield from _unhandled(evidence)


def _acceptance(evidence: Evidence, due: Mapping[str, Due]) -> Iterator[str]:
    """Each acknowledged trigger has exactly one saga, and each saga a trigger."""
    names = {
        SagaName(summary.definition, summary.key, saga_id)
        for saga_id, summary in evidence.summaries.items()
    }
    keys = {(name.definition, name.key) for name in names}
    if len(keys) != len(evidence.histories) or len(names) != len(evidence.histories):
        yield "two sagas have one definition and key, or a saga has no row in the index"
    expected = evidence.log.by_saga()
    for name in names - expected.keys():
        history = evidence.histories[name.saga_id]
        if history[0].cause not in due and not is_rerun(history):
            yield f"saga {name.definition}/{name.key} has no trigger"
    for name, triggers in expected.items():
        if name in names:
            yield from _beginning(evidence, name, triggers, due)
            continue
        for trigger in [each for each in triggers if each.is_acknowledged][:1]:
            yield (
                f"trigger {trigger.message_id} was acknowledged, and there is no saga "
                f"{name.definition}/{name.key}"
            )


def _beginning(
    evidence: Evidence, name: SagaName, triggers: Sequence[Trigger], due: Mapping[str, Due]
) -> Iterator[str]:
    """A saga begins with its first trigger, or with a later one if that was never acknowledged."""
    history = evidence.histories[name.saga_id]
    begun = begun_in(history)
    if begun is None:
        if not evidence.is_parked(name.saga_id):
            yield f"saga {name.definition}/{name.key} never began"
        return
    if history[0].cause in due or is_rerun(history):
        return
    payload = orjson.loads(begun.trigger.payload)
    for trigger in triggers:
        if contract_of(type(trigger.event)).contract_name != begun.trigger.contract:
            return  # of an older version, or on another topic: no order holds between topics
        if payload == trigger.event.model_dump(mode="json"):
            return
        if trigger.is_acknowledged and not trigger.is_repeated:
            break
    yield f"saga {name.definition}/{name.key} began with another trigger: {payload}"


def _due(evidence: Evidence) -> dict[str, Due]:
    due: dict[str, Due] = {}
    for saga_id, history in evidence.histories.items():
        summary = evidence.summaries[saga_id]
        saga_key = summary.key.encode()
        for entry in history:
            if (record := _due_to(entry)) is not None:
                record_id, contract, payload = record
                topic = evidence.names.topic(contract)
                own = evidence.own_keys.get(contract)
                own_key = None if own is None else orjson.loads(payload)[own]
                key = saga_key if own_key is None else str(own_key).encode()
                due[record_id] = Due(topic, key, payload.encode(), saga_id, entry.version)
        summary = evidence.summaries[saga_id]
        for record_id, contract, key_, value, version in owed(
            history, summary.definition, summary.key
        ):
            topic = evidence.names.topic(contract)
            of = f"{saga_id} " if contract in CHILD_CONTRACTS else ""
            due[f"{of}{record_id}"] = Due(topic, key_.encode(), value.encode(), saga_id, version)
    return due


def _due_to(entry: Entry) -> tuple[str, str, str] | None:
    body, saga_id = entry.body, entry.saga_id
    if isinstance(body, IntentIssued):
        if body.child and body.direction.value == "undo":
            return None  # a command says it
        return id_of(saga_id, body), body.contract, body.payload
    if isinstance(body, IntentTold):
        return intent_id(saga_id, body.step, DO, 1), body.contract, body.payload
    if isinstance(body, EventPublished):
        return f"{saga_id}/event/{body.publication}", body.contract, body.payload
    if isinstance(body, _ENDS) and body.outcome:
        is_second = getattr(body, "undo", None) is not None
        name = f"{saga_id}/outcome/undone" if is_second else f"{saga_id}/outcome"
        return name, body.outcome.contract, body.outcome.payload
    return None


_NOTICE: Final = f".ctl.{INTENT_CANCELLED}."
_PROGRESS: Final = f".evt.{INTENT_PROGRESS}."
_OF_CHILDREN: Final = (".evt.child-started.", ".evt.child-ended.")


def _outbox(evidence: Evidence, due: Mapping[str, Due]) -> Iterator[str]:
    """Nothing is published that is not stored, and nothing is stored that is not published."""
    first: dict[str, Inbound] = {}
    reached: dict[tuple[SagaId, str], int] = {}
    for number, record in evidence.published:
        if _NOTICE in record.topic:
            continue  # no history has to say it
        if ".dlq." in record.topic or not evidence.is_ours(record):
            if ".int." in record.topic and record.value not in evidence.log.garbage:
                yield f"an intent from nowhere: {record}"
            continue
        record_id = _published_id(record)
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


def _published_id(record: Inbound) -> str:
    """Its id; of what two sagas may say to one parent it takes the saga too."""
    headers = headers_of(record)
    if any(topic in record.topic for topic in _OF_CHILDREN):
        return f"{headers['ce_subject']} {headers['ce_id']}"
    return headers["ce_id"]


def _accounting(evidence: Evidence) -> Iterator[str]:
    """Every record that the orchestrators have read is handled, a duplicate, or unhandled."""
    unhandled = {record.position: record for record in evidence.unhandled}
    entries = [entry for history in evidence.histories.values() for entry in history]
    answers = {(r.intent_id, r.outcome.value) for _, r in all_of(entries, ReplyReceived)}
    causes = {entry.cause for entry in entries}
    begun = {
        start.trigger.payload for each in evidence.histories.values() if (start := begun_in(each))
    }
    heard = {each.record.position for each in evidence.heard_events}
    for _, record in evidence.published:
        if record.position in heard and record.position not in unhandled:
            continue
        if record.topic not in evidence.heard or record.value in evidence.log.garbage:
            continue
        if _PROGRESS in record.topic:
            continue  # most of it is no news
        kept = unhandled.get(record.position)
        headers = headers_of(record)
        record_id, answered = headers.get("ce_id", ""), headers.get("ce_causationid")
        if kept is not None:
            if not _may_be_unhandled(evidence, headers, kept):
                yield f"{kept.reason}: a good record is unhandled: {record}, {kept.message}"
        elif answered is not None and not evidence.is_ours(record):
            outcome = _outcome_of(record)
            if (answered, outcome) not in answers:
                yield f"the reply {outcome} to {answered} is nowhere"
        elif record_id in evidence.acts:
            continue
        elif record_id.removesuffix("/started") + "/ended" in causes:
            continue  # a child that is known by its end need not say that it has begun
        elif record_id not in causes and (record.value or b"").decode() not in begun:
            yield f"{record_id} on {record.topic} is nowhere"


def _outcome_of(record: Inbound) -> str:
    if "intent-failed" not in record.topic:
        return "done"
    return str(orjson.loads(record.value or b"{}")["outcome"])


def _may_be_unhandled(
    evidence: Evidence, headers: Mapping[str, str], kept: UnhandledRecord
) -> bool:
    if kept.kind is UnhandledKind.DEFERRED:
        return evidence.is_parked(kept.saga_id)
    match kept.reason:
        case DeadLetterReason.ID_CONFLICT | DeadLetterReason.KEY_TAKEN:
            return any(
                trigger.message_id == headers.get("ce_id", "")
                for triggers in evidence.log.by_saga().values()
                if any(trigger.event != triggers[0].event for trigger in triggers)
                for trigger in triggers
            ) or _is_taken_by_rerun(evidence, headers.get("ce_id", ""))
        case DeadLetterReason.UNKNOWN_SAGA:
            return headers.get("ce_subject", "") not in evidence.histories
        case _:
            return False


def _is_taken_by_rerun(evidence: Evidence, trigger_id: str) -> bool:
    """Whether an operator had begun a saga of the trigger's key before it came."""
    return any(
        trigger.message_id == trigger_id and is_rerun(evidence.histories.get(name.saga_id, ()))
        for trigger in evidence.log.triggers
        for name in trigger.starts
    )


def _unhandled(evidence: Evidence) -> Iterator[str]:
    """Dead letters are on their topics as they came, and nothing waits but for a parked saga."""
    originals = {record.position: record for _, record in evidence.published}
    copies = dict(_copies(evidence))
    seen: set[Position] = set()
    for kept in evidence.unhandled:
        at = kept.position
        original = originals.get(at)
        if original is None:
            yield f"{at} is unhandled, and nothing was ever there"
            continue
        if (kept.key, kept.value, kept.headers) != (original.key, original.value, original.headers):
            yield f"{at} is unhandled with other bytes than it came with"
        if kept.kind is UnhandledKind.DEFERRED:
            if not evidence.is_parked(kept.saga_id):
                yield f"{at} is deferred for ever: {kept.reason}"
            continue
        seen.add(at)
        copy = copies.get(at)
        if copy is None:
            yield f"{at} is a dead letter and not on its dlq topic"
        elif (copy.key, copy.value) != (original.key, original.value):
            yield f"{at} is on its dlq topic with other bytes"
    for at in copies.keys() - seen:
        yield f"{at} is on its dlq topic and no dead letter"
    for at, record in originals.items():
        is_garbage = record.value in evidence.log.garbage and ".dlq." not in record.topic
        if is_garbage and at not in seen:
            yield f"{at} cannot be read, and is no dead letter"


def _copies(evidence: Evidence) -> Iterator[tuple[Position, Inbound]]:
    """The records on dlq topics, by the place they came from."""
    for _, record in evidence.published:
        if ".dlq." in record.topic:
            headers = headers_of(record)
            place = int(headers["x-dlq-partition"]), int(headers["x-dlq-offset"])
            yield Position(headers["x-dlq-topic"], *place), record
