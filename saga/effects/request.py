"""From a record to a request, and from the inbox row of its answer to a reply: both pure functions.

Reading a record never raises. A reply depends on the intent and the inbox row alone, so that an
answer sent again has the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson

from saga.contracts import (
    ContractModel,
    ContractRegistry,
    IntentCancelled,
    Kind,
    TopicNames,
    Unreadable,
    UnreadableCode,
    canonical,
    canonical_text,
    contract_of,
    decode_accepted,
    decode_record,
    intent_cancelled_name,
    intent_done_name,
    intent_failed_name,
    intent_progress_name,
    reply_contract_names,
)
from saga.contracts import cloudevents as ce
from saga.contracts.registry import ReadPath
from saga.contracts.signatures import SigningKeys
from saga.core.events import EMPTY_JSON, REPLY_DONE, Json, ReplyOutcome
from saga.core.identity import DO, ID_BYTES_MAX, Direction, Instant, SagaId, parse_intent_id
from saga.core.texts import storable
from saga.core.values import value
from saga.effects.link import NOTE_CHARS_MAX
from saga.effects.registration import Effects, Handler
from saga.errors import DefinitionError
from saga.ports.bus import Inbound, Record, why_set_aside
from saga.ports.effects_store import InboxRow
from saga.ports.store import DeadLetterReason

INTENT_ID_CHARS_MAX: Final = 100
"""How much of a wrong intent id a message quotes."""
_DIGEST_BYTES: Final = 16

log = logging.getLogger(__name__)


class Rejected(NamedTuple):
    """A record that cannot become a request, and why."""

    inbound: Inbound
    reason: DeadLetterReason | UnreadableCode
    message: str


@value(kw_only=True)
class Route:
    """One topic's handler; *done* is the contract of an empty answer, *failed* of a failure."""

    service: str
    path: ReadPath
    handler: Handler
    is_intent: bool
    reply: type[ContractModel] | None
    reply_contract: str | None
    done: str
    failed: str
    digest_begin: bytes = field(init=False)

    def __post_init__(self) -> None:
        # A blank between contract and payload keeps the two apart; no contract's name has one.
        object.__setattr__(self, "digest_begin", f"{self.path.name} ".encode())


class Request(NamedTuple):
    """A record that was read; requests of one *order_key* are handled one after another.

    Doing and undoing a step, in all attempts, have the same. *value* is the payload as received,
    *digest* is of it, and *undoes* is the contract of the step to be undone. *refusal* says why its
    contract refuses it today: it is only answered, and only if it was accepted before.
    """

    inbound: Inbound
    route: Route
    model: ContractModel
    value: bytes
    digest: bytes
    key: str
    message_id: str
    idempotency_key: str
    order_key: str
    attempt: int
    saga_id: SagaId
    direction: Direction
    undoes: str | None
    traceparent: str | None
    refusal: Unreadable | None = None

    @property
    def do_key(self) -> str:
        return f"{self.order_key}/do"

    @property
    def inbox_keys(self) -> tuple[str, ...]:
        """The idempotency keys whose inbox rows say what to do."""
        is_do = self.direction is DO
        return (self.idempotency_key,) if is_do else (self.idempotency_key, self.do_key)

    def has_content(self, digest: bytes) -> bool:
        """Whether *digest* is of this payload, however its JSON is written."""
        if digest == self.digest:
            return True
        text = canonical_text(self.value)
        if isinstance(text, Unreadable):
            return False
        return digest == _digest(self.route, text.encode())

    def row(
        self,
        outcome: ReplyOutcome,
        at: Instant,
        contract: str | None = None,
        payload: Json | None = None,
        *,
        code: str | None = None,
        message: str | None = None,
    ) -> InboxRow:
        return InboxRow(
            self.route.service,
            self.idempotency_key,
            self.attempt,
            outcome,
            contract,
            payload,
            code,
            message,
            self.digest,
            at,
        )


_Which = tuple[str, str, str, int, SagaId, Direction, str | None]
"""What a request is known by: its fields from *message_id* to *undoes*."""


def group_of(service: str, names: TopicNames) -> str:
    """The consumer group of an effect service: one for each environment and namespace."""
    return names.topic(f"effects.{service}")


class Notice(NamedTuple):
    """Nobody waits for the answer to an intent any more."""

    inbound: Inbound
    intent_id: str | None


class Subscription:
    """The topics of one service: how their records are read, and how they are answered.

    Raises:
        DefinitionError: messages are never read as a handler's version, or two would take the same.
    """

    def __init__(
        self,
        effects: Effects,
        registry: ContractRegistry,
        names: TopicNames,
        *,
        signing: SigningKeys | None = None,
    ) -> None:
        self.effects: Final = effects
        self.name: Final = effects.name
        self.group: Final = group_of(effects.name, names)
        self.routes: Final[Mapping[str, Route]] = {
            names.topic(name): route
            for handlers in (effects.intents, effects.facts)
            for handler in handlers.values()
            for name, route in _routes(effects.name, handler, registry)
        }
        self.handled: Final = frozenset(
            route.path.name for route in self.routes.values() if route.is_intent
        )
        self._registry = registry
        self._names = names
        self._signing = signing
        domains = {each.handler.contract.domain for each in self.routes.values() if each.is_intent}
        notices = [intent_cancelled_name(domain) for domain in domains]
        self.notices: Final = {names.topic(name): registry.paths[name] for name in notices}
        self._reply_topics: dict[str, str] = {}
        self._source = names.source("effects", effects.name)

    @property
    def topics_read(self) -> tuple[str, ...]:
        return tuple(sorted((*self.routes, *self.notices)))

    @property
    def topics_written(self) -> tuple[str, ...]:
        intents = {route.handler.contract for route in self.routes.values() if route.is_intent}
        # `intent-done` in any case: an undo with nothing to undo is answered there.
        contracts = {name for intent in intents for name in reply_contract_names(intent)}
        contracts |= {intent_done_name(intent.domain) for intent in intents}
        contracts |= {intent_progress_name(intent.domain) for intent in intents}
        return tuple(sorted({self._names.topic(name) for name in contracts}))

    def read(self, inbound: Inbound) -> Request | Notice | Rejected:
        route = self.routes.get(inbound.topic)
        if route is None:
            if inbound.topic in self.notices:
                return self._read_notice(inbound)
            message = f"this service has no handler for {inbound.topic}"
            return Rejected(inbound, DeadLetterReason.UNKNOWN_TOPIC, message)
        headers = inbound.headers
        if type(headers) is tuple and (why := why_set_aside(inbound)) is not None:
            return Rejected(inbound, DeadLetterReason.INFLATES, why)
        key_bytes = inbound.key or b""
        if len(key_bytes) > ID_BYTES_MAX:
            message = f"the key has {len(key_bytes):,} bytes of at most {ID_BYTES_MAX:,}"
            return Rejected(inbound, DeadLetterReason.BAD_KEY, message)
        said, payload, decoded = decode_record(route.path, headers, inbound.value)
        refusal = None
        if isinstance(decoded, Unreadable):
            name, refusal = route.path.name, decoded
            accepted = decode_accepted(self._registry, name, payload, refusal)
            if isinstance(accepted, Unreadable):
                return Rejected(inbound, decoded.code, decoded.message)
            decoded = accepted
        assert payload is not None, "a record without value is unreadable"
        try:
            key = key_bytes.decode()
        except UnicodeDecodeError as error:
            message = f"byte {error.start} of the key is not UTF-8"
            return Rejected(inbound, DeadLetterReason.BAD_KEY, message)
        which = (
            _which_intent(inbound, key, said)
            if route.is_intent
            else _which_fact(inbound, key, said)
        )
        if isinstance(which, Rejected):
            return which
        digest = _digest(route, payload)
        model, traceparent = decoded.model, said.traceparent
        return Request(inbound, route, model, payload, digest, key, *which, traceparent, refusal)

    def _read_notice(self, inbound: Inbound) -> Notice:
        """One that cannot be read says nothing: nothing rests on it."""
        path = self.notices[inbound.topic]
        _, _, decoded = decode_record(path, inbound.headers, inbound.value)
        if isinstance(decoded, Unreadable):
            log.info("a notice cannot be read: %s", decoded.message, extra={"reason": decoded.code})
            return Notice(inbound, None)
        assert isinstance(decoded.model, IntentCancelled), decoded
        return Notice(inbound, decoded.model.intent_id)

    def progress(self, request: Request, note: str | None, at: Instant) -> Record:
        """That the work on *request*, an intent, goes on."""
        contract = intent_progress_name(request.route.handler.contract.domain)
        said = {} if note is None else {"note": storable(note, NOTE_CHARS_MAX)}
        id_ = f"{request.message_id}/progress/{at}"
        return self._answer(id_, request, contract, canonical(said), at)

    def reply(self, request: Request, row: InboxRow) -> Record | None:
        """The answer to publish; None where *request* is a fact, which is not answered."""
        route = request.route
        if not route.is_intent:
            return None
        if row.outcome is REPLY_DONE:
            contract, payload = row.contract or route.done, row.payload or EMPTY_JSON
        else:
            contract, payload = route.failed, _failure(row)
        id_ = f"{request.message_id}/reply"
        return self._answer(id_, request, contract, payload, row.handled_at)

    def _answer(
        self, id_: str, request: Request, contract: str, payload: Json, at: Instant
    ) -> Record:
        """Its cause is the intent."""
        of_whom = request.saga_id, request.message_id
        headers = ce.Said(id_, contract, self._source, at, *of_whom, id_, None, request.traceparent)
        topic = self._reply_topics.get(contract)
        if topic is None:  # as many as the service has replies
            topic = self._reply_topics[contract] = self._names.topic(contract)
        key, value = request.inbound.key, payload.encode()
        if self._signing is not None:
            headers = self._signing.signed(topic, key, value, headers)
        return Record(topic, key, value, headers)


def _which_intent(inbound: Inbound, key: str, said: ce.Attributes | ce.Said) -> _Which | Rejected:
    if not key:
        message = "an intent's key is its saga's business key; it has none"
        return Rejected(inbound, DeadLetterReason.NO_KEY, message)
    intent_id = said.id
    if intent_id is None:
        message = f"the header {ce.ID} is missing or empty"
        return Rejected(inbound, DeadLetterReason.NO_INTENT_ID, message)
    name = parse_intent_id(intent_id)
    if name is None:
        form = "{saga id}/{step}/{do|undo}/{attempt}"
        message = f"{intent_id[:INTENT_ID_CHARS_MAX]!r} is no intent id: {form}"
        return Rejected(inbound, DeadLetterReason.BAD_INTENT_ID, message)
    saga, _, direction, attempt = name
    own_key = intent_id.rpartition("/")[0]
    order_key = own_key.rpartition("/")[0]
    return intent_id, own_key, order_key, attempt, saga, direction, said.undoes


def _which_fact(inbound: Inbound, key: str, said: ce.Attributes | ce.Said) -> _Which:
    """A fact is known by source and id; one without an id by its place."""
    place = f"{inbound.topic}/{inbound.partition}"
    event_id = said.id or f"{place}/{inbound.offset}"
    own_key, order_key = f"fact/{said.source or ''}/{event_id}", f"fact/{place}/{key}"
    return event_id, own_key, order_key, 1, SagaId(said.saga_id or ""), DO, None


def _failure(row: InboxRow) -> Json:
    said: dict[str, object] = {
        "outcome": row.outcome.value,
        "code": row.code,
        "message": row.message,
    }
    if row.payload is not None:
        said["details"] = orjson.loads(row.payload)
    return canonical(said)


def _routes(service: str, handler: Handler, registry: ContractRegistry) -> list[tuple[str, Route]]:
    """The contracts of messages that *handler* takes: its own, and older versions of it."""
    contract = handler.contract
    current = registry.current(contract.contract_name)
    if current is not contract:
        raise DefinitionError(
            f"{handler.name} handles {contract.contract_name}, whose messages are read as"
            f" {current.contract_name}: handle {current.model.__qualname__}",
            where=handler.where,
        )
    reply = contract.reply
    route = partial(
        Route,
        service=service,
        handler=handler,
        is_intent=contract.kind is Kind.INTENT,
        reply=reply,
        reply_contract=None if reply is None else contract_of(reply).contract_name,
        done=intent_done_name(contract.domain),
        failed=intent_failed_name(contract.domain),
    )
    names = registry.names_read_as(contract.contract_name)
    return [(name, route(path=registry.paths[name])) for name in names]


def _digest(route: Route, payload: bytes) -> bytes:
    return blake2b(route.digest_begin + payload, digest_size=_DIGEST_BYTES).digest()
