"""Hops 2 and 3: what a record says, and which sagas it concerns.

`understand` cannot raise and decides nothing. A record becomes deliveries to sagas, or is rejected
with a stable reason code, as a dead letter.
"""

from __future__ import annotations

from dataclasses import dataclass

from saga.authoring.registry import Registered, SagaRegistry
from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    CommandAct,
    ContractRegistry,
    Decoded,
    IntentFailed,
    TopicNames,
    Unreadable,
    business_key,
    canonical,
    decode,
    intent_done_name,
    intent_failed_name,
    reply_contract_names,
    wrong_headers,
)
from saga.contracts import (
    Event as EventModel,
)
from saga.contracts.cloudevents import CAUSATION_ID, ID, TRACEPARENT, Attributes, read_record
from saga.core.events import (
    Act,
    CancelMode,
    CancelRequested,
    Event,
    Fact,
    Message,
    OperatorActed,
    ReplyOutcome,
    ReplyReceived,
    SagaStarted,
    SignalReceived,
)
from saga.core.identity import (
    Direction,
    Instant,
    IntentId,
    MessageId,
    SagaId,
    is_saga_id,
    parse_intent_id,
    saga_id,
)
from saga.core.state import SagaState
from saga.core.values import value
from saga.ports import Inbound

TRACEPARENT_CHARS_MAX = 100
MESSAGE_ID_CHARS_MAX = 300


@dataclass(slots=True)
class Delivery:
    """One event on its way to one saga. *starts* is set when the event may bring the saga into
    being.

    *deferred_id* is set when the record was deferred. *is_operator* acts also on a saga held
    up.
    """

    saga_id: SagaId
    event: Event
    inbound: Inbound | None
    starts: Registered | None = None
    contract: str | None = None
    deferred_id: int = 0
    deferred_at: Instant = Instant(0)
    is_operator: bool = False


@value
class Rejected:
    """A record that concerns no saga as it is."""

    inbound: Inbound
    reason: str
    message: str
    deferred_id: int = 0


class Router:
    """Knows the application's contracts and sagas, and nothing of any running one."""

    def __init__(self, sagas: SagaRegistry, contracts: ContractRegistry, names: TopicNames) -> None:
        self._sagas = sagas
        self._contracts = contracts
        self._names = names
        self._failed: set[str] = set()
        self._done: set[str] = set()
        replies: set[str] = set()
        for contract in contracts.contracts:
            if contract.kind.value == "int":
                self._failed.add(intent_failed_name(contract.domain))
                if contract.reply is None:
                    self._done.add(intent_done_name(contract.domain))
                else:
                    reply = contract.reply.__saga_contract__
                    assert reply is not None
                    replies.update(contracts.names_read_as(reply.contract_name))
        started: set[str] = set()
        for trigger in sagas.triggers():
            started.update(contracts.names_read_as(trigger))
        listened = started | replies | self._done | self._failed | {COMMAND_CONTRACT}
        self.topics = tuple(sorted(names.topic(name) for name in listened))
        self._contract_of = {names.topic(name): name for name in listened}

    def understand(
        self, inbound: Inbound, at: Instant, *, deferred_id: int = 0
    ) -> list[Delivery] | Rejected:
        """The deliveries that *inbound* leads to, or why there are none."""
        contract = self._contract_of.get(inbound.topic)
        if contract is None:
            return Rejected(
                inbound, "unknown_contract", f"nobody reads {inbound.topic}", deferred_id
            )
        if not inbound.key:
            return Rejected(inbound, "no_key", "the record has no key", deferred_id)
        attributes, value = read_record(inbound.headers, inbound.value)
        wrong = wrong_headers(contract, attributes)
        decoded = wrong or decode(self._contracts, contract, value)
        if isinstance(decoded, Unreadable):
            return Rejected(inbound, decoded.code.value, decoded.message, deferred_id)
        try:
            key = inbound.key.decode()
        except UnicodeDecodeError:
            return Rejected(inbound, "wrong_key", "the record's key is no UTF-8 text", deferred_id)
        found = self._visits(inbound, attributes, decoded, key, at)
        if isinstance(found, list):
            for delivery in found:
                delivery.deferred_id = deferred_id
            return found
        return Rejected(inbound, found[0], found[1], deferred_id)

    def misfit(self, state: SagaState, delivery: Delivery) -> tuple[str, str] | None:
        """Why a reply cannot be what the intent asked for."""
        fact = delivery.event.fact
        if not isinstance(fact, ReplyReceived):
            return None
        inbound = delivery.inbound
        if inbound is not None and state.key and inbound.key != state.key.encode():
            return "wrong_key", f"a reply to a saga of key {state.key!r} has another key"
        name = parse_intent_id(fact.intent_id)
        step = state.steps.get(name.step) if name is not None else None
        if name is None or step is None or name.direction is Direction.UNDO:
            return None
        expected = reply_contract_names(self._contracts.find(step.message.contract))
        if delivery.contract in expected:
            return None
        current = {self._contracts.current(one).contract_name for one in expected}
        if delivery.contract in current:
            return None
        return "wrong_reply", f"{delivery.contract} is no answer to {step.message.contract}"

    def _visits(
        self, inbound: Inbound, attributes: Attributes, decoded: Decoded, key: str, at: Instant
    ) -> list[Delivery] | tuple[str, str]:
        if decoded.contract_name == COMMAND_CONTRACT:
            assert isinstance(decoded.model, Command)
            return _command(inbound, decoded.model, at)
        deliveries: list[Delivery] = []
        causation = attributes.values.get(CAUSATION_ID)
        name = parse_intent_id(causation) if causation else None
        if name is not None and causation is not None:
            fact = _reply(IntentId(causation), decoded, self._done)
            cause = _message_id(attributes, inbound)
            deliveries.append(
                Delivery(
                    name.saga_id, Event(fact, at, cause), inbound, contract=decoded.contract_name
                )
            )
        starters = self._sagas.started_by(decoded.contract_name)
        if starters:
            own_key = business_key(decoded.model)
            if own_key is not None and own_key != key:
                return (
                    "wrong_key",
                    f"the record's key is {key[:100]!r}, its payload's {own_key[:100]!r}",
                )
            for registered in starters:
                delivery = _start(registered, inbound, attributes, decoded, at)
                if not isinstance(delivery, Delivery):
                    return delivery
                deliveries.append(delivery)
        if not deliveries:
            return (
                "no_causation",
                f"{decoded.contract_name} starts nothing, and its ce_causationid names no intent",
            )
        return deliveries


def _start(
    registered: Registered, inbound: Inbound, attributes: Attributes, decoded: Decoded, at: Instant
) -> Delivery | tuple[str, str]:
    assert isinstance(decoded.model, EventModel)
    try:
        key = registered.saga.key_of(decoded.model)
    except Exception as error:  # noqa: BLE001  # a key function is user code: park the record
        return "wrong_key", f"{registered.saga.name}: {type(error).__name__}: {error}"
    traceparent = attributes.values.get(TRACEPARENT)
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        traceparent = None
    fact = SagaStarted(
        definition=registered.decider.name,
        definition_version=registered.decider.version,
        fingerprint=registered.decider.fingerprint,
        key=key,
        trigger=Message(decoded.contract_name, decoded.payload),
        traceparent=traceparent,
    )
    return Delivery(
        saga_id(registered.decider.name, key),
        Event(fact, at, _message_id(attributes, inbound)),
        inbound,
        starts=registered,
        contract=decoded.contract_name,
    )


def _message_id(attributes: Attributes, inbound: Inbound) -> MessageId:
    given = attributes.values.get(ID)
    if given and len(given) <= MESSAGE_ID_CHARS_MAX:
        return MessageId(given)
    return MessageId(f"{inbound.topic}/{inbound.partition}/{inbound.offset}")


def _reply(intent_id: IntentId, decoded: Decoded, done: set[str]) -> ReplyReceived:
    model = decoded.model
    if isinstance(model, IntentFailed):
        return ReplyReceived(
            intent_id=intent_id,
            outcome=ReplyOutcome(model.outcome),
            code=model.code,
            message=model.message,
        )
    reply = None
    if decoded.contract_name not in done:
        reply = Message(decoded.contract_name, decoded.payload)
    return ReplyReceived(intent_id=intent_id, outcome=ReplyOutcome.DONE, reply=reply)


def _command(inbound: Inbound, command: Command, at: Instant) -> list[Delivery] | tuple[str, str]:
    fact = _command_fact(command)
    if isinstance(fact, str):
        return "schema", fact
    if not is_saga_id(command.saga_id):
        return "unknown_saga", f"{command.saga_id[:100]!r} is no saga id"
    event = Event(fact, at, MessageId(command.command_id))
    is_operator = isinstance(fact, (OperatorActed, CancelRequested))
    return [Delivery(SagaId(command.saga_id), event, inbound, is_operator=is_operator)]


def _command_fact(command: Command) -> Fact | str:
    reason = command.reason or ""
    match command.act:
        case CommandAct.SIGNAL:
            payload = canonical(command.payload)
            return SignalReceived(name=command.name or "", payload=payload, actor=command.actor)
        case CommandAct.CANCEL:
            return CancelRequested(mode=command.mode, reason=reason, actor=command.actor)
        case CommandAct.ABANDON:
            return CancelRequested(mode=CancelMode.ABANDON, reason=reason, actor=command.actor)
        case _:
            return OperatorActed(
                act=Act(command.act.value),
                reason=reason,
                step=command.step,
                actor=command.actor,
            )
