"""Hops 2 and 3: what a record says, and which sagas it concerns; decides nothing, cannot raise.

A record becomes deliveries to sagas, or is rejected with a stable reason: a dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from saga.authoring.registry import Reached, Registered, SagaRegistry
from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    CommandAct,
    ContractModel,
    ContractRegistry,
    Decoded,
    IntentFailed,
    IntentProgress,
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
    intent_progress_name,
    reply_contract_names,
)
from saga.contracts import Event as EventModel
from saga.contracts.between_sagas import (
    CHILD_CONTRACTS,
    ChildEnded,
    ChildStarted,
    child_fact,
)
from saga.contracts.cloudevents import Attributes, Said, read_headers
from saga.contracts.registry import Entered, ReadPath
from saga.contracts.signatures import SigningKeys
from saga.core.events import (
    REPLY_DONE,
    Act,
    CancelMode,
    CancelRequested,
    Event,
    EventReceived,
    Fact,
    Message,
    Migrated,
    OperatorActed,
    Parent,
    Paused,
    ProgressReceived,
    ReplyOutcome,
    ReplyReceived,
    Resumed,
    SagaStarted,
    SignalReceived,
    UpdateReceived,
)
from saga.core.identity import (
    ID_BYTES_MAX,
    UNDO,
    Instant,
    IntentId,
    IntentName,
    MessageId,
    SagaId,
    TimerId,
    is_saga_id,
    parse_intent_id,
    saga_id,
)
from saga.core.state import SagaState
from saga.core.texts import described
from saga.core.values import value
from saga.ports import DueTimer, Inbound
from saga.ports.bus import why_set_aside
from saga.ports.store import DeadLetterReason, Skip, SkipReason
from saga.runtime import reruns
from saga.runtime.children import parent_of
from saga.runtime.pauses import DefinitionAct
from saga.users_code import is_ours

TRACEPARENT_CHARS_MAX = 100
SOURCE_CHARS_MAX = 200

Reason = DeadLetterReason | UnreadableCode
_ReadsReply = Callable[[IntentId, Decoded], ReplyReceived | ProgressReceived]
_Arrived = tuple[Event, Inbound, int]
"""An event of others, its record, and under which id that is deferred."""


@dataclass(slots=True)
class Delivery:
    """One event for one saga: *starts* may begin it, *is_operator* acts on a parked one, too.

    *intent*: of a reply the name of what it answers.
    *may_be_early*: where its saga is not there, it may be on its way; else it is nobody's here.
    *is_perhaps*: of a record that starts sagas and may answer an intent, or only name its cause.
    *heard_by*: the versions of the saga's *definition* that listen to it, an event of others.
    *early_us*: how long that waits for a saga that is not there yet.
    """

    saga_id: SagaId
    event: Event
    inbound: Inbound | None
    starts: Registered | None = None
    contract: str | None = None
    intent: IntentName | None = None
    deferred_id: int = 0
    deferred_at: Instant = Instant(0)
    is_operator: bool = False
    may_be_early: bool = False
    is_perhaps: bool = False
    rerun_of: SagaId | None = None
    """Of the beginning of a saga the ended one that it runs again."""
    refusal: str | None = None
    """Why an operator's act is refused, whatever its saga says."""
    is_nudge: bool = False
    """It says nothing but that the saga may go on, whose definition is paused no more."""
    heard_by: Collection[int] = ()
    early_us: int = 0
    definition: str = ""
    timer: DueTimer | None = None
    """What the due-index had, where it was found there."""

    def hear(self) -> None:
        """Take what would have started the saga for an event that reaches it: it runs already."""
        event, started = self.event, self.event.fact
        assert isinstance(started, SagaStarted), started
        trigger = started.trigger
        fact = EventReceived(contract=trigger.contract, payload=trigger.payload)
        self.event, self.starts = replace(event, fact=fact), None

    @property
    def undoes(self) -> bool:
        """Whether it has a child undone, which may have ended."""
        fact = self.event.fact
        return isinstance(fact, CancelRequested) and fact.undo is not None

    @property
    def concerned(self) -> tuple[SagaId | None, ...]:
        """The saga, and the ended one that it runs again."""
        return self.saga_id, self.rerun_of

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
    definition: str | None = None
    """Of an event that a saga listens to."""

    def counted_as(self) -> Skip:
        if self.definition is not None:
            return Skip(self.inbound.topic, self.definition, self.reason)
        source = read_headers(self.inbound.headers).source or ""
        return Skip(self.inbound.topic, source[:SOURCE_CHARS_MAX], self.reason)


@value
class Shared:
    """A record that concerns several definitions, of which some cannot say which of their sagas."""

    deliveries: Sequence[Delivery]
    rejected: Rejected


@value
class _Topic:
    """What is known beforehand of all records of one topic.

    Attributes:
        expected: who speaks on it: a history names only others.
        starts: the sagas that its messages start.
        reaches: the sagas that run and listen to it, of every version.
        answers: whether one that names an intent as its cause is the reply to it.
        reply: reads such a one.
        is_engines: whether it is read for all sagas: commands, and what children say.
    """

    path: ReadPath
    expected: str
    starts: Sequence[Registered]
    reaches: Sequence[Reached]
    answers: bool
    reply: _ReadsReply
    is_engines: bool


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
        self._sagas = self.sagas = sagas
        self._signing = signing
        self._contracts = contracts
        self._own_source = names.source("sagas", "")
        intents = [each for each in contracts.contracts if each.kind is Kind.INTENT]
        # Replies without content; whose intents have one, answer with a contract of their own.
        done = {intent_done_name(each.domain) for each in intents if each.reply is None}
        reads: dict[str, _ReadsReply] = dict.fromkeys(done, _done)
        for domain in {each.domain for each in intents}:
            reads[intent_failed_name(domain)] = _failed
            reads[intent_progress_name(domain)] = _progress
        self._only_replies = reads.keys()
        engines = {COMMAND_CONTRACT, *(name for name in CHILD_CONTRACTS if name in contracts)}
        listened = {*engines, *self._only_replies}
        answers = [contract_of(each.reply).contract_name for each in intents if each.reply]
        # As they are once they are read: in their current version.
        replies = {contracts.current(name).contract_name for name in answers}
        for name in (*sagas.triggers(), *sagas.listened(), *answers):
            listened.update(contracts.names_read_as(name))
        answered = {old for name in answers for old in contracts.names_read_as(name)}
        self._topics: dict[str, _Topic] = {}
        for name in listened:
            current = contracts.current(name).contract_name
            starts, reaches = sagas.started_by(current), sagas.listening_to(current)
            is_answer = name in answered or name in self._only_replies
            speaks = ("effects", name.partition(".")[0]) if is_answer else ("publisher",)
            speaks = ("sagas",) if name in CHILD_CONTRACTS else speaks
            self._topics[names.topic(name)] = _Topic(
                contracts.paths[name],
                names.source(*speaks),
                starts,
                reaches,
                # An event that starts or reaches sagas may name an intent as its mere cause.
                current in replies or not (starts or reaches),
                reads.get(current, _answer),
                name in engines,
            )
        self.topics = tuple(sorted(self._topics))
        self._answers_to = {
            each.contract_name: frozenset(
                current
                for name in (*reply_contract_names(each), intent_progress_name(each.domain))
                for current in (name, contracts.current(name).contract_name)
            )
            for each in intents
        }

    def understand(
        self, inbound: Inbound, at: Instant, *, deferred_id: int = 0
    ) -> list[Delivery] | Shared | Rejected | Skipped | DefinitionAct:
        """The deliveries that *inbound* leads to, or why there are none."""
        try:
            return self._deliveries(inbound, at, deferred_id)
        except _Refused as refused:
            return Rejected(inbound, refused.reason, refused.message, deferred_id)

    def misfit(self, state: SagaState, delivery: Delivery) -> Rejected | Skipped | None:
        """Why a reply cannot be what the intent asked for, or a command is not for this saga."""
        inbound, intent = delivery.inbound, delivery.intent
        if inbound is None or delivery.starts is not None or delivery.heard_by:
            return None  # a trigger, or an event that travels under its own key
        if state.children is not None and _only_names(state, delivery):
            reason = self._why_not_ours(read_headers(inbound.headers))
            return Skipped(inbound, reason, delivery.deferred_id)
        if state.key and inbound.key != state.key.encode():
            what = "command" if intent is None else "reply"
            message = f"a {what} to a saga of key {state.key!r} has another key"
            return Rejected(inbound, DeadLetterReason.WRONG_KEY, message, delivery.deferred_id)
        if intent is None or intent.direction is UNDO:
            return None
        step = state.steps.get(intent.step)
        answers = None if step is None else self._answers_to.get(step.contract)
        if step is None or answers is None or delivery.contract in answers:
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
        self, inbound: Inbound, at: Instant, deferred_id: int
    ) -> list[Delivery] | Shared | Skipped | DefinitionAct:
        topic = self._topics.get(inbound.topic)
        if topic is None:
            raise _Refused(UnreadableCode.UNKNOWN_CONTRACT, f"nobody reads {inbound.topic}")
        said, decoded, key = self._read(topic.path, inbound, deferred_id)
        source = said.source
        if source == topic.expected:
            source = None
        if topic.is_engines:
            is_command = topic.path.name == COMMAND_CONTRACT
            read = self._commanded if is_command else self._told_by_child
            return read(inbound, said, decoded, at=at, source=source, deferred_id=deferred_id)
        # Its position identifies a record as well.
        cause = MessageId(said.id or "/".join(map(str, inbound.position)))
        contract, starters, reaches = decoded.contract_name, topic.starts, topic.reaches
        deliveries: list[Delivery] = []
        causation, own_key = said.causation_id, None
        intent: IntentName | None = None
        forged: str | None = None
        # What starts a child names the intent that sent it, and answers none.
        if causation and topic.answers and not said.parent_key:
            intent = parse_intent_id(causation)
            if intent is not None and self._signing is not None:
                forged = self._why_forged(inbound, said, deferred_id)
        if intent is not None and causation is not None and forged is None:
            event = Event(topic.reply(IntentId(causation), decoded), at, cause, source)
            answer = Delivery(intent.saga_id, event, inbound, None, contract, intent, deferred_id)
            if not (starters or reaches):
                return [answer]
            answer.is_perhaps = True
            deliveries.append(answer)
        elif starters or reaches:
            own_key = _own_key(decoded, key)  # a reply has the key of the saga that asked
        elif forged is not None:
            raise _Refused(DeadLetterReason.BAD_SIGNATURE, f"a reply: {forged}")
        for registered in starters:
            fact = _start(registered, said, decoded, own_key, parent_of(said))
            event = Event(fact, at, cause, source)
            id_ = saga_id(fact.definition, fact.key)
            start = Delivery(id_, event, inbound, registered, contract, None, deferred_id)
            deliveries.append(start)
        found: list[Delivery] | Shared = deliveries
        if reaches:
            heard = EventReceived(contract=contract, payload=decoded.payload)
            event = Event(heard, at, cause, source)
            found = _with_reached(
                deliveries, topic, decoded.model, own_key, (event, inbound, deferred_id)
            )
        return found or self._nobodys(inbound, said, contract, deferred_id)

    def _nobodys(
        self, inbound: Inbound, said: Attributes | Said, contract: str, deferred_id: int
    ) -> Skipped:
        if contract not in self._only_replies:
            return Skipped(inbound, self._why_not_ours(said), deferred_id)
        message = f"{contract} starts nothing, and its ce_causationid names no intent"
        raise _Refused(DeadLetterReason.NO_CAUSATION, message)

    def _read(
        self, path: ReadPath, inbound: Inbound, deferred_id: int
    ) -> tuple[Attributes | Said, Decoded, str]:
        """What a record says, and its key; rules that grew since do not refuse a deferred one."""
        headers = inbound.headers
        if type(headers) is tuple and (why := why_set_aside(inbound)) is not None:
            raise _Refused(DeadLetterReason.INFLATES, why)
        key = inbound.key
        if not key:
            raise _Refused(DeadLetterReason.NO_KEY, "the record has no key")
        if len(key) > ID_BYTES_MAX:
            message = f"the record's key has {len(key):,} bytes of at most {ID_BYTES_MAX:,}"
            raise _Refused(DeadLetterReason.BAD_KEY, message)
        said, value, decoded = decode_record(path, headers, inbound.value, self._contracts)
        if isinstance(decoded, Unreadable):
            if deferred_id:
                decoded = decode_accepted(self._contracts, path.name, value, decoded)
            if isinstance(decoded, Unreadable):
                raise _Refused(decoded.code, decoded.message)
        try:
            return said, decoded, key.decode()
        except UnicodeDecodeError:
            message = "the record's key is no UTF-8 text"
            raise _Refused(DeadLetterReason.WRONG_KEY, message) from None

    def _command(
        self, inbound: Inbound, said: Attributes | Said, decoded: Decoded, deferred_id: int
    ) -> Command:
        command = decoded.model
        assert isinstance(command, Command), command
        if (forged := self._why_forged(inbound, said, deferred_id)) is not None:
            raise _Refused(DeadLetterReason.BAD_SIGNATURE, f"a command: {forged}")
        if command.saga_id is not None and not is_saga_id(command.saga_id):
            message = f"{command.saga_id[:100]!r} is no saga id"
            raise _Refused(DeadLetterReason.UNKNOWN_SAGA, message)
        return command

    def _commanded(
        self,
        inbound: Inbound,
        said: Attributes | Said,
        decoded: Decoded,
        *,
        at: Instant,
        source: str | None,
        deferred_id: int,
    ) -> list[Delivery] | DefinitionAct | Skipped:
        command = self._command(inbound, said, decoded, deferred_id)
        key = (inbound.key or b"").decode()
        if command.saga_id is None:
            return self._definition_act(inbound, command, key)
        event = Event(command_fact(command), at, MessageId(command.command_id), source)
        delivery = Delivery(SagaId(command.saga_id), event, inbound, deferred_id=deferred_id)
        # What a saga's code has to take waits until a failed turn is released.
        waits = isinstance(event.fact, SignalReceived | UpdateReceived | Resumed)
        delivery.is_operator = not waits and not delivery.undoes
        delivery.may_be_early = self._is_for_ours(command, key)
        return self._rerun(command, delivery)

    def _told_by_child(
        self,
        inbound: Inbound,
        said: Attributes | Said,
        decoded: Decoded,
        *,
        at: Instant,
        source: str | None,
        deferred_id: int,
    ) -> list[Delivery]:
        contract, causation = decoded.contract_name, said.causation_id
        intent = parse_intent_id(causation) if causation else None
        if intent is None or causation is None:
            message = f"{contract} names no intent in its ce_causationid"
            raise _Refused(DeadLetterReason.NO_CAUSATION, message)
        if (forged := self._why_forged(inbound, said, deferred_id)) is not None:
            raise _Refused(DeadLetterReason.BAD_SIGNATURE, f"what a child says: {forged}")
        model = decoded.model
        assert isinstance(model, (ChildStarted, ChildEnded)), model
        cause = MessageId(said.id or "/".join(map(str, inbound.position)))
        event = Event(child_fact(IntentId(causation), model), at, cause, source)
        return [Delivery(intent.saga_id, event, inbound, None, contract, intent, deferred_id)]

    def _why_forged(
        self, inbound: Inbound, said: Attributes | Said, deferred_id: int
    ) -> str | None:
        """Why a record is not believed; a deferred one was, when it came."""
        if self._signing is None or deferred_id:
            return None
        return self._signing.why_not(inbound.topic, inbound.key, inbound.value, said)

    def _is_for_ours(self, command: Command, key: str) -> bool:
        if command.definition is not None:
            return self._sagas.has(command.definition)
        return self._sagas.name_of(SagaId(command.saga_id or ""), key) is not None

    def _rerun(self, command: Command, delivery: Delivery) -> list[Delivery]:
        """The delivery; of a rerun also the beginning of the new saga behind it."""
        event, new_id = delivery.event, reruns.id_of(command)
        if command.act is not CommandAct.RERUN or new_id is None:
            return [delivery]
        start = reruns.start_of(command, self._sagas, self._contracts)
        if start is None:
            delivery.refusal = f"no worker here has saga {command.definition!r}"
            return [delivery]
        registered, fact = start
        delivery.refusal = reruns.why_not_to_start(command, self._sagas, self._contracts)
        begin = replace(event, fact=fact)
        second = Delivery(new_id, begin, delivery.inbound, registered, rerun_of=delivery.saga_id)
        second.deferred_id = delivery.deferred_id
        return [delivery, second]

    def _definition_act(
        self, inbound: Inbound, command: Command, key: str
    ) -> DefinitionAct | Skipped:
        assert command.definition is not None, command
        if key != command.definition:
            message = f"a command to all sagas of {command.definition!r} has another key"
            raise _Refused(DeadLetterReason.WRONG_KEY, message)
        if not self._sagas.has(command.definition):
            return Skipped(inbound, SkipReason.OF_OTHERS)
        return DefinitionAct(inbound, command)

    def _why_not_ours(self, said: Attributes | Said) -> SkipReason:
        source = said.source or ""
        definition = source.removeprefix(self._own_source)
        is_own = definition != source and self._sagas.has(definition)
        return SkipReason.OWN if is_own else SkipReason.NOT_LISTENED


class _Refused(Exception):
    """Raised where no saga can take a record."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def _only_names(state: SagaState, delivery: Delivery) -> bool:
    """Whether a record names an intent that started a child, and is not what a child says.

    Whatever a child says in its first turn names that intent as its cause.
    """
    if delivery.intent is None or delivery.contract in CHILD_CONTRACTS:
        return False
    return state.children is not None and delivery.intent.step in state.children


def _own_key(decoded: Decoded, key: str) -> str | None:
    """The key that a trigger names, if any, under which it has to travel."""
    try:
        own_key = business_key(decoded.model)
    except ValueError as error:
        raise _Refused(DeadLetterReason.BAD_KEY, str(error)) from None
    if own_key is not None and own_key != key:
        message = f"the record's key is {key[:100]!r}, its payload's {own_key[:100]!r}"
        raise _Refused(DeadLetterReason.WRONG_KEY, message)
    return own_key


def _start(
    registered: Registered,
    said: Attributes | Said,
    decoded: Decoded,
    own_key: str | None,
    parent: Parent | None,
) -> SagaStarted:
    model, decider = decoded.model, registered.decider
    assert isinstance(model, EventModel), model
    try:
        key = registered.saga.key_of(model, own_key)
    except BaseException as error:  # users' code: a key function
        if is_ours(error):
            raise
        message = f"{registered.saga.name}: {described(error)}"
        raise _Refused(DeadLetterReason.WRONG_KEY, message) from error
    traceparent = said.traceparent
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        traceparent = None
    trigger = Message(decoded.contract_name, decoded.payload)
    name, version, fingerprint = decider.name, decider.version, decider.fingerprint
    return SagaStarted(name, version, fingerprint, key, trigger, traceparent, parent=parent)


def _with_reached(
    deliveries: list[Delivery],
    topic: _Topic,
    model: ContractModel,
    own_key: str | None,
    arrival: _Arrived,
) -> list[Delivery] | Shared:
    """*deliveries*, and beside them those to the sagas that listen to an event.

    What starts a saga may reach it, too, where it runs already. A reply is no event for who asked.
    """
    assert isinstance(model, EventModel), model
    event, inbound, deferred_id = arrival
    reached = {delivery.saga_id: delivery for delivery in deliveries}
    problem: str | None = None
    for registered, listening in topic.reaches:
        definition = registered.saga.name
        try:
            key = listening.key_of(model, own_key)
        except BaseException as error:  # users' code: a key function
            if is_ours(error):
                raise
            problem = f"{definition}: {described(error)}"
            continue
        if key is None:
            continue
        id_ = saga_id(definition, key)
        delivery = reached.get(id_)
        if delivery is None:
            delivery = Delivery(id_, event, inbound, deferred_id=deferred_id)
            reached[id_] = delivery
            deliveries.append(delivery)
        elif delivery.intent is not None:
            continue
        delivery.definition = definition
        delivery.heard_by = {*delivery.heard_by, registered.saga.version}
        delivery.early_us = max(delivery.early_us, listening.early_us)
    if problem is None:
        return deliveries
    return Shared(deliveries, Rejected(inbound, DeadLetterReason.WRONG_KEY, problem, deferred_id))


def _done(intent_id: IntentId, _: Decoded) -> ReplyReceived:
    return ReplyReceived(intent_id, REPLY_DONE, None)


def _answer(intent_id: IntentId, decoded: Decoded) -> ReplyReceived:
    return ReplyReceived(intent_id, REPLY_DONE, Message(decoded.contract_name, decoded.payload))


def _failed(intent_id: IntentId, decoded: Decoded) -> ReplyReceived:
    model = decoded.model
    assert isinstance(model, IntentFailed), model
    outcome = ReplyOutcome(model.outcome)
    details = None if model.details is None else canonical(model.details)
    return ReplyReceived(intent_id, outcome, None, model.code, model.message, details)


def _progress(intent_id: IntentId, decoded: Decoded) -> ProgressReceived:
    model = decoded.model
    assert isinstance(model, IntentProgress), model
    return ProgressReceived(intent_id=intent_id, note=model.note)


def command_fact(command: Command) -> Fact:
    reason, actor = command.reason or "", command.actor
    match command.act:
        case CommandAct.SIGNAL:
            payload = canonical(command.payload)
            return SignalReceived(name=command.name or "", payload=payload, actor=actor)
        case CommandAct.UPDATE:
            update, payload = command.command_id, canonical(command.payload)
            name = command.name or ""
            return UpdateReceived(update=update, name=name, payload=payload, actor=actor)
        case CommandAct.CANCEL:
            return CancelRequested(mode=command.mode, reason=reason, actor=actor)
        case CommandAct.ABANDON:
            return CancelRequested(mode=CancelMode.ABANDON, reason=reason, actor=actor)
        case CommandAct.UNDO:
            undo, mode = IntentId(command.command_id), CancelMode.GRACEFUL
            return CancelRequested(mode=mode, reason=reason, actor=actor, undo=undo)
        case CommandAct.PAUSE:
            return Paused(reason=reason, actor=actor)
        case CommandAct.RESUME:
            return Resumed(reason=reason, actor=actor)
        case CommandAct.MIGRATE:
            return Migrated(
                from_version=command.from_version or 0,
                definition_version=command.to_version or 0,
                reason=reason,
                actor=actor,
                steps=tuple(sorted((command.steps or {}).items())),
            )
        case _:
            return OperatorActed(
                act=Act(command.act.value),
                reason=reason,
                step=command.step,
                actor=actor,
                state=command.state,
                evidence=command.evidence,
                reply=_entered(command.reply),
                timer_id=None if command.timer is None else TimerId(command.timer),
                due_at=None if command.due_at is None else Instant(command.due_at),
                key=command.key,
                saga_id=reruns.id_of(command),
            )


def _entered(entered: Entered | None) -> Message | None:
    return None if entered is None else Message(entered.contract, canonical(entered.payload))
