"""Small, plausible values for the contract suites; the same arguments give equal values."""

from __future__ import annotations

from typing import Any

from saga.contracts.cloudevents import Said
from saga.core.events import (
    Json,
    Message,
    ReplyOutcome,
    ReplyReceived,
    SagaStarted,
    SignalReceived,
)
from saga.core.history import Entry, turn_of
from saga.core.identity import Direction, Instant, IntentId, MessageId, SagaId, StepId, TimerId
from saga.core.identity import saga_id as saga_id_of
from saga.core.intents import Continued, IntentIssued, KnownCause, Unread
from saga.core.status import SagaStatus, StepKind
from saga.ports.bus import Position, Record
from saga.ports.store import (
    Appended,
    Batch,
    DueTimer,
    EventStore,
    HistoryAppend,
    SagaSummary,
    UnhandledKind,
    UnhandledRecord,
)

MOMENT = Instant(1_700_000_000_000_000)


def saga(number: int) -> SagaId:
    return saga_id_of("order", f"order-{number}")


def entries(saga_id: SagaId, after: int, count: int = 2, *, cause: str = "m-1") -> list[Entry]:
    """A trigger, then intents and replies, of *count* versions after *after*."""
    return [_entry(saga_id, version, cause) for version in range(after + 1, after + count + 1)]


def history(
    saga_id: SagaId, after: int = 0, count: int = 1, *, cause: str = "m-1"
) -> HistoryAppend:
    """An append of *count* turns of two entries each after *after* such turns."""
    turns = [
        turn_of(entries(saga_id, 2 * turn, cause=cause)) for turn in range(after, after + count)
    ]
    return HistoryAppend(saga_id, after, turns)


def next_run(saga_id: SagaId, after: int, *, run: int = 2) -> HistoryAppend:
    """An append of one turn, after *after* such as `history` makes, that begins a new run."""
    first = _entry(saga_id, 2 * after + 1, f"m-{after}")
    body = Continued(
        run=run,
        trigger=Message("orders.evt.order-placed.v1", Json('{"amount":12}')),
        definition="order",
        definition_version=1,
        fingerprint="f00",
        key="order-1",
        started_at=MOMENT,
        began_with="d1",
        causes=(KnownCause(cause=MessageId("m-1")),),
        unread=(
            Unread(version=1, arrival=SignalReceived(name="stop", payload=Json('{"why":null}'))),
        ),
    )
    second = Entry(saga_id, first.version + 1, first.at, first.cause, body)
    return HistoryAppend(saga_id, after, [turn_of([first, second])])


def batch(*histories: HistoryAppend, **others: Any) -> Batch:
    """A batch of *histories*; those that begin have their index rows unless others are given."""
    given = others.pop("summaries", [])
    named = {each.saga_id for each in given}
    begun = [each.saga_id for each in histories if not each.expected_turns]
    summaries = [summary(each) for each in begun if each not in named]
    return Batch(histories=list(histories), summaries=[*given, *summaries], **others)


async def append(
    store: EventStore, *histories: HistoryAppend, at: Instant = MOMENT, **others: Any
) -> Appended:
    return await store.append(batch(*histories, **others), at=at)


def summary(
    saga_id: SagaId,
    *,
    status: SagaStatus = SagaStatus.RUNNING,
    definition: str = "order",
    started_at: Instant = MOMENT,
    version: int = 2,
    reason: str | None = None,
    shown: Json | None = None,
) -> SagaSummary:
    return SagaSummary(
        saga_id=saga_id,
        definition=definition,
        definition_version=1,
        key=f"key of {saga_id}",
        status=status,
        started_at=started_at,
        updated_at=Instant(started_at + version),
        waiting_for="reserve",
        reason=reason,
        version=version,
        shown=shown,
    )


def timer(saga_id: SagaId, name: str, due_at: int) -> DueTimer:
    """A due-index row, *due_at* microseconds after `MOMENT`."""
    return DueTimer(TimerId(f"{saga_id}/{name}"), saga_id, Instant(MOMENT + due_at))


def unhandled(
    offset: int, *, kind: UnhandledKind = UnhandledKind.DEAD, saga_id: SagaId | None = None
) -> UnhandledRecord:
    """A record set aside, with everything in it that is hard to keep."""
    return UnhandledRecord(
        kind=kind,
        reason="malformed",
        message="no JSON: é \x00",
        position=Position("shop.evt", 3, offset),
        key=b"\xff\x00key",
        value=b"\x80not utf-8",
        headers=(("ce_id", b"1"), ("null", None), ("ce_id", b"\x1f\xfe"), ("", b"")),
        timestamp=MOMENT,
        kept_at=Instant(MOMENT + 1),
        saga_id=saga_id,
    )


def said() -> Said:
    """Headers as saga itself writes them."""
    saga_id = saga(1)
    return Said(
        *(f"{saga_id}/pay/do/1", "shop.int.pay.v1", "/test/shop", MOMENT),
        saga_id=saga_id,
        causation_id="é",
        idempotency_key=f"{saga_id}/pay/do",
        traceparent="00-1-1-01",
    )


def record(topic: str, key: bytes | None = b"order-1", value: bytes | None = b"{}") -> Record:
    return Record(topic, key, value, (("ce_id", b"1"),))


def _entry(saga_id: SagaId, version: int, cause: str) -> Entry:
    body: SagaStarted | IntentIssued | ReplyReceived
    if version == 1:
        payload = Json('{"amount":12,"lines":[{"sku":"é"},null,1.5]}')
        body = SagaStarted(
            definition="order",
            definition_version=1,
            fingerprint="f00",
            key="order-1",
            trigger=Message("orders.evt.order-placed.v1", payload),
        )
    elif version % 2:
        body = ReplyReceived(
            intent_id=IntentId(f"{saga_id}/step-{version - 1}/do/1"),
            outcome=ReplyOutcome.DONE,
            reply=Message("stock.evt.stock-reserved.v1", Json('{"units":3}')),
        )
    else:
        body = IntentIssued(
            step=StepId(f"step-{version}"),
            direction=Direction.DO,
            attempt=1,
            contract="stock.int.reserve-stock.v1",
            payload=Json('{"order_id":"order-1"}'),
            kind=StepKind.PLAIN,
        )
    return Entry(saga_id, version, Instant(MOMENT + (version + 1) // 2), MessageId(cause), body)
