"""Hops 2 and 3: what a record says, and which sagas it concerns; decides nothing, cannot raise.

A record becomes deliveries to sagas, or is rejected with a stable reason: a dead letter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from saga.authoring.registry import Registered, SagaRegistry
from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    CommandAct,
    ContractRegistry,
    Decoded,
    IntentFailed,
    Kind,
    TopicNames,
    Unreadable,
    UnreadableCode,
    business_key,
    canonical,
    contract_of,
    decode_accepted,
    decode_record,
    intent_done_name,
    intent_failed_name,
    reply_contract_names,
)
from saga.contracts import Event as EventModel
from saga.contracts.cloudevents import Attributes, Said, read_headers
from saga.contracts.registry import ReadPath
from saga.contracts.signatures import SigningKeys
from saga.core.events import (
    REPLY_DONE,
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
    ID_BYTES_MAX,
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
from saga.core.texts import described
from saga.core.values import value
from saga.ports import Inbound
from saga.ports.bus import why_set_aside
from saga.ports.store import DeadLetterReason, Skip, SkipReason
from saga.users_code import is_ours

TRACEPARENT_CHARS_MAX = 100
SOURCE_CHARS_MAX = 200

Reason = DeadLetterReason | UnreadableCode


@dataclass(slots=True)
class Delivery:
    """One event for one saga: *starts* may begin it, *is_operator* acts on a parked one, too.

    *may_be_early*: where its saga is not there, it may be on its way; else it is nobody's here.
    *is_perhaps*: of a record that starts sagas and may answer an intent, or only name its cause.
    """

    saga_id: SagaId
    event: Event
    inbound: Inbound | None
    starts: Registered | None = None
    contract: str | None = None
    deferred_id: int = 0
    deferred_at: Instant = Instant(0)
    is_operator: bool = False
    may_be_early: bool = False
    is_perhaps: bool = False

    @property
    def abandons(self) -> bool:
        """Whether it ends its saga as it stands, which always works."""
        return abandons(self.event.fact)


def abandons(fact: Fact) -> bool:
    """Whether it ends its saga as it stands, which always works."""
    return isinstance(fact, CancelRequested) and fact.mode is CancelMode.ABANDON


@value
class Rejected:
    """A record that no saga can take as it is."""

    inbound: Inbound
    reason: Reason
    message: str
    deferred_id: int = 0


@value
class Skipped:
    """A record that concerns no saga here, and is no mistake."""

    inbound: Inbound
    reason: SkipReason
    deferred_id: int = 0

    def counted_as(self) -> Skip:
        source = read_headers(self.inbound.headers).source or ""
        return Skip(self.inbound.topic, source[:SOURCE_CHARS_MAX], self.reason)


@value
class _Topic:
    """What is known beforehand of all records of one topic.

    Attributes:
        expected: who speaks on it: a history names only others.
        starts: the sagas that its messages start.
        answers: whether one that names an intent as its cause is the reply to it.
    """

    path: ReadPath
    expected: str
    starts: Sequence[Registered]
    answers: bool


class Router:
    """Knows the application's contracts and sagas, and nothing of any running one."""

    def __init__(
        self,
        sagas: SagaRegistry,
        contracts: ContractRegistry,
        names: TopicNames,
        *,
        signing: SigningKeys | None = None,
    ) -> None:
        self._sagas = sagas
        self._signing = signing
        self._contracts = contracts
        self._own_source = names.source("sagas", "")
        intents = [each for each in contracts.contracts if each.kind is Kind.INTENT]
        # Replies without content; whose intents have one, answer with a contract of their own.
        self._done = {intent_done_name(each.domain) for each in intents if each.reply is None}
        failed = {intent_failed_name(each.domain) for each in intents}
        self._only_replies = self._done | failed
        listened = {COMMAND_CONTRACT, *self._only_replies}
        answers = [contract_of(each.reply).contract_name for each in intents if each.reply]
        # As they are once they are read: in their current version.
        replies = {contracts.current(name).contract_name for name in answers}
        for name in (*sagas.triggers(), *answers):
            listened.update(contracts.names_read_as(name))
        answered = {old for name in answers for old in contracts.names_read_as(name)}
        self._topics: dict[str, _Topic] = {}
        for name in listened:
            current = contracts.current(name).contract_name
            starts = sagas.started_by(current)
            is_answer = name in answered or name in self._only_replies
            speaks = ("effects", name.partition(".")[0]) if is_answer else ("publisher",)
            self._topics[names.topic(name)] = _Topic(
                contracts.paths[name],
                names.source(*speaks),
                starts,
                # An event that starts sagas may name an intent as its mere cause.
                current in replies or not starts,
            )
        self.topics = tuple(sorted(self._topics))
        self._answers_to = {
            each.contract_name: frozenset(
                current
                for name in reply_contract_names(each)
                for current in (name, contracts.current(name).contract_name)
            )
            for each in intents
        }

    def understand(
        self, inbound: Inbound, at: Instant, *, deferred_id: int = 0
    ) -> list[Delivery] | Rejected | Skipped:
        """The deliveries that *inbound* leads to, or why there are none."""
        topic = self._topics.get(inbound.topic)
        if topic is None:
            message = f"nobody reads {inbound.topic}"
            return Rejected(inbound, UnreadableCode.UNKNOWN_CONTRACT, message, deferred_id)
        headers = inbound.headers
        if type(headers) is tuple and (why := why_set_aside(inbound)) is not None:
            return Rejected(inbound, DeadLetterReason.INFLATES, why, deferred_id)
        if not inbound.key:
            message = "the record has no key"
            return Rejected(inbound, DeadLetterReason.NO_KEY, message, deferred_id)
        if len(inbound.key) > ID_BYTES_MAX:
            message = f"the record's key has {len(inbound.key):,} bytes of at most {ID_BYTES_MAX:,}"
            return Rejected(inbound, DeadLetterReason.BAD_KEY, message, deferred_id)
        read = decode_record(topic.path, headers, inbound.value, self._contracts)
        attributes, value, decoded = read
        if isinstance(decoded, Unreadable):
            if deferred_id:
                # It was accepted when it came, and waits: rules that grew since do not refuse it.
                decoded = decode_accepted(self._contracts, topic.path.name, value, decoded)
            if isinstance(decoded, Unreadable):
                return Rejected(inbound, decoded.code, decoded.message, deferred_id)
        try:
            key = inbound.key.decode()
        except UnicodeDecodeError:
            message = "the record's key is no UTF-8 text"
            return Rejected(inbound, DeadLetterReason.WRONG_KEY, message, deferred_id)
        source = attributes.source
        if source == topic.expected:
            source = None
        record = _Readable(inbound, attributes, decoded, at, deferred_id, source)
        return self._deliveries(topic, record, key)

    def misfit(self, state: SagaState, delivery: Delivery) -> Rejected | None:
        """Why a reply cannot be what the intent asked for, or a command is not for this saga."""
        fact, inbound = delivery.event.fact, delivery.inbound
        if inbound is None or delivery.starts is not None:
            return None
        if state.key and inbound.key != state.key.encode():
            what = "reply" if isinstance(fact, ReplyReceived) else "command"
            message = f"a {what} to a saga of key {state.key!r} has another key"
            return Rejected(inbound, DeadLetterReason.WRONG_KEY, message, delivery.deferred_id)
        if not isinstance(fact, ReplyReceived):
            return None
        name = parse_intent_id(fact.intent_id)
        step = state.steps.get(name.step) if name is not None else None
        if name is None or step is None or name.direction is Direction.UNDO:
            return None
        answers = self._answers_to.get(step.contract)
        if answers is None or delivery.contract in answers:
            return None  # of an intent that nobody has any more its history knows the answer
        message = f"{delivery.contract} is no answer to {step.contract}"
        return Rejected(inbound, DeadLetterReason.WRONG_REPLY, message, delivery.deferred_id)

    def absent(self, delivery: Delivery) -> Skipped:
        """Why a delivery whose saga this store does not have, nor expects, is nobody's here."""
        inbound = delivery.inbound
        assert inbound is not None, delivery
        key = (inbound.key or b"").decode()
        is_ours = self._sagas.name_of(delivery.saga_id, key) is not None
        reason = SkipReason.GONE if is_ours else SkipReason.OF_OTHERS
        return Skipped(inbound, reason, delivery.deferred_id)

    def _deliveries(
        self, topic: _Topic, record: _Readable, key: str
    ) -> list[Delivery] | Rejected | Skipped:
        if topic.path.name == COMMAND_CONTRACT:
            model = record.decoded.model
            assert isinstance(model, Command), model
            if (forged := self._why_forged(record)) is not None:
                return record.rejected(DeadLetterReason.BAD_SIGNATURE, f"a command: {forged}")
            return _command(record, model, is_ours=self._is_for_ours(model, key))
        deliveries: list[Delivery] = []
        starters = topic.starts
        causation = record.attributes.causation_id
        intent = parse_intent_id(causation) if causation and topic.answers else None
        forged = None if intent is None else self._why_forged(record)
        if forged is not None and not starters:
            return record.rejected(DeadLetterReason.BAD_SIGNATURE, f"a reply: {forged}")
        if intent is not None and causation is not None and forged is None:
            fact = _reply(IntentId(causation), record.decoded, self._done)
            answer = record.delivery(intent.saga_id, fact)
            answer.is_perhaps = bool(starters)
            deliveries.append(answer)
        elif starters and (wrong := _wrong_key(record, key)) is not None:
            return wrong  # a reply has the key of the saga that asked, whatever it starts
        for registered in starters:
            delivery = _start(registered, record)
            if isinstance(delivery, Rejected):
                return delivery
            deliveries.append(delivery)
        if deliveries:
            return deliveries
        contract = record.decoded.contract_name
        if contract not in self._only_replies:
            return Skipped(record.inbound, self._why_not_ours(record), record.deferred_id)
        message = f"{contract} starts nothing, and its ce_causationid names no intent"
        return record.rejected(DeadLetterReason.NO_CAUSATION, message)

    def _why_forged(self, record: _Readable) -> str | None:
        """Why a record is not believed; a deferred one was, when it came."""
        if self._signing is None or record.deferred_id:
            return None
        inbound, said = record.inbound, record.attributes
        return self._signing.why_not(inbound.topic, inbound.key, inbound.value, said)

    def _is_for_ours(self, command: Command, key: str) -> bool:
        if command.definition is not None:
            return self._sagas.has(command.definition)
        return self._sagas.name_of(SagaId(command.saga_id), key) is not None

    def _why_not_ours(self, record: _Readable) -> SkipReason:
        source = record.attributes.source or ""
        definition = source.removeprefix(self._own_source)
        is_own = definition != source and self._sagas.has(definition)
        return SkipReason.OWN if is_own else SkipReason.NOT_LISTENED


@value
class _Readable:
    """A record that could be read."""

    inbound: Inbound
    attributes: Attributes | Said
    decoded: Decoded
    at: Instant
    deferred_id: int
    source: str | None

    def delivery(self, saga_id: SagaId, fact: Fact, starts: Registered | None = None) -> Delivery:
        inbound = self.inbound
        message_id = self.attributes.id
        if not message_id:
            # Its position identifies it as well.
            message_id = f"{inbound.topic}/{inbound.partition}/{inbound.offset}"
        event = Event(fact, self.at, MessageId(message_id), self.source)
        contract = self.decoded.contract_name
        return Delivery(saga_id, event, inbound, starts, contract, self.deferred_id)

    def rejected(self, reason: DeadLetterReason, message: str) -> Rejected:
        return Rejected(self.inbound, reason, message, self.deferred_id)


def _wrong_key(record: _Readable, key: str) -> Rejected | None:
    """Why a trigger does not travel under its own key; None where it does, or names none."""
    try:
        own_key = business_key(record.decoded.model)
    except ValueError as error:
        return record.rejected(DeadLetterReason.BAD_KEY, str(error))
    if own_key is None or own_key == key:
        return None
    message = f"the record's key is {key[:100]!r}, its payload's {own_key[:100]!r}"
    return record.rejected(DeadLetterReason.WRONG_KEY, message)


def _start(registered: Registered, record: _Readable) -> Delivery | Rejected:
    model, decoded = record.decoded.model, record.decoded
    assert isinstance(model, EventModel), model
    try:
        key = registered.saga.key_of(model)
    except BaseException as error:  # users' code: a key function
        if is_ours(error):
            raise
        message = f"{registered.saga.name}: {described(error)}"
        return record.rejected(DeadLetterReason.WRONG_KEY, message)
    traceparent = record.attributes.traceparent
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        traceparent = None
    decider = registered.decider
    trigger = Message(decoded.contract_name, decoded.payload)
    name, version, fingerprint = decider.name, decider.version, decider.fingerprint
    fact = SagaStarted(name, version, fingerprint, key, trigger, traceparent)
    return record.delivery(saga_id(decider.name, key), fact, registered)


def _reply(intent_id: IntentId, decoded: Decoded, done: Collection[str]) -> ReplyReceived:
    model = decoded.model
    if isinstance(model, IntentFailed):
        return ReplyReceived(
            intent_id=intent_id,
            outcome=ReplyOutcome(model.outcome),
            code=model.code,
            message=model.message,
        )
    has_content = decoded.contract_name not in done
    reply = Message(decoded.contract_name, decoded.payload) if has_content else None
    return ReplyReceived(intent_id, REPLY_DONE, reply)


def _command(record: _Readable, command: Command, *, is_ours: bool) -> list[Delivery] | Rejected:
    if not is_saga_id(command.saga_id):
        message = f"{command.saga_id[:100]!r} is no saga id"
        return record.rejected(DeadLetterReason.UNKNOWN_SAGA, message)
    fact = command_fact(command)
    return [
        Delivery(
            SagaId(command.saga_id),
            Event(fact, record.at, MessageId(command.command_id), record.source),
            record.inbound,
            deferred_id=record.deferred_id,
            is_operator=not isinstance(fact, SignalReceived),
            may_be_early=is_ours,
        )
    ]


def command_fact(command: Command) -> SignalReceived | CancelRequested | OperatorActed:
    reason, actor = command.reason or "", command.actor
    match command.act:
        case CommandAct.SIGNAL:
            payload = canonical(command.payload)
            return SignalReceived(name=command.name or "", payload=payload, actor=actor)
        case CommandAct.CANCEL:
            return CancelRequested(mode=command.mode, reason=reason, actor=actor)
        case CommandAct.ABANDON:
            return CancelRequested(mode=CancelMode.ABANDON, reason=reason, actor=actor)
        case _:
            act = Act(command.act.value)
            return OperatorActed(act=act, reason=reason, step=command.step, actor=actor)
